"""The space of mappings of many searches on one device, as the arrays that `legal` and `breed` work on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automapper import legal
from automapper.dataflows import FREE, Constraint, Dataflow, built_in, constraints, why_none
from automapper.legal import Space
from automapper.workload import Problem
from hw_model import DIMS, TENSORS, Device
from hw_model.layer import RELEVANT
from hw_model.tables import word_bits


@dataclass(frozen=True)
class Search:
    """What one search looks for: the best mapping of a problem, within a dataflow (a built-in one by its name) or the
    whole space (empty name)."""

    problem: Problem
    dataflow: str | Dataflow = ""

    @property
    def definition(self) -> Dataflow:
        """The dataflow that constrains the mappings."""
        if isinstance(self.dataflow, Dataflow):
            return self.dataflow
        return built_in()[self.dataflow] if self.dataflow else FREE


def build_space(searches: Sequence[Search], device: Device) -> Space:
    """The arrays of all searches together.

    A tensor may be sent past a level outside the PEs where the device and the search's dataflow allow it. The first
    pools of a search of the whole space come from the mappings that keep a tensor in place too.

    Raises:
        Unfit: a `whole` dimension of a dataflow does not fit.
    """
    caps = np.zeros((len(device.levels), 3), np.int64)
    cap_bits = np.zeros((len(device.levels), 3), np.int64)
    for index, level in enumerate(device.levels):
        for group, (tensors, size_bits) in enumerate(level.partitions):
            caps[index, group], cap_bits[index, group] = _mask(tensors), size_bits
    units = {"spatial_x": device.array[0], "spatial_y": device.array[1], "lanes": device.lanes}
    optional = [0 if level.in_pe else _mask(set(level.holds) & set(level.may_bypass)) for level in device.levels]
    own = [_sets(search.definition, search.problem, device) for search in searches]
    known = [
        sets if search.dataflow else [*sets, *_staying_sets(search.problem, device)]
        for search, sets in zip(searches, own, strict=True)
    ]
    most = max(map(len, known))
    padded = [[*sets, *sets[:1] * (most - len(sets))] for sets in known]  # beyond `known` nothing is read
    layers = [search.problem.layer for search in searches]
    widths = [search.problem.bits for search in searches]
    return Space(
        sizes=np.array([layer.sizes for layer in layers], np.int64),
        steps=np.array([(l.stride_h, l.stride_w, l.dilation_h, l.dilation_w) for l in layers], np.int64),
        bits=np.array([[word_bits(device, bits)[tensor] for tensor in TENSORS] for bits in widths], np.int64),
        level_slot=np.array([device.slots.index(name) for name in device.level_names]),
        hold=np.array([_mask(level.holds) for level in device.levels]),
        free=np.array([[may & _mask(search.definition.may_bypass) for may in optional] for search in searches]),
        caps=caps,
        cap_bits=cap_bits,
        limit=np.array([units.get(slot, 0) for slot in device.slots]),
        own=np.array([len(sets) for sets in own]),
        known=np.array([len(sets) for sets in known]),
        allowed=np.array([[one.allowed for one in sets] for sets in padded]),
        least=np.array([[one.least for one in sets] for sets in padded]),
        rest=np.array([[one.rest for one in sets] for sets in padded]),
        outer=np.array([[one.outer for one in sets] for sets in padded]),
        inner=np.array([[one.inner for one in sets] for sets in padded]),
    )


def _sets(dataflow: Dataflow, problem: Problem, device: Device) -> list[Constraint]:
    return constraints(dataflow, problem.layer, device, problem.bits)


def _staying_sets(problem: Problem, device: Device) -> list[Constraint]:
    """For each tensor that PEs hold, the mappings in which it stays there, whatever else they do: random orders rarely
    keep one. (The built-in dataflows' sets would draw every pool to the same few mappings.)"""
    found = []
    for tensor in TENSORS:
        over = "".join(dim for dim in DIMS if dim not in RELEVANT[tensor])
        dataflow = Dataflow(stays=tensor, over=over)
        if not why_none(dataflow, device):
            found += _sets(dataflow, problem, device)
    return found


def inside(space: Space, t: int, row: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
    """Whether a mapping (f [slots, 8], o [L, 8], b [L]) is one of those of search t."""
    f, o, b = row
    return bool(legal.inside(f[None], o[None], b[None], t, space)[0])


def on_single_axes(f: np.ndarray, device: Device) -> np.ndarray:
    """f [slots, 8] with every dimension on one axis of the array only, where that does not change the cost: Timeloop's
    format needs it.

    Cost depends on how many PEs share a dimension; on the axis too where inputs are passed on along it, or sums add up
    along one axis only.
    """
    x, y = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    both = [d for d in range(8) if f[x, d] > 1 and f[y, d] > 1]
    spatial = [d for d in range(8) if f[x, d] * f[y, d] > 1]
    if not both or device.forward_inputs:
        return f
    alike = device.reduces[0] == device.reduces[1]
    ways = itertools.product((x, y), repeat=len(spatial))
    # the smallest changes first
    for way in sorted(ways, key=lambda way: [sum(f[axis, d] == 1 for axis, d in zip(way, spatial, strict=True)), way]):
        new = f.copy()
        new[[x, y]] = 1
        for axis, d in zip(way, spatial, strict=True):
            new[axis, d] = f[x, d] * f[y, d]
        may = all(DIMS[d] in device.axis_dims[axis == y] for axis, d in zip(way, spatial, strict=True))
        same = alike or all((new[x, d] == f[x, d]) or DIMS[d] not in "CRS" for d in spatial)
        if may and same and new[x].prod() <= device.array[0] and new[y].prod() <= device.array[1]:
            return new
    return f


def _mask(tensors: Sequence[str] | set[str]) -> int:
    return sum(1 << TENSORS.index(tensor) for tensor in tensors)
