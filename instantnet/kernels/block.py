"""A `ConvBlock` in training as one operation up to its last batch norm: torch's tensors around passes.cpp.

Same formulas as its modules one by one, other order of sums: float32 results differ in the last digits, a rounded value
by one step where it stood on the edge. docs/training.md states the bounds. Shapes: x [B, C_in, H, W], channels_last;
C channels inside the block.
"""

from ctypes import c_double
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from instantnet.kernels import quantize
from instantnet.kernels.library import call, is_channels_last, is_served, lanes
from instantnet.operations import ConvBlock
from instantnet.quantize import FreezableNorm, batch_normalised
from instantnet.quantizers import FLOAT_BITS, Quantizer, minmax
from instantnet.quantizers.minmax import MinMaxInputs

KERNEL_SIZES = (3, 5)
MAX_BITS = 22
"""Inside a block codes are rounded by adding and subtracting 1.5 * 2^23, which is exact below 2^22."""

PARALLEL_FROM = 1 << 24
"""Multiply-accumulates of a block from which a second thread pays."""


class KernelConvBlock(ConvBlock):
    """A ConvBlock that runs by `projected` wherever that serves it."""

    def forward(self, x: Tensor) -> Tensor:
        if not serves(self, x):
            return super().forward(x)
        y = self.project_norm(projected(self, self.expand.input_quantizer(x)))
        return y + x if self.has_shortcut else y


