"""Compiled operators of the search: random mappings, crossover, mutation, repair, neighbourhoods.

All in one file, because numba's cache on disk does not notice a change in another one.

They write mappings as rows of hw_model.batch and know nothing of cost. Every row has random numbers of its own, drawn
from (seed of its search, generation, number of the row): which worker breeds it, and when, does not matter.

Legend: T searches, slots and L levels of hw_model.batch, 8 dimensions. A mapping is f [slots, 8], o [L, 8], b [L].
Arguments of every operator, `space` for short (see space.py):
    sizes [T, 8], stride [T], bits [T, 3] of a word of W, I, O; level_slot [L]; hold [L]: tensor bits held; free [T, L]:
    those that may be sent past; caps [L, 3]: tensor bits of each partition, cap_bits [L, 3]: its size;
    limit [slots]: units of a spatial slot, 0 = temporal; allowed [D, T, slots]: dimensions each slot may loop over;
    least [D, T, slots, 8]: smallest factors; rule [D, T, L, 8]: loops of a lower number run outside those of a higher.
D constraint sets: 0 is the one the search must keep, the others are known dataflows for the first pool.
"""

import numpy as np

from hw_model.disk_cache import cached

N, G, K, C, P, Q, R, S = range(8)
GROWN, TRIES = 0.5, 4  # share of the mappings bred whose tiles are grown, and how many loops are tried for that
MULTIPLY = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLY_AGAIN = np.uint64(0x94D049BB133111EB)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def jit(function):
    """A compiled function, kept on disk."""
    return cached(function, nogil=True, error_model="numpy")


@jit
def uniform(rng):
    """The next number in [0, 1) of the stream rng [1] uint64 (splitmix64, Steele et al. 2014)."""
    rng[0] += GOLDEN
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * MULTIPLY
    z = (z ^ (z >> np.uint64(27))) * MULTIPLY_AGAIN
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def below(rng, n):
    """A random integer from 0 to n - 1."""
    return int(uniform(rng) * n)


@jit
def random_divisor(rng, n):
    """A divisor of n, above 1 where n is: a random part of its prime factors."""
    part = 1
    rest = n
    last = 1
    prime = 2
    while rest > 1:
        if prime * prime > rest:
            prime = rest
        while rest % prime == 0:
            rest //= prime
            last = prime
            if uniform(rng) < 0.5:
                part *= prime
        prime += 1
    return last if part == 1 else part


