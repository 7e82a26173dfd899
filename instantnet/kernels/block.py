"""A `ConvBlock` in training as one operation up to its last batch norm: torch tensors around `block_kernels`.

Same formulas as its modules one by one, other order of sums, and the quantizer multiplies by 1 / scale: float32 results
differ in the last digits, a rounded value by one step where it stood on the edge. docs/training.md states the bounds.
Shapes: x [B, C_in, H, W], channels_last; C channels inside the block.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from instantnet.kernels.norm import flat, vectors_of
from instantnet.kernels.quantize import MAX_BITS, load_kernels, run
from instantnet.quantize import FLOAT_BITS

KERNELS = "instantnet.kernels.block_kernels"
KERNEL_SIZES = (3, 5)
PARALLEL_FROM = 1 << 24
"""Multiply-accumulates of a block from which a second thread pays, as `instantnet.kernels.quantize.PARALLEL_FROM`."""


def usable(block: nn.Module, x: Tensor) -> bool:
    """Whether `projected` can run the block, in training on a channels_last float32 x on a CPU."""
    norms = block.expand_norm.current(), block.depthwise_norm.current()
    ranges = block.depthwise.input_range, block.project.input_range
    bits = block.expand.precision.bits
    return (
        all(m.training for m in (*norms, *ranges))
        and all(norm.momentum is not None for norm in norms)  # None: a cumulative mean, while recalibrating
        and block.depthwise.kernel_size[0] in KERNEL_SIZES
        and (bits == FLOAT_BITS or bits <= MAX_BITS)
        and len(x) * -(-x.shape[2] // block.stride) * -(-x.shape[3] // block.stride) > 1
    )


def projected(block: nn.Module, quantized: Tensor) -> Tensor:
    """What the projection puts out, before its batch norm [B, C_out, h, w]; quantized: x as `expand` takes it."""
    norms = [block.expand_norm.current(), block.depthwise_norm.current()]
    return _Projected.apply(
        quantized, block, norms, block.expand.weight, block.depthwise.weight, block.project.weight,
        *(norm.weight for norm in norms), *(norm.bias for norm in norms),
    )  # fmt: skip


def threads_of(block: nn.Module, x: Tensor) -> int:
    """How many threads work on the block: those of `num_threads`, or one where a second would not pay."""
    inside, outside = block.depthwise.out_channels, block.project.out_channels
    taps = block.depthwise.weight[0].numel()
    work = x.numel() // x.shape[1] * inside * (x.shape[1] + (taps + outside) // block.stride**2)
    return torch.get_num_threads() if work >= PARALLEL_FROM else 1


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, block, norms, w1: Tensor, w2: Tensor, w3: Tensor, *affine: Tensor) -> Tensor:
        names = KERNELS, "instantnet.kernels.passes", "instantnet.kernels.weights"
        kernels, passes, weights = (load_kernels(name) for name in names)
        threads = threads_of(block, x)
        stages = run(KERNELS, threads)
        precision = block.expand.precision
        bits, momentum = precision.bits, norms[0].momentum if precision.track_statistics else 0.0
        levels = np.float32(0 if bits == FLOAT_BITS else 2**bits - 1)
        batch, c_in, height, width = x.shape
        channels, taps, stride = len(w2), w2.shape[-1], block.stride
        out_height, out_width = -(-height // stride), -(-width // stride)
        pixels, out_pixels = batch * height * width, batch * out_height * out_width
        images = min(threads, batch)

        by_input, by_output = weights.matrices(_rows(w1), block.expand.groups, True, levels)
        pixels_of_x = flat(x).numpy()
        y1 = _memory(pixels * channels)
        shift = kernels.shift_of_product(pixels_of_x, by_input, pixels, c_in, channels)
        totals, bounds = stages.expand(pixels_of_x, by_input, y1, shift, pixels, c_in, channels, threads)
        known1, low, high = passes.table(
            totals, bounds, shift, pixels, vectors_of(norms[0]), block.expand.groups, momentum, norms[0].eps, levels,
            True,
        )  # fmt: skip
        _observe(block.depthwise.input_range, low, high, levels)

        weight = weights.taps_of(_rows(w2), levels)
        y2 = _memory(out_pixels * channels)
        shift = kernels.shift_of_taps(y1, known1, weight, batch, height, width, channels, taps)
        totals, bounds = stages.depthwise(
            y1, known1, levels, weight, y2, shift, batch, height, width, channels, taps, stride, images
        )
        known2, low, high = passes.table(
            totals, bounds, shift, out_pixels, vectors_of(norms[1]), 1, momentum, norms[1].eps, levels, False
        )
        _observe(block.project.input_range, low, high, levels)
        if momentum:
            for norm in norms:
                norm.num_batches_tracked.add_(1)

        to_out, from_out = weights.matrices(_rows(w3), block.project.groups, False, levels)
        out = x.new_empty(batch, out_height, out_width, len(w3))
        stages.project(y2, known2, levels, to_out, out.view(-1).numpy(), out_pixels, channels, len(w3), threads)
        ctx.save_for_backward(x)
        ctx.kept = SimpleNamespace(
            stages=stages, threads=threads, images=images, levels=levels, y1=y1, y2=y2, known1=known1, known2=known2,
            by_output=by_output, weight=weight, from_out=from_out, taps=taps, stride=stride,
            shapes=(w1.shape, w2.shape, w3.shape), groups=(block.expand.groups, block.project.groups),
        )  # fmt: skip
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,), kept = ctx.saved_tensors, ctx.kept
        passes, weights = load_kernels("instantnet.kernels.passes"), load_kernels("instantnet.kernels.weights")
        stages, levels, threads = kept.stages, kept.levels, kept.threads
        needs_x, _, _, needs_w1, needs_w2, needs_w3, *_ = ctx.needs_input_grad
        batch, c_in, height, width = x.shape
        (channels, _, _, _), (c_out, _, _, _) = kept.shapes[1:]
        pixels, out_pixels = batch * height * width, gradient.numel() // c_out
        g3 = flat(gradient.contiguous(memory_format=torch.channels_last)).numpy()

        g2 = _memory(out_pixels * channels)
        dense, totals = stages.project_back(
            g3, kept.y2, kept.known2, levels, kept.from_out, g2, out_pixels, channels, c_out, needs_w3, threads
        )
        to_w3 = _own(weights, dense, kept.shapes[2], kept.groups[1], False) if needs_w3 else None
        affine2 = passes.table_back(kept.known2, totals, 1, out_pixels)

        g1 = _memory(pixels * channels)
        step = len(kept.known1) // passes.ROWS
        weight = weights.turned(kept.weight, step)
        to_taps, totals = stages.depthwise_back(
            g2, kept.y2, kept.known2, kept.y1, kept.known1, levels, weight, g1, batch, height, width, channels,
            kept.taps, kept.stride, needs_w2, kept.images,
        )  # fmt: skip
        to_w2 = None
        if needs_w2:
            to_taps = to_taps.sum(axis=0).reshape(-1, step)[::-1, :channels]
            to_w2 = torch.from_numpy(to_taps.T.copy()).view(kept.shapes[1])
        affine1 = passes.table_back(kept.known1, totals, kept.groups[0], pixels)

        to_x = x.new_empty(batch, height, width, c_in) if needs_x else x.new_empty(1)
        to_w1 = None
        if needs_x or needs_w1:
            dense = stages.expand_back(
                g1, kept.y1, kept.known1, flat(x).numpy(), kept.by_output, to_x.view(-1).numpy(), pixels, c_in,
                channels, needs_w1, needs_x, threads,
            )  # fmt: skip
            to_w1 = _own(weights, dense, kept.shapes[0], kept.groups[0], True) if needs_w1 else None
        to_x = to_x.permute(0, 3, 1, 2) if needs_x else None
        (gamma1, beta1), (gamma2, beta2) = torch.from_numpy(affine1), torch.from_numpy(affine2)
        return to_x, None, None, to_w1, to_w2, to_w3, gamma1, gamma2, beta1, beta2


def _own(weights, dense: np.ndarray, shape: torch.Size, groups: int, expansion: bool) -> Tensor:
    """The gradient of a 1x1 convolution's weight out of that of its dense matrix, [threads, rows * columns]."""
    own = weights.own_gradients(dense, *shape[:2], groups, expansion)
    return torch.from_numpy(own).view(shape)


def _memory(size: int) -> np.ndarray:
    """[size and slack], begun at the start of a cache line, which numpy's own need not be."""
    return torch.empty(size + load_kernels("instantnet.kernels.vectors").SLACK).numpy()


def _observe(activation_range: nn.Module, low: np.ndarray, high: np.ndarray, levels: np.float32) -> None:
    if levels:
        activation_range.observe(torch.from_numpy(low), torch.from_numpy(high))


def _rows(weight: Tensor) -> np.ndarray:
    """[K, n], the weights of each output in the order (inputs, rows, columns)."""
    return weight.detach().flatten(1).numpy()
