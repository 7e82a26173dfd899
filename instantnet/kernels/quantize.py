"""`min_max` and `rounded` of `quantizers.minmax` in one pass over memory each, bit-equal; what they cannot serve goes
to the plain ones."""

import torch
from torch import Tensor

from instantnet.kernels.library import call, is_channels_last, is_served, threads_for
from instantnet.quantizers import minmax

LANES = 64
"""A range over a whole tensor is taken per column first, for this number of columns: the compiler vectorises that."""


def min_max(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """(low, high) of x along `axis` [C], or over the whole tensor [1]."""
    if axis == 0 and _serves_weights(x):
        low, high = x.new_empty(2, len(x))
        call("range_of_rows", x, len(x), x[0].numel(), low, high)
        return low, high
    columns = _columns(x, axis)
    if not columns:
        return minmax.min_max(x, axis)
    low, high = x.new_empty(2, columns)
    call("range_of_columns", x, x.numel() // columns, columns, low, high, threads_for(x))
    return (low, high) if axis == 1 else (low.min().view(1), high.max().view(1))


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """x at 2^bits values over low..high, [C] along `axis` or [1]."""
    levels = float(2**bits - 1)
    if axis == 0 and _serves_weights(x):
        out = torch.empty_like(x)
        call("round_rows", x, out, len(x), x[0].numel(), low.contiguous(), high.contiguous(), levels)
        return out
    columns = _columns(x, axis)
    if not columns or low.dtype != torch.float32:
        return minmax.rounded(x, low, high, bits, axis)
    out = torch.empty_like(x)
    low, high = low.contiguous(), high.contiguous()
    call("round_columns", x, out, x.numel() // columns, columns, low, high, len(low), levels, threads_for(x))
    return out


def _serves_weights(x: Tensor) -> bool:
    return is_served(x) and x.numel() > 0 and (x.is_contiguous() or is_channels_last(x))


def _columns(x: Tensor, axis: int | None) -> int:
    """The width that x is taken as a matrix of: C along axis 1, else LANES; 0 = it cannot be served."""
    if not is_served(x) or x.numel() == 0:
        return 0
    if axis == 1:
        return x.shape[1] if is_channels_last(x) else 0
    dense = x.is_contiguous() or is_channels_last(x)
    return LANES if axis is None and dense and x.numel() % LANES == 0 else 0
