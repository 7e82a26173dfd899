"""Layers of converted networks: what `quantize` has for images, for other shapes and for transposed convolutions.

Weights are quantized per output channel, inputs per tensor (depth-wise: per channel), as by `SwitchableConv2d`.
"""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from instantnet.quantize import FreezableNorm, Precision, SwitchableBatchNorm, SwitchableConvNd
from instantnet.quantizers import FLOAT_BITS


class SwitchableConv1d(SwitchableConvNd, nn.Conv1d):
    pass


class SwitchableConv3d(SwitchableConvNd, nn.Conv3d):
    pass


class SwitchableConvTransposeNd(SwitchableConvNd, _ConvTransposeNd):
    """weight [C_in, C_out / groups, ...]: an output channel's values lie in the rows of its group."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        axes = len(self.kernel_size)
        layer: Any = self  # torch declares other types of these sizes than it takes
        output_padding = layer._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, axes, self.dilation
        )
        convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        x, weight = self.input_quantizer(x), self.quantized_weight()
        return convolve(x, weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation)

    def quantized_weight(self) -> Tensor:
        """The weight at the current bit-width."""
        if self.weight_quantizer.precision.bits == FLOAT_BITS:
            return self.weight
        by_output = _swapped(self.weight, self.groups)  # [C_out, C_in / groups, ...]
        return _swapped(self.weight_quantizer(by_output), self.groups)


class SwitchableConvTranspose1d(SwitchableConvTransposeNd, nn.ConvTranspose1d):
    pass


class SwitchableConvTranspose2d(SwitchableConvTransposeNd, nn.ConvTranspose2d):
    pass


class SwitchableConvTranspose3d(SwitchableConvTransposeNd, nn.ConvTranspose3d):
    pass


class SwitchableNormAct(SwitchableBatchNorm):
    """Of timm's BatchNormAct2d, a batch norm that ends in a dropout and an activation."""

    def __init__(self, per_bit_width: Iterable[FreezableNorm], precision: Precision, drop: nn.Module, act: nn.Module):
        super().__init__(per_bit_width, precision)
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def ends_in_activation(norm: nn.Module) -> bool:
    """Whether it is timm's, which need not be installed to know it."""
    return isinstance(norm, nn.BatchNorm2d) and type(norm).__name__ == "BatchNormAct2d"


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """[groups * A, B, ...] -> [groups * B, A, ...]: input and output channels change places within each group."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
