"""Trade-offs between layers, where the sums of a reference over the network would otherwise be ahead.

Every layer minimises its own objective, and a report's entry of a layer depends on nothing else. What a *network* runs
may differ. Its EDP is a product of two sums: a layer that saves much latency for a little more energy is worth it where
other layers dominate the energy. So the sums of a *reference*, a baseline or the mappings of the next wider words, can
be ahead by a fraction of a percent. Where that happens at a bit-width, layers run a *substitute*:

1. A mapping of a reference that is better at the layer itself: of a user's dataflow, of a mapping kept at another
   bit-width, or of wider words. (Built-in dataflows have none, because the search takes over from them.)
2. Another known mapping that no reference beats at the layer, for as few layers as possible.
3. A mapping from another search of the layer, for what it contributes to the network: near (E, L) the network's
   objective E^a * L^b moves with layer i as E_i^(a * E_i/E) * L_i^(b * L_i/L). Then step 2 again, and a longer search
   while that is not enough.
4. A mapping of the reference itself, for as few layers as possible. It remains where the best mappings of two dataflows
   contradict each other, or where nothing may be searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from automapper.evolve import EXPLORE, Evolution, known_row
from automapper.objective import LEAST, Objective
from automapper.parallel import run_parallel, seconds_each
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Network, Problem, problem_of
from hw_model import Device, InvalidMapping, Mapping, evaluate
from hw_model.widths import Bits, is_wider, width_order
from instantnet.settings.stages import MapSettings

MAPPINGS = (1_000, 4_000, 16_000, 64_000)  # of each search of a layer, sweep by sweep
EPSILON = 1e-12  # relative; smaller differences are rounding
PENALTY = 100.0  # on the score, per unit of its logarithm above the limit


@dataclass(frozen=True)
class Contribution:
    """What a layer contributes to its network's objective: energy ** energy_weight * latency ** latency_weight, with a
    penalty where the layer's own objective, as a score, exceeds `limit`."""

    own: Objective
    energy_weight: float
    latency_weight: float
    limit: float

    @property
    def weights(self) -> tuple[float, float]:
        """As Objective.weights, without the penalty."""
        return self.energy_weight, self.latency_weight

    def score(self, energy: np.ndarray, latency: np.ndarray) -> np.ndarray:
        """As Objective.score."""
        excess = np.maximum(0.0, self.own.score(energy, latency) - self.limit)
        return (
            self.energy_weight * np.log(np.maximum(energy, LEAST))
            + self.latency_weight * np.log(latency)
            + PENALTY * excess
        )


def trade_layers(
    network: Network,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    seed: int,
    workers: int = MapSettings.workers,
    backend: str = MapSettings.backend,
    searching: bool = True,
    seconds_left: Callable[[], float] = lambda: math.inf,
) -> None:
    """Set `outcome.traded`: what layers run for the network, where a reference's sums are ahead at a bit-width.

    searching: False uses known mappings only, so that a comparison of engines stays fair. seconds_left: for searching.
    """
    selection = _Selection(network, bit_widths, outcome, device, objective)
    for sweep, mappings in enumerate((0, *(MAPPINGS if searching else ()))):
        behind = [bits for bits in selection.bit_widths if selection.is_behind(bits) and not selection.substitute(bits)]
        if not behind or not seconds_left():
            break
        for number, bits in enumerate(behind if mappings else ()):
            seconds = seconds_left() / (len(behind) - number)
            work = selection.searches(bits, mappings, seed + sweep - 1, seconds, workers)
            for found in run_parallel(_search_again, work, workers, backend):
                if found:
                    selection.searched.setdefault((bits, found.search.problem), []).append(found)
            selection.substitute(bits)
    for bits in selection.bit_widths:
        if selection.is_behind(bits) and not selection.substitute(bits):
            selection.adopt_reference(bits)


