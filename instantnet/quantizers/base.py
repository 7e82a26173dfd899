"""What every quantizer offers: one operand of one layer, at the bit-width its network runs at."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from instantnet.widths import FLOAT_BITS

Measure = Callable[[Tensor, int | None], tuple[Tensor, Tensor]]
"""(x, axis) -> (low, high): of every entry along the axis, or of the whole tensor."""

Rounding = Callable[[Tensor, Tensor, Tensor, int, int | None], Tensor]
"""(x, low, high, bits, axis) -> x at 2^bits values over low..high."""

Agree = Callable[[Tensor], Tensor]
"""What this process measured -> what all processes use: their mean."""


class BitWidths(Protocol):
    """What a quantizer reads of its network's state: `weights` or `activations` of a `quantize.Precision`.

    bit_widths: of this operand, one for each of the network's; bits, index: the current one, and which it is.
    """

    @property
    def bit_widths(self) -> tuple[int, ...]: ...

    @property
    def bits(self) -> int: ...

    @property
    def index(self) -> int: ...

    @property
    def range_scope(self) -> str: ...

    @property
    def range_momentum(self) -> float: ...

    @property
    def track_statistics(self) -> bool: ...


class Codes(NamedTuple):
    """A tensor as integers: `values` = (codes - zero_point) * scale + offset.

    codes: int64, the tensor's shape. scale, zero_point (int64), offset: broadcast against it. A scheme uses either
    the integer zero point or the real offset, and leaves the other at 0.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    offset: Tensor

    def values(self) -> Tensor:
        """The fake-quantized tensor, bit for bit."""
        return (self.codes - self.zero_point).to(self.scale.dtype) * self.scale + self.offset


class Quantizer(nn.Module):
    """One operand of one layer, fake-quantized at the network's current bit-width. At 32 bit it passes unchanged.

    A subclass has a row of state per bit-width (buffers or parameters) and picks the current one by `precision.index`,
    so that switching a network stays one assignment. It writes `quantize` and `codes`, and `reset` if it measures.

    channels: size of the axis that has a range per entry, or None for one range over the whole tensor.
    axis: that axis. 0 for weights [K, ...], 1 for activations [B, C, ...].
    """

    precision: BitWidths
    lowest_bits = 1
    """The lowest bit-width it is defined at."""

    of_batch = False
    """Whether the range comes from the batch: several processes then share it."""

    shared = False
    """Whether all bit-widths use one row of state."""

    def __init__(self, precision: BitWidths, channels: int | None, axis: int = 0):
        super().__init__()
        self.precision = precision
        self.channels = channels
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """x fake-quantized; the gradient of x passes as the scheme says (min-max: unchanged)."""
        return x if self.precision.bits == FLOAT_BITS else self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """x at the current bit-width, which is not 32."""
        raise NotImplementedError

    def codes(self, x: Tensor) -> Codes:
        """The integers behind `forward(x)`, each in the range of the current bit-width. Records nothing.

        Raises ValueError at 32 bit, where there are none.
        """
        raise NotImplementedError

    def learned(self) -> list[nn.Parameter]:
        """What the optimizer trains: steps or clipping levels."""
        return list(self.parameters(recurse=False))

    def reset(self) -> None:
        """Forget what was measured for the current bit-width, before a recalibration."""

    def per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        """`values` [channels] or [1] in a shape that broadcasts against x."""
        return values if self.channels is None else values.view(broadcast_shape(x, self.axis))


class BeginsWithABatch(Quantizer):
    """A quantizer with a row of state per bit-width that the first training batch at that bit-width sets.

    Buffer: initialised [rows] (bool).
    """

    initialised: Tensor

    def register_initialised(self, rows: int) -> None:
        """Add the buffer, all False."""
        self.register_buffer("initialised", torch.zeros(rows, dtype=torch.bool))
        self._known = [False] * rows  # `initialised` on the host: reading the buffer would stall a GPU

    @property
    def records(self) -> bool:
        """Whether this pass may change the state: it trains, and statistics are not frozen."""
        return self.training and self.precision.track_statistics

    def is_initialised(self, row: int) -> bool:
        # An exported pass cannot branch on a buffer: it takes what loading and earlier passes left on the host.
        if not self._known[row] and not torch.compiler.is_exporting():
            self._known[row] = bool(self.initialised[row])
        return self._known[row]

    def set_initialised(self, row: int, value: bool) -> None:
        self.initialised[row].fill_(value)
        self._known[row] = value

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.read_initialised()  # now, so that no pass of a loaded network branches on a buffer

    def read_initialised(self) -> None:
        """Follow the buffer after another has taken its place."""
        known = self.initialised
        self._known = [False] * len(known) if known.is_meta else known.tolist()


def rows_of(precision: BitWidths) -> int:
    """Rows of state: one for each of the network's bit-widths up to the last that is quantized, at least one."""
    quantized = [index for index, bits in enumerate(precision.bit_widths) if bits != FLOAT_BITS]
    return quantized[-1] + 1 if quantized else 1


def refuse_float(precision: BitWidths) -> None:
    """ValueError at 32 bit."""
    if precision.bits == FLOAT_BITS:
        raise ValueError("32 bit means float: there are no codes")


def learned_by_quantizers(model: nn.Module) -> list[nn.Parameter]:
    """The steps and clipping levels in a network. Weight decay is not for them: it would narrow every range."""
    return [p for module in model.modules() if isinstance(module, Quantizer) for p in module.learned()]


def full_precision(x: Tensor) -> Tensor:
    """x in float32 under autocast, where it comes in bfloat16, which cannot hold the codes of 12 bit."""
    return x.float() if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64 else x


def as_codes(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers of a float type as int64 in 0..2^bits - 1; NaN is 0. Beyond 24 bit float32 cannot hold 2^bits - 1,
    and the number it holds instead is the next power of two."""
    levels = 2**bits - 1
    return codes.nan_to_num(0.0, levels, 0.0).to(torch.int64).clamp_(0, levels)


def broadcast_shape(x: Tensor, axis: int) -> list[int]:
    """The shape of a vector along `axis` of x: 1 everywhere else."""
    return [-1 if i == axis else 1 for i in range(x.dim())]


class StraightThrough(torch.autograd.Function):
    """`StraightThrough.apply(x, function, *arguments)`: function(x, *arguments), the gradient of x unchanged."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable[..., Tensor], *arguments) -> Tensor:
        ctx.arguments = len(arguments)
        return function(x, *arguments)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None, *(None,) * ctx.arguments  # also where x lies outside the range
