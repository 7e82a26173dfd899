"""Compiled: how many real input positions tiles need on one axis (rows or columns), summed over the steps of a mapping.

Position of output p and tap r: p*stride + r*dilation. An axis is [6]: outputs, taps, stride, dilation, and the first
and last + 1 real position (`Axis.reduced`, so that stride and dilation have no common divisor).

Legend: a tile is some outputs from p and taps from r on (`Tile`); the step before it started at p + dp, r + dr. Loops
of the axis (`Loops`) are listed outermost first; when loop k advances, the loops inside it start over. Prefix k: the
loops 0..k-1 take all their values, the others stand at their first.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from hw_model import compiled_rules
from hw_model.disk_cache import jit_of, uncounted

SOURCES = (*compiled_rules.SOURCES, __file__)
OUTPUTS, TAPS, STRIDE, DILATION, LOW, HIGH = range(6)
EACH, UNION, IDENTICAL = range(3)  # a read serves one PE, all that need the word, all that need the same whole tile
ALL, HEAD, TAIL = range(3)  # steps counted: all, those with the forwarding loop at its first value, the others
KEY_HEAD = 10  # numbers of a key before those of the loops
HALF = 2**31  # what fits one half of a number of a key
MIX = np.uint64(0x9E3779B97F4A7C15)


class Tile(NamedTuple):
    """outputs, taps: of one tile; PEs lie side by side on the axis, fan_p x fan_r of them, pitch_p outputs and pitch_r
    taps apart."""

    outputs: int
    taps: int
    pitch_p: int
    pitch_r: int
    fan_p: int
    fan_r: int


class Loops(NamedTuple):
    """dims [m]: 0 for a loop over outputs, 1 over taps; trips, steps [m]; depth: how many there are, at most m."""

    dims: np.ndarray
    trips: np.ndarray
    steps: np.ndarray
    depth: int


jit, entry = jit_of(SOURCES), jit_of(SOURCES, from_python=True)


def part(function):
    """A part of a compiled function, inlined into it: calls that pass many arrays cost as much as the work."""
    return uncounted(njit, function, inline="always")


@entry
def union_length(length, step_a, count_a, step_b, count_b):
    """Integers covered by `length` long intervals starting at a*step_a + b*step_b, a < count_a, b < count_b."""
    if length <= 0:
        return 0
    if count_a == 1 or step_a == 0:
        return (count_b - 1) * min(length, step_b) + length
    if count_b == 1:
        return (count_a - 1) * min(length, step_a) + length
    if length >= step_b:  # the intervals of one a join into one long interval
        row = (count_b - 1) * step_b + length
        return (count_a - 1) * min(row, step_a) + row
    if length >= step_a:
        row = (count_a - 1) * step_a + length
        return (count_b - 1) * min(row, step_b) + row
    if step_a % step_b == 0:  # all starts are multiples of step_b, so intervals are apart or the same
        return length * ((count_a - 1) * min(count_b, step_a // step_b) + count_b)
    if step_b % step_a == 0:
        return length * ((count_b - 1) * min(count_a, step_b // step_a) + count_a)
    if count_a > count_b:  # the loops below take count_a * count_a * count_b steps
        step_a, step_b = step_b, step_a
        count_a, count_b = count_b, count_a
    covered = 0
    for a in range(count_a):
        for b in range(count_b):
            start = a * step_a + b * step_b
            gap = length  # to the next larger start of any other interval, if that comes before this one ends
            repeated = False
            for other in range(count_a):
                ahead = start - other * step_a
                if other > a and ahead >= 0 and ahead % step_b == 0 and ahead // step_b < count_b:
                    repeated = True  # the same start again: count it there
                    break
                index = 0 if ahead < 0 else ahead // step_b + 1
                if index < count_b:
                    gap = min(gap, other * step_a + index * step_b - start)
            if not repeated:
                covered += gap
    return covered


@jit
def distinct_starts(step_a, count_a, step_b, count_b):
    """Different values of a*step_a + b*step_b, a < count_a, b < count_b."""
    return union_length(1, step_a, count_a, step_b, count_b)


@jit
def smaller_values(trips, step, count, limit):
    """How many values of nested loops are below `limit`: loops 0..count-1, outermost first, step[i] more than all that
    the loops inside reach. `value_at` lists the values in rising order."""
    if limit <= 0:
        return 0
    inside = 1
    for i in range(count):
        inside *= trips[i]
    total = 0
    for i in range(count):
        inside //= trips[i]
        whole = limit // step[i]
        if whole >= trips[i]:
            return total + trips[i] * inside
        total += whole * inside
        limit -= whole * step[i]
        if limit == 0:
            return total
    return total + 1


@jit
def value_at(trips, step, count, index):
    """The value number `index`, in rising order, of nested loops as in `smaller_values`."""
    value = 0
    for i in range(count - 1, -1, -1):
        value += index % trips[i] * step[i]
        index //= trips[i]
    return value


@jit
def interval(axis, p, r, tile, output_class, tap_class):
    """Positions of one residue class that a tile needs: begin and end in units of stride * dilation.

    Outputs output_class, output_class + dilation, .. with taps tap_class, tap_class + stride, .. reach positions that
    differ by multiples of stride * dilation, without gaps; other classes never meet them. Empty: (0, 0).
    """
    s, d = axis[STRIDE], axis[DILATION]
    p_end = min(p + tile.outputs, axis[OUTPUTS])
    r_end = min(r + tile.taps, axis[TAPS])
    first_p = -((output_class - p) // d)
    last_p = -((output_class - p_end) // d)
    first_r = -((tap_class - r) // s)
    last_r = -((tap_class - r_end) // s)
    if last_p <= first_p or last_r <= first_r:
        return 0, 0
    return first_p + first_r, last_p + last_r - 1


@jit
def covered(begin, end, count):
    """Integers covered by `count` intervals; the arrays are sorted on the way (Shell's gaps)."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            b, e = begin[i], end[i]
            j = i
            while j >= gap and begin[j - gap] > b:
                begin[j] = begin[j - gap]
                end[j] = end[j - gap]
                j -= gap
            begin[j] = b
            end[j] = e
        gap //= 2
    total = 0
    reached = -(2**62)
    for i in range(count):
        if end[i] > reached:
            total += end[i] - max(begin[i], reached)
            reached = end[i]
    return total


@jit
def kept_by_group(axis, p, r, dp, dr, tile, i, k, members, low, high, a_class, b_class, work):
    """Of one residue class, the positions that a group of PEs needs and whose every user had them the step before.

    The group is PE (i, k) and those of a larger k < members that start at the same position; members = 0: all PEs,
    i x k of them. work [4, n] is scratch.
    """
    step_p, step_r = axis[STRIDE] * tile.pitch_p, axis[DILATION] * tile.pitch_r
    needed = 0
    new = 0
    first_k = 0 if members == 0 else k
    count_i = i if members == 0 else 1
    count_k = k if members == 0 else members
    for y in range(first_k, count_k):
        for x in range(count_i):
            at = x
            if members > 0:
                back = (y - k) * step_r
                if back % step_p != 0 or back // step_p > i:
                    continue
                at = i - back // step_p
            at_p, at_r = p + at * tile.pitch_p, r + y * tile.pitch_r
            begin, end = interval(axis, at_p, at_r, tile, a_class, b_class)
            begin, end = max(begin, low), min(end, high)
            if end <= begin:
                continue
            work[0, needed], work[1, needed] = begin, end
            needed += 1
            had, had_end = interval(axis, at_p + dp, at_r + dr, tile, a_class, b_class)
            if had_end <= had or had >= end or had_end <= begin:
                work[2, new], work[3, new] = begin, end
                new += 1
                continue
            if begin < had:
                work[2, new], work[3, new] = begin, had
                new += 1
            if had_end < end:
                work[2, new], work[3, new] = had_end, end
                new += 1
    return covered(work[0], work[1], needed) - covered(work[2], work[3], new)


@jit
def kept_at(axis, p, r, dp, dr, tile, sharing, work):
    """Real positions kept by one step: needed now and needed the step before, when the tiles started dp, dr further.

    A position counts once for each read that would have served it (`sharing`), and only where all the PEs that this
    read would serve have it already. dp = dr = 0: all positions needed.
    """
    s, d = axis[STRIDE], axis[DILATION]
    total = 0
    for a in range(min(d, axis[OUTPUTS])):
        for b in range(min(s, axis[TAPS])):
            first = s * a + d * b
            low = -((first - axis[LOW]) // (s * d))
            high = -((first - axis[HIGH]) // (s * d))
            if sharing == UNION:
                total += kept_by_group(axis, p, r, dp, dr, tile, tile.fan_p, tile.fan_r, 0, low, high, a, b, work)
                continue
            for k in range(tile.fan_r):
                for i in range(tile.fan_p):
                    if sharing == EACH:
                        at_p, at_r = p + i * tile.pitch_p, r + k * tile.pitch_r
                        begin, end = interval(axis, at_p, at_r, tile, a, b)
                        had, had_end = interval(axis, at_p + dp, at_r + dr, tile, a, b)
                        total += max(0, min(end, had_end, high) - max(begin, had, low))
                        continue
                    led = False  # by an earlier k that starts at the same position
                    for y in range(k):
                        ahead = (k - y) * d * tile.pitch_r
                        if ahead % (s * tile.pitch_p) == 0 and i + ahead // (s * tile.pitch_p) < tile.fan_p:
                            led = True
                            break
                    if not led:
                        total += kept_by_group(axis, p, r, dp, dr, tile, i, k, tile.fan_r, low, high, a, b, work)
    return total


@jit
def kept(axis, loops, prefix, last, dp, dr, tile, p, r, sharing, split, which, work):
    """`kept_at`, summed over all steps of a prefix of the loops.

    last: whether loop prefix - 1 leaves out its first value (nothing came before it). p, r: where the first PE starts.
    split, which: the forwarding loop (-1: none) and the steps counted. Away from the edges of the axis every step is
    alike, so only steps near an edge are looked at one by one.
    """
    if which == TAIL and split >= prefix:
        return 0
    n_p, n_r, start_p, start_r = 0, 0, p, r
    lists = work.nested  # [loops over outputs, over taps; trips, steps; :]
    for i in range(prefix):
        n = loops.trips[i]
        first = 0
        if last and i == prefix - 1:
            n, first = n - 1, 1
        if i == split and which == HEAD:
            n = 1 - first
        if i == split and which == TAIL and first == 0:
            n, first = n - 1, 1
        if n <= 0:
            return 0
        if loops.dims[i] == 0:
            start_p += first * loops.steps[i]
            lists[0, 0, n_p], lists[0, 1, n_p] = n, loops.steps[i]
            n_p += 1
        else:
            start_r += first * loops.steps[i]
            lists[1, 0, n_r], lists[1, 1, n_r] = n, loops.steps[i]
            n_r += 1
    s, d = axis[STRIDE], axis[DILATION]
    taps = 1
    for i in range(n_r):
        taps *= lists[1, 0, i]
    far_p = tile.outputs - 1 + (tile.fan_p - 1) * tile.pitch_p
    far_r = tile.taps - 1 + (tile.fan_r - 1) * tile.pitch_r
    total = 0
    for index in range(taps):
        r = start_r + value_at(lists[1, 0], lists[1, 1], n_r, index)
        if r >= axis[TAPS]:
            break
        # from output `least` to `most` no tile is cut off, neither now nor the step before
        least = -((d * (r + min(0, dr)) - axis[LOW]) // s) - min(0, dp)
        most = (axis[HIGH] - 1 - d * (r + max(0, dr) + far_r)) // s - max(0, dp) - far_p
        most = min(most, axis[OUTPUTS] - 1 - max(0, dp) - far_p)
        stop = smaller_values(lists[0, 0], lists[0, 1], n_p, axis[OUTPUTS] - start_p)
        begin = min(stop, smaller_values(lists[0, 0], lists[0, 1], n_p, least - start_p))
        end = min(stop, max(begin, smaller_values(lists[0, 0], lists[0, 1], n_p, most + 1 - start_p)))
        at = 0
        while at < stop:
            p = start_p + value_at(lists[0, 0], lists[0, 1], n_p, at)
            alike = end - begin if at == begin and end > begin else 1
            total += alike * kept_at(axis, p, r, dp, dr, tile, sharing, work.spans)
            at += alike
    return total


@jit
def axis_sums(axis, loops, tile, p, r, sharing, split, which, out, work):
    """What the steps of a mapping keep on one axis: out [2, count + 1].

    out[0, k]: summed over prefix k, kept when a loop of another axis advances and the loops k.. of this one start over;
    out[0, count] is thus all that is needed. out[1, k]: kept when loop k - 1 itself advances. p, r, split, which: see
    `kept`.
    """
    dp, dr = 0, 0
    for k in range(loops.depth, -1, -1):
        out[0, k] = kept(axis, loops, k, False, dp, dr, tile, p, r, sharing, split, which, work)
        if k == 0:
            break
        ahead_p = loops.steps[k - 1] if loops.dims[k - 1] == 0 else 0
        ahead_r = loops.steps[k - 1] - ahead_p
        out[1, k] = kept(axis, loops, k, True, dp - ahead_p, dr - ahead_r, tile, p, r, sharing, split, which, work)
        dp += (loops.trips[k - 1] - 1) * ahead_p
        dr += (loops.trips[k - 1] - 1) * ahead_r


@jit
def remembered(axis, loops, tile, p, r, sharing, split, which, table, work):
    """The row of work.memo_sums[table] [rows, 2, n] that holds `axis_sums`; mappings of a batch share most of them.

    What is needed at the same time stands in different tables (of 4), or a row might be overwritten. Keys are compared
    whole. Axes with more loops than a key has room for are summed anew, in the last row.
    """
    keys, sums = work.memo_keys[table], work.memo_sums[table]
    rows = len(keys) - 1
    key = work.key
    m = loops.depth
    largest = max(axis[OUTPUTS], axis[TAPS], p, r)
    for i in range(m):
        largest = max(largest, loops.steps[i] * loops.trips[i])
    if m > len(key) - KEY_HEAD or largest >= HALF:
        axis_sums(axis, loops, tile, p, r, sharing, split, which, sums[rows], work)
        return rows
    key[0] = axis[OUTPUTS] << 32 | axis[TAPS]
    key[1] = axis[STRIDE] << 32 | axis[DILATION]
    key[2] = axis[LOW]
    key[3] = axis[HIGH]
    key[4] = tile.outputs << 32 | tile.taps
    key[5] = tile.pitch_p << 32 | tile.pitch_r
    key[6] = tile.fan_p << 32 | tile.fan_r
    key[7] = p << 32 | r
    key[8] = ((m << 8 | split + 1) << 2 | which) << 2 | sharing
    key[9] = 0
    for i in range(m):
        key[9] = key[9] << 1 | loops.dims[i]
        key[KEY_HEAD + i] = loops.trips[i] << 32 | loops.steps[i]
    length = KEY_HEAD + m
    mixed = np.uint64(0)
    for i in range(length):
        mixed = (mixed ^ np.uint64(key[i])) * MIX
        mixed ^= mixed >> np.uint64(29)
    row = np.int64(mixed % np.uint64(rows))
    for i in range(length):
        if keys[row, i] != key[i]:
            break
    else:
        return row
    axis_sums(axis, loops, tile, p, r, sharing, split, which, sums[row], work)
    for i in range(length):
        keys[row, i] = key[i]
    return row
