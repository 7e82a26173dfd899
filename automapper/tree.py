"""Compiled half of the exhaustive engine: a walk over all splits of all dimensions that skips what cannot win.

The tree assigns one dimension after the other. A node is left when its tiles no longer fit, when the array has no room,
or when a lower bound of its cost is above the best mapping known.

Legend: L levels, 8 dimensions N G K C P Q R S. A split of a dimension is a row of L + 2 factors: one per level,
outermost first, then PEs, then lanes. Cost depends on how many PEs share a dimension, not on which axis they lie, so
that x and y are one factor here; whether factors fit on two axes is followed along (`reach`).
"""

import math

import numpy as np

from automapper.breed import C, G, K, N, P, Q, R, S, jit, uniform

W, I, O = range(3)
PLANES = 1 << N | 1 << G | 1 << C
RELEVANT = (1 << G | 1 << K | 1 << C | 1 << R | 1 << S, 255 & ~(1 << K), 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q)


@jit
def product(f, column, dims):
    """Product over the dimensions in the bit set `dims` of one column of f [8, L + 2]."""
    result = 1.0
    for d in range(8):
        if dims >> d & 1:
            result *= f[d, column]
    return result


@jit
def fits(f, stride, word, hold, caps, cap_bits, first_pe):
    """Whether the tiles of f, dimensions not yet assigned being 1, fit every level."""
    levels = f.shape[1] - 2
    x = np.ones(8)
    for d in range(8):
        x[d] = f[d, levels + 1]
    for level in range(levels - 1, 0, -1):
        for d in range(8):
            x[d] *= f[d, level]
            if level == first_pe - 1:
                x[d] *= f[d, levels]
        for group in range(3):
            mask = caps[level, group] & hold[level]
            need = 0.0
            if mask & 1:
                need += x[G] * x[K] * x[C] * x[R] * x[S] * word[0]
            if mask & 2:
                need += x[N] * x[G] * x[C] * ((x[P] - 1) * stride + x[R]) * ((x[Q] - 1) * stride + x[S]) * word[1]
            if mask & 4:
                need += x[N] * x[G] * x[K] * x[P] * x[Q] * word[2]
            if need > cap_bits[level, group]:
                return False
    return True


@jit
def again(f, child, relevant):
    """How often at least a whole tensor is brought to level `child` anew: loops outside the innermost level that has a
    loop over one of its dimensions, over the other dimensions."""
    times = 1.0
    started = False
    for level in range(child - 1, -1, -1):
        if started:
            times *= product(f, level, 255 & ~relevant)
        elif product(f, level, relevant) > 1:
            started = True
    return times


@jit
def more_rows(rows, gap, step_p, count_p, step_r, count_r):
    """Distinct rows at least, once loops over P and R repeat a run of them; and whether those may have gaps between
    them, after which no more are counted."""
    if gap:
        return rows, gap
    by_p = rows + (count_p - 1) * min(rows, step_p)
    by_r = rows + (count_r - 1) * min(rows, step_r)
    if by_p > by_r:
        return by_p, count_p > 1 and step_p > rows
    return by_r, count_r > 1 and step_r > rows


@jit
def input_words(f, cover, sizes, stride, child, first_pe, crossing):
    """Least input words that enter all instances of level `child`, and that its parent must read for them."""
    levels = f.shape[1] - 2
    step = np.ones(4)
    extent = np.ones(4)  # of P, Q, R, S at the child's tile
    for k in range(4):
        for level in range(child, levels):
            extent[k] *= f[P + k, level]
        extent[k] *= f[P + k, levels + 1]
        if child < first_pe:
            extent[k] *= f[P + k, levels]
        step[k] = extent[k]
    rows = (extent[0] - 1) * stride + extent[2]
    columns = (extent[1] - 1) * stride + extent[3]
    spread_rows = rows
    spread_columns = columns
    if crossing:
        spread_rows += (f[P, levels] - 1) * min(rows, stride * extent[0])
        spread_columns += (f[Q, levels] - 1) * min(columns, stride * extent[1])
    outside = 1.0
    started = False
    gap_rows = False
    gap_columns = False
    for level in range(child - 1, -1, -1):
        if started:
            outside *= product(f, level, 255 & ~PLANES)
            continue
        if level == first_pe - 1 and child >= first_pe:
            for k in range(4):
                step[k] *= f[P + k, levels]
        rows, gap_rows = more_rows(rows, gap_rows, stride * step[0], f[P, level], step[2], f[R, level])
        columns, gap_columns = more_rows(columns, gap_columns, stride * step[1], f[Q, level], step[3], f[S, level])
        for k in range(4):
            step[k] *= f[P + k, level]
        started = product(f, level, PLANES) > 1
    planes = cover[N] * cover[G] * cover[C]
    least = planes * min((sizes[P] - 1) * stride + sizes[R], sizes[P] * sizes[R])
    least *= min((sizes[Q] - 1) * stride + sizes[S], sizes[Q] * sizes[S])
    one = planes * rows * columns * outside
    together = planes * max(rows, spread_rows) * max(columns, spread_columns) * outside
    if child < first_pe:
        return max(one, least), max(one, least)
    each = one * product(f, levels, 255 & ~PLANES)
    return max(each, least * f[K, levels]), max(together, least)


