"""The paper's quantizer, the forward half of SBM (Banner et al. 2018, arXiv 1805.11046): uniform between min and max.

    scale = (high - low) / (2^b - 1);  code = round(clamp((x - low) / scale, 0, 2^b - 1));  x_hat = code * scale + low

Weights: over each output channel's own min and max. Activations: over the batch's in training, over running ones in
evaluation. Nothing is learned; gradients pass unchanged.

`measure` and `rounding` of a quantizer hold the two loops over its tensor, `min_max` and `rounded`. Kernels and
statistics over several processes are other functions of the same signature, put there from outside.
"""

import torch
from torch import Tensor

from instantnet.quantizers.base import (
    FLOAT_BITS,
    BitWidths,
    Codes,
    Measure,
    Quantizer,
    Rounding,
    StraightThrough,
    broadcast_shape,
)


def min_max(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """(low, high) of x: of every entry along `axis` [C], or where that is None of the whole tensor [1]."""
    if axis is None:
        low, high = x.aminmax()
        return low.view(1), high.view(1)
    if axis == 0:
        return x.flatten(1).aminmax(dim=1)
    others = [i for i in range(x.dim()) if i != axis]
    return x.amin(others), x.amax(others)


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """x at 2^bits values over low..high; [C] along `axis`, else any shape that broadcasts against x. No gradient."""
    if axis is not None:
        low, high = (bound.view(broadcast_shape(x, axis)) for bound in (low, high))
    levels = 2**bits - 1
    scale, divisor = steps(low, high, levels)
    if torch.compiler.is_compiling():  # with operations in place the graph would lose the gradient, without a word
        return ((x - low) / divisor).clamp(0, levels).round() * scale + low
    return (x - low).div_(divisor).clamp_(0, levels).round_().mul_(scale).add_(low)


def steps(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """(scale, divisor of x - low). A zero range divides by one and multiplies by zero: every x becomes `low`."""
    # By a tensor, not a number: a GPU multiplies by the rounded reciprocal of a number, and is a digit off the CPU.
    scale = (high - low) / torch.full_like(low, levels)
    return scale, torch.where(scale > 0, scale, torch.ones_like(scale))


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x rounded to the nearest of 2^bits values spaced evenly over [low, high]; values outside are clamped.

    x: any shape; low, high: broadcast against it. Where high == low the result is low. The gradient of x passes
    unchanged.
    """
    return StraightThrough.apply(x, rounded, low, high, bits, None)


def codes_of(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Codes:
    """The integers behind `fake_quantize`; the code of NaN is 0."""
    levels = 2**bits - 1
    scale, divisor = steps(low, high, levels)
    codes = ((x - low) / divisor).nan_to_num_(0.0, levels, 0.0).clamp_(0, levels).round_().to(torch.int64)
    return Codes(codes, scale, torch.zeros_like(scale, dtype=torch.int64), low)


class MinMaxWeights(Quantizer):
    """Weights [K, ...], each output channel over its own min and max. No state.

    axis: the output channels' axis of the weight.
    """

    measure: Measure
    rounding: Rounding

    def __init__(self, precision: BitWidths, channels: int, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.measure, self.rounding = min_max, rounded

    def quantize(self, x: Tensor) -> Tensor:
        low, high = self.measure(x.detach(), self.axis)
        return StraightThrough.apply(x, self.rounding, low, high, self.precision.bits, self.axis)

    def codes(self, x: Tensor) -> Codes:
        _refuse_float(self.precision)
        low, high = min_max(x.detach(), self.axis)
        return codes_of(x.detach(), self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)


class MinMaxInputs(Quantizer):
    """A layer's input: over the batch's min and max in training, running ones in evaluation.

    channels: C for a range per channel (inputs [B, C, H, W] of depth-wise convolutions), None for one range. Running
    range: new = (1 - momentum) * old + momentum * batch; the first batch initialises it. Before that, evaluation falls
    back on the batch's own range. Buffers: low, high [bit-widths or 1, C or 1]; initialised [bit-widths or 1] (bool).
    """

    of_batch = True
    measure: Measure
    rounding: Rounding
    low: Tensor
    high: Tensor
    initialised: Tensor

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.measure, self.rounding = min_max, rounded
        self.shared = precision.range_scope == "shared"
        rows = 1 if self.shared else max(1, sum(bits != FLOAT_BITS for bits in precision.bit_widths))
        self.register_buffer("low", torch.zeros(rows, channels or 1))
        self.register_buffer("high", torch.zeros(rows, channels or 1))
        self.register_buffer("initialised", torch.zeros(rows, dtype=torch.bool))
        self._known = [False] * rows  # `initialised` on the host: reading the buffer would stall a GPU

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        low, high = self.range(x.detach())
        return StraightThrough.apply(x, self.rounding, low, high, self.precision.bits, self._range_axis())

    def codes(self, x: Tensor) -> Codes:
        _refuse_float(self.precision)
        x = x.detach().to(self.low.dtype)
        row = self._row()
        running = not self.training and self._is_initialised(row)
        low, high = (self.low[row], self.high[row]) if running else min_max(x, self._range_axis())
        return codes_of(x, self.per_channel(low, x), self.per_channel(high, x), self.precision.bits)

    def range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), [C] or [1], that x is quantized over. In training it is recorded."""
        row = self._row()
        if self.training:
            low, high = self.measure(x, self._range_axis())
            self.observe(low, high)
            return low, high
        if self._is_initialised(row):
            return self.low[row], self.high[row]
        return min_max(x, self._range_axis())

    def observe(self, low: Tensor, high: Tensor) -> None:
        """Record the range of a training batch, [C] or [1], unless statistics are frozen."""
        if self.training and self.precision.track_statistics:
            self._record(self._row(), low, high)

    def reset(self) -> None:
        if self.precision.bits != FLOAT_BITS:
            row = self._row()
            self.initialised[row] = False
            self._known[row] = False

    def _range_axis(self) -> int | None:
        return None if self.channels is None else self.axis

    def _row(self) -> int:
        """The row of the buffers that belongs to the current bit-width."""
        return 0 if self.shared else self.precision.index

    def _record(self, row: int, low: Tensor, high: Tensor) -> None:
        if self._is_initialised(row):
            self.low[row].lerp_(low, self.precision.range_momentum)
            self.high[row].lerp_(high, self.precision.range_momentum)
        else:
            self.low[row].copy_(low)
            self.high[row].copy_(high)
            self.initialised[row] = True
            self._known[row] = True

    def _is_initialised(self, row: int) -> bool:
        if not self._known[row]:
            self._known[row] = bool(self.initialised[row])
        return self._known[row]

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.initialised.is_meta:
            self._known = self.initialised.tolist()  # now, so that no pass of a loaded network branches on a buffer


def _refuse_float(precision: BitWidths) -> None:
    if precision.bits == FLOAT_BITS:
        raise ValueError("32 bit means float: there are no codes")
