"""What a search has seen of each layout: what lies on the array and on the lanes, and which tensors bypass a level."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from automapper.local import Row, Scored

MOST = 512  # layouts remembered, at most twice as many
MIX = np.random.default_rng(1).integers(1 << 40, size=16)  # of a bypass per level, to a number


@dataclass
class Layouts:
    """The best mapping of each layout of one search, until it was a start; from then on only its score."""

    seen: dict[int, tuple[float, Row | None]] = field(default_factory=dict)

    def is_better(self, number: int, score: float, same: float) -> bool:
        """Whether a score is lower, by more than `same`, than the lowest of its layout so far."""
        return number not in self.seen or score < self.seen[number][0] - same

    def note(self, number: int, score: float, row: Row) -> None:
        """Remember the best mapping of a layout so far."""
        self.seen[number] = score, row
        if len(self.seen) > 2 * MOST:
            self.seen = dict(sorted(self.seen.items(), key=lambda pair: pair[1][0])[:MOST])

    def starts(self, count: int) -> list[Scored]:
        """The mappings among the `count` best layouts that were not a start yet, best first; they were from now on."""
        best = sorted(self.seen.items(), key=lambda pair: pair[1][0])[:count]
        found = [(score, row) for _, (score, row) in best if row is not None]
        self.seen |= {number: (score, None) for number, (score, _) in best}
        return found


def numbers_of(layout: np.ndarray, bypass: np.ndarray) -> list[int]:
    """[n] numbers of layouts with their bypasses [n, L]."""
    return (layout + bypass @ MIX[: bypass.shape[-1]]).tolist()
