"""Compiled: the input words that move between levels. What overlaps between neighbouring tiles moves once.

Where every tile is an unbroken box of real words they have a closed form (`boxes_moved`); where tiles have gaps, or
parts of them are padding, they are counted along each axis (`tiles_moved`, by `axis_words`). Neighbouring PEs may pass
words on (`forwarded_together`) or whole tiles (`passed_tiles`).

The arguments are those of `kernel`; counting rules: docs/hardware.md, "What is counted".
"""

import numpy as np

from hw_model import passed_tiles
from hw_model.axis_words import (
    ALL,
    DILATION,
    EACH,
    IDENTICAL,
    STRIDE,
    TAIL,
    Loops,
    Tile,
    distinct_starts,
    part,
    remembered,
    union_length,
)
from hw_model.compiled_rules import span
from hw_model.disk_cache import jit_of
from hw_model.indices import (
    BOX,
    FIRST_PE,
    FORWARD,
    MULTICAST,
    PLANES,
    QUEUES,
    SHARING,
    TILES,
    C,
    G,
    I,
    K,
    N,
    P,
    Q,
    R,
    S,
    index,
)
from hw_model.passed_tiles import passed_on

SOURCES = (*passed_tiles.SOURCES, __file__)

jit = jit_of(SOURCES)


@part
def boxes_moved(end, pe_end, level, spread, fan, chip, work, p, scratch):
    """Input words where every tile is an unbroken box of real words: of one PE of each plane, and of all PEs together,
    for the planes N, G, C that the loops cover. As `tiles_moved`, but in closed form."""
    tiles, loop_dim, loop_n = scratch.tiles, scratch.loop_dim, scratch.loop_n
    neighbours = index(chip.device[FIRST_PE])
    stride_p, dilation_r = work.axes[p, 0, STRIDE], work.axes[p, 0, DILATION]
    stride_q, dilation_s = work.axes[p, 1, STRIDE], work.axes[p, 1, DILATION]
    part_p, part_r = tiles[level, P], tiles[level, R]
    part_q, part_s = tiles[level, Q], tiles[level, S]
    rows = span(part_p, part_r, stride_p, dilation_r)
    columns = span(part_q, part_s, stride_q, dilation_s)
    planes = tiles[level, N] * tiles[level, G] * tiles[level, C]
    all_planes = planes * fan[N] * fan[G] * fan[C]
    if level < neighbours:
        all_planes = planes
    words = rows * columns
    all_rows = rows
    all_columns = columns
    step_p = stride_p * tiles[neighbours, P]
    step_r = dilation_r * tiles[neighbours, R]
    step_q = stride_q * tiles[neighbours, Q]
    step_s = dilation_s * tiles[neighbours, S]
    identical = chip.device[SHARING] == IDENTICAL
    starts_rows = 1
    starts_columns = 1
    if spread:
        if identical:
            starts_rows = distinct_starts(step_p, fan[P], step_r, fan[R])
            starts_columns = distinct_starts(step_q, fan[Q], step_s, fan[S])
            all_rows = rows * starts_rows
            all_columns = columns * starts_columns
        else:
            all_rows = union_length(rows, step_p, fan[P], step_r, fan[R])
            all_columns = union_length(columns, step_q, fan[Q], step_s, fan[S])
    together = all_rows * all_columns
    back_rows = 0
    back_columns = 0
    fanned = False
    for j in range(end - 1, -1, -1):
        d = loop_dim[index(j)]
        if PLANES >> d & 1:  # nothing of the old tile is left, and so for all loops further out
            words *= scratch.prefix[index(j)]
            together *= scratch.prefix[index(j)]
            break
        n = loop_n[index(j)]
        if j < pe_end and not fanned:
            fanned = True
            part_p *= fan[P]
            part_q *= fan[Q]
            part_r *= fan[R]
            part_s *= fan[S]
        shift_rows = -back_rows
        shift_columns = -back_columns
        if d == P:
            shift_rows += stride_p * part_p
            back_rows += stride_p * part_p * (n - 1)
            part_p *= n
        elif d == R:
            shift_rows += dilation_r * part_r
            back_rows += dilation_r * part_r * (n - 1)
            part_r *= n
        elif d == Q:
            shift_columns += stride_q * part_q
            back_columns += stride_q * part_q * (n - 1)
            part_q *= n
        elif d == S:
            shift_columns += dilation_s * part_s
            back_columns += dilation_s * part_s * (n - 1)
            part_s *= n
        shift_rows = abs(shift_rows)
        shift_columns = abs(shift_columns)
        overlap = max(0, rows - shift_rows) * max(0, columns - shift_columns)
        words = n * words - (n - 1) * overlap
        if spread:
            kept_rows = 0
            kept_columns = 0
            if shift_rows < rows:
                if identical:
                    kept_rows = (rows - shift_rows) * starts_rows
                else:
                    kept_rows = all_rows - union_length(shift_rows, step_p, fan[P], step_r, fan[R])
            if shift_columns < columns:
                if identical:
                    kept_columns = (columns - shift_columns) * starts_columns
                else:
                    kept_columns = all_columns - union_length(shift_columns, step_q, fan[Q], step_s, fan[S])
            together = n * together - (n - 1) * kept_rows * kept_columns
    return words * all_planes, together * all_planes


