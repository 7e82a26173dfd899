"""The compiled cost function: one mapping's counters, energy and cycles; and the loop over a batch of them.

It is imported on first use (`kernel_loader.py`), so that `import hw_model` stays light.

Legend: L memory levels (0 = DRAM), 8 dimensions N G K C P Q R S, 3 tensors W I O, M temporal loops, B mappings.
`chip` is a DeviceTable, `work` a ProblemTable (row p of it), `scratch` a Scratch, all of `tables`.
Counting rules: docs/hardware.md, "What is counted".
"""

import math

import numpy as np

from hw_model.axis_words import (
    ALL,
    EACH,
    Loops,
    Tile,
    part,
    remembered,
)
from hw_model.compiled_rules import capacity_bits, input_words, output_words, returning, span, weight_words
from hw_model.disk_cache import jit_of
from hw_model.indices import (
    FIRST_PE,
    FORWARD,
    FUSED_DIMS,
    HOME,
    LANE_COUNT,
    LANE_DIMS,
    LEVELS,
    MULTICAST,
    QUEUES,
    REDUCE_X,
    REDUCE_Y,
    SHARING,
    STAYS,
    TILES,
    X_DIMS,
    Y_DIMS,
    C,
    G,
    I,
    K,
    N,
    O,
    P,
    Q,
    R,
    S,
    W,
    X,
    Y,
    index,
)
from hw_model.moved_inputs import SOURCES, inputs_moved
from hw_model.passed_tiles import list_spatial

READS, FILLS, UPDATES, DRAINS = range(4)
FACTOR, OVERFLOW, ARRAY_X, ARRAY_Y, LANES, UNCOVERED, CAPACITY, BYPASS = (1 << bit for bit in range(8))
LIMIT = 2.0**53
NO_SLOT = 255  # where a device has no lanes
ALL_DIMS = 255
NO_CYCLES = 2**62  # of an invalid mapping: worse than any valid one
REDUCED = 1 << C | 1 << R | 1 << S
RELEVANT_W = 1 << G | 1 << K | REDUCED
RELEVANT_O = 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q

jit, entry = jit_of(SOURCES), jit_of(SOURCES, from_python=True)


@part
def check(b, p, factors, chip, work, scratch):
    """Fill tiles [L+1, 8] (row L: one PE's step) and find what makes the mapping invalid.

    Returns (reason bits, violation): violation is the sum of log2(needed / available) over everything exceeded; a
    dimension on an axis that may not carry it exceeds by its whole factor.
    """
    slots, tiles, sizes, steps = chip.slots, scratch.tiles, work.sizes, work.steps
    n_levels, first_pe = chip.device[LEVELS], chip.device[FIRST_PE]
    slot_x, slot_y = slots[index(n_levels)], slots[index(n_levels + 1)]
    slot_lanes = slots[index(n_levels + 2)]
    x = 1.0
    y = 1.0
    v = 1.0
    along_x = 0
    along_y = 0
    for d in range(8):
        x *= factors[b, slot_x, d]
        y *= factors[b, slot_y, d]
        along_x |= (factors[b, slot_x, d] > 1) << d
        along_y |= (factors[b, slot_y, d] > 1) << d
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
    if total * work.mac_rate[p, 1] > LIMIT:
        return OVERFLOW, 1.0 + math.log2(total * work.mac_rate[p, 1] / LIMIT)
    reason, violation = check_array(b, x, y, v, along_x, along_y, factors, chip, scratch)
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
        end = scratch.level_end[index(step - 1)] if step > 0 else 0
        outside = float(scratch.prefix[index(end - 1)]) if end > 0 else 1.0
        if step >= first_pe:
            outside *= x * y
        rows = span(float(tiles[level, P]), tiles[level, R], steps[p, 0], steps[p, 2])
        columns = span(float(tiles[level, Q]), tiles[level, S], steps[p, 1], steps[p, 3])
        inputs = input_words(tiles[level, N] * tiles[level, G], tiles[level, C], 1.0, rows, columns)
        if inputs * outside > LIMIT:  # bounds every input counter of this level
            return OVERFLOW, 1.0 + math.log2(inputs * outside / LIMIT)
        weights = weight_words(
            float(tiles[level, G]), tiles[level, K], tiles[level, C], tiles[level, R], tiles[level, S]
        )
        outputs = output_words(
            float(tiles[level, N]), tiles[level, G], tiles[level, K], tiles[level, P], tiles[level, Q]
        )
        for group in range(3):
            mask = chip.cap_mask[level, group] & scratch.keep[level]
            if mask == 0:
                continue
            need = capacity_bits(mask, weights, inputs, outputs, work.bits[p, W], work.bits[p, I], work.bits[p, O])
            if need > chip.cap_bits[level, group]:
                reason |= CAPACITY
                violation += math.log2(need / chip.cap_bits[level, group])
    for d in range(8):
        if tiles[0, d] < sizes[p, d]:
            reason |= UNCOVERED
            violation += math.log2(sizes[p, d] / tiles[0, d])
    return reason, violation


