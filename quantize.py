"""Switchable precision: the current bit-width as shared state, the quantizer, and the layers that read the state.

Shapes: B images, C channels, H x W pixels, K output channels. The quantizer is the forward half of SBM (Banner et al.
2018): uniform, min-max, fake-quantized in float32, straight-through gradients. Bit-width 32 means float.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantnet.kernels import quantize as fused_quantize

FLOAT_BITS = 32


class Precision:
    """The bit-width a network runs at, shared by all its layers.

    Layers read `bits` and `index` when they run, so switching a network is one assignment here, whatever its depth.

    bit_widths: the legal bit-widths, kept sorted from lowest to highest.
    range_scope: "bit_width" = running activation ranges per layer and bit-width; "shared" (released) = one per layer.
    range_momentum: share of the newest batch in a running range.
    fused: on a CPU, measure and quantize by compiled kernels (bit-equal); False = torch's operations one by one.
    compiled: on a CPU, train by the compiled passes of `kernels.layers` (other rounding); False = module by module.
    track_statistics: False = training passes leave BN statistics and activation ranges as they are.
    across: None = training passes normalise and quantize by the images given; else by those of all processes that
        share a batch, of which it gets the statistics (`instantnet.engine.synchronised.AcrossProcesses`).
    """

    def __init__(
        self,
        bit_widths: Sequence[int],
        range_scope: str = "bit_width",
        range_momentum: float = 0.1,
        fused: bool = False,
        compiled: bool = False,
    ):
        self.bit_widths = tuple(sorted(bit_widths))
        self.range_scope = range_scope
        self.range_momentum = range_momentum
        self.fused = fused
        self.compiled = compiled
        self.track_statistics = True
        self.across = None
        self._index_of = {bits: index for index, bits in enumerate(self.bit_widths)}
        self.set(self.bit_widths[-1])

    def set(self, bits: int) -> None:
        """Run at `bits` from now on. Raises ValueError where `bits` is not one of `bit_widths`."""
        try:
            self.index = self._index_of[bits]
        except KeyError:
            raise ValueError(f"bit-width {bits} is not one of {list(self.bit_widths)}") from None
        self.bits = bits

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Within it, training passes normalise and quantize by their own batch but record nothing of it."""
        before, self.track_statistics = self.track_statistics, False
        try:
            yield
        finally:
            self.track_statistics = before


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, quantizer: Callable[..., Tensor], *arguments) -> Tensor:
        ctx.arguments = len(arguments)
        return quantizer(x, *arguments)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None, *(None,) * ctx.arguments  # also where x lies outside the range


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x rounded to the nearest of 2^bits values spaced evenly over [low, high]; values outside are clamped.

    x: any shape; low, high: broadcast against it. scale = (high - low) / (2^bits - 1),
    q = round(clamp((x - low) / scale, 0, 2^bits - 1)), result q * scale + low; where high == low the result is low.
    The gradient of x passes unchanged.
    """
    return _StraightThrough.apply(x, _fake_quantized, low, high, bits)


def _fake_quantized(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    levels = 2**bits - 1
    scale = (high - low) / levels
    # A zero range divides by one and multiplies by zero: every x becomes `low`, the constant.
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    if torch.compiler.is_compiling():  # with operations in place the graph would lose the gradient, without a word
        return ((x - low) / divisor).clamp(0, levels).round() * scale + low
    return (x - low).div_(divisor).clamp_(0, levels).round_().mul_(scale).add_(low)


def quantize_weight(weight: Tensor, bits: int, fused: bool = False) -> Tensor:
    """weight [K, ...] fake-quantized over each output channel's own min and max; the gradient passes unchanged."""
    if fused and fused_quantize.weight_usable(weight, bits):
        return _StraightThrough.apply(weight, fused_quantize.quantize_weight, bits)
    low, high = weight.detach().flatten(1).aminmax(dim=1)
    shape = (-1,) + (1,) * (weight.dim() - 1)
    return fake_quantize(weight, low.view(shape), high.view(shape), bits)


