"""What happens to each pixel between two convolutions: norm, ReLU and quantizer, and their gradients.

A norm with the quantizer behind it is a table [ROWS, padded C], a vector of channels for each number of its formulas.
The passes go by `vectors.each_pixel`; their bodies name the rows they need.
"""

import numpy as np
from llvmlite import ir

from instantnet.kernels.compiled import compiled
from instantnet.kernels.moments import gradients, normalise
from instantnet.kernels.quantize_kernels import ROUNDER
from instantnet.kernels.vectors import FLOAT, LANES, VECTOR, ZEROS, each_pixel, padded, zeros
from instantnet.kernels.weights import before_shuffle

ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)

ROUNDERS = ir.Constant(VECTOR, [ir.Constant(FLOAT, float(ROUNDER))] * LANES)

# Rows of the table that a norm and the quantizer behind it are given by, each a vector of channels:
SLOPE, OFFSET, LEVELS, SCALE, LOW, A, B, MEAN, P, Q, R, DEVIATION = range(12)
ROWS = 12
# norm(y) = y * A + B; its code = y * SLOPE + OFFSET, rounded within 0..LEVELS; code * SCALE + LOW; DEVIATION 1 / std;
# the gradient of y = P * gradient + Q * y + R.


def _code(code, y, slope, offset, levels):
    value = code.least(levels, code.largest(ZEROS, code.fma(y, slope, offset)))
    return code.builder.fsub(code.builder.fadd(value, ROUNDERS), ROUNDERS)


def _quantized(code, y, known):
    slope, offset, levels, scale, low = known[:5]
    return code.fma(_code(code, y, slope, offset, levels), scale, low)


def _statistics_body(code, inputs, known):
    (y,), (shift,) = inputs, known
    d = code.builder.fsub(y, shift)
    return [], [d, code.builder.fmul(d, d), y, y]


def _quantize_body(code, inputs, known):
    return [_quantized(code, inputs[0], known)], []


def _relu_body(code, inputs, known):
    return [code.largest(ZEROS, code.fma(inputs[0], *known))], []


def _relu_back_body(code, inputs, known):
    (gradient, y), (a, b, mean) = inputs, known
    through = code.builder.fcmp_ordered(">", code.fma(y, a, b), ZEROS)
    gradient = code.builder.select(through, gradient, ZEROS)
    return [gradient], [gradient, code.builder.fmul(gradient, code.builder.fsub(y, mean))]


def _relu_back_with_float_body(code, inputs, known):
    outputs, shares = _relu_back_body(code, inputs, known)
    return [*outputs, code.largest(ZEROS, code.fma(inputs[1], *known[:2]))], shares


def _relu_back_with_quantized_body(code, inputs, known):
    outputs, shares = _relu_back_body(code, inputs, known[5:])
    return [*outputs, _quantized(code, inputs[1], known)], shares


def _norm_back_body(code, inputs, known):
    (gradient, y), (p, q, r) = inputs, known
    return [code.fma(gradient, p, code.fma(y, q, r))], []


statistics = each_pixel(1, 0, 1, ["add", "add", "min", "max"], _statistics_body)
quantize = each_pixel(1, 1, 5, [], _quantize_body)
relu = each_pixel(1, 1, 2, [], _relu_body)
relu_back = each_pixel(2, 1, 3, ["add", "add"], _relu_back_body)
relu_back_with_float = each_pixel(2, 2, 3, ["add", "add"], _relu_back_with_float_body)
relu_back_with_quantized = each_pixel(2, 2, 8, ["add", "add"], _relu_back_with_quantized_body)
norm_back = each_pixel(2, 1, 3, [], _norm_back_body)


@compiled
def table(totals, bounds, shift, count, vectors, groups, momentum, eps, levels, per_channel):
    """(table [ROWS * padded C], low, high [C or 1]) of a norm: totals [blocks, 2, C] are sums of y - shift and of its
    square, bounds [blocks, 2, C] min and max of y; vectors gamma, beta, running mean and variance, the latter two moved
    by `momentum`, in the order before a shuffle between `groups`. levels 0: nothing is quantized."""
    gamma, beta, running_mean, running_var = vectors
    channels = len(gamma)
    known = zeros(ROWS * padded(channels)).reshape(ROWS, -1)
    low, high = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for c in range(channels):
        own = before_shuffle(c, channels, groups)
        total, square, least, largest = 0.0, 0.0, INFINITY, -INFINITY
        for block in range(len(totals)):
            total += totals[block, 0, c]
            square += totals[block, 1, c]
            least = min(least, bounds[block, 0, c])
            largest = max(largest, bounds[block, 1, c])
        mean, deviation, a, b = normalise(
            total, square, count, shift[c], gamma, beta, running_mean, running_var, own, momentum, eps
        )
        known[A, c], known[B, c], known[MEAN, c], known[DEVIATION, c] = a, b, mean, deviation
        first, second = least * a + b, largest * a + b
        low[c], high[c] = max(min(first, second), ZERO), max(max(first, second), ZERO)
    if levels > ZERO:
        if not per_channel:
            low, high = low.min() * np.ones(1, np.float32), high.max() * np.ones(1, np.float32)
        for c in range(channels):
            of = c if per_channel else 0
            scale = (high[of] - low[of]) / levels
            factor = ONE / scale if scale > ZERO else ZERO
            known[SLOPE, c], known[OFFSET, c] = known[A, c] * factor, (known[B, c] - low[of]) * factor
            known[LEVELS, c], known[SCALE, c], known[LOW, c] = levels, scale, low[of]
    return known.reshape(-1), low, high


@compiled
def table_back(known, totals, groups, count):
    """Fill rows P, Q, R; returns the gradients of gamma and beta [2, C], in the order before a shuffle. totals
    [blocks, 2, C]: sums of the gradient and of its product with y - mean."""
    channels = totals.shape[2]
    known = known.reshape(ROWS, -1)
    affine = np.empty((2, channels), np.float32)
    for c in range(channels):
        total, product = 0.0, 0.0
        for block in range(len(totals)):
            total += totals[block, 0, c]
            product += totals[block, 1, c]
        to_gamma, known[P, c], known[Q, c], known[R, c] = gradients(
            total, product, count, known[MEAN, c], known[DEVIATION, c], known[A, c]
        )
        own = before_shuffle(c, channels, groups)
        affine[0, own], affine[1, own] = to_gamma, total
    return affine
