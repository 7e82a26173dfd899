"""Layers fused into a group: what stays on the chip between them, and what that leaves of the buffer.

A group runs in *strips* of the rows of its last output. In a strip each layer, in order, computes the rows that the
layers behind it want and that are not there yet, so nothing is computed twice: between two layers lies a line buffer,
which drops a row once no layer wants it any more. A layer that reads from DRAM reads the halo of a strip again.

What is exact: the words that each strip of each layer moves (`in_group`, `strips`), counted as those of any layer; and
the bits that stay on the chip while a layer runs (`live`). Rules: docs/fusion.md.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hw_model.cost import Cost, Traffic
from hw_model.device import Device, Level
from hw_model.energy import mac_rate
from hw_model.errors import InputError
from hw_model.layer import Layer
from hw_model.mapping import Mapping
from hw_model.tables import word_bits
from hw_model.widths import BitsLike


@dataclass(frozen=True)
class Member:
    """A layer of a group. source: position in the group of the layer whose output it reads, None = it reads DRAM; adds:
    positions of the layers whose outputs are added to its own, None = a tensor in DRAM. stays: whether its output stays
    on the chip, `bits` a word. Only what stays may be read on the chip: others of the group are read from DRAM."""

    layer: Layer
    source: int | None = None
    adds: tuple[int | None, ...] = ()
    stays: bool = False
    bits: int = 0


Group = tuple[Member, ...]


def home_of(device: Device) -> int | None:
    """Index of the memory where tensors stay: the outermost one on the chip, outside the PEs, that holds inputs and
    outputs; None where there is none."""
    for index, level in enumerate(device.levels):
        if index and not level.in_pe and {"I", "O"} <= set(level.holds):
            return index
    return None


def room_bits(device: Device) -> int:
    """Bits of the memory where tensors stay, those that inputs may take; 0 where there is none."""
    home = home_of(device)
    if home is None:
        return 0
    return next(bits for tensors, bits in device.levels[home].partitions if "I" in tensors)


def may_pin(device: Device) -> bool:
    """Whether weights may stay where tensors stay."""
    home = home_of(device)
    return home is not None and any({"I", "W"} <= set(tensors) for tensors, _ in device.levels[home].partitions)


def in_group(device: Device, stays: str, reserved_bits: int) -> Device:
    """The device as a layer in a group has it.

    Args:
        stays: of "W", "I", "O" those that stay at `home_of`. Inputs and weights are served from there at its energy and
            bandwidth; no DRAM. An output is written there once: no partial sum leaves, nothing is read out.
        reserved_bits: what is on the chip while the layer runs and is not its to use (`live`, and pinned weights).

    With nothing that stays, and nothing reserved, this is the device itself.

    Raises:
        InputError: the device has no such memory, or not so much of it.
    """
    if not stays and not reserved_bits:
        return device
    home = home_of(device)
    if home is None:
        raise InputError(f"device {device.name} has no memory outside its PEs that holds inputs and outputs")
    if "W" in stays and not may_pin(device):
        raise InputError(f"device {device.name} does not hold weights where inputs and outputs may stay")
    if reserved_bits >= room_bits(device):
        name = device.levels[home].name
        raise InputError(f"{name}: {reserved_bits} bits stay on the chip, there are {room_bits(device)}")
    levels = [
        _passed_by(level, {*stays} if index < home else {*stays} - {"O"}) if 0 < index <= home else level
        for index, level in enumerate(device.levels)
    ]
    partitions = tuple(
        (tensors, bits - reserved_bits if "I" in tensors else bits) for tensors, bits in levels[home].partitions
    )
    levels[home] = replace(levels[home], partitions=partitions)
    return replace(device, levels=tuple(levels), stays="".join(sorted(stays)), home=home)


def _passed_by(level: Level, tensors: set[str]) -> Level:
    """The level without tiles of some tensors."""
    holds = tuple(t for t in level.holds if t not in tensors)
    return replace(level, holds=holds, may_bypass=tuple(t for t in level.may_bypass if t in holds))


@lru_cache(maxsize=4096)
def row_ends(group: Group, strips: int) -> np.ndarray:
    """[layers, strips + 1]: rows of each layer's output that are there before the first strip, after each one.

    The last layer computes P / strips rows in each. An earlier one computes what its readers want by then, or its even
    share where none is in the group; in the last strip, all that is left.

    Raises:
        InputError: strips does not divide the P of the last layer.
    """
    rows = group[-1].layer.P
    if strips < 1 or rows % strips:
        raise InputError(f"{strips} strips: the last layer has {rows} rows")
    even = np.arange(strips + 1)
    ends = np.zeros((len(group), strips + 1), np.int64)
    ends[-1] = even * (rows // strips)
    for index in range(len(group) - 2, -1, -1):
        own, wanted = group[index].layer, []
        for reader in _readers(group)[index]:
            member = group[reader]
            if member.source == index:
                wanted.append(_rows_read(member.layer)[1][ends[reader]])
            if index in member.adds:
                wanted.append(ends[reader])
        ends[index] = np.clip(np.max(wanted, axis=0), 0, own.P) if wanted else -(-own.P * even // strips)
        ends[index, -1] = own.P
    ends.flags.writeable = False
    return ends


@lru_cache(maxsize=256)
def _rows_read(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """[P + 1] each: the first real input row that outputs from row n on read, H where there is none; and one more than
    the last that outputs before row n read, 0 where there is none. A dilated filter skips rows, at the edges too."""
    start = np.arange(layer.P) * layer.stride_h - layer.pad_top
    before = np.maximum(0, -(start // layer.dilation_h))  # taps on padding
    after = np.minimum(layer.R - 1, (layer.H - 1 - start) // layer.dilation_h)  # the last tap that is not
    any_real = before <= after
    first = np.where(any_real, start + before * layer.dilation_h, layer.H)
    end = np.where(any_real, start + after * layer.dilation_h + 1, 0)
    first = np.minimum.accumulate(np.append(layer.H, first[::-1]))[::-1]
    return first, np.maximum.accumulate(np.append(0, end))


@lru_cache(maxsize=64)
def _readers(group: Group) -> tuple[tuple[int, ...], ...]:
    """Per layer the layers that read its output, or add it."""
    found: list[list[int]] = [[] for _ in group]
    for index, member in enumerate(group):
        for source in {member.source, *member.adds} - {None}:
            found[source].append(index)  # type: ignore[index]  # None is taken out
    return tuple(map(tuple, found))


@lru_cache(maxsize=4096)
def live_rows(group: Group, strips: int) -> np.ndarray:
    """[layers, strips, layers]: while a layer runs, in each strip, the rows of each output that lie on the chip: those
    that it reads or adds, those that it writes, and whatever a later strip, or layer, still wants."""
    ends, readers = row_ends(group, strips), _readers(group)
    held = np.zeros((len(group), strips, len(group)), np.int64)
    for index, member in enumerate(group):
        if not member.stays or not readers[index]:
            continue
        for running in range(len(group)):
            made = ends[index, 1:] if index <= running else ends[index, :-1]
            held[running, :, index] = made - _first_wanted(group, ends, index, readers[index], running, made)
        if strips == 1:  # whole, as long as some of it is wanted
            held[:, :, index] = np.where(held[:, :, index] > 0, member.layer.P, 0)
    held.flags.writeable = False
    return held


def _first_wanted(
    group: Group, ends: np.ndarray, index: int, readers: tuple[int, ...], running: int, made: np.ndarray
) -> np.ndarray:
    """[strips]: the first row of an output that is still wanted while layer `running` runs; `made` where none is."""
    first = made
    for reader in readers:
        member, done = group[reader], ends[reader, 1:] if reader < running else ends[reader, :-1]
        if member.source == index:
            first = np.minimum(first, _rows_read(member.layer)[0][done])
        if index in member.adds:
            first = np.where(done < member.layer.P, np.minimum(first, done), first)
    return first


def live(group: Group, strips: int, layer: int) -> int:
    """Bits on the chip while layer number `layer` runs, at the most over the strips, besides its own tiles: of the
    rows of `live_rows`."""
    bits = np.array([m.layer.N * m.layer.G * m.layer.K * m.layer.Q * m.bits for m in group], np.int64)
    return int((live_rows(group, strips)[layer] @ bits).max())


@lru_cache(maxsize=16384)
def strips_of(group: Group, strips: int, layer: int) -> tuple[tuple[Layer, int], ...]:
    """The strips of a layer as layers, and how often each shape occurs: rows of the output with the rows of the input
    that they need. One strip is the layer itself.

    Raises:
        InputError: a strip reads padding only.
    """
    whole = group[layer].layer
    if strips == 1:
        return ((whole, 1),)
    found: dict[tuple[int, int, int], int] = {}
    for begin, end in itertools.pairwise(row_ends(group, strips)[layer].tolist()):
        if end > begin:
            size = _size(whole, begin, end)
            found[size] = found.get(size, 0) + 1
    return tuple((replace(whole, P=P, H=H, pad_top=pad), times) for (P, H, pad), times in found.items())


def rows_of(layer: Layer, begin: int, end: int) -> Layer:
    """The layer that computes output rows begin .. end - 1 alone. Raises InputError where they read padding only."""
    P, H, pad_top = _size(layer, begin, end)
    return replace(layer, P=P, H=H, pad_top=pad_top)


def _size(layer: Layer, begin: int, end: int) -> tuple[int, int, int]:
    """P, H and pad_top of `rows_of`."""
    first = begin * layer.stride_h - layer.pad_top
    last = (end - 1) * layer.stride_h + (layer.R - 1) * layer.dilation_h - layer.pad_top
    top, bottom = max(0, first), min(layer.H - 1, last)
    if bottom < top:
        raise InputError(f"rows {begin} to {end - 1} of layer {layer.name} read padding only")
    return end - begin, bottom - top + 1, top - first


def tensors_that_stay(group: Group, layer: int, pinned: bool = False) -> str:
    """Which of a layer's tensors stay on the chip, for `in_group`."""
    member = group[layer]
    reads = member.source is not None and group[member.source].stays
    return ("I" if reads else "") + ("O" if member.stays else "") + ("W" if pinned else "")


