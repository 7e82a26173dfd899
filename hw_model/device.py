"""A device: memories, PE array, network and MAC, read from a YAML file."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hw_model.device_schema import check_device
from hw_model.errors import InputError, escaped, shown, unknown
from hw_model.extends import extended
from hw_model.layer import DIMS, TENSORS
from hw_model.yaml_lines import place, read_text, read_yaml

DEVICE_FOLDER = Path(__file__).parent / "devices"
PASSING_PES = 2**20  # counting what neighbours pass on takes an array of that size


@dataclass(frozen=True)
class Level:
    """A memory level.

    holds: tensors it can hold; may_bypass: those of them that a mapping may send past it; in_pe: one in each PE, rather
    than one for the chip; partitions: (tensors, bits) that share one capacity, none when unbounded; energies in pJ per
    bit for each tensor; bandwidths in bits per cycle of one instance, infinite when unlimited.
    """

    name: str
    in_pe: bool
    holds: tuple[str, ...]
    may_bypass: tuple[str, ...]
    partitions: tuple[tuple[tuple[str, ...], int], ...]
    read_energy_pj_per_bit: Mapping[str, float]
    write_energy_pj_per_bit: Mapping[str, float]
    read_bandwidth_bits_per_cycle: float
    write_bandwidth_bits_per_cycle: float


@dataclass(frozen=True)
class Mac:
    """The multiply-accumulate unit; `energy.py` has the scaling law, `rate` how many run per PE and cycle.

    fused_dims: where `rate` is fused, the dimensions whose iterations a unit does side by side. One that has too few of
    them leaves the rest of the unit idle.
    """

    multiplier_energy_pj: float
    multiplier_bits: int
    adder_energy_pj: float
    adder_bits: int
    rate: str
    native_bits: int
    granule_bits: int
    fused_dims: str = "NGKCPQRS"


@dataclass(frozen=True)
class Device:
    """A device; make one with `load_device`.

    levels: outermost (DRAM) first; array: (x, y) PEs; lanes: MACs in each PE; network_energy_pj_per_bit: per bit
    delivered to, or sent by, a PE; psum_bits: width of partial sums (wider where the outputs are);
    output_bits: width of finished outputs, None = the layer's; axis_dims: the dimensions that may lie along x, along y;
    reduces: whether partial sums add up along x, along y; lanes_dims: the dimensions that may lie on lanes.

    input_sharing: whether one read of inputs serves all PEs that need the word ("union") or only those that need the
    same whole tile ("identical"); forward_inputs: PEs pass on what their neighbour needs next, words out of queues or,
    with "identical", boxes (`has_queues`, `passes_tiles`);
    input_words: "real" words, or the bounding "box" as Timeloop counts; zero_gating: zero inputs cost no MAC, no read
    of a weight and no partial sum; idle_power_mw: clock, control and leakage, charged every cycle.
    """

    name: str
    clock_mhz: float
    array: tuple[int, int]
    lanes: int
    levels: tuple[Level, ...]
    network_energy_pj_per_bit: float
    multicast: bool
    mac: Mac
    psum_bits: int
    output_bits: int | None = None
    axis_dims: tuple[str, str] = ("NGKCPQRS", "NGKCPQRS")
    reduces: tuple[bool, bool] = (True, True)
    lanes_dims: str = "NGKCPQRS"
    input_sharing: str = "union"
    forward_inputs: bool = False
    input_words: str = "real"
    zero_gating: bool = False
    idle_power_mw: float = 0.0
    technology_nm: float | None = None
    description: str = ""
    energy_unit: str = "pJ"
    stays: str = ""
    home: int = 0

    def __hash__(self) -> int:
        return hash((self.name, self.array, self.clock_mhz, self.psum_bits, len(self.levels), self.stays))

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the temporal levels, outermost first."""
        return tuple(level.name for level in self.levels)

    @property
    def first_pe_level(self) -> int:
        """Index of the first level inside the PEs: the network and the spatial loops are just outside it."""
        return sum(not level.in_pe for level in self.levels)

    @functools.cached_property
    def slots(self) -> tuple[str, ...]:
        """Where a mapping's factors go, outermost first: "dram", .., "spatial_y", "spatial_x", .., ("lanes")."""
        names = list(self.level_names)
        names[self.first_pe_level : self.first_pe_level] = ["spatial_y", "spatial_x"]
        return (*names, "lanes") if self.lanes > 1 else tuple(names)

    @property
    def spatial_reduction(self) -> bool:
        """Whether partial sums add up on their way from the PEs, along some axis."""
        return any(self.reduces)

    @property
    def has_queues(self) -> bool:
        """Whether PEs pass inputs on word by word, each kept in a queue until the neighbour needs it."""
        return self.forward_inputs and self.input_sharing == "union"

    @property
    def passes_tiles(self) -> bool:
        """Whether PEs pass on what a neighbour needs the step after, as Timeloop counts. Cost then depends on the order
        of the loops of an axis, too."""
        identical_boxes = self.input_sharing == "identical" and self.input_words == "box"
        return self.forward_inputs and identical_boxes and self.multicast

    @property
    def ordered_slots(self) -> tuple[str, ...]:
        """The slots whose loop order may change the cost: the temporal levels; then y and x where `passes_tiles`."""
        return (*self.level_names, "spatial_y", "spatial_x") if self.passes_tiles else self.level_names

    @property
    def pes(self) -> int:
        """PEs of the whole array."""
        return math.prod(self.array)

    def level(self, name: str) -> Level:
        """The level of that name; InputError naming the closest otherwise."""
        for level in self.levels:
            if level.name == name:
                return level
        raise unknown(f"level of device {self.name}", name, self.level_names)

    def unlimited(self) -> Device:
        """This device with unlimited bandwidth everywhere (cycles are then those of the MACs alone)."""
        free = (
            replace(level, read_bandwidth_bits_per_cycle=math.inf, write_bandwidth_bits_per_cycle=math.inf)
            for level in self.levels
        )
        return replace(self, levels=tuple(free))


