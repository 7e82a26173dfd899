"""A dataflow on one layer and device, as the arrays that the search works with.

"A stays over B" is a union of sets that are simple to search. Among the loops outside the PEs, those over B run inside
those over the dimensions of A. So at some level, the *turn*, the order changes from one to the other: B does not loop
further outside, A does not loop further inside, and at the turn A runs outside B. There is one such set for each level
outside the PEs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automapper.dataflows.dataflow import Dataflow, Place
from hw_model import DIMS, TENSORS, Device, Layer
from hw_model.layer import RELEVANT, tile_words
from hw_model.tables import word_bits
from hw_model.widths import BitsLike


@dataclass(frozen=True)
class Constraint:
    """allowed [slots]: dimensions each slot may loop over, a bit each; least [slots, 8]: smallest factors; rest [8]:
    the slot that takes what the others leave of a dimension; outer, inner [L]: dimensions whose loops run outside, and
    inside, the others of the two at a level."""

    allowed: np.ndarray
    least: np.ndarray
    rest: np.ndarray
    outer: np.ndarray
    inner: np.ndarray


class Unfit(Exception):
    """A `whole` dimension of a dataflow does not fit where it must lie."""


def why_none(dataflow: Dataflow, device: Device) -> str:
    """Why a dataflow has no mapping on a device, whatever the layer; empty where it may have one."""
    inside = {tensor for level in device.levels[device.first_pe_level :] for tensor in level.holds}
    if dataflow.stays and dataflow.stays not in inside:
        return f"the PEs of {device.name} hold no {dataflow.stays}, which has to stay there"
    return ""


def constraints(dataflow: Dataflow, layer: Layer, device: Device, bits: BitsLike) -> list[Constraint]:
    """The sets of mappings that make up a dataflow for one layer on one device: one, or one per turn.

    Raises:
        Unfit: see its docstring; only without `where_it_fits`.
    """
    chip = device.first_pe_level
    axes = {"spatial_x": dataflow.x, "spatial_y": dataflow.y, "lanes": dataflow.lanes}
    in_chip = dict.fromkeys(device.level_names[:chip], Place())
    may_carry = dict(zip(("spatial_x", "spatial_y", "lanes"), (*device.axis_dims, device.lanes_dims), strict=True))
    allowed = np.array(
        [
            _bits({**axes, **in_chip}.get(slot, dataflow.pe).dims) & _bits(may_carry.get(slot, "".join(DIMS)))
            for slot in device.slots
        ]
    )
    least = np.ones((len(device.slots), 8), np.int32)
    for name, place in dataflow.places.items():
        slot = {"x": "spatial_x", "y": "spatial_y", "pe": (device.level_names[chip:] or ("",))[0]}.get(name, name)
        for dim in place.whole:
            size = getattr(layer, dim)
            if size == 1:
                continue
            if slot not in device.slots:
                why = f"{device.name} has none"
            elif dim not in may_carry.get(slot, DIMS):
                why = f"{device.name} spreads only {', '.join(may_carry[slot])} there"
            else:
                tile = dict(zip(DIMS, least[device.slots.index(slot)].tolist(), strict=True))
                why = _too_small(name, {**tile, dim: size}, layer, device, bits)
            if not why:
                least[device.slots.index(slot), DIMS.index(dim)] = size
            elif not place.where_it_fits:
                raise Unfit(f"{name}: the whole of {dim}, {size}, has to lie there: {why}")
    if not dataflow.stays:
        nothing = np.zeros(len(device.levels), np.int64)
        return [Constraint(allowed, least, np.zeros(8, np.int64), nothing, nothing)]
    kept, over = _bits(RELEVANT[dataflow.stays]), _bits(dataflow.over)
    found = []
    for turn in range(chip):
        if not _may_turn(turn, dataflow, least, layer, device, bits):
            continue
        ways, rest = allowed.copy(), np.zeros(8, np.int64)
        outer, inner = np.zeros((2, len(device.levels)), np.int64)
        for level in range(chip):
            at = device.slots.index(device.level_names[level])
            ways[at] &= ~(over if level < turn else kept if level > turn else 0)
        rest[[d for d in range(8) if over >> d & 1]] = device.slots.index(device.level_names[turn])
        outer[turn], inner[turn] = kept, over
        found.append(Constraint(ways, least, rest, outer, inner))
    return found


def _too_small(name: str, tile: dict[str, int], layer: Layer, device: Device, bits: BitsLike) -> str:
    """Why a tile does not fit an axis, the lanes, or the outermost memories in a PE; empty where it fits."""
    if name != "pe":
        units = {"x": device.array[0], "y": device.array[1], "lanes": device.lanes}[name]
        needed = int(np.prod(list(tile.values())))
        return f"{name} of {device.name} has {units}" if needed > units else ""
    word = word_bits(device, bits)
    level = device.levels[device.first_pe_level]
    for tensors, size_bits in level.partitions:
        need = sum(tile_words(tensor, tile, layer) * word[tensor] for tensor in TENSORS if tensor in tensors)
        if need > size_bits:
            return f"{level.name} of {device.name} has {size_bits} of the {need} bits that {'+'.join(tensors)} needs"
    return ""


def _may_turn(turn: int, dataflow: Dataflow, least: np.ndarray, layer: Layer, device: Device, bits: BitsLike) -> bool:
    """Whether the memory at a turn has room for the dimensions `over` as a whole, which must lie inside."""
    level = device.levels[turn]
    tile = {dim: int(least[:, DIMS.index(dim)].prod()) for dim in DIMS}
    tile |= {dim: getattr(layer, dim) for dim in dataflow.over}
    word = word_bits(device, bits)
    for tensors, size_bits in level.partitions:
        kept = [t for t in tensors if not (t in level.may_bypass and t in dataflow.may_bypass)]
        if sum(tile_words(tensor, tile, layer) * word[tensor] for tensor in kept) > size_bits:
            return False
    return True


def _bits(dims: str) -> int:
    return sum(1 << DIMS.index(dim) for dim in dims)
