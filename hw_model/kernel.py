"""The compiled cost function: one mapping's counters, energy and cycles; and the loop over a batch of them.

Everything compiled is in this file, because numba's cache notices changes of one file only. It is imported on first
use (`compiled.py`), so that `import hw_model` stays light.

Legend: L memory levels (0 = DRAM), 8 dimensions N G K C P Q R S, 3 tensors W I O, M temporal loops, B mappings.
Counting rules: docs/hardware.md, "What is counted".
"""

import math

import numpy as np
from numba import njit

N, G, K, C, P, Q, R, S = range(8)
W, I, O = range(3)
READS, FILLS, UPDATES, DRAINS = range(4)
FACTOR, OVERFLOW, ARRAY_X, ARRAY_Y, LANES, UNCOVERED, CAPACITY, BYPASS = (1 << bit for bit in range(8))
LIMIT = 2.0**53


def jit(function):
    """njit with the cache on disk, or without where numba finds no folder it can write."""
    try:
        return njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:
        return njit(function, nogil=True, error_model="numpy")


@jit
def union_length(length, step_a, count_a, step_b, count_b):
    """Integers covered by `length` long intervals starting at a*step_a + b*step_b, a < count_a, b < count_b."""
    if length <= 0:
        return 0
    if count_b == 1:
        return (count_a - 1) * min(length, step_a) + length
    if count_a == 1:
        return (count_b - 1) * min(length, step_b) + length
    if length >= step_b:  # each row of intervals is one long interval
        row = (count_b - 1) * step_b + length
        return (count_a - 1) * min(row, step_a) + row
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
def new_union(shift, extent, step_a, count_a, step_b, count_b, whole):
    """Positions along one axis that are new to some PE when every PE's `extent` long tile moves by `shift`."""
    if shift >= extent:
        return whole
    return union_length(shift, step_a, count_a, step_b, count_b)


@jit
def input_words(end, loop_dim, loop_n, loop_step, stride, tile, outside, fanout):
    """Input words that enter one instance of a level, and those all PEs need together (distinct per step).

    end: loops 0..end-1 are outside the level; tile [8]: the level's tile; outside [8]: step between neighbouring PEs;
    fanout [8]: PEs per dimension, all 1 when the level is not behind the network.
    """
    rows = (tile[P] - 1) * stride + tile[R]
    columns = (tile[Q] - 1) * stride + tile[S]
    planes = tile[N] * tile[G] * tile[C]
    spread = fanout[N] * fanout[G] * fanout[C] > 1 or fanout[P] * fanout[Q] * fanout[R] * fanout[S] > 1
    words = planes * rows * columns
    all_planes = planes * fanout[N] * fanout[G] * fanout[C]
    all_rows = union_length(rows, stride * outside[P], fanout[P], outside[R], fanout[R])
    all_columns = union_length(columns, stride * outside[Q], fanout[Q], outside[S], fanout[S])
    together = all_planes * all_rows * all_columns
    back_rows = 0
    back_columns = 0
    for j in range(end - 1, -1, -1):
        d = loop_dim[j]
        n = loop_n[j]
        step = loop_step[j]
        if d == N or d == G or d == C:  # from here on outwards nothing of the old tile is left
            for k in range(j + 1):
                words *= loop_n[k]
                together *= loop_n[k]
            return words, together if spread else words
        shift_rows = -back_rows
        shift_columns = -back_columns
        if d == P:
            shift_rows += stride * step
            back_rows += stride * step * (n - 1)
        elif d == R:
            shift_rows += step
            back_rows += step * (n - 1)
        elif d == Q:
            shift_columns += stride * step
            back_columns += stride * step * (n - 1)
        elif d == S:
            shift_columns += step
            back_columns += step * (n - 1)
        shift_rows = abs(shift_rows)
        shift_columns = abs(shift_columns)
        overlap = planes * max(0, rows - shift_rows) * max(0, columns - shift_columns)
        words = n * words - (n - 1) * overlap
        if spread:
            kept_rows = all_rows - new_union(
                shift_rows, rows, stride * outside[P], fanout[P], outside[R], fanout[R], all_rows
            )
            kept_columns = all_columns - new_union(
                shift_columns, columns, stride * outside[Q], fanout[Q], outside[S], fanout[S], all_columns
            )
            together = n * together - (n - 1) * all_planes * kept_rows * kept_columns
    return words, together if spread else words


