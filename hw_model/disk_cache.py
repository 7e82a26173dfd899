"""Machine code kept on disk between processes, where possible, for all compiled code of the project.

It is here because this package imports nothing else of the project."""

import functools
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.caching import FunctionCache


class DiskCache(FunctionCache):
    """numba's cache, made safe: a file that cannot be read is compiled again and replaced; one that cannot be written
    is not kept.

    sources: files whose functions are inlined; numba itself notices changes only in the function's own file.
    """

    def __init__(self, py_func: Callable, sources: Iterable[str]):
        super().__init__(py_func)
        digest = hashlib.blake2b(b"".join(Path(source).read_bytes() for source in sources), digest_size=16)
        self._cache_file._source_stamp = (self._cache_file._source_stamp, digest.hexdigest())

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file can raise anything
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:  # a full disk, or a damaged index, which is read before it is written
            with suppress(Exception):
                self.flush()
                super().save_overload(sig, data)


def uncounted(make: Callable, function: Callable, **options: Any) -> Callable:
    """`make` is njit or one like it. No reference counting (`_nrt`): all arrays belong to the caller, and counting took
    half the time and more."""
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return make(function, _nrt=False, **options)
    except (KeyError, TypeError):  # a numba without that option
        return make(function, **options)


def jit_of(
    sources: Iterable[str], makes_arrays: bool = False, from_python: bool = False, **options: Any
) -> Callable[[Callable], Callable]:
    """A decorator: compiled functions, kept on disk until one of the files `sources` changes, or their own.

    makes_arrays: arrays are counted then, which costs more than most small functions do. from_python: Python may call
    them too; the code that unpacks its arguments takes a sixth of the compilation. options: of numba's njit.
    """
    options |= {"no_cfunc_wrapper": True, "no_cpython_wrapper": not from_python}

    make = functools.partial(cached, sources=sources, **options)
    if makes_arrays:
        return functools.partial(make, nogil=True, error_model="numpy")
    return functools.partial(uncounted, make)


def cached(function: Callable, *, sources: Iterable[str] = (), **options: Any) -> Callable:
    """`numba.njit(function, **options)` with a `DiskCache`; without one where numba finds no folder it can write."""
    dispatcher = njit(function, **options)
    with suppress(RuntimeError, AttributeError):  # the latter: NUMBA_DISABLE_JIT, plain functions
        dispatcher._cache = DiskCache(dispatcher.py_func, sources)  # type: ignore[attr-defined]  # numba's own affair
        _compile_by_type(dispatcher)
    return dispatcher


def _compile_by_type(dispatcher: Any) -> None:
    """Compile one version for each list of types, as if no caller passed a constant: numba compiles another one for
    every constant argument, and for all that these call in turn, which took half of the compilation."""
    by_value = dispatcher.get_call_template

    def by_type(args: tuple, kws: dict) -> Any:
        plain = tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()}
        return by_value(*plain)

    dispatcher.get_call_template = by_type
