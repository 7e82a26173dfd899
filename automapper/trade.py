"""Layers traded against each other, where the sums over a network would otherwise be behind.

Every layer minimises its own objective, and what a report shows of it depends on nothing else. What a *network* runs
may differ. Its EDP is a product of two sums: a layer that saves much latency for a little more energy pays where the
network spends its energy elsewhere. So the sums of a *rival*, a baseline or the mappings of the next wider words, can
come out ahead by a fraction of a percent. Where that happens at a bit-width:

1. Layers run a rival's mapping that is better at the layer itself: of a user's dataflow, of a mapping kept at another
   bit-width, or of wider words. (The built-in dataflows have none: the search takes over from them.)
2. Layers run other known mappings that no rival beats at the layer, as few as it takes.
3. Layers are searched again for what they contribute to the network: near (E, L) its objective E^a * L^b moves with
   layer i as E_i^(a * E_i/E) * L_i^(b * L_i/L). Then step 2 again, and a longer search while that is not enough.
4. What the others leave, as the best mappings of two dataflows contradict each other or nothing may be searched, is
   done by taking over mappings of the rival, as few as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from automapper.evolve import EXPLORE, Evolution
from automapper.objective import Objective
from automapper.search import Found, Outcome
from automapper.space import Search, inside
from automapper.spread import spread
from automapper.workload import Network, Problem, problem_of
from hw_model import Device, InvalidMapping, Mapping, encode, evaluate
from hw_model.widths import is_wider, width_order

EFFORT = (1_000, 4_000, 16_000, 64_000)  # mappings of each search of a layer, one sweep after the other
EPSILON = 1e-12  # a smaller part is rounding
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
    searching: bool = True,
) -> None:
    """Note in `outcome.traded` what layers run for the network, where a rival's sums are ahead at a bit-width.

    searching: False takes known mappings only, which is all that a comparison of engines may.
    """
    trade = _Trade(network, bit_widths, outcome, device, objective)
    for sweep, mappings in enumerate((0, *(EFFORT if searching else ()))):
        behind = [bits for bits in trade.bit_widths if trade.behind(bits) and not trade.choose(bits)]
        if not behind:
            break
        for bits in behind if mappings else ():
            work = trade.searches(bits, mappings, seed + sweep - 1)
            for found in spread(_search, work, workers, backend):
                if found:
                    trade.offers.setdefault((bits, found.search.problem), []).append(found)
            trade.choose(bits)
    for bits in trade.bit_widths:
        if trade.behind(bits) and not trade.choose(bits):
            trade.follow(bits)


class _Trade:
    """The networks of all bit-widths, widest first, against their rivals."""

    def __init__(
        self, network: Network, bit_widths: Sequence[int], outcome: Outcome, device: Device, objective: Objective
    ):
        self.network, self.outcome, self.device, self.objective = network, outcome, device, objective
        self.bit_widths = sorted(bit_widths, key=width_order, reverse=True)
        self.layers = {bits: [problem_of(item, bits) for item in network.layers] for bits in bit_widths}
        self.offers: dict[tuple[int, Problem], list[Found]] = {}
        self.narrowed: dict[tuple[Problem, Mapping], Found] = {}

    def own(self, bits: int) -> list[Found]:
        """What the network runs."""
        return [self.outcome.best(problem, bits) for problem in self.layers[bits]]

    def rivals(self, bits: int) -> list[list[Found | None]]:
        """Per layer what each baseline has, None where nothing; and the mappings of the next wider words."""
        rows = [
            [self.outcome.baseline(item, bits, name) for item in self.network.layers]
            for name in self.outcome.baselines.rivals
        ]
        wider = [other for other in self.bit_widths if is_wider(other, bits)]
        if wider:
            pairs = zip(self.own(min(wider, key=width_order)), self.layers[bits], strict=True)
            rows.append([self._narrowed(found.mapping, problem) for found, problem in pairs])
        return [row for row in rows if any(row)]

    def behind(self, bits: int) -> bool:
        """Whether a rival is ahead, over the layers that it has, or over all with the network's own at the others."""
        own = self.own(bits)
        return any(
            self._total(ours) > self._total(theirs) for row in self.rivals(bits) for ours, theirs in _pairs(own, row)
        )

    def choose(self, bits: int) -> bool:
        """Let as few layers as it takes have another mapping on offer; whether no rival is ahead then."""
        problems, rivals = self.layers[bits], self.rivals(bits)
        for problem in problems:
            self.outcome.traded.pop((bits, problem), None)
        if not self.behind(bits):
            return True
        for problem in problems:
            self._take(bits, min(self._known(bits, problem, rivals), key=self._value))
        offers = [one for problem in dict.fromkeys(problems) for one in self._allowed(bits, problem, rivals)]
        takes = np.array([[one.search.problem == problem for problem in problems] for one in offers], float)
        excess = math.inf
        while self.behind(bits):
            own = self.own(bits)
            after = self._excess(own, rivals, offers, takes) if offers else np.array([math.inf])
            if not after.min() < excess:
                return False
            excess = after.min()
            self._take(bits, offers[int(np.argmin(after))])
        return True

    def searches(self, bits: int, mappings: int, seed: int) -> list[tuple]:
        """Arguments of `_search` for every problem of the network."""
        own, rivals = self.own(bits), self.rivals(bits)
        energy_j, latency_s = _sums(own)
        work = []
        for problem, found in dict(zip(self.layers[bits], own, strict=True)).items():
            joules = self.objective.energy_weight * found.cost.energy_j / energy_j
            seconds = self.objective.latency_weight * found.cost.latency_s / latency_s
            scale = (self.objective.energy_weight + self.objective.latency_weight) / (joules + seconds)
            limits = [self.objective.score(one.cost.energy_pj, one.cost.cycles) for one in self._limits(bits, problem)]
            tilted = Tilted(self.objective, joules * scale, seconds * scale, float(min(limits, default=math.inf)))
            known = dict.fromkeys([found.mapping, *(one.mapping for one in self._allowed(bits, problem, rivals))])
            search = Search(problem, self.outcome.baselines.own)
            work.append((tilted, search, list(known), self.device, mappings, seed))
        return work

    def follow(self, bits: int) -> None:
        """Take over mappings of the rival that is furthest ahead, what helps most first, until none is ahead."""
        problems = self.layers[bits]
        while True:
            own = self.own(bits)
            value = self._total(own)
            ahead = min((_filled(row, own) for row in self.rivals(bits)), key=self._total, default=own)
            if self._total(ahead) >= value:
                return
            one_each = dict(zip(problems, ahead, strict=True))
            alone = {
                problem: self._total([found if p == problem else one for p, one in zip(problems, own, strict=True)])
                for problem, found in one_each.items()
            }
            best = min(alone, key=alone.get)
            for found in [one_each[best]] if alone[best] < value * (1 - EPSILON) else ahead:
                self._take(bits, found)

    def _take(self, bits: int, found: Found) -> None:
        problem = found.search.problem
        if found.mapping == self.outcome.own(problem).mapping:
            self.outcome.traded.pop((bits, problem), None)
        else:
            search = Search(problem, self.outcome.baselines.own)
            self.outcome.traded[bits, problem] = Found(search, found.mapping, found.cost)

    def _limits(self, bits: int, problem: Problem) -> list[Found]:
        """What no mapping of the layer may be worse than: the rivals', and what any wider word has."""
        index = self.layers[bits].index(problem)
        limits = [row[index] for row in self.rivals(bits)]
        wider = [other for other in self.bit_widths if is_wider(other, bits)]
        limits += [self._narrowed(self.own(other)[index].mapping, problem) for other in wider]
        return [one for one in limits if one]

    def _most(self, bits: int, problem: Problem) -> float:
        return min((self._value(one) for one in self._limits(bits, problem)), default=math.inf)

    def _known(self, bits: int, problem: Problem, rivals: Sequence[Sequence[Found | None]]) -> list[Found]:
        """The known mappings of a layer."""
        index = self.layers[bits].index(problem)
        known = [self.outcome.own(problem), *(row[index] for row in rivals if row[index])]
        return [
            Found(Search(problem), one.mapping, one.cost) for one in [*known, *self.offers.get((bits, problem), [])]
        ]

    def _allowed(self, bits: int, problem: Problem, rivals: Sequence[Sequence[Found | None]]) -> list[Found]:
        """The known mappings of a layer that no rival beats there."""
        most = self._most(bits, problem)
        return [one for one in self._known(bits, problem, rivals) if self._value(one) <= most]

    def _narrowed(self, mapping: Mapping, problem: Problem) -> Found:
        """A mapping of the same layer, found at these or wider words."""
        key = problem, mapping
        if key not in self.narrowed:
            cost = evaluate(problem.layer, mapping, self.device, problem.bits)
            self.narrowed[key] = Found(Search(problem), mapping, cost)
        return self.narrowed[key]

    def _excess(
        self, own: Sequence[Found], rivals: Sequence[Sequence[Found | None]], offers: Sequence[Found], takes: np.ndarray
    ) -> np.ndarray:
        """[offers]: by which part the rival that is furthest ahead is, after each offer. takes [offers, layers]."""
        costs = _numbers(own)  # [2, layers]: energy, latency
        gains = takes[None] * (_numbers(offers)[:, :, None] - costs[:, None])  # [2, offers, layers]
        worst = np.full(len(offers), -np.inf)
        for row in rivals:
            has = np.array([one is not None for one in row])
            theirs = _numbers([one for one in row if one]).sum(1)[:, None]
            ours = costs[:, has].sum(1)[:, None] + gains[:, :, has].sum(2)
            rest = costs[:, ~has].sum(1)[:, None] + gains[:, :, ~has].sum(2)
            for more in (np.zeros_like(rest), rest):
                worst = np.maximum(worst, self.objective.value(*(ours + more)) / self.objective.value(*(theirs + more)))
        return worst - 1.0

    def _total(self, found: Sequence[Found]) -> float:
        return self.objective.value(*_sums(found))

    def _value(self, found: Found) -> float:
        return self.objective.value(found.cost.energy_j, found.cost.latency_s)