class _Selection:
    """Which mapping each layer runs at each bit-width, widest first, compared with the references."""

    def __init__(
        self, network: Network, bit_widths: Sequence[Bits], outcome: Outcome, device: Device, objective: Objective
    ):
        self.network, self.outcome, self.device, self.objective = network, outcome, device, objective
        self.bit_widths = sorted(bit_widths, key=width_order, reverse=True)
        self.layers = {bits: [problem_of(item, bits) for item in network.layers] for bits in bit_widths}
        self.searched: dict[tuple[Bits, Problem], list[Found]] = {}  # by the additional searches
        self.recosted: dict[tuple[Problem, Mapping], Found] = {}

    def current(self, bits: Bits) -> list[Found]:
        """Per layer what the network runs."""
        return [self.outcome.best(problem, bits) for problem in self.layers[bits]]

    def references(self, bits: Bits) -> list[list[Found | None]]:
        """A row per reference, with the mapping of each layer or None: each baseline, and the next wider words."""
        rows = [
            [self.outcome.baseline(item, bits, name) for item in self.network.layers]
            for name in self.outcome.baselines.references
        ]
        wider = [other for other in self.bit_widths if is_wider(other, bits)]
        if wider:
            pairs = zip(self.current(min(wider, key=width_order)), self.layers[bits], strict=True)
            rows.append([self._recosted(found.mapping, problem) for found, problem in pairs])
        return [row for row in rows if any(row)]

    def is_behind(self, bits: Bits) -> bool:
        """Whether a reference is ahead: over the layers that it has, or over all with ours at the others."""
        current = self.current(bits)
        return any(
            self._total(ours) > self._total(theirs)
            for row in self.references(bits)
            for ours, theirs in _comparisons(current, row)
        )

    def substitute(self, bits: Bits) -> bool:
        """Give as few layers as possible another known mapping; returns whether no reference is ahead any more."""
        problems, references = self.layers[bits], self.references(bits)
        for problem in problems:
            self.outcome.traded.pop((bits, problem), None)
        if not self.is_behind(bits):
            return True
        for problem in problems:
            self._set(bits, min(self._known(bits, problem, references), key=self._value))
        candidates = [one for problem in dict.fromkeys(problems) for one in self._allowed(bits, problem, references)]
        replaces = np.array([[one.search.problem == problem for problem in problems] for one in candidates], float)
        excess = math.inf
        while self.is_behind(bits):
            current = self.current(bits)
            after = self._excess(current, references, candidates, replaces) if candidates else np.array([math.inf])
            if not after.min() < excess:
                return False
            excess = after.min()
            self._set(bits, candidates[int(np.argmin(after))])
        return True

    def searches(self, bits: Bits, mappings: int, seed: int, seconds: float, workers: int) -> list[tuple]:
        """Arguments of `_search_again` for every problem of the network; seconds: for all of them, some at once."""
        current, references = self.current(bits), self.references(bits)
        energy_j, latency_s = _sums(current)
        one_each = dict(zip(self.layers[bits], current, strict=True))
        each_s = seconds_each(seconds, len(one_each), workers)
        work: list[tuple] = []
        for problem, found in one_each.items():
            energy_weight = self.objective.energy_weight * found.cost.energy_j / energy_j
            latency_weight = self.objective.latency_weight * found.cost.latency_s / latency_s
            scale = (self.objective.energy_weight + self.objective.latency_weight) / (energy_weight + latency_weight)
            limits = [self.objective.score(one.cost.energy_pj, one.cost.cycles) for one in self._limits(bits, problem)]
            limit = float(min(limits, default=math.inf))
            contribution = Contribution(self.objective, energy_weight * scale, latency_weight * scale, limit)
            known = dict.fromkeys([found.mapping, *(one.mapping for one in self._allowed(bits, problem, references))])
            search = Search(problem, self.outcome.baselines.own)
            work.append((contribution, search, list(known), self.device, mappings, seed, each_s))
        return work

    def adopt_reference(self, bits: Bits) -> None:
        """Run mappings of the reference that is furthest ahead, the most helpful first, until none is ahead."""
        problems = self.layers[bits]
        while True:
            current = self.current(bits)
            value = self._total(current)
            ahead = min((_filled(row, current) for row in self.references(bits)), key=self._total, default=current)
            if self._total(ahead) >= value:
                return
            one_each = dict(zip(problems, ahead, strict=True))
            alone = {
                problem: self._total([found if p == problem else one for p, one in zip(problems, current, strict=True)])
                for problem, found in one_each.items()
            }
            best = min(alone, key=alone.__getitem__)
            for found in [one_each[best]] if alone[best] < value * (1 - EPSILON) else ahead:
                self._set(bits, found)

    def _set(self, bits: Bits, found: Found) -> None:
        """Let the network run `found` at its layer; the layer's own best is no trade-off."""
        problem = found.search.problem
        if found.mapping == self.outcome.own(problem).mapping:
            self.outcome.traded.pop((bits, problem), None)
        else:
            search = Search(problem, self.outcome.baselines.own)
            self.outcome.traded[bits, problem] = Found(search, found.mapping, found.cost)

    def _limits(self, bits: Bits, problem: Problem) -> list[Found]:
        """What no mapping of the layer may be worse than: that of any reference, and of any wider words."""
        index = self.layers[bits].index(problem)
        limits = [row[index] for row in self.references(bits)]
        wider = [other for other in self.bit_widths if is_wider(other, bits)]
        limits += [self._recosted(self.current(other)[index].mapping, problem) for other in wider]
        return [one for one in limits if one]

    def _limit(self, bits: Bits, problem: Problem) -> float:
        return min((self._value(one) for one in self._limits(bits, problem)), default=math.inf)

    def _known(self, bits: Bits, problem: Problem, references: Sequence[Sequence[Found | None]]) -> list[Found]:
        """The known mappings of a layer."""
        index = self.layers[bits].index(problem)
        theirs = (row[index] for row in references)
        known = [self.outcome.own(problem), *(one for one in theirs if one)]
        return [
            Found(Search(problem), one.mapping, one.cost) for one in [*known, *self.searched.get((bits, problem), [])]
        ]

    def _allowed(self, bits: Bits, problem: Problem, references: Sequence[Sequence[Found | None]]) -> list[Found]:
        """The known mappings of a layer that no reference beats there."""
        limit = self._limit(bits, problem)
        return [one for one in self._known(bits, problem, references) if self._value(one) <= limit]

    def _recosted(self, mapping: Mapping, problem: Problem) -> Found:
        """A mapping of the same layer, found at these or wider words, with its cost at the words of `problem`."""
        key = problem, mapping
        if key not in self.recosted:
            cost = evaluate(problem.layer, mapping, self.device, problem.bits)
            self.recosted[key] = Found(Search(problem), mapping, cost)
        return self.recosted[key]

    def _excess(
        self,
        current: Sequence[Found],
        references: Sequence[Sequence[Found | None]],
        candidates: Sequence[Found],
        replaces: np.ndarray,
    ) -> np.ndarray:
        """[candidates]: how far the leading reference is ahead, relative, once each candidate runs.

        replaces [candidates, layers]: 1 where a candidate is a mapping of the layer.
        """
        costs = _numbers(current)  # [2, layers]: energy, latency
        changes = replaces[None] * (_numbers(candidates)[:, :, None] - costs[:, None])  # [2, candidates, layers]
        worst = np.full(len(candidates), -np.inf)
        for row in references:
            has = np.array([one is not None for one in row])
            theirs = _numbers([one for one in row if one]).sum(1)[:, None]
            ours = costs[:, has].sum(1)[:, None] + changes[:, :, has].sum(2)
            rest = costs[:, ~has].sum(1)[:, None] + changes[:, :, ~has].sum(2)
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


