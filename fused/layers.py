"""The candidate operations of a layer, and their mixture, in training on a CPU: fewer passes over the same numbers.

Against running each module by itself: batch norm, ReLU and the next convolution's quantizer are one operation; the
input that all candidates of a layer share is measured and quantized once; the last batch norms make the alpha-weighted
sum; depth-wise convolutions have gradients of their own. `operations.py` and `model_search.py` hold the plain path and
choose by `usable`. Blocks and skips are those of `operations`, which imports this file.

Shapes: x [B, C, H, W], channels_last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused import depthwise as fused_depthwise
from fused import norm as fused_norm
from fused import stack as fused_stack
from quantize import FLOAT_BITS, BatchNorm2d, Precision, SwitchableBatchNorm2d, SwitchableConv2d


def usable(x: Tensor, precision: Precision) -> bool:
    """Whether compiled layers are chosen, can take x, and need no statistics of other processes."""
    return (
        precision.compiled
        and precision.across is None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def block(block: nn.Module, x: Tensor) -> Tensor:
    """What `ConvBlock` makes of x."""
    quantized = x if block.expand.precision.bits == FLOAT_BITS else block.expand.input_range.quantize(x)
    one = x.new_ones(1)
    shortcut = (x, one[0]) if block.has_shortcut else None
    return _weighted_norms([projected(block, quantized)], [block.project_norm], one, shortcut)


def mixture(candidates: Sequence[nn.Module], x: Tensor, op_weights: Tensor) -> Tensor:
    """sum of op_weights[i] * candidates[i](x): candidates of one layer; op_weights [candidates]."""
    blocks = [(i, op) for i, op in enumerate(candidates) if hasattr(op, "expand")]
    skips = [(i, op) for i, op in enumerate(candidates) if not hasattr(op, "expand")]
    first_convs = [op.expand for _, op in blocks] + [op.conv for _, op in skips if not op.is_identity]
    quantized = shared_input(first_convs, x) if first_convs else x
    passed_on = [i for i, op in blocks if op.has_shortcut] + [i for i, op in skips if op.is_identity]
    shortcut = (x, op_weights[passed_on].sum()) if passed_on else None
    terms = [op_weights[i] * norm_relu(convolve(op.conv, quantized), op.norm) for i, op in skips if not op.is_identity]
    if blocks:
        outputs = projections([op for _, op in blocks], quantized)
        weights = op_weights[[i for i, _ in blocks]]
        terms.append(_weighted_norms(outputs, [op.project_norm for _, op in blocks], weights, shortcut))
    elif shortcut is not None:
        terms.append(shortcut[0] * shortcut[1])
    return sum(terms[1:], terms[0])


def projections(blocks: Sequence[nn.Module], quantized: Tensor) -> list[Tensor]:
    """`projected` of each; those with equal kernels together where that pays."""
    outputs: dict[nn.Module, Tensor] = {}
    for kernel in {block.depthwise.kernel_size: None for block in blocks}:
        alike = [block for block in blocks if block.depthwise.kernel_size == kernel]
        if fused_stack.stackable(alike, quantized):
            outputs |= zip(alike, fused_stack.projected(alike, quantized), strict=True)
        else:
            outputs |= {block: projected(block, quantized) for block in alike}
    return [outputs[block] for block in blocks]


def shared_input(convs: Sequence[SwitchableConv2d], x: Tensor) -> Tensor:
    """x at the current bit-width for several convolutions that read it, measured and quantized once."""
    ranges = [conv.input_range for conv in convs]
    if ranges[0].precision.bits == FLOAT_BITS:
        return x
    low, high = ranges[0].of_batch(x.detach())
    for activation_range in ranges:
        activation_range.observe(low, high)
    return ranges[0].quantized(x, low, high)


def projected(block: nn.Module, quantized: Tensor) -> Tensor:
    """The output of a block's projection, before its last batch norm; quantized: the block's input as `expand` takes
    it."""
    y = norm_relu(convolve(block.expand, quantized), block.expand_norm, block.depthwise, block.expand.groups)
    y = norm_relu(convolve(block.depthwise, y), block.depthwise_norm, block.project)
    return convolve(block.project, y)


def convolve(conv: SwitchableConv2d, quantized: Tensor) -> Tensor:
    """What `conv` makes of an input that is at the current bit-width already."""
    weight = conv.current_weight()
    if conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size[0] > 1:
        return fused_depthwise.convolve(quantized, weight, conv.stride[0])
    return F.conv2d(quantized, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def norm_relu(
    x: Tensor,
    norm: SwitchableBatchNorm2d | BatchNorm2d,
    conv: SwitchableConv2d | None = None,
    shuffle_groups: int = 1,
) -> Tensor:
    """relu(norm(x)), its channels shuffled between so many groups, at the current bit-width as `conv` takes it (None:
    in float32)."""
    norm = norm.current() if isinstance(norm, SwitchableBatchNorm2d) else norm
    precision = norm.precision
    quantize = conv is not None and precision.bits != FLOAT_BITS
    x = x.contiguous(memory_format=torch.channels_last)
    if not fused_norm.usable(x, norm):
        y = _shuffled(F.relu(norm(x)), shuffle_groups)
        return conv.input_range.quantize(y) if quantize else y
    momentum = norm.momentum if precision.track_statistics else 0.0
    if not (quantize and conv.input_range.training and fused_norm.quantizable(precision.bits)):
        y = _shuffled(fused_norm.norm_relu(x, norm, momentum)[0], shuffle_groups)
        return conv.input_range.quantize(y) if quantize else y
    per_channel = conv.input_range.per_channel is not None
    y, low, high = fused_norm.norm_relu(x, norm, momentum, precision.bits, per_channel)
    if per_channel and shuffle_groups > 1:
        low, high = (v.view(shuffle_groups, -1).t().reshape(-1) for v in (low, high))
    conv.input_range.observe(low, high)
    return _shuffled(y, shuffle_groups)


def _shuffled(x: Tensor, groups: int) -> Tensor:
    """nn.ChannelShuffle of a channels_last tensor."""
    if groups == 1:
        return x
    pixels = x.permute(0, 2, 3, 1)
    return pixels.unflatten(3, (groups, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


def _weighted_norms(
    xs: Sequence[Tensor],
    norms: Sequence[SwitchableBatchNorm2d],
    weights: Tensor,
    shortcut: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """sum of weights[i] * norms[i](xs[i]), plus shortcut[0] * shortcut[1]."""
    xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    current = [norm.current() for norm in norms]
    if all(fused_norm.usable(x, norm) for x, norm in zip(xs, current, strict=True)):
        momentum = current[0].momentum if current[0].precision.track_statistics else 0.0
        return fused_norm.weighted_norms(xs, current, weights, momentum, *(shortcut or ()))
    y = sum(weight * norm(x) for weight, norm, x in zip(weights.unbind(), current, xs, strict=True))
    return y if shortcut is None else y + shortcut[0] * shortcut[1]
