"""Local search: every mapping one step, or two that belong together, away from a good one.

Legend: a mapping is f [slots, 8], o [L, 8], b [L] of hw_model.batch; n neighbours at a time.
"""

from __future__ import annotations

import numpy as np

from automapper import breed
from automapper.breed import Space

Row = tuple[np.ndarray, np.ndarray, np.ndarray]


def neighbours(space: Space, t: int, row: Row) -> Row:
    """(f [n, slots, 8], o [n, L, 8], b [n, L]): all neighbours of a mapping among the mappings of search t.

    A part of a loop moves to another slot, alone or together with a changed bypass, or with a part of another
    dimension that moves the other way; a loop moves within its level; a bypass changes. Not all of them are valid.
    """
    f, o, b = row
    d, source, target, part = moves(f).T
    count = len(d)
    one, other = np.nonzero(
        (d[:, None] < d[None, :]) & (source[:, None] == target[None, :]) & (target[:, None] == source[None, :])
    )
    flips = _flips(space.free[t], b)
    single = np.arange(count)
    chosen = [(single, None, b), (one, other, b), *((single, None, flipped) for flipped in flips)]
    factors, bypasses = [], []
    for first, second, past in chosen:
        new = np.repeat(f[None], len(first), axis=0)
        for index in (first, second):
            if index is not None:
                i = np.arange(len(index))
                before = new[i, source[index], d[index]]
                new[i, source[index], d[index]] = -(-before // part[index])
                new[i, target[index], d[index]] *= part[index]
        factors.append(new)
        bypasses.append(np.repeat(past[None], len(new), axis=0))
    orders = _reordered(space, f, o)
    same = len(orders) + len(flips)
    f_all = np.concatenate([*factors, np.repeat(f[None], same, axis=0)])
    o_all = np.concatenate([np.repeat(o[None], len(f_all) - len(orders), axis=0), orders])
    b_all = np.concatenate([*bypasses, *(x[None] for x in flips), np.repeat(b[None], len(orders), axis=0)])
    rows = f_all, o_all, b_all
    if space.own[t] > 1 or space.allowed[t, 0].min() < 255 or space.least[t, 0].max() > 1:
        within = breed.inside(*rows, t, space)
        rows = tuple(part[within] for part in rows)
    return rows


def moves(f: np.ndarray) -> np.ndarray:
    """[n, 4]: (dimension, from slot, to slot, part) of every part of every loop: divisors, and halves and thirds."""
    found = []
    for source, d in np.argwhere(f > 1):
        size = int(f[source, d])
        parts = {part for part in range(2, size + 1) if size % part == 0} | {part for part in (2, 3) if part < size}
        found += [(d, source, target, part) for target in range(len(f)) if target != source for part in parts]
    return np.array(found, np.int32).reshape(-1, 4)


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
