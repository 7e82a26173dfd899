"""Devices, layers and bit-widths as the arrays the kernel reads."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hw_model.axis import Axis
from hw_model.device import Device
from hw_model.energy import access_energy_pj, mac_energy_pj, mac_rate
from hw_model.indices import QUEUES, TILES
from hw_model.layer import DIMS, TENSORS, Layer
from hw_model.mapping import Mapping
from hw_model.widths import BitsLike, Widths, widths_of

ARRAY_SLOTS = ("spatial_x", "spatial_y", "lanes")
FAR = 2**40  # beyond any position
MOST_SCRATCH = 16  # sets of arrays kept by a thread
MEMO_ROWS, KEY_LENGTH = 8192, 10 + 8  # axes remembered; numbers of a key, of them 8 loops
TENSOR_BIT = {"W": 1, "I": 2, "O": 4}


class DeviceTable(NamedTuple):
    """A device as the kernel reads it; L levels.

    hold, may_bypass [L]: tensor bits (W 1, I 2, O 4); device [17]: in the order of the kernel's LEVELS, FIRST_PE, ..;
    cap_mask, cap_bits [L, 3]: partitions; bandwidth [L, 2]: bits per cycle;
    slots [L + 3]: of each level, of x, y and the lanes, 255 for lanes the device does not have.
    """

    hold: np.ndarray
    may_bypass: np.ndarray
    device: np.ndarray
    cap_mask: np.ndarray
    cap_bits: np.ndarray
    bandwidth: np.ndarray
    slots: np.ndarray


class ProblemTable(NamedTuple):
    """One row per (layer, widths).

    sizes [., 8]: loop bounds; steps [., 4]: strides and dilations, down and across;
    axes, operand_axes [., 2, 6]: rows and columns as `axis_words` takes them, for tiles and for what MACs fetch;
    open [.]: 0 with padding, 1 without, 2 without strides and dilations too;
    words [., 3]: real words of W, planes N*G*C of I, words of O; real [., 2]: positions needed on the two axes;
    fetches [.]: real inputs that MACs of one output channel want; macs [.];
    bits [., 4]: of a word of W, I, partial sums, finished outputs;
    per_word [., L, 3, 2]: pJ per word read, written; per_final [., L, 2]: of a finished output;
    per_hop [., 4]: pJ per word on the network; mac_pj [.]; mac_rate [., 2]: MACs per unit and cycle, a fraction;
    gate [.]: share of the MACs' work that zero inputs do not save; idle_pj_per_cycle [.].
    """

    sizes: np.ndarray
    steps: np.ndarray
    axes: np.ndarray
    operand_axes: np.ndarray
    open: np.ndarray
    words: np.ndarray
    real: np.ndarray
    fetches: np.ndarray
    macs: np.ndarray
    bits: np.ndarray
    per_word: np.ndarray
    per_final: np.ndarray
    per_hop: np.ndarray
    mac_pj: np.ndarray
    mac_rate: np.ndarray
    gate: np.ndarray
    idle_pj_per_cycle: np.ndarray


class Scratch(NamedTuple):
    """What the kernel writes on, one set per thread; M loops, m of them along one axis, A PEs along one axis.

    loop_dim, loop_n [M]; prefix [M]: products of the trips up to each loop; level_end, keep [L]; tiles [L + 1, 8];
    counters [L, 3, 4]; network [4]; energy [L + 3, 3]; fan, alone [8]; axis_dims, axis_trips, axis_steps [2, m];
    nested [2, 2, m]; spans [4, 2A]; found [2, 2]; counts, moved [2]; real [7]; box_steps [m];
    box_axis [6]; key, memo_keys, memo_sums: see `remembered`; pe_loops [5, spatial loops, at least 16], pes [4, PEs]:
    see `passed_tiles`, one PE only on devices without.
    """

    loop_dim: np.ndarray
    loop_n: np.ndarray
    prefix: np.ndarray
    level_end: np.ndarray
    keep: np.ndarray
    tiles: np.ndarray
    counters: np.ndarray
    network: np.ndarray
    energy: np.ndarray
    fan: np.ndarray
    alone: np.ndarray
    axis_dims: np.ndarray
    axis_trips: np.ndarray
    axis_steps: np.ndarray
    nested: np.ndarray
    spans: np.ndarray
    found: np.ndarray
    counts: np.ndarray
    moved: np.ndarray
    real: np.ndarray
    box_steps: np.ndarray
    box_axis: np.ndarray
    key: np.ndarray
    memo_keys: np.ndarray
    memo_sums: np.ndarray
    pe_loops: np.ndarray
    pes: np.ndarray


def tensor_bits(tensors: Sequence[str]) -> int:
    """("W", "O"), or "WO" -> 5."""
    return sum(TENSOR_BIT[tensor] for tensor in tensors)


def word_bits(device: Device, bits: BitsLike) -> dict[str, int]:
    """Bits of a word of W, I, partial sum ("O") and finished output ("final") for a layer of these widths."""
    widths = widths_of(bits)
    final = device.output_bits or widths.O
    return {"W": widths.W, "I": widths.I, "O": max(device.psum_bits, final), "final": final}


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
            [
                n_levels,
                device.first_pe_level,
                x,
                y,
                device.lanes,
                device.multicast,
                *device.reduces,
                *(sum(1 << DIMS.index(d) for d in dims) for dims in device.axis_dims),
                1 + (device.input_sharing == "identical"),  # UNION or IDENTICAL of axis_words
                QUEUES * device.has_queues + TILES * device.passes_tiles,
                device.input_words == "box",
                *(sum(1 << DIMS.index(d) for d in dims) for dims in (device.lanes_dims, device.mac.fused_dims)),
                tensor_bits(device.stays),
                device.home,
            ],
            np.int64,
        ),
        cap_mask=cap_mask,
        cap_bits=cap_bits,
        bandwidth=np.array(
            [[l.read_bandwidth_bits_per_cycle, l.write_bandwidth_bits_per_cycle] for l in device.levels]
        ),
        slots=np.array([slots.get(name, 255) for name in (*device.level_names, *ARRAY_SLOTS)], np.uint32),
    )


def problem_table(problems: Sequence[tuple[Layer, BitsLike]], device: Device) -> ProblemTable:
    """The arrays of (layer, widths) pairs on a device; widths: 8, "w4a8", .. (`widths_of`)."""
    return _problem_table(tuple((layer, widths_of(bits)) for layer, bits in problems), device)


@functools.lru_cache(maxsize=256)
def _problem_table(problems: tuple[tuple[Layer, Widths], ...], device: Device) -> ProblemTable:
    rows = [_problem_row(layer, widths, device) for layer, widths in problems]
    return ProblemTable(*(np.stack(column) for column in zip(*rows, strict=True)))


def _problem_row(layer: Layer, widths: Widths, device: Device) -> tuple[np.ndarray, ...]:
    bits = word_bits(device, widths)
    per_word = np.zeros((len(device.levels), 3, 2))
    per_final = np.zeros((len(device.levels), 2))
    for index, level in enumerate(device.levels):
        for side, energies in enumerate((level.read_energy_pj_per_bit, level.write_energy_pj_per_bit)):
            for column, tensor in enumerate(TENSORS):
                per_word[index, column, side] = access_energy_pj(energies[tensor], bits[tensor])
            per_final[index, side] = access_energy_pj(energies["O"], bits["final"])
    width_row = [bits[name] for name in ("W", "I", "O", "final")]
    axes = (layer.rows, layer.columns)
    box = device.input_words == "box"
    reach = [(axis.outputs - 1) * axis.stride + (axis.taps - 1) * axis.dilation for axis in axes]
    unpadded = all(axis.pad <= 0 and far < axis.pad + axis.size for axis, far in zip(axes, reach, strict=True))
    simple = all(axis.reduced().stride == axis.reduced().dilation == 1 for axis in axes)
    planes = layer.N * layer.G * layer.C
    return (
        np.array(layer.sizes, np.int64),
        np.array([layer.stride_h, layer.stride_w, layer.dilation_h, layer.dilation_w], np.int64),
        np.array([_axis_row(axis, box, box) for axis in axes], np.int64),
        np.array([_axis_row(axis, False, box) for axis in axes], np.int64),
        np.array(2 if unpadded and simple else int(unpadded), np.int64),
        np.array([layer.words("W"), planes, layer.words("O")], np.int64),
        np.array([axis.real_count() for axis in axes], np.int64),
        np.array(planes * math.prod(axis.outputs * axis.taps if box else axis.real_pairs() for axis in axes), np.int64),
        np.array(layer.macs, np.int64),
        np.array(width_row, np.int64),
        per_word,
        per_final,
        np.array([access_energy_pj(device.network_energy_pj_per_bit, width) for width in width_row]),
        np.array(mac_energy_pj(device.mac, widths)),
        np.array(mac_rate(device.mac, widths), np.int64),
        np.array(1.0 - layer.input_zeros if device.zero_gating else 1.0),
        np.array(device.idle_power_mw * 1e3 / device.clock_mhz),  # mW at MHz: nJ per cycle
    )


def _axis_row(axis: Axis, as_given: bool, unbounded: bool) -> list[int]:
    """[outputs, taps, stride, dilation, first real position, last + 1]."""
    if not as_given:
        axis = axis.reduced()
    low, high = (-FAR, FAR) if unbounded else (axis.pad, axis.pad + axis.size)
    return [axis.outputs, axis.taps, axis.stride, axis.dilation, low, high]


def keep_table(mapping: Mapping, device: Device) -> np.ndarray:
    """[L] tensor bits of what each level really holds under this mapping."""
    return np.array(
        [
            tensor_bits([t for t in level.holds if t not in mapping.bypassed(level.name) or t not in level.may_bypass])
            for level in device.levels
        ]
    )


def scratch(device: Device, problems: ProblemTable, loops: int = 0, spatial_loops: int = 0) -> Scratch:
    """Arrays for the kernel to write on, this thread's own, the same ones from call to call.

    loops, spatial_loops: at most, more than the 8 per level or axis of a batch where dimensions repeat.
    """
    n_levels = len(device.levels)
    along = max(4, 2 * n_levels)
    while along < loops:
        along *= 2
    users = int(min(device.pes, max(1, np.max(problems.axes[:, :, 0] * problems.axes[:, :, 1]))))
    pes = device.pes if device.passes_tiles else 1
    shape = n_levels, along, max(8 * n_levels, loops), max(16, spatial_loops), users, pes
    known = _of_thread("scratch")
    if shape not in known:
        if len(known) == MOST_SCRATCH:
            known.pop(next(iter(known)))
        known[shape] = _new_scratch(*shape)
    return known[shape]


def _new_scratch(n_levels: int, along: int, loops: int, spatial_loops: int, users: int, pes: int) -> Scratch:
    return Scratch(
        loop_dim=np.zeros(loops, np.uint8),
        loop_n=np.zeros(loops, np.int64),
        prefix=np.zeros(loops, np.int64),
        level_end=np.zeros(n_levels, np.int64),
        keep=np.zeros(n_levels, np.int64),
        tiles=np.ones((n_levels + 1, 8), np.int64),
        counters=np.zeros((n_levels, 3, 4), np.int64),
        network=np.zeros(4, np.int64),
        energy=np.zeros((n_levels + 3, 3)),
        fan=np.ones(8, np.int64),
        alone=np.zeros(8, np.bool_),
        axis_dims=np.zeros((2, along), np.int64),
        axis_trips=np.ones((2, along), np.int64),
        axis_steps=np.ones((2, along), np.int64),
        nested=np.ones((2, 2, along), np.int64),
        spans=np.zeros((4, 2 * users), np.int64),
        found=np.zeros((2, 2), np.int64),
        counts=np.zeros(2, np.int64),
        moved=np.zeros(2, np.int64),
        real=np.ones(7, np.int64),
        box_steps=np.zeros(along, np.int64),
        box_axis=np.array([FAR, FAR, 1, 1, -FAR, FAR], np.int64),
        **_memo(along),
        pe_loops=np.ones((5, spatial_loops), np.int64),
        pes=np.zeros((4, pes), np.int64),
    )


_thread = threading.local()


def _of_thread(name: str) -> dict:
    """What this thread keeps under a name."""
    if not hasattr(_thread, name):
        setattr(_thread, name, {})
    return getattr(_thread, name)


def _memo(along: int) -> dict[str, np.ndarray]:
    """What `axis_words.remembered` keeps: keys hold all that its sums depend on, so they serve any layer and device."""
    known = _of_thread("memo")
    if along not in known:
        known[along] = {
            "key": np.zeros(KEY_LENGTH, np.int64),
            "memo_keys": np.zeros((4, MEMO_ROWS + 1, KEY_LENGTH), np.int64),
            "memo_sums": np.zeros((4, MEMO_ROWS + 1, 2, along + 1), np.int64),
        }
    return known[along]
