"""Timeloop's inputs (architecture version 0.3, problem, mapping) from ours, and our mapping and layer from its.

Facts of the format, from Timeloop's documentation and examples: a permutation lists dimensions innermost first; a
spatial permutation is cut at `split` into the X and the Y axis; a dimension has one factor per nest.
A level with a capacity per tensor becomes one buffer per capacity; its loops go to the innermost of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping as MappingABC
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hw_model.device import Device, Level
from hw_model.errors import InputError, shown, unknown
from hw_model.layer import DIMS, TENSORS, Layer
from hw_model.mapping import Mapping
from hw_model.reasons import factor_products, level_tiles
from hw_model.tables import word_bits
from hw_model.yaml_lines import read_yaml

DATA_SPACES = {"W": "Weights", "I": "Inputs", "O": "Outputs"}


def export_timeloop(layer: Layer, mapping: Mapping, device: Device, bits: int) -> dict[str, str]:
    """{"arch.yaml": .., "problem.yaml": .., "map.yaml": ..}: texts of Timeloop's three inputs for this mapping.

    The problem has the sizes the mapping covers, padding included, as they are charged here. Where a dimension lies on
    both axes of the array, which Timeloop cannot say, the array becomes one row of as many PEs: no count depends on it.

    Raises:
        InputError: Timeloop cannot say it: a dimension twice in one level.
    """
    mapping = Mapping.from_dict(mapping).on(device)
    note = ""
    products = factor_products(mapping, device)
    if any(min(products["spatial_x"][dim], products["spatial_y"][dim]) > 1 for dim in DIMS):
        note = f"# an array of {device.array[0]} x {device.array[1]} PEs, as one row; no count depends on that\n"
        device = replace(device, array=(device.pes, 1))
        pes = tuple((dim, products["spatial_x"][dim] * products["spatial_y"][dim]) for dim in DIMS)
        mapping = Mapping((*((s, loops) for s, loops in mapping.loops if s[:7] != "spatial"), ("spatial_x", pes)),
                          mapping.bypass).on(device)  # fmt: skip
    texts = {
        "arch.yaml": architecture(device, bits),
        "problem.yaml": problem(layer, level_tiles(mapping, device)[device.level_names[0]]),
        "map.yaml": mapping_directives(mapping, device),
    }
    return {
        name: f"# {layer.name or 'layer'} on {device.name}, {bits} bit\n{note}{_dump(data)}"
        for name, data in texts.items()
    }


def write_timeloop(folder: str | Path, texts: dict[str, str]) -> None:
    """Write the texts of `export_timeloop` into a folder, made if need be. Raises InputError when that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None


def problem(layer: Layer, covered: MappingABC[str, int]) -> dict:
    """Timeloop's problem for a layer of the covered sizes."""
    shape = {
        "name": "grouped_convolution",
        "dimensions": list(DIMS),
        "coefficients": [{"name": "Stride", "default": 1}],
        "data-spaces": [
            {"name": "Weights", "projection": [[[dim]] for dim in "GKCRS"]},
            {
                "name": "Inputs",
                "projection": [[["N"]], [["G"]], [["C"]], [["P", "Stride"], ["R"]], [["Q", "Stride"], ["S"]]],
            },
            {"name": "Outputs", "projection": [[[dim]] for dim in "NGKPQ"], "read-write": True},
        ],
    }
    return {"problem": {"shape": shape, "instance": {**{d: covered[d] for d in DIMS}, "Stride": layer.stride}}}


def buffers(level: Level) -> list[tuple[str, tuple[str, ...], int | None]]:
    """(name, tensors, bits) of the Timeloop buffers a level becomes, one per capacity, outermost first."""
    if len(level.partitions) < 2:
        return [(level.name, level.holds, level.partitions[0][1] if level.partitions else None)]
    return [(f"{level.name}_{''.join(group)}", group, size) for group, size in level.partitions]


