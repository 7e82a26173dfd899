"""The exhaustive engine: the true optimum of a small layer, by branch and bound.

Covered are all splits of every dimension over levels, array and lanes without needless padding (no factor could be
smaller; one that could never costs less), all loop orders and all bypasses. Skipped are only mappings that a lower
bound, or an equal mapping, shows not to be better.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from automapper import tree
from automapper.evolve import EXPLORE, SAME, Evolution
from automapper.objective import TIE, Objective
from automapper.space import Search, build_space
from automapper.workload import Problem
from hw_model import DIMS, Device, Mapping, decode, evaluate_batch
from hw_model.tables import device_table, problem_table

NODE_LIMIT = 100_000_000  # nodes of the tree, about a minute
TRIED = 2000  # mappings of the short search before a size is estimated
WAYS, LOOKED_AT = 64, 200_000  # ways down the tree for that, per choice of bypasses; fewer where each is long
MARGIN = 2.0  # an estimate of more than so many times the limit is believed
LEAVES = 512
ROWS = 1 << 16  # mappings costed at once


class TooLarge(Exception):
    """problems: {problem: estimated nodes} of those that would take far more than NODE_LIMIT."""

    def __init__(self, problems: dict[Problem, float]):
        super().__init__(f"too large for the exhaustive engine: {len(problems)} problems")
        self.problems = problems


@dataclass(frozen=True)
class Optimum:
    """mapping: the best there is (None: nothing beats the score given); covered: mappings in the space; evaluated: of
    them costed one by one; nodes: of the tree visited; complete: False where the walk was given up after NODE_LIMIT."""

    mapping: Mapping | None
    score: float
    covered: int
    evaluated: int
    nodes: int
    complete: bool = True


def check_size(problems: Iterable[Problem], device: Device, objective: Objective, seed: int) -> None:
    """Estimate the tree of every problem, in less than a second each, by a short search and random ways down.

    Raises:
        TooLarge: some would take far more than NODE_LIMIT nodes; all of those are named.
    """
    large = {}
    for problem in problems:
        evolution = Evolution([Search(problem)], device, objective, seed)
        evolution.advance(int(EXPLORE * TRIED), EXPLORE).advance(TRIED, 1.0)
        walk = _Walk(problem, device, objective, float(evolution.score[0]))
        rng = np.array([seed], np.uint64)
        nodes = sum(walk.estimate(np.array(bypass, np.uint8), rng) for bypass in walk.free_bypasses())
        if nodes > MARGIN * NODE_LIMIT:
            large[problem] = nodes
    if large:
        raise TooLarge(large)


def find_optimum(problem: Problem, device: Device, objective: Objective, score: float = math.inf) -> Optimum:
    """The optimum of one problem.

    Args:
        score: of a mapping already known; the better it is, the less has to be walked.

    Given up after NODE_LIMIT nodes, with the best until then.
    """
    walk = _Walk(problem, device, objective, score)
    free = walk.free_bypasses()
    covered = walk.mappings() * len(free)
    for bypass in free:
        walk.run(np.array(bypass, np.uint8))
    return Optimum(walk.mapping, walk.score, covered, walk.evaluated, walk.nodes, walk.nodes <= NODE_LIMIT)


class _Walk:
    def __init__(self, problem: Problem, device: Device, objective: Objective, score: float):
        self.problem, self.device, self.objective, self.score = problem, device, objective, score
        self.mapping: Mapping | None = None
        self.evaluated = self.nodes = 0
        self.space = build_space([Search(problem)], device)
        self.levels = len(device.levels)
        sizes = problem.layer.sizes
        splits = {d: splits_of(sizes[d], device) for d in range(8) if sizes[d] > 1}
        self.dims = sorted(splits, key=lambda d: -len(splits[d]))
        self.splits = [splits[d] for d in self.dims]
        empty = np.ones((0, self.levels + 2), np.int64)
        self.table = np.concatenate([empty, *(np.array(rows, np.int64) for rows in self.splits)])
        self.start = np.cumsum([0, *map(len, self.splits)])
        self.device_table = device_table(device)
        self.tables = problem_table([(problem.layer, problem.bits)], device)
        self.reach = np.zeros((len(self.dims) + 1, device.array[0] + 1), np.bool_)
        self.reach[0, 1] = True

    def free_bypasses(self) -> list[tuple[int, ...]]:
        """Every choice of tensors sent past each level."""
        choices = [[past for past in range(8) if past & ~may == 0] for may in self.space.free[0].tolist()]
        return list(itertools.product(*choices))

    def mappings(self) -> int:
        """Splits times orders: loops that run once have no place in an order, nor has the innermost level one."""
        counts = Counter({(0,) * (self.levels - 1): 1})
        for rows in self.splits:
            kinds = Counter(tuple(int(n > 1) for n in row[: self.levels - 1]) for row in rows)
            step: Counter = Counter()
            for (active, count), (more, times) in itertools.product(counts.items(), kinds.items()):
                step[tuple(map(sum, zip(active, more, strict=True)))] += count * times
            counts = step
        return sum(count * math.prod(map(math.factorial, active)) for active, count in counts.items())

    def estimate(self, bypass: np.ndarray, rng: np.ndarray) -> float:
        """Nodes that `run` would visit, the mean over some random ways down; rng [1] uint64."""
        ways = max(4, min(WAYS, LOOKED_AT // max(1, len(self.table))))
        of = self._tree(bypass), self.device_table, self.tables
        return sum(tree.probe(rng, self.score - SAME, *of) for _ in range(ways)) / ways

    def run(self, bypass: np.ndarray) -> None:
        """Walk the whole tree for one choice of bypasses."""
        index = np.full(len(self.dims), -1)
        leaves = np.ones((LEAVES, 8, self.levels + 2), np.int64)
        if not self.dims:  # one multiply-accumulate: one mapping
            self._cost(leaves[:1], bypass)
            return
        of = self._tree(bypass), self.device_table, self.tables
        over = False
        while not over and self.nodes <= NODE_LIMIT:
            written, nodes, over = tree.walk(index, self.score - SAME, leaves, NODE_LIMIT, *of)
            self.nodes += nodes
            self._cost(leaves[:written], bypass)

    def _tree(self, bypass: np.ndarray) -> tree.Tree:
        depth = len(self.dims)
        return tree.Tree(
            dims=np.array(self.dims, np.int64),
            table=self.table,
            start=self.start,
            weights=np.array([self.objective.energy_weight + TIE, self.objective.latency_weight + TIE]),
            hold=self.device_table.hold & ~bypass,
            f=np.ones((8, self.levels + 2), np.int64),
            pes=np.ones(depth + 1, np.int64),
            lanes=np.ones(depth + 1, np.int64),
            reach=self.reach,
        )

    def _cost(self, leaves: np.ndarray, bypass: np.ndarray) -> None:
        """Cost every order of some leaves, and note the best."""
        factors, orders, count = [], [], 0
        for leaf in leaves:
            f, o = self._mappings_of(leaf)
            factors.append(f)
            orders.append(o)
            count += len(o)
            if count > ROWS:
                self._best_of(factors, orders, bypass)
                factors, orders, count = [], [], 0
        if count:
            self._best_of(factors, orders, bypass)

    def _mappings_of(self, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(factors [1, slots, 8], orders [n, L, 8]) of a leaf [8, L + 2]."""
        names = self.device.slots
        f = np.ones((1, len(names), 8), np.int32)
        for level, name in enumerate(self.device.level_names):
            f[0, names.index(name)] = leaf[:, level]
        pes = tuple(leaf[:, self.levels].tolist())
        x, y = on_axes(pes, *self.device.array, self.device.axis_dims) or (
            pes,
            [1] * 8,
        )
        f[0, names.index("spatial_x")], f[0, names.index("spatial_y")] = x, y
        if "lanes" in names:
            f[0, names.index("lanes")] = leaf[:, self.levels + 1]
        active = [tuple(d for d in range(8) if leaf[d, level] > 1) for level in range(self.levels - 1)]
        orders = np.array(list(itertools.product(*(different_orders(a) for a in active), [tuple(range(8))])), np.int8)
        return f, orders

    def _best_of(self, factors: list[np.ndarray], orders: list[np.ndarray], bypass: np.ndarray) -> None:
        f = np.concatenate([np.repeat(one, len(o), axis=0) for one, o in zip(factors, orders, strict=True)])
        o = np.concatenate(orders)
        b = np.repeat(bypass[None], len(o), axis=0)
        cost = evaluate_batch(self.problem.layer, f, o, self.device, self.problem.bits, bypass=b, threads=1)
        self.evaluated += len(o)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.where(cost.valid, self.objective.score(cost.energy_pj, cost.cycles), np.inf)
        row = int(np.argmin(score))
        if score[row] < self.score - SAME:
            self.score = float(score[row])
            self.mapping = decode(f[row], o[row], self.device, b[row])


