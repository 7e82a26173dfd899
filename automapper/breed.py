"""Compiled operators of the search: random mappings, crossover, mutation, repair, neighbourhoods.

All in one file, because numba's disk cache does not notice changes in another file. (The inlined rules of hw_model are
passed to it as sources.)

They write mappings as rows of hw_model.batch and do not compute costs. Every row has its own random stream, seeded by
(seed of its search, generation, number of the row), so it does not matter which worker breeds it, or when.

Legend: a mapping is f [slots, 8], o [L, 8], b [L]; slots and L levels as in hw_model.batch, 8 dimensions. t: the
search, c: one of the sets of mappings that it may take from, space: see `Space`. rng [1] uint64: see `uniform`.
"""

from typing import NamedTuple

import numpy as np

from hw_model import compiled_rules
from hw_model.compiled_rules import capacity_bits, input_words, output_words, span, weight_words
from hw_model.disk_cache import cached

N, G, K, C, P, Q, R, S = range(8)
GROWN, TRIES = 0.5, 4  # share of the bred mappings whose tiles are grown, and loops tried for it
FILLED = 0.5  # share of the random mappings whose spatial slots are filled once more
TURNED = 0.1  # share of the children that are moved to another of their search's sets
MULTIPLY = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLY_AGAIN = np.uint64(0x94D049BB133111EB)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Space(NamedTuple):
    """The mappings of T searches on one device; V: sets of mappings per search.

    sizes [T, 8]; steps [T, 4]: stride_h, stride_w, dilation_h, dilation_w; bits [T, 3] of a word of W, I, O;
    level_slot [L]; hold [L]: tensors held, a bit each; free [T, L]: those that may be sent past; caps [L, 3]: tensors
    of each partition, cap_bits [L, 3]: its size; limit [slots]: units of a spatial slot, 0 = temporal.

    own [T]: sets whose union is what the search may return; known [T]: those its first pools are drawn from, its own
    ones first. Of each set, as in dataflows.Constraint: allowed [T, V, slots]; least [T, V, slots, 8]; rest [T, V, 8];
    outer, inner [T, V, L].
    """

    sizes: np.ndarray
    steps: np.ndarray
    bits: np.ndarray
    level_slot: np.ndarray
    hold: np.ndarray
    free: np.ndarray
    caps: np.ndarray
    cap_bits: np.ndarray
    limit: np.ndarray
    own: np.ndarray
    known: np.ndarray
    allowed: np.ndarray
    least: np.ndarray
    rest: np.ndarray
    outer: np.ndarray
    inner: np.ndarray


def _smallest_factors(below: int) -> np.ndarray:
    """[below]: the smallest prime factor of every number, itself for 0 and 1."""
    found = np.arange(below)
    for prime in range(int(below**0.5), 1, -1):  # the smallest writes last
        found[prime * prime :: prime] = prime
    return found.astype(np.int32)


SMALLEST = _smallest_factors(1 << 13)
_OF_ROOTS = _smallest_factors(46342)  # up to the root of 2^31, the largest size of a dimension
PRIMES = np.flatnonzero(np.arange(len(_OF_ROOTS)) == _OF_ROOTS)[2:].astype(np.int32)


