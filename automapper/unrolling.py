"""Spatial unrollings: every other way to lay a layer's dimensions out on the array, with a good mapping's loops around
it.

Breeding meets few of the unrollings that keep an array busy, and steps from one to another need several in a row. So
each is tried with the loops, orders and bypasses that are good elsewhere.

Legend: f o b as in breed; t: the search; x, y: the slots of the axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automapper.legal import Space
from automapper.local import Row, within
from hw_model import Device

SLACK = 1.1  # steps of the array that an unrolling may take, as a multiple of those of the best mapping
ON_AXIS, PAIRS = 1024, 1 << 15  # unrollings of one axis and pairs of them looked at, at most: those with most PEs
IN_THE_MAKING = 4096  # unrollings of the first dimensions of an axis, at most: evenly spread over all
MOST = 512  # unrollings of the array tried, at most: those with fewest steps


def unrolled(space: Space, t: int, rows: Sequence[Row], device: Device) -> Row:
    """(f [n, slots, 8], o [n, L, 8], b [n, L]): each of some mappings, the best first, with every unrolling that takes
    at most SLACK times the steps of the best. Loops outside the array stay as long as their dimension allows; what is
    left of it is outermost. Only those among the mappings of search t."""
    x, y = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    lanes = device.slots.index("lanes") if "lanes" in device.slots else None
    best = rows[0][0]
    sizes = space.sizes[t] if lanes is None else -(-space.sizes[t] // best[lanes])
    most = SLACK * np.ceil(sizes / (best[x].astype(np.int64) * best[y])).prod()
    array = unrollings(space, t, sizes, (x, y), most, device.reduces[0] == device.reduces[1])
    alike = [row for row in rows if lanes is None or (row[0][lanes] == best[lanes]).all()]
    found = [_around(array, row, sizes, (x, y), lanes) for row in alike]
    f, o, b = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return within(space, t, (f, o, b))


def unrollings(space: Space, t: int, sizes: np.ndarray, axes: tuple[int, int], most: float, alike: bool) -> np.ndarray:
    """[n, 2, 8]: factors on both axes, no larger than their steps need, that take at most `most` steps together; those
    with fewest first. alike: whether the axes do the same; then one unrolling is enough of those that differ in the
    axis alone."""
    work = sizes.astype(float).prod()
    limits = [int(space.limit[axis]) for axis in axes]
    allowed = np.bitwise_or.reduce(space.allowed[t, : space.own[t]], axis=0)
    x, y = (
        _on_axis(sizes, int(allowed[axis]), limit, work / most / other)
        for axis, limit, other in zip(axes, limits, limits[::-1], strict=True)
    )
    used = np.outer(x.prod(1), y.prod(1)).ravel()
    i, j = np.divmod(np.argsort(-used, kind="stable")[: min(PAIRS, int((used * most >= work).sum()))], len(y))
    x, y = x[i], y[j]
    left = -(-sizes // x)
    steps = -(-left // y)
    larger_than_needed = (y > 1) & (-(-left // np.maximum(y - 1, 1)) == steps)
    total = steps.astype(float).prod(1)
    fits = ~larger_than_needed.any(1) & (total <= most)
    found = np.stack([x, y], axis=1)[fits][np.argsort(total[fits], kind="stable")]
    if alike:
        _, first = np.unique(found.prod(1), axis=0, return_index=True)
        found = found[np.sort(first)]
    return found[:MOST]


def _on_axis(sizes: np.ndarray, allowed: int, limit: int, least: float) -> np.ndarray:
    """[n, 8]: factors of the allowed dimensions on an axis of `limit` PEs that use at least `least`, most PEs first."""
    found = np.ones((1, 8), np.int64)
    for d in range(8):
        if allowed >> d & 1 and sizes[d] > 1:
            factors = np.arange(1, min(limit, int(sizes[d])) + 1)
            steps = -(-int(sizes[d]) // factors)
            factors = factors[np.diff(steps, prepend=steps[0] + 1) < 0]
            longer = np.repeat(found, len(factors), axis=0)
            longer[:, d] = np.tile(factors, len(found))
            found = longer[longer.prod(1) <= limit]
            found = found[:: 1 + len(found) // IN_THE_MAKING]
    used = found.prod(1)
    return found[np.argsort(-used, kind="stable")][: min(ON_AXIS, int((used >= least).sum()))]


def _around(array: np.ndarray, row: Row, sizes: np.ndarray, axes: tuple[int, int], lanes: int | None) -> Row:
    """A mapping with every unrolling of `array` [n, 2, 8]; sizes [8]: of the dimensions beside the lanes."""
    f, o, b = row
    n = len(array)
    new = np.repeat(f[None], n, axis=0)
    new[:, axes] = array
    left = -(-sizes // array.prod(1))
    for slot in range(len(f) - 1, 0, -1):
        if slot not in (*axes, lanes):
            new[:, slot] = np.minimum(new[:, slot], left)
            left = -(-left // new[:, slot])
    new[:, 0] = left
    return new, np.repeat(o[None], n, axis=0), np.repeat(b[None], n, axis=0)
