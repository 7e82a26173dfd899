"""The search for the mapping of a layer in a group: one mapping for all its strips, in what the group leaves free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automapper.dataflows import Dataflow, Unfit, constraints
from automapper.evolve import TOGETHER, Evolution, known_row
from automapper.local_search import INVALID
from automapper.objective import parse_objective
from automapper.parallel import run_parallel, seconds_each
from automapper.space import Search
from automapper.workload import Problem
from hw_model import Device, InputError, Mapping, evaluate_batch
from hw_model import Layer as Shape
from hw_model.fusion import in_group, on_strip
from hw_model.layer import DIMS
from hw_model.widths import Bits

Strips = tuple[tuple[Shape, int], ...]
AT_ONCE = 64  # searches side by side


@dataclass(frozen=True)
class Place:
    """A layer where a group puts it. strips: shapes of its strips, the largest first, and how often each occurs; stays,
    reserved_bits: see `fusion.in_group`; energy_weight, latency_weight: what a pJ and a cycle count in the network."""

    strips: Strips
    bits: Bits
    stays: str
    reserved_bits: int
    energy_weight: float
    latency_weight: float
    dataflow: str | Dataflow = ""


@dataclass(frozen=True)
class Placed:
    """What a search found: a mapping of the largest strip, and the sums over all strips."""

    mapping: Mapping
    energy_pj: float
    cycles: float


def search_places(
    places: Sequence[tuple[Place, Sequence[Mapping]]],
    device: Device,
    mappings: int,
    seed: int,
    workers: int,
    backend: str,
    random: bool = False,
    seconds: float = math.inf,
) -> list[Placed | None]:
    """For every place, with known mappings of the layer to begin with, the best mapping found by `mappings` bred ones,
    or in `seconds` for all places; None where none is valid."""
    alike: dict[tuple[str, int], list[int]] = {}
    for index, (place, _) in enumerate(places):
        alike.setdefault((place.stays, place.reserved_bits), []).append(index)
    work, order = [], []
    for (stays, reserved), indices in alike.items():
        view = in_group(device, stays, reserved)
        indices = [index for index in indices if _possible(places[index][0], view)]
        for begin in range(0, len(indices), AT_ONCE):
            part = indices[begin : begin + AT_ONCE]
            order.append(part)
            work.append(([places[index] for index in part], view, mappings, seed, random))
    each = seconds_each(seconds, len(work), workers)
    found: list[Placed | None] = [None] * len(places)
    for part, results in zip(
        order, run_parallel(_search, [(*one, each) for one in work], workers, backend), strict=True
    ):
        for index, result in zip(part, results, strict=True):
            found[index] = result
    return found


def _possible(place: Place, view: Device) -> bool:
    """Whether its dataflow has any mapping there."""
    definition = Search(Problem(place.strips[0][0], place.bits), place.dataflow).definition
    try:
        return bool(constraints(definition, place.strips[0][0], view, place.bits))
    except Unfit:
        return False


def _search(
    places: Sequence[tuple[Place, Sequence[Mapping]]],
    view: Device,
    mappings: int,
    seed: int,
    random: bool,
    seconds: float,
) -> list[Placed | None]:
    evolution = StripEvolution([place for place, _ in places], view, seed, random)
    evolution.end_after(seconds)
    for index, (place, known) in enumerate(places):
        evolution.know(index, evolution.rows_of(index, place, known))
    evolution.advance(mappings, 1.0)
    return [evolution.placed(index) for index in range(len(places))]


class StripEvolution(Evolution):
    """Evolution of mappings of layers in strips: each counts with the sums over its strips, by its weights."""

    def __init__(self, places: Sequence[Place], view: Device, seed: int, random: bool = False):
        self.places = list(places)
        searches = [Search(Problem(place.strips[0][0], place.bits), place.dataflow) for place in places]
        super().__init__(searches, view, parse_objective("edp"), seed, random)

    def rows_of(self, index: int, place: Place, known: Sequence[Mapping]) -> list:
        """Known mappings of the whole layer as rows for its largest strip, those that are possible here."""
        rows = []
        for mapping in known:
            try:
                part = on_strip(mapping.on(self.device), place.strips[0][0], self.device)
                row = known_row(self.space, part, self.device, index)
            except InputError:  # of another device
                continue
            rows += [] if row is None else [row]
        return rows

    def placed(self, index: int) -> Placed | None:
        """The best of search `index`."""
        if self.score[index] >= INVALID:
            return None
        f, o, b = self.rows[index]
        energy, cycles, _, _ = self._sums(f[None], o[None], b[None], np.array([index]))
        return Placed(self.best(index), float(energy[0]), float(cycles[0]))

    def climb(self) -> None:
        """As of any search, but from the best alone where only few mappings have been bred."""
        if self.mappings >= TOGETHER:
            return super().climb()
        for t in self._in_time(np.arange(len(self.searches))):
            score, row = self._climbed(t, self.score[t], self.rows[t])
            if score < self.score[t]:
                self._note(t, score, row)

    def _known_to(self, t: int) -> list[int]:
        return []

    def _score(self, f: np.ndarray, o: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
        energy, cycles, valid, violation = self._sums(f, o, b, which)
        weights = np.array([(place.energy_weight, place.latency_weight) for place in self.places])[which]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(valid, np.log(weights[:, 0] * energy + weights[:, 1] * cycles), INVALID + violation)

    def _sums(self, f: np.ndarray, o: np.ndarray, b: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, ...]:
        """(energy in pJ, cycles, valid, violation) of rows, over all strips."""
        self.evaluated += len(which)
        energy, cycles, violation = np.zeros((3, len(which)))
        valid = np.ones(len(which), bool)
        those, number = np.unique(which, return_inverse=True)
        strips = [self.places[t].strips for t in those]
        bits = [self.places[t].bits for t in those]
        for k in range(max(map(len, strips), default=0)):
            has = np.flatnonzero(np.array([len(one) > k for one in strips])[number])
            layers = [one[min(k, len(one) - 1)][0] for one in strips]
            times = np.array([one[min(k, len(one) - 1)][1] for one in strips])[number[has]]
            rows = np.array([layer.P for layer in layers])[number[has]]
            part = _on_strips(f[has], rows) if k else f[has]
            cost = evaluate_batch(
                layers, part, o[has], self.device, bits, bypass=b[has], problem=number[has].astype(np.int32), threads=1
            )
            valid[has] &= cost.valid
            violation[has] += cost.violation
            energy[has] += times * np.where(cost.valid, cost.energy_pj, 0.0)
            cycles[has] += times * np.where(cost.valid, cost.cycles, 0)
        return energy, cycles, valid, violation


def _on_strips(f: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """f [n, slots, 8] with as many trips of the outermost loop over P as `rows` [n] need: `fusion.on_strip`."""
    over_p = f[:, :, DIMS.index("P")].astype(np.int64)
    every = np.arange(len(f))
    outermost = np.argmax(over_p > 1, axis=1)  # 0 where none is: one row, one trip
    inside = over_p.prod(axis=1) // over_p[every, outermost]
    changed = f.copy()
    changed[every, outermost, DIMS.index("P")] = -(-rows // inside)
    return changed