def splits_of(size: int, device: Device) -> list[tuple[int, ...]]:
    """Every split of a dimension without needless padding: factors per level, outermost first, of PEs, of lanes."""
    limits = [*device.array, device.lanes, *[size] * len(device.levels)]
    found = set()
    for x, y, lanes, *levels in _covers(size, limits):
        found.add((*levels, x * y, lanes))
    return sorted(found)


def _covers(size: int, limits: list[int]) -> list[tuple[int, ...]]:
    """Tuples of factors within limits whose product covers size, none of which could be smaller."""
    found = []

    def extend(factors: list[int], rest: int) -> None:
        if len(factors) == len(limits) - 1:
            if rest <= limits[-1]:
                found.append((*factors, rest))
            return
        for factor in sorted({-(-rest // tiles) for tiles in range(1, rest + 1)}):
            if factor <= limits[len(factors)]:
                extend([*factors, factor], -(-rest // factor))

    extend([], size)
    return [row for row in found if all(n == 1 or math.prod(row) // n * (n - 1) < size for n in row)]


@functools.lru_cache(maxsize=1 << 16)
def on_axes(
    pes: tuple[int, ...], width: int, height: int, axis_dims: tuple[str, str]
) -> tuple[list[int], list[int]] | None:
    """PEs per dimension as factors along x and along y that fit the array and may lie there; None if there are none."""

    def place(k: int, x: list[int], y: list[int]) -> tuple[list[int], list[int]] | None:
        if math.prod(x) > width or math.prod(y) > height:
            return None
        if k == len(pes):
            return x, y
        for part in range(1, pes[k] + 1):
            if pes[k] % part or (part > 1 and DIMS[k] not in axis_dims[0]):
                continue
            if part < pes[k] and DIMS[k] not in axis_dims[1]:
                continue
            if found := place(k + 1, [*x, part], [*y, pes[k] // part]):
                return found
        return None

    return place(0, [], [])


@functools.cache
def different_orders(active: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Loop orders of one level, outermost first, that can differ in cost: what is outside the innermost loop over a
    dimension of W, one of O, and one that replaces the input tile, may stand in any order."""
    found = []

    def inwards(inner: tuple[int, ...]) -> None:
        mask = sum(1 << d for d in inner)
        rest = tuple(d for d in range(8) if d not in inner)
        settled = mask & tree.RELEVANT[0] and mask & tree.RELEVANT[2] and mask & tree.PLANES
        choices = [d for d in active if d not in inner]
        if settled or not choices:
            found.append((*rest, *inner))
            return
        for d in choices:
            inwards((d, *inner))

    inwards(())
    return found
