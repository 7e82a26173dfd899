"""Depth-wise convolution of a channels_last CPU tensor with a faster backward than torch's.

The gradient of the input at stride 1 is a forward pass of the output's gradient with the kernel turned by 180 degrees
(2x); the gradient of a 5x5 weight comes from `depthwise_kernels` (3 to 10x). Same sums in another order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fused.quantize import blocks_of, load_kernels


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """x [B, C, H, W], weight [C, 1, K, K], padding K // 2 -> [B, C, h, w]."""
    return _Depthwise.apply(x, weight, stride)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.stride = stride
        needs_x = stride > 1 or ctx.needs_input_grad[1]
        ctx.save_for_backward(x if needs_x else None, weight)
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        channels, _, taps, _ = weight.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = to_weight = None
        if needs_x and ctx.stride == 1:
            to_x = F.conv2d(gradient, weight.flip(2, 3), None, 1, taps // 2, 1, channels)
            needs_x = False
        if needs_weight and ctx.stride == 1 and taps == 5:
            to_weight = _weight_gradient(x, gradient).view_as(weight)
            needs_weight = False
        if needs_x or needs_weight:
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [ctx.stride] * 2, [taps // 2] * 2, [1, 1], False, [0, 0], channels,
                [needs_x, needs_weight, False],
            )  # fmt: skip
            to_x = of_x if needs_x else to_x
            to_weight = of_weight if needs_weight else to_weight
        return to_x, to_weight, None


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """[C, 25], of x [B, C, H, W] and the output's gradient of the same shape."""
    module, blocks = load_kernels("fused.depthwise_kernels"), min(blocks_of(x), len(x))
    kernels = module.serial if blocks == 1 else module.parallel
    batch, channels, height, width = x.shape
    flat = [t.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1) for t in (x, gradient)]
    sums = kernels.weight_gradient(*(t.detach().numpy() for t in flat), batch, height, width, channels, blocks)
    return torch.from_numpy(sums).t().contiguous()
