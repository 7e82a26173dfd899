"""Switchable precision: the current bit-width as shared state, and the layers that read it.

Shapes: B images, C channels, H x W pixels, K output channels.

A layer runs at b bits by rounding its weights and its input to 2^b values and computing in float32 ("fake
quantization"). With the paper's quantizer, `minmax`, the values are spaced evenly between the smallest and the largest:

    scale = (high - low) / (2^b - 1);  code = round(clamp((x - low) / scale, 0, 2^b - 1));  x_hat = code * scale + low

low and high: for weights those of each output channel; for inputs those of the batch, per tensor or, before a
depth-wise convolution, per channel. In evaluation inputs use running ranges, one per layer and bit-width. Gradients
pass the rounding unchanged (straight-through). Bit-width 32 means float. `instantnet.quantizers` has the formulas.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as FloatNorm
from torch.nn.modules.conv import _ConvNd

from instantnet.quantizers import FLOAT_BITS, QUANTIZERS, Quantizer
from instantnet.widths import Bits, in_order, widths_of

__all__ = [
    "FLOAT_BITS",
    "BatchNorm2d",
    "Operand",
    "Precision",
    "SwitchableBatchNorm2d",
    "SwitchableConv2d",
    "SwitchableLayer",
    "SwitchableLinear",
    "SwitchableNetwork",
    "recalibrate",
    "set_own_bits",
]


class Precision:
    """The bit-width a network runs at, shared by all its layers.

    Layers read `index` when they run, so switching a network is one assignment here, whatever its depth.

    bit_widths: the legal bit-widths, kept sorted from lowest to highest: by activations, then weights. A number is that
        of both, text such as "w4a8" that of each.
    weights, activations: the same of one operand, as its quantizers read them; `precision.weights.bits`.
    range_scope: "bit_width" = running activation ranges per layer and bit-width; "shared" (released) = one per layer.
    range_momentum: share of the newest batch in a running range.
    quantizer: which of `QUANTIZERS` the layers are built with. Raises ValueError where there is none of that name, or
        it begins above the lowest of the bit-widths.
    track_statistics: False = training passes leave BN statistics and activation ranges as they are.
    recalibrating: True within `recalibrate`.
    """

    def __init__(
        self,
        bit_widths: Sequence[Bits],
        range_scope: str = "bit_width",
        range_momentum: float = 0.1,
        quantizer: str = "minmax",
    ):
        if quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer {quantizer!r} is not one of {list(QUANTIZERS)}")
        self.range_scope = range_scope
        self.range_momentum = range_momentum
        self.quantizer = quantizer
        self.track_statistics = True
        self.recalibrating = False
        self.weights, self.activations = Operand(self, 0), Operand(self, 1)
        self.bits: Bits = FLOAT_BITS
        self.change(bit_widths)

    def change(self, bit_widths: Sequence[Bits]) -> None:
        """Have other bit-widths; the state that layers have of each is the caller's to change (networks/calibrate.py).
        The current one stays where it can, else the highest is set. Raises ValueError as the constructor does."""
        found = tuple(in_order(bit_widths))
        if not found or len(set(found)) < len(found):
            raise ValueError(f"bit_widths = {list(bit_widths)}: at least one, and none twice")
        for bits in found:
            check_lowest(self.quantizer, bits)
        self.bit_widths = found
        self.widths = tuple(map(widths_of, found))
        self._index_of = {bits: index for index, bits in enumerate(self.bit_widths)}
        self.set(self.bits if self.bits in self._index_of else self.bit_widths[-1])

    def set(self, bits: Bits) -> None:
        """Run at `bits` from now on. Raises ValueError where `bits` is not one of `bit_widths`."""
        try:
            self.index = self._index_of[bits]
        except KeyError:
            raise ValueError(f"bit-width {bits} is not one of {list(self.bit_widths)}") from None
        self.bits = bits

    def operands(self, own_bits: Bits | None = None) -> tuple["Operand", "Operand"]:
        """(weights, activations) of a layer. own_bits: the bit-width it has whatever the network's is."""
        if own_bits is None:
            return self.weights, self.activations
        check_lowest(self.quantizer, own_bits)
        weights, activations = (Operand(self, side, own) for side, own in enumerate(widths_of(own_bits)))
        return weights, activations

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Within it, training passes normalise and quantize by their own batch but record nothing of it."""
        before, self.track_statistics = self.track_statistics, False
        try:
            yield
        finally:
            self.track_statistics = before


class Operand:
    """The bit-width of weights (side 0), or of activations (1), while a network is at one of its bit-widths.

    own: the bit-width of a layer that has one of its own, None = the network's.
    """

    def __init__(self, network: Precision, side: int, own: int | None = None):
        self.network, self.side, self.own = network, side, own

    @property
    def bit_widths(self) -> tuple[int, ...]:
        """Of this operand, one for each of the network's."""
        return tuple(widths[self.side] if self.own is None else self.own for widths in self.network.widths)

    @property
    def bits(self) -> int:
        """The current bit-width; 32 means float."""
        return self.network.widths[self.network.index][self.side] if self.own is None else self.own

    @property
    def index(self) -> int:
        """Which of the network's bit-widths is the current one."""
        return self.network.index

    @property
    def range_scope(self) -> str:
        return self.network.range_scope

    @property
    def range_momentum(self) -> float:
        return self.network.range_momentum

    @property
    def track_statistics(self) -> bool:
        return self.network.track_statistics


