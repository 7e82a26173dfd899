"""Compiled: whether some dimensions may be split in a given way, and a lower bound of the cost of every mapping with
these splits.

Legend: L levels, 8 dimensions N G K C P Q R S. A split of a dimension is a row of L + 2 factors: one per level,
outermost first, then PEs, then lanes. Cost depends on how many PEs share a dimension, not on their axis, so x and y are
one factor here.
"""

import math
from typing import NamedTuple

import numpy as np

from hw_model import axis_words, indices
from hw_model.axis_words import DILATION, HIGH, LOW, OUTPUTS, STRIDE, TAPS
from hw_model.compiled_rules import capacity_bits, input_words, output_words, span, weight_words
from hw_model.disk_cache import jit_of
from hw_model.indices import (
    BOX,
    FIRST_PE,
    FORWARD,
    LANE_COUNT,
    MULTICAST,
    PLANES,
    REDUCE_X,
    REDUCE_Y,
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
)

SOURCES = (*axis_words.SOURCES, indices.__file__)
jit = jit_of(SOURCES, forceinline=True)
RELEVANT = (1 << G | 1 << K | 1 << C | 1 << R | 1 << S, 255 & ~(1 << K), 1 << N | 1 << G | 1 << K | 1 << P | 1 << Q)


@jit
def product(f, column, dims):
    """Product over the dimensions in the bit set `dims` of one column of f [8, L + 2]."""
    result = 1.0
    for d in range(8):
        if dims >> d & 1:
            result *= f[d, column]
    return result


class Room(NamedTuple):
    """What bounds write on: extents [8]; bits read, written [L]; parent [3], the level that a tensor comes from."""

    extents: np.ndarray
    read: np.ndarray
    written: np.ndarray
    parent: np.ndarray


def room_for(levels: int) -> Room:
    """New arrays for the bounds of a device with `levels` memory levels."""
    return Room(np.empty(8), np.empty(levels), np.empty(levels), np.empty(3, np.int64))


@jit
def fits(f, hold, chip, work, room):
    """Whether the tiles of f, dimensions not yet assigned being 1, fit every level."""
    levels = f.shape[1] - 2
    steps, bits, x = work.steps[0], work.bits[0], room.extents
    for d in range(8):
        x[d] = f[d, levels + 1]
    for level in range(levels - 1, 0, -1):
        for d in range(8):
            x[d] *= f[d, level]
            if level == chip.device[FIRST_PE] - 1:
                x[d] *= f[d, levels]
        rows, columns = span(x[P], x[R], steps[0], steps[2]), span(x[Q], x[S], steps[1], steps[3])
        inputs = input_words(x[N], x[G], x[C], rows, columns)
        weights, outputs = weight_words(x[G], x[K], x[C], x[R], x[S]), output_words(x[N], x[G], x[K], x[P], x[Q])
        for group in range(3):
            mask = chip.cap_mask[level, group] & hold[level]
            if capacity_bits(mask, weights, inputs, outputs, bits[W], bits[I], bits[O]) > chip.cap_bits[level, group]:
                return False
    return True


