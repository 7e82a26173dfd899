"""A table of what every candidate operation of a search space costs on a device.

    table = automapper.table(geometry, "eyeriss", bits=[4, 8])
    energy_j, latency_s = table.cost(["k3_e1"] * 22, bits=4)

An entry is the sum over the operation's layers, each with its own best mapping, one after another on the whole array:
what `automapper.map_network` finds for the same layer with the same budget and seed, before any trade between layers.
With `fuse` the layers of an operation may be fused into groups (automapper/fusion). Those of different operations never
are: a table cannot know what runs next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import automapper
import hw_model
from automapper.budget import Clock, parse_budget, schedule
from automapper.fusion.blocks import Block, fuse_blocks
from automapper.fusion.plan import Effort
from automapper.json_file import read_as
from automapper.objective import parse_objective
from automapper.search import NoMapping, Outcome, run_search
from automapper.workload import Candidates, NetworkLayer, distinct_problems, problem_of
from hw_model import Device, InputError, fusion, load_device
from hw_model.widths import Bits, in_words, width_order, widths_of
from instantnet.engine.errors import UserError, shown
from instantnet.engine.files import replacing
from instantnet.settings.stages import MapSettings, SearchSettings

GEOMETRY = (
    "num_layer_list", "num_channel_list", "stride_list", "stem_channel", "stem_stride", "header_channel",
    "num_classes", "image_height", "image_width", "quantize_ends",
)  # fmt: skip
"""The settings that a table belongs to, the fields of `operations.Geometry`."""
LARGEST_FILE = 2**28  # bytes
EXPECTED = "a table of `instantnet table`"
UNFUSED = "off"  # of `fuse`


class Entry(NamedTuple):
    """Energy in J and latency in s, of one image."""

    energy_j: float
    latency_s: float


class Row(NamedTuple):
    """A search space at one bit-width. fixed: stem, header and classifier together; layers: operation -> entry, for
    every searched layer."""

    fixed: Entry
    layers: tuple[dict[str, Entry], ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """What every candidate of a search space costs. device: its name, or the file it was read from; geometry: the
    settings named in GEOMETRY; rows: by bit-width; fuse: how the layers of a candidate may be fused."""

    device: str
    geometry: dict[str, Any]
    rows: dict[Bits, Row]
    fuse: str = UNFUSED

    @property
    def fused(self) -> bool:
        """Whether the layers of a candidate may be fused."""
        return self.fuse != UNFUSED

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Bit-widths, lowest first."""
        return tuple(self.rows)

    @property
    def operations(self) -> tuple[str, ...]:
        """The candidates of every layer."""
        return tuple(self.rows[self.bits[0]].layers[0])

    def cost(self, ops: Sequence[str], bits: Bits) -> Entry:
        """Energy and latency of the network with operation `ops[i]` in searched layer i.

        Raises UserError for a bit-width, an operation or a number of layers that the table lacks.
        """
        self.check_bits([bits])
        row = self.rows[bits]
        if len(ops) != len(row.layers):
            raise UserError(f"a table of {len(row.layers)} searched layers has no cost of {len(ops)} operations")
        if unknown := [op for op in ops if op not in row.layers[0]]:
            raise UserError(f"operation {shown(unknown[0])}: the table has {', '.join(row.layers[0])}")
        chosen = [row.fixed, *(layer[op] for op, layer in zip(ops, row.layers, strict=True))]
        return Entry(math.fsum(one.energy_j for one in chosen), math.fsum(one.latency_s for one in chosen))

    def check_bits(self, bits: Iterable[Bits], named: str = "the table") -> None:
        """Raise UserError where the table lacks one of these bit-widths."""
        for width in bits:
            if width not in self.rows:
                raise UserError(f"{named} has no bit-width {width}, only {', '.join(map(str, self.bits))}")

    def check_geometry(self, settings: Mapping[str, Any], named: str = "the table") -> None:
        """Raise UserError where the table belongs to a network of other sizes."""
        for name in GEOMETRY:
            ours, theirs = self.geometry[name], _plain(settings[name])
            if ours != theirs:
                raise UserError(f"{named} is of {name} = {shown(ours)}, this search has {shown(theirs)}")

    def to_dict(self) -> dict[str, Any]:
        """The content of the file: {"device", "geometry", "bits": {"8": {"fixed": {"energy_j", "latency_s"}, "layers":
        [{"k3_e1": {"energy_j", "latency_s"}, ..}, ..]}}}; "fuse" beside them where layers are fused."""
        rows = {
            str(bits): {
                "fixed": row.fixed._asdict(),
                "layers": [{op: entry._asdict() for op, entry in layer.items()} for layer in row.layers],
            }
            for bits, row in self.rows.items()
        }
        fused = {"fuse": self.fuse} if self.fused else {}
        return {"device": self.device, "geometry": dict(self.geometry), **fused, "bits": rows}

    def write(self, path: Path | str) -> None:
        """Write the file, replacing the one before as a whole. Raises UserError where that is not possible."""
        with replacing(path) as file:
            file.write((json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())


def table(
    geometry: Any,
    device: str | os.PathLike | Mapping[str, Any] | Device,
    bits: Bits | Sequence[Bits],
    *,
    objective: str = MapSettings.objective,
    budget: int | str = MapSettings.budget,
    seed: int = MapSettings.seed,
    fuse: str = UNFUSED,
    workers: int = MapSettings.workers,
    backend: str = MapSettings.backend,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """The table of a search space on a device, from the cache where it is there.

    Args:
        geometry: an `instantnet.operations.Geometry`, or its fields as a dictionary.
        device: as `automapper.map_network` takes it.
        bits: one bit-width or several, 1 to 32 or "w4a8".
        objective: what the mappings minimise.
        budget: mappings per layer and bit-width, or seconds in all as text ("30s"; such a table is not cached).
        fuse: "maps" or "strips": the layers of each candidate may be fused, and what is added to its output is charged;
            "off": layer by layer, without it.
        progress: called with the share of the work done.

    Raises:
        UserError: a setting that is not legal, no such device, or a candidate without a valid mapping.
    """
    sizes = _sizes(geometry)
    asked = MapSettings().replaced(
        bits=[bits] if isinstance(bits, int | str) else list(bits), objective=objective, budget=str(budget), seed=seed,
        fuse=fuse, workers=workers, backend=backend,
    )  # fmt: skip
    if not asked.bits:
        raise UserError("setting bits is empty: name the bit-widths of the table")
    specs = {one.W if one.W == one.I else one.label for one in map(widths_of, asked.bits)}
    widths = sorted(specs, key=width_order)
    try:
        built = load_device(device)
    except InputError as error:
        raise UserError(str(error)) from error
    goal, limit = parse_objective(objective), parse_budget(asked.budget)
    from automapper import layers  # imported here: torch takes seconds to load, and mistakes need none of it

    name = os.fspath(device) if isinstance(device, str | os.PathLike) else built.name
    candidates = layers.load_candidates(sizes)
    place = _cached_file([repr(built), sizes, repr(candidates), widths, repr(goal), repr(limit), seed, fuse, _code()])
    if limit.mappings is not None:
        with suppress(UserError):
            return dataclasses.replace(read_table(place), device=name)
    problems = distinct_problems(candidates.network, widths)
    may_fuse = fuse != UNFUSED and fusion.room_bits(built) > 0
    searching = schedule(trading=False, fronts=False, fusing=may_fuse).searched

    def after_round(outcome: Outcome, share: float) -> bool:
        progress(searching * share)
        return False

    clock = Clock(limit.seconds)
    try:
        outcome = run_search(
            problems, built, goal, limit.without(1 - searching), seed, asked.engine, workers, backend, after_round
        )
    except NoMapping as error:
        raise UserError(
            f"layer {candidates.network.name_of(error.problem)} at {in_words(error.problem.bits)}: no valid mapping on "
            f"device {name} found; closest miss: {'; '.join(error.reasons)}"
        ) from error
    if outcome.lost:
        raise outcome.lost
    if outcome.interrupted:  # half a search is no table
        raise KeyboardInterrupt
    fused: dict[Block, dict[Bits, tuple[float, float]]] = {}
    if fuse != UNFUSED:
        effort = Effort(limit.mappings or outcome.per_search, seed, workers, backend, seconds=clock.until())

        def after_blocks(share: float) -> None:
            progress(searching + (1 - searching) * share)

        blocks = [of_op for row in candidates.layers for of_op in row.values()]
        fused = fuse_blocks(blocks, widths, outcome, built, goal, fuse, effort, after_blocks)
    found = Table(name, sizes, {width: _row(candidates, width, outcome, fused) for width in widths}, fuse)
    if limit.mappings is not None:
        with suppress(UserError):  # a folder that cannot be written: the next table is searched again
            found.write(place)
    return found


def read_table(path: Path | str) -> Table:
    """The table in a file. Raises UserError, one line, where it is none."""
    return read_as(path, _table_of, EXPECTED, LARGEST_FILE)


def _table_of(content: Any) -> Table:
    """The table of a file's content; UserError, ValueError, TypeError or KeyError where it is not one."""
    if not isinstance(content, dict) or set(content) - {"fuse"} != {"device", "geometry", "bits"}:
        raise ValueError("its fields are not device, geometry and bits")
    fuse = MapSettings().replaced(fuse=content.get("fuse", UNFUSED)).fuse
    if not isinstance(content["device"], str):
        raise ValueError("its device is not text")
    sizes = _sizes(content["geometry"])
    rows = {}
    for label, row in content["bits"].items():
        width = widths_of(int(label) if label.isdecimal() else label).spec
        if not isinstance(width, int | str):
            raise ValueError(f"its bit-width {shown(label)}")
        layers = tuple({op: _entry(one) for op, one in layer.items()} for layer in row["layers"])
        rows[width] = Row(_entry(row["fixed"]), layers)
    if not rows:
        raise ValueError("it has no bit-width")
    operations = {frozenset(layer) for row in rows.values() for layer in row.layers}
    lengths = {len(row.layers) for row in rows.values()}
    if lengths != {sum(sizes["num_layer_list"])} or len(operations) != 1 or not all(operations):
        raise ValueError(f"it has not the same operations in each of {sum(sizes['num_layer_list'])} layers")
    return Table(content["device"], sizes, dict(sorted(rows.items(), key=lambda pair: width_order(pair[0]))), fuse)


def _entry(given: Any) -> Entry:
    values = [given["energy_j"], given["latency_s"]]
    if len(given) != 2 or not all(type(value) in (int, float) and 0 <= value < math.inf for value in values):
        raise ValueError(f"its entry {shown(given)}")
    return Entry(*map(float, values))


def _sizes(geometry: Any) -> dict[str, Any]:
    """The settings of GEOMETRY, legal alone and together. Raises UserError."""
    if dataclasses.is_dataclass(geometry) and not isinstance(geometry, type):
        geometry = dataclasses.asdict(geometry)
    if not isinstance(geometry, Mapping):
        raise UserError(f"geometry: expected a Geometry or its fields, got {shown(geometry)}")
    if missing := [name for name in GEOMETRY if name not in geometry]:
        raise UserError(f"geometry: {missing[0]} is missing")
    C = SearchSettings().replaced(**{name: geometry[name] for name in GEOMETRY})
    C.check()
    if C.num_classes is None:
        raise UserError("setting num_classes = None: a table charges the classifier, so it needs their number")
    return {name: _plain(getattr(C, name)) for name in GEOMETRY}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _row(
    candidates: Candidates, bits: Bits, outcome: Outcome, fused: Mapping[Block, Mapping[Bits, tuple[float, float]]]
) -> Row:
    """The entries at a bit-width; fused: what candidates cost whose layers may be fused."""

    def summed(layers: Iterable[NetworkLayer]) -> Entry:
        costs = [outcome.own(problem_of(item, bits)).cost for item in layers]
        return Entry(math.fsum(cost.energy_j for cost in costs), math.fsum(cost.latency_s for cost in costs))

    def entry(layers: Block) -> Entry:
        return Entry(*fused[layers][bits]) if layers in fused else summed(layers)

    layers = tuple({op: entry(of_op) for op, of_op in row.items()} for row in candidates.layers)
    return Row(summed(candidates.fixed), layers)


def _cached_file(key: Sequence[Any]) -> Path:
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "instantnet" / "tables" / f"{digest}.json"


@cache
def _code() -> str:
    """A hash of the mapper and of the cost model: their version."""
    digest = hashlib.blake2b(digest_size=16)
    for package in (automapper, hw_model):
        folder = Path(str(package.__file__)).parent
        for file in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml")):
            if file.parent.name != "devices":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
