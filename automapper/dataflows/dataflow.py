"""Dataflows, and how their files are read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from automapper.dataflows.schema import check_dataflow
from hw_model import DIMS, InputError
from hw_model.errors import shown, unknown
from hw_model.layer import RELEVANT
from hw_model.yaml_lines import place, read_text, read_yaml

ALL = "".join(DIMS)
FOLDER = Path(__file__).parent
BUILT_IN = (
    "row_stationary",
    "weight_stationary",
    "output_stationary",
    "output_stationary_channels",
    "no_local_reuse",
)


@dataclass(frozen=True)
class Place:
    """What may lie on an axis of the array, on the lanes, or in the memories of a PE.

    dims: dimensions that may lie there; whole: those that must, as a whole; where_it_fits: a dimension of `whole` that
    is too large may be split, instead of being an error.
    """

    dims: str = ALL
    whole: str = ""
    where_it_fits: bool = False


@dataclass(frozen=True)
class Dataflow:
    """A set of mappings: those whose loops lie where x, y, lanes and pe allow it, and in which a tensor stays.

    stays: the tensor (W, I or O) each word of which enters its PE once while the loops over the dimensions `over` run:
    outside the PEs, at whatever level, every loop over one of them runs inside every loop over a dimension of the
    tensor. Empty: none. may_bypass: tensors that may be sent past a memory where the device allows it.
    """

    name: str = ""
    description: str = ""
    x: Place = Place()
    y: Place = Place()
    lanes: Place = Place()
    pe: Place = Place()
    stays: str = ""
    over: str = ""
    may_bypass: str = "WIO"

    @property
    def constrained(self) -> bool:
        """Whether it excludes any mapping."""
        return self != Dataflow(self.name, self.description)

    @property
    def places(self) -> dict[str, Place]:
        """x, y, lanes and pe by name."""
        return {"x": self.x, "y": self.y, "lanes": self.lanes, "pe": self.pe}


FREE = Dataflow()


def load_dataflow(path: str) -> Dataflow:
    """The dataflow of a YAML file, or the built-in one of that name.

    Raises:
        InputError: file, line and field of what is wrong.
    """
    known = built_in()
    if path in known:
        return known[path]
    if not path.endswith((".yaml", ".yml")):
        raise unknown("dataflow", path, known)
    dataflow = _read(path)
    if dataflow.name in known:
        raise InputError(f"{path}: name: {shown(dataflow.name)} is a built-in dataflow; take another name")
    return dataflow


@functools.cache
def built_in() -> MappingProxyType[str, Dataflow]:
    """{name: dataflow} of those that come with the project, in the order in which they are shown."""
    return MappingProxyType({name: _read(str(FOLDER / f"{name}.yaml")) for name in BUILT_IN})


def _read(path: str) -> Dataflow:
    data, lines = read_yaml(read_text(path), path)
    check_dataflow(data, path, lines)
    places = {name: _place(data[name]) for name in ("x", "y", "lanes", "pe") if name in data}
    if "stays" not in data and not any(one.dims or one.whole for one in places.values()):
        raise InputError(f"{path}: names no dimension: give at least one of x, y, lanes, pe (dimensions) and stays")
    for name, one in places.items():
        if foreign := [dim for dim in one.whole if dim not in one.dims]:
            where = place(path, (name, "whole"), lines)
            raise InputError(f"{where}: {foreign[0]} is not among the dims that may lie there ({', '.join(one.dims)})")
    stays = data.get("stays", "")
    left = "".join(dim for dim in DIMS if dim not in RELEVANT[stays]) if stays else ""
    over = "".join(data.get("over", left))
    for dim in over:
        if dim not in left:
            why = f"{stays} depends on {dim}" if stays else "only with stays"
            raise InputError(f"{place(path, ('over',), lines)}: {why}; legal: {', '.join(left) or 'nothing'}")
    return Dataflow(
        name=data["name"],
        description=data.get("description", ""),
        **places,
        stays=stays,
        over=over,
        may_bypass="".join(data.get("may_bypass", "WIO")),
    )


def _place(value: Any) -> Place:
    if isinstance(value, list):
        return Place("".join(value))
    dims, whole = "".join(value.get("dims", ALL)), "".join(value.get("whole", ""))
    return Place(dims, whole, value.get("where_it_fits", False))
