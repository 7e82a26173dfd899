"""Rounding to a step times an integer: zero is one of the values, as integer kernels want it.

    q = clamp(round(x / step), lowest, highest);  x_hat = q * step;  code = q - lowest

lowest, highest: whole numbers, lowest <= 0 <= highest. -lowest is the zero point of the codes.
"""

import math

import torch
from torch import Tensor

from instantnet.quantizers.base import Codes, as_codes


def on_integers(x: Tensor, step: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """x at the values step * lowest .. step * highest; all broadcast against x. No gradient. A step of 0 gives 0."""
    divisor = nonzero(step)
    if torch.compiler.is_compiling():  # with operations in place the graph would lose the gradient, without a word
        return (x / divisor).round().clamp(lowest, highest) * step
    # On a CPU torch's clamp between two tensors is not vectorised: two passes take a fifth of its time.
    return (x / divisor).round_().clamp_min_(lowest).clamp_max_(highest).mul_(step)


def codes_on_integers(x: Tensor, step: Tensor, lowest: Tensor, highest: Tensor, bits: int) -> Codes:
    """The integers behind `on_integers`; NaN has the code of zero."""
    zero_point = as_codes(-lowest, bits)
    q = (x / nonzero(step)).round_().nan_to_num_(0.0, torch.inf, -torch.inf).clamp_(lowest, highest)
    codes = (q.to(torch.int64) + zero_point).clamp_(0, 2**bits - 1)
    return Codes(codes, step, zero_point, torch.zeros_like(step))


def most_levels(bits: int, like: Tensor) -> Tensor:
    """The largest whole number up to 2^bits - 1 that the type of `like` holds, in its shape: beyond 24 bit float32
    would round 2^bits - 1 up, to a code that there is none of."""
    digits = 1 - round(math.log2(torch.finfo(like.dtype).eps))
    return torch.full_like(like, 2**bits - 2 ** max(0, bits - digits))


def nonzero(step: Tensor) -> Tensor:
    """The step, with 1 where it is not positive."""
    return torch.where(step > 0, step, torch.ones_like(step))