@jit
def check(
    loop_dim, loop_n, level_end, spatial_x, spatial_y, lanes, keep, sizes, bits, device, cap_mask, cap_bits, mac_rate,
    fanout, loop_step, tiles,
):  # fmt: skip
    """Tiles of every level (tiles [L+1, 8], row L: one PE's step), loop steps, and what makes the mapping invalid.

    Returns (reason bits, violation): violation is the sum of log2(needed / available) over everything exceeded.
    """
    n_levels, first_pe = device[0], device[1]
    reason = 0
    violation = 0.0
    x = 1.0
    y = 1.0
    v = 1.0
    for d in range(8):
        x *= spatial_x[d]
        y *= spatial_y[d]
        v *= lanes[d]
    total = x * y * v
    for j in range(level_end[n_levels - 1]):
        total *= loop_n[j]
    if total * mac_rate[1] > LIMIT:
        return OVERFLOW, 1.0 + math.log2(total * mac_rate[1] / LIMIT)
    if x > device[2]:
        reason |= ARRAY_X
        violation += math.log2(x / device[2])
    if y > device[3]:
        reason |= ARRAY_Y
        violation += math.log2(y / device[3])
    if v > device[4]:
        reason |= LANES
        violation += math.log2(v / device[4])
    stride = sizes[8]
    for d in range(8):
        fanout[d] = spatial_x[d] * spatial_y[d]
        tiles[n_levels, d] = lanes[d]
    for level in range(n_levels - 1, -1, -1):
        for d in range(8):
            tiles[level, d] = tiles[level + 1, d]
        if level == first_pe - 1:
            for d in range(8):
                tiles[level, d] *= fanout[d]
        begin = level_end[level - 1] if level > 0 else 0
        for j in range(level_end[level] - 1, begin - 1, -1):
            loop_step[j] = tiles[level, loop_dim[j]]
            tiles[level, loop_dim[j]] *= loop_n[j]
        t = tiles[level]
        rows = (t[P] - 1.0) * stride + t[R]
        columns = (t[Q] - 1.0) * stride + t[S]
        inputs = rows * columns * t[N] * t[G] * t[C]
        outside = total / (float(t[N]) * t[G] * t[K] * t[C] * t[P] * t[Q] * t[R] * t[S])
        if inputs * outside > LIMIT:  # with the PEs inside `outside`: bounds every input counter of this level
            return OVERFLOW, 1.0 + math.log2(inputs * outside / LIMIT)
        for group in range(3):
            mask = cap_mask[level, group] & keep[level]
            if mask == 0:
                continue
            need = 0.0
            if mask & 1:
                need += float(t[G] * t[K] * t[C] * t[R] * t[S]) * bits[W]
            if mask & 2:
                need += inputs * bits[I]
            if mask & 4:
                need += float(t[N] * t[G] * t[K] * t[P] * t[Q]) * bits[O]
            if need > cap_bits[level, group]:
                reason |= CAPACITY
                violation += math.log2(need / cap_bits[level, group])
    for d in range(8):
        if tiles[0, d] < sizes[d]:
            reason |= UNCOVERED
            violation += math.log2(sizes[d] / tiles[0, d])
    return reason, violation


