"""The stages of a ConvBlock in training, forward and backward, each one walk through memory.

A stage ends where batch norm needs sums over the whole batch: expansion; norm, ReLU, quantizer and depth-wise
convolution; norm, ReLU, quantizer and projection. It reads the numbers that the stage before left unnormalised, brings
a strip of them through norm and quantizer in a scratch that stays in the cache, and leaves its own with their sums. The
backward stages make the quantized numbers anew in the same way, so that nothing but y1 and y2 is kept.

Arrays, flat float32, channels_last: x [B, H, W, C_in], y1 [B, H, W, C] after the expansion, y2 [B, h, w, C] after the
depth-wise convolution, y3 [B, h, w, C_out]; g3, g2, g1 the gradients of y3 and of what the norms of y2 and y1 put out.
y1, y2, g1, g2 have `SLACK` elements more. Matrices are dense (a grouped convolution's zeros are written out) with rows
of whole vectors. Channels of y1 and y2 stand in the order that the shuffle gives them.
Every stage exists twice, `serial` and `parallel`: the same code, its blocks of images one by one or on threads.
"""

import numpy as np
from numba import prange

from instantnet.kernels.compiled import compiled, serial_and_parallel
from instantnet.kernels.passes import (
    INFINITY,
    ROWS,
    ZERO,
    A,
    B,
    P,
    norm_back,
    quantize,
    relu,
    relu_back,
    relu_back_with_float,
    relu_back_with_quantized,
    statistics,
)
from instantnet.kernels.vectors import (
    LANES,
    TILE_ROWS,
    correlate_3,
    correlate_5,
    correlate_weights_3,
    correlate_weights_5,
    multiply,
    padded,
    zeros,
)

CHUNK = 1 << 15
"""Elements of a scratch: with what is read and written along with it, it stays in a core's own cache."""

SAMPLES = 4
"""Pixels whose mean the sums of a norm are taken around."""

GROUP = 96
"""Channels that a depth-wise stage takes at a time: wider pixels would lie too far apart in the scratch."""


@compiled
def _flush(parts, totals, first, channels):
    """Add the float32 sums of a strip, in the first two rows of parts [n * padded C], to totals [2, C], and clear them:
    those of so many channels from `first` on."""
    stride = padded(totals.shape[1])
    for i in range(2):
        for c in range(first, first + channels):
            totals[i, c] += parts[i * stride + c]
            parts[i * stride + c] = ZERO


