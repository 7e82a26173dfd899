"""The networks that the paper compares with, at switchable precision, and the choice among all networks of stage 2.

`resnet38`, `resnet74`: He et al. 2016 (arXiv 1512.03385), section 4.2, the CIFAR family of 6n+2 layers, n = 6 and 12,
widths 16, 32, 64, shortcuts without parameters (option A). `mobilenet_v2`: Sandler et al. 2018 (arXiv 1801.04381),
table 2; on images of up to 64 pixels the first two strides are 1, the form in use for CIFAR.

As in `operations`: stem, header and classifier run at 32 bit unless quantize_ends; FLOPs = multiply-accumulates of the
convolutions + 4 per element of every batch norm's output, for one image, the classifier left out.
Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantnet.model_infer import DerivedNetwork
from instantnet.operations import ConvNorm, Geometry, convolution_flops, strided
from instantnet.quantize import (
    Precision,
    SwitchableBatchNorm2d,
    SwitchableConv2d,
    SwitchableLinear,
    SwitchableNetwork,
)

SMALL_IMAGE = 64  # pixels: MobileNetV2 in its CIFAR form up to here
RESNET_BLOCKS = {"resnet38": 6, "resnet74": 12}  # per stage
MOBILENET_STAGES = (  # table 2: expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True)
class Form:
    """What a network of the paper is built for; field names are those of the settings.

    width_mult: factor on every layer's channels (the classifier's input included).
    """

    width_mult: float
    num_classes: int
    image_height: int
    image_width: int
    quantize_ends: bool

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], **replace: Any) -> Self:
        """Out of a dictionary of settings: `C.to_dict()` or a checkpoint's `config`. KeyError where one is missing."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__} | replace)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BN, the input added before the last ReLU; where the shapes differ, every stride-th
    pixel of it with zeros for the channels it lacks."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision):
        super().__init__()
        self.stride, self.new_channels = stride, c_out - c_in
        options = {"padding": 1, "bias": False, "precision": precision}
        self.conv1 = SwitchableConv2d(c_in, c_out, 3, stride=stride, **options)
        self.norm1 = SwitchableBatchNorm2d(c_out, precision)
        self.conv2 = SwitchableConv2d(c_out, c_out, 3, **options)
        self.norm2 = SwitchableBatchNorm2d(c_out, precision)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return self.relu(y + x)

    def flops(self, height: int, width: int) -> int:
        """FLOPs for one input image of height x width pixels."""
        h, w = strided(height, self.stride), strided(width, self.stride)
        return convolution_flops(self.conv1, h, w) + convolution_flops(self.conv2, h, w)


class InvertedResidual(nn.Module):
    """1x1 expansion, BN, ReLU6 (none where the expansion is 1); 3x3 depth-wise with the stride, BN, ReLU6; 1x1
    projection, BN; plus the input where the shapes match."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision, expansion: int):
        super().__init__()
        c_mid = c_in * expansion
        self.stride = stride
        self.expand = None
        if expansion > 1:
            self.expand = SwitchableConv2d(c_in, c_mid, 1, bias=False, precision=precision)
            self.expand_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.depthwise = SwitchableConv2d(
            c_mid, c_mid, 3, stride=stride, padding=1, groups=c_mid, bias=False, precision=precision
        )
        self.depthwise_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.project = SwitchableConv2d(c_mid, c_out, 1, bias=False, precision=precision)
        self.project_norm = SwitchableBatchNorm2d(c_out, precision)
        self.relu = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.relu(self.expand_norm(self.expand(x)))
        y = self.relu(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return y + x if self.has_shortcut else y

    def flops(self, height: int, width: int) -> int:
        """FLOPs for one input image of height x width pixels."""
        h, w = strided(height, self.stride), strided(width, self.stride)
        inside = 0 if self.expand is None else convolution_flops(self.expand, height, width)
        return inside + convolution_flops(self.depthwise, h, w) + convolution_flops(self.project, h, w)


class PaperNetwork(SwitchableNetwork):
    """Stem, blocks, perhaps a header, global average pool, classifier: [B, 3, H, W] -> logits [B, num_classes]."""

    def __init__(self, name: str, form: Form, precision: Precision, stem: nn.Module, blocks: Sequence[nn.Module],
                 header: nn.Module | None, features: int):  # fmt: skip
        super().__init__(precision)
        self.name, self.geometry = name, form
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.header = header
        if form.quantize_ends:
            self.classifier = SwitchableLinear(features, form.num_classes, precision=precision)
        else:
            self.classifier = nn.Linear(features, form.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.header is not None:
            x = self.header(x)
        return self.classifier(torch.mean(x, dim=(2, 3)))

    def flops(self) -> int:
        """FLOPs for one image, from the project's own formula."""
        stride = self.stem.conv.stride[0]
        height, width = strided(self.geometry.image_height, stride), strided(self.geometry.image_width, stride)
        total = convolution_flops(self.stem.conv, height, width)
        for block in self.blocks:
            total += block.flops(height, width)
            height, width = strided(height, block.stride), strided(width, block.stride)
        return total if self.header is None else total + convolution_flops(self.header.conv, height, width)