def _filled(row: Sequence[Found | None], current: Sequence[Found]) -> list[Found]:
    """A reference's mappings, with ours at the layers where it has none."""
    return [theirs or ours for theirs, ours in zip(row, current, strict=True)]


def _comparisons(
    current: Sequence[Found], row: Sequence[Found | None]
) -> Iterator[tuple[Sequence[Found], Sequence[Found]]]:
    """(ours, theirs) over all layers, and over those that the reference has."""
    yield current, _filled(row, current)
    if not all(row):
        yield [ours for ours, theirs in zip(current, row, strict=True) if theirs], [one for one in row if one]


def _search_again(
    contribution: Contribution,
    search: Search,
    known: Sequence[Mapping],
    device: Device,
    mappings: int,
    seed: int,
    seconds: float = math.inf,
) -> Found | None:
    evolution = Evolution([search], device, contribution, seed)
    evolution.end_after(seconds)
    for mapping in known:
        if (row := known_row(evolution.space, mapping, device)) is not None:
            evolution.remember(0, row)
    evolution.advance(int(EXPLORE * mappings), EXPLORE).advance(mappings, 1.0)
    mapping = evolution.best(0)
    try:
        return Found(search, mapping, evaluate(search.problem.layer, mapping, device, search.problem.bits))
    except InvalidMapping:
        return None