@compiled
def _sum_pixels(y, at, pixels, step, first, channels, shift, parts, totals):
    """The sums of `passes.table` of so many pixels of y, `step` apart, and channels from `first` on: into totals, the
    bounds into the last two rows of parts."""
    for c in range(0, channels, LANES):
        lanes = min(LANES, channels - c)
        statistics(y, at + c, 0, step, shift, first + c, 0, parts, first + c, len(parts) // 4, 1, pixels, lanes)
    _flush(parts, totals, first, channels)


@compiled
def _new_parts(channels):
    stride = padded(channels)
    parts = zeros(4 * stride)
    parts[2 * stride : 3 * stride] = INFINITY
    parts[3 * stride :] = -INFINITY
    return parts


@compiled
def _keep_bounds(parts, bounds):
    stride = padded(bounds.shape[1])
    for i in range(2):
        bounds[i] = parts[(2 + i) * stride : (2 + i) * stride + bounds.shape[1]]


@compiled
def _activate(y, at, row, column, out, out_at, out_row, out_column, known, first, levels, rows, columns, channels):
    """out = relu(norm(y)), quantized where levels is not 0, of pixels [rows, columns] and so many channels; `first` is
    the place of theirs in the rows of the table."""
    stride = len(known) // ROWS
    for c in range(0, channels, LANES):
        lanes, place = min(LANES, channels - c), first + c
        if levels > ZERO:
            quantize(y, at + c, row, column, out, out_at + c, out_row, out_column, known, place, stride, known, 0, 0,
                     rows, columns, lanes)  # fmt: skip
        else:
            relu(y, at + c, row, column, out, out_at + c, out_row, out_column, known, A * stride + place, stride, known,
                 0, 0, rows, columns, lanes)  # fmt: skip


@compiled
def _chunk_rows(channels):
    return max(TILE_ROWS, CHUNK // padded(channels) // TILE_ROWS * TILE_ROWS)


@compiled
def shift_of_product(x, matrix, pixels, c_in, channels):
    """[padded C] near the means of `_expand`'s y1: the mean of a few of its pixels."""
    shift = zeros(padded(channels))
    for i in range(c_in):
        value = ZERO
        for n in range(SAMPLES):
            value += x[(2 * n + 1) * pixels // (2 * SAMPLES) * c_in + i]
        shift += value / np.float32(SAMPLES) * matrix[i * len(shift) : (i + 1) * len(shift)]
    return shift


@compiled
def shift_of_taps(y1, known, weight, images, height, width, channels, taps):
    """[padded C] near the means of `_depthwise`'s y2: the mean of a few of its pixels, before a quantizer."""
    stride, pad = padded(channels), taps // 2
    shift = zeros(stride)
    for n in range(SAMPLES):
        image, odd = n * images // SAMPLES, 2 * n + 1
        middle = odd * height // (2 * SAMPLES), odd * 5 % (2 * SAMPLES) * width // (2 * SAMPLES)
        for tap in range(taps * taps):
            y, x = middle[0] + tap // taps - pad, middle[1] + tap % taps - pad
            if 0 <= y < height and 0 <= x < width:
                at = ((image * height + y) * width + x) * channels
                for c in range(channels):
                    value = y1[at + c] * known[A * stride + c] + known[B * stride + c]
                    shift[c] += max(ZERO, value) * weight[tap * stride + c]
    return shift / np.float32(SAMPLES)


def _expand(x, matrix, y, shift, rows, c_in, channels, blocks):
    """y1 = x matrix [C_in, C] of so many pixels; (totals, bounds) [blocks, 2, C] for `passes.table`. shift: any numbers
    near the means, padded."""
    totals, bounds = np.zeros((blocks, 2, channels)), np.empty((blocks, 2, channels), np.float32)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        parts, step = _new_parts(channels), _chunk_rows(channels)
        last = min(rows, (block + 1) * size)
        for start in range(block * size, last, step):
            count = min(step, last - start)
            multiply(x, start * c_in, c_in, 1, matrix, 0, padded(channels), y, start * channels, channels, count,
                     channels, c_in, 0)  # fmt: skip
            _sum_pixels(y, start * channels, count, channels, 0, channels, shift, parts, totals[block])
        _keep_bounds(parts, bounds[block])
    return totals, bounds


@compiled
def _group(channels):
    """Channels of each group: equally many as far as whole vectors allow."""
    groups = (channels + GROUP - 1) // GROUP
    return padded((channels + groups - 1) // groups)


@compiled
def _strip_rows(row, taps, stride):
    """Output rows of a depth-wise convolution whose padded input rows, of so many elements, fill a scratch."""
    return max(1, (CHUNK // row - taps) // stride + 1)


@compiled
def _move_up(scratch, row, gone, kept):
    """Let the scratch begin `gone` rows later: so many rows behind are kept."""
    for i in range(kept):
        scratch[i * row : (i + 1) * row] = scratch[(i + gone) * row : (i + gone + 1) * row]


@compiled
def _correlate(x, row, step, stride, taps, weight, first, out, at, out_row, out_step, rows, columns, channels):
    """The depth-wise convolution of a scratch x with the channels of `weight` from `first` on, at that stride."""
    w_step = len(weight) // (taps * taps)
    for c in range(0, channels, LANES):
        lanes = min(LANES, channels - c)
        if taps == 3:
            correlate_3(x, c, row, step, stride * row, stride * step, weight, first + c, w_step, out, at + c, out_row,
                        out_step, rows, columns, lanes)  # fmt: skip
        else:
            correlate_5(x, c, row, step, stride * row, stride * step, weight, first + c, w_step, out, at + c, out_row,
                        out_step, rows, columns, lanes)  # fmt: skip


def _depthwise(y1, known, levels, weight, y, shift, images, height, width, channels, taps, stride, blocks):
    """y2 out of y1; weight of `weights.taps_of`; (totals, bounds) for `passes.table`."""
    pad, out_height, out_width = taps // 2, (height - 1) // stride + 1, (width - 1) // stride + 1
    totals, bounds = np.zeros((blocks, 2, channels)), np.empty((blocks, 2, channels), np.float32)
    size = (images + blocks - 1) // blocks
    for block in prange(blocks):
        parts, group = _new_parts(channels), _group(channels)
        row = (width + 2 * pad) * group
        strip = min(out_height, _strip_rows(row, taps, stride))
        scratch = zeros(((strip - 1) * stride + taps) * row)
        for image in range(block * size, min(images, (block + 1) * size)):
            for first in range(0, channels, group):
                some = min(group, channels - first)
                if first > 0 and some < group:  # what the group before left in the last vector
                    scratch[:] = ZERO
                ready, base = -pad, -pad  # the scratch holds rows base to ready - 1 of the image
                for start in range(0, out_height, strip):
                    count, top = min(strip, out_height - start), start * stride - pad
                    _move_up(scratch, row, top - base, max(0, ready - top))
                    base, end = top, top + (count - 1) * stride + taps
                    inside, last = min(max(ready, 0), end), min(end, height)
                    scratch[(ready - base) * row : (inside - base) * row] = ZERO
                    if last > inside:
                        at = ((image * height + inside) * width) * channels + first
                        _activate(y1, at, width * channels, channels, scratch, (inside - base) * row + pad * group, row,
                                  group, known, first, levels, last - inside, width, some)  # fmt: skip
                    scratch[(max(inside, last) - base) * row : (end - base) * row] = ZERO
                    ready = end
                    at = (image * out_height + start) * out_width * channels + first
                    _correlate(scratch, row, group, stride, taps, weight, first, y, at, out_width * channels, channels,
                               count, out_width, some)  # fmt: skip
                    _sum_pixels(y, at, count * out_width, channels, first, some, shift, parts, totals[block])
        _keep_bounds(parts, bounds[block])
    return totals, bounds


def _project(y2, known, levels, matrix, out, rows, channels, c_out, blocks):
    """y3 out of y2."""
    step = padded(channels)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        chunk = _chunk_rows(channels)
        scratch = zeros(chunk * step)
        last = min(rows, (block + 1) * size)
        for start in range(block * size, last, chunk):
            count = min(chunk, last - start)
            _activate(y2, start * channels, 0, channels, scratch, 0, 0, step, known, 0, levels, 1, count, channels)
            multiply(
                scratch, 0, step, 1, matrix, 0, padded(c_out), out, start * c_out, c_out, count, c_out, channels, 0
            )


def _project_back(g3, y2, known, levels, matrix, g2, rows, channels, c_out, needs_weight, blocks):
    """g2 out of g3; returns the gradient of the matrix [blocks, C_out, padded C] and totals for `passes.table_back`."""
    step = padded(channels)
    to_matrix = zeros(blocks * c_out * step if needs_weight else blocks).reshape(blocks, -1)
    totals = np.zeros((blocks, 2, channels))
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        chunk, parts = _chunk_rows(channels), zeros(2 * step)
        scratch = zeros(chunk * step)
        last = min(rows, (block + 1) * size)
        for start in range(block * size, last, chunk):
            count, at = min(chunk, last - start), start * channels
            multiply(g3, start * c_out, c_out, 1, matrix, 0, step, g2, at, channels, count, channels, c_out, 0)
            for c in range(0, channels, LANES):
                lanes = min(LANES, channels - c)
                if not needs_weight:
                    relu_back(g2, at + c, 0, channels, y2, at + c, 0, channels, g2, at + c, 0, channels, known,
                               A * step + c, step, parts, c, step, 1, count, lanes)  # fmt: skip
                elif levels > ZERO:
                    relu_back_with_quantized(
                        g2, at + c, 0, channels, y2, at + c, 0, channels, g2, at + c, 0, channels, scratch, c, 0, step,
                        known, c, step, parts, c, step, 1, count, lanes)  # fmt: skip
                else:
                    relu_back_with_float(
                        g2, at + c, 0, channels, y2, at + c, 0, channels, g2, at + c, 0, channels, scratch, c, 0, step,
                        known, A * step + c, step, parts, c, step, 1, count, lanes)  # fmt: skip
            _flush(parts, totals[block], 0, channels)
            if needs_weight:
                multiply(
                    g3, start * c_out, 1, c_out, scratch, 0, step, to_matrix[block], 0, step, c_out, step, count, 1
                )
    return to_matrix, totals


def _depthwise_back(
    g2, y2, known2, y1, known1, levels, weight, g1, images, height, width, channels, taps, stride, needs_weight, blocks
):
    """g1 out of g2; returns the gradient of the taps [blocks, k * k * padded C] and totals for `passes.table_back`.

    The taps come and go turned by 180 degrees. At stride 2 the gradient of y2 is spread over the pixels of y1, zeros
    between.
    """
    pad, step = taps // 2, padded(channels)
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    to_weight = zeros(blocks * taps * taps * step).reshape(blocks, -1)
    totals = np.zeros((blocks, 2, channels))
    size = (images + blocks - 1) // blocks
    for block in prange(blocks):
        parts, group = zeros(2 * step), _group(channels)
        row = (width + 2 * pad) * group
        strip = min(height, _strip_rows(row, taps, 1))
        scratch, activated = zeros((strip - 1 + taps) * row), zeros(strip * width * group)
        for image in range(block * size, min(images, (block + 1) * size)):
            for first in range(0, channels, group):
                some = min(group, channels - first)
                if first > 0 and some < group:
                    scratch[:] = ZERO
                    activated[:] = ZERO
                ready, base = -pad, -pad
                for start in range(0, height, strip):
                    count, top = min(strip, height - start), start - pad
                    end = top + count - 1 + taps
                    _move_up(scratch, row, top - base, max(0, ready - top))
                    base = top
                    for line in range(ready, end):
                        here = (line - base) * row
                        if line < 0 or line >= height or line % stride:
                            scratch[here : here + row] = ZERO
                            continue
                        at = (image * out_height + line // stride) * out_width * channels + first
                        for c in range(0, some, LANES):
                            norm_back(g2, at + c, 0, channels, y2, at + c, 0, channels, scratch, here + pad * group + c,
                                      0, stride * group, known2, P * step + first + c, step, known2, 0, 0, 1, out_width,
                                      min(LANES, some - c))  # fmt: skip
                    ready = end
                    at = (image * height + start) * width * channels + first
                    _correlate(scratch, row, group, 1, taps, weight, first, g1, at, width * channels, channels, count,
                               width, some)  # fmt: skip
                    if needs_weight:
                        _activate(y1, at, 0, channels, activated, 0, 0, group, known1, first, levels, 1, count * width,
                                  some)  # fmt: skip
                        _add_to_taps(scratch, row, group, taps, activated, width, to_weight[block], first, count, some)
                    for c in range(0, some, LANES):
                        relu_back(g1, at + c, 0, channels, y1, at + c, 0, channels, g1, at + c, 0, channels, known1,
                                  A * step + first + c, step, parts, first + c, step, 1, count * width,
                                  min(LANES, some - c))  # fmt: skip
                    _flush(parts, totals[block], first, some)
    return to_weight, totals


@compiled
def _add_to_taps(g, row, step, taps, x, width, to_weight, first, rows, channels):
    """The gradient of the taps from a scratch of g and the activated pixels [rows, width] of x that it is for."""
    w_step = len(to_weight) // (taps * taps)
    for c in range(0, channels, LANES):
        if taps == 3:
            correlate_weights_3(g, c, row, step, x, c, width * step, step, to_weight, first + c, w_step, rows, width)
        else:
            correlate_weights_5(g, c, row, step, x, c, width * step, step, to_weight, first + c, w_step, rows, width)


def _expand_back(g1, y1, known, x, matrix, to_x, rows, c_in, channels, needs_weight, needs_x, blocks):
    """to_x, the gradient of x, out of g1; returns the gradient of the matrix [blocks, C_in, padded C]."""
    step = padded(channels)
    to_matrix = zeros(blocks * c_in * step if needs_weight else blocks).reshape(blocks, -1)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        chunk = _chunk_rows(channels)
        scratch = zeros(chunk * step)
        last = min(rows, (block + 1) * size)
        for start in range(block * size, last, chunk):
            count, at = min(chunk, last - start), start * channels
            for c in range(0, channels, LANES):
                lanes = min(LANES, channels - c)
                norm_back(g1, at + c, 0, channels, y1, at + c, 0, channels, scratch, c, 0, step, known, P * step + c,
                           step, known, 0, 0, 1, count, lanes)  # fmt: skip
            if needs_x:
                multiply(
                    scratch, 0, step, 1, matrix, 0, padded(c_in), to_x, start * c_in, c_in, count, c_in, channels, 0
                )
            if needs_weight:
                multiply(x, start * c_in, 1, c_in, scratch, 0, step, to_matrix[block], 0, step, c_in, step, count, 1)
    return to_matrix


FUNCTIONS = {
    "expand": _expand,
    "depthwise": _depthwise,
    "project": _project,
    "project_back": _project_back,
    "depthwise_back": _depthwise_back,
    "expand_back": _expand_back,
}
serial, parallel = serial_and_parallel(FUNCTIONS)
