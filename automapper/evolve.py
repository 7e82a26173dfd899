"""The evolutionary engine: pools of mappings that breed, all searches of one layer shape side by side.

Each search (a bit-width, and a dataflow or the whole space) has a pool. A generation drops the worst, breeds new ones
from the rest by crossover and mutation, and ranks. A pool that no longer improves starts again, with known dataflows
and random mappings; its best is kept. The last part of the budget brings the bests of all starts, of the other
bit-widths and of the dataflows together in one pool.

Legend: T searches, M rows of a pool, f o b as in breed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from automapper import breed
from automapper.local import neighbours
from automapper.objective import Objective
from automapper.space import Search, build_space, inside, on_single_axes
from hw_model import Device, Mapping, decode, evaluate_batch

PARENTS, CHILDREN = 48, 80  # of a pool of 128, the worst 80 are dropped each generation
PATIENCE = 40  # generations without improvement before a pool starts again
KEPT = 24  # bests of earlier starts a search remembers
EXPLORE = 0.8  # share of the budget before the bests are brought together
TOGETHER = 8 * (PARENTS + CHILDREN)  # mappings bred before that is worth the pool it takes to cost
LOCAL = 0.5  # of the mappings bred that local search may cost on top, at most
FLOOR, AT_ONCE = 512, 8  # mappings a search without a valid one may breed however small the budget, so many at once
SAME = 1e-9  # scores (logarithms) closer than this are the same cost
INVALID = 1e6  # score of any invalid mapping: worse than every valid one, plus how far it is from validity

Row = tuple[np.ndarray, np.ndarray, np.ndarray]


class Evolution:
    """The searches of one layer shape. `advance` goes on; `best` and `score` can be read at any time.

    random: every generation is a new random one (the floor that a search must beat).
    """

    def __init__(
        self, searches: Sequence[Search], device: Device, objective: Objective, seed: int, random: bool = False
    ):
        self.searches = list(searches)
        self.device = device
        self.objective = objective
        self.random = random
        self.space = build_space(self.searches, device)
        T, M, slots, levels = len(self.searches), PARENTS + CHILDREN, len(device.slots), len(device.levels)
        self.pool = (
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
        self.rows: list[Row | None] = [None] * T
        self.score = np.full(T, np.inf)
        self.generation = 0
        self.next_row: int | None = None  # of a generation that is bred and not all costed yet
        self.mappings = 0  # bred per search
        self.evaluated = 0  # by all searches together
        self.together = False
        self.running = self.stopped = False  # set from another thread, stopped ends `advance` after a generation

    def advance(self, mappings: int, share: float) -> Evolution:
        """Search on until `mappings` per search are bred and costed, no more; share: of the whole budget that is then
        used up. Only a search without a valid mapping goes on, up to FLOOR."""
        self.running = True
        self._own_arrays()
        try:
            while not (self.stopped and self.mappings):
                missing = self.mappings < FLOOR and (self.score >= INVALID).any()
                more = max(1, mappings) - self.mappings
                if more <= 0 and not missing:
                    break
                self.step(more if more > 0 else AT_ONCE)
            if share >= EXPLORE and not (self.together or self.random or self.stopped) and self.mappings >= TOGETHER:
                self.bring_together()
            if share >= 1.0:
                self.exchange()
                self.climb()
        finally:
            self.running = False
        return self

    def best(self, index: int) -> Mapping:
        """The best mapping that search `index` has found so far."""
        f, o, b = self.rows[index]
        f = f if self.searches[index].dataflow else on_single_axes(f, self.device)
        return decode(f, o, self.device, b)

    def remember(self, index: int, row: Row) -> None:
        """Let search `index` meet a known mapping when the bests are brought together."""
        self.kept[index].append((-np.inf, row))

    def step(self, most: int = PARENTS + CHILDREN) -> None:
        """One generation of every search, or the next `most` mappings of it; how it is cut changes no result."""
        T, M = self.pool_score.shape
        if self.next_row is None:
            self.next_row = 0 if self.fresh.any() else PARENTS
            breed.breed(self.seeds, self.generation, 0, T, *self.pool, PARENTS, self.fresh, *self.space)
            self.generation += 1
            self.pool_score[:, self.next_row :] = np.inf
        begin, end = self.next_row, min(M, self.next_row + most)
        count = end - begin
        bred = [np.ascontiguousarray(array[:, begin:end]) for array in self.pool]
        which = np.repeat(np.arange(T, dtype=np.int32), count)
        rows = [array.reshape(T * count, *array.shape[2:]) for array in bred]
        self.pool_score[:, begin:end] = self._score(*rows, which).reshape(T, count)
        self.mappings += count
        if end < M:
            self.next_row = end
            self._remember_best()
            return
        self.next_row = None
        self.fresh[:] = 1 if self.random else 0
        self._rank()
        self._remember()

    def bring_together(self) -> None:
        """Pools made of every search's bests: of its earlier starts, and where constraints allow of other searches."""
        self.together = True
        every = [(row, index) for index in range(len(self.searches)) for row in [self.rows[index]]]
        for t in range(len(self.searches)):
            own = [row for _, row in sorted(self.kept[t], key=lambda pair: pair[0])]
            guests = [row for row, index in every if index != t and inside(self.space, t, row)]
            for position, row in enumerate([self.rows[t], *guests, *own][:PARENTS]):
                for array, part in zip(self.pool, row, strict=True):
                    array[t, position] = part
        T, M = self.pool_score.shape
        which = np.repeat(np.arange(T, dtype=np.int32), M)
        self.pool_score[:] = self._score(*(a.reshape(T * M, *a.shape[2:]) for a in self.pool), which).reshape(T, M)
        self.next_row = None
        self._rank()
        self.fresh[:] = 0
        self._remember()

    def exchange(self) -> None:
        """Let every search take over what another one found, where that is inside its constraints and better.

        A mapping that fits at a bit-width fits at every lower one and costs less there; and each dataflow is a part of
        the whole space. So no search ends behind one that it includes.
        """
        T = len(self.searches)
        pairs = [(t, s) for t in range(T) for s in range(T) if s != t and inside(self.space, t, self.rows[s])]
        if not pairs:
            return
        rows = [np.stack([self.rows[s][part] for _, s in pairs]) for part in range(3)]
        scores = self._score(*rows, np.array([t for t, _ in pairs], np.int32))
        own = list(self.rows)
        for (t, s), score in zip(pairs, scores, strict=True):
            if score < self.score[t]:
                self.score[t], self.rows[t] = score, own[s]

    def _own_arrays(self) -> None:
        """Copy what arrived from another process as read-only memory."""
        self.pool = tuple(map(_writable, self.pool))
        self.space = type(self.space)(*map(_writable, self.space))
        for name in ("pool_score", "seeds", "fresh", "stale", "start_score", "score"):
            setattr(self, name, _writable(getattr(self, name)))

    def climb(self) -> None:
        """Local search from the best of every search of the whole space, as long as it helps and is a small part of the
        mappings bred; then `exchange` again."""
        if self.random or self.stopped:
            return
        climbing = [t for t, search in enumerate(self.searches) if not search.dataflow]
        costed = np.zeros(len(self.searches))
        while climbing:
            around = [neighbours(self.space, t, self.rows[t]) for t in climbing]
            costed[climbing] += [len(rows[0]) for rows in around]
            within = [costed[t] <= LOCAL * self.mappings for t in climbing]
            around = [rows for rows, ok in zip(around, within, strict=True) if ok]
            climbing = [t for t, ok in zip(climbing, within, strict=True) if ok]
            if not climbing:
                break
            which = np.repeat(np.array(climbing, np.int32), [len(rows[0]) for rows in around])
            scores = self._score(*(np.concatenate(parts) for parts in zip(*around, strict=True)), which)
            higher = []
            for t, rows in zip(climbing, around, strict=True):
                own = scores[which == t]
                if len(own) and own.min() < self.score[t] - SAME:
                    k = int(np.argmin(own))
                    self.score[t], self.rows[t] = own[k], tuple(part[k].copy() for part in rows)
                    higher.append(t)
            climbing = higher
        self.exchange()

    def _score(self, f: np.ndarray, o: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
        layers = [search.problem.layer for search in self.searches]
        bits = [search.problem.bits for search in self.searches]
        self.evaluated += len(which)
        cost = evaluate_batch(layers, f, o, self.device, bits, bypass=b, problem=which, threads=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(cost.valid, self.objective.score(cost.energy_pj, cost.cycles), INVALID + cost.violation)

    def _rank(self) -> None:
        """Sort the pools, best first. Of mappings of the same cost one stands among the rest, the newest, further back
        before, so that pools drift; the others come last."""
        M = self.pool_score.shape[1]
        order = M - 1 - np.argsort(self.pool_score[:, ::-1], axis=1, kind="stable")
        score = np.take_along_axis(self.pool_score, order, axis=1)
        with np.errstate(invalid="ignore"):  # infinite scores, none the same
            again = np.diff(score, axis=1, prepend=-np.inf) <= SAME
        last = np.argsort(again, axis=1, kind="stable")
        order = np.take_along_axis(order, last, axis=1)
        self.pool_score = np.take_along_axis(score, last, axis=1)
        self.pool = tuple(array[np.arange(len(order))[:, None], order] for array in self.pool)

    def _remember_best(self) -> tuple[np.ndarray, np.ndarray]:
        """Note bests; returns each pool's first row and its score."""
        first = np.argmin(self.pool_score, axis=1)
        score = self.pool_score[np.arange(len(first)), first]
        for t in np.flatnonzero(score < self.score):
            self.score[t] = score[t]
            self.rows[t] = tuple(array[t, first[t]].copy() for array in self.pool)
        return first, score

    def _remember(self) -> None:
        """Note bests, and which pools start again."""
        first, score = self._remember_best()
        if self.random or self.together:
            return
        self.stale = np.where(score < self.start_score - SAME, 0, self.stale + 1)
        self.start_score = np.minimum(score, self.start_score)
        for t in np.flatnonzero(self.stale > PATIENCE):
            row = tuple(array[t, first[t]].copy() for array in self.pool)
            self.kept[t] = sorted([*self.kept[t], (score[t], row)], key=lambda pair: pair[0])[:KEPT]
            self.stale[t], self.start_score[t], self.fresh[t] = 0, np.inf, 2


def _writable(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()


def _seed(search: Search, seed: int) -> int:
    """A seed of its own for every search, whatever else is searched beside it."""
    layer = search.problem.layer
    text = f"{seed}/{layer.sizes}/{layer.stride}/{search.problem.bits}/{search.dataflow}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