def architecture(device: Device, bits: int) -> dict:
    """Timeloop's architecture, version 0.3; capacities and bandwidths in words of the layer's bit-width."""
    widths = word_bits(device, bits)
    mesh = {"meshX": device.array[0]}
    chip, inside = [], []
    for level in device.levels:
        for name, tensors, size_bits in buffers(level):
            attributes: dict[str, Any] = {"word-bits": bits, "block-size": 1}
            if size_bits is not None:
                attributes["entries"] = size_bits // max(widths[tensor] for tensor in tensors)
            for kind in ("read", "write"):
                bandwidth = getattr(level, f"{kind}_bandwidth_bits_per_cycle")
                if bandwidth < math.inf:
                    attributes[f"{kind}_bandwidth"] = bandwidth / bits
            kind = "DRAM" if size_bits is None else ("regfile" if level.in_pe else "SRAM")
            part = {"name": name, "class": kind, "attributes": attributes}
            if level.in_pe:
                attributes.update(mesh)
                inside.append(part)
            else:
                chip.append(part)
    macs = f"mac[0..{device.lanes - 1}]" if device.lanes > 1 else "mac"
    inside.append({"name": macs, "class": "intmac", "attributes": {"datawidth": bits, **mesh}})
    pe = {"name": f"pe[0..{device.pes - 1}]", "local": inside}
    tree = {"name": "chip", "local": chip[1:], "subtree": [pe]}
    system = {"name": "system", "local": chip[:1], "subtree": [tree]}
    return {"architecture": {"version": 0.3, "subtree": [system]}}


def mapping_directives(mapping: Mapping, device: Device) -> dict:
    """Timeloop's mapping: what each buffer keeps, its temporal loops, and the spatial loops below it."""
    directives = []
    for index, level in enumerate(device.levels):
        parts = buffers(level)
        for name, tensors, _ in parts:
            kept = [t for t in tensors if t not in mapping.bypassed(level.name)]
            directives.append(
                {
                    "target": name,
                    "type": "datatype",
                    "keep": [DATA_SPACES[t] for t in kept],
                    "bypass": [DATA_SPACES[t] for t in TENSORS if t not in kept],
                }
            )
            loops = mapping[level.name] if name == parts[-1][0] else ()
            directives.append({"target": name, "type": "temporal", **_nest(loops, level.name)})
        if index == device.first_pe_level - 1 and device.pes > 1:  # Timeloop has no spatial nest without a fan-out
            directives.append(_spatial(parts[-1][0], mapping["spatial_x"], mapping["spatial_y"]))
        if index == len(device.levels) - 1 and device.lanes > 1:
            if not level.in_pe:
                raise InputError(f"Timeloop needs a memory between the array and the lanes of device {device.name}")
            directives.append(_spatial(parts[-1][0], mapping["lanes"], ()))
    return {"mapping": directives}


def _nest(loops: tuple, where: str) -> dict:
    dims = [dim for dim, _ in loops]
    if len(set(dims)) < len(dims):
        raise InputError(f"Timeloop cannot repeat a dimension within one level ({where}: {' '.join(dims)})")
    factors = {**dict.fromkeys(DIMS, 1), **dict(loops)}
    inner_first = dims[::-1] + [dim for dim in DIMS if dim not in dims]
    return {"factors": " ".join(f"{dim}={n}" for dim, n in factors.items()), "permutation": "".join(inner_first)}


def _spatial(target: str, x: tuple, y: tuple) -> dict:
    products: dict[str, int] = {}
    for dim, n in (*x, *y):
        products[dim] = products.get(dim, 1) * n
    on_x = [dim for dim in DIMS if dim in dict(x)]
    order = on_x + [dim for dim in DIMS if dim not in on_x]
    factors = " ".join(f"{dim}={products.get(dim, 1)}" for dim in DIMS)
    return {
        "target": target, "type": "spatial", "factors": factors, "permutation": "".join(order), "split": len(on_x),
    }  # fmt: skip


