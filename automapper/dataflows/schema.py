"""The schema of a dataflow file; error messages quote the `description` of what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

from hw_model import DIMS, InputError
from hw_model.errors import shown, unknown
from hw_model.yaml_lines import Path, place

DIMENSIONS = {
    "type": "array",
    "items": {"enum": list(DIMS)},
    "uniqueItems": True,
    "description": f"a list of dimensions, each of {', '.join(DIMS)} at most once",
}
PLACE = {
    "description": "a list of dimensions, or an object {dims: [..], whole: [..], where_it_fits: true}",
    "if": {"type": "object"},
    "then": {
        "properties": {
            "dims": DIMENSIONS,
            "whole": DIMENSIONS,
            "where_it_fits": {"type": "boolean", "description": "true or false"},
        },
        "additionalProperties": False,
    },
    "else": DIMENSIONS,
}
DATAFLOW = {
    "type": "object",
    "description": "a dataflow: an object with a name, and what lies and stays where",
    "properties": {
        "name": {
            "type": "string",
            "pattern": r"^[a-z][a-z0-9_]{0,40}\Z",
            "not": {"pattern": r"(_fixed|_published)\Z|^automapper\Z"},
            "description": "a name in lower case: letters, digits, _ (not automapper, nothing that ends in _fixed or "
            "_published)",
        },
        "description": {"type": "string", "description": "text"},
        "x": PLACE,
        "y": PLACE,
        "lanes": PLACE,
        "pe": PLACE,
        "stays": {"enum": ["W", "I", "O"], "description": "the tensor that stays: W, I or O"},
        "over": {**DIMENSIONS, "minItems": 1},
        "may_bypass": {
            "type": "array",
            "items": {"enum": ["W", "I", "O"]},
            "uniqueItems": True,
            "description": "a list of W, I, O",
        },
    },
    "required": ["name"],
    "additionalProperties": False,
}
_VALIDATOR = jsonschema.Draft202012Validator(DATAFLOW)


def check_dataflow(data: Any, source: str, lines: Mapping[Path, int]) -> None:
    """Raise InputError for the topmost violation of DATAFLOW in `data`: line, field, expectation."""
    errors = list(_VALIDATOR.iter_errors(data))
    if errors:
        first = min(errors, key=lambda error: (lines.get(tuple(error.absolute_path), 0), str(error.validator)))
        raise InputError(_sentence(first, source, lines))


def _sentence(error: jsonschema.ValidationError, source: str, lines: Mapping[Path, int]) -> str:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties":
        legal = list(schema["properties"])
        key = next(key for key in value if key not in legal)
        return f"{place(source, (*path, key), lines)}: {unknown('field', key, legal)}"
    if error.validator == "required":
        return f"{place(source, path, lines)}: missing field 'name'"
    expected = schema.get("description", error.message[:120])
    if error.validator == "enum" and path and isinstance(path[-1], int):
        expected = f"one of {', '.join(schema['enum'])}"
    return f"{place(source, path, lines)}: expected {expected}, got {shown(value)}"
