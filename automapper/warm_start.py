"""A warm start: the mappings of an earlier report, with which the searches of another run begin.

They are taken wherever a layer has the same shape, at any bit-width, and where they are legal on the device of the run:
another device, other bit-widths, another list of layers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from automapper.engines import Engine
from automapper.evolve import Evolution, known_row
from automapper.json_file import LARGEST_REPORT, read_as
from automapper.workload import nameless
from hw_model import InputError, Layer
from hw_model import Mapping as LoopMapping

EXPECTED = "a report.json of the mapper, or the folder that holds one"
Known = Mapping[Layer, Sequence[LoopMapping]]


def read_mappings(path: Path | str) -> Known:
    """Shape -> the mappings in a report, each once. Raises UserError, one line, where it is none."""
    file = Path(path) / "report.json" if os.path.isdir(path) else Path(path)
    return read_as(file, _by_shape, EXPECTED, LARGEST_REPORT, "setting warm_start: ")


def _by_shape(report: Any) -> Known:
    known: dict[Layer, dict[LoopMapping, None]] = {}
    for shape, mapping in _mappings(report):
        known.setdefault(shape, {})[mapping] = None
    return {shape: list(mappings) for shape, mappings in known.items()}


def _mappings(report: Any) -> Iterator[tuple[Layer, LoopMapping]]:
    """Every layer's own mapping, and what its network runs."""
    for row in report["bit_widths"]:
        for layer in row["layers"]:
            shape = Layer.from_dict(layer["dims"])
            for entry in (layer, layer.get("in_network")):
                if entry is not None:
                    yield nameless(shape), LoopMapping.from_dict(entry["mapping"])


def begin_with(units: Sequence[Engine], known: Known) -> int:
    """Give the searches the mappings of their shape that are legal there; returns how many searches have one."""
    begun = 0
    for unit in units:
        if not isinstance(unit, Evolution):
            continue
        for index, search in enumerate(unit.searches):
            rows = []
            for mapping in known.get(search.problem.layer, ()):
                try:
                    row = known_row(unit.space, mapping, unit.device, index)
                except InputError:  # a level that this device does not have
                    continue
                rows += [row] if row is not None else []
            begun += unit.know(index, rows)
    return begun