@jit
def count(loop_dim, loop_n, level_end, lanes, keep, stride, device, fanout, loop_step, tiles, counters, network):
    """Words moved: counters [L, 3, 4] (reads, fills, updates, drains) and network [4] (W, I, O, of O down to PEs)."""
    n_levels, first_pe = device[0], device[1]
    multicast, reduction = device[5] != 0, device[6] != 0
    counters[:n_levels] = 0
    network[:] = 0
    steps = 1
    for j in range(level_end[n_levels - 1]):
        steps *= loop_n[j]
    pes = 1
    for d in range(8):
        pes *= fanout[d]
    lane_w = lanes[G] * lanes[K] * lanes[C] * lanes[R] * lanes[S]
    lane_o = lanes[N] * lanes[G] * lanes[K] * lanes[P] * lanes[Q]
    pes_w = fanout[G] * fanout[K] * fanout[C] * fanout[R] * fanout[S]
    reducing = fanout[C] * fanout[R] * fanout[S]
    outputs = tiles[0, N] * tiles[0, G] * tiles[0, K] * tiles[0, P] * tiles[0, Q]

    parent_w = 0
    parent_i = 0
    parent_o = 0
    ones = tiles[n_levels + 1]
    for level in range(1, n_levels):
        t = tiles[level]
        end = level_end[level - 1]
        inside_pe = level >= first_pe
        instances = pes if inside_pe else 1
        if keep[level] & 1:
            words = t[G] * t[K] * t[C] * t[R] * t[S]
            moved = False
            for j in range(end - 1, -1, -1):
                d = loop_dim[j]
                moved = moved or not (d == N or d == P or d == Q)
                if moved:
                    words *= loop_n[j]
            fills = words * instances
            counters[level, W, FILLS] = fills
            crossing = inside_pe and parent_w < first_pe
            counters[parent_w, W, READS] = words * pes_w if crossing and multicast else fills
            if crossing:
                network[W] = fills
            parent_w = level
        if keep[level] & 2:
            crossing = inside_pe and parent_i < first_pe
            spread = fanout if crossing and multicast else ones
            words, together = input_words(
                end, loop_dim, loop_n, loop_step, stride, t, tiles[min(first_pe, n_levels)], spread
            )
            fills = words * instances
            counters[level, I, FILLS] = fills
            counters[parent_i, I, READS] = together if crossing and multicast else fills
            if crossing:
                network[I] = fills
            parent_i = level
        if keep[level] & 4:
            words = t[N] * t[G] * t[K] * t[P] * t[Q]
            moved = False
            for j in range(end - 1, -1, -1):
                d = loop_dim[j]
                moved = moved or not (d == C or d == R or d == S)
                if moved:
                    words *= loop_n[j]
            entered = words * instances
            crossing = inside_pe and parent_o < first_pe
            updates = entered // reducing if crossing and reduction else entered
            counters[level, O, FILLS] = entered - outputs * (reducing if inside_pe else 1)
            counters[level, O, DRAINS] = updates
            counters[parent_o, O, UPDATES] = updates
            counters[parent_o, O, READS] = updates - outputs * (reducing if parent_o >= first_pe else 1)
            if crossing:
                network[O] = entered
                network[3] = counters[level, O, FILLS]
            parent_o = level

    # The MACs are the children of the innermost level that holds a tensor; they hold nothing from step to step.
    accesses = steps * pes * lane_w
    counters[parent_w, W, READS] = accesses
    if parent_w < first_pe:
        network[W] = accesses
        if multicast:
            counters[parent_w, W, READS] = steps * pes_w * lane_w
    lane_rows = union_length(1, stride, lanes[P], 1, lanes[R])
    lane_columns = union_length(1, stride, lanes[Q], 1, lanes[S])
    lane_i = lanes[N] * lanes[G] * lanes[C] * lane_rows * lane_columns
    accesses = steps * pes * lane_i
    counters[parent_i, I, READS] = accesses
    if parent_i < first_pe:
        network[I] = accesses
        if multicast:
            t = tiles[min(first_pe, n_levels)]
            starts = union_length(1, stride * t[P], fanout[P], t[R], fanout[R])
            starts *= union_length(1, stride * t[Q], fanout[Q], t[S], fanout[S])
            counters[parent_i, I, READS] = steps * fanout[N] * fanout[G] * fanout[C] * starts * lane_i
    accesses = steps * pes * lane_o
    updates = accesses
    groups = reducing
    if parent_o < first_pe:
        network[O] = accesses
        network[3] = accesses - outputs * reducing
        groups = 1
        if reduction:
            updates = accesses // reducing
    counters[parent_o, O, UPDATES] = updates
    counters[parent_o, O, READS] = updates - outputs * groups
    return steps, pes, outputs, parent_o


