"""Machine code kept on disk between processes, wherever that works: for all compiled code of the project, here because
this package imports nothing of it."""

from collections.abc import Callable
from contextlib import suppress

from numba import njit
from numba.core.caching import FunctionCache


class DiskCache(FunctionCache):
    """numba's cache, which never stops a program: what cannot be read is compiled anew and takes the place of the
    damaged file; what cannot be written is not kept."""

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file raises whatever it comes upon
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:  # a full disk, or a damaged index, which is read before it is written
            with suppress(Exception):
                self.flush()
                super().save_overload(sig, data)


def cached(function: Callable, **options: object) -> Callable:
    """`numba.njit(function, **options)` with a `DiskCache`; without one where numba finds no folder it can write."""
    dispatcher = njit(function, **options)
    with suppress(RuntimeError):
        dispatcher._cache = DiskCache(dispatcher.py_func)
    return dispatcher