@jit
def list_axis(side, end, pe_end, level, fan, first_pe, scratch):
    """The loops outside a level that move along one axis (side 0: rows, 1: columns), for `axis_words`.

    They are written to row `side` of scratch.axis_dims, axis_trips and axis_steps [2, m].
    """
    outputs, taps = (P, R) if side == 0 else (Q, S)
    m = 0
    for j in range(end):
        m += scratch.loop_dim[j] == outputs or scratch.loop_dim[j] == taps
    at = m
    step_p, step_r = scratch.tiles[level, outputs], scratch.tiles[level, taps]
    fanned = level < first_pe
    for j in range(end - 1, -1, -1):
        if j < pe_end and not fanned:
            fanned = True
            step_p *= fan[outputs]
            step_r *= fan[taps]
        d = scratch.loop_dim[j]
        if d == outputs:
            at -= 1
            scratch.axis_dims[side, at], scratch.axis_trips[side, at] = 0, scratch.loop_n[j]
            scratch.axis_steps[side, at] = step_p
            step_p *= scratch.loop_n[j]
        elif d == taps:
            at -= 1
            scratch.axis_dims[side, at], scratch.axis_trips[side, at] = 1, scratch.loop_n[j]
            scratch.axis_steps[side, at] = step_r
            step_r *= scratch.loop_n[j]
    return Loops(scratch.axis_dims[side], scratch.axis_trips[side], scratch.axis_steps[side], m)


@jit
def combined(end, loop_dim, loop_n, rows, m_rows, columns, m_columns):
    """Words that move, for one plane: all that are needed less what stays from step to step.

    rows, columns [2, m + 1]: `axis_sums` of the two axes. A loop over K keeps the tile; one over N, G or C, and all
    outside it, replaces it.
    """
    times = 1  # of loops over K, those inside the present one excluded
    for j in range(end):
        if loop_dim[j] == K:
            times *= loop_n[j]
    words = rows[0, m_rows] * columns[0, m_columns] * times
    for j in range(end - 1, -1, -1):
        d = loop_dim[j]
        if PLANES >> d & 1:
            break
        if d == K:
            times //= loop_n[j]
            words -= rows[0, m_rows] * columns[0, m_columns] * times * (loop_n[j] - 1)
        elif d == P or d == R:  # noqa: SIM109
            words -= rows[1, m_rows] * columns[0, m_columns] * times
            m_rows -= 1
        else:
            words -= rows[0, m_rows] * columns[1, m_columns] * times
            m_columns -= 1
    return words


@jit
def forwarding_loop(side, loops, chip, work, p, scratch):
    """The outermost loop of an axis whose next tile is the one that the neighbouring PE has had: its step is as long as
    the way from PE to PE. Returns (its number or -1, whether the PEs lie along taps).

    The PEs must have an axis of the array to themselves, and none where outputs or taps overshoot: the last PE then has
    nothing to pass on.
    """
    outputs, taps = (P, R) if side == 0 else (Q, S)
    first_pe = chip.device[FIRST_PE]
    if scratch.tiles[0, outputs] != work.sizes[p, outputs] or scratch.tiles[0, taps] != work.sizes[p, taps]:
        return -1, False
    stride, dilation = work.axes[p, side, STRIDE], work.axes[p, side, DILATION]
    for i in range(loops.depth):
        step = loops.steps[i] * (stride if loops.dims[i] == 0 else dilation)
        if scratch.alone[outputs] and step == stride * scratch.tiles[first_pe, outputs]:
            return i, False
        if scratch.alone[taps] and step == dilation * scratch.tiles[first_pe, taps]:
            return i, True
    return -1, False


