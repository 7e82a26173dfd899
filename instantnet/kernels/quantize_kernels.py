"""Range and fake-quantization of a CPU tensor in two passes over memory instead of eight, compiled by numba.

Every function repeats `quantize.fake_quantize` operation by operation in float32 (subtract, divide, clamp, round half
to even, multiply, add), so results are bit-equal to the plain path. Arrays are float32: x, out of equal shape.
"""

import numpy as np
from numba import njit, prange

from instantnet.kernels.compiled import compiled, serial_and_parallel

ROUNDER = np.float32(12582912.0)
"""1.5 * 2^23: adding and subtracting it rounds half to even, exactly for |x| below 2^22."""

ZERO = np.float32(0)
ONE = np.float32(1)
INFINITY = np.float32(np.inf)


@njit(inline="always")
def quantized(value, low, divisor, scale, levels):
    code = (value - low) / divisor
    code = ZERO if code < ZERO else code  # written so that NaN passes
    code = levels if code > levels else code
    return ((code + ROUNDER) - ROUNDER) * scale + low


@compiled
def _column_ranges(x, first, last, low, high):
    """Min and max of every column over rows first..last-1 of x [M, C], into low, high [C]."""
    low[:] = INFINITY
    high[:] = -INFINITY
    for row in range(first, last):
        for c in range(x.shape[1]):
            value = x[row, c]
            low[c] = value if value < low[c] else low[c]
            high[c] = value if value > high[c] else high[c]


@compiled
def _quantize_rows(x, out, first, last, low, divisor, scale, levels):
    for row in range(first, last):
        for c in range(x.shape[1]):
            out[row, c] = quantized(x[row, c], low[c], divisor[c], scale[c], levels)


@compiled
def _scales(low, high, levels):
    scale = (high - low) / levels
    divisor = np.where(scale > ZERO, scale, ONE).astype(np.float32)
    return scale, divisor


def _measure(x, blocks):
    """(low, high) [C] of the columns of x [M, C]."""
    lows, highs = np.empty((blocks, x.shape[1]), np.float32), np.empty((blocks, x.shape[1]), np.float32)
    rows = (x.shape[0] + blocks - 1) // blocks
    for block in prange(blocks):
        _column_ranges(x, block * rows, min(x.shape[0], (block + 1) * rows), lows[block], highs[block])
    low, high = lows[0], highs[0]
    for block in range(1, blocks):
        low, high = np.minimum(low, lows[block]), np.maximum(high, highs[block])
    return low, high


def _quantize(x, out, low, high, levels, blocks):
    """out [M, C] = x [M, C] fake-quantized to levels + 1 values over low..high [C]."""
    scale, divisor = _scales(low, high, levels)
    rows = (x.shape[0] + blocks - 1) // blocks
    for block in prange(blocks):
        _quantize_rows(x, out, block * rows, min(x.shape[0], (block + 1) * rows), low, divisor, scale, levels)


@compiled
def quantize_row(x, out, levels):
    """out [n] = x [n], fake-quantized over its own min and max."""
    low, high = INFINITY, -INFINITY
    for i in range(len(x)):
        low = x[i] if x[i] < low else low
        high = x[i] if x[i] > high else high
    scale = (high - low) / levels
    divisor = scale if scale > ZERO else ONE
    for i in range(len(x)):
        out[i] = quantized(x[i], low, divisor, scale, levels)


@compiled
def quantize_each_row(x, out, levels):
    """out [K, n] = x [K, n], every row fake-quantized over its own min and max."""
    for row in range(x.shape[0]):
        quantize_row(x[row], out[row], levels)


serial, parallel = serial_and_parallel({"measure": _measure, "quantize": _quantize})
