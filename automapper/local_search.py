"""The local search of a layer shape: descents from many mappings (`descent`), then steps from the best (`local`).

Legend: f o b as in breed; a score is the logarithm of what is minimised.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from automapper.descent import Descents
from automapper.layouts import Layouts
from automapper.legal import Space
from automapper.local import Row, Scored, double_steps, single_steps
from automapper.lower_bound import room_for
from automapper.objective import Scoring
from automapper.resplit import Bar
from automapper.space import Search
from automapper.unrolling import MOST as MOST_UNROLLED
from automapper.unrolling import unrolled
from hw_model import Device
from hw_model.tables import device_table, problem_table

LOCAL = 8.0  # neighbours that local search may cost, per mapping bred: costing takes a tenth of breeding
DESCENDING, LAST = 0.75, 0.9  # share of them that is used up after descents: when the bests are merged, at the end
DESCENTS, MOST = 0.02, 512  # layouts that descents begin from each time, per mapping bred; at most
IN_DATAFLOW = 0.2  # of these and of the neighbours that descents may cost, where a dataflow leaves few layouts
UNROLLED, AROUND = 128, 24  # unrollings that descents continue from; the best mappings that they are tried around
ROUNDS = 2  # of unrollings and descents, at the end
CLIMBED, AT_END = 4, 8  # results of descents that steps begin from: when the bests are merged, at the end
INVALID = 1e6  # score of an invalid mapping: worse than any valid one, plus its distance from validity
SAME, DIGITS = 1e-9, 9  # scores (logarithms) closer than SAME are equal; so are those equal in DIGITS decimals


class LocalSearch(ABC):
    """What searches know for their local search, and that search itself; a subclass scores, records and has a pool."""

    space: Space
    random: bool
    rows: list[Row]  # the bests
    score: np.ndarray  # [T] of them
    bred: np.ndarray  # [T] mappings, of which the neighbours that may be costed are a multiple
    stopped: bool
    sees_all = False  # whether a subclass wants to see mappings that a lower bound rules out

    def __init__(self, searches: Sequence[Search], device: Device, objective: Scoring):
        self.searches = list(searches)
        self.device, self.objective = device, objective
        self.layouts = [Layouts() for _ in self.searches]  # where descents begin
        self.tops: list[dict[float, Scored]] = [{} for _ in self.searches]  # score -> where a climb led
        self.costed = np.zeros(len(self.searches), int)  # neighbours
        self.local_s = self.deadline = math.inf  # seconds that it may take, and when the present one ends
        self.ends = math.inf  # when the whole search does

    def end_after(self, seconds: float) -> None:
        """End the search, wherever it is, when these have passed from now."""
        self.ends = time.perf_counter() + seconds

    @abstractmethod
    def _score(self, f: np.ndarray, o: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
        """[n]: scores of mappings f [n, slots, 8], o [n, L, 8], b [n, L] of the searches `which` [n]."""

    @abstractmethod
    def _note(self, t: int, score: float, row: Row) -> None:
        """Record a better mapping of search t."""

    @abstractmethod
    def _best_in_pool(self, t: int) -> list[Scored]:
        """The best mappings of the best layouts in the pool of search t."""

    def climb(self) -> None:
        """Local search from every search's best, from the best of each layout that is new, and in the pool."""
        for t in self._in_time(np.arange(len(self.searches))):
            if time.perf_counter() >= self.deadline:
                continue
            found = self._descended(t, [(self.score[t], self.rows[t])], LAST, ROUNDS)
            self._climbed_best(t, [*found, *self._best_in_pool(t)], AT_END)

    def _descended(self, t: int, starts: Sequence[Scored], share: float, rounds: int = 1) -> list[Scored]:
        """Where descents lead from some mappings of search t, and from the best layouts that none began from yet; and
        then from other unrollings of the best, in some rounds. share: of the neighbours that local search may cost,
        used up then."""
        if self.random or self.stopped or time.perf_counter() >= self.deadline:
            return list(starts)

        part = IN_DATAFLOW if self.searches[t].dataflow else 1.0
        allowance = part * share * LOCAL * self.bred[t]

        def score(rows: Row) -> np.ndarray:
            return self._score(*rows, np.full(len(rows[0]), t))

        def may_cost(count: int) -> bool:
            in_time = not self.stopped and time.perf_counter() < self.deadline
            enough = in_time and self.costed[t] + count <= allowance
            self.costed[t] += count if enough else 0
            return enough

        layouts = min(MOST, math.ceil(part * DESCENTS * self.bred[t]))
        starts = [*starts, *self.layouts[t].starts(layouts)]
        problem = self.searches[t].problem
        tables = device_table(self.device), problem_table([(problem.layer, problem.bits)], self.device)
        bar = Bar(*tables, np.array(self.objective.weights), np.empty(0), room_for(len(self.device.levels)))

        def descended(starts: Sequence[Scored]) -> list[Scored]:
            return Descents(self.space, t, score, may_cost, SAME, bar, self.sees_all).run(starts)

        ends = descended(starts)
        begun: set[float] = set()
        for _ in range(rounds):
            if self.costed[t] + MOST_UNROLLED > allowance:
                break
            more = self._unrolled(t, ends, min(UNROLLED, layouts), begun, score, may_cost)
            begun |= {round(value, DIGITS) for value, _ in more}
            ends = [*ends, *descended(more)]
        return ends

    def _unrolled(
        self,
        t: int,
        ends: Sequence[Scored],
        count: int,
        begun: set[float],
        score: Callable[[Row], np.ndarray],
        may_cost: Callable[[int], bool],
    ) -> list[Scored]:
        """The `count` best mappings with the loops of the best of `ends`, and of the best with each bypass, around
        other unrollings on the array, but for those with a score in `begun`."""
        ranked = [row for value, row in _different(ends) if value < INVALID]
        if not ranked:
            return []
        of_bypass = {row[2].tobytes(): i for i, row in reversed([*enumerate(ranked)])}
        chosen = sorted({*range(min(AROUND, len(ranked))), *of_bypass.values()})
        f, o, b = unrolled(self.space, t, [ranked[i] for i in chosen], self.device)
        if not may_cost(len(f)):
            return []
        scores = score((f, o, b))
        values, first = np.unique(scores.round(DIGITS), return_index=True)
        new = first[(scores[first] < INVALID) & ~np.isin(values, list(begun))][:count]
        return [(float(scores[i]), (f[i], o[i], b[i])) for i in new]

    def _climbed_best(self, t: int, found: Sequence[Scored], count: int = CLIMBED) -> list[Scored]:
        """Different mappings, best first; the first `count` after a climb. The best is recorded."""
        ranked = _different(found)
        ranked[:count] = [self._climbed(t, *pair) for pair in ranked[:count]]
        ranked.sort(key=lambda pair: pair[0])
        if ranked[0][0] < self.score[t] - SAME:
            self._note(t, *ranked[0])
        return ranked

    def _in_time(self, which: np.ndarray) -> Iterator[int]:
        """The searches one after another; in the local search of each, `deadline` is when its part of the time ends."""
        begin = time.perf_counter()
        seconds = min(self.local_s, self.ends - begin)
        for position, t in enumerate(which, 1):
            self.deadline = begin + seconds * position / len(which)
            yield t

    def _climbed(self, t: int, score: float, row: Row) -> tuple[float, Row]:
        """(score, row) where no neighbour is better, or where there is no more time or search t has costed its share of
        neighbours. Of mappings with the same cost only the first is climbed from."""
        if self.random or self.stopped:
            return score, row
        begin = round(score, DIGITS)
        if begin in self.tops[t]:
            return self.tops[t][begin]
        score, row, is_top = self._climb_from(t, score, row)
        if is_top:
            self.tops[t][begin] = self.tops[t][round(score, DIGITS)] = score, row
        return score, row

    def _climb_from(self, t: int, score: float, row: Row) -> tuple[float, Row, bool]:
        """`_climbed`, and whether no neighbour is better. Neighbours one step away come first; where none of them is
        better, those two steps away."""
        steps = single_steps
        while time.perf_counter() < self.deadline:
            around = steps(self.space, t, row)
            if self.costed[t] + len(around[0]) > LOCAL * self.bred[t]:
                break
            self.costed[t] += len(around[0])
            scores = self._score(*around, np.full(len(around[0]), t))
            k = int(np.argmin(scores)) if len(scores) else -1
            if k >= 0 and scores[k] < score - SAME:
                f, o, b = around
                score, row = float(scores[k]), (f[k].copy(), o[k].copy(), b[k].copy())
                steps = single_steps
            elif steps is single_steps:
                steps = double_steps
            else:
                return score, row, True
        return score, row, False


def _different(found: Sequence[Scored]) -> list[Scored]:
    """Mappings with different scores, best first."""
    different = {round(score, DIGITS): (score, row) for score, row in found}
    return [different[score] for score in sorted(different)]
