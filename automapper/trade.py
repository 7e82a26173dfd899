"""Layers traded against each other, where the sums over a network would otherwise be behind a dataflow's.

Every layer minimises its own objective, so no dataflow is ahead at any layer. But the EDP of a network is a product of
two sums: a layer that saves much latency for a little more energy pays where the network spends its energy elsewhere.
So the sums of a dataflow, none of its layers better, can still come out ahead by a fraction of a percent. Where they
do, layers are searched again for what they contribute to the network: near (E, L) its objective E^a * L^b moves with
layer i as E_i^(a * E_i/E) * L_i^(b * L_i/L). What is found counts if no dataflow is ahead at the layer. Where that does
not do, as the best mappings of two dataflows contradict each other, layers take over mappings of the dataflow that is
ahead, as few as it takes: no network ends behind a dataflow's. The report marks every layer traded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automapper.dataflows import DATAFLOWS
from automapper.evolve import EXPLORE, Evolution
from automapper.objective import Objective
from automapper.published import NAME
from automapper.result import network_cost
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.spread import spread
from automapper.workload import Network, Problem, problem_of
from hw_model import Cost, Device, InvalidMapping, Mapping, encode, evaluate

SWEEPS = 4
EPSILON = 1e-12  # less than that is rounding
MAPPINGS = 10_000  # of each of these searches, at most
WALL = 100.0  # by how much a score grows per unit of the logarithm that it is above the most it may be


@dataclass(frozen=True)
class Tilted:
    """What a layer contributes to its network's objective: energy ** energy_weight * latency ** latency_weight, with a
    wall where the layer's own objective, as a score, is above `most`."""

    own: Objective
    energy_weight: float
    latency_weight: float
    most: float

    def score(self, energy: np.ndarray, latency: np.ndarray) -> np.ndarray:
        """As Objective.score."""
        above = np.maximum(0.0, self.own.score(energy, latency) - self.most)
        return self.energy_weight * np.log(energy) + self.latency_weight * np.log(latency) + WALL * above


def trade_layers(
    network: Network,
    bit_widths: Sequence[int],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    seed: int,
    workers: int = 0,
    backend: str = "threading",
) -> None:
    """Note in `outcome.traded` what layers give up for the network, where a dataflow's sums are ahead at a bit-width; a
    mapping that is better for its layer as well becomes what was found."""
    mappings = max(1, min(MAPPINGS, outcome.per_search))
    for bits in bit_widths:
        for sweep in range(SWEEPS):
            if not _behind(network, bits, outcome, objective):
                break
            total = network_cost(network, bits, outcome)
            items = {problem_of(item, bits): None for item in network.layers}
            work = [
                (_tilted(outcome, bits, problem, total, objective), problem, _known(outcome, bits, problem), device,
                 mappings, seed + sweep)
                for problem in items
            ]  # fmt: skip
            for (tilted, problem, *_), found in zip(work, spread(_search, work, workers, backend), strict=True):
                if not found:
                    continue
                _take_better(outcome, found, device, objective)
                if float(objective.score(found.cost.energy_pj, found.cost.cycles)) <= tilted.most:
                    _take_if_ahead(network, bits, outcome, problem, found, objective)
        while _behind(network, bits, outcome, objective):
            _follow(network, bits, outcome, objective)


def _behind(network: Network, bits: int, outcome: Outcome, objective: Objective) -> bool:
    """Whether the sums of a dataflow that every layer has are ahead."""
    own = _value(objective, network_cost(network, bits, outcome))
    return any(value < own for value in _sums(network, bits, outcome, objective).values())


def _sums(network: Network, bits: int, outcome: Outcome, objective: Objective) -> dict[str, float]:
    """The objective of the network in every dataflow that all its layers have."""
    costs = {name: network_cost(network, bits, outcome, name) for name in (*DATAFLOWS, NAME)}
    return {name: _value(objective, cost) for name, cost in costs.items() if cost}


def _value(objective: Objective, cost: Cost) -> float:
    return objective.value(cost.energy_j, cost.latency_s)


