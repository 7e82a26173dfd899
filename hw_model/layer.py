"""A layer is eight loop bounds and a stride."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

from hw_model.errors import InputError, shown, unknown

DIMS = ("N", "G", "K", "C", "P", "Q", "R", "S")
TENSORS = ("W", "I", "O")
RELEVANT = {"W": "GKCRS", "I": "NGCPQRS", "O": "NGKPQ"}  # dimensions that move a tensor's tile
COUNT_LIMIT = 2**53  # largest integer a JSON reader keeps exactly; nothing here counts beyond it
SIZE_LIMIT = 2**31 - 1  # loop bounds and factors travel as 32-bit integers in batches


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution (or linear) layer; all sizes in elements.

    N batch, G groups, K output channels per group, C input channels per group, P x Q output rows and columns,
    R x S filter rows and columns. Depth-wise: G = channels, K = C = 1. Linear: P = Q = R = S = 1.

    Raises:
        InputError: a size is not an integer from 1 to 2**31 - 1, or the layer has more than 2**53 MACs or inputs.
    """

    name: str = ""
    N: int = 1
    G: int = 1
    K: int = 1
    C: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"layer: name: {shown(self.name)} is not a string")
        for field in (*DIMS, "stride"):
            value = getattr(self, field)
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise InputError(f"layer: {field}: {shown(value)} is not an integer")
            value = value.__index__()
            if not 1 <= value <= SIZE_LIMIT:
                raise InputError(f"layer: {field}: {shown(value)} is not between 1 and {SIZE_LIMIT}")
            object.__setattr__(self, field, value)
        if self.macs > COUNT_LIMIT:
            raise InputError(f"layer: {self.macs} MACs are more than 2**53, beyond what is counted exactly")
        if self.words("I") > COUNT_LIMIT:
            raise InputError(f"layer: {self.words('I')} input words are more than 2**53")

    @property
    def macs(self) -> int:
        """Multiply-accumulates: N*G*K*C*P*Q*R*S."""
        return math.prod(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The eight loop bounds in the order of DIMS."""
        return tuple(getattr(self, dim) for dim in DIMS)

    def words(self, tensor: str) -> int:
        """Elements of a whole tensor: "W", "I" (padding rows included) or "O"."""
        return tile_words(tensor, dict(zip(DIMS, self.sizes, strict=True)), self.stride)

    @classmethod
    def from_dict(cls, fields: MappingABC) -> Layer:
        """From {"K": 4, ...}; sizes left out are 1. Raises InputError naming an unknown or bad field."""
        if not isinstance(fields, MappingABC):
            raise InputError(f"layer: expected an object of sizes, got {shown(fields)}")
        legal = ("name", *DIMS, "stride")
        for key in fields:
            if key not in legal:
                raise unknown("layer field", key, legal)
        return cls(**fields)

    def to_dict(self) -> dict:
        """The eight sizes and the stride, with the name if there is one; `from_dict` reads it back."""
        named = {"name": self.name} if self.name else {}
        return {**named, **dict(zip(DIMS, self.sizes, strict=True)), "stride": self.stride}


def tile_words(tensor: str, tile: MappingABC[str, int], stride: int) -> int:
    """Words of a tensor that a tile of loop bounds touches; input rows and columns as a bounding box."""
    if tensor != "I":
        return math.prod(tile[dim] for dim in RELEVANT[tensor])
    rows = (tile["P"] - 1) * stride + tile["R"]
    columns = (tile["Q"] - 1) * stride + tile["S"]
    return tile["N"] * tile["G"] * tile["C"] * rows * columns
