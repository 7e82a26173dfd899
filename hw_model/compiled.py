"""The compiled kernel, imported on first use and never stopped by a cache folder that cannot be used."""

from __future__ import annotations

import importlib
import os
import pickle
from types import ModuleType

CACHE_ERRORS = (OSError, RuntimeError, EOFError, pickle.UnpicklingError)
cache_on_disk = True  # read by kernel.py when it is imported


def kernel() -> ModuleType:
    """The module `hw_model.kernel`; the first call in a process loads numba (about a second)."""
    return importlib.import_module("hw_model.kernel")


def call(name: str, *arguments: object) -> object:
    """Call a compiled function; where the cache on disk cannot be written or read, compile without it."""
    global cache_on_disk
    try:
        return getattr(kernel(), name)(*arguments)
    except CACHE_ERRORS:
        if not cache_on_disk:
            raise
        cache_on_disk = False
        return getattr(importlib.reload(kernel()), name)(*arguments)


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