def serves(block: ConvBlock, x: Tensor) -> bool:
    """Whether `projected` can stand in for the block's modules on x: training, float32, channels_last, on a CPU."""
    outputs = len(x) * -(-x.shape[2] // block.stride) * -(-x.shape[3] // block.stride)
    return (
        is_served(x)
        and is_channels_last(x)
        and outputs > 1
        and block.depthwise.kernel_size[0] in KERNEL_SIZES
        and all(_serves_norm(norm.current()) for norm in (block.expand_norm, block.depthwise_norm))
        and all(_serves_quantizer(conv.input_quantizer) for conv in (block.depthwise, block.project))
    )


def _serves_norm(norm: FreezableNorm) -> bool:
    """Whether it normalises by this batch alone, to train. What is evaluated later is measured by torch's own sums."""
    return norm.training and norm.normalise is batch_normalised and not norm.precision.recalibrating


def _serves_quantizer(quantizer: Quantizer) -> bool:
    """Whether it rounds over the range of this batch alone."""
    if quantizer.precision.bits == FLOAT_BITS:
        return True
    return (
        isinstance(quantizer, MinMaxInputs)
        and quantizer.measure in (minmax.min_max, quantize.min_max)
        and quantizer.rounding in (minmax.rounded, quantize.rounded)  # a subclass may round otherwise
        and quantizer.training
        and quantizer.precision.bits <= MAX_BITS
    )


def projected(block: ConvBlock, x: Tensor) -> Tensor:
    """What the projection puts out, before its batch norm [B, C_out, h, w]; x: as `expand` takes it, rounded.

    Inside, channels stand in the order that the shuffle gives them, and matrices are dense: a grouped convolution's
    zeros are written out.
    """
    norms = block.expand_norm.current(), block.depthwise_norm.current()
    w1 = _dense(block.expand.weight_quantizer(block.expand.weight), block.expand.groups)
    w2 = block.depthwise.weight_quantizer(block.depthwise.weight).flatten(1)
    w3 = _dense(block.project.weight_quantizer(block.project.weight), block.project.groups)
    order: Tensor | None = None
    gamma1: Tensor = norms[0].weight
    beta1: Tensor = norms[0].bias
    if block.expand.groups > 1:
        order = torch.arange(len(w1)).view(block.expand.groups, -1).t().flatten()
        w1, gamma1, beta1 = w1[order], gamma1[order], beta1[order]
    return _Projected.apply(x, w1, w2, w3, gamma1, beta1, norms[1].weight, norms[1].bias, block, order)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """[K, C_in] of a 1x1 convolution."""
    return torch.block_diag(*weight.flatten(1).chunk(groups)) if groups > 1 else weight.flatten(1)


def threads_of(block: ConvBlock, x: Tensor) -> int:
    """How many threads work on the block: those of torch, or one where a second would not pay."""
    inside, outside = block.depthwise.out_channels, block.project.out_channels
    taps = block.depthwise.weight[0].numel()
    work = x.numel() // x.shape[1] * inside * (x.shape[1] + (taps + outside) // block.stride**2)
    return torch.get_num_threads() if work >= PARALLEL_FROM else 1


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w1, w2, w3, gamma1, beta1, gamma2, beta2, block: ConvBlock, order: Tensor | None) -> Tensor:
        norm1, norm2 = block.expand_norm.current(), block.depthwise_norm.current()
        threads, stride, taps = threads_of(block, x), block.stride, block.depthwise.kernel_size[0]
        (batch, c_in, height, width), channels, c_out = x.shape, len(w1), len(w3)
        pixels, out_height, out_width = batch * height * width, -(-height // stride), -(-width // stride)
        out_pixels = batch * out_height * out_width
        form = batch, height, width, channels, taps, stride

        y1, table1 = x.new_empty(pixels, channels), x.new_empty(6, channels)
        sizes = pixels, c_in, channels
        with _Running(norm1, order) as running:
            call("expand", x, _matrix(w1.t()), y1, *sizes, gamma1, beta1, *running, table1, threads)
        grid1 = _grid(block.depthwise.input_quantizer, table1)
        by_tap = w2.t().contiguous()
        y2, table2 = x.new_empty(out_pixels, channels), x.new_empty(6, channels)
        with _Running(norm2) as running:
            call("depthwise", y1, table1, *grid1, by_tap, y2, *form, gamma2, beta2, *running, table2, threads)
        grid2 = _grid(block.project.input_quantizer, table2)
        y3 = x.new_empty(batch, out_height, out_width, c_out)
        call("project", y2, table2, *grid2, _matrix(w3.t()), y3, out_pixels, channels, c_out, threads)

        ctx.save_for_backward(x, w1, w3)
        ctx.kept = SimpleNamespace(
            y1=y1,
            y2=y2,
            table1=table1,
            table2=table2,
            grid1=grid1,
            grid2=grid2,
            by_tap=by_tap,
            form=form,
            threads=threads,
        )
        return y3.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (x, w1, w3), kept, threads = ctx.saved_tensors, ctx.kept, ctx.kept.threads
        needs_x, needs_w1, needs_w2, needs_w3 = ctx.needs_input_grad[:4]
        (pixels, channels), out_pixels, c_in, c_out = kept.y1.shape, len(kept.y2), w1.shape[1], len(w3)
        g3 = gradient.contiguous(memory_format=torch.channels_last)
        affine1, affine2 = x.new_empty(2, channels), x.new_empty(2, channels)
        sums1, sums2 = torch.zeros(2, 2, threads, channels, dtype=torch.float64)

        g2, matrix = torch.empty_like(kept.y2), _matrix(w3)
        to_w3 = torch.empty_like(matrix) if needs_w3 else None
        call(
            "project_backward", g3, kept.y2, kept.table2, *kept.grid2, matrix, g2, to_w3, *sums2, out_pixels, channels,
            c_out, threads,
        )  # fmt: skip
        g1 = torch.empty_like(kept.y1)
        to_w2 = torch.empty_like(kept.by_tap) if needs_w2 else None
        call(
            "depthwise_backward", g2, kept.y2, kept.table2, *sums2, affine2, kept.y1, kept.table1, *kept.grid1,
            kept.by_tap, g1, to_w2, *sums1, *kept.form, threads,
        )  # fmt: skip
        to_x = torch.empty_like(x, memory_format=torch.channels_last) if needs_x else None
        to_w1 = x.new_empty(c_in, _padded(channels)) if needs_w1 else None
        call(
            "expand_backward", g1, kept.y1, kept.table1, *sums1, affine1, x, _matrix(w1), to_x, to_w1, pixels, c_in,
            channels, threads,
        )  # fmt: skip
        weights = (
            None if to_w1 is None else to_w1[:, :channels].t(),
            None if to_w2 is None else to_w2.t(),
            None if to_w3 is None else to_w3[:, :channels],
        )
        return to_x, *weights, *affine1, *affine2, None, None


class _Running:
    """(eps, momentum, running mean, running variance) as the kernels take them; what they wrote is put back in the
    norm's own order. order: that of the channels inside the block, None = the norm's own."""

    def __init__(self, norm: FreezableNorm, order: Tensor | None = None):
        self.norm, self.order = norm, order

    def __enter__(self) -> tuple[Any, ...]:
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        self.own = norm.running_mean, norm.running_var
        self.given = self.own if self.order is None else (self.own[0][self.order], self.own[1][self.order])
        if not norm.precision.track_statistics:
            return c_double(norm.eps), c_double(0.0), *self.given
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        return c_double(norm.eps), c_double(norm.momentum), *self.given

    def __exit__(self, *_: object) -> None:
        if self.order is not None:
            for own, given in zip(self.own, self.given, strict=True):
                own[self.order] = given


def _grid(quantizer: Any, table: Tensor) -> tuple[Tensor, Tensor, int, float]:
    """(low, high, how many bounds, levels) behind norm and ReLU, whose range the table holds; the quantizer records it.
    levels 0: nothing is rounded."""
    low, high, bits = table[4], table[5], quantizer.precision.bits
    if bits == FLOAT_BITS:
        return low, high, len(low), 0.0
    if quantizer.channels is None:
        low, high = low.min().view(1), high.max().view(1)
    quantizer.observe(low, high)
    return low, high, len(low), float(2**bits - 1)


def _matrix(weight: Tensor) -> Tensor:
    """Rows padded with zeros to whole vectors."""
    return F.pad(weight, (0, _padded(weight.shape[1]) - weight.shape[1])).contiguous()


def _padded(columns: int) -> int:
    return -(-columns // lanes()) * lanes()
