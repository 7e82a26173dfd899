"""A JSON file of another run, or of a stranger: read within bounds, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hw_model import InputError
from hw_model.yaml_lines import bounded_text
from instantnet.engine.errors import OTHER_CONTENT, UserError, reason

LARGEST_REPORT = 2**30  # bytes of a report.json
Made = TypeVar("Made")


def read_as(path: Path | str, make: Callable[[Any], Made], expected: str, largest: int, named: str = "") -> Made:
    """make(content of the file). largest: bytes that are read at most; named: what the line begins with.

    Raises UserError, which ends with what was expected, where the file cannot be read, is not JSON, or where `make`
    meets content of another shape: what such content raises in it, a UserError among others.
    """
    where = f"{named}{path}"
    try:
        content = json.loads(bounded_text(path, largest))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}; expected {expected}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where} is not JSON; expected {expected}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}; expected {expected}") from error
    try:
        return make(content)
    except (UserError, InputError, *OTHER_CONTENT) as error:
        raise UserError(f"{where}: {reason(error)}; expected {expected}") from error
