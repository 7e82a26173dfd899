"""A mapping: the loops of each level in order, and the tensors that bypass a level."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

from hw_model.device import Device
from hw_model.errors import InputError, shown, unknown
from hw_model.layer import COUNT_LIMIT, DIMS, SIZE_LIMIT, TENSORS

Loops = tuple[tuple[str, int], ...]
SPATIAL_SLOTS = ("spatial_y", "spatial_x", "lanes")


@dataclass(frozen=True)
class Mapping:
    """Loops per slot, outermost first, and bypassed tensors per level; hashable.

    loops: (slot, ((dimension, factor), ...)) for the slots given; a slot is a temporal level of the device,
    "spatial_y", "spatial_x", or "lanes". bypass: (level, tensors). `from_dict` and `to_dict` use the JSON form
    {"dram": [["K", 4]], "spatial_x": [["P", 4]], "bypass": {"glb": ["W"]}}.
    """

    loops: tuple[tuple[str, Loops], ...] = ()
    bypass: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping | MappingABC) -> Mapping:
        """From the JSON form. Raises InputError naming the slot, dimension or factor that is wrong."""
        if isinstance(data, Mapping):
            return data
        if not isinstance(data, MappingABC):
            raise InputError(f"mapping: expected an object with a list of loops per level, got {shown(data)}")
        loops = []
        for slot, pairs in data.items():
            if slot != "bypass":
                loops.append((str(slot), _loops(slot, pairs)))
        product = dict.fromkeys(DIMS, 1)
        for dim, factor in (pair for _, pairs in loops for pair in pairs):
            product[dim] *= factor
            if product[dim] > COUNT_LIMIT:
                raise InputError(f"mapping: the factors of {dim} multiply to more than 2**53")
        return cls(tuple(loops), _bypass(data.get("bypass", {})))

    def to_dict(self) -> dict:
        """The JSON form; `from_dict` reads it back."""
        data: dict[str, Any] = {slot: [list(pair) for pair in pairs] for slot, pairs in self.loops}
        if self.bypass:
            data["bypass"] = {level: list(tensors) for level, tensors in self.bypass}
        return data

    def __getitem__(self, slot: str) -> Loops:
        """The loops of a slot, () when there are none."""
        return dict(self.loops).get(slot, ())

    def bypassed(self, level: str) -> tuple[str, ...]:
        """Tensors that bypass this level."""
        return dict(self.bypass).get(level, ())

    def on(self, device: Device) -> Mapping:
        """The same mapping with every slot of the device, in nest order and without loops of one trip.

        Raises:
            InputError: a level, or a bypass, that the device does not have.
        """
        for slot, pairs in self.loops:
            if slot not in device.slots and not (slot == "lanes" and all(n == 1 for _, n in pairs)):
                raise unknown(f"level of device {device.name}", slot, device.slots)
        for level, tensors in self.bypass:
            if level not in device.level_names:
                raise unknown(f"bypassed level of device {device.name}", level, device.level_names)
            if level == device.level_names[0] and tensors:
                raise InputError(f"mapping: bypass: {level} is the outermost level, no tensor can bypass it")
        loops = tuple((slot, tuple(pair for pair in self[slot] if pair[1] > 1)) for slot in device.slots)
        return Mapping(loops, tuple((level, tensors) for level, tensors in self.bypass if tensors))

    def __str__(self) -> str:
        parts = [f"{slot}[{' '.join(f'{dim}{n}' for dim, n in pairs)}]" for slot, pairs in self.loops if pairs]
        parts += [f"{level} without {'+'.join(tensors)}" for level, tensors in self.bypass]
        return " ".join(parts) or "(no loops)"


def _loops(slot: Any, pairs: Any) -> Loops:
    if not isinstance(pairs, list | tuple):
        raise InputError(f'mapping: {shown(slot)}: expected a list like [["K", 4]], got {shown(pairs)}')
    result = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f'mapping: {slot}: expected pairs like ["K", 4], got {shown(pair)}')
        dim, factor = pair
        if dim not in DIMS or not isinstance(dim, str):
            raise unknown(f"dimension in {slot}:", dim, DIMS)
        if isinstance(factor, bool) or not hasattr(factor, "__index__"):
            raise InputError(f"mapping: {slot}: {dim}: factor {shown(factor)} is not an integer")
        factor = factor.__index__()
        if not 1 <= factor <= SIZE_LIMIT:
            raise InputError(f"mapping: {slot}: {dim}: factor {shown(factor)} is not between 1 and {SIZE_LIMIT}")
        result.append((dim, factor))
    return tuple(result)


def _bypass(data: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(data, MappingABC):
        raise InputError(f'mapping: bypass: expected an object like {{"glb": ["W"]}}, got {shown(data)}')
    result = []
    for level, tensors in data.items():
        if not isinstance(tensors, list | tuple):
            raise InputError(f"mapping: bypass: {level}: expected a list of W, I, O, got {shown(tensors)}")
        for tensor in tensors:
            if tensor not in TENSORS or not isinstance(tensor, str):
                raise unknown(f"tensor in bypass of {level}:", tensor, TENSORS)
        result.append((str(level), tuple(tensor for tensor in TENSORS if tensor in tensors)))
    return tuple(result)
