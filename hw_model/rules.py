"""The rules of the cost model that several parts of it share, each stated once.

Plain functions of numbers: `layer`, `reasons` and `loop_nest` call them directly. The kernel, the bounds and the
operators of the search call them compiled and inlined (`compiled_rules`). None calls another, so both ways work.
"""


def span(outputs, taps, stride, dilation):
    """Positions from the first to the last that a tile of outputs and taps touches on one input axis. A memory needs
    room for all of them, padding included."""
    return (outputs - 1) * stride + (taps - 1) * dilation + 1


def weight_words(g, k, c, r, s):
    """Words of a tile of W."""
    return g * k * c * r * s


def input_words(n, g, c, rows, columns):
    """Words of a tile of I; rows, columns: from `span`."""
    return n * g * c * rows * columns


def output_words(n, g, k, p, q):
    """Words of a tile of O."""
    return n * g * k * p * q


def capacity_bits(mask, weights, inputs, outputs, weight_bits, input_bits, output_bits):
    """Bits that the tensors of `mask` (W 1, I 2, O 4) need in one memory, from their words and the bits of a word."""
    need = weights * 0
    if mask & 1:
        need += weights * weight_bits
    if mask & 2:
        need += inputs * input_bits
    if mask & 4:
        need += outputs * output_bits
    return need


def returning(entered, finished):
    """Partial sums that return to a memory and are read back from the one above: all but the first of each output.
    Those on their way up (drains) are as many as entered."""
    return entered - finished
