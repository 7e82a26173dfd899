"""switchable.safetensors and card.json: the integer network on disk, and back.

    STEP.NAME                numbers of all bit-widths, and with a nested quantizer the weights of the widest: those at
                             b bit are its top b bits
    STEP.8bit.NAME           numbers of one bit-width

STEP and NAME are those of `program`; weights of up to 4 bit lie two to a byte. Beside what the integer network computes
with, a layer has weight_scale, weight_offset, input_scale, input_offset, gain and bias, the real numbers behind it: w =
q * weight_scale + weight_offset, x = (code - zero) * input_scale + input_offset, and gain and bias are batch norm.
card.json has the steps with their shapes.
"""

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hw_model.yaml_lines import bounded_bytes, bounded_text
from instantnet.deploy.packed import packed, unpacked
from instantnet.deploy.program import Arrays, Program, Step
from instantnet.engine.errors import OTHER_CONTENT, UserError, reason

FORMAT = 1
LARGEST_CARD, LARGEST_NUMBERS = 2**28, 2**31  # bytes of the two files
KINDS = {"multiplier": "int32", "second": "int32", "zero": "int32", "low": "int32", "high": "int32", "top": "int32",
         "fraction": "int32", "addend": "int64", "shift": "uint8", "long": "uint8", "row_class": "uint8",
         "column_class": "uint8"}  # fmt: skip
"""Integers beside the weights -> their type on disk, that of the C tables; in memory int64."""


def tensors(program: Program) -> Arrays:
    """Every number of the program by its name in the file."""
    found: Arrays = {}
    widest = program.bit_widths[-1]
    for step in program.steps:
        found |= {f"{step.name}.{name}": part for name, part in step.shared.items()}
        for bits, numbers in step.at.items():
            for name, part in numbers.items():
                if name != "weight":
                    found[f"{step.name}.{bits}bit.{name}"] = part
                elif program.nested and bits == widest:
                    found[f"{step.name}.weight"] = _stored(part, bits)
                elif not program.nested:
                    found[f"{step.name}.{bits}bit.weight"] = _stored(part, bits)
    return {name: _compact(name.rpartition(".")[2], part) for name, part in found.items()}


def safetensors_file(program: Program) -> bytes:
    """The content of switchable.safetensors."""
    return save(tensors(program), metadata={"format": "instantnet integers", "version": str(FORMAT)})


def steps_of(program: Program) -> dict[str, Any]:
    """The structure of a program, for card.json."""
    return {
        "format": FORMAT,
        "nested": program.nested,
        "bit_widths": program.bit_widths,
        "steps": [
            {
                "name": step.name, "op": step.op, "inputs": step.inputs, "shape": list(step.shape), "kind": step.kind,
                "options": {name: _plain(value) for name, value in step.options.items()},
            } | ({"weight_shape": list(step.at[program.bit_widths[0]]["weight"].shape)} if step.is_layer else {})
            for step in program.steps
        ],
    }  # fmt: skip


def read(folder: Path | str) -> Program:
    """The program in a folder that `instantnet.deploy` wrote. Raises UserError where there is none."""
    folder = Path(folder)
    try:
        card = json.loads(bounded_text(folder / "card.json", LARGEST_CARD))["program"]
        numbers = load(bounded_bytes(folder / "switchable.safetensors", LARGEST_NUMBERS))
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}, this version reads {FORMAT}")
        widths = [int(bits) for bits in card["bit_widths"]]
        steps = [_step(given, numbers, widths, card["nested"]) for given in card["steps"]]
    except (OSError, SafetensorError, *OTHER_CONTENT) as error:
        raise UserError(f"{folder}: no network of instantnet.deploy ({reason(error)})") from error
    return Program(steps, widths, card["nested"])


def _step(given: Mapping[str, Any], numbers: Arrays, widths: list[int], nested: bool) -> Step:
    name = given["name"]
    options = {key: _read(key, value) for key, value in given["options"].items()}
    step = Step(name, given["op"], given["inputs"], tuple(given["shape"]), given["kind"], options)
    for key, part in numbers.items():
        owner, _, number = key.rpartition(".")
        part = part.astype(np.int64) if number in KINDS else part
        if owner == name:
            step.shared[number] = part
        elif owner in (f"{name}.{bits}bit" for bits in widths):
            step.at.setdefault(int(owner.removeprefix(f"{name}.").removesuffix("bit")), {})[number] = part
    for bits in widths:
        numbers_now = step.at.setdefault(bits, {})
        if step.is_layer:
            shape = tuple(given["weight_shape"])
            if nested:
                whole = _loaded(step.shared["weight"], widths[-1], shape)
                numbers_now["weight"] = (whole >> (widths[-1] - bits)).astype(np.int8 if bits <= 8 else np.int16)
            else:
                numbers_now["weight"] = _loaded(numbers_now["weight"], bits, shape)
    if nested and step.is_layer:
        del step.shared["weight"]
    return step


def _compact(name: str, part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part.astype(KINDS.get(name, part.dtype))).reshape(part.shape)


def _stored(weight: np.ndarray, bits: int) -> np.ndarray:
    return packed(weight) if bits <= 4 else weight


def _loaded(part: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    return unpacked(part, shape) if bits <= 4 else part.reshape(shape)


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no infinity."""
    if isinstance(value, float):
        return None if value in (inf, -inf) else value
    return [int(one) for one in value] if isinstance(value, tuple | list) else value


def _read(name: str, value: Any) -> Any:
    if value is None:
        return -inf if name == "low" else inf
    return tuple(value) if isinstance(value, list) else value
