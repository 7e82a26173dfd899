"""Bit-widths as users write them: 8, "w4a8" (4-bit weights, 8-bit activations), and "layer4.*=8" of single layers.

Their order is by activations, then weights, as in the mapper's reports: 4, w4a8, 8. 32 means float on that side.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

FLOAT_BITS = 32
"""The bit-width that means float."""

Bits = int | str
"""A bit-width: a number, or text where weights and activations differ."""

EXPECTED = "between 1 and 32, or widths of weights and activations as in w4a8"


class Widths(NamedTuple):
    """Bits of a layer's weights and of its input, 1 to 32."""

    weights: int
    activations: int

    @property
    def bits(self) -> Bits:
        """The one way to write it: 8, or "w4a8"."""
        return self.weights if self.weights == self.activations else f"w{self.weights}a{self.activations}"


def widths_of(bits: object) -> Widths:
    """Widths of 8, "8", "w4a8". Raises ValueError where it is none of these, or a width lies outside 1 to 32."""
    if isinstance(bits, int) and not isinstance(bits, bool):
        widths = Widths(bits, bits)
    else:
        match = re.fullmatch(r"w([0-9]{1,2})a([0-9]{1,2})|([0-9]{1,2})", str(bits).lower())
        if not match:
            raise ValueError(f"bit-width {repr(bits)[:40]} is not {EXPECTED}")
        weights, activations, both = match.groups()
        widths = Widths(int(both or weights), int(both or activations))
    if not all(1 <= width <= FLOAT_BITS for width in widths):
        raise ValueError(f"bit-width {bits!r} is not {EXPECTED}")
    return widths


def width_order(bits: Bits) -> tuple[int, int]:
    """Sorts bit-widths by activations, then weights: 4, w4a8, 8."""
    widths = widths_of(bits)
    return widths.activations, widths.weights


def in_order(bit_widths: Iterable[Bits]) -> list[Bits]:
    """Lowest first, each in its one way of writing."""
    return sorted((widths_of(bits).bits for bits in bit_widths), key=width_order)


def in_words(bits: Bits) -> str:
    """`8 bit`, `w4a8`."""
    return bits if isinstance(bits, str) else f"{bits} bit"


def own_bits(entries: Iterable[str]) -> dict[str, Bits]:
    """{"layer4.*": 8} of ["layer4.*=8"]. Raises ValueError where an entry has no pattern or no bit-width."""
    found: dict[str, Bits] = {}
    for entry in entries:
        pattern, separator, bits = entry.rpartition("=")
        if not separator or not pattern:
            raise ValueError(f"{entry[:80]!r} is not of the form pattern=bits, as in layer4.*=8")
        found[pattern] = widths_of(bits).bits
    return found
