"""Training passes of batch norm with what stands around it, on a CPU: torch tensors in and out, kernels in between.

`norm_relu` is relu(norm(x)), fake-quantized for the layer behind where that one asks for it; `weighted_norms` is the
alpha-weighted sum of batch norms. Same formulas as torch's operations one by one, other order of sums: float32 results
differ in the last digits, a rounded value by one step where it stood on the edge. docs/training.md states the bounds.

Shapes: x [B, C, H, W], channels_last; vectors [C].
"""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from fused.quantize import MAX_BITS, blocks_of, load_kernels

VECTORS = ("weight", "bias", "running_mean", "running_var")

LANES = 64
"""Narrower rows are widened to at least so many lanes by taking neighbouring pixels together."""


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the compiled passes can stand in for `norm` on x: a batch norm in training, float32, on a CPU."""
    return (
        norm.training
        and norm.momentum is not None  # None: a cumulative mean, while recalibrating
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def norm_relu(
    x: Tensor,
    norm: nn.BatchNorm2d,
    momentum: float,
    bits: int | None = None,
    per_channel: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(relu(norm(x)), low, high): its range per channel [C], or over the whole tensor [1].

    momentum: of the running statistics; 0 = they stay. bits: fake-quantize the result to them over that range (None:
    leave it, and low, high are empty); the gradient passes the quantizer unchanged.
    """
    return _NormRelu.apply(x, [norm], momentum, bits, per_channel, None, norm.weight, norm.bias)