def check_lowest(quantizer: str, bits: Bits) -> None:
    """ValueError where the quantizer begins above a bit-width."""
    lowest = QUANTIZERS[quantizer].lowest_bits
    if min(widths_of(bits)) < lowest:
        raise ValueError(f"bit-width {bits}: quantizer {quantizer!r} begins at {lowest} bit")


class SwitchableLayer(nn.Module):
    """What switchable layers share: quantizers of their weights and their input, made by `switch_by`.

    own_bits: the bit-width that the layer runs at whatever the network's is, None = the network's.
    """

    old_names: ClassVar = {"input_range": "input_quantizer"}
    """Children by their names in files of earlier versions."""

    own_bits: Bits | None

    def switch_by(self, precision: Precision, own_bits: Bits | None = None) -> None:
        """Make the quantizers, of which `precision` is the state."""
        self.precision = precision
        self.own_bits = own_bits
        weights, activations = precision.operands(own_bits)
        outputs, inputs = self.quantized_channels()
        scheme = QUANTIZERS[precision.quantizer]
        self.weight_quantizer = scheme.weights(weights, outputs)
        self.input_quantizer = scheme.inputs(activations, inputs)

    def quantized_channels(self) -> tuple[int, int | None]:
        """Channels that have a range each: of the weights, and of the input (None = one range)."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        rename_children(state_dict, prefix, self.old_names)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SwitchableConvNd(SwitchableLayer, _ConvNd):
    """A convolution at the current bit-width: weights quantized per output channel, inputs per tensor (depth-wise: per
    channel). Of any number of spatial axes; a torch module becomes one by its class and `switch_by`."""

    def quantized_channels(self) -> tuple[int, int | None]:
        depthwise = self.groups == self.in_channels > 1
        return self.out_channels, self.in_channels if depthwise else None

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(self.input_quantizer(x))

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution of x, which is already at the current bit-width."""
        layer: Any = self  # torch's classes have it, their common base has not
        return layer._conv_forward(x, self.weight_quantizer(self.weight), self.bias)


class SwitchableConv2d(SwitchableConvNd, nn.Conv2d):
    """Of images [B, C, H, W]."""

    def __init__(self, in_channels, out_channels, kernel_size, *, precision: Precision, **options):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.switch_by(precision)

    def switch_by(self, precision: Precision, own_bits: Bits | None = None) -> None:
        super().switch_by(precision, own_bits)
        # Strided 1x1 with few channels: the gradient of the weights by oneDNN's AVX2 kernel writes past its memory
        # (uxlfoundation/oneDNN issue 6035). It is a convolution of stride 1 on the pixels that the stride picks.
        strided_1x1 = self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1)
        self._picks_pixels = strided_1x1 and self.in_channels < 16

    def convolve(self, x: Tensor) -> Tensor:
        if not (self._picks_pixels and self.training):
            return super().convolve(x)
        x = x[:, :, :: self.stride[0], :: self.stride[1]]
        return F.conv2d(x, self.weight_quantizer(self.weight), self.bias, groups=self.groups)


class SwitchableLinear(SwitchableLayer, nn.Linear):
    """A linear layer at the current bit-width, quantized as `SwitchableConv2d`; the bias stays float."""

    def __init__(self, in_features: int, out_features: int, *, precision: Precision):
        super().__init__(in_features, out_features)
        self.switch_by(precision)

    def quantized_channels(self) -> tuple[int, int | None]:
        return self.out_features, None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


def rename_children(state_dict: dict[str, Tensor], prefix: str, names: dict[str, str]) -> None:
    """Give entries `prefix`OLD.* of the dictionary their present names `prefix`NEW.*, in place."""
    for name in list(state_dict):
        for old, new in names.items():
            if name.startswith(f"{prefix}{old}."):
                state_dict[f"{prefix}{new}.{name.removeprefix(f'{prefix}{old}.')}"] = state_dict.pop(name)


def batch_normalised(x: Tensor, norm: FloatNorm, record: bool) -> Tensor:
    """x normalised by its own statistics. record: the running ones follow."""
    if record:
        return FloatNorm.forward(norm, x)
    return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


class FreezableNorm(FloatNorm):
    """A batch norm that records nothing while the network's statistics are frozen.

    normalise: what a training pass does; another function of that signature may take its place from outside.
    """

    def switch_by(self, precision: Precision) -> None:
        """Follow `precision` from now on."""
        self.precision = precision
        self.normalise: Callable[[Tensor, FloatNorm, bool], Tensor] = batch_normalised

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.normalise(x, self, self.precision.track_statistics)
        return super().forward(x)


