"""Weights of a block as the kernels take them, quantized, and their gradients given back.

A matrix is dense (a grouped convolution's zeros are written out) and stands twice: by input [C_in, padded C_out], by
output [C_out, padded C_in]; its outputs stand in the order that a channel shuffle behind it gives them. Weights of
levels 0 are not quantized, else over each output channel's own min and max, bit-equal to `quantize.quantize_weight`.
"""

import numpy as np
from numba import njit

from instantnet.kernels.compiled import compiled
from instantnet.kernels.quantize_kernels import quantize_row
from instantnet.kernels.vectors import padded, zeros

ZERO = np.float32(0)
SQUARE = 16
"""Side of the pieces a matrix is transposed by: their rows and columns are few cache lines."""


@njit(inline="always")
def after_shuffle(channel, channels, groups):
    """Where the shuffle puts a channel."""
    return channel % (channels // groups) * groups + channel // (channels // groups)


@njit(inline="always")
def before_shuffle(place, channels, groups):
    """Which channel the shuffle puts there."""
    return place % groups * (channels // groups) + place // groups


@compiled
def matrices(weight, groups, shuffled, levels):
    """(by input, by output), flat, of a 1x1 convolution: weight [K, C_in / groups]."""
    outputs, width = weight.shape
    inputs = width * groups
    by_output = zeros(outputs * padded(inputs)).reshape(outputs, -1)
    for k in range(outputs):
        place = after_shuffle(k, outputs, groups) if shuffled else k
        first = k // (outputs // groups) * width
        _quantize(weight[k], levels, by_output[place, first : first + width])
    by_input = zeros(inputs * padded(outputs)).reshape(inputs, -1)
    _transpose(by_output, by_input, outputs, inputs)
    return by_input.reshape(-1), by_output.reshape(-1)


@compiled
def _transpose(matrix, out, rows, columns):
    for row in range(0, rows, SQUARE):
        for column in range(0, columns, SQUARE):
            for i in range(row, min(row + SQUARE, rows)):
                for j in range(column, min(column + SQUARE, columns)):
                    out[j, i] = matrix[i, j]


@compiled
def own_gradients(dense, outputs, width, groups, expansion):
    """[K, C_in / groups] out of the gradient of a dense matrix, [threads, size]: summed. expansion: of the matrix by
    input, its outputs shuffled; else by output, in their order."""
    inputs = width * groups
    total = dense[0].copy()
    for block in range(1, len(dense)):
        total += dense[block]
    if expansion:
        by_output = np.empty((outputs, inputs), np.float32)
        _transpose(total.reshape(inputs, -1), by_output, inputs, outputs)
    else:
        by_output = total.reshape(outputs, -1)
    out = np.empty((outputs, width), np.float32)
    for k in range(outputs):
        place = after_shuffle(k, outputs, groups) if expansion else k
        first = k // (outputs // groups) * width
        out[k] = by_output[place, first : first + width]
    return out


@compiled
def taps_of(weight, levels):
    """[k * k, padded C], flat, of depth-wise weights [C, k * k]."""
    channels, taps = weight.shape
    out = zeros(taps * padded(channels)).reshape(taps, -1)
    row = np.empty(taps, np.float32)
    for c in range(channels):
        _quantize(weight[c], levels, row)
        for tap in range(taps):
            out[tap, c] = row[tap]
    return out.reshape(-1)


@compiled
def turned(weight, step):
    """`taps_of` turned by 180 degrees: the last tap first."""
    out, taps = zeros(len(weight)), len(weight) // step
    for tap in range(taps):
        out[tap * step : (tap + 1) * step] = weight[(taps - 1 - tap) * step : (taps - tap) * step]
    return out


@compiled
def _quantize(weights, levels, out):
    if levels == ZERO:
        out[:] = weights
    else:
        quantize_row(weights, out, levels)
