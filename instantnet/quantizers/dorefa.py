"""DoReFa as Any-Precision DNN (Yu et al. 2021, arXiv 1911.07346) has it: tanh weights, inputs clipped to [0, 1].

    u = tanh(w) / max |tanh(w)|;  w_hat = E * (2 * round((u + 1) / 2 * (2^b - 1)) / (2^b - 1) - 1);  E = mean |w|
    x_hat = round(clamp(x, 0, 1) * (2^b - 1)) / (2^b - 1)

max and mean are over the whole layer. The gradient passes the rounding unchanged: through tanh and the maximum to w,
not through E; to x inside the clipping. Nothing is learned, and nothing measured but whether inputs have a sign: those
that do are clipped to [-1, 1], which the paper's networks, with a ReLU before every convolution, do not need. The
authors' networks squash the weights at 32 bit as well; here 32 bit is float.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import (
    Codes,
    Quantizer,
    StraightThrough,
    as_codes,
    full_precision,
    refuse_float,
)
from instantnet.quantizers.integers import nonzero
from instantnet.quantizers.learned import SignedInputs
from instantnet.quantizers.minmax import codes_of, rounded


class TanhWeights(Quantizer):
    """Base of quantizers of squashed weights: w_hat = size * (2 * code / (2^b - 1) - 1). No state."""

    def quantize(self, x: Tensor) -> Tensor:
        u = squashed(x)
        codes, scale, size = self.parts(u.detach(), x.detach())
        return StraightThrough.apply(u * size, replaced, codes * scale - size)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        codes, scale, size = self.parts(squashed(x.detach()), x.detach())
        return Codes(as_codes(codes, self.precision.bits), scale, torch.zeros_like(scale, dtype=torch.int64), -size)

    def parts(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(codes as floats, scale [], size []) of w_hat = codes * scale - size; u: x squashed to -1..1."""
        levels = x.new_full((), 2**self.precision.bits - 1)
        codes = self.rounded(u, levels)
        size = self.size_of(codes, levels, x)
        return codes, 2 * size / levels, size

    def rounded(self, u: Tensor, levels: Tensor) -> Tensor:
        """Whole numbers 0..levels for u in -1..1."""
        raise NotImplementedError

    def size_of(self, codes: Tensor, levels: Tensor, x: Tensor) -> Tensor:
        """The largest value of w_hat, a scalar; x: the weights."""
        raise NotImplementedError


def squashed(weight: Tensor) -> Tensor:
    """tanh(w) / max |tanh(w)|, differentiable; 0 where all weights are."""
    weight = weight.tanh()
    return weight / nonzero(weight.abs().amax())


def replaced(_: Tensor, by: Tensor) -> Tensor:
    """`by`, to give a tensor of known values the gradient of another."""
    return by


class DoReFaWeights(TanhWeights):
    """Weights of any shape."""

    def rounded(self, u: Tensor, levels: Tensor) -> Tensor:
        return ((u + 1) / 2 * levels).round()

    def size_of(self, codes: Tensor, levels: Tensor, x: Tensor) -> Tensor:
        return x.abs().mean()


class DoReFaInputs(SignedInputs):
    """A layer's input, [0, 1] or, where it has a sign, [-1, 1]. Buffers: those of `SignedInputs`."""

    def quantize(self, x: Tensor) -> Tensor:
        x = full_precision(x)
        low, high = -self.sign_of(x).to(x.dtype), x.new_ones(())
        return StraightThrough.apply(x.clamp(low, high), rounded, low, high, self.precision.bits, None)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = full_precision(x.detach())
        return codes_of(x, -self.known_sign_of(x).to(x.dtype), x.new_ones(()), self.precision.bits)
