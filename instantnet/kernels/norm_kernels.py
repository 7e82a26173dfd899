"""Batch norm and ReLU of a CPU tensor in two passes over memory, their backward in two, by numba.

Layout: a channels_last tensor [B, C, H, W] is taken as x [R, L], L = T * C lanes: T neighbouring pixels make one row,
so that narrow layers fill vector registers too; lane l belongs to channel l % C. Vectors [C] are repeated to [L].
Every function exists twice, `serial` and `parallel`: the same code, its blocks of rows one by one or on threads.
"""

import numpy as np
from numba import prange

from instantnet.kernels.compiled import compiled, serial_and_parallel
from instantnet.kernels.moments import gradients, normalise

ZERO = np.float32(0)
CHUNK = 64
"""Rows summed in float32 before they are added to a float64 sum."""


@compiled
def _sum_rows(x, first, last, shift, sums, squares):
    """Per lane over rows first..last-1, float64: sums of x - shift and of its square."""
    lanes = x.shape[1]
    part, part_squares = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    for start in range(first, last, CHUNK):
        stop = min(start + CHUNK, last)
        part[:] = ZERO
        part_squares[:] = ZERO
        row = start
        while row + 4 <= stop:
            for l in range(lanes):
                d0, d1 = x[row, l] - shift[l], x[row + 1, l] - shift[l]
                d2, d3 = x[row + 2, l] - shift[l], x[row + 3, l] - shift[l]
                part[l] += (d0 + d1) + (d2 + d3)
                part_squares[l] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
            row += 4
        while row < stop:
            for l in range(lanes):
                d = x[row, l] - shift[l]
                part[l] += d
                part_squares[l] += d * d
            row += 1
        for l in range(lanes):
            sums[l] += part[l]
            squares[l] += part_squares[l]


@compiled
def _map_rows(x, out, first, last, a, b):
    """out = relu(x * a + b)."""
    for row in range(first, last):
        for l in range(x.shape[1]):
            value = x[row, l] * a[l] + b[l]
            out[row, l] = ZERO if value < ZERO else value  # written so that NaN passes


@compiled
def _add_rows(x, out, first, last, a, b):
    """out += x * a + b."""
    for row in range(first, last):
        for l in range(x.shape[1]):
            out[row, l] += x[row, l] * a[l] + b[l]


@compiled
def _sum_gradient_rows(x, g, first, last, a, b, mean, relu, sums, products):
    """Per lane over rows first..last-1, float64: sums of g and of g * (x - mean), g = 0 where the ReLU was."""
    lanes = x.shape[1]
    part, part_products = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    for start in range(first, last, CHUNK):
        stop = min(start + CHUNK, last)
        part[:] = ZERO
        part_products[:] = ZERO
        row = start
        while row + 4 <= stop:
            for l in range(lanes):
                x0, x1, x2, x3 = x[row, l], x[row + 1, l], x[row + 2, l], x[row + 3, l]
                g0, g1, g2, g3 = g[row, l], g[row + 1, l], g[row + 2, l], g[row + 3, l]
                if relu:
                    g0 = g0 if x0 * a[l] + b[l] > ZERO else ZERO
                    g1 = g1 if x1 * a[l] + b[l] > ZERO else ZERO
                    g2 = g2 if x2 * a[l] + b[l] > ZERO else ZERO
                    g3 = g3 if x3 * a[l] + b[l] > ZERO else ZERO
                m = mean[l]
                part[l] += (g0 + g1) + (g2 + g3)
                part_products[l] += (g0 * (x0 - m) + g1 * (x1 - m)) + (g2 * (x2 - m) + g3 * (x3 - m))
            row += 4
        while row < stop:
            for l in range(lanes):
                x0, g0 = x[row, l], g[row, l]
                if relu:
                    g0 = g0 if x0 * a[l] + b[l] > ZERO else ZERO
                part[l] += g0
                part_products[l] += g0 * (x0 - mean[l])
            row += 1
        for l in range(lanes):
            sums[l] += part[l]
            products[l] += part_products[l]


