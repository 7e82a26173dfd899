"""passes.cpp as a shared library: compiled once by the machine's C++ compiler, kept on disk, called through ctypes.

Plain ctypes rather than `torch.utils.cpp_extension.load`: without torch's headers the compiler takes seconds instead of
a minute, ninja is not needed, and a killed compilation leaves no lock behind that the next process would wait for.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("passes.cpp")
COMPILERS = ("c++", "g++", "clang++")
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
MACHINES = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
"""What torch says of the processor -> what the compiler may use of it; any other: its default."""

PARALLEL_FROM = 1 << 19
"""Elements from which a second thread pays: starting one takes about as long as a pass over a tenth of them."""


@functools.cache
def shared_library() -> ctypes.CDLL | None:
    """The compiled functions. None, with a warning, where there is no compiler or it fails."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        _warn("no C++ compiler (CXX, c++, g++, clang++)")
        return None
    try:
        return ctypes.CDLL(str(library_file([*compiler.split(), *OPTIONS, *machine_options()])))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        _warn(f"{SOURCE.name} does not compile ({reason})")
        return None


def _warn(reason: str) -> None:
    warnings.warn(f"{reason}: training on a CPU runs without kernels, slower", RuntimeWarning, stacklevel=4)


def library_file(command: list[str]) -> Path:
    """The library that `command`, a compiler with its options, makes of the source; from disk where it is there."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    folder = cache_folder()
    path = folder / f"{SOURCE.stem}_{digest}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            new = Path(beside) / path.name
            subprocess.run([*command, "-o", str(new), str(SOURCE)], check=True, capture_output=True, text=True)
            os.replace(new, path)  # another process may have been faster
    return path


def cache_folder() -> Path:
    """Beside the source where that can be written, else the user's cache."""
    beside = SOURCE.parent / "__pycache__"
    if os.access(beside if beside.exists() else SOURCE.parent, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instantnet"


def machine_options() -> list[str]:
    """Vector instructions as wide as torch uses them."""
    machine = MACHINES.get(torch.backends.cpu.get_cpu_capability())
    return [f"-march={machine}", "-mprefer-vector-width=512"] if machine else []


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Run a function of passes.cpp. A float is passed as a C float; for a double give a `ctypes.c_double`."""
    getattr(shared_library(), name)(*map(_as_c, arguments))


@functools.cache
def lanes() -> int:
    """To a multiple of how many numbers rows of matrices are padded."""
    library = shared_library()
    return 0 if library is None else library.lanes()


def threads_for(x: Tensor) -> int:
    """How many threads work on x: those of torch, or one where a second would not pay."""
    return torch.get_num_threads() if x.numel() >= PARALLEL_FROM else 1


def is_served(x: Tensor) -> bool:
    """Whether the functions take x: float32 on a CPU, and not under autocast."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def is_channels_last(x: Tensor) -> bool:
    """Whether x [B, C, H, W] lies in memory as [B, H, W, C]."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _as_c(value):
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_float(value) if isinstance(value, float) else value
