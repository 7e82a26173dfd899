"""Where the input of each layer comes from, and what is added to its output: the tensors between the layers.

`Sources` follows tensors while a network runs; it knows their identities and shapes, and no torch. `misfit` and
`unequal` are the two rules of what fits together, for networks that run and for lists of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from automapper.workload import DRAM, NetworkLayer
from hw_model import Layer


def misfit(made: Layer, reads: Layer) -> str:
    """Why the output of one layer cannot be the input of another; empty where it can."""
    pairs = (
        ("images", made.N, reads.N, 1),
        ("channels", made.G * made.K, reads.G * reads.C, 1),
        ("rows", made.P, reads.H, reads.stride_h),
        ("columns", made.Q, reads.W, reads.stride_w),
    )
    for what, out, into, stride in pairs:
        if not into <= out < into + stride:  # a stride may leave the last rows unread
            return f"{out} {what} are made, {into} are read"
    return ""


def unequal(one: Layer, other: Layer) -> str:
    """Why the outputs of two layers cannot be added; empty where they can."""
    for what, ours, theirs in (
        ("images", one.N, other.N),
        ("channels", one.G * one.K, other.G * other.K),
        ("rows", one.P, other.P),
        ("columns", one.Q, other.Q),
    ):
        if ours != theirs:
            return f"{ours} and {theirs} {what}"
    return ""


class Value(NamedTuple):
    """Where a tensor comes from. layer: whose output it is; adds: how many of that layer's `adds` it includes."""

    layer: int
    adds: int


@dataclass
class _Link:
    layer: Layer
    source: int | None = None
    adds: list[int] = field(default_factory=list)
    stored: bool = False
    read: int = -1  # the largest number of adds with which the output has been read


class Sources:
    """Follows the outputs of layers to what reads them. values: an empty mapping, by identity, of tensors to Values."""

    def __init__(self, values: MutableMapping[Any, Value]):
        self.values = values
        self.links: list[_Link] = []

    def runs(self, layer: Layer, inputs: Sequence[Any], output: Any) -> None:
        """A layer runs. inputs: the one tensor it reads, or several where a product has no weights; output: None where
        its words are no map of outputs."""
        self.links.append(_Link(layer))
        own = self.links[-1]
        if len(inputs) == 1:
            source = self._latest(inputs[0])
            if source is not None and not misfit(self.links[source].layer, layer):
                own.source = source
                self._note_read(source)
                inputs = ()
        self.leaves(inputs)
        if output is not None:
            self.values[output] = Value(len(self.links) - 1, 0)

    def passes(self, tensor: Any, output: Any) -> None:
        """An operation that every element passes through in its place."""
        if tensor in self.values:
            self.values[output] = self.values[tensor]

    def added(self, one: Any, other: Any, output: Any) -> None:
        """Two tensors of one shape are added: a part of the layer that has run last of those that made them."""
        values = [self.values.get(tensor) for tensor in (one, other)]
        if values[0] == values[1]:
            return self.passes(one, output)
        known = [value for value in values if value is not None]
        last = max(known)
        own = self.links[last.layer]
        rest = values[0] if values[1] == last else values[1]
        fresh = last.adds == len(own.adds) and own.read < last.adds
        if not fresh or (rest is not None and rest.layer == last.layer):
            return self.leaves((one, other), output)
        operand = self._latest(other if values[0] == last else one)
        if operand is None or unequal(own.layer, self.links[operand].layer):
            self.leaves([other if values[0] == last else one])
            own.adds.append(DRAM)
        else:
            own.adds.append(operand)
            self._note_read(operand)
        self.values[output] = Value(last.layer, len(own.adds))

    def leaves(self, tensors: Iterable[Any], output: Any = None) -> None:
        """Something else reads these tensors: pools, concatenations, whatever is unknown, the caller of the network."""
        for tensor in tensors:
            if (value := self.values.get(tensor)) is not None:
                self.links[value.layer].stored = True
                self._note_read(value.layer)
        if output is not None:
            self.values.pop(output, None)

    def linked(self, layers: Iterable[NetworkLayer]) -> tuple[NetworkLayer, ...]:
        """The layers, in the order in which they ran, with what was found."""
        return tuple(
            replace(item, source=link.source, adds=tuple(link.adds), stored=link.stored)
            for item, link in zip(layers, self.links, strict=True)
        )

    def _latest(self, tensor: Any) -> int | None:
        """The layer whose finished output this tensor is."""
        value = self.values.get(tensor)
        return None if value is None or value.adds != len(self.links[value.layer].adds) else value.layer

    def _note_read(self, layer: int) -> None:
        link = self.links[layer]
        link.read = max(link.read, len(link.adds))


def consumers(layers: Sequence[NetworkLayer]) -> list[list[int]]:
    """Per layer the layers that read its output, as their input or to add it."""
    found: list[list[int]] = [[] for _ in layers]
    for index, item in enumerate(layers):
        for source in {item.source, *item.adds} - {None, DRAM}:
            found[source].append(index)  # type: ignore[index]  # None is taken out
    return found
