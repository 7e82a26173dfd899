"""Pipeline or multi-cycle: the best split of a network into stages, and of the array and buffers among them.

A stage is a run of consecutive layers with some columns of the array, and with that share of buffers and bandwidth
(hw_model.partition). Stages work at once on different inputs: the latency of an input is the sum of the stages, the
interval that of the slowest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from automapper.dataflows import Dataflow, Unfit
from automapper.evolve import Evolution
from automapper.objective import Objective
from automapper.parallel import run_parallel, seconds_each
from automapper.search import Found
from automapper.space import Search
from automapper.workload import Network, Problem, problem_of
from hw_model import Device, InputError, InvalidMapping, NetworkCost, evaluate, partition, pipeline
from hw_model.widths import Bits, in_words, is_wider, width_order
from instantnet.settings.stages import MapSettings

SHARES = ((1, 4), (1, 3), (1, 2), (2, 3), (3, 4))  # of the array's columns that a stage may have


@dataclass(frozen=True)
class Pipeline:
    """columns [stages]; ends [stages]: index behind each stage's last layer; found: each layer's mapping on its
    part."""

    columns: tuple[int, ...]
    ends: tuple[int, ...]
    found: tuple[Found, ...]
    cost: NetworkCost


class Pipelines:
    """The searches of every layer, bit-width and size of a part of the array. `advance` continues them, `best` can be
    read at any time.

    max_stages: of a pipeline; 1 searches none. random: as the engine of that name. own: the dataflow that AutoMapper is
    constrained to, as `Search.dataflow`.
    """

    def __init__(
        self,
        network: Network,
        bit_widths: Sequence[Bits],
        device: Device,
        objective: Objective,
        max_stages: int,
        seed: int,
        workers: int = MapSettings.workers,
        backend: str = MapSettings.backend,
        random: bool = False,
        own: str | Dataflow = "",
    ):
        self.network, self.device, self.objective, self.max_stages = network, device, objective, max_stages
        self.bit_widths = tuple(bit_widths)
        self.workers, self.backend = workers, backend
        self.why_none = ""  # why there can be no pipeline, where known without a search
        self.parts: dict[int, Device] = {}
        if max_stages < 2:
            self.why_none = "--stages 1 asks for multi-cycle only"
        elif len(network.layers) < 2:
            self.why_none = "the network has one layer only"
        else:
            self.parts, self.why_none = _parts(device)
        self.found: dict[tuple[int, Problem], Found] = {}
        self.misses: dict[tuple[int, Problem], str] = {}  # what the closest miss of a search exceeds
        by_shape: dict = {}
        for bits, item in itertools.product(bit_widths, network.layers):
            problem = problem_of(item, bits)
            by_shape.setdefault(problem.layer, {})[Search(problem, own)] = None
        self.units = []
        for searches, (width, part) in itertools.product(by_shape.values(), self.parts.items()):
            try:
                self.units.append((width, Evolution(list(searches), part, objective, seed, random)))
            except Unfit as error:
                self.misses |= {(width, search.problem): str(error) for search in searches}
        self.collected = True

    def limit_local_search(self, seconds: float) -> None:
        """Let a local search of all units together take so long at most."""
        for _, unit in self.units:
            unit.local_s = seconds_each(seconds, len(self.units), self.workers)

    def advance(self, mappings: int, share: float) -> None:
        """Search on until `mappings` are bred for every layer, bit-width and part; share: of the budget used then."""
        work = [(unit, mappings, share) for _, unit in self.units]
        try:
            units = run_parallel(Evolution.advance, work, self.workers, self.backend)
        except KeyboardInterrupt:
            for _, unit in self.units:
                unit.stopped = True
            while any(unit.running for _, unit in self.units):
                time.sleep(0.01)
            raise
        self.units = [(width, unit) for (width, _), unit in zip(self.units, units, strict=True)]
        self.collected = False

    @property
    def evaluated(self) -> int:
        """Mappings tried in all."""
        return sum(unit.evaluated for _, unit in self.units)

    def best(self, bits: Bits) -> Pipeline | None:
        """The best pipeline found so far at a bit-width, that of the next wider words included; None where there is
        none: `why_not` says why."""
        wider = [other for other in self.bit_widths if is_wider(other, bits)]
        options = [self._best_at(bits), self._narrowed(self.best(min(wider, key=width_order)), bits) if wider else None]
        return min(filter(None, options), key=self._value, default=None)

    def _value(self, pipeline: Pipeline) -> float:
        cost = pipeline.cost
        return self.objective.network_value(cost.energy_j, cost.latency_s, cost.interval_s)

    def _narrowed(self, wider: Pipeline | None, bits: Bits) -> Pipeline | None:
        """The same pipeline at narrower words, where no layer costs more."""
        if wider is None:
            return None
        begins, parts, found = (0, *wider.ends[:-1]), [], []
        for columns, begin, end in zip(wider.columns, begins, wider.ends, strict=True):
            parts += [self.parts[columns]] * (end - begin)
        for one, part, item in zip(wider.found, parts, self.network.layers, strict=True):
            problem = problem_of(item, bits)
            found.append(Found(Search(problem), one.mapping, evaluate(problem.layer, one.mapping, part, problem.bits)))
        costs = [[one.cost for one in found[begin:end]] for begin, end in zip(begins, wider.ends, strict=True)]
        return Pipeline(wider.columns, wider.ends, tuple(found), pipeline(costs))

    def _best_at(self, bits: Bits) -> Pipeline | None:
        self._collect()
        problems = [problem_of(item, bits) for item in self.network.layers]
        rows = {
            width: [self.found[width, problem] for problem in problems]
            for width in self.parts
            if all((width, problem) in self.found for problem in problems)
        }
        return best_split(rows, self.device.array[0], self.max_stages, self.objective)

    def why_not(self, bits: Bits) -> str:
        """Why `best` is None: no pipeline is possible, or a layer fits on no part of the device."""
        if self.why_none:
            return self.why_none
        for item in self.network.layers:
            problem = problem_of(item, bits)
            if any((width, problem) in self.found for width in self.parts):
                continue
            for width in sorted(self.parts, reverse=True):
                if (width, problem) in self.misses:
                    return (
                        f"layer {item.layer.name} at {in_words(problem.bits)} has no valid mapping found on a part of "
                        f"the device; closest miss on {width} of {self.device.array[0]} columns: "
                        f"{self.misses[width, problem]}"
                    )
        if self.found:
            return "the parts on which every layer has a valid mapping are together wider than the array"
        return "interrupted before one was found"

    def _collect(self) -> None:
        """Cost the bests so far by hw_model's own `evaluate`, those that changed."""
        if self.collected:
            return
        self.collected = True
        for width, unit in self.units:
            for index, search in enumerate(unit.searches):
                key, mapping = (width, search.problem), unit.best(index)
                if key in self.found and self.found[key].mapping == mapping:
                    continue
                try:
                    cost = evaluate(search.problem.layer, mapping, unit.device, search.problem.bits)
                except InvalidMapping as error:
                    self.misses[key] = "; ".join(error.reasons)
                    continue
                self.found[key] = Found(search, mapping, cost)