def _tilted(outcome: Outcome, bits: int, problem: Problem, total: Cost, objective: Objective) -> Tilted:
    cost = outcome.best(problem, bits).cost
    energy = objective.energy_weight * cost.energy_j / total.energy_j
    latency = objective.latency_weight * cost.latency_s / total.latency_s
    scale = (objective.energy_weight + objective.latency_weight) / (energy + latency)
    others = [outcome.found.get(Search(problem, name)) for name in (*DATAFLOWS, NAME)]
    wider = [  # no wider word may become cheaper than this one
        found for search, found in outcome.found.items()
        if search.problem.layer == problem.layer and search.problem.bits > problem.bits and not search.dataflow
    ]  # fmt: skip
    most = min(
        [float(objective.score(one.cost.energy_pj, one.cost.cycles)) for one in [*others, *wider] if one],
        default=math.inf,
    )
    return Tilted(objective, energy * scale, latency * scale, most)


def _known(outcome: Outcome, bits: int, problem: Problem) -> list[Mapping]:
    """The mappings of a problem that are known: the best, and those of the dataflows."""
    others = [outcome.found.get(Search(problem, name)) for name in (*DATAFLOWS, NAME)]
    return [outcome.best(problem, bits).mapping, *(one.mapping for one in others if one)]


def _search(
    tilted: Tilted, problem: Problem, known: Sequence[Mapping], device: Device, mappings: int, seed: int
) -> Found | None:
    evolution = Evolution([Search(problem)], device, tilted, seed)
    for mapping in known:
        evolution.remember(0, encode(mapping, device))
    evolution.advance(int(EXPLORE * mappings), EXPLORE).advance(mappings, 1.0)
    mapping = evolution.best(0)
    try:
        return Found(Search(problem), mapping, evaluate(problem.layer, mapping, device, problem.bits))
    except InvalidMapping:
        return None


def _take_better(outcome: Outcome, found: Found, device: Device, objective: Objective) -> None:
    """Let the search of this problem, and of the same layer at narrower words, take over what is better for it."""
    for search, before in list(outcome.found.items()):
        same = search.problem.layer == found.search.problem.layer and not search.dataflow
        if not same or search.problem.bits > found.search.problem.bits:
            continue
        cost = evaluate(search.problem.layer, found.mapping, device, search.problem.bits)
        if _value(objective, cost) < _value(objective, before.cost):
            outcome.found[search] = Found(search, found.mapping, cost)


def _take_if_ahead(
    network: Network, bits: int, outcome: Outcome, problem: Problem, found: Found, objective: Objective
) -> None:
    """Take a mapping for one bit-width of the network if the network is the better for it, and it was behind."""
    if not _behind(network, bits, outcome, objective):
        return
    before, own = outcome.traded.get((bits, problem)), _value(objective, network_cost(network, bits, outcome))
    outcome.traded[bits, problem] = found
    if _value(objective, network_cost(network, bits, outcome)) >= own:
        outcome.traded.pop((bits, problem))
        if before:
            outcome.traded[bits, problem] = before


def _follow(network: Network, bits: int, outcome: Outcome, objective: Objective) -> None:
    """Take over the one mapping of the dataflow that is furthest ahead that helps the network most; all, where none
    helps alone."""
    sums = _sums(network, bits, outcome, objective)
    ahead = min(sums, key=sums.get)
    total = network_cost(network, bits, outcome)
    times = Counter(problem_of(item, bits) for item in network.layers)
    offers = {problem: outcome.found[Search(problem, ahead)] for problem in times}

    def value_with(problem: Problem) -> float:
        more, less, count = offers[problem].cost, outcome.best(problem, bits).cost, times[problem]
        energy = total.energy_j + count * (more.energy_j - less.energy_j)
        return objective.value(energy, total.latency_s + count * (more.latency_s - less.latency_s))

    best = min(offers, key=value_with)
    helps = value_with(best) < _value(objective, total) * (1 - EPSILON)
    for problem in [best] if helps else offers:
        found = offers[problem]
        outcome.traded[bits, problem] = Found(Search(problem), found.mapping, found.cost)