def with_reads(cost: Cost, device: Device, bits: BitsLike, level: int, words: int, read_bits: int) -> Cost:
    """The cost of one strip of a layer at widths `bits`, with `words` of `read_bits` more read at a level: those that
    are added to the outputs on their way. They share the level's bandwidth with what else is read there."""
    memory, width = device.levels[level], word_bits(device, bits)
    parts = dict(cost.levels[memory.name])
    moved_bits = sum(part.reads * width[tensor] for tensor, part in parts.items()) + words * read_bits
    cycles = max(cost.cycles, math.ceil(moved_bits / memory.read_bandwidth_bits_per_cycle))
    energy_pj = words * read_bits * memory.read_energy_pj_per_bit["O"]
    idle_pj = (cycles - cost.cycles) * device.idle_power_mw * 1e3 / device.clock_mhz
    parts["O"] = parts.get("O", Traffic()) + Traffic(reads=words, energy_pj=energy_pj)
    return replace(
        cost,
        cycles=cycles,
        latency_s=cycles / (device.clock_mhz * 1e6),
        energy_pj=cost.energy_pj + energy_pj + idle_pj,
        idle_energy_pj=cost.idle_energy_pj + idle_pj,
        active_pe_cycles=cost.active_pe_cycles / cost.cycles * cycles,
        peak_macs=cost.peak_macs / cost.cycles * cycles,
        levels={**cost.levels, memory.name: parts},
    )


