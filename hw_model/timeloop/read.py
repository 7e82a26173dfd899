"""Our mapping and layer from Timeloop's files, also from those written by hand or by its mapper."""

from __future__ import annotations

import math
import re
from typing import Any

from hw_model.device import Device, Level
from hw_model.errors import InputError, shown, unknown
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Mapping
from hw_model.timeloop.names import COEFFICIENTS, DATA_SPACES, NO_SHARING, STEPS, buffers, data_spaces, unshared
from hw_model.yaml_lines import read_yaml

# Link transfers are not modelled here and are off by Timeloop's own switch; other fields change what it counts.
FIELDS = ("target", "type", "factors", "permutation", "split", "keep", "bypass", NO_SHARING, "no_link_transfer")
IMPERFECT = "an imperfect factor (another number of trips the last time) is not supported"


def import_mapping(text: str, device: Device, source: str = "mapping") -> Mapping:
    """Our mapping from the text of a Timeloop mapping file for this device.

    Targets are levels of the device (in any case: "DRAM", "dram") or the buffers of `export_timeloop`. Spatial loops
    that are all on X and do not fit there, or may not lie there, are folded over both axes, where they fit.

    Raises:
        InputError: a target, type, factor or permutation that is not understood; a tensor kept where the level does
            not hold it; sharing switched off that the device's network does; loops between two buffers of one level,
            which a mapping here cannot say.
    """
    data, _ = read_yaml(text, source)
    directives = data.get("mapping") if isinstance(data, dict) else None
    if not isinstance(directives, list):
        raise InputError(f"{source}: expected 'mapping:' with a list of directives")
    targets = {name.lower(): (level, name, parts) for level in device.levels for parts in [buffers(level)]
               for name in [*(part[0] for part in parts), level.name]}  # fmt: skip
    loops: dict[str, list] = {slot: [] for slot in device.slots}
    kept: dict[str, set] = {}
    for index, fields in enumerate(directives):
        where = f"{source}: directive {index}"
        if not isinstance(fields, dict) or not {"target", "type"} <= set(fields):
            raise InputError(f"{where}: expected an object with target and type, got {shown(fields)}")
        _check_fields(fields, where)
        if str(fields["target"]).lower() not in targets:
            raise unknown(f"target in {where}", fields["target"], targets)
        level, name, parts = targets[str(fields["target"]).lower()]
        if fields["type"] in ("datatype", "bypass"):
            own = {part[0]: part[1] for part in parts}.get(name, level.holds)
            kept.setdefault(level.name, set()).update(_kept(fields, own, name, device, where))
        elif fields["type"] == "temporal":
            found = _loops(fields, where)
            if found and name not in (level.name, parts[-1][0]):
                raise InputError(
                    f"{where}: loops at {name}, outside the other buffers of {level.name}, are not supported"
                )
            if found and loops[level.name]:
                raise InputError(f"{where}: the temporal loops of {level.name} are given twice")
            loops[level.name] += found
        elif fields["type"] == "spatial":
            _add_spatial(loops, fields, level, device, where)
        else:
            raise unknown(f"type in {where}", fields["type"], ("temporal", "spatial", "datatype"))
    if not loops["spatial_y"]:
        loops["spatial_x"], loops["spatial_y"] = _folded(loops["spatial_x"], device)
    bypass = {l.name: [t for t in l.holds if t not in kept[l.name]] for l in device.levels if l.name in kept}
    return Mapping.from_dict({**loops, "bypass": {name: past for name, past in bypass.items() if past}}).on(device)


