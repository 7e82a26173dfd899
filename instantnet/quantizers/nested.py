"""One integer tensor for all bit-widths: the code at b bit is the top b bits of any wider code.

    u = (x - low) / (high - low);  code = min(floor(2^b * u), 2^b - 1);  cell = (high - low) / 2^b
    x_hat = code * cell + low + cell / 2

The range is divided into 2^b cells, and a value becomes the centre of its own. Halving every cell gives the cells at
b + 1 bit, so code(b) = code(B) >> (B - b), exactly: 2^b * u is exact in binary floating point. Cutting bits off codes
of `minmax` is not the same: its values include both ends of the range, so its grids do not nest.

Ranges are those of `minmax`. Weights have the same one at every bit-width, so their codes nest. A layer's inputs have a
running range per bit-width, because another network feeds them there; with range_scope "shared" they nest too.
Gradients pass unchanged.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import BitWidths, Codes, Measure, Quantizer, StraightThrough, as_codes, refuse_float
from instantnet.quantizers.integers import nonzero
from instantnet.quantizers.running import RunningRange, min_max


def in_cells(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The centre of the cell, one of 2^bits over low..high, that x lies in; low, high broadcast against x. No gradient.

    A zero range gives low.
    """
    width, cell, centre = cells(low, high, bits)
    if torch.compiler.is_compiling():  # with operations in place the graph would lose the gradient, without a word
        return ((x - low) / width * 2**bits).floor().clamp(0, 2**bits - 1) * cell + centre
    return (x - low).div_(width).mul_(2**bits).floor_().clamp_(0, 2**bits - 1).mul_(cell).add_(centre)


def cells(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """(divisor of x - low, width of a cell, centre of the lowest cell)."""
    width = high - low
    cell = width * 2.0**-bits
    return nonzero(width), cell, low + cell / 2


def codes_in_cells(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Codes:
    """The integers behind `in_cells`; the code of NaN is 0."""
    width, cell, centre = cells(low, high, bits)
    codes = (x - low).div_(width).mul_(2**bits).floor_().clamp_(0, 2**bits - 1)
    return Codes(as_codes(codes, bits), cell, torch.zeros_like(cell, dtype=torch.int64), centre)


class NestedWeights(Quantizer):
    """Weights [K, ...], each output channel over its own min and max. No state.

    axis: the output channels' axis of the weight.
    """

    measure: Measure

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.measure = min_max

    def quantize(self, x: Tensor) -> Tensor:
        low, high = (self.per_channel(bound, x) for bound in self.measure(x.detach(), self.axis))
        return StraightThrough.apply(x, in_cells, low, high, self.precision.bits)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        low, high = (self.per_channel(bound, x) for bound in min_max(x.detach(), self.axis))
        return codes_in_cells(x.detach(), low, high, self.precision.bits)


class NestedInputs(RunningRange):
    """A layer's input. State: that of `RunningRange`."""

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        low, high = (self.per_channel(bound, x) for bound in self.range(x.detach()))
        return StraightThrough.apply(x, in_cells, low, high, self.precision.bits)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.low.dtype)
        low, high = (self.per_channel(bound, x) for bound in self.range_of(x))
        return codes_in_cells(x, low, high, self.precision.bits)
