"""The schema of a device file; error messages quote the `description` of what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

from hw_model.errors import InputError, shown, unknown
from hw_model.layer import DIMS
from hw_model.yaml_lines import Path, place

LARGEST = 2**53
TENSOR_LIST = {
    "type": "array",
    "items": {"enum": ["W", "I", "O"]},
    "uniqueItems": True,
    "description": "a list of W, I, O",
}
ENERGY = {"type": "number", "minimum": 0, "maximum": 1e9, "description": "a number of pJ per bit, 0 or more"}
ENERGY_BY_TENSOR = {
    "description": "pJ per bit, 0 or more: a number, or one for each of W, I, O",
    "if": {"type": "object"},
    "then": {"properties": dict.fromkeys("WIO", ENERGY), "additionalProperties": False},
    "else": ENERGY,
}
DIM_LIST = {
    "type": "array",
    "items": {"enum": list(DIMS)},
    "uniqueItems": True,
    "description": f"a list of dimensions of {', '.join(DIMS)}",
}
SIZE = {"type": "integer", "minimum": 1, "maximum": LARGEST, "description": "a whole number of bits, 1 or more"}
SIZE_BY_TENSOR = {
    "description": "a whole number of bits shared by all tensors, or an object with one for each, e.g. {W: 8, I+O: 16}",
    "if": {"type": "object"},
    "then": {
        "patternProperties": {r"^[WIO](\+[WIO])*$": SIZE},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "else": SIZE,
}
BANDWIDTH = {
    "type": ["number", "null"],
    "exclusiveMinimum": 0,
    "maximum": LARGEST,
    "description": "bits per cycle above 0, or null for unlimited",
}
COUNT = {"type": "integer", "minimum": 1, "maximum": 65536, "description": "a whole number from 1 to 65536"}
BITS = {"type": "integer", "minimum": 1, "maximum": 64, "description": "a whole number of bits from 1 to 64"}
POSITIVE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9, "description": "a number above 0"}
TEXT = {"type": "string", "description": "text"}
FLAG = {"type": "boolean", "description": "true or false"}


def _fields(required: Mapping[str, Any], optional: Mapping[str, Any], description: str) -> dict:
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


LEVEL = _fields(
    {
        "name": {
            "type": "string",
            "pattern": r"^[a-z][a-z0-9_]{0,30}\Z",
            "not": {"enum": ["spatial_x", "spatial_y", "lanes", "bypass"]},
            "description": "a name in lower case: letters, digits, _ (not spatial_x, spatial_y, lanes, bypass)",
        },
        "holds": {**TENSOR_LIST, "minItems": 1},
        "read_energy_pj_per_bit": ENERGY_BY_TENSOR,
        "write_energy_pj_per_bit": ENERGY_BY_TENSOR,
    },
    {
        "scope": {"enum": ["chip", "pe"], "description": "chip (shared by all PEs) or pe (one in each PE)"},
        "size_bits": SIZE_BY_TENSOR,
        "may_bypass": TENSOR_LIST,
        "read_bandwidth_bits_per_cycle": BANDWIDTH,
        "write_bandwidth_bits_per_cycle": BANDWIDTH,
    },
    "a memory level",
)
NETWORK = _fields(
    {},
    {
        "energy_pj_per_bit": ENERGY,
        "energy_pj_per_bit_hop": ENERGY,
        "hops": {"type": "number", "minimum": 0, "maximum": 1e6, "description": "the mean hops of a word, 0 or more"},
        "multicast": FLAG,
        "spatial_reduction": FLAG,
    },
    "the network between the shared memories and the PEs",
)
MAC = _fields(
    {
        "multiplier_energy_pj": {**ENERGY, "description": "pJ, 0 or more"},
        "multiplier_bits": BITS,
        "adder_energy_pj": {**ENERGY, "description": "pJ, 0 or more"},
        "adder_bits": BITS,
    },
    {
        "rate": {"enum": ["fixed", "fused"], "description": "fixed or fused"},
        "native_bits": {"enum": [1, 2, 4, 8, 16, 32], "description": "a power of two from 1 to 32"},
        "granule_bits": {"enum": [1, 2, 4, 8, 16, 32], "description": "a power of two from 1 to 32"},
        "fused_dims": DIM_LIST,
    },
    "the multiply-accumulate unit",
)
ARRAY = _fields(
    {"x": COUNT, "y": COUNT},
    {
        "lanes": COUNT,
        "x_dims": DIM_LIST,
        "y_dims": DIM_LIST,
        "lanes_dims": DIM_LIST,
        "reduce": {
            "enum": ["x", "y", "both", "none"],
            "description": "x, y, both or none: the axes along which partial sums add up",
        },
    },
    "the PE array {x: .., y: ..}",
)
DEVICE = _fields(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 60, "description": "a name"},
        "clock_mhz": POSITIVE,
        "array": ARRAY,
        "levels": {
            "type": "array",
            "items": LEVEL,
            "minItems": 1,
            "maxItems": 8,
            "description": "1 to 8 memory levels",
        },
        "network": NETWORK,
        "mac": MAC,
        "psum_bits": BITS,
    },
    {
        "description": TEXT,
        "technology_nm": POSITIVE,
        "energy_unit": TEXT,
        "output_bits": BITS,
        "input_sharing": {
            "enum": ["union", "identical"],
            "description": "union (one read serves all PEs that need the word) or identical (that need the same tile)",
        },
        "forward_inputs": {
            **FLAG,
            "description": "true (PEs pass on what a neighbour needs next; with identical, boxes only) or false",
        },
        "input_words": {
            "enum": ["real", "box"],
            "description": "real (words that exist and are needed) or box (the bounding box, padding included)",
        },
        "zero_gating": FLAG,
        "idle_power_mw": {"type": "number", "minimum": 0, "maximum": 1e9, "description": "mW, 0 or more"},
    },
    "a device",
)
_VALIDATOR = jsonschema.Draft202012Validator(DEVICE)


def check_device(data: Any, source: str, lines: Mapping[Path, int]) -> None:
    """Raise InputError for the first (topmost) violation of DEVICE in `data`: line, field, expectation."""
    if isinstance(data, dict) and "levels" not in data:
        raise InputError(f"{source}: missing field 'levels', a device without memories (expected the DRAM first)")
    _check_numbers(data, (), source, lines)
    try:
        errors = list(_VALIDATOR.iter_errors(data))
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    if not errors:
        return

    def order(error: jsonschema.ValidationError) -> tuple:
        path = tuple(error.absolute_path)
        return (lines.get(path, 0), [str(step) for step in path], str(error.validator))

    raise InputError(_sentence(min(errors, key=order), source, lines))


def _check_numbers(value: Any, path: Path, source: str, lines: Mapping[Path, int]) -> None:
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise InputError(f"{place(source, path, lines)}: expected a finite number, got {value}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{place(source, path, lines)}: a field name must be a word, got {shown(key)}")
            _check_numbers(item, (*path, key), source, lines)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_numbers(item, (*path, index), source, lines)


def _sentence(error: jsonschema.ValidationError, source: str, lines: Mapping[Path, int]) -> str:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    legal = list(schema.get("properties", {}))
    if error.validator == "additionalProperties" and isinstance(value, dict) and legal:
        key = next(key for key in value if key not in legal)
        return f"{place(source, (*path, key), lines)}: {unknown('field', key, legal)}"
    if error.validator == "required":
        missing = next(name for name in schema["required"] if name not in value)
        expected = schema["properties"][missing].get("description", "")
        return f"{place(source, path, lines)}: missing field {missing!r}" + (f" ({expected})" if expected else "")
    expected = schema.get("description", error.message[:120])
    hint = ""
    if isinstance(value, str) and _reads_as_number(value):
        hint = " (text to YAML; write numbers with a dot and a signed exponent: 1.0e+3)"
    return f"{place(source, path, lines)}: expected {expected}, got {shown(value)}{hint}"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