@jit
def again(f, child, relevant):
    """A lower bound on how often a whole tensor is moved to level `child`: the product of the loops over other
    dimensions, outside the innermost level that has a loop over one of the tensor's dimensions."""
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
def least_on_axis(f, side, child, together, chip, work):
    """A lower bound of the input positions of one axis that enter level `child`, summed over all blocks of the loops
    further out than the innermost level with a loop over N, G or C, and over PEs, or for all PEs `together`."""
    outputs, taps = (P, R) if side == 0 else (Q, S)
    real = work.real[0, side]  # all positions that anything needs: each enters at least once
    axis, first_pe, levels = work.axes[0, side], chip.device[FIRST_PE], f.shape[1] - 2
    stride, dilation = axis[STRIDE], axis[DILATION]
    in_pe = child >= first_pe
    if together and in_pe and chip.device[FORWARD]:
        return float(real)
    np_, nr = 1.0, 1.0
    for level in range(child, levels):
        np_ *= f[outputs, level]
        nr *= f[taps, level]
    np_ *= f[outputs, levels + 1]
    nr *= f[taps, levels + 1]
    fan_p, fan_r = float(f[outputs, levels]), float(f[taps, levels])
    if not in_pe:
        np_ *= fan_p
        nr *= fan_r
    box = chip.device[BOX] != 0
    covered_p = product(f, levels, 1 << outputs) * product(f, levels + 1, 1 << outputs)
    covered_r = product(f, levels, 1 << taps) * product(f, levels + 1, 1 << taps)
    for level in range(levels):
        covered_p *= f[outputs, level]
        covered_r *= f[taps, level]
    gapless = (np_ == 1 or stride == 1 or (dilation == 1 and nr >= stride)) and (
        nr == 1 or dilation == 1 or (stride == 1 and np_ >= dilation)
    )
    if not box and (not gapless or covered_p > axis[OUTPUTS] or covered_r > axis[TAPS]):
        return float(real)
    step_p, step_r = np_, nr
    run = span(np_, nr, stride, dilation)  # positions of a tile, then of a run of tiles
    wide = run
    if in_pe and together:
        wide += (fan_p - 1) * min(run, stride * np_)
    blocks, tap_blocks = 1.0, 1.0
    started = False
    gap = False
    for level in range(child - 1, -1, -1):
        if started:
            blocks *= f[outputs, level] * f[taps, level]
            tap_blocks *= f[taps, level]
            continue
        if level == first_pe - 1 and in_pe:
            step_p *= fan_p
            step_r *= fan_r
        run, gap = more_rows(run, gap, stride * step_p, f[outputs, level], dilation * step_r, f[taps, level])
        step_p *= f[outputs, level]
        step_r *= f[taps, level]
        started = product(f, level, PLANES) > 1
    if in_pe and not together:
        blocks *= fan_p * fan_r
        tap_blocks *= fan_r
    cut = 0.0  # positions of all blocks that are padding, at most
    if not box:
        reach = (axis[OUTPUTS] - 1) * stride + (axis[TAPS] - 1) * dilation + 1
        for end in range(2):
            padding = max(0.0, float(axis[LOW] if end == 0 else reach - axis[HIGH]))
            cut += padding if stride * np_ >= padding else padding * (padding + 1) / 2
    return max(float(real), max(run, wide) * blocks - tap_blocks * cut)


@jit
def least_inputs(f, child, crossing, chip, work):
    """Least input words that enter all instances of level `child`, and that its parent must read for them."""
    levels, first_pe = f.shape[1] - 2, chip.device[FIRST_PE]
    again_k = 1.0  # how often loops over K further out bring them once more
    started = False
    for level in range(child - 1, -1, -1):
        if started:
            again_k *= f[K, level]
        started = started or product(f, level, PLANES) > 1
    planes = float(work.words[0, I]) * again_k
    rows, columns = least_on_axis(f, 0, child, False, chip, work), least_on_axis(f, 1, child, False, chip, work)
    each = planes * rows * columns * (f[K, levels] if child >= first_pe else 1)
    if not crossing:
        return each, each
    rows, columns = least_on_axis(f, 0, child, True, chip, work), least_on_axis(f, 1, child, True, chip, work)
    if chip.device[FORWARD]:
        planes = float(work.words[0, I])
    return each, planes * rows * columns


