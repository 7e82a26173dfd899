"""Case files: a layer, a device, a bit-width and a mapping as JSON, one or a list."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

from hw_model.cost import Cost
from hw_model.device import Device, device_names, load_device
from hw_model.errors import InputError, InvalidMapping, shown, unknown
from hw_model.evaluate import evaluate
from hw_model.layer import Layer
from hw_model.mapping import Mapping
from hw_model.timeloop import import_mapping
from hw_model.widths import Bits, widths_of
from hw_model.yaml_lines import read_json, read_text

FIELDS = ("layer", "device", "bits", "mapping")


@dataclass(frozen=True)
class Case:
    """One question: what does `layer` cost at `bits` on `device` with `mapping`? bits: as `Widths.spec` writes them."""

    layer: Layer
    device: Device
    bits: Bits | dict[str, int]
    mapping: Mapping

    @classmethod
    def from_dict(cls, data: Any, folder: str = "") -> Case:
        """From a case's JSON. Paths that do not exist are relative to `folder`.

        Raises:
            InputError: a field is missing, unknown or wrong.
        """
        if not isinstance(data, MappingABC):
            raise InputError(f"expected an object with {', '.join(FIELDS)}, got {shown(data)}")
        for field in FIELDS:
            if field not in data:
                raise InputError(f"missing field {field!r}, a case has {', '.join(FIELDS)}")
        for field in data:
            if field not in FIELDS:
                raise unknown("field", field, FIELDS)
        device = data["device"]
        if isinstance(device, MappingABC) and "extends" in device:
            device = {**device, "extends": _beside(device["extends"], folder)}
        device = _beside(device, folder)
        case = cls(
            Layer.from_dict(data["layer"]),
            load_device(device),
            widths_of(data["bits"]).spec,
            _mapping(data["mapping"], device, folder),
        )
        case.layer.check_padding()
        case.mapping.on(case.device)  # a level the device lacks is bad input, not a mapping that does not fit
        return case

    def cost(self) -> Cost:
        """Raises InvalidMapping."""
        return evaluate(self.layer, self.mapping, self.device, self.bits)


def _beside(device: Any, folder: str) -> Any:
    """The device; a path that exists only in the case's folder becomes a path to there."""
    if not isinstance(device, str) or device in device_names() or os.path.isfile(device):
        return device
    beside = os.path.join(folder, device)
    return beside if os.path.isfile(beside) else device


def _mapping(data: Any, device: Any, folder: str) -> Mapping:
    """A mapping in the JSON form, or the path of a Timeloop mapping file."""
    if not isinstance(data, str):
        return Mapping.from_dict(data)
    path = data if os.path.exists(data) else os.path.join(folder, data)
    return import_mapping(read_text(path), load_device(device), os.path.basename(path))


def read_cases(path: str | os.PathLike) -> list[Case] | Case:
    """The case, or the list of cases, of a JSON file. Raises InputError naming the file and what is wrong."""
    return parse_cases(read_text(path), os.path.basename(path), os.path.dirname(path))


def parse_cases(text: str, source: str = "case", folder: str = "") -> list[Case] | Case:
    """As `read_cases`, from the text of a file."""
    data = read_json(text, source)
    if not isinstance(data, list):
        return _case(data, source, folder)
    return [_case(item, f"{source}, case {index}", folder) for index, item in enumerate(data)]


def _case(data: Any, source: str, folder: str) -> Case:
    try:
        return Case.from_dict(data, folder)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def result(case: Case) -> dict:
    """What `python -m hw_model --json` writes for a case: the cost, or {"valid": false, "reasons": [..]}."""
    try:
        return case.cost().to_dict()
    except InvalidMapping as error:
        return {"valid": False, "reasons": error.reasons}


def results_json(cases: list[Case] | Case) -> tuple[str, bool]:
    """JSON text of one result or of a list, and whether all were valid."""
    found = [result(case) for case in (cases if isinstance(cases, list) else [cases])]
    text = json.dumps(found if isinstance(cases, list) else found[0], indent=1, allow_nan=False)
    return text, all(item["valid"] for item in found)
