"""Descents: from many mappings at once down to where no other choice in any one block of variables is better.

A block is a dimension's split over all slots, the orders of all loops, or the bypasses (`resplit`). Where single steps
need several in a row, of which the first makes things worse, one change of a whole block does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from automapper.legal import Space
from automapper.local import Row, Scored
from automapper.resplit import BYPASSES, ORDERS, Bar, Rows, neighbours_in

AT_ONCE = 32  # descents side by side: one call of the cost function for all of them
ROOM = 1 << 15  # neighbours costed at once, at most
FAR = 0.15  # a descent so far above the lowest score after a round of all blocks is given up


class Descents:
    """Descents of one search, t. When two reach the same score, only the first continues."""

    def __init__(
        self,
        space: Space,
        t: int,
        score: Callable[[Row], np.ndarray],
        may_cost: Callable[[int], bool],
        same: float,
        bar: Bar,
        all_costed: bool = False,
    ):
        """score: the scores of many mappings f [n, slots, 8], o [n, L, 8], b [n, L]. may_cost: whether so many more may
        be costed; after a no, all descents end where they are. same: scores that are closer are equal. bar: of search
        t, `best` aside. all_costed: those too that a lower bound rules out."""
        self.space, self.t, self.score, self.may_cost, self.same = space, t, score, may_cost, same
        self.bar, self.all_costed = bar, all_costed
        self.blocks = np.array([*np.flatnonzero(space.sizes[t] > 1), ORDERS, *[BYPASSES] * bool(space.free[t].any())])
        self.lowest = math.inf
        self.first: dict[int, int] = {}  # score, in units of `same` -> the descent that was there first
        self.joined: list[int] = []  # of each descent, the one that was before it where it came to, or itself

    def run(self, starts: Sequence[Scored]) -> list[Scored]:
        """Where each start leads, as (score, mapping)."""
        ends: list[Scored] = []
        for begin in range(0, len(starts), AT_ONCE):
            ends += self._side_by_side(starts[begin : begin + AT_ONCE])
        for i, other in enumerate(self.joined):
            while self.joined[other] != other:
                other = self.joined[other]
            ends[i] = ends[other]
        return ends

    def _side_by_side(self, starts: Sequence[Scored]) -> list[Scored]:
        """Some descents, one block of each at a time."""
        number, all_blocks = len(self.joined), len(self.blocks)
        rows = Rows(*(np.stack(parts) for parts in zip(*(row for _, row in starts), strict=True)))
        best = np.array([score for score, _ in starts])
        idle = np.zeros(len(starts), np.int64)  # blocks in a row without a better choice; all of them: at the end
        for i, score in enumerate(best):
            self.joined.append(number + i)
            idle[i] = 0 if self._is_first(score, number + i) else all_blocks
        bar = self.bar._replace(best=np.full(len(best), math.inf) if self.all_costed else best)
        found = Rows(*(np.empty((ROOM, *part.shape[1:]), part.dtype) for part in rows))
        owner = np.empty(ROOM, np.int64)
        turn = 0
        while len(which := np.flatnonzero(idle < all_blocks)):
            block = self.blocks[turn % all_blocks]
            count = neighbours_in(block, rows, which, self.t, self.space, bar, found, owner)
            if not self.may_cost(count):
                break
            scores = self.score((found.f[:count], found.o[:count], found.b[:count]))
            idle[which] += 1
            for i, k in _least(scores, owner[:count]):
                if scores[k] < best[i] - self.same:
                    best[i] = scores[k]
                    for array, part in zip(rows, found, strict=True):
                        array[i] = part[k]
                    idle[i] = 1 if self._is_first(best[i], number + i) else all_blocks
            turn += 1
            if turn % all_blocks == 0:
                idle[best > self.lowest + FAR] = all_blocks
        return [(float(best[i]), (rows.f[i], rows.o[i], rows.b[i])) for i in range(len(starts))]

    def _is_first(self, score: float, number: int) -> bool:
        """Whether no other descent was at this score before descent `number` came to it."""
        self.lowest = min(self.lowest, score)
        key = round(score / self.same) if math.isfinite(score) else -1
        self.joined[number] = self.first.setdefault(key, number)
        return self.joined[number] == number


def _least(scores: np.ndarray, owner: np.ndarray) -> list[tuple[int, int]]:
    """(owner, index of its least score) of each owner; those of one lie together."""
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = [*begins[1:], len(owner)]
    return [
        (int(owner[begin]), int(begin + np.argmin(scores[begin:end])))
        for begin, end in zip(begins, ends, strict=False)  # of no owner, one end
    ]