def import_mapping(text: str, device: Device, source: str = "mapping") -> Mapping:
    """Our mapping from the text of a Timeloop mapping file for this device.

    Targets are levels of the device (in any case: "DRAM", "dram") or the buffers of `export_timeloop`.

    Raises:
        InputError: a target, type, factor or permutation that is not understood, or loops between two buffers of one
            level, which a mapping here cannot say.
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
        if str(fields["target"]).lower() not in targets:
            raise unknown(f"target in {where}", fields["target"], targets)
        level, name, parts = targets[str(fields["target"]).lower()]
        if fields["type"] in ("datatype", "bypass"):
            own = dict((part[0], part[1]) for part in parts).get(name, level.holds)  # noqa: C402
            past = _tensors(fields.get("bypass", []), where)
            if both := past & _tensors(fields.get("keep", []), where):
                raise InputError(f"{where}: {DATA_SPACES[min(both)]} both kept and bypassed")
            kept.setdefault(level.name, set()).update(set(own) - past)
        elif fields["type"] == "temporal":
            found = _loops(fields, where)
            if found and name not in (level.name, parts[-1][0]):
                raise InputError(f"{where}: loops at {name}, outside the other buffers of {level.name}, cannot be said")
            loops[level.name] += found
        elif fields["type"] == "spatial":
            _add_spatial(loops, fields, level, device, where)
        else:
            raise unknown(f"type in {where}", fields["type"], ("temporal", "spatial", "datatype"))
    bypass = {l.name: [t for t in l.holds if t not in kept[l.name]] for l in device.levels if l.name in kept}
    return Mapping.from_dict({**loops, "bypass": {name: past for name, past in bypass.items() if past}}).on(device)


def import_problem(text: str, source: str = "problem") -> Layer:
    """The layer of a Timeloop problem file: its `instance`, with M for K, and Stride or Wstride = Hstride."""
    data, _ = read_yaml(text, source)
    instance = data.get("problem", {}).get("instance") if isinstance(data, dict) and _is_dict(data, "problem") else None
    if not isinstance(instance, dict):
        raise InputError(f"{source}: expected 'problem:' with an 'instance:' of sizes")
    fields = {"K" if name == "M" else name: n for name, n in instance.items()}
    strides = {fields.pop(name) for name in ("Stride", "Wstride", "Hstride") if name in fields} or {1}
    if len(strides) > 1:
        raise InputError(f"{source}: one stride for rows and columns, got {sorted(map(str, strides))}")
    for name in ("Wdilation", "Hdilation"):
        if fields.pop(name, 1) != 1:
            raise InputError(f"{source}: {name}: dilation is not modelled")
    return Layer.from_dict({**fields, "stride": strides.pop()})


def _is_dict(data: dict, key: str) -> bool:
    return isinstance(data.get(key), dict)


def _tensors(names: Any, where: str) -> set[str]:
    by_name = {name: tensor for tensor, name in DATA_SPACES.items()}
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or name not in by_name:
            raise unknown(f"data space in {where}", name, by_name)
    return {by_name[name] for name in names}


def _factors(fields: dict, where: str) -> tuple[dict[str, int], list[str]]:
    """Factors by dimension, and all dimensions in the order of the permutation (innermost first)."""
    text = fields.get("factors", "")
    words = [str(word) for word in text] if isinstance(text, list) else re.split(r"[\s,]+", str(text).strip())
    factors = {}
    for word in filter(None, words):
        match = re.fullmatch(r"([A-Z])\s*=?\s*([0-9]{1,12})", word)
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
    axes = (("spatial_x", order[:split]), ("spatial_y", order[split:]))
    if device.level_names.index(level.name) != device.first_pe_level - 1:
        if "lanes" not in device.slots and any(n > 1 for n in factors.values()):
            raise InputError(f"{where}: device {device.name} has no PEs below {level.name}")
        axes = (("lanes", order),)
    for slot, dims in axes:
        if slot in loops:
            loops[slot] += [[dim, factors[dim]] for dim in dims if factors.get(dim, 1) > 1]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(data: dict) -> str:
    return yaml.dump(data, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110)
