"""Devices, layers and bit-widths as the arrays the kernel reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw_model.device import Device
from hw_model.energy import access_energy_pj, mac_energy_pj, mac_rate
from hw_model.errors import InputError, shown
from hw_model.layer import TENSORS, Layer
from hw_model.mapping import Mapping

ARRAY_SLOTS = ("spatial_x", "spatial_y", "lanes")
TENSOR_BIT = {"W": 1, "I": 2, "O": 4}


@dataclass(frozen=True)
class DeviceTable:
    """L levels. hold, may_bypass [L]: tensor bits (W 1, I 2, O 4); device [7]: levels, first PE level, x, y, lanes,
    multicast, reduction; cap_mask, cap_bits [L, 3]: partitions; bandwidth [L, 2]: bits per cycle; slots [L + 3],
    255 for lanes the device does not have."""

    hold: np.ndarray
    may_bypass: np.ndarray
    device: np.ndarray
    cap_mask: np.ndarray
    cap_bits: np.ndarray
    bandwidth: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True)
class ProblemTable:
    """One row per (layer, bit-width). sizes [., 9]: dimensions and stride; bits [., 4]: W, I, partial sums, finished
    outputs; per_word [., L, 3, 2], per_final [., L, 2], per_hop [., 4], mac_pj [.]: pJ; mac_rate [., 2]."""

    sizes: np.ndarray
    bits: np.ndarray
    per_word: np.ndarray
    per_final: np.ndarray
    per_hop: np.ndarray
    mac_pj: np.ndarray
    mac_rate: np.ndarray


def tensor_bits(tensors: Sequence[str]) -> int:
    """("W", "O") -> 5."""
    return sum(TENSOR_BIT[tensor] for tensor in tensors)


def word_bits(device: Device, bits: int) -> dict[str, int]:
    """Bits of a word of W, I, partial sum ("O") and finished output ("final") for a layer of this bit-width."""
    return {"W": bits, "I": bits, "O": max(device.psum_bits, bits), "final": bits}


def check_bits(bits: object) -> int:
    """A bit-width as an integer. Raises InputError outside 1 to 32."""
    if isinstance(bits, bool) or not hasattr(bits, "__index__") or not 1 <= bits.__index__() <= 32:
        raise InputError(f"bits: expected an integer from 1 to 32, got {shown(bits)}")
    return bits.__index__()


@functools.lru_cache(maxsize=64)
def device_table(device: Device) -> DeviceTable:
    """The arrays of one device."""
    n_levels = len(device.levels)
    cap_mask = np.zeros((n_levels, 3), np.int64)
    cap_bits = np.zeros((n_levels, 3), np.int64)
    for index, level in enumerate(device.levels):
        for group, (tensors, bits) in enumerate(level.partitions):
            cap_mask[index, group] = tensor_bits(tensors)
            cap_bits[index, group] = bits
    slots = {name: index for index, name in enumerate(device.slots)}
    x, y = device.array
    return DeviceTable(
        hold=np.array([tensor_bits(level.holds) for level in device.levels]),
        may_bypass=np.array([tensor_bits(level.may_bypass) for level in device.levels]),
        device=np.array(
            [n_levels, device.first_pe_level, x, y, device.lanes, device.multicast, device.spatial_reduction], np.int64
        ),
        cap_mask=cap_mask,
        cap_bits=cap_bits,
        bandwidth=np.array(
            [[l.read_bandwidth_bits_per_cycle, l.write_bandwidth_bits_per_cycle] for l in device.levels]
        ),
        slots=np.array([slots.get(name, 255) for name in (*device.level_names, *ARRAY_SLOTS)], np.uint32),
    )


def problem_table(problems: Sequence[tuple[Layer, int]], device: Device) -> ProblemTable:
    """The arrays of (layer, bits) pairs on a device."""
    return _problem_table(tuple((layer, check_bits(bits)) for layer, bits in problems), device)


@functools.lru_cache(maxsize=256)
def _problem_table(problems: tuple[tuple[Layer, int], ...], device: Device) -> ProblemTable:
    rows = [_problem_row(layer, bits, device) for layer, bits in problems]
    return ProblemTable(*(np.stack(column) for column in zip(*rows, strict=True)))


def _problem_row(layer: Layer, bits: int, device: Device) -> tuple[np.ndarray, ...]:
    widths = word_bits(device, bits)
    per_word = np.zeros((len(device.levels), 3, 2))
    per_final = np.zeros((len(device.levels), 2))
    for index, level in enumerate(device.levels):
        for side, energies in enumerate((level.read_energy_pj_per_bit, level.write_energy_pj_per_bit)):
            for column, tensor in enumerate(TENSORS):
                per_word[index, column, side] = access_energy_pj(energies[tensor], widths[tensor])
            per_final[index, side] = access_energy_pj(energies["O"], widths["final"])
    width_row = [widths[name] for name in ("W", "I", "O", "final")]
    return (
        np.array([*layer.sizes, layer.stride], np.int64),
        np.array(width_row, np.int64),
        per_word,
        per_final,
        np.array([access_energy_pj(device.network_energy_pj_per_bit, width) for width in width_row]),
        np.array(mac_energy_pj(device.mac, bits)),
        np.array(mac_rate(device.mac, bits), np.int64),
    )


def keep_table(mapping: Mapping, device: Device) -> np.ndarray:
    """[L] tensor bits of what each level really holds under this mapping."""
    return np.array(
        [
            tensor_bits([t for t in level.holds if t not in mapping.bypassed(level.name) or t not in level.may_bypass])
            for level in device.levels
        ]
    )


def scratch(n_levels: int) -> tuple[np.ndarray, ...]:
    """What the kernel writes on: loop_dim, loop_n, prefix, level_end, keep, tiles, counters, network, energy (pJ)."""
    loops = 8 * n_levels
    return (
        np.zeros(loops, np.uint8),
        np.zeros(loops, np.int64),
        np.zeros(loops, np.int64),
        np.zeros(n_levels, np.int64),
        np.zeros(n_levels, np.int64),
        np.ones((n_levels + 1, 8), np.int64),
        np.zeros((n_levels, 3, 4), np.int64),
        np.zeros(4, np.int64),
        np.zeros((n_levels + 2, 3)),
    )