class BatchNorm1d(FreezableNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d, freezable."""


class BatchNorm2d(FreezableNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d, freezable (eps 1e-5, momentum 0.1)."""

    def __init__(self, channels: int, precision: Precision):
        super().__init__(channels)
        self.switch_by(precision)


class BatchNorm3d(FreezableNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d, freezable."""


class SwitchableBatchNorm(nn.Module):
    """One batch norm per bit-width of the network, the current one applied (Yu et al. 2019, slimmable networks)."""

    def __init__(self, per_bit_width: Iterable[FreezableNorm], precision: Precision):
        super().__init__()
        self.precision = precision
        self.per_bit_width = nn.ModuleList(per_bit_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.per_bit_width[self.precision.index](x)

    def norms(self) -> list[FreezableNorm]:
        """The batch norm of every bit-width, lowest first."""
        return [norm for norm in self.per_bit_width if isinstance(norm, FreezableNorm)]

    def current(self) -> FreezableNorm:
        """The batch norm of the current bit-width."""
        return cast(FreezableNorm, self.per_bit_width[self.precision.index])


class SwitchableBatchNorm2d(SwitchableBatchNorm):
    """Of new batch norms over channels of images."""

    def __init__(self, channels: int, precision: Precision):
        super().__init__((BatchNorm2d(channels, precision) for _ in precision.bit_widths), precision)


class SwitchableNetwork(nn.Module):
    """A network whose layers share one `Precision`: `model.set_bits(4)`, or `model(x, num_bits="w4a8")` in one go."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.precision = precision

    def set_bits(self, bits: Bits) -> None:
        """Run at `bits` from now on. Raises ValueError where the network does not have that bit-width."""
        self.precision.set(bits)

    def regions(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one: the whole network."""
        return [self]

    def __call__(self, x: Tensor, num_bits: Bits | None = None) -> Tensor:
        if num_bits is not None:
            self.precision.set(num_bits)
        return super().__call__(x)


def set_own_bits(network: nn.Module, bits_of: Mapping[str, Bits]) -> None:
    """Let layers of a new network have a bit-width of their own, whatever the network's is.

    bits_of: name or pattern of switchable layers ("layer4.*") -> bit-width; of several that fit, the last counts. Their
    quantizers are made anew. Raises ValueError where a pattern fits none, or the quantizer has no such bit-width.
    """
    modules = network.named_modules(remove_duplicate=False)
    layers = {name: module for name, module in modules if isinstance(module, SwitchableLayer)}
    for pattern, bits in bits_of.items():
        fitting = [name for name in layers if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(f"bits_of: no switchable layer is named {pattern!r}; the first: {first_names(layers)}")
        for name in fitting:
            layer = layers[name]
            layer.switch_by(layer.precision, widths_of(bits).bits)


def first_names(layers: Iterable[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(list(layers)[:5])


@torch.no_grad()
def recalibrate(
    model: SwitchableNetwork,
    bits: Bits,
    batches: Iterable,
    reset: str = "own",
    images_in: Callable[[int], int] | None = None,
) -> None:
    """Measure BN statistics and activation ranges of one bit-width anew with the present weights.

    batches yields (images, labels). BN statistics become the mean over the batches, each weighted by its images, ranges
    follow their running rule from the first batch on. reset "own": only this bit-width's statistics change; layers that
    all bit-widths share run as in evaluation. reset "all" (released): every bit-width's BN statistics are cleared,
    shared ones measured too. images_in: step -> images of its batch over all processes; None = those of `batches`.
    """
    model.set_bits(bits)
    was_training = model.training
    model.eval()
    for module in model.modules():  # what is measured; dropout and the like run as in the evaluation it is for
        if isinstance(module, FreezableNorm | Quantizer):
            module.train()
    switchable = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm)]
    own = [m.current() for m in switchable]
    inside = {id(norm) for m in switchable for norm in m.norms()}
    shared = [m for m in model.modules() if isinstance(m, FreezableNorm) and id(m) not in inside]
    if reset == "all":
        for norm in [n for m in switchable for n in m.norms()] + shared:
            norm.reset_running_stats()
        own += shared
    else:
        for norm in shared:
            norm.eval()
        for norm in own:
            norm.reset_running_stats()
        for module in model.modules():
            if isinstance(module, Quantizer):
                if module.shared:
                    module.eval()
                else:
                    module.reset()
    momenta = [norm.momentum for norm in own]
    model.precision.recalibrating = True
    seen = 0
    try:
        for step, (images, _) in enumerate(batches):
            count = images_in(step) if images_in else len(images)
            seen += count
            for norm in own:
                norm.momentum = count / seen  # the mean over all images so far
            model(images)
    finally:
        model.precision.recalibrating = False
        for norm, momentum in zip(own, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