def loading(layer: Layer, device: Device, bits: BitsLike) -> Cost:
    """The cost of bringing a layer's weights to where tensors stay, while nothing else runs."""
    home, words = home_of(device), layer.words("W")
    assert home is not None
    moved_bits = words * word_bits(device, bits)["W"]
    dram, memory = device.levels[0], device.levels[home]
    read_pj = moved_bits * dram.read_energy_pj_per_bit["W"]
    write_pj = moved_bits * memory.write_energy_pj_per_bit["W"]
    slowest = min(dram.read_bandwidth_bits_per_cycle, memory.write_bandwidth_bits_per_cycle)
    cycles = math.ceil(moved_bits / slowest)
    idle_pj = cycles * device.idle_power_mw * 1e3 / device.clock_mhz
    times, per = mac_rate(device.mac, bits)
    return Cost(
        cycles=cycles,
        latency_s=cycles / (device.clock_mhz * 1e6),
        energy_pj=read_pj + write_pj + idle_pj,
        idle_energy_pj=idle_pj,
        peak_macs=cycles * device.pes * device.lanes * times / per,
        levels={
            dram.name: {"W": Traffic(reads=words, energy_pj=read_pj)},
            memory.name: {"W": Traffic(fills=words, energy_pj=write_pj)},
        },
    )


def on_strip(mapping: Mapping, layer: Layer, device: Device) -> Mapping:
    """A mapping of a layer's largest strip for another of its strips: with as many trips of the outermost loop over P
    as the rows need."""
    loops = [list(mapping[slot]) for slot in device.slots]
    outermost = next((i for i, pairs in enumerate(loops) if any(dim == "P" for dim, _ in pairs)), None)
    if outermost is None:
        return mapping
    at = next(i for i, (dim, _) in enumerate(loops[outermost]) if dim == "P")
    inside = math.prod(n for pairs in loops for dim, n in pairs if dim == "P") // loops[outermost][at][1]
    loops[outermost][at] = ("P", -(-layer.P // inside))
    return Mapping(tuple(zip(device.slots, map(tuple, loops), strict=True)), mapping.bypass)
