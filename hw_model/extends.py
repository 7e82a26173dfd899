"""A device as another one with some fields changed: {"extends": "gemmini", "array": {"x": 32, "y": 32}}."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from hw_model.errors import InputError, shown, unknown
from hw_model.yaml_lines import read_text, read_yaml

MERGED = ("array", "network", "mac")  # objects whose fields are replaced one by one
NETWORK_ENERGIES = ({"energy_pj_per_bit"}, {"energy_pj_per_bit_hop", "hops"})  # two ways to give one thing


def extended(data: Any, source: str, devices: Path, folder: str = "", seen: tuple[str, ...] = ()) -> Any:
    """The content of a device file with `extends` resolved; any other content as it is.

    Fields of `data` replace those of the device it extends. `array`, `network` and `mac` are replaced field by field;
    so is each level where `levels` is an object of levels by name, instead of a list of all.

    Args:
        devices: folder of the devices known by name.
        folder: the base of paths that do not exist from the working directory.

    Raises:
        InputError: no such device, a level that it does not have, or devices that extend each other.
    """
    if not isinstance(data, dict) or "extends" not in data:
        return data
    base = data["extends"]
    if not isinstance(base, str) or not base:
        raise InputError(f"{source}: extends: expected the name or the path of a device, got {shown(base)}")
    path = _path(base, source, devices, folder)
    if path in seen:
        raise InputError(f"{source}: extends: {base} extends itself")
    fields, _ = read_yaml(read_text(path), path)
    fields = extended(fields, path, devices, os.path.dirname(path), (*seen, path))
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a device, got {shown(fields)}")
    fields = copy.deepcopy(fields)
    for name, value in data.items():
        if name == "levels" and isinstance(value, dict):
            fields["levels"] = _levels(fields.get("levels"), value, f"{source}: levels", base)
        elif name in MERGED and isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] = _network(fields[name], value) if name == "network" else fields[name] | value
        elif name != "extends":
            fields[name] = value
    return fields


def _path(base: str, source: str, devices: Path, folder: str) -> str:
    named = devices / f"{base}.yaml"
    if os.sep not in base and named.is_file():
        return str(named)
    for path in (base, os.path.join(folder, base)):
        if os.path.isfile(path):
            return os.path.abspath(path)
    if os.sep in base or base.endswith((".yaml", ".yml")):
        raise InputError(f"{source}: extends: {shown(base)}: no such file")
    raise unknown(f"device in extends of {source}:", base, sorted(path.stem for path in devices.glob("*.yaml")))


def _levels(levels: Any, changes: dict, where: str, base: str) -> list:
    names = [level.get("name") for level in levels if isinstance(level, dict)] if isinstance(levels, list) else []
    for name, fields in changes.items():
        if name not in names:
            raise unknown(f"level of device {base} in {where}:", name, names)
        if not isinstance(fields, dict):
            raise InputError(f"{where}.{name}: expected an object of fields, got {shown(fields)}")
    return [level | changes.get(level["name"], {}) for level in levels]


def _network(fields: dict, changes: dict) -> dict:
    for one, other in (NETWORK_ENERGIES, NETWORK_ENERGIES[::-1]):
        if one & set(changes) and not other & set(changes):
            fields = {name: value for name, value in fields.items() if name not in other}
    return fields | changes
