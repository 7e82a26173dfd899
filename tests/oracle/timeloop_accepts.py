"""Whether Timeloop takes an exported mapping: its own checks, worked out from the text of the files alone.

Those of version 0.3: every target exists and may have a spatial nest, the factors of a dimension give its size, spatial
loops before `split` fit the fan-out along X and the others that along Y, and what a buffer keeps fits its entries.
"""

from __future__ import annotations

import itertools
import math
import re

import yaml

DATA_SPACES = ("Weights", "Inputs", "Outputs")


def rejections(texts: dict[str, str]) -> list[str]:
    """Why Timeloop would not run arch.yaml, problem.yaml and map.yaml; empty when it would."""
    arch, problem, mapping = (yaml.safe_load(texts[f"{name}.yaml"]) for name in ("arch", "problem", "map"))
    levels = _levels(arch["architecture"]["subtree"][0], 1)  # outermost first, the MACs last
    nests = {(item["target"], item["type"]): item for item in mapping["mapping"]}
    dims = problem["problem"]["shape"]["dimensions"]
    found = [f"no buffer {target}" for target, _ in nests if target not in levels]
    tile = dict.fromkeys(dims, 1)
    names = list(levels)
    for outer, inner in reversed(list(itertools.pairwise(names))):
        if (outer, "spatial") in nests:
            found += _fan_out(nests[outer, "spatial"], levels[outer], levels[inner], outer)
        for kind in ("spatial", "temporal"):
            for dim, n in _factors(nests.get((outer, kind), {})).items():
                tile[dim] *= n
        need = sum(_words(problem["problem"], space, tile) for space in nests[outer, "datatype"]["keep"])
        entries = levels[outer]["entries"]
        if entries is not None and need > entries:
            found.append(f"{outer}: {need} words, there are {entries}")
    sizes = problem["problem"]["instance"]
    return found + [f"{dim}: {tile[dim]} of {sizes[dim]}" for dim in dims if tile[dim] != sizes[dim]]


def _levels(node: dict, copies: int) -> dict[str, dict]:
    _, many = _name(node["name"])
    levels: dict[str, dict] = {}
    for part in node["local"]:
        part_name, each = _name(part["name"])
        instances = copies * many * each
        mesh_x = part["attributes"].get("meshX", instances)
        assert instances % mesh_x == 0, f"{part_name}: {instances} instances on {mesh_x} columns"
        levels[part_name] = {"x": mesh_x, "y": instances // mesh_x, "entries": part["attributes"].get("entries")}
    for child in node.get("subtree", []):
        levels |= _levels(child, copies * many)
    return levels


def _name(text: str) -> tuple[str, int]:
    """ "pe[0..3]" -> ("pe", 4)."""
    match = re.fullmatch(r"(\w+)\[0\.\.(\d+)\]", text)
    return (match[1], int(match[2]) + 1) if match else (text, 1)


def _factors(nest: dict) -> dict[str, int]:
    return {word[0]: int(word[2:]) for word in nest.get("factors", "").split()}


def _fan_out(nest: dict, outer: dict, inner: dict, name: str) -> list[str]:
    if inner["x"] * inner["y"] == outer["x"] * outer["y"]:
        return [f"{name}: a spatial nest without a fan-out"]
    factors, order, found = _factors(nest), nest["permutation"], []
    for axis, dims in (("x", order[: nest["split"]]), ("y", order[nest["split"] :])):
        need, have = math.prod(factors[dim] for dim in dims), inner[axis] // outer[axis]
        if need > have:
            found.append(f"{name}: {need} along {axis}, the fan-out is {have}")
    return found


def _words(problem: dict, space: str, tile: dict[str, int]) -> int:
    """The box that Timeloop reserves: per axis the sum of (size - 1) * coefficient, plus 1."""
    (shape,) = (s for s in problem["shape"]["data-spaces"] if s["name"] == space)
    return math.prod(
        1 + sum((tile[term[0]] - 1) * (problem["instance"][term[1]] if len(term) > 1 else 1) for term in axis)
        for axis in shape["projection"]
    )
