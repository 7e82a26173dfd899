"""Ranges of a layer's input that are measured: the batch's min and max in training, running ones in evaluation."""

import torch
from torch import Tensor

from instantnet.quantizers.base import FLOAT_BITS, BeginsWithABatch, BitWidths, Measure, rows_of


def min_max(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """(low, high) of x: of every entry along `axis` [C], or where that is None of the whole tensor [1]."""
    if axis is None:
        low, high = x.aminmax()
        return low.view(1), high.view(1)
    if axis == 0:
        return x.flatten(1).aminmax(dim=1)
    others = [i for i in range(x.dim()) if i != axis]
    return x.amin(others), x.amax(others)


class RunningRange(BeginsWithABatch):
    """Base of quantizers of a layer's input that are given their range.

    channels: C for a range per channel (inputs [B, C, H, W] of depth-wise convolutions), None for one range. Running
    range: new = (1 - momentum) * old + momentum * batch; the first batch initialises it. Before that, evaluation falls
    back on the batch's own range. Buffers: low, high [bit-widths or 1, C or 1]; initialised [bit-widths or 1] (bool).
    """

    of_batch = True
    measure: Measure
    low: Tensor
    high: Tensor

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.measure = min_max
        self.shared = precision.range_scope == "shared"
        rows = 1 if self.shared else rows_of(precision)
        self.register_buffer("low", torch.zeros(rows, channels or 1))
        self.register_buffer("high", torch.zeros(rows, channels or 1))
        self.register_initialised(rows)

    def range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), [C] or [1], that x is quantized over. In training it is recorded."""
        if self.training:
            low, high = self.measure(x, self.range_axis)
            self.observe(low, high)
            return low, high
        return self.range_of(x)

    def range_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high) as `range` gives them, without recording anything and by this process alone."""
        row = self._row()
        if not self.training and self.is_initialised(row):
            return self.low[row], self.high[row]
        return min_max(x, self.range_axis)

    def observe(self, low: Tensor, high: Tensor) -> None:
        """Record the range of a training batch, [C] or [1], unless statistics are frozen."""
        if self.records:
            self._record(self._row(), low, high)

    def reset(self) -> None:
        if self.precision.bits != FLOAT_BITS:
            self.set_initialised(self._row(), False)

    @property
    def range_axis(self) -> int | None:
        """The axis with a range per entry; None = one range."""
        return None if self.channels is None else self.axis

    def _row(self) -> int:
        """The row of the buffers that belongs to the current bit-width."""
        return 0 if self.shared else self.precision.index

    def _record(self, row: int, low: Tensor, high: Tensor) -> None:
        if self.is_initialised(row):
            self.low[row].lerp_(low, self.precision.range_momentum)
            self.high[row].lerp_(high, self.precision.range_momentum)
        else:
            self.low[row].copy_(low)
            self.high[row].copy_(high)
            self.set_initialised(row, True)
