"""A device file with lists in place of numbers: every combination of them is a device.

    extends: eyeriss
    name: grid
    array: {x: [8, 14, 16], y: [8, 12]}
    levels:
      glb: {size_bits: [409600, 819200, 1638400], read_energy_pj_per_bit: [0.3, 0.41, 0.55]}
    together:                                   # these change in step: 3 buffers, not 9
      - [levels.glb.size_bits, levels.glb.read_energy_pj_per_bit]

Every list of numbers in a device file is such a list: no field of a device has one.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hw_model import Device, InputError, load_device
from hw_model.device import DEVICE_FOLDER
from hw_model.errors import shown, unknown
from hw_model.extends import extended
from hw_model.yaml_lines import read_text, read_yaml

MOST_DEVICES = 10_000
Path = tuple[str | int, ...]
Number = int | float | None  # None: an unlimited bandwidth


@dataclass(frozen=True)
class GridDevice:
    """A device of the grid. values: what its lists are there, by the name of the field."""

    device: Device
    values: dict[str, Number]

    @property
    def on_chip_bytes(self) -> float:
        """Of all memories on the chip, those of every PE included."""
        d = self.device
        bits = sum(
            size * (d.pes if level.in_pe else 1) for level in d.levels for _, size in level.partitions
        )  # a DRAM has no size
        return bits / 8


def read_grid(source: str | os.PathLike | Mapping[str, Any]) -> list[GridDevice]:
    """All devices of a file, or of its content, the last list changing fastest.

    Raises InputError: what `load_device` says of one of them, no list at all, more than MOST_DEVICES, or a field in
    `together` that is no list or has another length.
    """
    name, folder, seen = "device", "", tuple[str, ...]()
    data: Any
    if isinstance(source, Mapping):
        data = copy.deepcopy(dict(source))
    else:
        name = os.fspath(source)
        data, _ = read_yaml(read_text(name), name)
        folder, seen = os.path.dirname(name), (os.path.abspath(name),)
    if not isinstance(data, dict):
        raise InputError(f"{name}: expected a device file, got {shown(data)}")
    together = data.pop("together", [])
    data = extended(data, name, DEVICE_FOLDER, folder, seen)
    lists = dict(_lists(data, ()))
    if not lists:
        raise InputError(f"{name}: no field has a list of numbers, so there is one device: map on it by --device")
    names = {_name(data, path): path for path in lists}
    groups = _groups(names, lists, together, name)
    if (count := math.prod(len(lists[group[0]]) for group in groups)) > MOST_DEVICES:
        raise InputError(f"{name}: its lists make {count:,} devices, at most {MOST_DEVICES:,}")
    found: list[GridDevice] = []
    for places in itertools.product(*(range(len(lists[group[0]])) for group in groups)):
        one, values = copy.deepcopy(data), {}
        for group, i in zip(groups, places, strict=True):
            for path in group:
                _put(one, path, lists[path][i])
                values[_name(data, path)] = lists[path][i]
        try:
            device = load_device(one)
        except InputError as error:
            of = ", ".join(f"{field} = {value}" for field, value in values.items())
            raise InputError(f"{name} with {of}: {error}") from None
        found.append(GridDevice(replace(device, name=f"{device.name} {len(found) + 1}"), values))
    return found


def _lists(value: Any, path: Path) -> list[tuple[Path, list[Number]]]:
    """(where, list) of every list of numbers."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _lists(item, (*path, key))]
    if not isinstance(value, list):
        return []
    numbers = [item is None or (isinstance(item, int | float) and not isinstance(item, bool)) for item in value]
    if value and all(numbers):
        return [(path, value)]
    return [found for i, item in enumerate(value) for found in _lists(item, (*path, i))]


def _name(data: Any, path: Path) -> str:
    """`levels.glb.size_bits` of ("levels", 1, "size_bits")."""
    words = []
    for step in path:
        data = data[step]
        named = isinstance(step, int) and isinstance(data, dict) and isinstance(data.get("name"), str)
        words.append(data["name"] if named else str(step))
    return ".".join(words)


def _groups(names: Mapping[str, Path], lists: Mapping[Path, list], together: Any, source: str) -> list[list[Path]]:
    """Groups of lists that change in step. A list that `together` does not name is a group alone."""
    where = f"{source}: together"
    if not isinstance(together, list) or not all(isinstance(group, list) and group for group in together):
        raise InputError(f"{where}: expected a list of lists of fields, got {shown(together)}")
    for field in itertools.chain.from_iterable(together):
        if field not in names:
            raise unknown(f"list in {where}:", str(field), names)
    groups = [[names[field] for field in group] for group in together]
    for group, fields in zip(groups, together, strict=True):
        lengths = [len(lists[path]) for path in group]
        if len(set(lengths)) > 1:
            raise InputError(
                f"{where}: {', '.join(fields)} have {', '.join(map(str, lengths))} values; expected as many"
            )
    grouped = list(itertools.chain.from_iterable(groups))
    if len(set(grouped)) < len(grouped):
        raise InputError(f"{where}: a field is named twice")
    ordered = {path: [path] for path in lists if path not in grouped}
    return [*groups, *ordered.values()]


def _put(data: Any, path: Path, value: Number) -> None:
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value