def stacked_norm_relu(
    x: Tensor,
    norms: Sequence[nn.BatchNorm2d],
    momentum: float,
    bits: int | None = None,
    per_channel: bool = False,
    order: np.ndarray | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`norm_relu` of tensors that lie behind each other in the channels of x, each with its norm; the ranges are per
    channel [C] or one for each norm [n]. order: channel i of x is channel order[i] of the norms' (None: as they are).
    """
    parameters = [norm.weight for norm in norms] + [norm.bias for norm in norms]
    return _NormRelu.apply(x, norms, momentum, bits, per_channel, order, *parameters)


def weighted_norms(
    xs: Sequence[Tensor],
    norms: Sequence[nn.BatchNorm2d],
    weights: Tensor,
    momentum: float,
    shortcut: Tensor | None = None,
    shortcut_weight: Tensor | None = None,
) -> Tensor:
    """sum of weights[i] * norms[i](xs[i]), plus shortcut_weight * shortcut: xs, shortcut [B, C, H, W], weights [n]."""
    parameters = [norm.weight for norm in norms] + [norm.bias for norm in norms]
    return _WeightedNorms.apply(weights, shortcut, shortcut_weight, norms, momentum, *xs, *parameters)


def quantizable(bits: int) -> bool:
    """Whether `norm_relu` can quantize to so many bits."""
    return bits <= MAX_BITS


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, norms, momentum: float, bits, per_channel: bool, order, *parameters: Tensor):
        kernels, blocks, rows = _kernels(x), blocks_of(x), _rows(x)
        saved, (low, high) = _measured(kernels, rows, norms, momentum, blocks, order)
        out = _empty_like(x)
        if bits is None:
            kernels.apply(rows, _rows(out), saved, True, blocks)
            low = high = x.new_empty(0)
        else:
            low, high = np.maximum(low, 0), np.maximum(high, 0)  # of the ReLU: exact, as all of it is monotone
            starts = np.cumsum([0] + [norm.num_features for norm in norms])
            if not per_channel:
                for start, end in pairwise(starts):
                    low[start:end], high[start:end] = low[start:end].min(), high[start:end].max()
            kernels.apply_quantize(rows, _rows(out), saved, low, high, np.float32(2**bits - 1), blocks)
            low, high = (torch.from_numpy(v if per_channel else v[starts[:-1]]) for v in (low, high))
        ctx.mark_non_differentiable(low, high)
        ctx.save_for_backward(x)
        ctx.saved, ctx.order, ctx.channels = saved, order, [norm.num_features for norm in norms]
        return out, low, high

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        (x,) = ctx.saved_tensors
        dx, sums = _gradient(x, gradient, ctx.saved, 1.0, relu=True)
        if ctx.order is not None:
            shuffled, sums = sums, np.empty_like(sums)
            sums[:, ctx.order] = shuffled
        to_gammas, to_betas = torch.from_numpy(sums)
        return dx, None, None, None, None, None, *to_gammas.split(ctx.channels), *to_betas.split(ctx.channels)


class _WeightedNorms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, weights: Tensor, shortcut: Tensor | None, shortcut_weight, norms, momentum: float, *tensors: Tensor
    ):
        count = len(norms)
        xs = tensors[:count]
        out = torch.zeros_like(xs[0]) if shortcut is None else shortcut * shortcut_weight
        ctx.saved = []
        ctx.weights = weights.tolist()
        for x, norm, weight in zip(xs, norms, ctx.weights, strict=True):
            kernels, blocks, rows = _kernels(x), blocks_of(x), _rows(x)
            saved, _ = _measured(kernels, rows, [norm], momentum, blocks)
            kernels.add(rows, _rows(out), saved, np.float32(weight), blocks)
            ctx.saved.append(saved)
        ctx.has_shortcut = shortcut is not None
        ctx.count = count
        ends = [shortcut, shortcut_weight] if ctx.has_shortcut else []
        ctx.save_for_backward(*tensors, *ends)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        count, tensors = ctx.count, ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_weights, to_shortcut, to_shortcut_weight = [], None, None
        to_xs, to_gammas, to_betas = [], [], []
        for i, (saved, weight) in enumerate(zip(ctx.saved, ctx.weights, strict=True)):
            gamma, beta = tensors[count + i], tensors[2 * count + i]
            dx, sums = _gradient(tensors[i], gradient, saved, weight, relu=False)
            to_gamma, to_beta = torch.from_numpy(sums)
            to_weights.append(torch.dot(gamma.detach(), to_gamma) + torch.dot(beta.detach(), to_beta))
            to_xs.append(dx)
            to_gammas.append(to_gamma * weight)
            to_betas.append(to_beta * weight)
        if ctx.has_shortcut:
            shortcut, shortcut_weight = tensors[3 * count :]
            if ctx.needs_input_grad[1]:
                to_shortcut = gradient * shortcut_weight
            if ctx.needs_input_grad[2]:
                to_shortcut_weight = torch.dot(_flat(gradient), _flat(shortcut)).view_as(shortcut_weight)
        return torch.stack(to_weights), to_shortcut, to_shortcut_weight, None, None, *to_xs, *to_gammas, *to_betas


def _measured(
    kernels, rows: np.ndarray, norms: Sequence[nn.BatchNorm2d], momentum: float, blocks: int, order=None
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's (saved, bounds); the running statistics of the norms move by `momentum`."""
    vectors = [_vector([getattr(norm, name) for norm in norms], order) for name in VECTORS]
    result = kernels.measure(rows, *vectors, np.float32(momentum), norms[0].eps, blocks)
    if momentum:
        for norm in norms:
            norm.num_batches_tracked.add_(1)
        if len(norms) > 1 or order is not None:
            _give_back([norm.running_mean for norm in norms], vectors[2], order)
            _give_back([norm.running_var for norm in norms], vectors[3], order)
    return result


def _vector(parts: Sequence[Tensor], order: np.ndarray | None) -> np.ndarray:
    """The parts behind each other, in the order given; of a single one the memory itself."""
    arrays = [part.detach().numpy() for part in parts]
    together = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return together if order is None else together[order]


def _give_back(parts: Sequence[Tensor], vector: np.ndarray, order: np.ndarray | None) -> None:
    """Write a changed `_vector` into the parts it was made of."""
    together = vector
    if order is not None:
        together = np.empty_like(vector)
        together[order] = vector
    start = 0
    for part in parts:
        part.detach().numpy()[:] = together[start : start + len(part)]
        start += len(part)


def _gradient(x: Tensor, gradient: Tensor, saved: np.ndarray, weight: float, relu: bool) -> tuple[Tensor, np.ndarray]:
    """(gradient of x, those of gamma and beta at weight 1 [2, C])."""
    kernels, blocks, dx = _kernels(x), blocks_of(x), _empty_like(x)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    return dx, kernels.backward(_rows(x), _rows(gradient), _rows(dx), saved, np.float32(weight), relu, blocks)


def _kernels(x: Tensor) -> SimpleNamespace:
    module = load_kernels("fused.norm_kernels")
    return module.serial if blocks_of(x) == 1 else module.parallel


def _empty_like(x: Tensor) -> Tensor:
    """channels_last whatever the strides of dimensions of size 1 say."""
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.detach().permute(0, 2, 3, 1).reshape(-1)


def _rows(x: Tensor) -> np.ndarray:
    """x as [R, T * C], without a copy: T pixels side by side make a row of at least LANES, as far as they divide."""
    flat, channels = _flat(x), x.shape[1]
    pixels, together = x.numel() // channels, 1
    while together * channels < LANES and pixels % (2 * together) == 0:
        together *= 2
    return flat.view(-1, together * channels).numpy()