@part
def check_array(b, x, y, v, along_x, along_y, factors, chip, scratch):
    """What of the array and the lanes is exceeded, as `check` returns it. x, y, v: PEs along x and y, and lanes, that
    the mapping needs; along_x, along_y: bits of the dimensions that lie there."""
    n_levels = chip.device[LEVELS]
    slot_x, slot_y = chip.slots[index(n_levels)], chip.slots[index(n_levels + 1)]
    reason = 0
    violation = 0.0
    if x > chip.device[X]:
        reason |= ARRAY_X
        violation += math.log2(x / chip.device[X])
    if y > chip.device[Y]:
        reason |= ARRAY_Y
        violation += math.log2(y / chip.device[Y])
    if along_x & ~chip.device[X_DIMS] or along_y & ~chip.device[Y_DIMS]:
        for d in range(8):
            if along_x & ~chip.device[X_DIMS] & 1 << d:
                reason |= ARRAY_X
                violation += math.log2(factors[b, slot_x, d])
            if along_y & ~chip.device[Y_DIMS] & 1 << d:
                reason |= ARRAY_Y
                violation += math.log2(factors[b, slot_y, d])
    if v > chip.device[LANE_COUNT]:
        reason |= LANES
        violation += math.log2(v / chip.device[LANE_COUNT])
    if v > 1 and chip.device[LANE_DIMS] != ALL_DIMS:
        for d in range(8):
            if scratch.tiles[index(n_levels), d] > 1 and not chip.device[LANE_DIMS] >> d & 1:
                reason |= LANES
                violation += math.log2(scratch.tiles[index(n_levels), d])
    return reason, violation


@part
def turns(end, loop_dim, prefix, relevant):
    """How often a tile is replaced by loops 0..end-1: loops inside the innermost relevant one leave it in place."""
    for j in range(end - 1, -1, -1):
        if relevant >> loop_dim[index(j)] & 1:
            return prefix[index(j)]
    return 1


