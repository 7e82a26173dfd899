"""The compiled cost function: one mapping's counters, energy and cycles; and the loop over a batch of them.

Everything compiled is in this file, because numba's cache notices changes of one file only. It is imported on first
use (`compiled.py`), so that `import hw_model` stays light.

Legend: L memory levels (0 = DRAM), 8 dimensions N G K C P Q R S, 3 tensors W I O, M temporal loops, B mappings.
Counting rules: docs/hardware.md, "What is counted".
"""

import math

import numpy as np
from numba import njit

from hw_model.disk_cache import cached

N, G, K, C, P, Q, R, S = range(8)
W, I, O = range(3)
READS, FILLS, UPDATES, DRAINS = range(4)
FACTOR, OVERFLOW, ARRAY_X, ARRAY_Y, LANES, UNCOVERED, CAPACITY, BYPASS = (1 << bit for bit in range(8))
LIMIT = 2.0**53
index = np.uint32  # numba looks for negative indices in signed ones only, which costs an eighth of the time
NO_SLOT = 255  # where a device has no lanes
NO_CYCLES = 2**62  # of an invalid mapping: worse than any valid one
PLANES = 1 << N | 1 << G | 1 << C  # dimensions whose every step replaces the whole input tile
RELEVANT_W = 1 << G | 1 << K | 1 << C | 1 << R | 1 << S
RELEVANT_O = 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q


def uncounted(make, function, **options):
    """`make` is njit or one like it. No reference counting (`_nrt`): all arrays belong to the caller, and counting took
    half the time."""
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return make(function, _nrt=False, **options)
    except (KeyError, TypeError):  # a numba without that option
        return make(function, **options)


def jit(function):
    """A compiled function, kept on disk."""
    return uncounted(cached, function)


def part(function):
    """A part of a compiled function, inlined into it: calls that pass two dozen arrays cost as much as the work."""
    return uncounted(njit, function, inline="always")


@jit
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


@part
def input_words(
    end, pe_end, loop_dim, loop_n, prefix, stride, tiles, level, outside, spread,
    fan_n, fan_g, fan_c, fan_p, fan_q, fan_r, fan_s,
):  # fmt: skip
    """Input words that enter one instance of a level, and those all PEs need together (distinct per step).

    end: loops 0..end-1 are outside the level, of which 0..pe_end-1 outside the PEs; tiles [level]: the level's tile;
    tiles [outside]: step from a PE to its neighbour; spread: whether the PEs (fan_*) are served together.
    """
    part_p, part_r = tiles[level, P], tiles[level, R]
    part_q, part_s = tiles[level, Q], tiles[level, S]
    rows = (part_p - 1) * stride + part_r
    columns = (part_q - 1) * stride + part_s
    planes = tiles[level, N] * tiles[level, G] * tiles[level, C]
    words = planes * rows * columns
    all_planes = planes
    all_rows = rows
    all_columns = columns
    step_p = stride * tiles[outside, P]
    step_r = tiles[outside, R]
    step_q = stride * tiles[outside, Q]
    step_s = tiles[outside, S]
    if spread:
        all_planes = planes * fan_n * fan_g * fan_c
        all_rows = union_length(rows, step_p, fan_p, step_r, fan_r)
        all_columns = union_length(columns, step_q, fan_q, step_s, fan_s)
    together = all_planes * all_rows * all_columns
    back_rows = 0
    back_columns = 0
    fanned = False
    for j in range(end - 1, -1, -1):
        d = loop_dim[index(j)]
        if PLANES >> d & 1:  # nothing of the old tile is left, and so for all loops further out
            words *= prefix[index(j)]
            together *= prefix[index(j)]
            break
        if j < pe_end and not fanned:
            fanned = True
            part_p *= fan_p
            part_q *= fan_q
            part_r *= fan_r
            part_s *= fan_s
        n = loop_n[index(j)]
        shift_rows = -back_rows
        shift_columns = -back_columns
        if d == P:
            shift_rows += stride * part_p
            back_rows += stride * part_p * (n - 1)
            part_p *= n
        elif d == R:
            shift_rows += part_r
            back_rows += part_r * (n - 1)
            part_r *= n
        elif d == Q:
            shift_columns += stride * part_q
            back_columns += stride * part_q * (n - 1)
            part_q *= n
        elif d == S:
            shift_columns += part_s
            back_columns += part_s * (n - 1)
            part_s *= n
        shift_rows = abs(shift_rows)
        shift_columns = abs(shift_columns)
        overlap = planes * max(0, rows - shift_rows) * max(0, columns - shift_columns)
        words = n * words - (n - 1) * overlap
        if spread:
            kept_rows = 0
            kept_columns = 0
            if shift_rows < rows:
                kept_rows = all_rows - union_length(shift_rows, step_p, fan_p, step_r, fan_r)
            if shift_columns < columns:
                kept_columns = all_columns - union_length(shift_columns, step_q, fan_q, step_s, fan_s)
            together = n * together - (n - 1) * all_planes * kept_rows * kept_columns
    if not spread:
        together = words
    return words, together


