"""ResNet-38 and ResNet-74: He et al. 2016 (arXiv 1512.03385), section 4.2, the CIFAR family of 6n+2 layers, n = 6 and
12, widths 16, 32, 64, shortcuts without parameters (option A).

Shapes: B images, C channels, H x W pixels.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from instantnet.networks.paper import Block, Form, PaperNetwork
from instantnet.operations import ConvNorm, convolution_flops, strided
from instantnet.quantize import Precision, SwitchableBatchNorm2d, SwitchableConv2d

RESNET_BLOCKS = {"resnet38": 6, "resnet74": 12}  # per stage


class BasicBlock(Block):
    """Two 3x3 convolutions with BN, the input added before the last ReLU; where the shapes differ, every stride-th
    pixel of it with zeros for the channels it lacks."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision):
        super().__init__()
        self.stride, self.new_channels = stride, c_out - c_in
        options: dict[str, Any] = {"padding": 1, "bias": False, "precision": precision}
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


def cifar_resnet(name: str, form: Form, precision: Precision, blocks_per_stage: int) -> PaperNetwork:
    """ResNet of 6 * blocks_per_stage + 2 layers."""
    widths = [max(1, round(width * form.width_mult)) for width in (16, 32, 64)]
    stem = ConvNorm(3, widths[0], 3, 1, precision, form.quantize_ends)
    blocks: list[Block] = []
    c_in = widths[0]
    for stage, c_out in enumerate(widths):
        for i in range(blocks_per_stage):
            blocks.append(BasicBlock(c_in, c_out, 2 if stage and i == 0 else 1, precision))
            c_in = c_out
    return PaperNetwork(name, form, precision, stem, blocks, None, c_in)
