"""Candidate operations of the search space, and the backbone they stand in. Space: FBNet-like (method of the paper).

Shapes: B images, C channels, H x W pixels. FLOPs = multiply-accumulates of the convolutions + 4 per element of every
batch norm's output, for one image, as the authors count them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from instantnet.quantize import (
    BatchNorm2d,
    Precision,
    SwitchableBatchNorm2d,
    SwitchableConv2d,
    SwitchableLinear,
    SwitchableNetwork,
)


def convolution_flops(conv: nn.Conv2d, height: int, width: int) -> int:
    """Multiply-accumulates of `conv` plus 4 per element of the batch norm behind it; height, width: of its output."""
    macs_per_output = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
    return conv.out_channels * height * width * (macs_per_output + 4)


def strided(pixels: int, stride: int) -> int:
    """Output pixels of a convolution padded by half its kernel."""
    return (pixels - 1) // stride + 1


class ConvBlock(nn.Module):
    """`k{K}_e{E}[_g{G}]`: 1x1 expansion to E*C_in, BN, ReLU, shuffle if grouped; KxK depth-wise with the stride, BN,
    ReLU; 1x1 projection to C_out, BN; plus the input where the shapes match. No ReLU after."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        precision: Precision,
        kernel_size: int,
        expansion: int,
        groups: int = 1,
    ):
        super().__init__()
        c_mid = c_in * expansion
        self.stride = stride
        self.expand = SwitchableConv2d(c_in, c_mid, 1, groups=groups, bias=False, precision=precision)
        self.expand_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = SwitchableConv2d(
            c_mid,
            c_mid,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=c_mid,
            bias=False,
            precision=precision,
        )
        self.depthwise_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.project = SwitchableConv2d(c_mid, c_out, 1, groups=groups, bias=False, precision=precision)
        self.project_norm = SwitchableBatchNorm2d(c_out, precision)
        self.relu = nn.ReLU(inplace=True)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.relu(self.expand_norm(self.expand(x))))
        y = self.relu(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return y + x if self.has_shortcut else y

    def flops(self, height: int, width: int) -> int:
        """FLOPs for one input image of height x width pixels."""
        h, w = strided(height, self.stride), strided(width, self.stride)
        inside = convolution_flops(self.expand, height, width)
        return inside + convolution_flops(self.depthwise, h, w) + convolution_flops(self.project, h, w)


class Skip(nn.Module):
    """`skip`: the input itself where the shapes match, else a 1x1 convolution with the stride, BN and ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision):
        super().__init__()
        self.stride = stride
        self.same_channels = c_in == c_out
        self.is_identity = stride == 1 and self.same_channels
        if not self.is_identity:
            self.conv = SwitchableConv2d(c_in, c_out, 1, stride=stride, bias=False, precision=precision)
            self.norm = SwitchableBatchNorm2d(c_out, precision)
            self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.is_identity else self.relu(self.norm(self.conv(x)))

    def flops(self, height: int, width: int) -> int:
        """FLOPs for one input image of height x width pixels."""
        if self.is_identity:
            return 0
        return convolution_flops(self.conv, strided(height, self.stride), strided(width, self.stride))

    def flops_as_released(self, height: int, width: int) -> int:
        """The released code's count, which takes every skip for one of stride 1."""
        return 0 if self.same_channels else convolution_flops(self.conv, height, width)


Operation = ConvBlock | Skip

Build = Callable[[int, int, int, Precision], Operation]


def _block(kernel_size: int, expansion: int, groups: int = 1) -> Build:
    return lambda c_in, c_out, stride, precision: ConvBlock(
        c_in, c_out, stride, precision, kernel_size=kernel_size, expansion=expansion, groups=groups
    )


OPERATIONS: dict[str, Build] = {
    "k3_e1": _block(kernel_size=3, expansion=1),
    "k3_e1_g2": _block(kernel_size=3, expansion=1, groups=2),
    "k3_e3": _block(kernel_size=3, expansion=3),
    "k3_e6": _block(kernel_size=3, expansion=6),
    "k5_e1": _block(kernel_size=5, expansion=1),
    "k5_e1_g2": _block(kernel_size=5, expansion=1, groups=2),
    "k5_e3": _block(kernel_size=5, expansion=3),
    "k5_e6": _block(kernel_size=5, expansion=6),
    "skip": Skip,
}
"""Name -> builder(C_in, C_out, stride, precision). alpha's columns are in this order."""


class FromSettings:
    """Base of dataclasses whose field names are those of settings."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], **replace: Any) -> Self:
        """From a dictionary of settings: `C.to_dict()` or a checkpoint's `config`. KeyError where one is missing."""
        values = {field.name: settings[field.name] for field in fields(cls)} | replace  # type: ignore[arg-type]
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


@dataclass(frozen=True)
class Geometry(FromSettings):
    """Sizes of a network that the search does not touch; field names are those of the settings."""

    num_layer_list: tuple[int, ...]
    num_channel_list: tuple[int, ...]
    stride_list: tuple[int, ...]
    stem_channel: int
    stem_stride: int
    header_channel: int
    num_classes: int
    image_height: int
    image_width: int
    quantize_ends: bool

    @property
    def num_layers(self) -> int:
        """Searched layers."""
        return sum(self.num_layer_list)

    def layers(self) -> Iterator[tuple[int, int, int]]:
        """(C_in, C_out, stride) of every searched layer; a stage's first layer carries its stride."""
        c_in = self.stem_channel
        for count, c_out, stride in zip(self.num_layer_list, self.num_channel_list, self.stride_list, strict=True):
            for i in range(count):
                yield c_in, c_out, stride if i == 0 else 1
                c_in = c_out

    def layer_sizes(self) -> Iterator[tuple[int, int]]:
        """(height, width) of every searched layer's input, then of the header's, in pixels."""
        height, width = strided(self.image_height, self.stem_stride), strided(self.image_width, self.stem_stride)
        for _, _, stride in self.layers():
            yield height, width
            height, width = strided(height, stride), strided(width, stride)
        yield height, width


class ConvNorm(nn.Module):
    """Stem and header: convolution, BN, activation; at 32 bit with one BN for all bit-widths, or `quantized`."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int,
        stride: int,
        precision: Precision,
        quantized: bool,
        activation: type[nn.Module] = nn.ReLU,
    ):
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "padding": kernel_size // 2, "bias": False}
        if quantized:
            self.conv: nn.Conv2d = SwitchableConv2d(c_in, c_out, kernel_size, precision=precision, **options)
            self.norm: nn.Module = SwitchableBatchNorm2d(c_out, precision)
        else:
            self.conv = nn.Conv2d(c_in, c_out, kernel_size, **options)
            self.norm = BatchNorm2d(c_out, precision)
        self.relu = activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)))


class Backbone(SwitchableNetwork):
    """Stem, the given cells, header, global average pool, classifier: [B, 3, H, W] -> logits [B, num_classes]."""

    def __init__(self, geometry: Geometry, precision: Precision, cells: Iterable[nn.Module]):
        super().__init__(precision)
        self.geometry = geometry
        quantized = geometry.quantize_ends
        self.stem = ConvNorm(3, geometry.stem_channel, 3, geometry.stem_stride, precision, quantized)
        self.cells = nn.ModuleList(cells)
        self.header = ConvNorm(geometry.num_channel_list[-1], geometry.header_channel, 1, 1, precision, quantized)
        if quantized:
            self.classifier: nn.Linear = SwitchableLinear(
                geometry.header_channel, geometry.num_classes, precision=precision
            )
        else:
            self.classifier = nn.Linear(geometry.header_channel, geometry.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        return self.classifier(torch.mean(self.header(x), dim=(2, 3)))

    def ends_flops(self) -> int:
        """FLOPs of stem and header for one image (the classifier is left out, as the authors do)."""
        (stem_height, stem_width), *_, last = self.geometry.layer_sizes()
        return convolution_flops(self.stem.conv, stem_height, stem_width) + convolution_flops(self.header.conv, *last)
