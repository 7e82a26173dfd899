"""The form that integer kernels take (TFLM, CMSIS-NN, LiteRT): symmetric weights, inputs with an integer zero point.

Weights, each output channel, zero point 0:

    step = max |w| / (2^(b-1) - 1);  q = clamp(round(w / step), -(2^(b-1) - 1), 2^(b-1) - 1);  w_hat = q * step

Inputs, over a range low..high that is measured as `minmax` does, widened to hold 0:

    step = (high - low) / (2^b - 1);  zero_point = round(-low / step)
    code = clamp(round(x / step) + zero_point, 0, 2^b - 1);  x_hat = (code - zero_point) * step

Rules: LiteRT's 8-bit quantization specification. Gradients pass unchanged, as those of `minmax`. From 2 bit on.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import BitWidths, Codes, Measure, Quantizer, StraightThrough, refuse_float
from instantnet.quantizers.integers import codes_on_integers, most_levels, nonzero, on_integers
from instantnet.quantizers.running import RunningRange, min_max


class SymmetricWeights(Quantizer):
    """Weights [K, ...], each output channel over +-its largest magnitude. No state.

    axis: the output channels' axis of the weight. Kernels take q, which is code - zero_point.
    """

    lowest_bits = 2  # at 1 bit zero would be the only value
    measure: Measure

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.measure = min_max

    def quantize(self, x: Tensor) -> Tensor:
        step, largest = self._grid(x.detach(), *self.measure(x.detach(), self.axis))
        return StraightThrough.apply(x, on_integers, step, -largest, largest)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        step, largest = self._grid(x.detach(), *min_max(x.detach(), self.axis))
        return codes_on_integers(x.detach(), step, -largest, largest, self.precision.bits)

    def _grid(self, x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(step, largest integer)."""
        limit = self.per_channel(torch.maximum(-low, high), x)
        largest = torch.full_like(limit, 2 ** (self.precision.bits - 1) - 1)
        return limit / largest, largest


class SymmetricInputs(RunningRange):
    """A layer's input, affine with an integer zero point. State: that of `RunningRange`."""

    lowest_bits = 2

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        return StraightThrough.apply(x, on_integers, *self._grid(x, *self.range(x.detach())))

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.low.dtype)
        return codes_on_integers(x, *self._grid(x, *self.range_of(x)), self.precision.bits)

    def _grid(self, x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(step, lowest integer, highest integer)."""
        low, high = self.per_channel(low, x).clamp_max(0), self.per_channel(high, x).clamp_min(0)
        levels = most_levels(self.precision.bits, low)
        step = (high - low) / levels
        zero_point = (-low / nonzero(step)).round().nan_to_num(0.0).clamp(torch.zeros_like(levels), levels)
        return step, -zero_point, levels - zero_point
