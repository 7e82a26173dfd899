"""The space of mappings of many searches on one device, as the arrays that `breed` works on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from automapper.dataflows import DATAFLOWS, FREE, constraint
from automapper.workload import Problem
from hw_model import DIMS, TENSORS, Device


@dataclass(frozen=True)
class Search:
    """What one search looks for: the best mapping of a problem, within a dataflow or (empty name) the whole space."""

    problem: Problem
    dataflow: str = ""


class Space(NamedTuple):
    """See `breed` for the shapes; fields in the order of its operators' arguments."""

    sizes: np.ndarray
    stride: np.ndarray
    bits: np.ndarray
    level_slot: np.ndarray
    hold: np.ndarray
    free: np.ndarray
    caps: np.ndarray
    cap_bits: np.ndarray
    limit: np.ndarray
    allowed: np.ndarray
    least: np.ndarray
    rule: np.ndarray


def build_space(searches: Sequence[Search], device: Device) -> Space:
    """The arrays of all searches together.

    A tensor may be sent past a level outside the PEs where the device allows it; the known dataflows keep every tensor
    where the device holds it.
    """
    caps = np.zeros((len(device.levels), 3), np.int64)
    cap_bits = np.zeros((len(device.levels), 3), np.int64)
    for index, level in enumerate(device.levels):
        for group, (tensors, size_bits) in enumerate(level.partitions):
            caps[index, group], cap_bits[index, group] = _mask(tensors), size_bits
    units = {"spatial_x": device.array[0], "spatial_y": device.array[1], "lanes": device.lanes}
    seeds = [FREE, *DATAFLOWS.values()]
    tables = []
    for search in searches:
        own = DATAFLOWS[search.dataflow] if search.dataflow else FREE
        tables.append(
            [constraint(flow, search.problem.layer, device, search.problem.bits) for flow in [own, *seeds[1:]]]
        )
    may = slot_dims(device)
    optional = [0 if level.in_pe else _mask(set(level.holds) & set(level.may_bypass)) for level in device.levels]
    shapes = [search.problem.layer for search in searches]
    widths = [search.problem.bits for search in searches]
    return Space(
        sizes=np.array([layer.sizes for layer in shapes], np.int64),
        stride=np.array([layer.stride for layer in shapes], np.int64),
        bits=np.array([[bits, bits, max(device.psum_bits, bits)] for bits in widths], np.int64),
        level_slot=np.array([device.slots.index(name) for name in device.level_names]),
        hold=np.array([_mask(level.holds) for level in device.levels]),
        free=np.array([[0] * len(optional) if search.dataflow else optional for search in searches]),
        caps=caps,
        cap_bits=cap_bits,
        limit=np.array([units.get(slot, 0) for slot in device.slots]),
        allowed=np.array([[row[c].allowed for row in tables] for c in range(len(seeds))]) & may,
        least=np.where(
            may[:, None] >> np.arange(8) & 1,
            np.array([[row[c].least for row in tables] for c in range(len(seeds))]),
            np.int32(1),
        ),
        rule=np.array([[row[c].rule for row in tables] for c in range(len(seeds))]),
    )


def slot_dims(device: Device) -> np.ndarray:
    """[slots] bits of the dimensions that the device lets each slot carry."""
    limited = dict(zip(("spatial_x", "spatial_y", "lanes"), (*device.axis_dims, device.lanes_dims), strict=True))
    return np.array([sum(1 << DIMS.index(d) for d in limited.get(slot, DIMS)) for slot in device.slots])


def on_single_axes(f: np.ndarray, device: Device) -> np.ndarray:
    """f [slots, 8] with every dimension on one axis of the array only, where it can be: Timeloop's format can say it.

    The cost is the same, since it depends on how many PEs share a dimension; and, where only one axis adds up sums, on
    the axis of C, R and S, which then stay where they are.
    """
    x, y = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    axis_dims = {axis: device.axis_dims[axis == y] for axis in (x, y)}
    stays = "CRS" if device.reduces[0] != device.reduces[1] else ""
    both = [d for d in range(8) if f[x, d] > 1 and f[y, d] > 1]
    spread = [d for d in range(8) if f[x, d] * f[y, d] > 1]
    if not both:
        return f
    ways = itertools.product((x, y), repeat=len(spread))
    # those that change the least first
    for way in sorted(ways, key=lambda way: [sum(f[axis, d] == 1 for axis, d in zip(way, spread, strict=True)), way]):
        if any(
            DIMS[d] not in axis_dims[axis] or (DIMS[d] in stays and f[axis, d] != f[x, d] * f[y, d])
            for axis, d in zip(way, spread, strict=True)
        ):
            continue
        new = f.copy()
        new[[x, y]] = 1
        for axis, d in zip(way, spread, strict=True):
            new[axis, d] = f[x, d] * f[y, d]
        if new[x].prod() <= device.array[0] and new[y].prod() <= device.array[1]:
            return new
    return f


def _mask(tensors: Sequence[str] | set[str]) -> int:
    return sum(1 << TENSORS.index(tensor) for tensor in tensors)


def inside(space: Space, t: int, row: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
    """Whether a mapping (f [slots, 8], o [L, 8], b [L]) keeps the constraints of search t."""
    f, o, b = row
    if (b & ~space.free[t]).any():
        return False
    allowed, least, rule = space.allowed[0, t], space.least[0, t], space.rule[0, t]
    if (f < least).any() or ((f > 1) & ~(allowed[:, None] >> np.arange(8) & 1).astype(bool)).any():
        return False
    for level, slot in enumerate(space.level_slot):
        ranks = [rule[level, d] for d in o[level] if f[slot, d] > 1]
        if ranks != sorted(ranks):
            return False
    return True
