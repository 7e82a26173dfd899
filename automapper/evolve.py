"""The evolutionary engine: pools of mappings that breed, all searches of one layer shape side by side.

Each search (a bit-width, and a dataflow or the whole space) has a pool. A generation drops the worst, breeds new ones
from the rest by crossover and mutation, and ranks. A pool that no longer improves restarts from random mappings; its
best is kept, and the best of each layout of the array. The last part of the budget merges what a local search makes of
these into one pool, and ends with another local search.

No search sees another one, with one exception: a search of the whole space takes over what the built-in dataflows
found for the same layer at the same bit-width. So a result does not depend on other searches, as long as these are
always run.

Legend: T searches, M rows of a pool, f o b as in breed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np

from automapper import breed
from automapper.layouts import numbers_of
from automapper.legal import Space
from automapper.local import Row, Scored
from automapper.local_search import DESCENDING, INVALID, SAME, LocalSearch
from automapper.objective import Scoring
from automapper.space import Search, build_space, inside, on_single_axes
from hw_model import BatchCost, Device, Mapping, decode, encode, evaluate_batch
from hw_model.widths import widths_of

PARENTS, CHILDREN = 48, 80  # of a pool of 128, the worst 80 are dropped each generation
PATIENCE = 8  # generations without improvement before a pool restarts: many short starts beat few long ones
KEPT = 64  # bests of earlier starts a search remembers
EXPLORE = 0.8  # share of the budget before the bests are brought together
TOGETHER = 8 * (PARENTS + CHILDREN)  # mappings bred before merging is worth the cost of its pool
NICHE = 8  # maximum number of parents with the same dimensions on array and lanes
POLISHED = 24  # bests of restarts that descents begin from; layouts in the pool that steps begin from at the end
FLOOR, AT_ONCE = 512, 8  # a search without a valid mapping breeds up to FLOOR, whatever the budget; how many at once
SETTLED = 0.5  # share of the mappings after which a search that has converged gains little
CONVERGED = math.log1p(0.05)  # largest gaps of a search that has converged: 5 %
MIX = np.random.default_rng(0).integers(1 << 40, size=(2, 8))  # of layouts, to a number each
EARLIER = np.tri(PARENTS + CHILDREN, k=-1, dtype=bool)


class Evolution(LocalSearch):
    """The searches of one layer shape. `advance` continues; `best` and `score` can be read at any time.

    random: every generation is a new random one (the floor that a search must beat).
    """

    def __init__(self, searches: Sequence[Search], device: Device, objective: Scoring, seed: int, random: bool = False):
        super().__init__(searches, device, objective)
        self.random = random
        self.space = build_space(self.searches, device)
        self.layers = [search.problem.layer for search in self.searches]
        self.widths = [widths_of(search.problem.bits) for search in self.searches]
        T, M, slots, levels = len(self.searches), PARENTS + CHILDREN, len(device.slots), len(device.levels)
        self.pool: Row = (
            np.ones((T, M, slots, 8), np.int32),
            np.zeros((T, M, levels, 8), np.int8),
            np.zeros((T, M, levels), np.uint8),
        )
        self.pool_score = np.full((T, M), np.inf)
        self.seeds = np.array([_seed(search, seed) for search in self.searches], np.uint64)
        self.fresh = np.full(T, 1 if random else 2)
        self.stale = np.zeros(T, int)
        self.start_score = np.full(T, np.inf)
        self.kept: list[list[tuple[float, Row]]] = [[] for _ in self.searches]
        self.rows = [self._row(t, 0) for t in range(T)]  # the bests, at first of no loops at all
        self.score = np.full(T, np.inf)
        self.decoded: dict[int, tuple[Row, Mapping]] = {}  # the bests that `best` was asked for
        self.improved: list[list[tuple[int, float]]] = [[] for _ in self.searches]  # (mappings bred, best score)
        self.starts: list[list[float]] = [[] for _ in self.searches]  # scores of the starts that ended
        self.generation = np.zeros(T, int)
        self.next_row = np.full(T, M)  # rows of a generation that are bred and not yet costed; M: none
        self.bred = np.zeros(T, int)
        self.climbed = np.zeros(T, int)  # how many were bred when the last local search ended
        self.evaluated = 0  # by all searches together
        self.together = np.zeros(T, bool)
        self.running = self.stopped = False  # set from another thread, stopped ends `advance` after a generation

    @property
    def mappings(self) -> int:
        """Mappings bred by every search; searches without a valid one have bred more."""
        return int(self.bred.min())

    def advance(self, mappings: int, share: float) -> Evolution:
        """Search until every search has bred and costed exactly `mappings`. Only a search without a valid mapping
        continues, up to FLOOR. Where `ends` comes first, no search breeds less than a generation. share: of the whole
        budget that is then used."""
        self.running = True
        self._own_arrays()
        try:
            while not (self.mappings and (self.stopped or time.perf_counter() >= self.ends)):
                budget = max(1, mappings)
                missing = (self.score >= INVALID) & (self.bred >= budget) & (self.bred < FLOOR)
                most = np.where(missing, self.bred + AT_ONCE, budget)
                which = np.flatnonzero(self.bred < most)
                if len(which) == 0:
                    break
                self.step(which, most[which])
            if share >= EXPLORE and not (self.random or self.stopped):
                self.bring_together(np.flatnonzero(~self.together & (self.bred >= TOGETHER)))
            if share >= 1.0 and (self.climbed != self.bred).any():
                self.take_over()
                self.climb()
                self.take_over()
                if not self.stopped and time.perf_counter() < self.ends:
                    self.climbed[:] = self.bred
        finally:
            self.running = False
        return self

    def best(self, index: int) -> Mapping:
        """The best mapping that search `index` has found so far."""
        row = self.rows[index]
        known, mapping = self.decoded.get(index, (None, None))
        if mapping is None or known is not row:
            mapping = self._decoded(index, row)
            self.decoded[index] = row, mapping
        return mapping

    def _decoded(self, index: int, row: Row) -> Mapping:
        assert inside(self.space, index, row), f"a mapping outside the constraints of {self.searches[index]}"
        f, o, b = row
        f = f if self.searches[index].definition.constrained else on_single_axes(f, self.device)
        return decode(f, o, self.device, b)

    def gaps(self, index: int) -> tuple[float, float]:
        """How far search `index` is from having converged, in logarithms of the objective: what the last half of its
        mappings gained; and how far the second best of its independent starts is from the result. Searches that it
        takes over from count as starts once they have converged. Infinite where a gap is unknown."""
        score, half = self.score[index], SETTLED * self.bred[index]
        if score >= INVALID:
            return math.inf, math.inf
        early = min((value for bred, value in self.improved[index] if bred <= half), default=math.inf)
        starts = sorted([*self.starts[index], *(self.score[s] for s in self._known_to(index) if self.converged(s))])
        second = starts[1] if len(starts) > 1 else math.inf
        return max(0.0, float(early - score)), max(0.0, float(second - score))

    def converged(self, index: int) -> bool:
        """Whether both gaps of search `index` are at most CONVERGED."""
        return max(self.gaps(index)) <= CONVERGED

    def remember(self, index: int, row: Row) -> None:
        """Add a known mapping to search `index`; it joins the pool when the bests are merged."""
        self.kept[index].append((-np.inf, row))

    def know(self, index: int, rows: Sequence[Row]) -> bool:
        """Begin search `index` with known mappings: the best is its result so far, and all join the pool when the bests
        are merged. Returns whether one is valid."""
        for row in rows:
            f, o, b = (part[None] for part in row)
            score = float(self._score(f, o, b, np.array([index]))[0])
            if score < min(self.score[index], INVALID):
                self._note(index, score, row)
            self.remember(index, row)
        return bool(self.score[index] < INVALID)

    def step(self, which: np.ndarray | None = None, most: np.ndarray | None = None) -> None:
        """One generation of some searches (default: all), or as much of it as a total of `most` mappings allows. Where
        it is cut does not change the result."""
        T, M = self.pool_score.shape
        which = np.arange(T) if which is None else which
        new = which[self.next_row[which] == M]
        if len(new):
            breed.breed(new, self.seeds, self.generation, self.fresh, *self.pool, PARENTS, self.space)
            self.generation[new] += 1
            self.next_row[new] = np.where(self.fresh[new] > 0, 0, PARENTS)
            for t in new:
                self.pool_score[t, self.next_row[t] :] = np.inf
        begin = self.next_row[which]
        end = M if most is None else np.minimum(M, begin + most - self.bred[which])
        count = end - begin
        search = np.repeat(which, count)
        row = np.concatenate([np.arange(first, first + n) for first, n in zip(begin, count, strict=True)])
        f, o, b = self.pool
        self.pool_score[search, row] = self._score(f[search, row], o[search, row], b[search, row], search)
        self.bred[which] += count
        self.next_row[which] = begin + count
        self._remember_best(which)
        complete = which[self.next_row[which] == M]
        self.fresh[complete] = 1 if self.random else 0
        self._rank(complete)
        self._remember(complete)

    def bring_together(self, which: np.ndarray) -> None:
        """Pools made of the bests of a search's starts; for the whole space also of the built-in dataflows'
        searches."""
        self.together[which] = True
        for t in self._in_time(which):
            self._polish(t)
        known = list(self.rows)
        for t in which:
            own = [row for _, row in sorted(self.kept[t], key=lambda pair: pair[0])]
            guests = [known[s] for s in self._known_to(t)]
            for position, row in enumerate([known[t], *guests, *own][:PARENTS]):
                for array, part in zip(self.pool, row, strict=True):
                    array[t, position] = part
        if len(which) == 0:
            return
        n, M = len(which), self.pool_score.shape[1]
        f, o, b = (array[which].reshape(n * M, *array.shape[2:]) for array in self.pool)
        self.pool_score[which] = self._score(f, o, b, np.repeat(which, M)).reshape(n, M)
        self.next_row[which] = M
        self.fresh[which] = 0
        self._rank(which)
        self._remember_best(which)

    def _polish(self, t: int) -> None:
        """Local search from the bests of search t's starts and layouts; what it finds joins the pool."""
        known = [pair for pair in self.kept[t] if not math.isfinite(pair[0])]
        ended = sorted((pair for pair in self.kept[t] if math.isfinite(pair[0])), key=lambda pair: pair[0])[:POLISHED]
        found = self._descended(t, [*ended, (self.score[t], self.rows[t])], DESCENDING)
        self.starts[t] = sorted(score for score, _ in found[: len(ended)])
        self.kept[t] = [*known, *self._climbed_best(t, found)[:KEPT]]

    def _best_in_pool(self, t: int) -> list[Scored]:
        """The best mappings of the best layouts in the pool of search t."""
        _, best = np.unique(self._layout(np.array([t]))[0], return_index=True)
        ranked = sorted(best.tolist(), key=lambda i: self.pool_score[t, i])[:POLISHED]
        return [(float(self.pool_score[t, i]), self._row(t, i)) for i in ranked]

    def take_over(self) -> None:
        """Give every search of the whole space a built-in dataflow's mapping where that is better."""
        pairs = [(t, s) for t in range(len(self.searches)) for s in self._known_to(t)]
        if not pairs:
            return
        f, o, b = (np.stack(parts) for parts in zip(*(self.rows[s] for _, s in pairs), strict=True))
        scores = self._score(f, o, b, np.array([t for t, _ in pairs]))
        for (t, s), score in zip(pairs, scores, strict=True):
            if score < self.score[t]:
                self._note(t, score, self.rows[s])

    def _known_to(self, t: int) -> list[int]:
        """The searches that search t may take over mappings from."""
        search = self.searches[t]
        if search.dataflow:
            return []
        return [
            s
            for s, other in enumerate(self.searches)
            if other.problem == search.problem and isinstance(other.dataflow, str) and other.dataflow
        ]

    def _own_arrays(self) -> None:
        """Copy arrays that arrived from another process as read-only memory."""
        f, o, b = self.pool
        self.pool = _writable(f), _writable(o), _writable(b)
        self.space = type(self.space)(*map(_writable, self.space))
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, _writable(value))

    def _score(self, f: np.ndarray, o: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
        self.evaluated += len(which)
        problem = np.asarray(which, np.int32)
        cost = evaluate_batch(self.layers, f, o, self.device, self.widths, bypass=b, problem=problem, threads=1)
        self.see(cost, (f, o, b))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(cost.valid, self.objective.score(cost.energy_pj, cost.cycles), INVALID + cost.violation)

    def see(self, cost: BatchCost, rows: Row) -> None:
        """Called with every mapping that is costed, for subclasses."""

    def _rank(self, which: np.ndarray) -> None:
        """Stable sort by score. Duplicates of a cost after the first move to the end; the newest counts as the first,
        so the pool keeps moving. Mappings beyond NICHE with the same dimensions on the array come just before them, so
        the pool does not converge on the first good layout."""
        M = self.pool_score.shape[1]
        score = self.pool_score[which]
        order = M - 1 - np.argsort(score[:, ::-1], axis=1, kind="stable")
        score = np.take_along_axis(score, order, axis=1)
        with np.errstate(invalid="ignore"):  # infinite scores: no duplicates
            again = np.diff(score, axis=1, prepend=-np.inf) <= SAME
        layout = np.take_along_axis(self._layout(which), order, axis=1)
        alike = ((layout[:, :, None] == layout[:, None, :]) & ~again[:, None, :] & EARLIER).sum(2)
        last = np.argsort(2 * again + (alike >= NICHE), axis=1, kind="stable")
        order = np.take_along_axis(order, last, axis=1)
        self.pool_score[which] = np.take_along_axis(score, last, axis=1)
        for array in self.pool:
            array[which] = array[which[:, None], order]
        self._note_layouts(which, np.take_along_axis(layout, last, axis=1)[:, :PARENTS])

    def _note_layouts(self, which: np.ndarray, layout: np.ndarray) -> None:
        """Remember the best of each layout among the parents. layout [n, PARENTS]: see `_layout`."""
        if self.random:
            return
        for t, of_rows in zip(which, layout, strict=True):
            valid = np.flatnonzero(self.pool_score[t, :PARENTS] < INVALID)
            numbers = numbers_of(of_rows[valid], self.pool[2][t, valid])
            for i, number in zip(valid.tolist(), numbers, strict=True):
                score = float(self.pool_score[t, i])
                if self.layouts[t].is_better(number, score, SAME):
                    self.layouts[t].note(number, score, self._row(t, i))

    def _layout(self, which: np.ndarray) -> np.ndarray:
        """[n, M] int64: for every mapping a number for the dimensions on the PEs, on either axis, and on the lanes."""
        f = self.pool[0][which].astype(np.int64)
        spatial = [self.device.slots.index(slot) for slot in ("spatial_x", "spatial_y")]
        number = f[:, :, spatial].prod(2) @ MIX[0]
        if "lanes" in self.device.slots:
            number += f[:, :, self.device.slots.index("lanes")] @ MIX[1]
        return number

    def _row(self, t: int, i: int) -> Row:
        """A copy of row i of the pool of search t."""
        f, o, b = self.pool
        return f[t, i].copy(), o[t, i].copy(), b[t, i].copy()

    def _note(self, t: int, score: float, row: Row) -> None:
        """Record a better mapping of search t."""
        self.score[t], self.rows[t] = score, row
        self.improved[t].append((int(self.bred[t]), float(score)))

    def _remember_best(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record the bests; returns the best row of each pool and its score."""
        first = np.argmin(self.pool_score[which], axis=1)
        score = self.pool_score[which, first]
        for i in np.flatnonzero(score < self.score[which]):
            self._note(which[i], score[i], self._row(which[i], first[i]))
        return first, score

    def _remember(self, which: np.ndarray) -> None:
        """Mark the pools that restart."""
        which = which[~self.together[which]]
        if self.random or len(which) == 0:
            return
        first, score = self._remember_best(which)
        self.stale[which] = np.where(score < self.start_score[which] - SAME, 0, self.stale[which] + 1)
        self.start_score[which] = np.minimum(score, self.start_score[which])
        for i in np.flatnonzero(self.stale[which] > PATIENCE):
            t = which[i]
            self.kept[t] = sorted([*self.kept[t], (score[i], self._row(t, first[i]))], key=lambda pair: pair[0])[:KEPT]
            self.starts[t].append(float(score[i]))
            self.stale[t], self.start_score[t], self.fresh[t] = 0, np.inf, 2


def known_row(space: Space, mapping: Mapping, device: Device, index: int = 0) -> Row | None:
    """A known mapping as a row of search `index`, where it is inside the constraints of that."""
    factors, orders, bypass = encode(mapping, device)
    row = factors, orders[: len(device.levels)], bypass  # searches leave the loops of an axis in one order
    return row if inside(space, index, row) else None


def _writable(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()


def _seed(search: Search, seed: int) -> int:
    """A seed for one search, independent of all other searches."""
    constraints = replace(search.definition, name="", description="")
    text = repr((seed, astuple(search.problem.layer), search.problem.bits, astuple(constraints)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
