"""A mapping as nested for-loops, with the tiles that each level holds."""

from __future__ import annotations

from hw_model.axis import Axis
from hw_model.device import Device
from hw_model.layer import Layer, tile_words
from hw_model.mapping import SPATIAL_SLOTS, Mapping
from hw_model.reasons import held_tensors, level_tiles
from hw_model.tables import word_bits
from hw_model.widths import BitsLike


def loop_nest(layer: Layer, mapping: Mapping, device: Device, bits: BitsLike) -> str:
    """The nested for-loops, outermost first, with each level's tile per tensor in words and its share of the capacity.

    A dimension with several loops has one index each, k2 the outermost, k0 the innermost; k is composed of them.

    Raises:
        InputError: the mapping names a level that the device does not have.
    """
    mapping = Mapping.from_dict(mapping).on(device)
    tiles = level_tiles(mapping, device)
    held = held_tensors(mapping, device)
    lines: list[str] = []
    depth = 0
    trips: dict[str, list[int]] = {}  # of the loops of each dimension, outermost first
    for slot in device.slots:
        for dim, factor in mapping[slot]:
            trips.setdefault(dim, []).append(factor)
    to_come = {dim: len(factors) for dim, factors in trips.items()}
    for slot in device.slots:
        if slot not in SPATIAL_SLOTS:
            lines.append("  " * depth + f"# {slot} holds {_tiles(layer, tiles[slot], held[slot], device, slot, bits)}")
        for dim, factor in mapping[slot]:
            kind = f"parallel_for ({slot})" if slot in SPATIAL_SLOTS else "for"
            to_come[dim] -= 1
            index = f"{dim.lower()}{to_come[dim]}" if len(trips[dim]) > 1 else dim.lower()
            lines.append("  " * depth + f"{kind} {index} in 0..{factor - 1}:")
            depth += 1
    for dim, factors in trips.items():
        if len(factors) > 1:
            lines.append("  " * depth + f"{dim.lower()} = {_amount(dim.lower(), factors)}")
    rows, columns = _position(layer.rows, "p", "r"), _position(layer.columns, "q", "s")
    lines.append("  " * depth + f"O[n,g,k,p,q] += W[g,k,c,r,s] * I[n,g,c,{rows},{columns}]")
    return "\n".join(lines)


def _position(axis: Axis, output: str, tap: str) -> str:
    """`2p+3r-1`: the input position of an output and a tap, with stride, dilation and padding."""
    steps = [f"{step if step > 1 else ''}{index}" for step, index in ((axis.stride, output), (axis.dilation, tap))]
    return "+".join(steps) + (f"-{axis.pad}" if axis.pad else "")


def _amount(name: str, factors: list[int]) -> str:
    """`8*k2 + 2*k1 + k0`: a dimension's index out of those of its loops; factors: their trips, outermost first."""
    terms = []
    step = 1
    for number, trips in enumerate(reversed(factors)):
        terms.append(f"{name}{number}" if step == 1 else f"{step}*{name}{number}")
        step *= trips
    return " + ".join(reversed(terms))


def _tiles(layer: Layer, tile: dict, tensors: tuple, device: Device, slot: str, bits: BitsLike) -> str:
    widths = word_bits(device, bits)
    if not tensors:
        return "nothing: all tensors pass it by"
    words = {tensor: tile_words(tensor, tile, layer) for tensor in tensors}
    text = ", ".join(f"{tensor} {n}" for tensor, n in words.items()) + " words"
    for group, size_bits in device.level(slot).partitions:
        used = sum(words[t] * widths[t] for t in group if t in words)
        text += f"; {'+'.join(group)} {used / size_bits:.0%} full"
    return text
