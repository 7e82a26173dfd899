"""What is mapped: the layers of a network in the order they run, and the precision of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from hw_model import Layer
from hw_model.widths import Bits

DRAM = -1  # in `NetworkLayer.adds`: a tensor that no layer made, or that cannot be had from its layer


@dataclass(frozen=True)
class NetworkLayer:
    """layer: its shape, with a readable name; own_bits: the bit-width it always runs at, None = the network's.

    product: both operands are activations (attention's products), so W too has the bit-width of activations.

    source: index of the earlier layer whose output, as it is or element by element (batch norm, ReLU, quantizer), is
    the input; None = read from DRAM. adds: what is added to the output: indices of earlier layers, or DRAM. stored:
    something besides layers and adds reads the output, so it has to be in DRAM.
    """

    layer: Layer
    own_bits: Bits | None = None
    product: bool = False
    source: int | None = None
    adds: tuple[int, ...] = ()
    stored: bool = False

    def bits_at(self, bits: Bits) -> Bits:
        """The bit-width this layer really runs at while the network runs at `bits`."""
        return bits if self.own_bits is None else self.own_bits


@dataclass(frozen=True)
class Unmapped:
    """Work that runs on no MAC array: name of the module it runs in, kind ("softmax"), operations per inference.

    operations: one per element of the largest tensor that goes in or comes out. What only moves or renames elements
    (reshape, concatenation, padding) has none and is not listed, nor is what does not depend on the input.
    """

    name: str
    kind: str
    operations: int


@dataclass(frozen=True)
class Network:
    """layers in running order; bit_widths lowest first, none where any will do; accuracy {bits: %} where known;
    unmapped: all else that runs, each name and kind once, in running order."""

    name: str
    layers: tuple[NetworkLayer, ...]
    bit_widths: tuple[Bits, ...]
    accuracy: dict[Bits, float] = field(default_factory=dict)
    unmapped: tuple[Unmapped, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run of the network."""
        return sum(item.layer.macs for item in self.layers)

    def unmapped_report(self) -> list[dict[str, str | int | float]]:
        """Every Unmapped as a dictionary, with `share`: its part of all operations, multiply-accumulates included."""
        every = self.macs + sum(item.operations for item in self.unmapped)
        return [asdict(item) | {"share": item.operations / every} for item in self.unmapped]

    def name_of(self, problem: Problem) -> str:
        """The name of the first layer with this problem."""
        return next(item.layer.name for item in self.layers if problem_of(item, problem.bits) == problem)


@dataclass(frozen=True)
class Candidates:
    """The layers of a search space. fixed: of stem, header and classifier; layers: for every searched layer, operation
    -> the layers that it runs."""

    fixed: tuple[NetworkLayer, ...]
    layers: tuple[dict[str, tuple[NetworkLayer, ...]], ...]

    @property
    def network(self) -> Network:
        """All of them as one network."""
        every = [self.fixed, *(layers for row in self.layers for layers in row.values())]
        return Network("search space", tuple(item for layers in every for item in layers), ())


@dataclass(frozen=True)
class Problem:
    """The unit of the search: a shape at a bit-width. The layer has no name."""

    layer: Layer
    bits: Bits


def problem_of(item: NetworkLayer, bits: Bits) -> Problem:
    """The problem of a layer while the network runs at `bits`."""
    return Problem(nameless(item.layer), item.bits_at(bits))


@lru_cache(maxsize=4096)
def nameless(layer: Layer) -> Layer:
    """Its shape."""
    sizes = layer.to_dict()
    sizes.pop("name", None)
    return Layer(**sizes)


def distinct_problems(network: Network, bit_widths: Sequence[Bits]) -> list[Problem]:
    """Every problem once, in the order in which they first occur."""
    found = {problem_of(item, bits): None for bits in bit_widths for item in network.layers}
    return list(found)


def listed(names: Iterable[str], most: int = 4) -> str:
    """`a, b and c` of some names; the first of them and how many more where there are many."""
    names = list(names)
    if len(names) > most:
        names[most - 1 :] = [f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def unmapped_lines(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Unmapped operations by kind, with their share of the network's operations: one line, or none."""
    shares: dict[str, float] = {}
    for item in items:
        shares[item["kind"]] = shares.get(item["kind"], 0.0) + item["share"]
    largest = sorted(shares.items(), key=lambda pair: -pair[1])
    kinds = listed((f"{kind.replace('_', ' ')} {share:.2%}" for kind, share in largest), 5)
    return [f"not mapped: {sum(shares.values()):.2%} of the operations ({kinds})"] if shares else []