def device_names() -> list[str]:
    """Names of the devices that come with the package."""
    return sorted(path.stem for path in DEVICE_FOLDER.glob("*.yaml"))


def load_device(source: str | os.PathLike | Mapping | Device) -> Device:
    """A device by name ("eyeriss"), by path of a YAML file, or from a file's content as a dictionary or as text.

    A content may be {"extends": "eyeriss", ..}: that device with the fields given replaced (see `extends.extended`).

    Raises:
        InputError: no such device, or the file, line and field that is wrong and what was expected.
    """
    if isinstance(source, Device):
        return source
    if isinstance(source, Mapping):
        return _build(extended(dict(source), "device", DEVICE_FOLDER), "device", {})
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"device: expected a name, a path or an object, got {shown(source)}")
    text = os.fspath(source)
    if isinstance(text, str) and "\n" in text:
        data, lines = read_yaml(text, "device")
        return _build(extended(data, "device", DEVICE_FOLDER), "device", lines)
    if not isinstance(text, str):
        raise InputError(f"device: expected a name, a path or an object, got {shown(text)}")
    if text in device_names():
        return _from_package(text)
    if not (os.sep in text or text.endswith((".yaml", ".yml")) or os.path.isfile(text)):
        raise unknown("device", text, device_names())
    return _from_file(text)


@functools.cache
def _from_package(name: str) -> Device:
    return _from_file(str(DEVICE_FOLDER / f"{name}.yaml"))


def _from_file(path: str) -> Device:
    data, lines = read_yaml(read_text(path), path)
    data = extended(data, path, DEVICE_FOLDER, os.path.dirname(path), (os.path.abspath(path),))
    return _build(data, path, lines)


def _build(data: Any, source: str, lines: Mapping) -> Device:
    check_device(data, source, lines)
    levels = tuple(_level(fields, index, source, lines) for index, fields in enumerate(data["levels"]))
    _check_levels(levels, data["levels"], source, lines)
    array = data["array"]
    network = data["network"]
    device = Device(
        name=escaped(data["name"]),
        clock_mhz=float(data["clock_mhz"]),
        array=(int(array["x"]), int(array["y"])),
        lanes=int(array.get("lanes", 1)),
        levels=levels,
        network_energy_pj_per_bit=_network_energy(network, source, lines),
        multicast=network.get("multicast", True),
        mac=_mac(data["mac"], source, lines),
        psum_bits=int(data["psum_bits"]),
        output_bits=data.get("output_bits"),
        axis_dims=("".join(array.get("x_dims", DIMS)), "".join(array.get("y_dims", DIMS))),
        reduces=_reduces(array, network, source, lines),
        lanes_dims="".join(array.get("lanes_dims", DIMS)),
        input_sharing=data.get("input_sharing", "union"),
        forward_inputs=data.get("forward_inputs", False),
        input_words=data.get("input_words", "real"),
        zero_gating=data.get("zero_gating", False),
        idle_power_mw=float(data.get("idle_power_mw", 0.0)),
        technology_nm=data.get("technology_nm"),
        description=escaped(data.get("description", "")),
        energy_unit=escaped(data.get("energy_unit", "pJ")),
    )
    if device.passes_tiles and device.pes > PASSING_PES:
        where = place(source, ("array", "x"), lines)
        raise InputError(f"{where}: at most {PASSING_PES} PEs can pass identical boxes on, got {device.pes}")
    return device


