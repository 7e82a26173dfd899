"""One axis of the input, rows or columns: the positions that outputs and filter taps need."""

from __future__ import annotations

import math
from typing import NamedTuple


class Axis(NamedTuple):
    """Output p and tap r need position p*stride + r*dilation - pad, which is real from 0 to size - 1."""

    outputs: int
    taps: int
    stride: int
    dilation: int
    pad: int
    size: int

    @property
    def needed(self) -> int:
        """Real positions up to the last one that an output needs: the default of H and W."""
        return (self.outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1 - self.pad

    def real_count(self) -> int:
        """Distinct real positions that all outputs and taps need together."""
        axis = self.reduced()
        found = 0
        for p in range(min(axis.dilation, axis.outputs)):
            for r in range(min(axis.stride, axis.taps)):
                # p, p + dilation, .. and r, r + stride, ..: every step of either moves by one period
                period = axis.stride * axis.dilation
                first = p * axis.stride + r * axis.dilation
                count = -(-(axis.outputs - p) // axis.dilation) + -(-(axis.taps - r) // axis.stride) - 1
                begin = max(0, -(-(axis.pad - first) // period))
                end = min(count, -(-(axis.pad + axis.size - first) // period))
                found += max(0, end - begin)
        return found

    def real_pairs(self) -> int:
        """Number of (output, tap) pairs whose position is real; the others multiply zeros."""
        return self._pairs_below(self.pad + self.size) - self._pairs_below(self.pad)

    def _pairs_below(self, end: int) -> int:
        """Number of (output p, tap r) pairs with p * stride + r * dilation < end."""
        if end <= 0:
            return 0
        # The first taps pair with every output, the last ones with none.
        every = min(self.taps, max(0, -(-(end - (self.outputs - 1) * self.stride) // self.dilation)))
        some = min(self.taps, -(-end // self.dilation))
        last = end - (some - 1) * self.dilation
        return self.outputs * every + _floor_sum(some - every, self.stride, self.dilation, last + self.stride - 1)

    def reduced(self) -> Axis:
        """The same axis with the smallest stride and dilation: without positions that nothing needs.

        Whatever divides both steps divides every position. One tap makes the stride a change of unit, one output the
        dilation. No count of positions changes.
        """
        stride = self.stride if self.outputs > 1 else 0
        dilation = self.dilation if self.taps > 1 else 0
        unit = math.gcd(stride, dilation) or 1
        pad, end = -(-self.pad // unit), -(-(self.pad + self.size) // unit)
        return Axis(self.outputs, self.taps, stride // unit or 1, dilation // unit or 1, pad, end - pad)


def _floor_sum(count: int, divisor: int, step: int, start: int) -> int:
    """Sum of floor((step * i + start) / divisor) for i from 0 to count - 1, all not negative, by Euclid's algorithm."""
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (step // divisor) + count * (start // divisor)
        step, start = step % divisor, start % divisor
        highest = step * count + start
        count, start, divisor, step = highest // divisor, highest % divisor, step, divisor
        if not divisor:
            break
    return total
