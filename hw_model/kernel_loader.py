"""The compiled kernel, imported on first use, so that `import hw_model` stays light."""

import importlib
import os
from types import ModuleType


def kernel() -> ModuleType:
    """The module `hw_model.kernel`; the first call in a process loads numba (about a second)."""
    return importlib.import_module("hw_model.kernel")


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