@part
def check(b, p, factors, slots, level_end, prefix, keep, sizes, bits, device, cap_mask, cap_bits, mac_rate, tiles):
    """Fill tiles [L+1, 8] (row L: one PE's step) and find what makes the mapping invalid.

    Returns (reason bits, violation): violation is the sum of log2(needed / available) over everything exceeded.
    """
    n_levels, first_pe = device[0], device[1]
    slot_x, slot_y = slots[index(n_levels)], slots[index(n_levels + 1)]
    slot_lanes = slots[index(n_levels + 2)]
    x = 1.0
    y = 1.0
    v = 1.0
    for d in range(8):
        x *= factors[b, slot_x, d]
        y *= factors[b, slot_y, d]
        tiles[index(n_levels), d] = 1
    if slot_lanes != NO_SLOT:
        for d in range(8):
            v *= factors[b, slot_lanes, d]
            tiles[index(n_levels), d] = factors[b, slot_lanes, d]
    total = x * y * v
    for level in range(n_levels):
        slot = slots[index(level)]
        trips = 1.0
        for d in range(8):
            trips *= factors[b, slot, d]
        total *= trips
    if total * mac_rate[p, 1] > LIMIT:
        return OVERFLOW, 1.0 + math.log2(total * mac_rate[p, 1] / LIMIT)
    reason = 0
    violation = 0.0
    if x > device[2]:
        reason |= ARRAY_X
        violation += math.log2(x / device[2])
    if y > device[3]:
        reason |= ARRAY_Y
        violation += math.log2(y / device[3])
    if v > device[4]:
        reason |= LANES
        violation += math.log2(v / device[4])
    stride = sizes[p, 8]
    for step in range(n_levels - 1, -1, -1):
        level = index(step)
        slot = slots[level]
        if step == first_pe - 1:
            for d in range(8):
                fan = factors[b, slot_x, d] * np.int64(factors[b, slot_y, d])
                tiles[level, d] = tiles[index(step + 1), d] * fan * factors[b, slot, d]
        else:
            for d in range(8):
                tiles[level, d] = tiles[index(step + 1), d] * factors[b, slot, d]
        end = level_end[index(step - 1)] if step > 0 else 0
        outside = float(prefix[index(end - 1)]) if end > 0 else 1.0
        if step >= first_pe:
            outside *= x * y
        planes = float(tiles[level, N] * tiles[level, G] * tiles[level, C])
        rows = (tiles[level, P] - 1.0) * stride + tiles[level, R]
        columns = (tiles[level, Q] - 1.0) * stride + tiles[level, S]
        inputs = planes * rows * columns
        if inputs * outside > LIMIT:  # bounds every input counter of this level
            return OVERFLOW, 1.0 + math.log2(inputs * outside / LIMIT)
        shared = float(tiles[level, G] * tiles[level, K])
        need_w = shared * (tiles[level, C] * tiles[level, R] * tiles[level, S]) * bits[p, W]
        need_i = inputs * bits[p, I]
        need_o = shared * (tiles[level, N] * tiles[level, P] * tiles[level, Q]) * bits[p, O]
        for group in range(3):
            mask = cap_mask[level, group] & keep[level]
            if mask == 0:
                continue
            need = 0.0
            if mask & 1:
                need += need_w
            if mask & 2:
                need += need_i
            if mask & 4:
                need += need_o
            if need > cap_bits[level, group]:
                reason |= CAPACITY
                violation += math.log2(need / cap_bits[level, group])
    for d in range(8):
        if tiles[0, d] < sizes[p, d]:
            reason |= UNCOVERED
            violation += math.log2(sizes[p, d] / tiles[0, d])
    return reason, violation


@part
def turns(end, loop_dim, prefix, relevant):
    """How often a tile is replaced by loops 0..end-1: loops inside the innermost relevant one leave it in place."""
    for j in range(end - 1, -1, -1):
        if relevant >> loop_dim[index(j)] & 1:
            return prefix[index(j)]
    return 1


