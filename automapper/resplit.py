"""Compiled: the neighbours of a mapping in one block of its variables, all others left as they are.

A block is one dimension, with all its splits over the slots; the orders of the loops; or the bypasses. Splits that are
too slow to be better, by a lower bound of the energy that holds for all splits of the dimension, are left out.

Legend: a mapping is f [slots, 8], o [L, 8], b [L]; slots and L levels as in hw_model.batch, 8 dimensions. t: the
search, space: see `legal.Space`.
"""

import math
from typing import NamedTuple

import numpy as np

from automapper import legal, lower_bound
from automapper.legal import holds, in_set
from automapper.lower_bound import Room, bound
from automapper.objective import LEAST
from hw_model.disk_cache import jit_of
from hw_model.tables import DeviceTable, ProblemTable

SOURCES = (*legal.SOURCES, legal.__file__, *lower_bound.SOURCES, lower_bound.__file__)
ORDERS, BYPASSES = 8, 9  # blocks; a smaller number is a dimension
SPLITS = 2048  # of one dimension, at most
INEXACT = 1  # parts of a split that may not divide what they split, at most
ALL, NO_SLOT = 255, 255  # dimensions, as bits; the slot of lanes that a device does not have


jit = jit_of(SOURCES, makes_arrays=True)  # not inlined: that would take minutes to compile
entry = jit_of(SOURCES, makes_arrays=True, from_python=True)


class Rows(NamedTuple):
    """Mappings, some of them written: f [n, slots, 8], o [n, L, 8], b [n, L]."""

    f: np.ndarray
    o: np.ndarray
    b: np.ndarray


class Bar(NamedTuple):
    """What a neighbour must beat. chip, work: tables of the device and of the problem; weights [2]: of the logarithms
    of energy and cycles in a score, which is not lower than their sum; best [n]: scores of the mappings; room: for
    bounds."""

    chip: DeviceTable
    work: ProblemTable
    weights: np.ndarray
    best: np.ndarray
    room: Room


@jit
def may_loop(d, t, space):
    """[slots]: whether one of the sets of search t lets a slot loop over dimension d."""
    found = np.zeros(len(space.limit), np.bool_)
    for c in range(space.own[t]):
        for s in range(len(found)):
            found[s] |= bool(space.allowed[t, c, s] >> d & 1)
    return found


@jit
def extents_of_others(f, d, space):
    """[L, 8]: the extents of every level's tile, 1 for dimension d."""
    levels = len(space.level_slot)
    x = np.ones((levels, 8))
    inner = len(f)
    for level in range(levels - 1, -1, -1):
        if level + 1 < levels:
            for e in range(8):
                x[level, e] = x[level + 1, e]
        for s in range(space.level_slot[level], inner):
            for e in range(8):
                if e != d:
                    x[level, e] *= f[s, e]
        inner = space.level_slot[level]
    return x


@jit
def room_of(f, d, t, space):
    """[slots]: the largest factor of dimension d beside the others: 1 where it may not lie, any in a temporal slot."""
    may = may_loop(d, t, space)
    room = np.full(len(f), 2**31 - 1)
    for s in range(len(f)):
        if space.limit[s] > 0:
            room[s] = space.limit[s]
            for e in range(8):
                if e != d:
                    room[s] //= f[s, e]
        if not may[s]:
            room[s] = 1
    return room


