"""The search: many small hill climbs side by side, all layers and bit-widths in one batch.

A pool of mappings per problem (layer and bit-width). Each mapping is changed a little over and over and keeps a change
that does not make it worse; now and then the worse half of a pool starts again from the better half.

Legend: problems T, mappings per problem M, rows B = T * M, slots and levels as in hw_model.batch, 8 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from automapper.objective import Objective
from automapper.workload import Problem
from hw_model import Device, InvalidMapping, Mapping, decode, evaluate, evaluate_batch

POOL = 64
MOVES = 3  # changes at most in one step
RESTART = 20  # steps between two restarts of the worse half
INVALID = 1e6  # score of any invalid mapping: worse than every valid one, plus how far it is from validity


@dataclass(frozen=True)
class Found:
    """The best mapping of a problem, and its cost by hw_model."""

    problem: Problem
    mapping: Mapping
    cost: object


class NoMapping(Exception):
    """No valid mapping of a problem was found. reasons: what the closest miss exceeds, one line each."""

    def __init__(self, problem: Problem, device: Device, reasons: Sequence[str]):
        super().__init__(f"no valid mapping on device {device.name} found; closest miss: {'; '.join(reasons)}")
        self.problem = problem


def search(
    problems: Sequence[Problem],
    device: Device,
    objective: Objective,
    budget: int,
    seed: int,
    progress: Callable[[int], None] = lambda mappings: None,
) -> tuple[dict[Problem, Found], int]:
    """The best mapping found for every problem, and how many mappings were evaluated in all.

    Args:
        budget: mappings evaluated per problem.
        seed: the same seed gives the same mappings.
        progress: called with the number of mappings just evaluated.

    Raises:
        NoMapping: of a problem nothing valid was found.
    """
    rng = np.random.default_rng(seed)
    M = max(2, min(POOL, budget))
    rows = len(problems) * M
    which = np.repeat(np.arange(len(problems), dtype=np.int32), M)
    shapes = [problem.layer for problem in problems]
    sizes = np.array([layer.sizes for layer in shapes], np.int32)[which]
    changer = Changer(device, sizes, rng)

    def score(factors, orders, bypass):
        progress(rows)
        cost = evaluate_batch(shapes, factors, orders, device, [p.bits for p in problems], bypass=bypass, problem=which)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(cost.valid, objective.score(cost.energy_pj, cost.cycles), INVALID + cost.violation)

    steps = max(1, budget // M)
    pool = changer.all_at_dram()
    scores = score(*pool)
    for step in range(1, steps):
        children = changer.changed(pool)
        children_scores = score(*children)
        better = children_scores <= scores
        scores = np.where(better, children_scores, scores)
        for array, child in zip(pool, children, strict=True):
            array[better] = child[better]
        if step % RESTART == 0:
            rank = np.argsort(scores.reshape(-1, M), axis=1, kind="stable") + np.arange(0, rows, M)[:, None]
            source, target = rank[:, : M // 2].ravel(), rank[:, M - M // 2 :].ravel()
            scores[target] = scores[source]
            for array in pool:
                array[target] = array[source]

    found = {}
    for index, problem in enumerate(problems):
        row = index * M + int(np.argmin(scores[index * M : (index + 1) * M]))
        factors, orders, bypass = (array[row] for array in pool)
        mapping = decode(factors, orders, device, bypass)
        try:
            found[problem] = Found(problem, mapping, evaluate(problem.layer, mapping, device, problem.bits))
        except InvalidMapping as error:
            raise NoMapping(problem, device, error.reasons) from error
    return found, steps * rows


class Changer:
    """Small random changes of mappings, a batch at a time. sizes [B, 8]: the layer of each row."""

    def __init__(self, device: Device, sizes: np.ndarray, rng: np.random.Generator):
        self.sizes = sizes
        self.rng = rng
        self.slots = len(device.slots)
        self.levels = len(device.levels)
        self.prime = _smallest_prime_factors(int(sizes.max()))
        free = [
            [not level.in_pe and t in level.holds and t in level.may_bypass for t in "WIO"] for level in device.levels
        ]
        self.bypass_bits = [(i, np.uint8(1 << t)) for i, row in enumerate(free) for t, on in enumerate(row) if on]

    def all_at_dram(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every loop in the outermost level, tiles of one word: valid wherever anything is. Orders are random."""
        B = len(self.sizes)
        factors = np.ones((B, self.slots, 8), np.int32)
        factors[:, 0] = self.sizes
        orders = np.argsort(self.rng.random((B, self.levels, 8)), axis=2).astype(np.int8)
        return factors, orders, np.zeros((B, self.levels), np.uint8)

    def changed(self, pool: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A copy of the pool with 1 to MOVES changes in every row."""
        factors, orders, bypass = (array.copy() for array in pool)
        B = len(factors)
        moves = self.rng.integers(1, MOVES + 1, B)
        for turn in range(MOVES):
            kind = np.where(moves > turn, self.rng.random(B), 1.0)
            self._move_factor(factors, np.flatnonzero(kind < 0.7))
            self._swap_loops(orders, np.flatnonzero((kind >= 0.7) & (kind < 0.95)))
            self._flip_bypass(bypass, np.flatnonzero((kind >= 0.95) & (kind < 1.0)))
        return factors, orders, bypass

    def _move_factor(self, factors: np.ndarray, rows: np.ndarray) -> None:
        """Move a prime factor, or a whole loop, of one dimension to another slot."""
        present = factors[rows].reshape(len(rows), -1) > 1
        chosen = np.argmax(present * self.rng.random(present.shape), axis=1)
        slot, dim = chosen // 8, chosen % 8
        target = (slot + self.rng.integers(1, self.slots, len(rows))) % self.slots
        whole = factors[rows, slot, dim]
        part = np.where(self.rng.random(len(rows)) < 0.25, whole, self.prime[whole])
        factors[rows, slot, dim] = whole // part
        factors[rows, target, dim] *= part

    def _swap_loops(self, orders: np.ndarray, rows: np.ndarray) -> None:
        """Swap two loops of one level."""
        level = self.rng.integers(0, self.levels, len(rows))
        one, other = self.rng.integers(0, 8, (2, len(rows)))
        orders[rows, level, one], orders[rows, level, other] = orders[rows, level, other], orders[rows, level, one]

    def _flip_bypass(self, bypass: np.ndarray, rows: np.ndarray) -> None:
        """Send a tensor past a level, or no longer."""
        if not self.bypass_bits:
            return
        for which, row in zip(self.rng.integers(0, len(self.bypass_bits), len(rows)), rows, strict=True):
            level, bit = self.bypass_bits[which]
            bypass[row, level] ^= bit


def _smallest_prime_factors(limit: int) -> np.ndarray:
    """[limit + 1]: the smallest prime factor of each number from 2 on; 1 for 0 and 1."""
    smallest = np.arange(limit + 1)
    smallest[:2] = 1
    for prime in range(2, int(limit**0.5) + 1):
        if smallest[prime] == prime:
            multiples = smallest[prime * prime :: prime]
            multiples[multiples == np.arange(prime * prime, limit + 1, prime)] = prime
    return smallest
