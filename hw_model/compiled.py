"""The compiled kernel, imported on first use and never stopped by a cache folder that cannot be used."""

from __future__ import annotations

import functools
import os
import pickle
from types import ModuleType

CACHE_ERRORS = (OSError, RuntimeError, EOFError, pickle.UnpicklingError)


@functools.cache
def kernel() -> ModuleType:
    """The module `hw_model.kernel`; the first call in a process loads numba (about a second)."""
    from hw_model import kernel as module

    return module


def call(name: str, *arguments: object) -> object:
    """Call a compiled function; where compiling fails because of the cache on disk, compile without it."""
    module = kernel()
    try:
        return getattr(module, name)(*arguments)
    except CACHE_ERRORS:
        if not _without_cache(module):
            raise
        return getattr(module, name)(*arguments)


def _without_cache(module: ModuleType) -> bool:
    """Replace every compiled function of the module by one that never touches the disk; False if that was done."""
    if getattr(module, "cacheless", False):
        return False
    from numba import njit
    from numba.core.registry import CPUDispatcher

    for key, value in list(vars(module).items()):
        if isinstance(value, CPUDispatcher):
            setattr(module, key, njit(value.py_func, nogil=True, error_model="numpy"))
    module.cacheless = True
    return True


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
