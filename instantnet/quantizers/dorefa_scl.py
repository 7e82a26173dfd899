"""AdaBits (Jin et al. 2020, arXiv 1912.09666): rescaled tanh weights, a learned clipping level per bit-width.

    u = tanh(w) / max |tanh(w)|;  Q = 2 * min(floor(2^b * (u + 1) / 2), 2^b - 1) / (2^b - 1) - 1
    w_hat = Q / (sqrt(n) * std(Q)),   n = output channels * height * width of the kernel

    x_hat = a * round(clamp(x / a, 0, 1) * (2^b - 1)) / (2^b - 1)
    d x_hat / d a = (x_hat - x) / a below the level, 1 above it;  d x_hat / d x = 1 inside, 0 outside

a starts at 8, one per layer and bit-width ("switchable clipping level"), depth-wise convolutions included. The gradient
of w passes the rounding unchanged, through tanh and the maximum, not through the standard deviation. floor is the
authors' scheme "modified", whose codes at b bit are the top bits of wider ones.

The authors rescale layers that have no batch norm behind them; behind one the scale has no effect, so here all are.
Inputs with a sign are clipped to [-a, a], as the authors' option double_side does. At 32 bit the authors still squash
the weights; here 32 bit is float. Clipping levels have no weight decay, as in the authors' training.
"""

import torch
from torch import Tensor, nn

from instantnet.quantizers.base import BitWidths, Codes, refuse_float, rows_of
from instantnet.quantizers.dorefa import TanhWeights
from instantnet.quantizers.learned import SignedInputs, Sized
from instantnet.quantizers.minmax import codes_of, rounded

FIRST_LEVEL = 8.0


class RescaledWeights(TanhWeights):
    """Weights [K, ...]. axis: the output channels' axis of the weight."""

    def rounded(self, u: Tensor, levels: Tensor) -> Tensor:
        return ((u + 1) / 2 * (levels + 1)).floor().clamp(torch.zeros_like(levels), levels)

    def size_of(self, codes: Tensor, levels: Tensor, x: Tensor) -> Tensor:
        n = x.numel() // x.shape[1 - self.axis]
        deviation = (2 * codes / levels - 1).std(correction=min(1, x.numel() - 1))
        # Weights that all have one code have no deviation; they keep the size of one.
        return torch.where(deviation > 0, deviation, torch.ones_like(deviation)).reciprocal() / n**0.5


class ClippedInputs(SignedInputs):
    """A layer's input. Parameter: level [bit-widths, 1]; buffers: those of `SignedInputs`."""

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.level = nn.Parameter(torch.full((rows_of(precision), 1), FIRST_LEVEL))

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.level.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        level, sign, one = self.level[self.precision.index].abs(), self.sign_of(x).to(x.dtype), x.new_ones(())
        high = level.detach()
        return Sized.apply(x, level, -sign, one, one, rounded, -sign * high, high, self.precision.bits, None)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.level.dtype)
        high = self.level[self.precision.index].detach().abs()
        return codes_of(x, -self.known_sign_of(x).to(x.dtype) * high, high, self.precision.bits)