def _level(fields: Mapping, index: int, source: str, lines: Mapping) -> Level:
    def wrong(field: str, message: str) -> InputError:
        return InputError(f"{place(source, ('levels', index, field), lines)}: {message}")

    holds = tuple(tensor for tensor in TENSORS if tensor in fields["holds"])
    size = fields.get("size_bits")
    if size is None:
        partitions: tuple = ()
    elif isinstance(size, Mapping):
        partitions = tuple((tuple(group.split("+")), int(bits)) for group, bits in size.items())
        named = [tensor for group, _ in partitions for tensor in group]
        if sorted(named) != sorted(holds):
            raise wrong("size_bits", f"expected each of {', '.join(holds)} once, as in `holds`, got {', '.join(named)}")
    else:
        partitions = ((holds, int(size)),)

    def energies(kind: str) -> dict[str, float]:
        given = fields[kind]
        if not isinstance(given, Mapping):
            return dict.fromkeys(TENSORS, float(given))
        if missing := [tensor for tensor in holds if tensor not in given]:
            raise wrong(kind, f"expected an energy for {', '.join(missing)} too")
        return {tensor: float(given.get(tensor, 0.0)) for tensor in TENSORS}

    may_bypass = holds if index else ()
    if "may_bypass" in fields:
        may_bypass = tuple(tensor for tensor in TENSORS if tensor in fields["may_bypass"])
    return Level(
        name=fields["name"],
        in_pe=fields.get("scope", "chip") == "pe",
        holds=holds,
        may_bypass=may_bypass,
        partitions=partitions,
        read_energy_pj_per_bit=energies("read_energy_pj_per_bit"),
        write_energy_pj_per_bit=energies("write_energy_pj_per_bit"),
        read_bandwidth_bits_per_cycle=float(fields.get("read_bandwidth_bits_per_cycle") or math.inf),
        write_bandwidth_bits_per_cycle=float(fields.get("write_bandwidth_bits_per_cycle") or math.inf),
    )


def _check_levels(levels: tuple[Level, ...], fields: list, source: str, lines: Mapping) -> None:
    def where(index: int, field: str) -> str:
        return place(source, ("levels", index, field), lines)

    first = levels[0]
    if first.name != "dram" or first.in_pe or len(first.holds) < 3 or first.partitions or first.may_bypass:
        raise InputError(
            f"{where(0, 'name')}: a device needs a DRAM: expected the first level to be 'dram', scope chip, "
            f"holding W, I and O, without size_bits or may_bypass; got {shown(first.name)}"
        )
    for index, level in enumerate(levels[1:], start=1):
        if level.name in [other.name for other in levels[:index]]:
            raise InputError(f"{where(index, 'name')}: level {level.name!r} is there already")
        if not level.partitions:
            raise InputError(f"{where(index, 'name')}: level {level.name!r} needs size_bits (only the DRAM has none)")
        if levels[index - 1].in_pe and not level.in_pe:
            raise InputError(f"{where(index, 'scope')}: level {level.name!r} is outside the PEs but listed inside them")
        if set(level.may_bypass) - set(level.holds):
            given = fields[index]["may_bypass"]
            raise InputError(f"{where(index, 'may_bypass')}: expected tensors of `holds`, got {given}")


def _reduces(array: Mapping, network: Mapping, source: str, lines: Mapping) -> tuple[bool, bool]:
    """Whether partial sums add up along x and along y: `array.reduce`, or the older `network.spatial_reduction`."""
    possible = network.get("spatial_reduction", True)
    axes = array.get("reduce", "both" if possible else "none")
    if axes != "none" and not possible:
        where = place(source, ("array", "reduce"), lines)
        raise InputError(f"{where}: {axes} contradicts network.spatial_reduction: false; give one of them")
    return axes in ("x", "both"), axes in ("y", "both")


def _network_energy(network: Mapping, source: str, lines: Mapping) -> float:
    per_bit = "energy_pj_per_bit" in network
    per_hop = "energy_pj_per_bit_hop" in network and "hops" in network
    partly = "energy_pj_per_bit_hop" in network or "hops" in network
    if per_bit == per_hop or (per_bit and partly):
        raise InputError(
            f"{place(source, ('network',), lines)}: "
            "expected either energy_pj_per_bit, or energy_pj_per_bit_hop and hops"
        )
    if per_bit:
        return float(network["energy_pj_per_bit"])
    return float(network["energy_pj_per_bit_hop"]) * float(network["hops"])


def _mac(fields: Mapping, source: str, lines: Mapping) -> Mac:
    rate = fields.get("rate", "fixed")
    native_bits = int(fields.get("native_bits", 16))
    granule_bits = int(fields.get("granule_bits", 1))
    if granule_bits > native_bits:
        where = place(source, ("mac", "granule_bits"), lines)
        raise InputError(f"{where}: expected at most native_bits {native_bits}, got {granule_bits}")
    numbers = {
        name: fields[name] for name in ("multiplier_energy_pj", "multiplier_bits", "adder_energy_pj", "adder_bits")
    }
    fused_dims = "".join(fields.get("fused_dims", DIMS))
    return Mac(**numbers, rate=rate, native_bits=native_bits, granule_bits=granule_bits, fused_dims=fused_dims)
