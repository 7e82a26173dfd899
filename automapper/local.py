"""Local search: all mappings one step, or two related steps, away from a good one.

Legend: a mapping is f [slots, 8], o [L, 8], b [L] of hw_model.batch; n neighbours at a time.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from automapper import legal
from automapper.legal import Space

Row = tuple[np.ndarray, np.ndarray, np.ndarray]
Scored = tuple[float, Row]  # logarithm of the objective, and the mapping


def neighbours(space: Space, t: int, row: Row) -> Row:
    """(f [n, slots, 8], o [n, L, 8], b [n, L]): all neighbours of a mapping among the mappings of search t: those of
    `single_steps` and `double_steps`. Not all of them are valid."""
    steps = single_steps(space, t, row), double_steps(space, t, row)
    f, o, b = zip(*steps, strict=True)
    return np.concatenate(f), np.concatenate(o), np.concatenate(b)


def single_steps(space: Space, t: int, row: Row) -> Row:
    """Neighbours one change away: a part of a loop moves to another slot, alone or with a changed bypass; a loop moves
    within its level; a bypass changes. A loop that is new at a level is tried outermost and innermost."""
    f, o, b = row
    flips = _flips(space.free[t], b)
    changed = _moved(f, moves(f))
    placed_f, placed_o = _placed(space, f, o, changed)
    orders = _reordered(space, f, o)
    factors = [*[changed] * (1 + len(flips)), placed_f, np.repeat(f[None], len(flips) + len(orders), axis=0)]
    before = len(changed) * (1 + len(flips))
    f_all = np.concatenate(factors)
    o_all = np.concatenate(
        [np.repeat(o[None], before, axis=0), placed_o, np.repeat(o[None], len(flips), axis=0), orders]
    )
    past = [*(np.repeat(one[None], len(changed), axis=0) for one in (b, *flips))]
    past += [np.repeat(b[None], len(placed_f), axis=0), *(one[None] for one in flips)]
    b_all = np.concatenate([*past, np.repeat(b[None], len(orders), axis=0)])
    return within(space, t, (f_all, o_all, b_all))


def double_steps(space: Space, t: int, row: Row) -> Row:
    """Neighbours two related changes away: parts of loops over two dimensions change places."""
    f, o, b = row
    every = moves(f)
    d, source, target, _ = every.T
    one, other = np.nonzero(
        (d[:, None] < d[None, :]) & (source[:, None] == target[None, :]) & (target[:, None] == source[None, :])
    )
    new = _moved(np.repeat(f[None], len(one), axis=0), every[one])
    new = _moved(new, every[other])
    n = len(new)
    return within(space, t, (new, np.repeat(o[None], n, axis=0), np.repeat(b[None], n, axis=0)))


def _moved(f: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[n, slots, 8]: f ([slots, 8], or one for each step) after each of some `moves`."""
    d, source, target, part = steps.T
    new = np.repeat(f[None], len(steps), axis=0) if f.ndim == 2 else f
    i = np.arange(len(steps))
    before = new[i, source, d]
    new[i, source, d] = -(-before // part)
    new[i, target, d] *= part
    return new


def _placed(space: Space, f: np.ndarray, o: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f [n, slots, 8], o [n, L, 8]): the changed mappings in which a loop is new at a level, that loop outermost and
    innermost there."""
    factors, orders = [], []
    for level, slot in enumerate(space.level_slot[:-1]):
        for d in range(8):
            new = changed[(f[slot, d] == 1) & (changed[:, slot, d] > 1)]
            if len(new) == 0:
                continue
            rest = o[level][o[level] != d]
            for order in ([d, *rest], [*rest, d]):
                placed = o.copy()
                placed[level] = order
                factors.append(new)
                orders.append(np.repeat(placed[None], len(new), axis=0))
    if not factors:
        return changed[:0], np.repeat(o[None], 0, axis=0)
    return np.concatenate(factors), np.concatenate(orders)


def within(space: Space, t: int, rows: Row) -> Row:
    """Those of some mappings that are among the mappings of search t."""
    if space.own[t] == 1 and space.allowed[t, 0].min() == 255 and space.least[t, 0].max() == 1:
        return rows
    within = legal.inside(*rows, t, space)
    return tuple(part[within] for part in rows)


def moves(f: np.ndarray) -> np.ndarray:
    """[n, 4]: (dimension, from slot, to slot, part) of every part of every loop: divisors, and halves and thirds."""
    found = []
    for source, d in np.argwhere(f > 1):
        size = int(f[source, d])
        parts = {part for part in divisors(size) if part > 1} | {part for part in (2, 3) if part < size}
        found += [(d, source, target, part) for target in range(len(f)) if target != source for part in parts]
    return np.array(found, np.int32).reshape(-1, 4)


@functools.lru_cache(maxsize=1 << 12)
def divisors(size: int) -> list[int]:
    """All of them, the smallest first."""
    small = [part for part in range(1, math.isqrt(size) + 1) if size % part == 0]
    return sorted({*small, *(size // part for part in small)})


def _flips(free: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """b with one tensor more, or less, sent past one level."""
    found = []
    for level, mask in enumerate(free):
        for tensor in (1, 2, 4):
            if mask & tensor:
                found.append(b.copy())
                found[-1][level] ^= tensor
    return found


def _reordered(space: Space, f: np.ndarray, o: np.ndarray) -> np.ndarray:
    """[n, L, 8]: one loop that runs more than once at another place in its level."""
    found = []
    for level, slot in enumerate(space.level_slot[:-1]):  # the innermost level's order changes nothing
        running = [d for d in o[level] if f[slot, d] > 1]
        rest = [d for d in o[level] if f[slot, d] == 1]
        for begin in range(len(running)):
            others = running[:begin] + running[begin + 1 :]
            for end in range(len(running)):
                if end != begin:
                    new = o.copy()
                    new[level] = [*rest, *others[:end], running[begin], *others[end:]]
                    found.append(new)
    return np.array(found, np.int8).reshape(-1, *o.shape)
