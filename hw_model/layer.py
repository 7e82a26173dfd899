"""A layer: eight loop bounds, strides, dilations, and the real part of its input."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import TypedDict, Unpack

from hw_model import rules
from hw_model.axis import Axis
from hw_model.errors import InputError, escaped, shown, unknown

DIMS = ("N", "G", "K", "C", "P", "Q", "R", "S")
TENSORS = ("W", "I", "O")
RELEVANT = {"W": "GKCRS", "I": "NGCPQRS", "O": "NGKPQ"}  # dimensions that each tensor depends on
COUNT_LIMIT = 2**53  # largest integer a JSON reader keeps exactly; nothing here counts beyond it
RUN_LIMIT = 2**20  # runs of input positions that `Axis.real_count` walks through
LONGEST_NAME = 1000  # letters
SIZE_LIMIT = 2**31 - 1  # loop bounds and factors travel as 32-bit integers in batches


class LayerFields(TypedDict, total=False):
    """What a Layer can be made of. All may be left out; None counts as left out."""

    name: str
    N: int
    G: int
    K: int
    C: int
    P: int
    Q: int
    R: int
    S: int
    stride: int | None
    dilation: int | None
    stride_h: int | None
    stride_w: int | None
    dilation_h: int | None
    dilation_w: int | None
    H: int | None
    W: int | None
    pad_top: int
    pad_left: int
    input_zeros: float


@dataclass(frozen=True, init=False)
class Layer:
    """A convolution (or linear) layer; all sizes in elements.

    N batch, G groups, K output channels per group, C input channels per group, P x Q output rows and columns,
    R x S filter rows and columns. Depth-wise: G = channels, K = C = 1. Linear: P = Q = R = S = 1.

    Output row p and filter row r need input row p*stride_h + r*dilation_h - pad_top. It is real from 0 to H - 1; others
    are zeros that the PE makes. The same holds for columns, with stride_w, dilation_w, pad_left and W. H and W default
    to as many as the outputs need. `stride` and `dilation` set both directions. input_zeros is the share of inputs that
    are zero, which devices with zero gating skip.

    Raises:
        InputError: a size is not an integer from 1 (paddings: 0) to 2**31 - 1, `stride` contradicts `stride_h` or
            `stride_w` (`dilation` likewise), no input is real, or the layer has more than 2**53 MACs or inputs.
    """

    name: str
    N: int
    G: int
    K: int
    C: int
    P: int
    Q: int
    R: int
    S: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    H: int
    W: int
    pad_top: int
    pad_left: int
    input_zeros: float

    def __init__(self, **given: Unpack[LayerFields]) -> None:
        for key in given:
            if key not in LayerFields.__annotations__:
                raise TypeError(f"Layer.__init__() got an unexpected keyword argument {key!r}")
        name, input_zeros = given.get("name", ""), given.get("input_zeros", 0.0)
        if not isinstance(name, str):
            raise InputError(f"layer: name: {shown(name)} is not a string")
        if len(name) > LONGEST_NAME:
            raise InputError(f"layer: name: {len(name):,} letters, at most {LONGEST_NAME}")
        fields = {dim: _integer(dim, given.get(dim, 1), 1) for dim in DIMS}
        for step in ("stride", "dilation"):
            fields[f"{step}_h"], fields[f"{step}_w"] = _both(step, given)
        for pad in ("pad_top", "pad_left"):
            fields[pad] = _integer(pad, given.get(pad, 0), 0)
        for size, outputs, taps, way, pad in (("H", "P", "R", "h", "pad_top"), ("W", "Q", "S", "w", "pad_left")):
            stride, dilation = fields[f"stride_{way}"], fields[f"dilation_{way}"]
            needed = Axis(fields[outputs], fields[taps], stride, dilation, fields[pad], 0).needed
            if given.get(size) is None and needed < 1:
                raise InputError(f"layer: {pad}: {fields[pad]} leaves no real input to the outputs")
            fields[size] = needed if given.get(size) is None else _integer(size, given.get(size), 1)
        if isinstance(input_zeros, bool) or not isinstance(input_zeros, int | float) or not 0 <= input_zeros <= 1:
            raise InputError(f"layer: input_zeros: {shown(input_zeros)} is not a share between 0 and 1")
        for field, value in {"name": escaped(name), "input_zeros": float(input_zeros), **fields}.items():
            object.__setattr__(self, field, value)  # frozen; the name goes to terminals and pages
        if self.macs > COUNT_LIMIT:
            raise InputError(f"layer: {self.macs} MACs are more than 2**53, beyond what is counted exactly")
        if (box := tile_words("I", dict(zip(DIMS, self.sizes, strict=True)), self)) > COUNT_LIMIT:
            raise InputError(f"layer: {box} input words are more than 2**53")
        for axis in (self.rows.reduced(), self.columns.reduced()):
            if min(axis.dilation, axis.outputs) * min(axis.stride, axis.taps) > RUN_LIMIT:
                raise InputError(f"layer: stride {axis.stride} with dilation {axis.dilation}: too large to be counted")

    @property
    def macs(self) -> int:
        """Multiply-accumulates: N*G*K*C*P*Q*R*S, those with a zero of the padding included."""
        return math.prod(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The eight loop bounds in the order of DIMS."""
        return tuple(getattr(self, dim) for dim in DIMS)

    @property
    def stride(self) -> int:
        """The stride of both directions. Raises InputError where they differ."""
        if self.stride_h != self.stride_w:
            raise InputError(f"layer: strides {self.stride_h} and {self.stride_w}, different down and across")
        return self.stride_h

    @property
    def rows(self) -> Axis:
        """The input axis that P and R move along."""
        return Axis(self.P, self.R, self.stride_h, self.dilation_h, self.pad_top, self.H)

    @property
    def columns(self) -> Axis:
        """The input axis that Q and S move along."""
        return Axis(self.Q, self.S, self.stride_w, self.dilation_w, self.pad_left, self.W)

    def words(self, tensor: str) -> int:
        """Elements of a whole tensor: "W", "I" (real ones that some output needs) or "O"."""
        if tensor != "I":
            return math.prod(getattr(self, dim) for dim in RELEVANT[tensor])
        return self.N * self.G * self.C * self.rows.real_count() * self.columns.real_count()

    def check_padding(self) -> None:
        """Raise InputError where a padding is as large as the dilated kernel, so that outputs see zeros only.

        A network may have such a layer; in a case written by hand it is a mistake.
        """
        for axis, before, after in ((self.rows, "pad_top", "bottom"), (self.columns, "pad_left", "right")):
            kernel = (axis.taps - 1) * axis.dilation + 1
            behind = (axis.outputs - 1) * axis.stride + kernel - axis.pad - axis.size
            for name, pad in ((before, axis.pad), (f"padding at the {after}", behind)):
                if pad >= kernel:
                    raise InputError(f"layer: {name}: {pad} is as large as the dilated kernel, {kernel}")

    @classmethod
    def from_dict(cls, fields: MappingABC) -> Layer:
        """From {"K": 4, ...}; sizes left out are 1. Raises InputError naming an unknown or bad field."""
        if not isinstance(fields, MappingABC):
            raise InputError(f"layer: expected an object of sizes, got {shown(fields)}")
        for key in fields:
            if key not in LayerFields.__annotations__:
                raise unknown("layer field", key, LayerFields.__annotations__)
        return cls(**fields)

    def to_dict(self) -> dict:
        """The sizes and the stride, and other fields that differ from their defaults; `from_dict` reads it back."""
        fields: dict = {"name": self.name} if self.name else {}
        fields |= dict(zip(DIMS, self.sizes, strict=True))
        for step in ("stride", "dilation"):
            down, across = getattr(self, f"{step}_h"), getattr(self, f"{step}_w")
            if down != across:
                fields |= {f"{step}_h": down, f"{step}_w": across}
            elif step == "stride" or down != 1:
                fields[step] = down
        for size, needed in (("H", self.rows.needed), ("W", self.columns.needed)):
            fields |= {size: getattr(self, size)} if getattr(self, size) != needed else {}
        for field in ("pad_top", "pad_left", "input_zeros"):
            fields |= {field: getattr(self, field)} if getattr(self, field) else {}
        return fields