@jit
def random_part(rng, n):
    """A tile size for n > 1 iterations: mostly a divisor, else any size that is tight for its number of tiles."""
    if uniform(rng) < 0.7:
        return random_divisor(rng, n)
    tiles = int(np.exp(uniform(rng) * np.log(n))) if n > 2 else 1
    return max(2, -(-n // tiles))


@jit
def cover(f, sizes, t, slots):
    """Give the outermost slot what the others leave of each dimension."""
    for d in range(8):
        inside = 1
        for s in range(1, slots):
            inside *= f[s, d]
        f[0, d] = -(-sizes[t, d] // inside)


@jit
def random_split(rng, f, d, t, c, slots, sizes, limit, allowed, least):
    """Spread dimension d anew over the slots that constraint set c allows."""
    for s in range(slots):
        f[s, d] = least[c, t, s, d]
    rest = sizes[t, d]
    for s in range(slots):
        rest = -(-rest // f[s, d])
    first = below(rng, slots - 1)
    for i in range(slots - 1):
        s = 1 + (first + i) % (slots - 1)
        if rest <= 1:
            break
        if not allowed[c, t, s] >> d & 1 or uniform(rng) < 0.4:
            continue
        room = rest
        if limit[s] > 0:
            used = 1
            for e in range(8):
                used *= f[s, e]
            room = min(rest, limit[s] // used)
            if room < 2:
                continue
        part = random_part(rng, rest)
        if part > room:
            part = room if uniform(rng) < 0.5 else random_divisor(rng, room)
        f[s, d] *= part
        rest = -(-rest // part)


@jit
def tile_bits(f, first, d_stride, word, mask, slots):
    """Bits that the tensors of `mask` need of a tile made of slots first.. ."""
    x = np.ones(8)
    for s in range(first, slots):
        for d in range(8):
            x[d] *= f[s, d]
    need = 0.0
    if mask & 1:
        need += x[G] * x[K] * x[C] * x[R] * x[S] * word[0]
    if mask & 2:
        need += x[N] * x[G] * x[C] * ((x[P] - 1) * d_stride + x[R]) * ((x[Q] - 1) * d_stride + x[S]) * word[1]
    if mask & 4:
        need += x[N] * x[G] * x[K] * x[P] * x[Q] * word[2]
    return need


@jit
def shrink(rng, f, t, c, first, last, dims, least, allowed):
    """Make one random loop of slots first..last over one of `dims` shorter; False where none can be."""
    count = 0
    for s in range(first, last):
        for d in range(8):
            if dims >> d & 1 and f[s, d] > least[c, t, s, d]:
                count += 1
    if count == 0:
        return False
    chosen = below(rng, count)
    for s in range(first, last):
        for d in range(8):
            if dims >> d & 1 and f[s, d] > least[c, t, s, d]:
                if chosen == 0:
                    before = f[s, d]
                    part = random_divisor(rng, before)
                    after = before // part
                    if uniform(rng) < 0.2:
                        after = before - 1
                    after = max(after, least[c, t, s, d])
                    f[s, d] = after
                    outer = below(rng, first) if first > 1 else 0
                    if outer > 0 and allowed[c, t, outer] >> d & 1:
                        f[outer, d] *= -(-before // after)
                    return True
                chosen -= 1
    return False


@jit
def repair(rng, f, b, t, c, sizes, stride, bits, level_slot, hold, caps, cap_bits, limit, allowed, least):
    """Shorten loops until the spatial slots fit the array and every tile its memory; the rest goes outwards."""
    slots = len(f)
    for s in range(slots - 1, 0, -1):
        if limit[s] > 0:
            for _ in range(64):
                used = 1
                for d in range(8):
                    used *= f[s, d]
                if used <= limit[s] or not shrink(rng, f, t, c, s, s + 1, 255, least, allowed):
                    break
    for level in range(len(level_slot) - 1, 0, -1):
        for group in range(3):
            mask = caps[level, group] & hold[level] & ~b[level]
            if mask == 0:
                continue
            dims = 0
            if mask & 1:
                dims |= 1 << G | 1 << K | 1 << C | 1 << R | 1 << S
            if mask & 2:
                dims |= 255 & ~(1 << K)
            if mask & 4:
                dims |= 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q
            first = level_slot[level]
            for _ in range(200):
                if tile_bits(f, first, stride[t], bits[t], mask, slots) <= cap_bits[level, group]:
                    break
                inside = slots if uniform(rng) < 0.1 else first + 1
                if not shrink(rng, f, t, c, first, inside, dims, least, allowed) and not shrink(
                    rng, f, t, c, first, slots, dims, least, allowed
                ):
                    break
    cover(f, sizes, t, slots)


@jit
def fits(f, b, t, stride, bits, level_slot, hold, caps, cap_bits, limit):
    """Whether the spatial slots fit the array and every tile its memory."""
    slots = len(f)
    for s in range(1, slots):
        if limit[s] > 0:
            used = 1
            for d in range(8):
                used *= f[s, d]
            if used > limit[s]:
                return False
    for level in range(1, len(level_slot)):
        for group in range(3):
            mask = caps[level, group] & hold[level] & ~b[level]
            if mask and tile_bits(f, level_slot[level], stride[t], bits[t], mask, slots) > cap_bits[level, group]:
                return False
    return True


@jit
def grow(rng, f, b, t, c, sizes, stride, bits, level_slot, hold, caps, cap_bits, limit, allowed, least):
    """Move parts of the outermost loops inwards, some tries, where everything still fits: good tiles are full ones."""
    slots = len(f)
    for _ in range(TRIES):
        d = next_loop(f[0], below(rng, 8))
        s = 1 + below(rng, slots - 1)
        if f[0, d] == 1 or not allowed[c, t, s] >> d & 1:
            continue
        outer, inner = f[0, d], f[s, d]
        part = random_divisor(rng, outer)
        f[0, d] = -(-outer // part)
        f[s, d] = inner * part
        if not fits(f, b, t, stride, bits, level_slot, hold, caps, cap_bits, limit):
            f[0, d] = outer
            f[s, d] = inner
    cover(f, sizes, t, slots)


@jit
def next_loop(row, d):
    """The first dimension from d on, in a circle, that a slot loops over; any where it loops over none."""
    for _ in range(8):
        if row[d] > 1:
            break
        d = (d + 1) % 8
    return d


@jit
def arrange(o, t, c, rule):
    """Sort the loops of each level by the constraint's rule, keeping the order among equals."""
    for level in range(len(o)):
        for i in range(1, 8):
            d = o[level, i]
            j = i - 1
            while j >= 0 and rule[c, t, level, o[level, j]] > rule[c, t, level, d]:
                o[level, j + 1] = o[level, j]
                j -= 1
            o[level, j + 1] = d


@jit
def random_mapping(rng, f, o, b, t, c, sizes, free, limit, allowed, least):
    """A random mapping of search t inside constraint set c, not yet repaired."""
    slots = len(f)
    for s in range(slots):
        for d in range(8):
            f[s, d] = least[c, t, s, d]
    first = below(rng, 8)
    for i in range(8):
        random_split(rng, f, (first + 3 * i) % 8, t, c, slots, sizes, limit, allowed, least)
    for level in range(len(o)):
        for d in range(8):
            o[level, d] = d
        for i in range(7, 0, -1):
            j = below(rng, i + 1)
            o[level, i], o[level, j] = o[level, j], o[level, i]
        b[level] = free[t, level] & below(rng, 8) if uniform(rng) < 0.3 else 0


@jit
def move_part(rng, f, d, t, c, slots, allowed, least):
    """Move a part of one loop over dimension d to another slot."""
    count = 0
    for s in range(slots):
        count += f[s, d] > least[c, t, s, d]
    if count == 0:
        return
    chosen = below(rng, count)
    source = 0
    for s in range(slots):
        if f[s, d] > least[c, t, s, d]:
            if chosen == 0:
                source = s
            chosen -= 1
    target = (source + 1 + below(rng, slots - 1)) % slots
    if not allowed[c, t, target] >> d & 1:
        return
    before = f[source, d]
    u = uniform(rng)
    part = before if u < 0.2 else random_part(rng, before)
    after = max(-(-before // part), least[c, t, source, d])
    f[source, d] = after
    f[target, d] *= part


@jit
def move_loop(rng, f, o, level, slot):
    """Put one loop of a level, one that runs more than once, at another place among those."""
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
    """Let the loops that leave a tensor (W, I, O: 0, 1, 2) where it is run inside the others of a level."""
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
def exchange(rng, f, t, c, allowed, least):
    """A part of a loop moves from one slot to another, and a part of another dimension's loop back."""
    slots = len(f)
    s = below(rng, slots)
    r = (s + 1 + below(rng, slots - 1)) % slots
    d = next_loop(f[s], below(rng, 8))
    e = next_loop(f[r], below(rng, 8))
    if e == d:
        e = next_loop(f[r], (d + 1) % 8)
    if e == d or f[s, d] <= least[c, t, s, d] or f[r, e] <= least[c, t, r, e]:
        return
    if not (allowed[c, t, r] >> d & 1 and allowed[c, t, s] >> e & 1):
        return
    there = random_part(rng, f[s, d])
    back = random_part(rng, f[r, e])
    f[s, d] = max(-(-f[s, d] // there), least[c, t, s, d])
    f[r, e] = max(-(-f[r, e] // back), least[c, t, r, e])
    f[r, d] *= there
    f[s, e] *= back


@jit
def refill(rng, f, t, c, sizes, limit, allowed, least):
    """Fill a spatial slot anew, from the outermost loops or one of another level; what was on it goes outwards."""
    slots = len(f)
    s = 1 + below(rng, slots - 1)
    while limit[s] == 0:
        s = s + 1 if s + 1 < slots else 1
    room = limit[s]
    for d in range(8):
        f[s, d] = least[c, t, s, d]
        room //= f[s, d]
    for _ in range(4):
        d = below(rng, 8)
        if room < 2 or not allowed[c, t, s] >> d & 1:
            continue
        inside = 1
        for r in range(1, slots):
            inside *= f[r, d]
        rest = -(-sizes[t, d] // inside)
        if rest > 1:
            part = min(room, random_part(rng, rest) if uniform(rng) < 0.6 else rest)
        else:
            r = 1 + below(rng, slots - 1)
            if limit[r] > 0 or f[r, d] <= max(1, least[c, t, r, d]):
                continue
            part = min(room, random_part(rng, f[r, d]))
            f[r, d] = max(-(-f[r, d] // part), least[c, t, r, d])
        f[s, d] *= part
        room //= part


@jit
def mutate(rng, f, o, b, t, c, sizes, level_slot, free, limit, allowed, least):
    """One random change that stays inside constraint set c."""
    slots = len(f)
    levels = len(o)
    d = next_loop(sizes[t], below(rng, 8))
    u = uniform(rng)
    if u < 0.10:
        exchange(rng, f, t, c, allowed, least)
    elif u < 0.20:
        refill(rng, f, t, c, sizes, limit, allowed, least)
    elif u < 0.52:
        move_part(rng, f, d, t, c, slots, allowed, least)
    elif u < 0.68:
        random_split(rng, f, d, t, c, slots, sizes, limit, allowed, least)
    elif u < 0.76:  # two dimensions change places on a slot: one moves out, the other in
        s = 1 + below(rng, slots - 1)
        e = below(rng, 8)
        if f[s, d] > least[c, t, s, d] and allowed[c, t, s] >> e & 1:
            before = f[s, d]
            f[s, d] = least[c, t, s, d]
            f[0, d] = 1
            outside = -(-sizes[t, e] // max(1, f[s, e]))
            if outside > 1:
                f[s, e] = max(f[s, e], min(before, random_part(rng, outside)))
                for other in range(slots):
                    if other != s and f[other, e] > 1 and uniform(rng) < 0.5:
                        f[other, e] = max(least[c, t, other, e], -(-f[other, e] // f[s, e]))
    elif u < 0.88:
        level = below(rng, levels)
        move_loop(rng, f, o, level, level_slot[level])
    elif u < 0.96:
        put_inside(o, below(rng, levels), below(rng, 3))
    else:
        level = below(rng, levels)
        for _ in range(levels):
            if free[t, level] != 0:
                break
            level = (level + 1) % levels
        b[level] ^= free[t, level] & (1 << below(rng, 3))


@jit
def breed(
    seeds, generation, begin, end, pool_f, pool_o, pool_b, parents, fresh,
    sizes, stride, bits, level_slot, hold, free, caps, cap_bits, limit, allowed, least, rule,
):  # fmt: skip
    """Fill rows parents.. of pools begin..end-1 (pool_f [T, M, slots, 8], ...) with children of rows 0..parents-1.

    Parents stand best first, and better ones are chosen more often. fresh [T]: 0 = children of the pool, 1 = random
    mappings inside the search's constraints, 2 = the same and known dataflows in turn.
    """
    slots = pool_f.shape[2]
    levels = pool_o.shape[2]
    rng = np.zeros(1, np.uint64)
    sets = len(allowed)
    for t in range(begin, end):
        for row in range(0 if fresh[t] else parents, pool_f.shape[1]):
            rng[0] = seeds[t] + np.uint64(generation) * MULTIPLY + np.uint64(row) * MULTIPLY_AGAIN
            uniform(rng)
            f, o, b = pool_f[t, row], pool_o[t, row], pool_b[t, row]
            c = row % sets if fresh[t] == 2 else 0
            if fresh[t]:
                random_mapping(rng, f, o, b, t, c, sizes, free, limit, allowed, least)
            else:
                u = uniform(rng)
                one = int(u * u * parents)
                other = below(rng, parents)
                mix = uniform(rng) < 0.4
                for d in range(8):
                    source = other if mix and uniform(rng) < 0.4 else one
                    for s in range(slots):
                        f[s, d] = pool_f[t, source, s, d]
                for level in range(levels):
                    source = other if mix and uniform(rng) < 0.4 else one
                    for i in range(8):
                        o[level, i] = pool_o[t, source, level, i]
                    b[level] = pool_b[t, source, level]
                changes = 0
                if not mix or uniform(rng) < 0.7:
                    changes = 1
                    while changes < 6 and uniform(rng) < 0.45:
                        changes += 1
                for _ in range(changes):
                    mutate(rng, f, o, b, t, c, sizes, level_slot, free, limit, allowed, least)
            arrange(o, t, c, rule)
            repair(rng, f, b, t, c, sizes, stride, bits, level_slot, hold, caps, cap_bits, limit, allowed, least)
            if uniform(rng) < GROWN:
                grow(rng, f, b, t, c, sizes, stride, bits, level_slot, hold, caps, cap_bits, limit, allowed, least)
