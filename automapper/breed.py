"""Compiled operators of the search: random mappings, crossover, mutation, neighbourhoods.

They write mappings as rows of hw_model.batch and do not compute costs. Every row has its own random stream, seeded by
(seed of its search, generation, number of the row), so it does not matter which worker breeds it, or when.

Legend: a mapping is f [slots, 8], o [L, 8], b [L]; slots and L levels as in hw_model.batch, 8 dimensions. t: the
search, c: one of the sets of mappings that it may take from, space: see `Space`. rng [1] uint64: see `draw.uniform`.
"""

import numpy as np

from automapper import legal
from automapper.draw import MULTIPLY, MULTIPLY_AGAIN, below, random_divisor, random_part, uniform
from automapper.legal import arrange, conform, cover, fits, in_set, repair
from hw_model.disk_cache import jit_of

N, G, K, C, P, Q, R, S = range(8)
GROWN, TRIES = 0.5, 4  # share of the bred mappings whose tiles are grown, and loops tried for it
FILLED = 0.5  # share of the random mappings whose spatial slots are filled once more
TURNED = 0.1  # share of the children that are moved to another of their search's sets

SOURCES = (*legal.SOURCES, legal.__file__)
jit = jit_of(SOURCES, forceinline=True)


@jit
def random_split(rng, f, d, t, c, space):
    """Spread dimension d over the slots that set c allows, whatever it was before."""
    slots = len(f)
    for s in range(slots):
        f[s, d] = space.least[t, c, s, d]
    rest = space.sizes[t, d]
    for s in range(slots):
        rest = -(-rest // f[s, d])
    first = below(rng, slots - 1)
    for i in range(slots - 1):
        s = 1 + (first + i) % (slots - 1)
        if rest <= 1:
            break
        if not space.allowed[t, c, s] >> d & 1 or uniform(rng) < 0.4:
            continue
        room = rest
        if space.limit[s] > 0:
            used = 1
            for e in range(8):
                used *= f[s, e]
            room = min(rest, space.limit[s] // used)
            if room < 2:
                continue
        part = random_part(rng, rest)
        if part > room:
            part = room if uniform(rng) < 0.5 else random_divisor(rng, room)
        f[s, d] *= part
        rest = -(-rest // part)


@jit
def grow(rng, f, b, x, t, c, space):
    """Try to move parts of the outermost loops inwards while everything still fits: good tiles fill their memory."""
    slots = len(f)
    for _ in range(TRIES):
        d = below(rng, 8)
        for _ in range(8):
            if f[space.rest[t, c, d], d] > 1:
                break
            d = (d + 1) % 8
        rest = space.rest[t, c, d]
        s = 1 + below(rng, slots - 1)
        if f[rest, d] == 1 or s == rest or not space.allowed[t, c, s] >> d & 1:
            continue
        outer, inner = f[rest, d], f[s, d]
        part = random_divisor(rng, outer)
        f[rest, d] = -(-outer // part)
        f[s, d] = inner * part
        if not fits(f, b, x, t, space):
            f[rest, d] = outer
            f[s, d] = inner
    cover(f, t, c, space)


@jit
def next_loop(row, d):
    """The first dimension from d on, in a circle, that a slot loops over; any where it loops over none."""
    for _ in range(8):
        if row[d] > 1:
            break
        d = (d + 1) % 8
    return d


@jit
def set_of(rng, f, o, t, space):
    """A random set among those that contain the mapping; if there is none, a random one of its search's own sets."""
    own = space.own[t]
    if own == 1:
        return 0
    first = below(rng, own)
    for i in range(own):
        c = (first + i) % own
        if in_set(f, o, t, c, space):
            return c
    return first


@jit
def random_mapping(rng, f, o, b, t, c, space):
    """A random mapping of search t in set c, not yet repaired."""
    for s in range(len(f)):
        for d in range(8):
            f[s, d] = space.least[t, c, s, d]
    first = below(rng, 8)
    for i in range(8):
        random_split(rng, f, (first + 3 * i) % 8, t, c, space)
    if uniform(rng) < FILLED:
        for s in range(len(f)):
            if space.limit[s] > 0:
                fill(rng, f, s, t, c, space)
    for level in range(len(o)):
        for d in range(8):
            o[level, d] = d
        for i in range(7, 0, -1):
            j = below(rng, i + 1)
            o[level, i], o[level, j] = o[level, j], o[level, i]
        b[level] = space.free[t, level] & below(rng, 8) if uniform(rng) < 0.3 else 0


@jit
def move_part(rng, f, d, t, c, space):
    """Move a part of one loop over dimension d to another slot."""
    slots = len(f)
    count = 0
    for s in range(slots):
        count += f[s, d] > space.least[t, c, s, d]
    if count == 0:
        return
    chosen = below(rng, count)
    source = 0
    for s in range(slots):
        if f[s, d] > space.least[t, c, s, d]:
            if chosen == 0:
                source = s
            chosen -= 1
    target = (source + 1 + below(rng, slots - 1)) % slots
    if not space.allowed[t, c, target] >> d & 1:
        return
    before = f[source, d]
    u = uniform(rng)
    part = before if u < 0.2 else random_part(rng, before)
    f[source, d] = max(-(-before // part), space.least[t, c, source, d])
    f[target, d] *= part


@jit
def move_loop(rng, f, o, level, slot):
    """Move one loop of a level to another position, among the loops that run more than once."""
    count = 0
    for i in range(8):
        count += f[slot, o[level, i]] > 1
    if count < 2:
        return
    source = below(rng, count)
    target = (source + 1 + below(rng, count - 1)) % count
    seen = 0
    begin = 0
    end = 0
    for i in range(8):
        if f[slot, o[level, i]] > 1:
            if seen == source:
                begin = i
            if seen == target:
                end = i
            seen += 1
    d = o[level, begin]
    step = 1 if end > begin else -1
    for i in range(begin, end, step):
        o[level, i] = o[level, i + step]
    o[level, end] = d


@jit
def put_inside(o, level, tensor):
    """Order a level so that the loops that leave a tensor (W, I, O: 0, 1, 2) in place run inside the others."""
    keeps = 1 << N | 1 << P | 1 << Q
    if tensor == 1:
        keeps = 1 << K
    if tensor == 2:
        keeps = 1 << C | 1 << R | 1 << S
    for i in range(1, 8):
        d = o[level, i]
        j = i - 1
        while j >= 0 and keeps >> o[level, j] & 1 and not keeps >> d & 1:
            o[level, j + 1] = o[level, j]
            j -= 1
        o[level, j + 1] = d


@jit
def exchange(rng, f, t, c, space):
    """A part of a loop moves from one slot to another, and a part of another dimension's loop back."""
    slots = len(f)
    least = space.least[t, c]
    s = below(rng, slots)
    r = (s + 1 + below(rng, slots - 1)) % slots
    d = next_loop(f[s], below(rng, 8))
    e = next_loop(f[r], below(rng, 8))
    if e == d:
        e = next_loop(f[r], (d + 1) % 8)
    if e == d or f[s, d] <= least[s, d] or f[r, e] <= least[r, e]:
        return
    if not (space.allowed[t, c, r] >> d & 1 and space.allowed[t, c, s] >> e & 1):
        return
    there = random_part(rng, f[s, d])
    back = random_part(rng, f[r, e])
    f[s, d] = max(-(-f[s, d] // there), least[s, d])
    f[r, e] = max(-(-f[r, e] // back), least[r, e])
    f[r, d] *= there
    f[s, e] *= back


@jit
def refill(rng, f, t, c, space):
    """Empty a random spatial slot and fill it again."""
    s = 1 + below(rng, len(f) - 1)
    while space.limit[s] == 0:
        s = s + 1 if s + 1 < len(f) else 1
    fill(rng, f, s, t, c, space)


@jit
def fill(rng, f, s, t, c, space):
    """Refill a spatial slot from the outermost loops or from those of another level; its old factors move outwards."""
    slots = len(f)
    least = space.least[t, c]
    room = space.limit[s]
    for d in range(8):
        f[s, d] = least[s, d]
        room //= f[s, d]
    for _ in range(4):
        d = below(rng, 8)
        if room < 2 or not space.allowed[t, c, s] >> d & 1:
            continue
        inside = 1
        for r in range(slots):
            if r != space.rest[t, c, d]:
                inside *= f[r, d]
        rest = -(-space.sizes[t, d] // inside)
        if rest > 1:
            part = min(room, random_part(rng, rest) if uniform(rng) < 0.6 else rest)
        else:
            r = 1 + below(rng, slots - 1)
            if space.limit[r] > 0 or f[r, d] <= max(1, least[r, d]):
                continue
            part = min(room, random_part(rng, f[r, d]))
            f[r, d] = max(-(-f[r, d] // part), least[r, d])
        f[s, d] *= part
        room //= part


@jit
def swap_dims(rng, f, d, t, c, space):
    """Two dimensions change places on a slot: d moves out, another one in."""
    slots = len(f)
    least = space.least[t, c]
    s = 1 + below(rng, slots - 1)
    e = below(rng, 8)
    if f[s, d] <= least[s, d] or not space.allowed[t, c, s] >> e & 1:
        return
    before = f[s, d]
    f[s, d] = least[s, d]
    f[space.rest[t, c, d], d] = 1
    outside = -(-space.sizes[t, e] // max(1, f[s, e]))
    if outside > 1:
        f[s, e] = max(f[s, e], min(before, random_part(rng, outside)))
        for other in range(slots):
            if other != s and f[other, e] > 1 and uniform(rng) < 0.5:
                f[other, e] = max(least[other, e], -(-f[other, e] // f[s, e]))


@jit
def mutate(rng, f, o, b, t, c, space):
    """One random change that stays inside set c."""
    levels = len(o)
    d = next_loop(space.sizes[t], below(rng, 8))
    u = uniform(rng)
    if u < 0.10:
        exchange(rng, f, t, c, space)
    elif u < 0.20:
        refill(rng, f, t, c, space)
    elif u < 0.52:
        move_part(rng, f, d, t, c, space)
    elif u < 0.68:
        random_split(rng, f, d, t, c, space)
    elif u < 0.76:
        swap_dims(rng, f, d, t, c, space)
    elif u < 0.88:
        level = below(rng, levels)
        move_loop(rng, f, o, level, space.level_slot[level])
    elif u < 0.96:
        put_inside(o, below(rng, levels), below(rng, 3))
    else:
        level = below(rng, levels)
        for _ in range(levels):
            if space.free[t, level] != 0:
                break
            level = (level + 1) % levels
        b[level] ^= space.free[t, level] & (1 << below(rng, 3))


@jit
def cross(rng, f, o, b, pool_f, pool_o, pool_b, parents, mix):
    """A child of one or, with `mix`, two of the first rows of a pool; better ones are chosen more often."""
    u = uniform(rng)
    one = int(u * u * parents)
    other = below(rng, parents)
    for d in range(8):
        source = other if mix and uniform(rng) < 0.4 else one
        for s in range(len(f)):
            f[s, d] = pool_f[source, s, d]
    for level in range(len(o)):
        source = other if mix and uniform(rng) < 0.4 else one
        for i in range(8):
            o[level, i] = pool_o[source, level, i]
        b[level] = pool_b[source, level]


@jit_of(SOURCES, makes_arrays=True, from_python=True)
def breed(which, seeds, generation, fresh, pool_f, pool_o, pool_b, parents, space):
    """Fill rows parents.. of the pools of some searches (pool_f [T, M, slots, 8], ..) with children of rows
    0..parents-1, which are sorted best first.

    which: the searches; generation, fresh [T]. fresh: 0 = children of the pool, 1 = all rows new, random mappings of
    the search's own sets, 2 = the same of all sets that it knows.
    """
    rng = np.zeros(1, np.uint64)
    x = np.empty(8)
    for t in which:
        for row in range(0 if fresh[t] else parents, pool_f.shape[1]):
            rng[0] = seeds[t] + np.uint64(generation[t]) * MULTIPLY + np.uint64(row) * MULTIPLY_AGAIN
            uniform(rng)
            f, o, b = pool_f[t, row], pool_o[t, row], pool_b[t, row]
            if fresh[t]:
                c = row % (space.known[t] if fresh[t] == 2 else space.own[t])
                random_mapping(rng, f, o, b, t, c, space)
            else:
                mix = uniform(rng) < 0.4
                cross(rng, f, o, b, pool_f[t], pool_o[t], pool_b[t], parents, mix)
                c = set_of(rng, f, o, t, space)
                if space.own[t] > 1 and uniform(rng) < TURNED:
                    c = below(rng, space.own[t])
                changes = 0
                if not mix or uniform(rng) < 0.7:
                    changes = 1
                    while changes < 6 and uniform(rng) < 0.45:
                        changes += 1
                for _ in range(changes):
                    mutate(rng, f, o, b, t, c, space)
            conform(f, t, c, space)
            arrange(o, t, c, space)
            repair(rng, f, b, x, t, c, space)
            if uniform(rng) < GROWN:
                grow(rng, f, b, x, t, c, space)