@jit
def reading_sums(side, loops, level, fan, split, along_taps, which, chip, work, p, scratch):
    """`axis_sums` for the PEs that read: all of them, or, where neighbours pass tiles on (TAIL), those at the edge.
    Returns where they are `remembered`, a row of table 2 * side."""
    outputs, taps = (P, R) if side == 0 else (Q, S)
    first_pe, tiles, axis = chip.device[FIRST_PE], scratch.tiles, work.axes[p, side]
    wide, high = tiles[level, outputs], tiles[level, taps]
    pitch_p, pitch_r, steps = tiles[first_pe, outputs], tiles[first_pe, taps], loops.steps
    if chip.device[BOX]:  # a box is a tile of stride and dilation 1, every way multiplied by them
        stride, dilation = axis[STRIDE], axis[DILATION]
        wide, high = (wide - 1) * stride + 1, (high - 1) * dilation + 1
        pitch_p, pitch_r = pitch_p * stride, pitch_r * dilation
        for i in range(loops.depth):
            scratch.box_steps[i] = steps[i] * (stride if loops.dims[i] == 0 else dilation)
        steps = scratch.box_steps
        axis = scratch.box_axis
    fan_p, fan_r, p_edge, r_edge = fan[outputs], fan[taps], 0, 0
    if which == TAIL and along_taps:
        r_edge, fan_r = (fan_r - 1) * pitch_r, 1
    elif which == TAIL:
        p_edge, fan_p = (fan_p - 1) * pitch_p, 1
    tile = Tile(wide, high, pitch_p, pitch_r, fan_p, fan_r)
    own = Loops(loops.dims, loops.trips, steps, loops.depth)
    sharing = chip.device[SHARING]
    return remembered(axis, own, tile, p_edge, r_edge, sharing, split, which, 2 * side, scratch)


@jit
def forwarded_together(end, pe_end, level, fan, chip, work, p, scratch):
    """Input words that all PEs together read, per plane, where a PE passes what its neighbour needs next.

    Steps in which the outermost forwarding loop is past its first value cost the edge of the array only; the others are
    split again by the forwarding loop of the other axis.
    """
    first_pe = chip.device[FIRST_PE]
    rows = list_axis(0, end, pe_end, level, fan, first_pe, scratch)
    columns = list_axis(1, end, pe_end, level, fan, first_pe, scratch)
    row_loop, rows_taps = forwarding_loop(0, rows, chip, work, p, scratch)
    column_loop, columns_taps = forwarding_loop(1, columns, chip, work, p, scratch)
    rows_first = column_loop < 0  # whether the forwarding loop of the rows is the outer one
    seen_rows, seen_columns = -1, -1
    for j in range(end):
        d = scratch.loop_dim[j]
        seen_rows += int(d == P or d == R)  # noqa: SIM109
        seen_columns += int(d == Q or d == S)  # noqa: SIM109
        if row_loop >= 0 and seen_rows == row_loop:
            rows_first = True
            break
        if column_loop >= 0 and seen_columns == column_loop:
            break
    total = 0
    for part_rows in range(3):
        split_rows = row_loop >= 0
        for part_columns in range(3):
            split_columns = column_loop >= 0
            if rows_first and part_rows == TAIL:
                split_columns = False
            if not rows_first and part_columns == TAIL:
                split_rows = False
            if (part_rows == ALL) == split_rows or (part_columns == ALL) == split_columns:
                continue
            at_row = reading_sums(0, rows, level, fan, row_loop, rows_taps, part_rows, chip, work, p, scratch)
            at = reading_sums(1, columns, level, fan, column_loop, columns_taps, part_columns, chip, work, p, scratch)
            own, other = scratch.memo_sums[0, at_row], scratch.memo_sums[2, at]
            total += combined(end, scratch.loop_dim, scratch.loop_n, own, rows.depth, other, columns.depth)
    return total


