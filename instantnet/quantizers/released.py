"""Min-max as the authors' released code has it (quantize.py there): two points in which it differs from `minmax`.

* A channel, or tensor, whose values are all alike becomes 0, where `minmax` keeps the value.
* Running ranges start at 0 and average in from the first batch on, where in `minmax` the first batch sets them; a
  recalibration goes on from where they are.

With `range_scope` = shared, `range_momentum` = 0.9 the running range is the release's.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import BitWidths, Codes, refuse_float
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights, codes_of, min_max, rounded


def emptied(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range, moved to 0 where it holds one value."""
    wide, zero = high > low, torch.zeros_like(low)
    return torch.where(wide, low, zero), torch.where(wide, high, zero)


def rounded_or_zero(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """`minmax.rounded`, and 0 where the range holds one value."""
    return rounded(x, *emptied(low, high), bits, axis)


class ReleasedWeights(MinMaxWeights):
    """Weights [K, ...]."""

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.rounding = rounded_or_zero

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        low, high = emptied(*min_max(x.detach(), self.axis))
        return codes_of(x.detach(), self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)


class ReleasedInputs(MinMaxInputs):
    """A layer's input."""

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.rounding = rounded_or_zero

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.low.dtype)
        low, high = emptied(*self.range_of(x))
        return codes_of(x, self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)

    def reset(self) -> None:
        """Nothing: a running range goes on."""

    def _record(self, row: int, low: Tensor, high: Tensor) -> None:
        self.low[row].lerp_(low, self.precision.range_momentum)
        self.high[row].lerp_(high, self.precision.range_momentum)
        self.set_initialised(row, True)
