"""Compiled: the input words that PEs take from a neighbour instead of reading them, as Timeloop counts: tiles are
boxes, one read serves all PEs with the same new words, and none is needed where a neighbour had them as new words the
step before.

The PEs in use are one line, the loops of y outside those of x, folded into rows as wide as the whole array. A PE has up
to four neighbours: before and after it in its row, above and below.

Timeloop looks at the first two turns of every loop only, and takes all others to be like the second. So in a step that
advances loop j, to its second turn, the loops inside it go from their second turn back to the first.
"""

import math
from typing import NamedTuple

from hw_model import axis_words, indices
from hw_model.axis_words import DILATION, STRIDE, part
from hw_model.compiled_rules import span
from hw_model.disk_cache import jit_of
from hw_model.indices import FIRST_PE, LEVELS, PLANES, C, G, K, N, P, Q, R, S, X

SOURCES = (*axis_words.SOURCES, indices.__file__, __file__)
DIM, TRIPS, POSITIONS, STEP, UNIT = range(5)  # rows of Scratch.pe_loops; from the third on a number for each dimension
PLACE, GROUP, MARK, REAL = range(4)  # rows of Scratch.pes
ALL_NEW = 2**40  # as a move: farther than any tile is long
IN_USE, READS = 1, 2

jit = jit_of(SOURCES)


class Line(NamedTuple):
    """pes: those in use; wide: columns of the array; planes: how many PEs work on at once; tiles: numbers of tiles in
    each; rows, columns: of the tile of a PE; far_rows, far_columns: how far apart tiles start, at most; per_row: how
    much the places of PEs differ whose tiles start a row apart."""

    pes: int
    wide: int
    planes: int
    tiles: int
    rows: int
    columns: int
    far_rows: int
    far_columns: int
    per_row: int


class Move(NamedTuple):
    """By how many rows and columns a step moves the tile of every PE; ALL_NEW for both where nothing of it stays."""

    down: int
    right: int


@jit
def list_spatial(b, batch, chip, scratch):
    """Write the spatial loops of row b of a batch to scratch.pe_loops, outermost first; returns whether they have an
    order: that of N G K C P Q R S, or the one that the batch gives."""
    n_levels = chip.device[LEVELS]
    given = batch.orders.shape[1] > n_levels
    for axis in range(2):
        slot = chip.slots[n_levels + 1 - axis]  # y, then x
        seen = 0
        for k in range(8):
            d = batch.orders[b, n_levels + axis, k] if given else k
            seen |= 1 << d
            scratch.pe_loops[DIM, 8 * axis + k] = d & 7
            scratch.pe_loops[TRIPS, 8 * axis + k] = batch.factors[b, slot, d & 7]
        if seen != 255:
            return False
    return True