def jit(function):
    """A compiled function, kept on disk."""
    return cached(function, sources=compiled_rules.SOURCES, nogil=True, error_model="numpy", forceinline=True)


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
    rest = np.int64(n)
    last = 1
    index = 0
    while rest > 1:
        if rest < len(SMALLEST):
            prime = np.int64(SMALLEST[rest])
        elif index >= len(PRIMES) or np.int64(PRIMES[index]) * PRIMES[index] > rest:
            prime = rest
        elif rest % PRIMES[index] != 0:
            index += 1
            continue
        else:
            prime = np.int64(PRIMES[index])
        rest = np.int64(np.uint32(rest) // np.uint32(prime))  # half the time of a signed division of 64 bits
        last = prime
        if uniform(rng) < 0.5:
            part *= prime
    return last if part == 1 else part


@jit
def random_part(rng, n):
    """A tile size for n > 1 iterations: mostly a divisor, else any size that is tight for its number of tiles."""
    if uniform(rng) < 0.7:
        return random_divisor(rng, n)
    tiles = int(np.exp(uniform(rng) * np.log(n))) if n > 2 else 1
    return max(2, -(-n // tiles))


@jit
def cover(f, t, c, space):
    """Give the rest of each dimension to one slot: the outermost one, unless it is forbidden."""
    for d in range(8):
        cover_dim(f, d, t, c, space)


@jit
def cover_dim(f, d, t, c, space):
    """`cover` for one dimension."""
    rest = space.rest[t, c, d]
    others = 1
    for s in range(len(f)):
        if s != rest:
            others *= f[s, d]
    f[rest, d] = max(space.least[t, c, rest, d], -(-space.sizes[t, d] // others))


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
def tile_bits(x, mask, t, space):
    """Bits that the tensors of `mask` need of a tile of extents x [8]."""
    rows = span(x[P], x[R], space.steps[t, 0], space.steps[t, 2])
    columns = span(x[Q], x[S], space.steps[t, 1], space.steps[t, 3])
    weights = weight_words(x[G], x[K], x[C], x[R], x[S])
    inputs = input_words(x[N], x[G], x[C], rows, columns)
    outputs = output_words(x[N], x[G], x[K], x[P], x[Q])
    return capacity_bits(mask, weights, inputs, outputs, space.bits[t, 0], space.bits[t, 1], space.bits[t, 2])


@jit
def may_shrink(f, s, d, dims, first, t, c, space):
    """Whether shortening a loop helps the slots from `first` on: not where cover() would undo it."""
    if f[s, d] == 1 or not dims >> d & 1:  # most loops, and the cheapest test
        return False
    return f[s, d] > space.least[t, c, s, d] and space.rest[t, c, d] < first


@jit
def shrink(rng, f, first, last, dims, t, c, space):
    """Make one random loop of slots first..last-1 over one of `dims` shorter; returns its dimension, -1 where none can
    be."""
    count = 0
    for s in range(first, last):
        for d in range(8):
            if may_shrink(f, s, d, dims, first, t, c, space):
                count += 1
    if count == 0:
        return -1
    chosen = below(rng, count)
    for s in range(first, last):
        for d in range(8):
            if may_shrink(f, s, d, dims, first, t, c, space):
                if chosen == 0:
                    before = f[s, d]
                    part = random_divisor(rng, before)
                    after = before // part
                    if uniform(rng) < 0.2:
                        after = before - 1
                    after = max(after, space.least[t, c, s, d])
                    f[s, d] = after
                    outer = below(rng, first) if first > 1 else 0
                    if outer > 0 and space.allowed[t, c, outer] >> d & 1:
                        f[outer, d] *= -(-before // after)
                    if space.rest[t, c, d] > 0:
                        cover_dim(f, d, t, c, space)
                    return d
                chosen -= 1
    return -1


@jit
def relevant(mask):
    """The dimensions that the tiles of the tensors of `mask` depend on."""
    dims = 0
    if mask & 1:
        dims |= 1 << G | 1 << K | 1 << C | 1 << R | 1 << S
    if mask & 2:
        dims |= 255 & ~(1 << K)
    if mask & 4:
        dims |= 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q
    return dims


@jit
def repair(rng, f, b, x, t, c, space):
    """Shorten loops until the spatial slots fit the array and every tile its memory; the rest moves outwards. Where
    that is not enough, a tensor bypasses the memory if it may. x [8]: scratch."""
    slots = len(f)
    for s in range(slots - 1, 0, -1):
        if space.limit[s] > 0:
            for _ in range(64):
                used = 1
                for d in range(8):
                    used *= f[s, d]
                if used <= space.limit[s] or shrink(rng, f, s, s + 1, 255, t, c, space) < 0:
                    break
    cover(f, t, c, space)
    x[:] = 1.0
    inner = slots
    for level in range(len(space.level_slot) - 1, 0, -1):
        first = space.level_slot[level]
        for s in range(first, inner):
            for d in range(8):
                x[d] *= f[s, d]
        inner = first
        for group in range(3):
            for _ in range(200):
                mask = space.caps[level, group] & space.hold[level] & ~b[level]
                if mask == 0 or tile_bits(x, mask, t, space) <= space.cap_bits[level, group]:
                    break
                dims = relevant(mask)
                last = slots if uniform(rng) < 0.1 else first + 1
                d = shrink(rng, f, first, last, dims, t, c, space)
                if d < 0:
                    d = shrink(rng, f, first, slots, dims, t, c, space)
                if d >= 0:
                    x[d] = 1.0
                    for s in range(first, slots):
                        x[d] *= f[s, d]
                    continue
                past = mask & space.free[t, level]
                if past == 0:
                    break
                b[level] |= past
    cover(f, t, c, space)


@jit
def fits(f, b, x, t, space):
    """Whether the spatial slots fit the array and every tile its memory. x [8]: scratch."""
    for s in range(1, len(f)):
        if space.limit[s] > 0:
            used = 1
            for d in range(8):
                used *= f[s, d]
            if used > space.limit[s]:
                return False
    x[:] = 1.0
    inner = len(f)
    for level in range(len(space.level_slot) - 1, 0, -1):
        for s in range(space.level_slot[level], inner):
            for d in range(8):
                x[d] *= f[s, d]
        inner = space.level_slot[level]
        for group in range(3):
            mask = space.caps[level, group] & space.hold[level] & ~b[level]
            if mask and tile_bits(x, mask, t, space) > space.cap_bits[level, group]:
                return False
    return True


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
def arrange(o, t, c, space):
    """At a level, move the loops that set c requires outside before those it requires inside; keep the rest in
    order."""
    for level in range(len(o)):
        outer, inner = space.outer[t, c, level], space.inner[t, c, level]
        for i in range(1, 8):
            if not outer >> o[level, i] & 1:
                continue
            for j in range(i, 0, -1):  # towards the front, past loops that must run inside
                if not inner >> o[level, j - 1] & 1:
                    continue
                d = o[level, i]
                for k in range(i, j - 1, -1):
                    o[level, k] = o[level, k - 1]
                o[level, j - 1] = d
                i = j - 1


@jit
def conform(f, t, c, space):
    """Remove the loops that set c does not allow in their slot; cover() replaces them."""
    for s in range(len(f)):
        for d in range(8):
            if f[s, d] > 1 and not space.allowed[t, c, s] >> d & 1:
                f[s, d] = 1
            if f[s, d] < space.least[t, c, s, d]:
                f[s, d] = space.least[t, c, s, d]


@jit
def in_set(f, o, t, c, space):
    """Whether loops and orders are in set c."""
    for s in range(len(f)):
        for d in range(8):
            if f[s, d] < space.least[t, c, s, d] or (f[s, d] > 1 and not space.allowed[t, c, s] >> d & 1):
                return False
    for level in range(len(o)):
        turned = False
        for i in range(8):
            d = o[level, i]
            if f[space.level_slot[level], d] == 1:
                continue
            if turned and space.outer[t, c, level] >> d & 1:
                return False
            if space.inner[t, c, level] >> d & 1:
                turned = True
    return True


@jit
def inside(f, o, b, t, space):
    """[n] bool: which of the mappings f [n, slots, 8], o [n, L, 8], b [n, L] are among those of search t."""
    found = np.zeros(len(f), np.bool_)
    for i in range(len(f)):
        for c in range(space.own[t]):
            if in_set(f[i], o[i], t, c, space):
                found[i] = True
                break
        for level in range(b.shape[1]):
            if b[i, level] & ~space.free[t, level]:
                found[i] = False
    return found


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


@jit
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