@compiled
def _map_gradient_rows(x, g, dx, first, last, a, b, relu, p, q, r):
    """dx = p * g + q * x + r, g = 0 where the ReLU was."""
    for row in range(first, last):
        for l in range(x.shape[1]):
            value, gradient = x[row, l], g[row, l]
            if relu:
                gradient = gradient if value * a[l] + b[l] > ZERO else ZERO
            dx[row, l] = p[l] * gradient + (q[l] * value + r[l])


@compiled
def _lanes(v, lanes):
    """v [C] repeated to [L]."""
    out = np.empty(lanes, np.float32)
    for l in range(lanes):
        out[l] = v[l % len(v)]
    return out


def _measure(x, gamma, beta, running_mean, running_var, momentum, eps, blocks):
    """What batch norm makes of x [R, L]: [4, C] = mean, 1 / std, and a, b with output = x * a + b. Running statistics
    move by `momentum` (0: they stay)."""
    rows, lanes, channels = x.shape[0], x.shape[1], len(gamma)
    sums, squares = np.zeros((blocks, lanes)), np.zeros((blocks, lanes))
    shift = _lanes(x[0, :channels], lanes)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        _sum_rows(x, block * size, min(rows, (block + 1) * size), shift, sums[block], squares[block])
    saved = np.empty((4, channels), np.float32)
    count = rows * (lanes // channels)
    for c in range(channels):
        total, square = 0.0, 0.0
        for block in range(blocks):
            for l in range(c, lanes, channels):
                total += sums[block, l]
                square += squares[block, l]
        saved[0, c], saved[1, c], saved[2, c], saved[3, c] = normalise(
            total, square, count, shift[c], gamma, beta, running_mean, running_var, c, momentum, eps
        )
    return saved


def _apply(x, out, saved, blocks):
    """out [R, L] = relu(batch norm of x)."""
    rows, lanes = x.shape
    a, b = _lanes(saved[2], lanes), _lanes(saved[3], lanes)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        _map_rows(x, out, block * size, min(rows, (block + 1) * size), a, b)


def _add(x, out, saved, weight, blocks):
    """out [R, L] += weight * batch norm of x."""
    rows, lanes = x.shape
    a, b = _lanes(saved[2] * weight, lanes), _lanes(saved[3] * weight, lanes)
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        _add_rows(x, out, block * size, min(rows, (block + 1) * size), a, b)


def _backward(x, g, dx, saved, weight, relu, blocks):
    """dx [R, L] out of g, the gradient of weight * batch norm of x (behind a ReLU or not); returns [2, C]: the
    gradients of gamma and beta at weight = 1."""
    rows, lanes = x.shape
    channels = saved.shape[1]
    a, b, mean = _lanes(saved[2], lanes), _lanes(saved[3], lanes), _lanes(saved[0], lanes)
    sums, products = np.zeros((blocks, lanes)), np.zeros((blocks, lanes))
    size = (rows + blocks - 1) // blocks
    for block in prange(blocks):
        first, last = block * size, min(rows, (block + 1) * size)
        _sum_gradient_rows(x, g, first, last, a, b, mean, relu, sums[block], products[block])
    affine = np.empty((2, channels), np.float32)
    p, q, r = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    count = rows * (lanes // channels)
    for c in range(channels):
        total, product = 0.0, 0.0
        for block in range(blocks):
            for l in range(c, lanes, channels):
                total += sums[block, l]
                product += products[block, l]
        affine[0, c], p[c], q[c], r[c] = gradients(
            total, product, count, saved[0, c], saved[1, c], weight * saved[2, c]
        )
        affine[1, c] = total
    p, q, r = _lanes(p, lanes), _lanes(q, lanes), _lanes(r, lanes)
    for block in prange(blocks):
        _map_gradient_rows(x, g, dx, block * size, min(rows, (block + 1) * size), a, b, relu, p, q, r)
    return affine


FUNCTIONS = {
    "measure": _measure,
    "apply": _apply,
    "add": _add,
    "backward": _backward,
}
serial, parallel = serial_and_parallel(FUNCTIONS)
