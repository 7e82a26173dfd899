"""`path/to/file.py:function` as the value of a setting: code of the user's own, and its errors in one line."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instantnet.engine.errors import UserError

FILE_AND_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")
OF_A_LIBRARY = re.compile(r"(torchvision|timm):[A-Za-z0-9][\w.\-]*")


def names_a_function(value: str) -> bool:
    """Whether `value` has the form path/to/file.py:function."""
    return FILE_AND_FUNCTION.fullmatch(value) is not None


def names_of_library(value: str) -> bool:
    """Whether `value` has the form torchvision:NAME or timm:NAME."""
    return OF_A_LIBRARY.fullmatch(value) is not None


def called(setting: str, value: str, **known: Any) -> Any:
    """What the function that `value` names returns; called with those of `known` that are parameters of it.

    Its file may import what lies beside it. Raises UserError: no such file or function, or an error in it, with the
    line.
    """
    match = FILE_AND_FUNCTION.fullmatch(value)
    if match is None:
        raise UserError(f"setting {setting} = {value!r}: not path/to/file.py:function")
    path, name = Path(match["file"]).expanduser().resolve(), match["function"]
    if not path.is_file():
        raise UserError(f"setting {setting} = {value!r}: no file {path}")
    with blamed_on(setting, value):
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path)
        assert spec is not None and spec.loader is not None  # of a name that ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if callable(function):
            return function(**_taken(function, known))
    raise UserError(f"setting {setting} = {value!r}: {path} has no function {name!r}")


def _taken(function: Any, known: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables have none to show
        return {}
    return {name: value for name, value in known.items() if name in parameters}


@contextmanager
def blamed_on(setting: str, value: str) -> Iterator[None]:
    """Any error within is a UserError that names the setting's file and the innermost line of it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise UserError(f"setting {setting} = {value!r}: {described(error, value)}") from error


def described(error: BaseException, value: str) -> str:
    """`line 7: ValueError: ...`, the innermost line of the file that `value` names."""
    path = str(Path(value.rpartition(":")[0]).expanduser().resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, error = [error.lineno], SyntaxError(error.msg)
    where = f"line {lines[-1]}: " if lines else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{path}, {where}{text}"[:400] if where else text[:400]
