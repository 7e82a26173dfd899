"""How the kernels are compiled: by numba, kept on disk, their blocks of work one by one or on threads."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from hw_model.disk_cache import cached

OPTIONS = {"nogil": True, "error_model": "numpy"}

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:12]


def compiled(function: Callable) -> Callable:
    """Decorator: the function in machine code, kept on disk.

    numba's disk cache knows a function by its name and its own file. The name gets a digest of all files beside this
    one, so that code that calls into a changed file is not taken for the new one.
    """
    return cached(_named(function, _VERSION), **OPTIONS)


def serial_and_parallel(functions: Mapping[str, Callable]) -> tuple[SimpleNamespace, SimpleNamespace]:
    """The functions, which walk their blocks by prange, compiled without threads and with: under names of their own,
    as the disk cache does not look at `parallel`."""
    serial = {name: compiled(function) for name, function in functions.items()}
    parallel = {
        name: cached(_named(function, f"{_VERSION}_parallel"), parallel=True, **OPTIONS)
        for name, function in functions.items()
    }
    return SimpleNamespace(**serial), SimpleNamespace(**parallel)


def _named(function: Any, suffix: str) -> FunctionType:
    """A copy of the function under another qualified name."""
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__module__, copy.__doc__ = function.__module__, function.__doc__
    copy.__qualname__ = f"{function.__qualname__}_{suffix}"
    return copy
