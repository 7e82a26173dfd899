"""Candidates of one layer with equal kernels, run as one block of all their channels: fewer and larger operations.

Their expansions read the same input and become one 1x1 convolution (a grouped one with zeros for what it does not
read, its channels written in the order that the shuffle gives them); batch norms and depth-wise convolutions act on
each channel alone anyway. Only the projections stay apart. Ranges are per candidate and weights per output channel, so
each candidate computes what it does by itself. It pays where tensors are small and calls cost more than arithmetic.

Shapes: x [B, C, H, W], channels_last; weights [K, C / groups, k, k].
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused import depthwise as fused_depthwise
from fused import norm as fused_norm
from fused import quantize as fused_quantize
from quantize import FLOAT_BITS

LARGEST = 2 << 20
"""Elements of the stacked tensor from which each candidate by itself stays nearer to the caches."""


def stackable(blocks: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `projected` can run these, and it pays."""
    channels = sum(block.expand.out_channels for block in blocks)
    bits = blocks[0].expand.precision.bits
    return (
        len(blocks) > 1
        and x.numel() // x.shape[1] * channels <= LARGEST
        and (bits == FLOAT_BITS or fused_norm.quantizable(bits))
        and all(_trains(block) for block in blocks)
    )


def _trains(block: nn.Module) -> bool:
    norms = block.expand_norm.current(), block.depthwise_norm.current()
    ranges = block.depthwise.input_range, block.project.input_range
    return all(m.training for m in (*norms, *ranges)) and all(norm.momentum is not None for norm in norms)


def projected(blocks: Sequence[nn.Module], quantized: Tensor) -> list[Tensor]:
    """Of each block the output of its projection, before its last batch norm; quantized: their input, as `expand` takes
    it. The blocks differ in expansion and groups only."""
    precision = blocks[0].expand.precision
    bits = None if precision.bits == FLOAT_BITS else precision.bits
    y = F.conv2d(quantized, _Expansions.apply(bits, quantized.shape[1], *(block.expand.weight for block in blocks)))
    ranges = [block.depthwise.input_range for block in blocks]
    y = _norm_relu(y, [block.expand_norm.current() for block in blocks], bits, ranges, True, _order(blocks))
    weight = _Weights.apply(bits, *(block.depthwise.weight for block in blocks))
    y = fused_depthwise.convolve(y, weight, blocks[0].stride)
    ranges = [block.project.input_range for block in blocks]
    y = _norm_relu(y, [block.depthwise_norm.current() for block in blocks], bits, ranges, False, None)
    parts = y.split([block.depthwise.out_channels for block in blocks], dim=1)
    return [
        F.conv2d(part.contiguous(memory_format=torch.channels_last), block.project.current_weight(), None,
                 groups=block.project.groups)
        for part, block in zip(parts, blocks, strict=True)
    ]  # fmt: skip


def _order(blocks: Sequence[nn.Module]) -> np.ndarray | None:
    """Which channel of the expansions, laid behind each other, is which of the stack; None: all in their order."""
    if all(block.expand.groups == 1 for block in blocks):
        return None
    parts, start = [], 0
    for block in blocks:
        channels = block.expand.out_channels
        parts.append(start + np.arange(channels).reshape(block.expand.groups, -1).T.ravel())
        start += channels
    return np.concatenate(parts)


def _norm_relu(x: Tensor, norms, bits: int | None, ranges, per_channel: bool, order: np.ndarray | None) -> Tensor:
    precision = ranges[0].precision
    momentum = norms[0].momentum if precision.track_statistics else 0.0
    x = x.contiguous(memory_format=torch.channels_last)
    y, low, high = fused_norm.stacked_norm_relu(x, norms, momentum, bits, per_channel, order)
    if bits is not None and precision.track_statistics:
        sizes = [norm.num_features if per_channel else 1 for norm in norms]
        for activation_range, *bounds in zip(ranges, low.split(sizes), high.split(sizes), strict=True):
            activation_range.observe(*bounds)
    return y


class _Weights(torch.autograd.Function):
    """Weights of equal shape but for K behind each other, quantized (bits None: as they are); their gradients pass."""

    @staticmethod
    def forward(ctx, bits: int | None, *weights: Tensor) -> Tensor:
        ctx.channels = [len(weight) for weight in weights]
        weight = torch.cat([weight.detach() for weight in weights])
        return weight if bits is None else fused_quantize.quantize_weight(weight, bits)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, *gradient.split(ctx.channels)


class _Expansions(torch.autograd.Function):
    """`_Weights` of 1x1 convolutions over the same inputs, grouped ones as dense ones in the order of `_order`."""

    @staticmethod
    def forward(ctx, bits: int | None, inputs: int, *weights: Tensor) -> Tensor:
        ctx.shapes = [weight.shape for weight in weights]
        stack = weights[0].new_zeros(sum(map(len, weights)), inputs)
        for weight, rows in zip(weights, stack.split([len(weight) for weight in weights]), strict=True):
            weight = weight.detach()
            if bits is not None:
                weight = fused_quantize.quantize_weight(weight, bits)
            groups = inputs // weight.shape[1]
            for block, part in zip(_blocks(rows, groups), weight.flatten(1).chunk(groups), strict=True):
                block.copy_(part)
        return stack[..., None, None]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        parts = gradient.flatten(1).split([shape[0] for shape in ctx.shapes])
        to_weights = []
        for rows, shape in zip(parts, ctx.shapes, strict=True):
            groups = gradient.shape[1] // shape[1]
            own = rows if groups == 1 else torch.cat(_blocks(rows, groups))
            to_weights.append(own.reshape(shape))
        return None, None, *to_weights


def _blocks(rows: Tensor, groups: int) -> list[Tensor]:
    """Where the groups of a grouped 1x1 convolution stand in the rows [K, C] of the dense one, each [K / groups,
    C / groups]."""
    inputs = rows.shape[1]
    by_group = rows.view(-1, groups, groups, inputs // groups)
    return [by_group[:, group, group] for group in range(groups)]