def tile_words(tensor: str, tile: MappingABC[str, int], layer: Layer) -> int:
    """Words of a tensor that a tile of loop bounds spans; of I as a bounding box, padding included."""
    if tensor == "W":
        return rules.weight_words(*(tile[dim] for dim in RELEVANT["W"]))
    if tensor == "O":
        return rules.output_words(*(tile[dim] for dim in RELEVANT["O"]))
    rows = rules.span(tile["P"], tile["R"], layer.stride_h, layer.dilation_h)
    columns = rules.span(tile["Q"], tile["S"], layer.stride_w, layer.dilation_w)
    return rules.input_words(tile["N"], tile["G"], tile["C"], rows, columns)


def _integer(field: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"layer: {field}: {shown(value)} is not an integer")
    number: int = value.__index__()
    if not least <= number <= SIZE_LIMIT:
        raise InputError(f"layer: {field}: {shown(number)} is not between {least} and {SIZE_LIMIT}")
    return number


def _both(name: str, given: LayerFields) -> tuple[int, int]:
    """Steps down and across from `stride` and `stride_h`, `stride_w`; 1 where nothing is given."""
    common = None if given.get(name) is None else _integer(name, given.get(name), 1)
    steps = []
    for field in (f"{name}_h", f"{name}_w"):
        step = common if given.get(field) is None else _integer(field, given.get(field), 1)
        if common is not None and step != common:
            raise InputError(f"layer: {field}: {step} contradicts {name}: {common}; give one of them")
        steps.append(1 if step is None else step)
    return steps[0], steps[1]
