"""Min-max as the authors' released code has it (quantize.py there): two points in which it differs from `minmax`.

* A channel, or tensor, whose values are all alike becomes 0, where `minmax` keeps the value.
* Running ranges start at 0, and the first batch is averaged in; in `minmax` the first batch sets them. A recalibration
  does not reset them.

With `range_scope` = shared, `range_momentum` = 0.9 the running range is the release's.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import BitWidths, Codes
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights, rounded


def rounded_or_zero(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """`minmax.rounded`, and 0 where the range holds one value."""
    wide, zero = high > low, torch.zeros_like(low)
    return rounded(x, torch.where(wide, low, zero), torch.where(wide, high, zero), bits, axis)


def or_zero(codes: Codes) -> Codes:
    """Min-max's codes, with the value 0 where the range holds one value: its scale is 0."""
    return codes._replace(offset=torch.where(codes.scale > 0, codes.offset, torch.zeros_like(codes.offset)))


class ReleasedWeights(MinMaxWeights):
    """Weights [K, ...]."""

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.rounding = rounded_or_zero

    def codes(self, x: Tensor) -> Codes:
        return or_zero(super().codes(x))


class ReleasedInputs(MinMaxInputs):
    """A layer's input."""

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.rounding = rounded_or_zero

    def codes(self, x: Tensor) -> Codes:
        return or_zero(super().codes(x))

    def reset(self) -> None:
        """Nothing is forgotten: a recalibration averages on."""

    def _record(self, row: int, low: Tensor, high: Tensor) -> None:
        self.low[row].lerp_(low, self.precision.range_momentum)
        self.high[row].lerp_(high, self.precision.range_momentum)
        self.set_initialised(row, True)