@jit
def next_part(rest, part):
    """The next larger part of `rest` that leaves fewer trips; 1 after 0, `rest` + 1 after the last."""
    if part == 0:
        return 1
    trips = -(-rest // part)
    return -(-rest // (trips - 1)) if trips > 1 else rest + 1


@entry
def splits(f, b, d, t, space, found):
    """Write the splits of dimension d into found [n, slots]; returns how many there are, at most n.

    From the innermost slot outwards, parts are tried that leave different numbers of trips; the outermost slot takes
    the rest. At most INEXACT parts of a split do not divide. All fit the array and the memories beside the other
    dimensions of f.
    """
    slots = len(f)
    x, room = extents_of_others(f, d, space), room_of(f, d, t, space)
    level_of = np.zeros(slots, np.int64)
    for level in range(len(space.level_slot)):
        level_of[space.level_slot[level]] = level
    part = np.zeros(slots, np.int64)
    rest = np.ones(slots, np.int64)  # of the dimension, outside the slots further in
    extent = np.ones(slots)  # of the tile inside a slot
    inexact = np.zeros(slots, np.int64)  # parts that do not divide, further in
    count, s = 0, slots - 1
    rest[s] = space.sizes[t, d]
    while s < slots and count < len(found):
        if s == 0:
            if rest[0] <= room[0]:
                part[0] = rest[0]
                for i in range(slots):
                    found[count, i] = part[i]
                count += 1
            s = 1
            continue
        part[s] = next_part(rest[s], part[s])
        fits = part[s] <= min(rest[s], room[s])
        if fits and level_of[s] > 0:
            x[level_of[s], d] = extent[s] * part[s]
            fits = holds(x[level_of[s]], level_of[s], b, t, space)
        if not fits:  # nor would a larger part
            part[s] = 0
            s += 1
            continue
        left = inexact[s] + (rest[s] % part[s] != 0)
        if left > INEXACT:
            continue
        s -= 1
        rest[s] = -(-rest[s + 1] // part[s + 1])
        extent[s] = extent[s + 1] * part[s + 1]
        inexact[s] = left
    return count


@jit
def most_steps(f, b, d, best, bar):
    """The steps, one after another, of the slowest mapping that can have a score below `best` with some split of
    dimension d and the other loops of f."""
    chip, work, weights = bar.chip, bar.work, bar.weights
    levels = len(b)
    split = np.ones((8, levels + 2), np.int64)  # as lower_bound takes it: levels, PEs, lanes
    hold = np.zeros(levels, np.int64)
    x, y, lanes = chip.slots[levels], chip.slots[levels + 1], chip.slots[levels + 2]
    for e in range(8):
        if e != d:
            for level in range(levels):
                split[e, level] = f[chip.slots[level], e]
            split[e, levels] = np.int64(f[x, e]) * f[y, e]
            if lanes != NO_SLOT:
                split[e, levels + 1] = f[lanes, e]
    for level in range(levels):
        hold[level] = chip.hold[level] & ~b[level]
    energy, cycles = bound(split, ALL & ~(1 << d), hold, chip, work, bar.room)
    rest = best - weights[0] * math.log(max(energy, LEAST))
    if rest < weights[1] * math.log(cycles):
        return 0.0
    if weights[1] == 0.0:
        return math.inf
    return math.exp(rest / weights[1]) * work.mac_rate[0, 0] / work.mac_rate[0, 1]


@jit
def steps_of(f, space):
    """Steps of a mapping, one after another."""
    steps = 1.0
    for s in range(len(f)):
        if space.limit[s] == 0:
            for d in range(8):
                steps *= f[s, d]
    return steps


@jit
def put(found, n, f, o, b, t, space):
    """Write a mapping behind n[0] others, if there is room and search t may return it."""
    i = n[0]
    if i == len(found.f):
        return
    for c in range(space.own[t]):
        if in_set(f, o, t, c, space):
            for d in range(8):
                for s in range(len(f)):
                    found.f[i, s, d] = f[s, d]
                for level in range(len(o)):
                    found.o[i, level, d] = o[level, d]
            for level in range(len(b)):
                found.b[i, level] = b[level]
            n[0] += 1
            return


@jit
def place(order, old, d, inside):
    """Make `order` [8] the order `old` with dimension d outermost, or innermost."""
    k = 0 if inside else 1
    for i in range(8):
        if old[i] != d:
            order[k] = old[i]
            k += 1
    order[7 if inside else 0] = d


@jit
def put_splits(found, n, f, o, b, d, t, space, rows, most):
    """`put` every split of dimension d with at most `most` steps. Where the dimension is new at a level, it is tried
    outermost and innermost there. rows [SPLITS, slots]: scratch."""
    levels = len(o) - 1  # the innermost level's order changes nothing
    before, order = f.copy(), o.copy()
    for i in range(splits(before, b, d, t, space, rows)):
        new = 0
        for s in range(len(f)):
            f[s, d] = rows[i, s]
        if steps_of(f, space) > most:
            continue
        for level in range(levels):
            s = space.level_slot[level]
            if before[s, d] == 1 and f[s, d] > 1:
                new |= 1 << level
        for inside in range(1 << levels):
            if inside & ~new:
                continue
            for level in range(levels):
                if new >> level & 1:
                    place(order[level], o[level], d, inside >> level & 1)
            put(found, n, f, order, b, t, space)
        for level in range(levels):
            for e in range(8):
                order[level, e] = o[level, e]
    for s in range(len(f)):
        f[s, d] = before[s, d]


@jit
def put_orders(found, n, f, o, b, t, space):
    """`put` the mapping with one loop that runs more than once at another place in its level."""
    for level in range(len(o) - 1):
        s = space.level_slot[level]
        for begin in range(8):
            for end in range(8):
                if end == begin or f[s, o[level, begin]] == 1 or f[s, o[level, end]] == 1:
                    continue
                order = o.copy()
                step = 1 if end > begin else -1
                for i in range(begin, end, step):
                    order[level, i] = order[level, i + step]
                order[level, end] = o[level, begin]
                put(found, n, f, order, b, t, space)


@jit
def put_bypasses(found, n, f, o, b, t, space):
    """`put` the mapping with every other choice of the tensors that are sent past one level."""
    for level in range(len(b)):
        for past in range(1, 8):
            if past & ~space.free[t, level] == 0:
                other = b.copy()
                other[level] ^= past
                put(found, n, f, o, other, t, space)


@entry
def neighbours_in(block, rows, which, t, space, bar, found, owner):
    """The neighbours of the mappings `which` of rows in one block that may be better, written into `found`; owner: of
    each, its mapping. Returns how many there are."""
    scratch = np.empty((SPLITS, rows.f.shape[1]), np.int64)
    n = np.zeros(1, np.int64)
    for i in which:
        f, o, b = rows.f[i].copy(), rows.o[i].copy(), rows.b[i].copy()
        begin = n[0]
        if block == ORDERS:
            put_orders(found, n, f, o, b, t, space)
        elif block == BYPASSES:
            put_bypasses(found, n, f, o, b, t, space)
        else:
            most = most_steps(f, b, block, bar.best[i], bar)
            put_splits(found, n, f, o, b, block, t, space, scratch, most)
        for k in range(begin, n[0]):
            owner[k] = i
    return n[0]