class ActivationRange(nn.Module):
    """Min and max of a layer's input: of the batch in training, running ones in evaluation.

    per_channel: number of channels C for a range per channel (inputs [B, C, H, W] of depth-wise convolutions), None
    for one range over the whole tensor. Running range: new = (1 - momentum) * old + momentum * batch; the first batch
    initialises it. Before that, evaluation falls back on the batch's own range. Called with x, it gives (low, high),
    [C] or [1]. Buffers: low, high [bit-widths or 1, C or 1]; initialised [bit-widths or 1] (bool).
    """

    def __init__(self, precision: Precision, per_channel: int | None = None):
        super().__init__()
        self.precision = precision
        self.per_channel = per_channel
        self.shared = precision.range_scope == "shared"
        slots = 1 if self.shared else max(1, sum(bits != FLOAT_BITS for bits in precision.bit_widths))
        self.register_buffer("low", torch.zeros(slots, per_channel or 1))
        self.register_buffer("high", torch.zeros(slots, per_channel or 1))
        self.register_buffer("initialised", torch.zeros(slots, dtype=torch.bool))
        self._known = [False] * slots  # `initialised` on the host: reading the buffer would stall a GPU

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slot = self._slot()
        if not self.training and self._is_initialised(slot):
            low, high = self.low[slot], self.high[slot]
        else:
            low, high = self.of_batch(x.detach())
            if self.training and self.precision.across:
                low, high = self.precision.across.range(low, high)
            self.observe(low, high)
        return low, high

    def quantize(self, x: Tensor) -> Tensor:
        """x fake-quantized at the current bit-width, over the range that `forward` gives."""
        x = x.to(self.low.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        return self.quantized(x, *self(x))

    def quantized(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """x fake-quantized at the current bit-width over low..high, [C] or [1]."""
        bits = self.precision.bits
        if self.precision.fused and fused_quantize.usable(x, bits, self.per_channel is not None):
            return _StraightThrough.apply(x, fused_quantize.quantize, low, high, bits, self.per_channel is not None)
        if self.per_channel:
            low, high = low.view(1, -1, 1, 1), high.view(1, -1, 1, 1)
        return fake_quantize(x, low, high, bits)

    def observe(self, low: Tensor, high: Tensor) -> None:
        """Record the range of a training batch, [C] or [1], unless statistics are frozen."""
        if self.training and self.precision.track_statistics:
            self._record(self._slot(), low, high)

    def reset(self) -> None:
        """Forget the running range of the current bit-width (at 32 bit there is none)."""
        if self.precision.bits != FLOAT_BITS:
            slot = self._slot()
            self.initialised[slot] = False
            self._known[slot] = False

    def _slot(self) -> int:
        """The row of the buffers that belongs to the current bit-width."""
        return 0 if self.shared else self.precision.index

    def of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Min and max of x, [C] or [1]."""
        if self.precision.fused and fused_quantize.usable(x, self.precision.bits, self.per_channel is not None):
            return fused_quantize.batch_range(x, self.per_channel is not None)
        if self.per_channel:
            return x.amin((0, 2, 3)), x.amax((0, 2, 3))
        low, high = x.aminmax()
        return low.view(1), high.view(1)

    def _record(self, slot: int, low: Tensor, high: Tensor) -> None:
        if self._is_initialised(slot):
            self.low[slot].lerp_(low, self.precision.range_momentum)
            self.high[slot].lerp_(high, self.precision.range_momentum)
        else:
            self.low[slot].copy_(low)
            self.high[slot].copy_(high)
            self.initialised[slot] = True
            self._known[slot] = True

    def _is_initialised(self, slot: int) -> bool:
        if not self._known[slot]:
            self._known[slot] = bool(self.initialised[slot])
        return self._known[slot]

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = [False] * len(self._known)


class SwitchableConv2d(nn.Conv2d):
    """A convolution at the current bit-width: weights quantized per output channel, inputs per tensor (depth-wise: per
    channel)."""

    def __init__(self, in_channels, out_channels, kernel_size, *, precision: Precision, **options):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.precision = precision
        depthwise = self.groups == in_channels > 1
        self.input_range = ActivationRange(precision, in_channels if depthwise else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.precision.bits != FLOAT_BITS:
            x = self.input_range.quantize(x)
        return self._conv_forward(x, self.current_weight(), self.bias)

    def current_weight(self) -> Tensor:
        """The weight at the current bit-width."""
        bits = self.precision.bits
        return self.weight if bits == FLOAT_BITS else quantize_weight(self.weight, bits, self.precision.fused)


class SwitchableLinear(nn.Linear):
    """A linear layer at the current bit-width, quantized as `SwitchableConv2d`; the bias stays float."""

    def __init__(self, in_features: int, out_features: int, *, precision: Precision):
        super().__init__(in_features, out_features)
        self.precision = precision
        self.input_range = ActivationRange(precision)

    def forward(self, x: Tensor) -> Tensor:
        bits = self.precision.bits
        if bits == FLOAT_BITS:
            return F.linear(x, self.weight, self.bias)
        weight = quantize_weight(self.weight, bits, self.precision.fused)
        return F.linear(self.input_range.quantize(x), weight, self.bias)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that records nothing while the network's statistics are frozen (eps 1e-5, momentum 0.1)."""

    def __init__(self, channels: int, precision: Precision):
        super().__init__(channels)
        self.precision = precision

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.precision.across:
            return self.precision.across.batch_norm(x, self, record=self.precision.track_statistics)
        if self.training and not self.precision.track_statistics:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


class SwitchableBatchNorm2d(nn.Module):
    """One batch norm per bit-width of the network, the current one applied (Yu et al. 2019, slimmable networks)."""

    def __init__(self, channels: int, precision: Precision):
        super().__init__()
        self.precision = precision
        self.per_bit_width = nn.ModuleList(BatchNorm2d(channels, precision) for _ in precision.bit_widths)

    def forward(self, x: Tensor) -> Tensor:
        return self.per_bit_width[self.precision.index](x)

    def current(self) -> BatchNorm2d:
        """The batch norm of the current bit-width."""
        return self.per_bit_width[self.precision.index]


class SwitchableNetwork(nn.Module):
    """A network whose layers share one `Precision`: `model.set_bits(4)`, or `model(x, num_bits=4)` in one go."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.precision = precision

    def set_bits(self, bits: int) -> None:
        """Run at `bits` from now on. Raises ValueError where the network does not have that bit-width."""
        self.precision.set(bits)

    def regions(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one: the whole network."""
        return [self]

    def __call__(self, x: Tensor, num_bits: int | None = None) -> Tensor:
        if num_bits is not None:
            self.precision.set(num_bits)
        return super().__call__(x)


@torch.no_grad()
def recalibrate(model: SwitchableNetwork, bits: int, batches: Iterable, reset: str = "own") -> None:
    """Measure BN statistics and activation ranges of one bit-width anew with the present weights.

    batches yields (images, labels). BN statistics become the mean over the batches, ranges follow their running rule
    from the first batch on. reset "own": only this bit-width's statistics change; layers that all bit-widths share run
    as in evaluation. reset "all" (released): every bit-width's BN statistics are cleared, shared ones measured too.
    """
    model.set_bits(bits)
    was_training = model.training
    model.train()
    switchable = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
    own = [m.current() for m in switchable]
    inside = {id(norm) for m in switchable for norm in m.per_bit_width}
    shared = [m for m in model.modules() if isinstance(m, BatchNorm2d) and id(m) not in inside]
    if reset == "all":
        for norm in [n for m in switchable for n in m.per_bit_width] + shared:
            norm.reset_running_stats()
        own += shared
    else:
        for norm in shared:
            norm.eval()
        for norm in own:
            norm.reset_running_stats()
        for module in model.modules():
            if isinstance(module, ActivationRange):
                if module.shared:
                    module.eval()
                else:
                    module.reset()
    momenta = [norm.momentum for norm in own]
    for norm in own:
        norm.momentum = None  # cumulative mean
    try:
        for images, _ in batches:
            model(images)
    finally:
        for norm, momentum in zip(own, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
