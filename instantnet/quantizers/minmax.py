"""The paper's quantizer, the forward half of SBM (Banner et al. 2018, arXiv 1805.11046): uniform between min and max.

    scale = (high - low) / (2^b - 1);  code = round(clamp((x - low) / scale, 0, 2^b - 1));  x_hat = code * scale + low

Weights: over each output channel's own min and max. Activations: over the batch's in training, over running ones in
evaluation. Nothing is learned; gradients pass unchanged.

`measure` and `rounding` of a quantizer hold the two loops over its tensor, `min_max` and `rounded`. Kernels and
statistics over several processes are other functions of the same signature, put there from outside.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import (
    BitWidths,
    Codes,
    Measure,
    Quantizer,
    Rounding,
    StraightThrough,
    as_codes,
    broadcast_shape,
    refuse_float,
)
from instantnet.quantizers.running import RunningRange, min_max

__all__ = ["MinMaxInputs", "MinMaxWeights", "codes_of", "fake_quantize", "min_max", "rounded"]


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """x at 2^bits values over low..high; [C] along `axis`, else any shape that broadcasts against x. No gradient."""
    if axis is not None:
        low, high = (bound.view(broadcast_shape(x, axis)) for bound in (low, high))
    levels = 2**bits - 1
    scale, divisor = steps(low, high, levels)
    if torch.compiler.is_compiling():  # with operations in place the graph would lose the gradient, without a word
        return ((x - low) / divisor).clamp(0, levels).round() * scale + low
    return (x - low).div_(divisor).clamp_(0, levels).round_().mul_(scale).add_(low)


def steps(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """(scale, divisor of x - low). A zero range divides by one and multiplies by zero: every x becomes `low`."""
    # By a tensor, not a number: a GPU multiplies by the rounded reciprocal of a number, and is a digit off the CPU.
    scale = (high - low) / torch.full_like(low, levels)
    return scale, torch.where(scale > 0, scale, torch.ones_like(scale))


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x rounded to the nearest of 2^bits values spaced evenly over [low, high]; values outside are clamped.

    x: any shape; low, high: broadcast against it. Where high == low the result is low. The gradient of x passes
    unchanged.
    """
    return StraightThrough.apply(x, rounded, low, high, bits, None)


def codes_of(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Codes:
    """The integers behind `fake_quantize`; the code of NaN is 0."""
    levels = 2**bits - 1
    scale, divisor = steps(low, high, levels)
    codes = ((x - low) / divisor).clamp_(0, levels).round_()
    return Codes(as_codes(codes, bits), scale, torch.zeros_like(scale, dtype=torch.int64), low)


class MinMaxWeights(Quantizer):
    """Weights [K, ...], each output channel over its own min and max. No state.

    axis: the output channels' axis of the weight.
    """

    measure: Measure
    rounding: Rounding

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.measure, self.rounding = min_max, rounded

    def quantize(self, x: Tensor) -> Tensor:
        low, high = self.measure(x.detach(), self.axis)
        return StraightThrough.apply(x, self.rounding, low, high, self.precision.bits, self.axis)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        low, high = min_max(x.detach(), self.axis)
        return codes_of(x.detach(), self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)


class MinMaxInputs(RunningRange):
    """A layer's input: over the batch's min and max in training, running ones in evaluation (`RunningRange`)."""

    rounding: Rounding

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.rounding = rounded

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        low, high = self.range(x.detach())
        return StraightThrough.apply(x, self.rounding, low, high, self.precision.bits, self.range_axis)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.low.dtype)
        low, high = self.range_of(x)
        return codes_of(x, self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)
