"""Devices, seeds and versions."""

import ctypes
import hashlib
import os
import platform
import random

import numpy as np
import torch

from instantnet.engine.errors import UserError


def select_device(name: str) -> torch.device:
    """`auto` = the first GPU, else the CPU. Raises `UserError` where the named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"no support for {device.type}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"setting device = {name!r}: not available here ({reason[:120]}); legal: auto, cpu, cuda"
        ) from error
    return device


def tune_cpu(threads: int, keep_memory: bool) -> None:
    """Set torch's number of CPU threads (0 = torch's default), and keep freed memory for the next pass.

    keep_memory: networks free and allocate large activations in every pass, and the page faults of returning that
    memory cost as much as a third of the arithmetic. So glibc keeps it (mallopt: no mmap for large blocks, no
    trimming), and its heap gets huge pages. With another C library this does nothing.
    """
    if threads:
        torch.set_num_threads(threads)
    if keep_memory:
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "mallopt"):
            return
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        _advise_huge_pages(libc, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _advise_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Use huge pages for the heap's next `size` bytes: with pages of 4 KiB a supernet's step spends a tenth of its time
    on address translation. This reserves addresses, no memory. Nothing happens where the kernel refuses."""
    MADV_HUGEPAGE, huge_page = 14, 2 << 20
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(size)  # untouched, then freed: from now on the heap ends behind it
    if block is None:
        return
    first, end = -(-block // huge_page) * huge_page, (block + size) // huge_page * huge_page
    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_HUGEPAGE)
    libc.free(block)


def tune_gpu(tf32: bool, tune_convolutions: bool = False) -> None:
    """Run a GPU's convolutions and matrix products in TF32 (11 significant bits) or in float32. Both are set, because
    torch's default is TF32 for convolutions only.

    tune_convolutions: cuDNN times its algorithms for every new shape, and takes the fastest.
    """
    torch.backends.cudnn.benchmark = tune_convolutions
    precision = "tf32" if tf32 else "ieee"
    torch.backends.cudnn.allow_tf32 = tf32  # the older switch too: torch.export reads it, and refuses where they differ
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from e.g. (seed, "gumbel", epoch, step), so that the randomness of a step needs no stored state."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators (weights are initialised from them)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """The versions that a result depends on, besides the settings."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": str(torch.version.cuda) if torch.cuda.is_available() else "none",
    }
