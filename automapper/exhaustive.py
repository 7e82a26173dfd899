"""The exhaustive engine: the optimum of a small layer, and a lower bound for any other, by branch and bound.

It covers all splits of every dimension over levels, array and lanes without needless padding, all loop orders and all
bypasses. (Padding is needless where a factor could be smaller; it never costs less.) It skips only mappings that a
lower bound, or an equal mapping, proves not to be better.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from automapper import lower_bound, tree
from automapper.budget import Clock
from automapper.evolve import SAME
from automapper.objective import Objective
from automapper.space import Search, build_space
from automapper.workload import Problem
from hw_model import DIMS, Device, Mapping, decode, evaluate_batch, indices
from hw_model.tables import device_table, problem_table

NODE_LIMIT = 40_000_000  # nodes of the tree visited, and mappings costed, for one problem: half a minute to a minute
GAPS = (0.8, 0.6, 0.45, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.0)  # shares of the objective, one by one
LEAVES, NODES_AT_ONCE = 512, 1 << 17  # written, and visited, between two looks at the time
ROWS = 1 << 16  # mappings costed at once
MOST_SPLITS = 500_000  # of one dimension; a layer with more has no walk, only the bound that its sizes give


@dataclass(frozen=True)
class Optimum:
    """mapping: the best found (None: nothing beats the given score); score: its logarithm of the objective, or the
    given one; covered: mappings in the space, 0 where these are too many; evaluated: mappings costed one by one;
    nodes: of the tree, visited.

    lower: no mapping has a lower score; complete: `lower` equals `score`, so the mapping is the optimum.
    """

    mapping: Mapping | None
    score: float
    covered: int
    evaluated: int
    nodes: int
    lower: float = -math.inf
    complete: bool = True


def find_optimum(
    problem: Problem, device: Device, objective: Objective, score: float = math.inf, seconds: float = math.inf
) -> Optimum:
    """The optimum of one problem, or a bound on how far the best mapping can be from it.

    Args:
        score: of a known mapping; a better one makes the walk shorter.
        seconds: after which it gives up, as it does after NODE_LIMIT nodes and mappings; the result is then the bound
            and the best mapping so far.

    Each walk looks for mappings that are better by some margin, from large to any. A walk that ends raises the lower
    bound.
    """
    clock = Clock(seconds)
    walk = _Walk(problem, device, objective, score, clock)
    free = walk.free_bypasses()
    lower = walk.root_bound([np.array(bypass, np.uint8) for bypass in free])
    if walk.too_large:
        return Optimum(None, score, 0, 0, 0, min(lower, score), complete=False)
    covered = walk.mappings() * len(free)
    gaps = GAPS if math.isfinite(score) and walk.dims else (0.0,)
    for gap in gaps:
        margin = -math.log1p(-gap)
        proven = all(walk.run(np.array(bypass, np.uint8), margin) for bypass in free)
        if not proven:
            break
        lower = max(lower, walk.score - margin)
    complete = proven and not gaps[-1]
    return Optimum(walk.mapping, walk.score, covered, walk.evaluated, walk.nodes, min(lower, walk.score), complete)


class _Walk:
    def __init__(self, problem: Problem, device: Device, objective: Objective, score: float, clock: Clock):
        self.problem, self.device, self.objective, self.score, self.clock = problem, device, objective, score, clock
        self.mapping: Mapping | None = None
        self.evaluated = self.nodes = 0
        self.space = build_space([Search(problem)], device)
        self.levels = len(device.levels)
        sizes = problem.layer.sizes
        self.too_large, splits = False, {}
        try:
            splits = {d: splits_of(sizes[d], device, DIMS[d], clock) for d in range(8) if sizes[d] > 1}
        except TooManySplits:
            self.too_large = True
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

    def root_bound(self, bypasses: Iterable[np.ndarray]) -> float:
        """A lower bound on every score: the bound with nothing assigned, for the best choice of bypasses."""
        bounds = []
        for bypass in bypasses:
            at = self._tree(bypass)
            assigned = tree.assigned_at_start(self.tables)
            energy, cycles = lower_bound.bound(at.f, assigned, at.hold, self.device_table, self.tables, at.room)
            bounds.append(float(at.weights @ np.log([energy, cycles])))
        return min(bounds)

    def run(self, bypass: np.ndarray, margin: float) -> bool:
        """Walk the tree for one choice of bypasses, skipping what is not better than the best score by `margin`.
        Returns whether the walk ended."""
        index = np.full(len(self.dims), -1)
        leaves = np.ones((LEAVES, 8, self.levels + 2), np.int64)
        if not self.dims:  # one multiply-accumulate: one mapping
            self._cost(leaves[:1], bypass)
            return True
        of = self._tree(bypass), self.device_table, self.tables
        over = False
        while not over and self.nodes + self.evaluated <= NODE_LIMIT and self.clock.until() > 0:
            best = self.score - max(SAME, margin)
            at_once = min(NODES_AT_ONCE, NODE_LIMIT - self.nodes - self.evaluated)
            written, nodes, over = tree.walk(index, best, leaves, at_once, *of)
            self.nodes += nodes
            self._cost(leaves[:written], bypass)
        return over

    def _tree(self, bypass: np.ndarray) -> tree.Tree:
        depth = len(self.dims)
        return tree.Tree(
            dims=np.array(self.dims, np.int64),
            table=self.table,
            start=self.start,
            weights=np.array(self.objective.weights),
            hold=self.device_table.hold & ~bypass,
            f=np.ones((8, self.levels + 2), np.int64),
            pes=np.ones(depth + 1, np.int64),
            lanes=np.ones(depth + 1, np.int64),
            reach=self.reach,
            room=lower_bound.room_for(self.levels),
        )

    def _cost(self, leaves: np.ndarray, bypass: np.ndarray) -> None:
        """Cost every order of some leaves, and record the best."""
        factors, orders, count = [], [], 0
        for leaf in leaves:
            o = self._orders_of(leaf)
            for f in self._factors_of(leaf):
                factors.append(f)
                orders.append(o)
                count += len(o)
            if count > ROWS:
                self._best_of(factors, orders, bypass)
                factors, orders, count = [], [], 0
        if count:
            self._best_of(factors, orders, bypass)

    def _factors_of(self, leaf: np.ndarray) -> list[np.ndarray]:
        """[1, slots, 8] for each way to lay the PEs of a leaf [8, L + 2] on the axes that may differ in cost."""
        names = self.device.slots
        f = np.ones((1, len(names), 8), np.int32)
        for level, name in enumerate(self.device.level_names):
            f[0, names.index(name)] = leaf[:, level]
        if "lanes" in names:
            f[0, names.index("lanes")] = leaf[:, self.levels + 1]
        found = []
        for x, y in on_axes(tuple(leaf[:, self.levels].tolist()), self.device):
            found.append(f.copy())
            found[-1][0, names.index("spatial_x")], found[-1][0, names.index("spatial_y")] = x, y
        return found

    def _orders_of(self, leaf: np.ndarray) -> np.ndarray:
        """[n, L, 8]: orders of the loops of a leaf [8, L + 2] that may differ in cost."""
        active = [tuple(d for d in range(8) if leaf[d, level] > 1) for level in range(self.levels - 1)]
        return np.array(list(itertools.product(*(different_orders(a) for a in active), [tuple(range(8))])), np.int8)

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


class TooManySplits(Exception):
    """A dimension has more than MOST_SPLITS, or the time was over before they were listed."""


def splits_of(size: int, device: Device, dim: str, clock: Clock | None = None) -> list[tuple[int, ...]]:
    """Every split of a dimension without needless padding: factors per level, outermost first, of PEs, of lanes. Raises
    TooManySplits."""
    axes = [units if dim in dims else 1 for units, dims in zip(device.array, device.axis_dims, strict=True)]
    lanes_at_most = device.lanes if dim in device.lanes_dims else 1
    found = set()
    limits = [*axes, lanes_at_most, *[size] * len(device.levels)]
    for x, y, lanes, *levels in _covers(size, limits, clock or Clock()):
        found.add((*levels, x * y, lanes))
    return sorted(found)


def _covers(size: int, limits: list[int], clock: Clock) -> list[tuple[int, ...]]:
    """Tuples of factors within limits whose product covers size, none of which could be smaller. Raises
    TooManySplits."""
    found: list[tuple[int, ...]] = []

    def extend(factors: list[int], rest: int) -> None:
        if len(factors) == len(limits) - 1:
            if rest <= limits[-1]:
                found.append((*factors, rest))
            return
        if len(found) > MOST_SPLITS or not clock.until():
            raise TooManySplits
        for factor in _tile_sizes(rest):
            if factor <= limits[len(factors)]:
                extend([*factors, factor], -(-rest // factor))

    extend([], size)
    return [row for row in found if all(n == 1 or math.prod(row) // n * (n - 1) < size for n in row)]


def _tile_sizes(size: int) -> list[int]:
    """Every ceil(size / tiles) for tiles from 1 to size, rising; about 2 sqrt(size) of them."""
    root = math.isqrt(size) + 1  # of more tiles than that, each is at most as large as this
    large = {-(-size // tiles) for tiles in range(1, root + 1)}
    return sorted(large | {part for part in range(1, root + 1) if -(-size // -(-size // part)) == part})


@functools.lru_cache(maxsize=1 << 16)
def on_axes(pes: tuple[int, ...], device: Device) -> list[tuple[list[int], list[int]]]:
    """PEs per dimension as factors along x and along y that fit the array and are allowed there. One way where the axes
    are alike; all ways where cost depends on the axis (sums that add up along one only, inputs passed on)."""
    (width, height), (x_dims, y_dims) = device.array, device.axis_dims
    alike = len(set(device.reduces)) == 1 and not device.forward_inputs
    found: list[tuple[list[int], list[int]]] = []

    def place(k: int, x: list[int], y: list[int]) -> None:
        if math.prod(x) > width or math.prod(y) > height or (alike and found):
            return
        if k == len(pes):
            found.append((x, y))
            return
        for part in range(1, pes[k] + 1):
            rest = pes[k] // part
            if pes[k] % part == 0 and (part == 1 or DIMS[k] in x_dims) and (rest == 1 or DIMS[k] in y_dims):
                place(k + 1, [*x, part], [*y, rest])

    place(0, [], [])
    return found


@functools.cache
def different_orders(active: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Loop orders of one level, outermost first, that can differ in cost. The order is arbitrary outside the innermost
    loop over a dimension of W, the innermost over one of O, and the innermost that replaces the input tile."""
    found = []

    def inwards(inner: tuple[int, ...]) -> None:
        mask = sum(1 << d for d in inner)
        rest = tuple(d for d in range(8) if d not in inner)
        complete = mask & lower_bound.RELEVANT[0] and mask & lower_bound.RELEVANT[2] and mask & indices.PLANES
        choices = [d for d in active if d not in inner]
        if complete or not choices:
            found.append((*rest, *inner))
            return
        for d in choices:
            inwards((d, *inner))

    inwards(())
    return found
