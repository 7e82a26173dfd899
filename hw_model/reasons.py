"""Why a mapping is invalid, in words: what is needed and what there is."""

from __future__ import annotations

import math

from hw_model.device import Device
from hw_model.energy import mac_rate
from hw_model.layer import COUNT_LIMIT, DIMS, Layer, tile_words
from hw_model.mapping import Mapping
from hw_model.tables import word_bits
from hw_model.widths import BitsLike

ARRAY_SLOTS = (("spatial_x", 0), ("spatial_y", 1))


def factor_products(mapping: Mapping, device: Device) -> dict[str, dict[str, int]]:
    """Per slot of the device, the product of the factors of each dimension."""
    products = {}
    for slot in device.slots:
        products[slot] = dict.fromkeys(DIMS, 1)
        for dim, factor in mapping[slot]:
            products[slot][dim] *= factor
    return products


def level_tiles(mapping: Mapping, device: Device) -> dict[str, dict[str, int]]:
    """Per memory level the tile it holds: the product of the factors of its own slot and all slots inside."""
    tiles = {}
    tile = dict.fromkeys(DIMS, 1)
    products = factor_products(mapping, device)
    for slot in reversed(device.slots):
        tile = {dim: tile[dim] * products[slot][dim] for dim in DIMS}
        if slot in device.level_names:
            tiles[slot] = tile
    return tiles


def held_tensors(mapping: Mapping, device: Device) -> dict[str, tuple[str, ...]]:
    """Per memory level the tensors it holds under this mapping."""
    return {
        level.name: tuple(t for t in level.holds if t not in mapping.bypassed(level.name)) for level in device.levels
    }


def invalid_reasons(layer: Layer, mapping: Mapping, device: Device, bits: BitsLike) -> list[str]:
    """One line per thing that is wrong; empty when the mapping is valid. `mapping` must be `mapping.on(device)`."""
    products = factor_products(mapping, device)
    tiles = level_tiles(mapping, device)
    held = held_tensors(mapping, device)
    reasons = _overflow(layer, mapping, device, bits, tiles)
    if reasons:
        return reasons
    for slot, axis in ARRAY_SLOTS:
        needed = math.prod(products[slot].values())
        if needed > device.array[axis]:
            loops = " ".join(f"{dim}{n}" for dim, n in mapping[slot])
            reasons.append(f"array: {slot} ({loops}) needs {needed} PEs, the array has {device.array[axis]}")
        wrong = [dim for dim in DIMS if products[slot][dim] > 1 and dim not in device.axis_dims[axis]]
        if wrong:
            may = ", ".join(device.axis_dims[axis]) or "nothing"
            reasons.append(f"array: {slot} cannot carry {', '.join(wrong)} on device {device.name}, only {may}")
    if device.lanes > 1 and (needed := math.prod(products["lanes"].values())) > device.lanes:
        reasons.append(f"array: lanes need {needed} MACs in each PE, there are {device.lanes}")
    wrong = [dim for dim in DIMS if products.get("lanes", {}).get(dim, 1) > 1 and dim not in device.lanes_dims]
    if wrong:
        may = ", ".join(device.lanes_dims) or "nothing"
        reasons.append(f"array: lanes cannot carry {', '.join(wrong)} on device {device.name}, only {may}")
    widths = word_bits(device, bits)
    for level in device.levels:
        for tensor in mapping.bypassed(level.name):
            if tensor in level.holds and tensor not in level.may_bypass:
                reasons.append(f"{level.name}: {tensor} cannot bypass this level on device {device.name}")
        for group, available in level.partitions:
            needs = {t: tile_words(t, tiles[level.name], layer) * widths[t] for t in group if t in held[level.name]}
            if sum(needs.values()) > available:
                each = f" ({', '.join(f'{t} {n}' for t, n in needs.items())})" if len(needs) > 1 else ""
                tensors = "+".join(needs)
                reasons.append(f"{level.name}: {tensors} needs {sum(needs.values())} bits{each}, there are {available}")
    outermost = tiles[device.level_names[0]]
    for dim, size in zip(DIMS, layer.sizes, strict=True):
        if outermost[dim] < size:
            reasons.append(f"dimension {dim}: the factors multiply to {outermost[dim]}, the layer needs {size}")
    return reasons


def _overflow(layer: Layer, mapping: Mapping, device: Device, bits: BitsLike, tiles: dict) -> list[str]:
    total = math.prod(factor for _, pairs in mapping.loops for _, factor in pairs)
    if total * mac_rate(device.mac, bits)[1] > COUNT_LIMIT:
        return [f"overflow: the factors multiply to {total} MACs, counts beyond 2**53 are refused"]
    for level, tile in tiles.items():
        words = tile_words("I", tile, layer) * (total // math.prod(tile.values()))
        if words > COUNT_LIMIT:
            return [f"overflow: {level}: I would move up to {words} words, counts beyond 2**53 are refused"]
    return []
