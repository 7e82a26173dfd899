"""The common frame of the networks of the paper's comparison: stem, blocks, header, classifier.

As in `operations`: stem, header and classifier run at 32 bit unless quantize_ends; FLOPs = multiply-accumulates of the
convolutions + 4 per element of every batch norm's output, for one image, the classifier left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from instantnet.operations import ConvNorm, FromSettings, convolution_flops, strided
from instantnet.quantize import Precision, SwitchableLinear, SwitchableNetwork


@dataclass(frozen=True)
class Form(FromSettings):
    """The sizes of a network of the paper; field names are those of the settings.

    width_mult: factor on every layer's channels (the classifier's input included).
    """

    width_mult: float
    num_classes: int
    image_height: int
    image_width: int
    quantize_ends: bool


class Block(nn.Module):
    """A block of such a network: its stride, and FLOPs for one input image of height x width pixels."""

    stride: int

    def flops(self, height: int, width: int) -> int:
        raise NotImplementedError


class PaperNetwork(SwitchableNetwork):
    """Stem, blocks, perhaps a header, global average pool, classifier: [B, 3, H, W] -> logits [B, num_classes]."""

    def __init__(self, name: str, form: Form, precision: Precision, stem: ConvNorm, blocks: Sequence[Block],
                 header: ConvNorm | None, features: int):  # fmt: skip
        super().__init__(precision)
        self.name, self.geometry = name, form
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.header = header
        if form.quantize_ends:
            self.classifier: nn.Linear = SwitchableLinear(features, form.num_classes, precision=precision)
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
        for block in cast(Sequence[Block], self.blocks):
            total += block.flops(height, width)
            height, width = strided(height, block.stride), strided(width, block.stride)
        return total if self.header is None else total + convolution_flops(self.header.conv, height, width)
