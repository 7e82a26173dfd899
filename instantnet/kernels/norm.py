"""Training passes of batch norm with what stands around it, on a CPU: torch tensors in and out, kernels in between.

`norm_relu` is relu(norm(x)), `weighted_norms` the alpha-weighted sum of batch norms. Same formulas as torch's
operations one by one, other order of sums: float32 results differ in the last digits (bounds: docs/training.md).

Shapes: x [B, C, H, W], channels_last; vectors [C].
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from instantnet.kernels.quantize import blocks_of, run

KERNELS = "instantnet.kernels.norm_kernels"

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


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, momentum: float) -> Tensor:
    """relu(norm(x)). momentum: of the running statistics; 0 = they stay."""
    return _NormRelu.apply(x, norm, momentum, norm.weight, norm.bias)


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


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, norm: nn.BatchNorm2d, momentum: float, gamma: Tensor, beta: Tensor) -> Tensor:
        out = _empty_like(x)
        ctx.saved = _measured(x, norm, momentum)
        run(KERNELS, blocks_of(x)).apply(_rows(x), _rows(out), ctx.saved, blocks_of(x))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        dx, sums = _gradient(x, gradient, ctx.saved, 1.0, relu=True)
        return dx, None, None, *torch.from_numpy(sums)


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
            saved = _measured(x, norm, momentum)
            run(KERNELS, blocks_of(x)).add(_rows(x), _rows(out), saved, np.float32(weight), blocks_of(x))
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
                to_shortcut_weight = torch.dot(flat(gradient), flat(shortcut)).view_as(shortcut_weight)
        return torch.stack(to_weights), to_shortcut, to_shortcut_weight, None, None, *to_xs, *to_gammas, *to_betas


def _measured(x: Tensor, norm: nn.BatchNorm2d, momentum: float) -> np.ndarray:
    """What the kernel `measure` returns; the running statistics move by `momentum`."""
    if momentum:
        norm.num_batches_tracked.add_(1)
    return run(KERNELS, blocks_of(x)).measure(_rows(x), *vectors_of(norm), np.float32(momentum), norm.eps, blocks_of(x))


def _gradient(x: Tensor, gradient: Tensor, saved: np.ndarray, weight: float, relu: bool) -> tuple[Tensor, np.ndarray]:
    """(gradient of x, those of gamma and beta at weight 1 [2, C])."""
    dx = _empty_like(x)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    arrays = _rows(x), _rows(gradient), _rows(dx)
    return dx, run(KERNELS, blocks_of(x)).backward(*arrays, saved, np.float32(weight), relu, blocks_of(x))


def _empty_like(x: Tensor) -> Tensor:
    """channels_last whatever the strides of dimensions of size 1 say."""
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def vectors_of(norm: nn.BatchNorm2d) -> tuple[np.ndarray, ...]:
    """Gamma, beta, running mean and running variance [C]: the norm's own memory."""
    vectors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return tuple(vector.detach().numpy() for vector in vectors)


def flat(x: Tensor) -> Tensor:
    """x channels_last as one vector."""
    return x.detach().permute(0, 2, 3, 1).reshape(-1)


def _rows(x: Tensor) -> np.ndarray:
    """x as [R, T * C], without a copy: T pixels side by side make a row of at least LANES, as far as they divide."""
    channels = x.shape[1]
    pixels, together = x.numel() // channels, 1
    while together * channels < LANES and pixels % (2 * together) == 0:
        together *= 2
    return flat(x).view(-1, together * channels).numpy()