@part
def count(b, p, factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, device, tiles, counters, network):
    """Words moved: counters [L, 3, 4] (reads, fills, updates, drains) and network [4] (W, I, O, of O down to PEs)."""
    n_levels, first_pe = device[0], device[1]
    multicast, reduction = device[5] != 0, device[6] != 0
    stride = sizes[p, 8]
    for level in range(n_levels):
        for tensor in range(3):
            for counter in range(4):
                counters[level, tensor, counter] = 0
    for tensor in range(4):
        network[tensor] = 0
    x, y = slots[index(n_levels)], slots[index(n_levels + 1)]
    fan_n = np.int64(factors[b, x, N]) * factors[b, y, N]
    fan_g = np.int64(factors[b, x, G]) * factors[b, y, G]
    fan_k = np.int64(factors[b, x, K]) * factors[b, y, K]
    fan_c = np.int64(factors[b, x, C]) * factors[b, y, C]
    fan_p = np.int64(factors[b, x, P]) * factors[b, y, P]
    fan_q = np.int64(factors[b, x, Q]) * factors[b, y, Q]
    fan_r = np.int64(factors[b, x, R]) * factors[b, y, R]
    fan_s = np.int64(factors[b, x, S]) * factors[b, y, S]
    end = level_end[index(n_levels - 1)]
    pe_end = level_end[index(first_pe - 1)]
    steps = prefix[index(end - 1)] if end > 0 else 1
    reducing = fan_c * fan_r * fan_s
    pes_w = fan_g * fan_k * reducing
    pes_o = fan_n * fan_g * fan_k * fan_p * fan_q
    pes = pes_o * reducing
    serving_i = multicast and pes > fan_k
    outputs = tiles[0, N] * tiles[0, G] * tiles[0, K] * tiles[0, P] * tiles[0, Q]
    neighbours = index(first_pe)  # row of tiles that holds the step from PE to PE

    parent_w = index(0)
    parent_i = index(0)
    parent_o = index(0)
    for step in range(1, n_levels):
        level = index(step)
        end = level_end[index(step - 1)]
        inside_pe = step >= first_pe
        instances = pes if inside_pe else 1
        common = tiles[level, G] * tiles[level, K]
        if keep[level] & 1:
            words = common * tiles[level, C] * tiles[level, R] * tiles[level, S]
            words *= turns(end, loop_dim, prefix, RELEVANT_W)
            crossing = inside_pe and parent_w < first_pe
            counters[level, W, FILLS] = words * instances
            counters[parent_w, W, READS] = words * (pes_w if crossing and multicast else instances)
            if crossing:
                network[W] = words * instances
            parent_w = level
        if keep[level] & 2:
            crossing = inside_pe and parent_i < first_pe
            words, together = input_words(
                end, pe_end if inside_pe else 0, loop_dim, loop_n, prefix, stride, tiles, level, neighbours,
                crossing and serving_i, fan_n, fan_g, fan_c, fan_p, fan_q, fan_r, fan_s,
            )  # fmt: skip
            counters[level, I, FILLS] = words * instances
            counters[parent_i, I, READS] = together if crossing and multicast else words * instances
            if crossing:
                network[I] = words * instances
            parent_i = level
        if keep[level] & 4:
            words = common * tiles[level, N] * tiles[level, P] * tiles[level, Q]
            words *= turns(end, loop_dim, prefix, RELEVANT_O)
            crossing = inside_pe and parent_o < first_pe
            updates = words * (pes_o if crossing and reduction else instances)
            counters[level, O, FILLS] = words * instances - outputs * (reducing if inside_pe else 1)
            counters[level, O, DRAINS] = updates
            counters[parent_o, O, UPDATES] = updates
            counters[parent_o, O, READS] = updates - outputs * (reducing if parent_o >= first_pe else 1)
            if crossing:
                network[O] = words * instances
                network[3] = counters[level, O, FILLS]
            parent_o = level

    # The MACs are the children of the innermost level that holds a tensor; they hold nothing from step to step.
    lane_w = 1
    lane_i = 1
    lane_o = 1
    if slots[index(n_levels + 2)] != NO_SLOT:
        lane = index(n_levels)  # row of tiles
        common = tiles[lane, G] * tiles[lane, K]
        lane_w = common * tiles[lane, C] * tiles[lane, R] * tiles[lane, S]
        lane_o = common * tiles[lane, N] * tiles[lane, P] * tiles[lane, Q]
        lane_i = tiles[lane, N] * tiles[lane, G] * tiles[lane, C]
        lane_i *= union_length(1, stride, tiles[lane, P], 1, tiles[lane, R])
        lane_i *= union_length(1, stride, tiles[lane, Q], 1, tiles[lane, S])
    counters[parent_w, W, READS] = steps * pes * lane_w
    if parent_w < first_pe:
        network[W] = steps * pes * lane_w
        if multicast:
            counters[parent_w, W, READS] = steps * pes_w * lane_w
    counters[parent_i, I, READS] = steps * pes * lane_i
    if parent_i < first_pe:
        network[I] = steps * pes * lane_i
        if multicast:
            starts = union_length(1, stride * tiles[neighbours, P], fan_p, tiles[neighbours, R], fan_r)
            starts *= union_length(1, stride * tiles[neighbours, Q], fan_q, tiles[neighbours, S], fan_s)
            counters[parent_i, I, READS] = steps * fan_n * fan_g * fan_c * starts * lane_i
    updates = steps * pes * lane_o
    groups = reducing
    if parent_o < first_pe:
        network[O] = updates
        network[3] = updates - outputs * reducing
        groups = 1
        if reduction:
            updates = steps * pes_o * lane_o
    counters[parent_o, O, UPDATES] = updates
    counters[parent_o, O, READS] = updates - outputs * groups
    return steps, pes, outputs, parent_o


