"""What quantizers with learned sizes share: the gradient of a step or a clipping level, and what a first batch shows.

A quantizer whose values scale with a size s, x_hat = s * f(x / s), has with a straight-through f the gradients

    d x_hat / d x = 1 inside the range, 0 outside
    d x_hat / d s = (x_hat - x) / s inside the range, x_hat / s outside

With s a step this is LSQ's (Esser et al. 2020, equation 3), with s a clipping level that of AdaBits (Jin et al. 2020).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from instantnet.quantizers.base import Agree, BeginsWithABatch, BitWidths, rows_of
from instantnet.quantizers.integers import nonzero


class Sized(torch.autograd.Function):
    """`Sized.apply(x, size, lowest, highest, gradient_scale, function, *arguments)`: function(x, *arguments), with the
    gradients above.

    size: broadcasts against x. lowest, highest: the ends of the range in units of the size; a value on an end is
    outside. gradient_scale: factor on the gradient of the size.
    """

    @staticmethod
    def forward(ctx, x, size, lowest, highest, gradient_scale, function: Callable[..., Tensor], *arguments) -> Tensor:
        x_hat = function(x, *arguments)
        ctx.save_for_backward(x, size, lowest, highest, gradient_scale, x_hat)
        ctx.arguments = len(arguments)
        return x_hat

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, size, lowest, highest, gradient_scale, x_hat = ctx.saved_tensors
        divisor = nonzero(size)
        ratio = x / divisor
        inside = (ratio > lowest) & (ratio < highest)
        to_size = None
        if ctx.needs_input_grad[1]:
            per_value = torch.where(inside, x_hat - x, x_hat) / divisor
            to_size = (gradient * per_value).sum_to_size(size.shape) * gradient_scale
        return gradient * inside, to_size, None, None, None, None, *(None,) * ctx.arguments


class SignedInputs(BeginsWithABatch):
    """Base of quantizers of a layer's input that do not measure its range, but need to know whether it has a sign.

    Behind a ReLU codes count up from zero. Behind a linear layer half of them would be lost, so an input that is
    negative anywhere in the first training batch at a bit-width is signed there ever after, recalibrations included.
    Before that batch, the batch at hand decides. Buffers: signed, initialised [bit-widths] (bool).

    agree: over several processes, the mean of what each of them measured; put there from outside.
    """

    signed: Tensor

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.agree: Agree = lone
        self.register_buffer("signed", torch.zeros(rows_of(precision), dtype=torch.bool))
        self.register_initialised(rows_of(precision))

    @torch.no_grad()
    def begin(self, x: Tensor, row: int) -> None:
        """Take what the first training batch shows as the state of this bit-width."""
        self.signed[row] = self.agree((x.amin() < 0).to(x.dtype)) > 0

    def sign_of(self, x: Tensor) -> Tensor:
        """Whether x counts as signed, a bool tensor []. In training it is recorded on the first batch."""
        row = self.precision.index
        if not self.is_initialised(row) and self.records:
            self.begin(x.detach(), row)
            self.set_initialised(row, True)
        return self.known_sign_of(x)

    def known_sign_of(self, x: Tensor) -> Tensor:
        """The same without recording anything."""
        row = self.precision.index
        return self.signed[row] if self.is_initialised(row) else x.amin() < 0


def lone(measured: Tensor) -> Tensor:
    """What one process alone agrees on."""
    return measured
