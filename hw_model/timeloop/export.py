"""A layer, a mapping and a device as Timeloop's files."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hw_model.device import Device
from hw_model.energy import mac_rate
from hw_model.errors import InputError
from hw_model.layer import DIMS, Layer, tile_words
from hw_model.mapping import Mapping
from hw_model.reasons import factor_products, invalid_reasons, level_tiles
from hw_model.timeloop.architecture import architecture, energy_table, mapper_constraints
from hw_model.timeloop.names import COEFFICIENTS, NO_SHARING, STEPS, buffers, data_spaces, unshared
from hw_model.widths import BitsLike, widths_of


def export_timeloop(layer: Layer, mapping: Mapping, device: Device, bits: BitsLike) -> dict[str, str]:
    """Texts of Timeloop's inputs for this mapping: {"arch.yaml": .., "problem.yaml": .., "map.yaml": .., "ert.yaml":
    energies, "constraints.yaml": for its mapper}.

    The problem has the sizes the mapping covers: Timeloop charges padding. Where a dimension lies on both axes of the
    array, which Timeloop cannot say, the array becomes one row of as many PEs: no count depends on it. Comments at the
    top of each file say both, and why a mapping is invalid here.

    Raises:
        InputError: its format cannot express the mapping: a dimension twice in one level.
    """
    mapping = Mapping.from_dict(mapping).on(device)
    widths = widths_of(bits)
    if not isinstance(widths.spec, int):
        raise InputError(f"Timeloop's files have one width for all words, not {widths.label}")
    bits = widths.W
    notes = [f"{layer.name or 'layer'} on {device.name}, {bits} bit"]
    notes += [f"INVALID here: {reason}" for reason in invalid_reasons(layer, mapping, device, bits)]
    products = factor_products(mapping, device)
    if any(min(products["spatial_x"][dim], products["spatial_y"][dim]) > 1 for dim in DIMS):
        depends = "what neighbours pass on depends" if device.passes_tiles else "no count depends"
        notes.append(f"an array of {device.array[0]} x {device.array[1]} PEs, as one row; {depends} on that")
        device = replace(device, array=(device.pes, 1))
        pes = tuple((dim, products["spatial_x"][dim] * products["spatial_y"][dim]) for dim in DIMS)
        mapping = Mapping((*((s, loops) for s, loops in mapping.loops if s[:7] != "spatial"), ("spatial_x", pes)),
                          mapping.bypass).on(device)  # fmt: skip
    covered = level_tiles(mapping, device)[device.level_names[0]]
    files = {
        "arch.yaml": (architecture(device, bits), _rate_note(device, bits)),
        "problem.yaml": (problem(layer, covered), _size_notes(layer, covered)),
        "map.yaml": (mapping_directives(mapping, device), []),
        "ert.yaml": (energy_table(device, bits), ["pJ per word; where tensors share a buffer, the largest of theirs"]),
        "constraints.yaml": (mapper_constraints(device), ["for timeloop-mapper, whose mappings then read back here"]),
    }
    return {name: "".join(map(_comment, [*notes, *more])) + _dump(data) for name, (data, more) in files.items()}


def write_timeloop(folder: str | Path, texts: dict[str, str]) -> None:
    """Write the texts of `export_timeloop` into a folder, created if needed. Raises InputError when that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None


def problem(layer: Layer, covered: MappingABC[str, int]) -> dict:
    """Timeloop's problem for a layer of the covered sizes, with the coefficients of its cnn-layer shape."""
    rows, columns = ([[dim, COEFFICIENTS[dim]] for dim in pair] for pair in ("PR", "QS"))
    shape = {
        "name": "grouped_convolution",
        "dimensions": list(DIMS),
        "coefficients": [{"name": name, "default": 1} for name in COEFFICIENTS.values()],
        "data-spaces": [
            {"name": "Weights", "projection": [[[dim]] for dim in "GKCRS"]},
            {"name": "Inputs", "projection": [[["N"]], [["G"]], [["C"]], rows, columns]},
            {"name": "Outputs", "projection": [[[dim]] for dim in "NGKPQ"], "read-write": True},
        ],
    }
    steps = {COEFFICIENTS[dim]: getattr(layer, field) for dim, field in STEPS.items()}
    return {"problem": {"shape": shape, "instance": {**{d: covered[d] for d in DIMS}, **steps}}}


def mapping_directives(mapping: Mapping, device: Device) -> dict:
    """Timeloop's mapping: what each buffer keeps, its temporal loops, and the spatial loops below it."""
    directives = []
    for index, level in enumerate(device.levels):
        parts = buffers(level)
        for name, tensors, _ in parts:
            kept = [t for t in tensors if t not in mapping.bypassed(level.name)]
            past = [t for t in "WIO" if t not in kept]
            directives.append(
                {"target": name, "type": "datatype", "keep": data_spaces(kept), "bypass": data_spaces(past)}
            )
            loops = mapping[level.name] if name == parts[-1][0] else ()
            directives.append({"target": name, "type": "temporal", **_nest(loops, level.name)})
        if index == device.first_pe_level - 1 and device.pes > 1:  # Timeloop has no spatial nest without a fan-out
            spatial = _spatial(parts[-1][0], mapping["spatial_x"], mapping["spatial_y"])
            directives.append(spatial | ({NO_SHARING: unshared(device)} if unshared(device) else {}))
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
    on_x, on_y = (list(dict.fromkeys(dim for dim, _ in reversed(axis))) for axis in (x, y))  # innermost first
    order = on_x + on_y + [dim for dim in DIMS if dim not in on_x + on_y]
    factors = " ".join(f"{dim}={products.get(dim, 1)}" for dim in DIMS)
    return {
        "target": target, "type": "spatial", "factors": factors, "permutation": "".join(order), "split": len(on_x),
    }  # fmt: skip


def _size_notes(layer: Layer, covered: MappingABC[str, int]) -> list[str]:
    """What Timeloop counts in this problem and the model here does not."""
    beyond = [f"{dim}={covered[dim]} (layer: {size})" for dim, size in zip(DIMS, layer.sizes, strict=True)
              if covered[dim] != size]  # fmt: skip
    notes = [f"the mapping covers {', '.join(beyond)}; Timeloop charges the padding"] if beyond else []
    box, real = tile_words("I", dict(zip(DIMS, layer.sizes, strict=True)), layer), layer.words("I")
    if box != real:
        notes.append(f"of the layer's box of {box} inputs {real} are real and needed; Timeloop charges the box")
    return notes


def _rate_note(device: Device, bits: int) -> list[str]:
    done, cycles = mac_rate(device.mac, bits)
    if done == cycles:
        return []
    return [f"{done} MACs in {cycles} cycles of each unit at {bits} bit; Timeloop counts one a cycle"]


def _comment(text: str) -> str:
    """A comment of one line, whatever a name contains."""
    return f"# {''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)}\n"


# libyaml's emitter writes the same text in a fraction of the time; PyYAML is built without it where it is missing.
class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(data: dict) -> str:
    return yaml.dump(data, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110)