@part
def price(
    p, counters, network, steps, pes, outputs, accumulator, macs, bits, device, bandwidth, per_word, per_final,
    per_hop, mac_pj, mac_rate, energy,
):  # fmt: skip
    """Energy (pJ) of every part, energy [L+2, 3] (levels, then network, then MACs in column 0), and cycles.

    Of problem p: per_word [., L, 3, 2]: pJ per word read, written; per_final [., L, 2]: of a finished output; per_hop
    [., 4]: network, per word of W, I, partial sums, finished outputs; mac_rate [., 2]: MACs per unit and cycle.
    """
    n_levels, first_pe = device[0], device[1]
    cycles = steps
    if mac_rate[p, 0] != mac_rate[p, 1]:
        cycles = -((-steps * mac_rate[p, 1]) // mac_rate[p, 0])
    wait = 0.0  # cycles, as a float: a bandwidth far below one bit per cycle must not wrap around
    total = 0.0
    for step in range(n_levels):
        level = index(step)
        reads_w, fills_w = counters[level, W, READS], counters[level, W, FILLS]
        reads_i, fills_i = counters[level, I, READS], counters[level, I, FILLS]
        reads_o, fills_o = counters[level, O, READS], counters[level, O, FILLS]
        updates_o, drains_o = counters[level, O, UPDATES], counters[level, O, DRAINS]
        holds_o = updates_o > 0
        finished = outputs if holds_o and step < accumulator else 0  # the innermost level adds partial sums only
        drained = outputs if drains_o > 0 else 0
        energy_w = reads_w * per_word[p, level, W, 0] + fills_w * per_word[p, level, W, 1]
        energy_i = reads_i * per_word[p, level, I, 0] + fills_i * per_word[p, level, I, 1]
        energy_o = (
            (reads_o + drains_o - drained) * per_word[p, level, O, 0]
            + drained * per_final[p, level, 0]
            + (fills_o + updates_o - finished) * per_word[p, level, O, 1]
            + finished * per_final[p, level, 1]
        )
        energy[level, W] = energy_w
        energy[level, I] = energy_i
        energy[level, O] = energy_o
        total += energy_w + energy_i + energy_o
        instances = pes if step >= first_pe else 1
        if bandwidth[level, 0] < math.inf:
            moved = reads_w * bits[p, W] + reads_i * bits[p, I] + reads_o * bits[p, O]
            wait = max(wait, np.ceil(moved / (instances * bandwidth[level, 0])))
        if bandwidth[level, 1] < math.inf:
            moved = fills_w * bits[p, W] + fills_i * bits[p, I]
            moved += (fills_o + updates_o - finished) * bits[p, O] + finished * bits[p, 3]
            wait = max(wait, np.ceil(moved / (instances * bandwidth[level, 1])))
    energy[n_levels, W] = network[W] * per_hop[p, W]
    energy[n_levels, I] = network[I] * per_hop[p, I]
    energy[n_levels, O] = 0.0
    if network[O] > 0:
        energy[n_levels, O] = (network[O] + network[3] - outputs) * per_hop[p, O] + outputs * per_hop[p, 3]
    energy[n_levels + 1, 0] = macs * mac_pj[p]
    total += energy[n_levels, W] + energy[n_levels, I] + energy[n_levels, O] + energy[n_levels + 1, 0]
    if wait > LIMIT:
        return total, NO_CYCLES
    return total, max(cycles, np.int64(wait))


@part
def cost_of(
    b, p, factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, bits, device, cap_mask, cap_bits,
    bandwidth, per_word, per_final, per_hop, mac_pj, mac_rate, tiles, counters, network, energy,
):  # fmt: skip
    """Cost of row b of factors for problem p: the function that single and batched evaluation share.

    loop_dim, loop_n [M]: temporal loops, outermost first; prefix [M]: products of loop_n up to each; level_end [L]: how
    many of them belong to a level or one further out; keep [L]: tensor bits each level holds; rest as `cost_batch`.
    Returns (reason bits, violation, energy in pJ, cycles, active PEs); energy is infinite where the mapping is invalid.
    """
    reason, violation = check(
        b, p, factors, slots, level_end, prefix, keep, sizes, bits, device, cap_mask, cap_bits, mac_rate, tiles
    )
    if reason != 0:
        return reason, violation, math.inf, NO_CYCLES, 0
    steps, pes, outputs, accumulator = count(
        b, p, factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, device, tiles, counters, network
    )
    macs = 1
    for d in range(8):
        macs *= tiles[0, d]
    total, cycles = price(
        p, counters, network, steps, pes, outputs, accumulator, macs, bits, device, bandwidth, per_word, per_final,
        per_hop, mac_pj, mac_rate, energy,
    )  # fmt: skip
    if cycles == NO_CYCLES:
        return OVERFLOW, 1.0, math.inf, NO_CYCLES, 0
    return 0, 0.0, total, cycles, pes


@jit
def cost_one(
    factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, bits, device, cap_mask, cap_bits, bandwidth,
    per_word, per_final, per_hop, mac_pj, mac_rate, tiles, counters, network, energy,
):  # fmt: skip
    """`cost_of` for loops in any order, a dimension repeated or not; tiles, counters, network and energy are filled."""
    return cost_of(
        0, 0, factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, bits, device, cap_mask, cap_bits,
        bandwidth, per_word, per_final, per_hop, mac_pj, mac_rate, tiles, counters, network, energy,
    )  # fmt: skip


@jit
def cost_batch(
    begin, end, factors, orders, bypass, problem, slots, hold, may_bypass, sizes, bits, device, cap_mask, cap_bits,
    bandwidth, per_word, per_final, per_hop, mac_pj, mac_rate, out_energy, out_cycles, out_reason, out_violation,
    loop_dim, loop_n, prefix, level_end, keep, tiles, counters, network, energy,
):  # fmt: skip
    """Rows begin..end-1 of a batch.

    factors [B, slots, 8]; orders [B, L, 8]: dimensions outermost first; bypass [B, L] tensor bits; problem [B]: row of
    sizes [., 9], bits [., 4], per_word [., L, 3, 2], ...; slots [L+3]: slot of each level, of x, y and the lanes.
    The last nine arrays are scratch, one set per thread.
    """
    n_levels = device[0]
    n_slots = factors.shape[1]
    for row in range(begin, end):
        b = np.uint64(row)
        reason = 0
        position = 0
        running = 1
        for level in range(n_levels):
            slot = slots[level]
            seen = 0
            for k in range(8):
                d = np.uint8(orders[b, level, k] & 7)
                n = np.int64(factors[b, slot, d])
                seen |= 1 << orders[b, level, k]
                loop_dim[index(position)] = d
                loop_n[index(position)] = n
                running *= n
                prefix[index(position)] = running
                position += n > 1
            if seen != 255:
                reason = FACTOR
            level_end[level] = position
            keep[level] = hold[level] & ~bypass[b, level]
            if hold[level] & bypass[b, level] & ~may_bypass[level]:
                reason |= BYPASS
        lowest = factors[b, 0, 0]
        for slot in range(n_slots):
            for d in range(8):
                lowest = min(lowest, factors[b, slot, d])
        if lowest < 1:
            reason |= FACTOR
        if reason != 0:
            out_reason[b] = reason
            out_violation[b] = math.inf
            out_energy[b] = math.inf
            out_cycles[b] = NO_CYCLES
            continue
        p = index(problem[b])
        reason, violation, total, cycles, _ = cost_of(
            b, p, factors, slots, loop_dim, loop_n, level_end, prefix, keep, sizes, bits, device, cap_mask,
            cap_bits, bandwidth, per_word, per_final, per_hop, mac_pj, mac_rate, tiles, counters, network, energy,
        )  # fmt: skip
        out_reason[b] = reason
        out_violation[b] = violation
        out_energy[b] = total
        out_cycles[b] = cycles
