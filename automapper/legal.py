"""Compiled: which mappings a search may return (`Space`), and how one that it may not is brought there.

Legend: a mapping is f [slots, 8], o [L, 8], b [L]; slots and L levels as in hw_model.batch, 8 dimensions. t: the
search, c: one of the sets of mappings that it may take from, space: see `Space`. rng [1] uint64: see `draw.uniform`.
"""

from typing import NamedTuple

import numpy as np

from automapper import draw
from automapper.draw import below, random_divisor, uniform
from hw_model import compiled_rules
from hw_model.compiled_rules import capacity_bits, input_words, output_words, span, weight_words
from hw_model.disk_cache import jit_of

N, G, K, C, P, Q, R, S = range(8)
SOURCES = (*compiled_rules.SOURCES, draw.__file__)

jit = jit_of(SOURCES, forceinline=True)
entry = jit_of(SOURCES, makes_arrays=True, from_python=True)


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
def holds(x, level, b, t, space):
    """Whether a level has room for its tiles of extents x [8]."""
    for group in range(3):
        mask = space.caps[level, group] & space.hold[level] & ~b[level]
        if mask and tile_bits(x, mask, t, space) > space.cap_bits[level, group]:
            return False
    return True


@jit_of(SOURCES, forceinline=True, from_python=True)
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
        if not holds(x, level, b, t, space):
            return False
    return True


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


@entry
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