@jit
def bound(
    f, assigned, sizes, stride, bits, hold, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate
):  # fmt: skip
    """A lower bound of (energy in pJ, cycles) of every mapping that splits the assigned dimensions as f does.

    f [8, L + 2], 1 where not assigned; the other arguments are rows of hw_model.tables.
    """
    levels = f.shape[1] - 2
    first_pe = device[1]
    multicast, reduction = device[5] != 0, device[6] != 0
    cover = np.empty(8)
    steps = 1.0
    pes = 1.0
    lanes = 1.0
    rest = 1.0
    rest_reduction = 1.0
    for d in range(8):
        cover[d] = sizes[d]
        if assigned >> d & 1:
            cover[d] = 1.0
            for column in range(levels + 2):
                cover[d] *= f[d, column]
            for level in range(levels):
                steps *= f[d, level]
            pes *= f[d, levels]
            lanes *= f[d, levels + 1]
        else:
            rest *= sizes[d]
            if d == C or d == R or d == S:  # noqa: SIM109, numba compiles this to less
                rest_reduction *= sizes[d]
    room = max(1.0, float(device[2] * device[3] // int(pes))) * max(1.0, float(device[4] // int(lanes)))
    cycles = math.ceil(steps * math.ceil(rest / room) * rate[1] / rate[0])
    macs = 1.0
    for d in range(8):
        macs *= cover[d]
    outputs = cover[N] * cover[G] * cover[K] * cover[P] * cover[Q]
    weights = cover[G] * cover[K] * cover[C] * cover[R] * cover[S]
    fan_w = product(f, levels, 1 << N | 1 << P | 1 << Q)
    fan_o = product(f, levels, 1 << C | 1 << R | 1 << S)
    energy = macs * mac_pj
    read = np.zeros(levels)
    written = np.zeros(levels)
    parent = np.zeros(3, np.int64)
    inner_o = 0
    for level in range(levels):
        if hold[level] & 4:
            inner_o = level
    for level in range(1, levels):
        in_pe = level >= first_pe
        if hold[level] & 1:
            crossing = in_pe and parent[W] < first_pe
            words = weights * again(f, level, RELEVANT[0])
            fills = words * (fan_w if in_pe else 1.0)
            reads = words if crossing and multicast else fills
            energy += fills * per_word[level, W, 1] + reads * per_word[parent[W], W, 0]
            if crossing:
                energy += fills * per_hop[W]
            read[parent[W]] += reads * bits[W]
            written[level] += fills * bits[W]
            parent[W] = level
        if hold[level] & 2:
            crossing = in_pe and parent[I] < first_pe
            fills, together = input_words(f, cover, sizes, stride, level, first_pe, crossing)
            reads = together if crossing and multicast else fills
            energy += fills * per_word[level, I, 1] + reads * per_word[parent[I], I, 0]
            if crossing:
                energy += fills * per_hop[I]
            read[parent[I]] += reads * bits[I]
            written[level] += fills * bits[I]
            parent[I] = level
        if hold[level] & 4:
            crossing = in_pe and parent[O] < first_pe
            groups = fan_o if in_pe else 1.0
            entered = outputs * again(f, level, RELEVANT[2]) * groups
            fills = entered - outputs * groups
            updates = entered / fan_o if crossing and reduction else entered
            reads = updates - outputs * (fan_o if parent[O] >= first_pe else 1.0)
            energy += fills * per_word[level, O, 1]
            energy += (updates - outputs) * per_word[level, O, 0] + outputs * per_final[level, 0]
            energy += (updates - outputs) * per_word[parent[O], O, 1] + outputs * per_final[parent[O], 1]
            energy += reads * per_word[parent[O], O, 0]
            if crossing:
                energy += (entered + fills - outputs) * per_hop[O] + outputs * per_hop[3]
            read[parent[O]] += reads * bits[O]
            written[level] += fills * bits[O]
            written[parent[O]] += (updates - outputs) * bits[O] + outputs * bits[3]
            parent[O] = level
    accesses = macs / device[4]
    if parent[W] >= first_pe:
        energy += accesses * per_word[parent[W], W, 0]
    if parent[I] >= first_pe:
        energy += accesses * per_word[parent[I], I, 0]
    if inner_o >= first_pe:
        energy += accesses * per_word[inner_o, O, 1]
        kept = outputs * fan_o * min(rest_reduction, room)
        energy += max(0.0, accesses - kept) * per_word[inner_o, O, 0]
    for level in range(first_pe):
        if bandwidth[level, 0] < math.inf:
            cycles = max(cycles, math.ceil(read[level] / bandwidth[level, 0] - 1e-6))
        if bandwidth[level, 1] < math.inf:
            cycles = max(cycles, math.ceil(written[level] / bandwidth[level, 1] - 1e-6))
    return energy, cycles


@jit
def spread(reach, into, factor):
    """into [x + 1]: the widths along x that `factor` more PEs can make of the widths in reach."""
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


@jit
def alive(
    f, d, row, k, assigned, pes, lanes, reach, best, weights,
    sizes, stride, bits, hold, caps, cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
):  # fmt: skip
    """Whether a mapping that beats `best` can have the split `row` of dimension d; f, pes, lanes and reach get it."""
    levels = f.shape[1] - 2
    f[d] = row
    pes[k + 1] = pes[k] * row[levels]
    lanes[k + 1] = lanes[k] * row[levels + 1]
    if pes[k + 1] > device[2] * device[3] or lanes[k + 1] > device[4]:
        return False
    spread(reach[k], reach[k + 1], row[levels])
    if not room_on_array(reach[k + 1], pes[k + 1], device[3]):
        return False
    if not fits(f, stride, bits, hold, caps, cap_bits, device[1]):
        return False
    energy, cycles = bound(
        f, assigned, sizes, stride, bits, hold, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate
    )
    return weights[0] * math.log(energy) + weights[1] * math.log(cycles) < best


@jit
def probe(
    rng, dims, table, start, best, weights, reach,
    sizes, stride, bits, hold, caps, cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
):  # fmt: skip
    """An unbiased estimate of the nodes of the tree, from one random way down (Knuth, Math. Comp. 29, 1975).

    rng [1]: uint64, of breed.uniform; the others as in `walk`.
    """
    depth = len(dims)
    f = np.ones((8, table.shape[1]), np.int64)
    pes, lanes = np.ones(depth + 1, np.int64), np.ones(depth + 1, np.int64)
    assigned = 0
    for d in range(8):
        if sizes[d] == 1:
            assigned |= 1 << d
    nodes, ways = 0.0, 1.0
    for k in range(depth):
        d = dims[k]
        assigned |= 1 << d
        nodes += ways * (start[k + 1] - start[k])
        count, chosen = 0, -1
        for i in range(start[k], start[k + 1]):
            if alive(
                f, d, table[i], k, assigned, pes, lanes, reach, best, weights, sizes, stride, bits, hold, caps,
                cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
            ):  # fmt: skip
                count += 1
                if uniform(rng) * count < 1.0:
                    chosen = i
        if count == 0:
            break
        ways *= count
        alive(
            f, d, table[chosen], k, assigned, pes, lanes, reach, best, weights, sizes, stride, bits, hold, caps,
            cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
        )  # fmt: skip
    return nodes


@jit
def walk(
    index, dims, table, start, best, weights, leaves, node_limit, reach,
    sizes, stride, bits, hold, caps, cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
):  # fmt: skip
    """Go on with the walk and write what may beat the score `best` into leaves [n, 8, L + 2].

    index [depth]: where the walk stands, changed in place; -1 everywhere at its start. table: the splits of dims[k] are
    rows start[k]..start[k+1]-1. weights: of log energy and log cycles in the score.
    Returns (leaves written, nodes visited, whether the walk is over).
    """
    depth = len(dims)
    columns = table.shape[1]
    levels = columns - 2
    f = np.ones((8, columns), np.int64)
    pes = np.ones(depth + 1, np.int64)
    lanes = np.ones(depth + 1, np.int64)
    assigned = 0
    k = 0
    while k < depth and index[k] >= 0:  # take up the way to where it stopped
        row = table[start[k] + index[k]]
        f[dims[k]] = row
        pes[k + 1] = pes[k] * row[levels]
        lanes[k + 1] = lanes[k] * row[levels + 1]
        assigned |= 1 << dims[k]
        k += 1
    for d in range(8):
        if sizes[d] == 1:
            assigned |= 1 << d
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
        if not alive(
            f, d, table[start[k] + index[k]], k, assigned, pes, lanes, reach, best, weights, sizes, stride, bits, hold,
            caps, cap_bits, device, bandwidth, per_word, per_final, per_hop, mac_pj, rate,
        ):  # fmt: skip
            continue
        if k + 1 < depth:
            k += 1
            continue
        leaves[written] = f
        written += 1
        if written == len(leaves) or nodes > node_limit:
            return written, nodes, False
    return written, nodes, True