@jit
def least_steps(f, assigned, chip, work):
    """(cycles that the MACs take at least, PEs times lanes left for the dimensions not assigned, product of those of
    them that are reduced)."""
    device, sizes, rate = chip.device, work.sizes[0], work.mac_rate[0]
    levels = f.shape[1] - 2
    steps = 1.0
    pes = 1.0
    lanes = 1.0
    rest = 1.0
    rest_reduction = 1.0
    for d in range(8):
        if assigned >> d & 1:
            for level in range(levels):
                steps *= f[d, level]
            pes *= f[d, levels]
            lanes *= f[d, levels + 1]
        else:
            rest *= sizes[d]
            if d == C or d == R or d == S:  # noqa: SIM109, numba compiles this to less
                rest_reduction *= sizes[d]
    room = max(1.0, float(device[X] * device[Y] // int(pes))) * max(1.0, float(device[LANE_COUNT] // int(lanes)))
    return math.ceil(steps * math.ceil(rest / room) * rate[1] / rate[0]), room, rest_reduction


@jit
def with_entering(energy, tensor, level, fills, reads, crossing, work, room):
    """`energy` with that of the words of W or I that enter a level, `fills`, and that the level before it reads for
    them, `reads`; room notes both, and the level as the tensor's new parent."""
    per_word, width, parent = work.per_word[0], work.bits[0, tensor], room.parent[tensor]
    energy += fills * per_word[level, tensor, 1] + reads * per_word[parent, tensor, 0]
    if crossing:
        energy += fills * work.per_hop[0, tensor]
    room.read[parent] += reads * width
    room.written[level] += fills * width
    room.parent[tensor] = level
    return energy


@jit_of(SOURCES, forceinline=True, from_python=True)
def bound(f, assigned, hold, chip, work, room):
    """A lower bound of (energy in pJ, cycles) of every mapping that splits the assigned dimensions as f does.

    f [8, L + 2], 1 where not assigned.
    """
    device, bandwidth, sizes, bits = chip.device, chip.bandwidth, work.sizes[0], work.bits[0]
    per_word, per_final, per_hop = work.per_word[0], work.per_final[0], work.per_hop[0]
    levels = f.shape[1] - 2
    first_pe = device[FIRST_PE]
    multicast = device[MULTICAST] != 0
    reduction = device[REDUCE_X] != 0 or device[REDUCE_Y] != 0
    cycles, units, rest_reduction = least_steps(f, assigned, chip, work)
    macs, weights, outputs = float(work.macs[0]), float(work.words[0, W]), float(work.words[0, O])
    fan_w = product(f, levels, 1 << N | 1 << P | 1 << Q)
    fan_o = product(f, levels, 1 << C | 1 << R | 1 << S)
    gate = work.gate[0]
    energy = gate * macs * work.mac_pj[0]
    read, written, parent = room.read, room.written, room.parent
    read[:] = 0.0
    written[:] = 0.0
    parent[:] = 0
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
            energy = with_entering(energy, W, level, fills, reads, crossing, work, room)
        if hold[level] & 2:
            crossing = in_pe and parent[I] < first_pe
            fills, together = least_inputs(f, level, crossing, chip, work)
            reads = together if crossing and multicast else fills
            energy = with_entering(energy, I, level, fills, reads, crossing, work, room)
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
    accesses = macs / device[LANE_COUNT]
    if parent[W] >= first_pe:
        energy += gate * accesses * per_word[parent[W], W, 0]
    if parent[I] >= first_pe:
        real_pairs = float(work.fetches[0]) * sizes[K]  # operands that are no padding
        energy += real_pairs / device[LANE_COUNT] * per_word[parent[I], I, 0]
    if inner_o >= first_pe:
        energy += gate * accesses * per_word[inner_o, O, 1]
        kept = outputs * fan_o * min(rest_reduction, units)
        energy += gate * max(0.0, accesses - kept) * per_word[inner_o, O, 0]
    for level in range(first_pe):
        if bandwidth[level, 0] < math.inf:
            cycles = max(cycles, math.ceil(read[level] / bandwidth[level, 0] - 1e-6))
        if bandwidth[level, 1] < math.inf:
            cycles = max(cycles, math.ceil(written[level] / bandwidth[level, 1] - 1e-6))
    return energy + cycles * work.idle_pj_per_cycle[0], cycles