def import_problem(text: str, source: str = "problem") -> Layer:
    """The layer of a Timeloop problem file: its `instance`, with M for K.

    Strides and dilations are the coefficients of P, Q, R and S in the Inputs of the file's `shape`; without a shape in
    the file those of Timeloop's cnn-layer (Wstride goes with P), or Stride for both.
    """
    data, _ = read_yaml(text, source)
    given = data.get("problem") if isinstance(data, dict) else None
    if not isinstance(given, dict) or not isinstance(instance := given.get("instance"), dict):
        raise InputError(f"{source}: expected 'problem:' with an 'instance:' of sizes")
    coefficients, defaults = _coefficients(given.get("shape"), "Stride" in instance)
    fields = {STEPS[dim]: defaults.get(name, 1) for dim, name in coefficients.items()}
    for name, value in instance.items():
        dim = "K" if name == "M" else name
        steps = [STEPS[at] for at, coefficient in coefficients.items() if coefficient == name]
        if dim not in DIMS and not steps:
            raise unknown(f"size in {source}", name, [*DIMS, "M", *sorted({*coefficients.values()})])
        fields.update(dict.fromkeys(steps or [dim], value))
    return Layer.from_dict(fields)


def _coefficients(shape: Any, one_stride: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """{"P": name of the coefficient that P is multiplied with, ..} and defaults by name."""
    names = COEFFICIENTS | ({"P": "Stride", "Q": "Stride"} if one_stride else {})
    if not isinstance(shape, dict):
        return names, {}
    spaces = shape.get("data-spaces", shape.get("data_spaces"))
    inputs = [space for space in _list(spaces) if isinstance(space, dict) and space.get("name") == "Inputs"]
    terms = [term for space in inputs for axis in _list(space.get("projection")) for term in _list(axis)]
    found = {term[0]: term[1] for term in terms
             if isinstance(term, list) and len(term) == 2 and all(isinstance(word, str) for word in term)}  # fmt: skip
    given = [item for item in _list(shape.get("coefficients")) if isinstance(item, dict)]
    defaults = {item["name"]: item.get("default", 1) for item in given if isinstance(item.get("name"), str)}
    return {dim: found[dim] for dim in names if dim in found} if inputs else names, defaults


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _check_fields(fields: dict, where: str) -> None:
    for field in fields:
        if field[:1].isdigit() and "factors" in fields:  # {factors: P=3,2}: YAML ends the value at the comma
            word = " ".join(str(fields["factors"]).split()[-1:])
            raise InputError(f"{where}: {word},{field.split()[0]}: {IMPERFECT}")
        if field not in FIELDS:
            raise unknown(f"field in {where}", field, FIELDS)


def _kept(fields: dict, own: tuple[str, ...], name: str, device: Device, where: str) -> set[str]:
    """Tensors that a datatype directive leaves in a buffer holding `own`: those not sent past it."""
    keep, past = (_tensors(fields.get(field, []), where) for field in ("keep", "bypass"))
    if both := past & keep:
        raise InputError(f"{where}: {DATA_SPACES[min(both)]} both kept and bypassed")
    if foreign := keep - set(own):
        raise InputError(f"{where}: {name} of device {device.name} cannot keep {DATA_SPACES[min(foreign)]}")
    return set(own) - past


def _tensors(names: Any, where: str) -> set[str]:
    by_name = {name: tensor for tensor, name in DATA_SPACES.items()}
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or name not in by_name:
            raise unknown(f"data space in {where}", name, by_name)
    return {by_name[name] for name in (names if isinstance(names, list) else [names])}


def _factors(fields: dict, where: str) -> tuple[dict[str, int], list[str]]:
    """Factors by dimension, and all dimensions in the order of the permutation (innermost first)."""
    text = fields.get("factors", "")
    text = " ".join(map(str, text)) if isinstance(text, list) else str(text)
    if imperfect := re.search(r"[A-Z]\s*=?\s*[0-9]+\s*,\s*[0-9]+", text):
        raise InputError(f"{where}: {imperfect[0]}: {IMPERFECT}")
    factors: dict[str, int] = {}
    for word in filter(None, re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", text).strip())):
        match = re.fullmatch(r"([A-Z])=?([0-9]{1,12})", word)
        if match and int(match[2]) == 0:
            raise InputError(f"{where}: {word}: a factor of 0, the rest, is not supported; write the number")
        if not match or int(match[2]) < 1:
            raise InputError(f"{where}: expected factors like K=4, got {shown(word)}")
        dim = "K" if match[1] == "M" else match[1]
        if dim not in DIMS:
            raise unknown(f"dimension in {where}", dim, DIMS)
        if dim in factors:
            raise InputError(f"{where}: dimension {dim} has two factors")
        factors[dim] = int(match[2])
    order = fields.get("permutation", "")
    given = [
        ("K" if d == "M" else d) for d in ("".join(order) if isinstance(order, list) else str(order)) if d.isalpha()
    ]
    for dim in given:
        if dim not in DIMS or given.count(dim) > 1:
            raise InputError(f"{where}: expected a permutation of {''.join(DIMS)}, got {shown(order)}")
    return factors, given + [dim for dim in DIMS if dim not in given]


def _loops(fields: dict, where: str) -> list[list]:
    factors, inner_first = _factors(fields, where)
    return [[dim, factors[dim]] for dim in reversed(inner_first) if factors.get(dim, 1) > 1]


def _add_spatial(loops: dict, fields: dict, level: Level, device: Device, where: str) -> None:
    factors, order = _factors(fields, where)
    split = fields.get("split", len(order))
    if isinstance(split, bool) or not isinstance(split, int) or not 0 <= split <= len(DIMS):
        raise InputError(f"{where}: split: expected a number of dimensions, 0 to {len(DIMS)}, got {shown(split)}")
    alone = data_spaces(list(_tensors(fields.get(NO_SHARING, []), where)))
    axes: tuple[tuple[str, list[str]], ...] = (("spatial_x", order[:split]), ("spatial_y", order[split:]))
    shares = unshared(device)
    if device.level_names.index(level.name) != device.first_pe_level - 1:
        if "lanes" not in device.slots and any(n > 1 for n in factors.values()):
            raise InputError(f"{where}: device {device.name} has no PEs below {level.name}")
        axes = (("lanes", order),)
        shares = []  # lanes share what they read
    if NO_SHARING in fields and alone != shares:
        raise InputError(
            f"{where}: {NO_SHARING} of {', '.join(alone) or 'nothing'}, "
            f"but of {', '.join(shares) or 'nothing'} on device {device.name}"
        )
    for slot, dims in axes:
        if slot in loops:
            given = reversed(dims) if device.passes_tiles else dims  # elsewhere the order of an axis means nothing
            loops[slot] += [[dim, factors[dim]] for dim in given if factors.get(dim, 1) > 1]


def _folded(row: list[list], device: Device) -> tuple[list[list], list[list]]:
    """Loops of one row of PEs as loops of X and of Y; all on X where they may lie and fit there, or nowhere.

    No count depends on the axis, among those that may carry a dimension, so the first way found is as good as any; it
    leaves X as full as can be.
    """
    x, y = device.array
    on_x_dims, on_y_dims = device.axis_dims
    free = all(dim in on_x_dims for dim, _ in row)
    if (free and math.prod(n for _, n in row) <= x) or math.prod(n for _, n in row) > x * y:
        return row, []
    # (PEs along X, along Y) so far -> trips on X of each loop
    ways: dict[tuple[int, int], tuple[int, ...]] = {(1, 1): ()}
    for dim, n in row:
        divisors = [d for d in range(1, min(n, x) + 1) if n % d == 0]
        divisors = [d for d in divisors if (dim in on_x_dims or d == 1) and (dim in on_y_dims or d == n)]
        ways = {(i * d, j * n // d): (*trips, d) for (i, j), trips in ways.items() for d in divisors
                if i * d <= x and j * n // d <= y}  # fmt: skip
    if not ways:
        return row, []
    trips = ways[max(ways)]
    on_x = [[dim, d] for (dim, _), d in zip(row, trips, strict=True) if d > 1]
    return on_x, [[dim, n // d] for (dim, n), d in zip(row, trips, strict=True) if n // d > 1]