def best_split(rows: dict[int, list[Found]], width: int, max_stages: int, objective: Objective) -> Pipeline | None:
    """The best split into stages. rows: for each number of columns every layer's mapping on such a part."""
    if not rows:
        return None
    count = len(next(iter(rows.values())))
    energy = {columns: _sums(item.cost.energy_j for item in row) for columns, row in rows.items()}
    latency = {columns: _sums(item.cost.latency_s for item in row) for columns, row in rows.items()}
    best, best_value = None, float("inf")
    for num_stages in range(2, min(max_stages, count) + 1):
        cuts = np.array(list(itertools.combinations(range(1, count), num_stages - 1)))  # [splits, stages - 1]
        edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=(0, count))
        for columns in itertools.product(rows, repeat=num_stages):
            if sum(columns) > width:
                continue
            joules, longest, seconds = (np.zeros(len(edges)) for _ in range(3))
            for stage, c in enumerate(columns):
                begin, end = edges[:, stage], edges[:, stage + 1]
                joules += energy[c][end] - energy[c][begin]
                seconds += latency[c][end] - latency[c][begin]
                longest = np.maximum(longest, latency[c][end] - latency[c][begin])
            values = objective.network_value(joules, seconds, longest)
            split = int(np.argmin(values))
            if values[split] < best_value:
                best, best_value = (columns, tuple(edges[split, 1:].tolist())), values[split]
    if best is None:
        return None
    columns, ends = best
    begins = (0, *ends[:-1])
    found = tuple(item for c, begin, end in zip(columns, begins, ends, strict=True) for item in rows[c][begin:end])
    costs = [[item.cost for item in found[begin:end]] for begin, end in zip(begins, ends, strict=True)]
    return Pipeline(columns, ends, found, pipeline(costs))


def _parts(device: Device) -> tuple[dict[int, Device], str]:
    """(part of the device for each number of columns, reason if there is none). Parts with empty buffers are left
    out."""
    columns = device.array[0]
    widths = sorted({columns * a // b for a, b in SHARES} - {0, columns})
    parts, why = {}, f"the array's {columns} column{'s'[: columns > 1]} cannot be split"
    for width in widths:
        try:
            parts[width] = partition(device, [width])[0]
        except InputError as error:
            why = str(error).removeprefix("pipeline: ")
    return parts, "" if parts else why


def _sums(values: Iterable[float]) -> np.ndarray:
    """Running sums, from 0."""
    return np.array([0.0, *itertools.accumulate(values)])
