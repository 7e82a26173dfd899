"""Pipeline or multi-cycle: the best split of a network into stages, and of the array and buffers among them.

A stage is a run of consecutive layers with some columns of the array, and with that share of buffers and bandwidth
(hw_model.partition). Stages work at once on different inputs: an input takes the sum of the stages, results come at the
pace of the slowest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from automapper.evolve import EXPLORE, Evolution
from automapper.objective import Objective
from automapper.search import Found
from automapper.space import Search
from automapper.spread import spread
from automapper.workload import Network, Problem, problem_of
from hw_model import Device, InputError, InvalidMapping, NetworkCost, evaluate, partition, pipeline

SHARES = ((1, 4), (1, 3), (1, 2), (2, 3), (3, 4))  # of the array's columns that a stage may have


@dataclass(frozen=True)
class Pipeline:
    """columns [stages]; ends [stages]: index behind each stage's last layer; found: each layer's mapping on its
    part."""

    columns: tuple[int, ...]
    ends: tuple[int, ...]
    found: tuple[Found, ...]
    cost: NetworkCost


def best_pipelines(
    network: Network,
    bit_widths: Sequence[int],
    device: Device,
    objective: Objective,
    max_stages: int,
    mappings: int,
    seed: int,
    workers: int,
    backend: str,
) -> dict[int, Pipeline]:
    """Per bit-width the best pipeline of 2 to max_stages stages; none where no split has a valid mapping.

    mappings: evaluated per layer, bit-width and size of the part.
    """
    widths = sorted({device.array[0] * a // b for a, b in SHARES} - {0, device.array[0]})
    if max_stages < 2 or len(network.layers) < 2 or not widths:
        return {}
    by_shape: dict = {}
    for bits, item in itertools.product(bit_widths, network.layers):
        by_shape.setdefault(problem_of(item, bits).layer, {})[problem_of(item, bits)] = None
    parts = _parts(device, widths)
    work = [
        (list(problems), part, objective, mappings, seed) for problems in by_shape.values() for part in parts.values()
    ]
    searched = spread(_search, work, workers, backend)
    found: dict[tuple[str, Problem], Found] = {}
    for (_, part, *_), bests in zip(work, searched, strict=True):
        found |= {(part.name, problem): best for problem, best in bests.items()}
    result = {}
    for bits in bit_widths:
        problems = [problem_of(item, bits) for item in network.layers]
        rows = {
            width: [found[part.name, problem] for problem in problems]
            for width, part in parts.items()
            if all((part.name, problem) in found for problem in problems)
        }
        best = best_split(rows, device.array[0], max_stages, objective)
        if best:
            result[bits] = best
    return result


def best_split(rows: dict[int, list[Found]], width: int, max_stages: int, objective: Objective) -> Pipeline | None:
    """The best split into stages. rows: for each number of columns every layer's mapping on such a part."""
    if not rows:
        return None
    count = len(next(iter(rows.values())))
    energy = {columns: _sums(item.cost.energy_j for item in row) for columns, row in rows.items()}
    latency = {columns: _sums(item.cost.latency_s for item in row) for columns, row in rows.items()}
    best, best_value = None, float("inf")
    for stages in range(2, min(max_stages, count) + 1):
        for columns in itertools.product(rows, repeat=stages):
            if sum(columns) > width:
                continue
            for inner in itertools.combinations(range(1, count), stages - 1):
                edges = (0, *inner, count)
                spans = list(zip(columns, edges[:-1], edges[1:], strict=True))
                joules = sum(energy[c][end] - energy[c][begin] for c, begin, end in spans)
                seconds = [latency[c][end] - latency[c][begin] for c, begin, end in spans]
                value = objective.network_value(joules, sum(seconds), max(seconds))
                if value < best_value:
                    best, best_value = (columns, edges[1:]), value
    if best is None:
        return None
    columns, ends = best
    begins = (0, *ends[:-1])
    found = tuple(item for c, begin, end in zip(columns, begins, ends, strict=True) for item in rows[c][begin:end])
    stages = [[item.cost for item in found[begin:end]] for begin, end in zip(begins, ends, strict=True)]
    return Pipeline(columns, ends, found, pipeline(stages))


def _parts(device: Device, widths: Iterable[int]) -> dict[int, Device]:
    """A part of the device for each number of columns; those whose buffers would be empty are left out."""
    parts = {}
    for width in widths:
        try:
            parts[width] = partition(device, [width])[0]
        except InputError:
            continue
    return parts


def _search(
    problems: Sequence[Problem], part: Device, objective: Objective, mappings: int, seed: int
) -> dict[Problem, Found]:
    evolution = Evolution([Search(problem) for problem in problems], part, objective, seed)
    evolution.advance(int(EXPLORE * mappings), EXPLORE).advance(mappings, 1.0)
    bests = {}
    for index, search in enumerate(evolution.searches):
        mapping = evolution.best(index)
        try:
            cost = evaluate(search.problem.layer, mapping, part, search.problem.bits)
        except InvalidMapping:
            continue
        bests[search.problem] = Found(search, mapping, cost)
    return bests


def _sums(values: Iterable[float]) -> list[float]:
    """Running sums, from 0."""
    return [0.0, *itertools.accumulate(values)]