@jit
def price(
    counters, network, steps, pes, lanes, outputs, accumulator, bits, device, bandwidth, per_word, per_final, per_hop,
    mac_pj, mac_rate, energy,
):  # fmt: skip
    """Energy (pJ) of every part, energy [L+2, 3] (levels, then network, then MACs in column 0), and cycles.

    per_word [L, 3, 2]: pJ per word read, written; per_final [L, 2]: of a finished output; per_hop [4]: network, per
    word of W, I, partial sums, finished outputs; mac_rate [2]: MACs per PE (lane) and cycle, as a fraction.
    """
    n_levels, first_pe = device[0], device[1]
    cycles = -((-steps * mac_rate[1]) // mac_rate[0])
    total = 0.0
    for level in range(n_levels):
        c = counters[level]
        energy[level, W] = c[W, READS] * per_word[level, W, 0] + c[W, FILLS] * per_word[level, W, 1]
        energy[level, I] = c[I, READS] * per_word[level, I, 0] + c[I, FILLS] * per_word[level, I, 1]
        finished = outputs if level < accumulator else 0  # of the updates: the innermost level adds partial sums only
        drained = outputs if c[O, DRAINS] > 0 else 0
        energy[level, O] = (
            (c[O, READS] + c[O, DRAINS] - drained) * per_word[level, O, 0]
            + drained * per_final[level, 0]
            + (c[O, FILLS] + c[O, UPDATES] - finished) * per_word[level, O, 1]
            + finished * per_final[level, 1]
        )
        if c[O, UPDATES] == 0:
            energy[level, O] = 0.0
        total += energy[level, W] + energy[level, I] + energy[level, O]
        instances = pes if level >= first_pe else 1
        if bandwidth[level, 0] < math.inf:
            moved = c[W, READS] * bits[W] + c[I, READS] * bits[I] + c[O, READS] * bits[O]
            cycles = max(cycles, int(math.ceil(moved / instances / bandwidth[level, 0])))
        if bandwidth[level, 1] < math.inf:
            moved = c[W, FILLS] * bits[W] + c[I, FILLS] * bits[I]
            if c[O, UPDATES] > 0:
                moved += (c[O, FILLS] + c[O, UPDATES] - finished) * bits[O] + finished * bits[3]
            cycles = max(cycles, int(math.ceil(moved / instances / bandwidth[level, 1])))
    energy[n_levels, W] = network[W] * per_hop[W]
    energy[n_levels, I] = network[I] * per_hop[I]
    energy[n_levels, O] = 0.0
    if network[O] > 0:
        energy[n_levels, O] = (network[O] + network[3] - outputs) * per_hop[O] + outputs * per_hop[3]
    lane_count = 1
    for d in range(8):
        lane_count *= lanes[d]
    energy[n_levels + 1, 0] = steps * pes * lane_count * mac_pj
    total += energy[n_levels, W] + energy[n_levels, I] + energy[n_levels, O] + energy[n_levels + 1, 0]
    return total, cycles


@jit
def cost_of(
    loop_dim, loop_n, level_end, spatial_x, spatial_y, lanes, keep, sizes, bits, device, cap_mask, cap_bits, bandwidth,
    per_word, per_final, per_hop, mac_pj, mac_rate, fanout, loop_step, tiles, counters, network, energy,
):  # fmt: skip
    """Cost of one mapping, the function that single and batched evaluation share.

    Returns (reason bits, violation, energy in pJ, cycles, active PEs); energy is infinite where the mapping is invalid.
    """
    reason, violation = check(
        loop_dim, loop_n, level_end, spatial_x, spatial_y, lanes, keep, sizes, bits, device, cap_mask, cap_bits,
        mac_rate, fanout, loop_step, tiles,
    )  # fmt: skip
    if reason != 0:
        return reason, violation, math.inf, np.int64(2**62), 0
    steps, pes, outputs, accumulator = count(
        loop_dim, loop_n, level_end, lanes, keep, sizes[8], device, fanout, loop_step, tiles, counters, network
    )
    total, cycles = price(
        counters, network, steps, pes, lanes, outputs, accumulator, bits, device, bandwidth, per_word, per_final,
        per_hop, mac_pj, mac_rate, energy,
    )  # fmt: skip
    return 0, 0.0, total, cycles, pes


@jit
def cost_batch(
    begin, end, factors, orders, bypass, problem, slots, hold, may_bypass, sizes, bits, device, cap_mask, cap_bits,
    bandwidth, per_word, per_final, per_hop, mac_pj, mac_rate, out_energy, out_cycles, out_reason, out_violation,
):  # fmt: skip
    """Rows begin..end-1 of a batch.

    factors [B, slots, 8]; orders [B, L, 8]: dimensions outermost first; bypass [B, L] tensor bits; problem [B]: row of
    sizes [., 9], bits [., 4], per_word [., L, 3, 2], ...; slots [L + 3]: slot of each level, of x, y and the lanes (-1).
    """
    n_levels = device[0]
    loop_dim = np.empty(8 * n_levels, np.int64)
    loop_n = np.empty(8 * n_levels, np.int64)
    loop_step = np.empty(8 * n_levels, np.int64)
    level_end = np.empty(n_levels, np.int64)
    spatial_x = np.ones(8, np.int64)
    spatial_y = np.ones(8, np.int64)
    lanes = np.ones(8, np.int64)
    fanout = np.ones(8, np.int64)
    keep = np.empty(n_levels, np.int64)
    tiles = np.ones((n_levels + 2, 8), np.int64)
    counters = np.zeros((n_levels, 3, 4), np.int64)
    network = np.zeros(4, np.int64)
    energy = np.zeros((n_levels + 2, 3))
    for b in range(begin, end):
        reason = 0
        position = 0
        for level in range(n_levels):
            slot = slots[level]
            seen = 0
            for k in range(8):
                d = orders[b, level, k]
                if d < 0 or d > 7:
                    reason = FACTOR
                    break
                n = factors[b, slot, d]
                seen |= 1 << d
                if n < 1:
                    reason = FACTOR
                loop_dim[position] = d
                loop_n[position] = n
                position += n > 1
            if seen != 255:
                reason = FACTOR
            level_end[level] = position
            keep[level] = hold[level] & ~bypass[b, level]
            if hold[level] & bypass[b, level] & ~may_bypass[level]:
                reason |= BYPASS
        lowest = 1
        for d in range(8):
            spatial_x[d] = factors[b, slots[n_levels], d]
            spatial_y[d] = factors[b, slots[n_levels + 1], d]
            lowest = min(lowest, spatial_x[d], spatial_y[d])
            if slots[n_levels + 2] >= 0:
                lanes[d] = factors[b, slots[n_levels + 2], d]
                lowest = min(lowest, lanes[d])
        if lowest < 1:
            reason |= FACTOR
        if reason != 0:
            out_reason[b] = reason
            out_violation[b] = math.inf
            out_energy[b] = math.inf
            out_cycles[b] = 2**62
            continue
        p = problem[b]
        out_reason[b], out_violation[b], out_energy[b], out_cycles[b], _ = cost_of(
            loop_dim, loop_n, level_end, spatial_x, spatial_y, lanes, keep, sizes[p], bits[p], device, cap_mask,
            cap_bits, bandwidth, per_word[p], per_final[p], per_hop[p], mac_pj[p], mac_rate[p], fanout, loop_step,
            tiles, counters, network, energy,
        )  # fmt: skip
