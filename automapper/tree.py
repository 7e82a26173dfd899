"""Compiled half of the exhaustive engine: a walk over all splits of all dimensions that skips what cannot win.

The tree assigns one dimension after another. A node is abandoned when its tiles do not fit, when the array has no room,
or when a lower bound of its cost is above the best known mapping.

Legend: L levels, 8 dimensions N G K C P Q R S. A split of a dimension is a row of L + 2 factors: one per level,
outermost first, then PEs, then lanes. Cost depends on how many PEs share a dimension, not on their axis, so x and y are
one factor here. `reach` tracks whether the factors fit on two axes.
"""

import math
from typing import NamedTuple

import numpy as np

from automapper import lower_bound
from automapper.lower_bound import Room, bound, fits
from hw_model.disk_cache import jit_of
from hw_model.indices import LANE_COUNT, X, Y

SOURCES = (*lower_bound.SOURCES, lower_bound.__file__)
jit, entry = jit_of(SOURCES, forceinline=True), jit_of(SOURCES, from_python=True)


@jit
def widen(reach, into, factor):
    """Set into [x + 1]: the widths along x that `factor` times as many PEs can have, from the widths in reach."""
    into[:] = False
    for part in range(1, factor + 1):
        if factor % part == 0:
            for x in range(1, (len(reach) - 1) // part + 1):
                if reach[x]:
                    into[x * part] = True


@jit
def room_on_array(reach, pes, height):
    """Whether some width in reach leaves a height that the array has."""
    for x in range(1, len(reach)):  # noqa: SIM110, numba has no any()
        if reach[x] and pes % x == 0 and pes // x <= height:
            return True
    return False


class Tree(NamedTuple):
    """What the tree is made of.

    dims [depth]: dimensions in the order they are assigned; table, start: the splits of dims[k] are rows
    start[k]..start[k + 1] - 1; weights [2]: of log energy and log cycles in the score; hold [L]: tensor bits;
    f [8, L + 2], pes, lanes [depth + 1], reach [depth + 1, x + 1]: the current path, changed in place; room: for
    bounds.
    """

    dims: np.ndarray
    table: np.ndarray
    start: np.ndarray
    weights: np.ndarray
    hold: np.ndarray
    f: np.ndarray
    pes: np.ndarray
    lanes: np.ndarray
    reach: np.ndarray
    room: Room


@jit
def put_row(f, d, row):
    """f[d] = row, without numba's copy of it."""
    for i in range(len(row)):
        f[d, i] = row[i]


@jit
def alive(d, row, k, assigned, best, tree, chip, work):
    """Whether a mapping that beats `best` can have the split `row` of dimension d, which joins the current path."""
    f, pes, lanes = tree.f, tree.pes, tree.lanes
    levels = f.shape[1] - 2
    put_row(f, d, row)
    pes[k + 1] = pes[k] * row[levels]
    lanes[k + 1] = lanes[k] * row[levels + 1]
    if pes[k + 1] > chip.device[X] * chip.device[Y] or lanes[k + 1] > chip.device[LANE_COUNT]:
        return False
    widen(tree.reach[k], tree.reach[k + 1], row[levels])
    if not room_on_array(tree.reach[k + 1], pes[k + 1], chip.device[Y]):
        return False
    if not fits(f, tree.hold, chip, work, tree.room):
        return False
    energy, cycles = bound(f, assigned, tree.hold, chip, work, tree.room)
    return tree.weights[0] * math.log(energy) + tree.weights[1] * math.log(cycles) < best


@jit_of(SOURCES, forceinline=True, from_python=True)
def assigned_at_start(work):
    """Bits of the dimensions of size 1, which have nothing to split."""
    assigned = 0
    for d in range(8):
        if work.sizes[0, d] == 1:
            assigned |= 1 << d
    return assigned


@entry
def walk(index, best, leaves, node_limit, tree, chip, work):
    """Continue the walk; write splits that may beat the score `best` into leaves [n, 8, L + 2].

    index [depth]: the position of the walk, changed in place; -1 everywhere at its start. Returns (leaves written,
    nodes visited, whether the walk is over).
    """
    dims, table, start, f = tree.dims, tree.table, tree.start, tree.f
    depth = len(dims)
    levels = table.shape[1] - 2
    f[:] = 1
    assigned = assigned_at_start(work)
    k = 0
    while k < depth and index[k] >= 0:  # restore the path to where it stopped
        row = table[start[k] + index[k]]
        put_row(f, dims[k], row)
        tree.pes[k + 1] = tree.pes[k] * row[levels]
        tree.lanes[k + 1] = tree.lanes[k] * row[levels + 1]
        assigned |= 1 << dims[k]
        k += 1
    k = max(0, k - 1)
    written = 0
    nodes = 0
    while k >= 0:
        d = dims[k]
        index[k] += 1
        if start[k] + index[k] >= start[k + 1]:
            index[k] = -1
            f[d] = 1
            assigned &= ~(1 << d)
            k -= 1
            continue
        nodes += 1
        assigned |= 1 << d
        if not alive(d, table[start[k] + index[k]], k, assigned, best, tree, chip, work):
            continue
        if k + 1 < depth:
            k += 1
            continue
        for e in range(8):
            put_row(leaves[written], e, f[e])
        written += 1
        if written == len(leaves) or nodes > node_limit:
            return written, nodes, False
    return written, nodes, True
