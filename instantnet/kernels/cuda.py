"""`rounded` of `quantizers.minmax` on a GPU in one pass over memory, bit-equal; in Triton, which comes with torch.

The plain one is six passes and five more for the scale. What the kernel does not serve (other types than float32,
tensors with gaps, a trace by torch.compile) goes to the plain one.
"""

from typing import Any

import torch
from torch import Tensor

from instantnet.quantizers import minmax

BLOCK = 1024
"""Elements of a Triton program."""

try:
    import triton
    import triton.language as tl
except ImportError:  # torch without CUDA
    triton = None

if triton is not None:

    @triton.jit
    def _round(x_at, out_at, low_at, high_at, count, stride, channels, levels, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        channel = (at // stride) % channels
        x = tl.load(x_at + at, mask=inside, other=0.0)
        low = tl.load(low_at + channel, mask=inside, other=0.0)
        high = tl.load(high_at + channel, mask=inside, other=0.0)
        scale = tl.math.div_rn(high - low, levels)
        divisor = tl.where(scale > 0, scale, 1.0)
        value = tl.math.div_rn(x - low, divisor)
        # As torch's clamp, NaN stays NaN.
        value = tl.where(value < 0.0, 0.0, tl.where(value > levels, levels, value))
        code = (value + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest integer, halves to even, below 2^22
        tl.store(out_at + at, code * scale + low, mask=inside)


def available() -> bool:
    """Whether there is Triton."""
    return triton is not None


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, axis: int | None) -> Tensor:
    """x at 2^bits values over low..high, [C] along `axis` or [1]."""
    if not _serves(x, low, high, bits):
        return minmax.rounded(x, low, high, bits, axis)
    out = torch.empty_like(x)
    stride, channels = (1, 1) if axis is None else (x.stride(axis), x.shape[axis])
    launch: Any = _round[(triton.cdiv(x.numel(), BLOCK),)]
    low, high = low.contiguous(), high.contiguous()
    # Without contraction: a multiplication and an addition round twice, as the plain operations do.
    launch(x, out, low, high, x.numel(), stride, channels, float(2**bits - 1), BLOCK=BLOCK, enable_fp_fusion=False)
    return out


def _serves(x: Tensor, low: Tensor, high: Tensor, bits: int) -> bool:
    if torch.compiler.is_compiling() or not x.is_cuda or bits > 22 or x.numel() == 0:
        return False
    if not x.dtype == low.dtype == high.dtype == torch.float32:
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