@part
def first_alike(outputs, taps, step_p, step_r, fan_p):
    """Of the PEs that start at the same position as the one number (outputs, taps) along an axis: the first by taps."""
    common = math.gcd(step_p, step_r)
    back = min(taps // (step_p // common), (fan_p - 1 - outputs) // (step_r // common))
    return outputs + back * (step_r // common), taps - back * (step_p // common)


@part
def count_real(chip, work, p, scratch):
    """Write to scratch.pes[REAL], for each plane N, G, C that PEs work on at once, its real iterations in all steps."""
    fan, number = scratch.fan, 0
    for n in range(fan[N]):
        for g in range(fan[G]):
            for c in range(fan[C]):
                real = 1
                for d, index in ((N, n), (G, g), (C, c)):
                    each = scratch.tiles[chip.device[FIRST_PE], d]
                    size, block = work.sizes[p, d], each * fan[d]
                    real *= size // block * each + min(max(size % block - index * each, 0), each)
                scratch.pes[REAL, number] = real
                number += 1


@jit
def line_up(level, chip, work, p, scratch):
    """The Line of PEs. Where the tile of each starts is written to scratch.pes[PLACE], as one number; a number that PEs
    with the same tile share to scratch.pes[GROUP]; how many rows or columns of the input an index of a dimension is, to
    scratch.pe_loops[POSITIONS]."""
    fan, tiles, loops, pes = scratch.fan, scratch.tiles, scratch.pe_loops, scratch.pes
    positions, step, unit = loops[POSITIONS], loops[STEP], loops[UNIT]
    for d in range(8):
        positions[d] = 0
    positions[P], positions[R] = work.axes[p, 0, STRIDE], work.axes[p, 0, DILATION]
    positions[Q], positions[S] = work.axes[p, 1, STRIDE], work.axes[p, 1, DILATION]
    size = 1
    for d in (S, Q, R, P, C, G, N):
        step[d] = positions[d] * tiles[chip.device[FIRST_PE], d]
        unit[d] = size
        size *= fan[d]
    step[K], unit[K] = 0, 0
    planes = fan[N] * fan[G] * fan[C]
    far_columns = (fan[Q] - 1) * step[Q] + (fan[S] - 1) * step[S]
    line = Line(
        size * fan[K],
        chip.device[X],
        planes,
        size // planes,
        span(tiles[level, P], tiles[level, R], positions[P], positions[R]),
        span(tiles[level, Q], tiles[level, S], positions[Q], positions[S]),
        (fan[P] - 1) * step[P] + (fan[R] - 1) * step[R],
        far_columns,
        2 * far_columns + 1,
    )
    step_p, step_r, step_q, step_s = step[P], step[R], step[Q], step[S]
    step[P] *= line.per_row
    step[R] *= line.per_row
    for d in (N, G, C):  # places in different planes differ by more than any two in one plane
        step[d] = unit[d] // unit[C] * (2 * line.far_rows + 1) * line.per_row
    pes[PLACE, 0] = pes[GROUP, 0] = 0
    listed = 1
    for t in range(loops.shape[1] - 1, -1, -1):
        d, n = loops[DIM, t], loops[TRIPS, t]
        for i in range(listed, n * listed):
            pes[PLACE, i] = pes[PLACE, i - listed] + step[d]
            pes[GROUP, i] = pes[GROUP, i - listed] + unit[d]
        step[d] *= n
        unit[d] *= n
        listed *= n
    if (fan[P] > 1 and fan[R] > 1) or (fan[Q] > 1 and fan[S] > 1):
        for i in range(line.pes):
            rest, at_s = divmod(pes[GROUP, i], fan[S])
            rest, at_q = divmod(rest, fan[Q])
            rest, at_r = divmod(rest, fan[R])
            plane, at_p = divmod(rest, fan[P])
            at_p, at_r = first_alike(at_p, at_r, step_p, step_r, fan[P])
            at_q, at_s = first_alike(at_q, at_s, step_q, step_s, fan[Q])
            pes[GROUP, i] = (((plane * fan[P] + at_p) * fan[R] + at_r) * fan[Q] + at_q) * fan[S] + at_s
    count_real(chip, work, p, scratch)
    return line


@jit
def spared(ahead, line, pes):
    """Tiles, in all planes N, G, C, that need no read: every PE that wants one has a neighbour whose place is `ahead`
    less than its own."""
    place, group, mark, wide = pes[PLACE], pes[GROUP], pes[MARK], line.wide
    for number in range(line.planes * line.tiles):
        mark[number] = 0
    column = 0
    for i in range(line.pes):
        has_neighbour = (
            (column > 0 and place[i] - place[i - 1] == ahead)
            or (column < wide - 1 and i + 1 < line.pes and place[i] - place[i + 1] == ahead)
            or (i >= wide and place[i] - place[i - wide] == ahead)
            or (i + wide < line.pes and place[i] - place[i + wide] == ahead)
        )
        mark[group[i]] |= IN_USE if has_neighbour else IN_USE | READS
        column = column + 1 if column < wide - 1 else 0
    total = 0
    for plane in range(line.planes):
        for number in range(plane * line.tiles, (plane + 1) * line.tiles):
            if mark[number] == IN_USE:
                total += pes[REAL, plane]
    return total


@part
def move_of(down, right, line):
    """The Move of a tile by a number of rows and of columns."""
    gone = abs(down) >= line.rows or abs(right) >= line.columns
    return Move(ALL_NEW, ALL_NEW) if gone else Move(down, right)


@part
def new_words(move, line):
    """Words of one plane of a tile that are new after a move."""
    return line.rows * line.columns - max(0, line.rows - abs(move.down)) * max(0, line.columns - abs(move.right))


@part
def begins(extent, move):
    """Where, on one axis of a tile, its new part begins."""
    return extent - move if 0 < move < extent else 0


@jit
def words_spared(move, before, down, right, line, pes):
    """Words that need no read, over all planes, in a step with this move, after one with the move `before` that ended
    `down` rows and `right` columns further than this one."""
    same = move.down == before.down and move.right == before.right
    if move.down == 0 or move.right == 0:  # new words on one side
        same = abs(move.down) == abs(before.down) and abs(move.right) == abs(before.right)
    down += begins(line.rows, before.down) - begins(line.rows, move.down)
    right += begins(line.columns, before.right) - begins(line.columns, move.right)
    if not same or abs(down) > line.far_rows or abs(right) > line.far_columns or new_words(move, line) == 0:
        return 0
    return new_words(move, line) * spared(down * line.per_row + right, line, pes)


@jit
def passed_on(end, pe_end, level, chip, work, p, scratch):
    """Input words that PEs take from a neighbour in all steps of the loops 0..end-1 outside a level in the PEs, of real
    planes only; the loops pe_end.. are inside the PEs. What they would read without neighbours: `boxes_moved`."""
    loop_dim, loop_n, fan = scratch.loop_dim, scratch.loop_n, scratch.fan
    if end == 0 or PLANES >> loop_dim[end - 1] & 1:  # no neighbour had anything of a new plane
        return 0
    line = line_up(level, chip, work, p, scratch)
    step = scratch.pe_loops[STEP]
    for d in range(8):
        step[d] = scratch.pe_loops[POSITIONS, d] * scratch.tiles[level, d]
    outside = 1  # trips of the loops outside the present one; those over planes are in scratch.pes[REAL]
    for j in range(end):
        outside *= 1 if PLANES >> loop_dim[j] & 1 else loop_n[j]
    innermost = Move(0, 0)
    turns, last_down, last_right = 0, 0, 0  # of the innermost loop: turns but the first, and its step
    down, right = 0, 0  # steps of the loops inside the present one, one of each
    back_down, back_right = 0, 0  # and as far as they go back when they start over
    total = 0
    fanned = False
    for j in range(end - 1, -1, -1):
        d, n = loop_dim[j], loop_n[j]
        if PLANES >> d & 1:
            break
        if j < pe_end and not fanned:
            fanned = True
            for i in range(8):
                step[i] *= fan[i]
        own_down = step[d] if d in (P, R) else 0
        own_right = step[d] - own_down
        outside //= n
        move = move_of(own_down - back_down, own_right - back_right, line)
        if j == end - 1:
            innermost, turns, last_down, last_right = move, n - 1, own_down, own_right
        else:
            times = outside * (n - 1)
            total += times * words_spared(move, innermost, down - own_down, right - own_right, line, scratch.pes)
            total += times * turns * words_spared(innermost, move, -last_down, -last_right, line, scratch.pes)
        down += own_down
        right += own_right
        back_down += own_down * (n - 1)
        back_right += own_right * (n - 1)
        step[d] *= n
    first = Move(ALL_NEW, ALL_NEW)  # the first step of all, and those that bring new planes
    return total + outside * turns * words_spared(innermost, first, -last_down, -last_right, line, scratch.pes)
