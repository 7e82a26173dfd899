"""A network as integers: steps in order, and their numbers at every bit-width. NumPy only.

A value is of one of three kinds.

    codes   of the layer that reads it: x = (code - zero) * scale + offset, code from 0 to `top`
    wide    int32 with a binary point: x = wide * 2^-fraction. Sums, pooling, and whatever has several readers
    float   float32: the image, and layers that the network keeps at 32 bit

Steps, with their numbers per bit-width (in brackets) and at all of them:

    input          the normalised image
    quantize       float -> codes   [scale, offset, zero, top]
    requantize     wide -> codes    [multiplier, addend, shift, low, high]
    conv, linear   codes -> codes or wide
                   [weight, zero, multiplier, second, addend, shift, low, high, long]
    to_wide        float -> wide    [fraction]            to_float       wide -> float   [fraction]
    float_conv, float_linear        weight; [gain, bias]; options low, high of the activation
    add, clamp     wide or float    [low, high] of an activation behind
    avg_pool       wide [multiplier, addend, shift] or float
    max_pool, shuffle, subsample, pad_channels, flatten    any kind

A layer of integers, with q' = weight and x' = code - zero, both 0 outside the image:

    A = sum of q' * x'       S = sum of x'        value = (A * multiplier + S * second + addend) >> shift

per output channel, then clamped to low..high. This is TFLM's requantization with one rounding; the bias, half a unit
and the new zero point lie in the addend, which as a number of 64 bit loses nothing. second is 0 unless weights have a
real offset, and then S is its rank-one term. addend [row classes, column classes, K] has one entry per set of taps that
lie inside the image: where inputs have a real offset, 0.0 of the padding is no code. row_class [P], column_class [Q]
say which. A is 32 bit where |A| < 2^31 is proven for any input, else `long` is 1 and it is 64 bit.

shuffle, subsample, pad_channels, flatten move elements; their options are those of `graph`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDE_BITS = 30
"""Wide values lie within +-2^30, proven, so that a sum of two never overflows."""

Arrays = dict[str, np.ndarray]


@dataclass
class Step:
    """One operation. inputs: indices of steps. shape: of its value, without the batch. options: sizes.

    at: bit-width -> numbers; shared: numbers of all bit-widths; real: bit-width -> a, c, b, the real factors behind
    multiplier, second and addend (without half a unit), in memory only.
    """

    name: str
    op: str
    inputs: list[int]
    shape: tuple[int, ...]
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    at: dict[int, Arrays] = field(default_factory=dict)
    shared: Arrays = field(default_factory=dict)
    real: dict[int, Arrays] = field(default_factory=dict)

    @property
    def is_layer(self) -> bool:
        """Whether it multiplies by integer weights."""
        return self.op in ("conv", "linear")


@dataclass
class Program:
    """bit_widths: lowest first. The value of the last step is the logits, as floats. nested: the codes of weights at
    every bit-width are the top bits of those at the widest."""

    steps: list[Step]
    bit_widths: list[int]
    nested: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.steps[0].shape

    @property
    def classes(self) -> int:
        return self.steps[-1].shape[0]


def taps_inside(size: int, outputs: int, taps: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """[outputs, taps] (bool): which taps of an output's window lie in 0..size - 1."""
    position = np.arange(outputs)[:, None] * stride + np.arange(taps) * dilation - padding
    return (position >= 0) & (position < size)


def fixed_point(a: np.ndarray, c: np.ndarray, b: np.ndarray, most_a: np.ndarray, most_c: np.ndarray) -> Arrays:
    """Integers for round(a * A + c * S + b): multiplier [K], second [K], addend [.., K], shift [K].

    a, c [K], b [.., K]: real; most_a, most_c [K]: bounds of |A| and |S|. Multipliers have 31 bits, or as many as keep
    the whole sum within 62. Raises OverflowError where it does not fit.
    """
    largest_b = np.abs(b).reshape(-1, b.shape[-1]).max(axis=0)
    whole = np.abs(a) * most_a + np.abs(c) * most_c + largest_b + 1
    factor = np.maximum(np.abs(a), np.abs(c))
    shift = np.floor(np.minimum(62 - np.log2(whole), 31 - np.log2(np.maximum(factor, 2.0**-31))) - 1e-9)
    if not np.isfinite(shift).all() or (shift < 1).any():
        raise OverflowError
    shift = np.minimum(shift, 62)
    unit = np.exp2(shift)
    multiplier, second = (np.rint(part * unit).astype(np.int64) for part in (a, c))
    addend = np.rint(b * unit).astype(np.int64) + (1 << (shift.astype(np.int64) - 1))
    return {"multiplier": multiplier, "second": second, "addend": addend, "shift": shift.astype(np.int64)}