def _numbers(found: Sequence[Found]) -> np.ndarray:
    """[2, n]: energy and latency."""
    return np.array([[one.cost.energy_j for one in found], [one.cost.latency_s for one in found]])


def _sums(found: Sequence[Found]) -> tuple[float, float]:
    """(energy_j, latency_s), the very numbers of the sum of the costs."""
    energy_pj = latency_s = 0.0
    for one in found:
        energy_pj += one.cost.energy_pj
        latency_s += one.cost.latency_s
    return energy_pj * 1e-12, latency_s


def _filled(row: Sequence[Found | None], own: Sequence[Found]) -> list[Found]:
    """What a rival has, the network's own at the layers where it has nothing."""
    return [theirs or one for theirs, one in zip(row, own, strict=True)]


def _pairs(own: Sequence[Found], row: Sequence[Found | None]) -> Iterator[tuple[Sequence[Found], Sequence[Found]]]:
    """What is compared with a rival: all layers, and those that it has."""
    yield own, _filled(row, own)
    if not all(row):
        yield [one for one, theirs in zip(own, row, strict=True) if theirs], [one for one in row if one]


def _search(
    tilted: Tilted, search: Search, known: Sequence[Mapping], device: Device, mappings: int, seed: int
) -> Found | None:
    evolution = Evolution([search], device, tilted, seed)
    for mapping in known:
        factors, orders, bypass = encode(mapping, device)
        row = factors, orders[: len(device.levels)], bypass  # searches leave the loops of an axis in one order
        if inside(evolution.space, 0, row):
            evolution.remember(0, row)
    evolution.advance(int(EXPLORE * mappings), EXPLORE).advance(mappings, 1.0)
    mapping = evolution.best(0)
    try:
        return Found(search, mapping, evaluate(search.problem.layer, mapping, device, search.problem.bits))
    except InvalidMapping:
        return None
