"""Widths of words: one bit-width for all tensors, or one each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from hw_model.errors import InputError, shown, unknown

Bits = int | str  # a bit-width, or "w4a8": 4-bit weights, 8-bit activations
EXPECTED = 'an integer from 1 to 32, "w4a8", or an object {"W": 4, "I": 8, "O": 8}'


class Widths(NamedTuple):
    """Bits of a word of weights, inputs and finished outputs, 1 to 32 each; 32 means full width."""

    W: int
    I: int
    O: int

    @property
    def spec(self) -> Bits | dict[str, int]:
        """The shortest way to write it: 8, "w4a8" where outputs are as wide as inputs, or an object."""
        if self.W == self.I == self.O:
            return self.W
        return f"w{self.W}a{self.I}" if self.I == self.O else self._asdict()

    @property
    def words(self) -> str:
        """For sentences: `8 bit`, `w4a8`."""
        return f"{self.W} bit" if isinstance(self.spec, int) else self.label

    @property
    def label(self) -> str:
        """For tables and file names: `8`, `w4a8`, `w4i8o16`."""
        return str(self.spec) if not isinstance(self.spec, dict) else f"w{self.W}i{self.I}o{self.O}"


BitsLike = Bits | Mapping[str, int] | Widths
"""A bit-width, as users write it or read already."""


def in_words(bits: BitsLike) -> str:
    """`8 bit`, `w4a8`."""
    return widths_of(bits).words


def width_order(bits: BitsLike) -> tuple[int, int, int]:
    """Sorts bit-widths by inputs, then weights: 4, w4a8, 8."""
    widths = widths_of(bits)
    return widths.I, widths.W, widths.O


def is_wider(bits: BitsLike, than: BitsLike) -> bool:
    """Whether no tensor has narrower words, and some has wider ones."""
    ours, theirs = widths_of(bits), widths_of(than)
    return ours != theirs and all(one >= other for one, other in zip(ours, theirs, strict=True))


def widths_of(bits: BitsLike) -> Widths:
    """Widths from what users write: 8, "w4a8" (outputs as wide as activations) or {"W": 4, "I": 8, "O": 16}.

    Raises:
        InputError: none of these, an unknown tensor, or a width outside 1 to 32.
    """
    if isinstance(bits, Widths):
        return bits
    if isinstance(bits, Mapping):
        for tensor in bits:
            if tensor not in Widths._fields:
                raise unknown("tensor in bits:", tensor, Widths._fields)
        missing = [tensor for tensor in Widths._fields if tensor not in bits]
        if missing:
            raise InputError(f"bits: {shown(bits)} has no width for {', '.join(missing)}")
        return Widths(*(_width(bits[tensor], f"bits: {tensor}") for tensor in Widths._fields))
    if isinstance(bits, str):
        match = re.fullmatch(r"w(\d{1,3})a(\d{1,3})", bits.strip().lower())
        if not match:
            raise InputError(f"bits: expected {EXPECTED}, got {shown(bits)}")
        weight, activation = (_width(int(number), f"bits: {bits}") for number in match.groups())
        return Widths(weight, activation, activation)
    width = _width(bits, "bits")
    return Widths(width, width, width)


def _width(value: object, where: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value.__index__() <= 32:
        raise InputError(f"{where}: expected an integer from 1 to 32, got {shown(value)}")
    return int(value.__index__())