@part
def blocks(size, outer, inside, lanes):
    """Steps of the loops inside a PE, of all blocks of `outer` iterations, that have a real iteration on some PE.

    A dimension of `size`: blocks of `outer` iterations, of which a PE takes `inside` (lanes at once); only the first
    PE's part decides, as it starts first.
    """
    whole = size // outer
    rest = size - whole * outer
    return whole * (inside // lanes) + -(-min(rest, inside) // lanes)


@jit
def note_alone(b, factors, x, y, alone):
    """Which dimensions have an axis of the array to themselves, so that the next PE along it is a neighbour."""
    for slot in (x, y):
        most = 1
        for d in range(8):
            most *= factors[b, slot, d]
        for d in range(8):
            if most > 1 and factors[b, slot, d] == most:
                alone[d] = True


@part
def start_count(b, factors, chip, scratch):
    """Clear counters and network, fill fan [8], PEs along each dimension, and alone [8]; returns the PEs that reduce
    into the same word on an axis that cannot add them up."""
    device, fan = chip.device, scratch.fan
    n_levels = device[LEVELS]
    for level in range(n_levels):
        for tensor in range(3):
            for counter in range(4):
                scratch.counters[level, tensor, counter] = 0
    for tensor in range(4):
        scratch.network[tensor] = 0
    x, y = chip.slots[index(n_levels)], chip.slots[index(n_levels + 1)]
    apart = 1
    for d in range(8):
        fan[d] = np.int64(factors[b, x, d]) * factors[b, y, d]
        scratch.alone[d] = False
        if REDUCED >> d & 1:
            if not device[REDUCE_X]:
                apart *= factors[b, x, d]
            if not device[REDUCE_Y]:
                apart *= factors[b, y, d]
    if device[FORWARD] == QUEUES:
        note_alone(b, factors, x, y, scratch.alone)
    return apart


@part
def count(b, p, factors, chip, work, scratch):
    """Words moved: counters [L, 3, 4] (reads, fills, updates, drains) and network [4] (W, I, O, of O down to PEs).

    Of a tensor's own dimensions only real iterations count, and of the MACs' operands only those of real MACs. A tensor
    that stays on the chip begins, or ends, at its home in place of DRAM. Returns steps, PEs, the level where MACs add,
    and how many partial sums of outputs that stay would leave and return: a mapping is valid with none only.
    """
    device, tiles, keep = chip.device, scratch.tiles, scratch.keep
    counters, network, fan, level_end = scratch.counters, scratch.network, scratch.fan, scratch.level_end
    n_levels, first_pe = device[LEVELS], device[FIRST_PE]
    multicast = device[MULTICAST] != 0
    apart = start_count(b, factors, chip, scratch)
    end = level_end[index(n_levels - 1)]
    pe_end = level_end[index(first_pe - 1)]
    steps = scratch.prefix[index(end - 1)] if end > 0 else 1
    reducing = fan[C] * fan[R] * fan[S]
    copies_w = fan[N] * fan[P] * fan[Q]
    pes_w = fan[G] * fan[K] * reducing
    pes_o = fan[N] * fan[G] * fan[K] * fan[P] * fan[Q]
    pes = pes_o * reducing
    exact = True
    for d in range(8):
        exact &= tiles[0, d] == work.sizes[p, d]
    weights, outputs = work.words[p, W], work.words[p, O]

    stays, home = device[STAYS], index(device[HOME])
    parent_w = home if stays & 1 else index(0)
    parent_i = home if stays & 2 else index(0)
    parent_o = home if stays & 4 else index(0)
    for step in range(1, n_levels):
        level = index(step)
        end = level_end[index(step - 1)]
        inside_pe = step >= first_pe
        if keep[level] & 1:
            words = weight_words(tiles[level, G], tiles[level, K], tiles[level, C], tiles[level, R], tiles[level, S])
            words *= turns(end, scratch.loop_dim, scratch.prefix, RELEVANT_W) * (pes_w if inside_pe else 1)
            if not exact:  # so many times the whole tensor, as padded: count the real one
                padded = weight_words(tiles[0, G], tiles[0, K], tiles[0, C], tiles[0, R], tiles[0, S])
                words = words // padded * weights
            crossing = inside_pe and parent_w < first_pe
            fills = words * (copies_w if inside_pe else 1)
            counters[level, W, FILLS] = fills
            counters[parent_w, W, READS] = words if crossing and multicast else fills
            if crossing:
                network[W] = fills
            parent_w = level
        if keep[level] & 2:
            crossing = inside_pe and parent_i < first_pe
            fills, together = inputs_moved(end, pe_end, level, inside_pe, crossing, pes, exact, chip, work, p, scratch)
            counters[level, I, FILLS] = fills
            counters[parent_i, I, READS] = together if crossing and multicast else fills
            if crossing:
                network[I] = fills
            parent_i = level
        if keep[level] & 4:
            words = output_words(tiles[level, N], tiles[level, G], tiles[level, K], tiles[level, P], tiles[level, Q])
            words *= turns(end, scratch.loop_dim, scratch.prefix, RELEVANT_O) * (pes_o if inside_pe else 1)
            if not exact:
                padded = output_words(tiles[0, N], tiles[0, G], tiles[0, K], tiles[0, P], tiles[0, Q])
                words = words // padded * outputs
            crossing = inside_pe and parent_o < first_pe
            entered = words * (reducing if inside_pe else 1)
            updates = words * apart if crossing else entered
            counters[level, O, FILLS] = returning(entered, outputs * (reducing if inside_pe else 1))
            if stays & 4 and level == home:  # the last sum is written as the output, which is not read out again
                continue
            counters[level, O, DRAINS] = updates
            counters[parent_o, O, UPDATES] = updates
            counters[parent_o, O, READS] = returning(updates, outputs * (reducing if parent_o >= first_pe else 1))
            if crossing:
                network[O] = entered
                network[3] = counters[level, O, FILLS]
            parent_o = level
    operands(b, p, factors, steps, pes, apart, exact, chip, work, scratch, parent_w, parent_i, parent_o)
    spilt = np.int64(0)
    if stays & 4:
        spilt = counters[home, O, FILLS] if keep[home] & 4 else counters[home, O, READS]
    return steps, pes, parent_o, spilt


@part
def operands(b, p, factors, steps, pes, apart, exact, chip, work, scratch, parent_w, parent_i, parent_o):
    """What the MACs take from, and add to, the innermost level that holds each tensor: one access per real MAC, one for
    all lanes of a PE that need the same word, and from a shared level one for all PEs that do.

    exact: no factor overshoots its dimension, so that every step of every lane is a real MAC.
    """
    device, tiles, fan, counters, network = chip.device, scratch.tiles, scratch.fan, scratch.counters, scratch.network
    n_levels, first_pe = device[LEVELS], device[FIRST_PE]
    multicast = device[MULTICAST] != 0
    lane = index(n_levels)  # row of tiles: one step of a PE
    reducing = fan[C] * fan[R] * fan[S]
    if exact:
        per_pe_w, per_pe_o, groups = steps * pes, steps * pes, reducing
        shared_w = steps * fan[G] * fan[K] * reducing
        shared_o = steps * fan[N] * fan[G] * fan[K] * fan[P] * fan[Q] * apart
        blocks_k, shared_k = work.sizes[p, K], work.sizes[p, K]
        if chip.slots[index(n_levels + 2)] != NO_SLOT:
            words = weight_words(tiles[lane, G], tiles[lane, K], tiles[lane, C], tiles[lane, R], tiles[lane, S])
            per_pe_w *= words
            shared_w *= words
            words = output_words(tiles[lane, N], tiles[lane, G], tiles[lane, K], tiles[lane, P], tiles[lane, Q])
            per_pe_o *= words
            shared_o *= words
            blocks_k //= tiles[lane, K]
            shared_k = blocks_k
        if parent_i < first_pe:
            shared_k //= fan[K]
    else:
        partly_real(b, p, factors, chip, work, scratch)
        real = scratch.real
        per_pe_w, shared_w, per_pe_o, shared_o = real[0], real[1], real[2], real[3]
        groups, blocks_k, shared_k = real[4], real[5], real[6]
    counters[parent_w, W, READS] = per_pe_w
    if parent_w < first_pe:
        network[W] = per_pe_w
        if multicast:
            counters[parent_w, W, READS] = shared_w
    fetched = work.fetches[p]  # real (output, tap) pairs of both axes, times N, G, C
    if tiles[lane, P] * tiles[lane, Q] * tiles[lane, R] * tiles[lane, S] > 1:
        fetched = work.words[p, I] * fetched_words(EACH, fan, chip, work, p, scratch)
    counters[parent_i, I, READS] = fetched * blocks_k
    if parent_i < first_pe:
        network[I] = fetched * blocks_k
        if multicast:
            if fan[P] * fan[Q] * fan[R] * fan[S] > 1:
                sharing = device[SHARING]
                fetched = work.words[p, I] * fetched_words(sharing, fan, chip, work, p, scratch)
            counters[parent_i, I, READS] = fetched * shared_k
    updates = per_pe_o
    if parent_o < first_pe:
        network[O] = updates
        network[3] = returning(updates, work.words[p, O] * groups)
        updates = shared_o
        groups = 1
    counters[parent_o, O, UPDATES] = updates
    counters[parent_o, O, READS] = returning(updates, work.words[p, O] * groups)


@jit
def partly_real(b, p, factors, chip, work, scratch):
    """Accesses of the MACs where loops overshoot, into scratch.real [7]: to W per PE, and for all PEs together; to O
    likewise; PEs that hold partial sums of the same output; blocks of K per PE, and for all PEs together."""
    device, tiles, fan = chip.device, scratch.tiles, scratch.fan
    lane, inside = device[LEVELS], device[FIRST_PE]
    real = scratch.real
    real[:] = 1
    for d in range(8):
        size, lanes, part_of_pe = work.sizes[p, d], tiles[lane, d], tiles[inside, d]
        per_pe = -(-size // lanes)  # steps of this dimension with a real iteration in some lane
        together = blocks(size, part_of_pe * fan[d], part_of_pe, lanes)
        real[0] *= size if RELEVANT_W >> d & 1 else per_pe
        real[1] *= size if RELEVANT_W >> d & 1 else together
        if RELEVANT_O >> d & 1:
            real[2] *= size
            real[3] *= size
        else:
            real[2] *= per_pe
            real[4] *= min(fan[d], -(-size // part_of_pe))
            along_x = np.int64(factors[b, chip.slots[lane], d])
            if device[REDUCE_X] and device[REDUCE_Y]:
                real[3] *= together
            elif device[REDUCE_X]:  # y outside x: each row of PEs on its own
                real[3] *= blocks(size, part_of_pe * along_x, part_of_pe, lanes)
            elif device[REDUCE_Y]:  # each column on its own
                whole = size // (part_of_pe * fan[d])
                rest = min(size - whole * part_of_pe * fan[d], part_of_pe * along_x)
                real[3] *= whole * along_x * (part_of_pe // lanes) + -(-rest // lanes)
            else:
                real[3] *= per_pe
        if d == K:
            real[5], real[6] = per_pe, together


@jit
def fetched_words(sharing, fan, chip, work, p, scratch):
    """Real input words that MACs fetch in all steps, for one plane: distinct ones among the lanes of a PE, and among
    the PEs that `sharing` serves with one read."""
    first_pe, lane = chip.device[FIRST_PE], chip.device[LEVELS]
    total = 1
    for side in range(2):
        outputs, taps = (P, R) if side == 0 else (Q, S)
        per_pe_p, per_pe_r = scratch.tiles[first_pe, outputs], scratch.tiles[first_pe, taps]
        np_, nr = scratch.tiles[lane, outputs], scratch.tiles[lane, taps]
        # loops over whole blocks of all PEs, then those inside a PE; the order does not matter for a sum over all steps
        dims, trips, steps = scratch.axis_dims[side], scratch.axis_trips[side], scratch.axis_steps[side]
        m = 0
        for kind in range(2):
            size, part_of_pe, lanes, fans = (
                (scratch.tiles[0, outputs], per_pe_p, np_, fan[outputs])
                if kind == 0
                else (scratch.tiles[0, taps], per_pe_r, nr, fan[taps])
            )
            dims[m], trips[m], steps[m] = kind, size // (part_of_pe * fans), part_of_pe * fans
            dims[m + 1], trips[m + 1], steps[m + 1] = kind, part_of_pe // lanes, lanes
            m += 2
        tile = Tile(np_, nr, per_pe_p, per_pe_r, fan[outputs], fan[taps])
        loops = Loops(dims, trips, steps, m)
        row = remembered(work.operand_axes[p, side], loops, tile, 0, 0, sharing, -1, ALL, 2 * side, scratch)
        total *= scratch.memo_sums[2 * side, row, 0, m]
    return total


@part
def price(p, chip, work, scratch, steps, pes, accumulator):
    """Energy (pJ) of every part, energy [L+3, 3] (levels, then network, then MACs and idle power in column 0), and
    cycles.

    Of problem p: per_word [., L, 3, 2]: pJ per word read, written; per_final [., L, 2]: of a finished output; per_hop
    [., 4]: network, per word of W, I, partial sums, finished outputs; mac_rate [., 2]: MACs per unit and cycle; gate
    [.]: share of MACs, of their reads of weights and of their partial sums that zero inputs do not save.
    """
    counters, network, energy, bandwidth, bits = (
        scratch.counters, scratch.network, scratch.energy, chip.bandwidth, work.bits,
    )  # fmt: skip
    n_levels, first_pe = chip.device[LEVELS], chip.device[FIRST_PE]
    outputs = work.words[p, O]
    cycles = steps
    if work.mac_rate[p, 0] != work.mac_rate[p, 1]:
        fused = steps  # trips of the loops that a unit does several of side by side
        if chip.device[FUSED_DIMS] != ALL_DIMS:
            fused = 1
            for d in range(8):
                if chip.device[FUSED_DIMS] >> d & 1:
                    fused *= scratch.tiles[0, d] // (scratch.fan[d] * scratch.tiles[index(n_levels), d])
        cycles = steps // fused * -((-fused * work.mac_rate[p, 1]) // work.mac_rate[p, 0])
    wait = 0.0  # cycles, as a float: a bandwidth far below one bit per cycle must not wrap around
    total = 0.0
    innermost_w = True
    for step in range(n_levels - 1, -1, -1):
        level = index(step)
        reads_w, fills_w = counters[level, W, READS], counters[level, W, FILLS]
        reads_i, fills_i = counters[level, I, READS], counters[level, I, FILLS]
        reads_o, fills_o = counters[level, O, READS], counters[level, O, FILLS]
        updates_o, drains_o = counters[level, O, UPDATES], counters[level, O, DRAINS]
        holds_o = updates_o > 0
        finished = outputs if holds_o and step < accumulator else 0  # the innermost level adds partial sums only
        drained = outputs if drains_o > 0 else 0
        gate_w = work.gate[p] if innermost_w and step >= first_pe else 1.0
        gate_o = work.gate[p] if step == accumulator and step >= first_pe else 1.0
        if reads_w > 0:
            innermost_w = False
        energy_w = gate_w * reads_w * work.per_word[p, level, W, 0] + fills_w * work.per_word[p, level, W, 1]
        energy_i = reads_i * work.per_word[p, level, I, 0] + fills_i * work.per_word[p, level, I, 1]
        energy_o = (
            (gate_o * reads_o + drains_o - drained) * work.per_word[p, level, O, 0]
            + drained * work.per_final[p, level, 0]
            + (fills_o + gate_o * updates_o - finished) * work.per_word[p, level, O, 1]
            + finished * work.per_final[p, level, 1]
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
    energy[n_levels, W] = network[W] * work.per_hop[p, W]
    energy[n_levels, I] = network[I] * work.per_hop[p, I]
    energy[n_levels, O] = 0.0
    if network[O] > 0:
        energy[n_levels, O] = (network[O] + network[3] - outputs) * work.per_hop[p, O] + outputs * work.per_hop[p, 3]
    energy[n_levels + 1, 0] = work.gate[p] * work.macs[p] * work.mac_pj[p]
    total += energy[n_levels, W] + energy[n_levels, I] + energy[n_levels, O] + energy[n_levels + 1, 0]
    if wait > LIMIT:
        return total, NO_CYCLES
    cycles = max(cycles, np.int64(wait))
    energy[n_levels + 2, 0] = cycles * work.idle_pj_per_cycle[p]
    return total + energy[n_levels + 2, 0], cycles


@part
def list_loops(b, batch, chip, scratch):
    """Fill loop_dim, loop_n, prefix, level_end and keep of scratch from row b; returns reason bits, 0 where it is a
    mapping at all."""
    n_levels = chip.device[LEVELS]
    factors, orders, bypass = batch.factors, batch.orders, batch.bypass
    hold, may_bypass, slots = chip.hold, chip.may_bypass, chip.slots
    loop_dim, loop_n, prefix, level_end, keep = (
        scratch.loop_dim, scratch.loop_n, scratch.prefix, scratch.level_end, scratch.keep,
    )  # fmt: skip
    n_slots = factors.shape[1]
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
    if chip.device[FORWARD] == TILES and not list_spatial(b, batch, chip, scratch):
        reason |= FACTOR
    lowest = factors[b, 0, 0]
    for slot in range(n_slots):
        for d in range(8):
            lowest = min(lowest, factors[b, slot, d])
    if lowest < 1:
        reason |= FACTOR
    return reason


@entry
def cost_batch(begin, end, batch, chip, work, scratch, result):
    """Rows begin..end-1 of a batch.

    batch: factors [B, slots, 8]; orders [B, L, 8]: dimensions outermost first; bypass [B, L] tensor bits; problem [B]:
    row of the ProblemTable. result: energy_pj, cycles, reason bits, violation [B]; energy is infinite where a mapping
    is invalid. No orders (B = 0 of them): the loops of the one row stand in scratch already (loop_dim, loop_n, prefix,
    level_end, keep), in any order, a dimension repeated or not.
    """
    factors, listed = batch.factors, len(batch.orders) > 0
    for row in range(begin, end):
        b = np.uint64(row)
        p = index(batch.problem[b])
        total, cycles = math.inf, NO_CYCLES
        reason, violation = 0, math.inf
        if listed:
            reason = list_loops(b, batch, chip, scratch)
        if reason == 0:
            reason, violation = check(b, p, factors, chip, work, scratch)
        if reason == 0:
            steps, pes, accumulator, spilt = count(b, p, factors, chip, work, scratch)
            if spilt > 0:
                reason, violation = CAPACITY, math.log2(1.0 + spilt / work.words[p, O])
            else:
                total, cycles = price(p, chip, work, scratch, steps, pes, accumulator)
        if reason == 0 and cycles == NO_CYCLES:
            reason, violation, total = OVERFLOW, 1.0, math.inf
        result.reason[b] = reason
        result.violation[b] = violation
        result.energy_pj[b] = total
        result.cycles[b] = cycles