@jit
def tiles_moved(end, pe_end, level, spread, fan, chip, work, p, scratch):
    """Input words where tiles have gaps, or parts of them are padding or overshoot, for one plane: into scratch.moved,
    the sum over PEs, and with `spread` what all PEs read together. As `boxes_moved`, by `axis_words`."""
    first_pe = chip.device[FIRST_PE]
    one = np.int64(1)
    in_pe = level >= first_pe
    found, count = scratch.found, scratch.counts
    for side in range(2):
        outputs, taps = (P, R) if side == 0 else (Q, S)
        loops = list_axis(side, end, pe_end, level, fan, first_pe, scratch)
        count[side] = loops.depth
        tile = Tile(
            scratch.tiles[level, outputs], scratch.tiles[level, taps],
            scratch.tiles[first_pe, outputs] if in_pe else one, scratch.tiles[first_pe, taps] if in_pe else one,
            fan[outputs] if in_pe else one, fan[taps] if in_pe else one,
        )  # fmt: skip
        found[side, 0] = remembered(work.axes[p, side], loops, tile, 0, 0, EACH, -1, ALL, 2 * side, scratch)
        if spread:
            sharing = chip.device[SHARING]
            own = work.axes[p, side]
            found[side, 1] = remembered(own, loops, tile, 0, 0, sharing, -1, ALL, 2 * side + 1, scratch)
    for together in range(1 + spread):
        rows = scratch.memo_sums[together, found[0, together]]
        columns = scratch.memo_sums[2 + together, found[1, together]]
        scratch.moved[together] = combined(end, scratch.loop_dim, scratch.loop_n, rows, count[0], columns, count[1])


@part
def gapless(outputs, taps, stride, dilation):
    """Whether outputs and taps of a tile need every position between the first and the last."""
    if outputs > 1 and taps > 1:
        return (stride == 1 or dilation == 1) and taps >= stride and outputs >= dilation
    return (outputs == 1 or stride == 1) and (taps == 1 or dilation == 1)


@part
def unbroken(level, exact, chip, work, p, scratch):
    """Whether every tile of I is a box of real words: no padding, no overshoot, no gaps that a stride or a dilation
    leaves. Devices that count boxes count them always."""
    if chip.device[BOX]:
        return True
    if not exact or work.open[p] == 0:
        return False
    if work.open[p] == 2:
        return True
    tiles, axes = scratch.tiles, work.axes
    return gapless(tiles[level, P], tiles[level, R], axes[p, 0, STRIDE], axes[p, 0, DILATION]) and gapless(
        tiles[level, Q], tiles[level, S], axes[p, 1, STRIDE], axes[p, 1, DILATION]
    )


@part
def inputs_moved(end, pe_end, level, inside_pe, crossing, pes, exact, chip, work, p, scratch):
    """Input words that enter all instances of a level, and that are read for them where one read serves all PEs.

    end, pe_end: loops outside the level, outside the array; crossing: on their way into the PEs.
    """
    device, tiles, fan = chip.device, scratch.tiles, scratch.fan
    multicast = device[MULTICAST] != 0
    planes = work.words[p, I]
    queues = crossing and device[FORWARD] == QUEUES  # counted by `forwarded_together`
    spread = crossing and multicast and pes > fan[K] and not queues
    if unbroken(level, exact, chip, work, p, scratch):
        fills, together = boxes_moved(end, pe_end if inside_pe else 0, level, spread, fan, chip, work, p, scratch)
        if not exact:
            padded = tiles[0, N] * tiles[0, G] * tiles[0, C]
            fills, together = fills // padded * planes, together // padded * planes
        if not spread:
            together = fills
        if inside_pe:
            fills *= fan[P] * fan[Q] * fan[R] * fan[S] * fan[K]
    else:
        tiles_moved(end, pe_end if inside_pe else 0, level, spread, fan, chip, work, p, scratch)
        fills = scratch.moved[0] * planes * (fan[K] if inside_pe else 1)
        together = scratch.moved[1] * planes if spread else scratch.moved[0] * planes
    if queues and multicast:
        together = planes * forwarded_together(end, pe_end, level, fan, chip, work, p, scratch)
    if crossing and device[FORWARD] == TILES:
        together -= passed_on(end, pe_end, level, chip, work, p, scratch)
    return fills, together
