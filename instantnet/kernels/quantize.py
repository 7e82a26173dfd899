"""`quantize.py`'s quantizer on a CPU, fused and bit-equal: torch tensors in and out, `quantize_kernels` in between.

Takes float32 tensors whose elements lie in memory without gaps; `usable` says which calls it can serve.
"""

import functools
import importlib
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor

KERNELS = "instantnet.kernels.quantize_kernels"

MAX_BITS = 22
"""Widest bit-width: rounding adds and subtracts 1.5 * 2^23, exact for codes below 2^22."""

PARALLEL_FROM = 1 << 18
"""Elements from which a second thread pays; where the machine has other work, each wait for it costs a time slice."""

LANES = 64
"""A range over a whole tensor is taken over so many columns first: the compiler makes vector instructions of it."""


def usable(x: Tensor, bits: int, per_channel: bool) -> bool:
    """Whether `batch_range` and `quantize` can serve x at `bits`."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or bits > MAX_BITS or x.numel() == 0:
        return False
    if per_channel:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.numel() % LANES == 0 and _dense(x)


def batch_range(x: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """(low, high) of x: [C] per channel of x [B, C, H, W], or [1] over the whole tensor."""
    low, high = run(KERNELS, blocks_of(x)).measure(_rows(x, per_channel), blocks_of(x))
    if not per_channel:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    return torch.from_numpy(low), torch.from_numpy(high)


def quantize(x: Tensor, low: Tensor, high: Tensor, bits: int, per_channel: bool) -> Tensor:
    """x fake-quantized over low..high ([C] per channel, else [1])."""
    out = torch.empty_like(x)
    rows, out_rows = _rows(x, per_channel), _rows(out, per_channel)
    bounds = [np.ascontiguousarray(np.broadcast_to(bound.numpy(), rows.shape[1])) for bound in (low, high)]
    run(KERNELS, blocks_of(x)).quantize(rows, out_rows, *bounds, np.float32(2**bits - 1), blocks_of(x))
    return out


def weight_usable(weight: Tensor, bits: int) -> bool:
    """Whether `quantize_weight` can serve it: every output channel's weights lie together."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and bits <= MAX_BITS and _dense(weight)


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """weight [K, ...] fake-quantized over each output channel's own min and max."""
    kernels = load_kernels(KERNELS)

    out = torch.empty_like(weight)
    rows, out_rows = (_in_memory_order(t).reshape(len(weight), -1).numpy() for t in (weight, out))
    kernels.quantize_each_row(rows, out_rows, np.float32(2**bits - 1))
    return out


@functools.cache
def load_kernels(name: str) -> ModuleType:
    """The module of compiled functions; numba loads with the first."""
    return importlib.import_module(name)


def run(name: str, threads: int) -> SimpleNamespace:
    """The functions of that module for so many threads."""
    module = load_kernels(name)
    if threads == 1:
        return module.serial
    _use_threads(threads)
    return module.parallel


def _use_threads(count: int) -> None:
    """Let numba work on so many threads. When its first are started, it tells OpenMP to use all there are, and torch
    asks OpenMP too: what was set for torch is set again."""
    from numba.np.ufunc import parallel

    of_torch = torch.get_num_threads()
    parallel.set_num_threads(min(count, parallel.get_thread_count()))
    if torch.get_num_threads() != of_torch:
        torch.set_num_threads(of_torch)


def blocks_of(x: Tensor) -> int:
    """How many threads work on x: those of `num_threads`, or one where a second would not pay."""
    return torch.get_num_threads() if x.numel() >= PARALLEL_FROM else 1


def _rows(x: Tensor, per_channel: bool) -> np.ndarray:
    """x as [M, C] (channels_last) or as [M, LANES], without a copy."""
    columns = x.shape[1] if per_channel else LANES
    return _in_memory_order(x).reshape(-1, columns).numpy()


def _in_memory_order(x: Tensor) -> Tensor:
    return x if x.is_contiguous() else x.permute(0, 2, 3, 1)


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