def cifar_resnet(name: str, form: Form, precision: Precision, blocks_per_stage: int) -> PaperNetwork:
    """ResNet of 6 * blocks_per_stage + 2 layers."""
    widths = [max(1, round(width * form.width_mult)) for width in (16, 32, 64)]
    stem = ConvNorm(3, widths[0], 3, 1, precision, form.quantize_ends)
    blocks, c_in = [], widths[0]
    for stage, c_out in enumerate(widths):
        for i in range(blocks_per_stage):
            blocks.append(BasicBlock(c_in, c_out, 2 if stage and i == 0 else 1, precision))
            c_in = c_out
    return PaperNetwork(name, form, precision, stem, blocks, None, c_in)


def mobilenet_v2(name: str, form: Form, precision: Precision) -> PaperNetwork:
    """MobileNetV2; the header keeps its 1280 channels where width_mult is below 1, as in the paper."""

    def channels(number: int) -> int:
        """Rounded to a multiple of 8, never by more than a tenth down, as in the authors' code."""
        wanted = number * form.width_mult
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    small = max(form.image_height, form.image_width) <= SMALL_IMAGE
    c_in = channels(32)
    stem = ConvNorm(3, c_in, 3, 1 if small else 2, precision, form.quantize_ends, nn.ReLU6)
    blocks = []
    for stage, (expansion, width, count, stride) in enumerate(MOBILENET_STAGES):
        if small and stage == 1:
            stride = 1
        for i in range(count):
            blocks.append(InvertedResidual(c_in, channels(width), stride if i == 0 else 1, precision, expansion))
            c_in = channels(width)
    features = channels(1280) if form.width_mult > 1 else 1280
    header = ConvNorm(c_in, features, 1, 1, precision, form.quantize_ends, nn.ReLU6)
    return PaperNetwork(name, form, precision, stem, blocks, header, features)


def build_network(arch: Mapping[str, Any], settings: Mapping[str, Any], precision: Precision) -> SwitchableNetwork:
    """The network that `arch` names: {"network": one of the paper's}, or {"ops": operations of a searched one}.

    settings: `C.to_dict()` or a checkpoint's `config`. Raises ValueError, TypeError or KeyError where they do not fit.
    """
    name = arch.get("network", "derived")
    if name == "derived":
        return DerivedNetwork(arch["ops"], Geometry.from_settings(settings), precision)
    form = Form.from_settings(settings)
    if name in RESNET_BLOCKS:
        return cifar_resnet(name, form, precision, RESNET_BLOCKS[name])
    if name == "mobilenet_v2":
        return mobilenet_v2(name, form, precision)
    raise ValueError(f"unknown network {name!r}; known: derived, {', '.join(RESNET_BLOCKS)}, mobilenet_v2")
