"""The candidate operations of a layer, and their mixture, in training on a CPU: fewer passes over the same numbers.

Against running each module by itself: a block is one operation up to its last batch norm (`block.py`); the input
that all candidates of a layer share is measured and quantized once; the last batch norms make the alpha-weighted sum.
`operations.py` and `model_search.py` hold the plain path and choose by `usable`. Blocks and skips are those of
`operations`, which imports this file.

Shapes: x [B, C, H, W], channels_last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantnet.kernels import block as fused_block
from instantnet.kernels import norm as fused_norm
from instantnet.quantize import FLOAT_BITS, BatchNorm2d, Precision, SwitchableBatchNorm2d, SwitchableConv2d


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


def runs(block: nn.Module, x: Tensor) -> bool:
    """Whether `block` can stand in for the ConvBlock's modules on x."""
    return usable(x, block.expand.precision) and fused_block.usable(block, x)


def block(block: nn.Module, x: Tensor) -> Tensor:
    """What `ConvBlock` makes of x; where `runs` says so."""
    quantized = x if block.expand.precision.bits == FLOAT_BITS else block.expand.input_range.quantize(x)
    one = x.new_ones(1)
    shortcut = (x, one[0]) if block.has_shortcut else None
    return _weighted_norms([fused_block.projected(block, quantized)], [block.project_norm], one, shortcut)


def mixture(candidates: Sequence[nn.Module], x: Tensor, op_weights: Tensor) -> Tensor:
    """sum of op_weights[i] * candidates[i](x): candidates of one layer; op_weights [candidates]."""
    blocks = [(i, op) for i, op in enumerate(candidates) if hasattr(op, "expand") and fused_block.usable(op, x)]
    skips = [(i, op) for i, op in enumerate(candidates) if not hasattr(op, "expand")]
    fused = {i for i, _ in blocks + skips}
    terms = [op_weights[i] * op(x) for i, op in enumerate(candidates) if i not in fused]
    first_convs = [op.expand for _, op in blocks] + [op.conv for _, op in skips if not op.is_identity]
    quantized = shared_input(first_convs, x) if first_convs else x
    passed_on = [i for i, op in blocks if op.has_shortcut] + [i for i, op in skips if op.is_identity]
    shortcut = (x, op_weights[passed_on].sum()) if passed_on else None
    terms += [op_weights[i] * _skip(op, quantized) for i, op in skips if not op.is_identity]
    if blocks:
        outputs = [fused_block.projected(op, quantized) for _, op in blocks]
        weights = op_weights[[i for i, _ in blocks]]
        terms.append(_weighted_norms(outputs, [op.project_norm for _, op in blocks], weights, shortcut))
    elif shortcut is not None:
        terms.append(shortcut[0] * shortcut[1])
    return sum(terms[1:], terms[0])


def shared_input(convs: Sequence[SwitchableConv2d], x: Tensor) -> Tensor:
    """x at the current bit-width for several convolutions that read it, measured and quantized once."""
    ranges = [conv.input_range for conv in convs]
    if ranges[0].precision.bits == FLOAT_BITS:
        return x
    low, high = ranges[0].of_batch(x.detach())
    for activation_range in ranges:
        activation_range.observe(low, high)
    return ranges[0].quantized(x, low, high)


def norm_relu(x: Tensor, norm: SwitchableBatchNorm2d | BatchNorm2d) -> Tensor:
    """relu(norm(x))."""
    norm = norm.current() if isinstance(norm, SwitchableBatchNorm2d) else norm
    x = x.contiguous(memory_format=torch.channels_last)
    if not fused_norm.usable(x, norm):
        return F.relu(norm(x))
    return fused_norm.norm_relu(x, norm, norm.momentum if norm.precision.track_statistics else 0.0)


def _skip(op: nn.Module, quantized: Tensor) -> Tensor:
    """What a `Skip` that is no identity makes of its input, already at the current bit-width."""
    return norm_relu(op.conv._conv_forward(quantized, op.conv.current_weight(), op.conv.bias), op.norm)


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
