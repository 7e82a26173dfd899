"""The groups that a network may be fused into, and what each leaves of the buffer to its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from automapper.graph import consumers
from automapper.local import divisors
from automapper.workload import DRAM, Network, nameless
from hw_model import Device, InputError, Layer, fusion
from hw_model.tables import word_bits
from hw_model.widths import Bits

ROWS = 1 << 14  # of a layer's output, at most: strips are tried, and rows followed, one by one
LONGEST = 8  # layers of a group in strips; whole maps may stay over any number
SPARE = 0.05  # share of the buffer that each layer must have left for its own tiles
FEWEST = 4  # numbers of strips that are tried of a group, from the fewest that fit: more only read more often
AMPLE = 0.5  # share of the buffer: a group that leaves so much to every layer is not tried in more strips


@dataclass(frozen=True)
class Group:
    """Layers begin .. end - 1 of a network, fused. strips: of the last output's rows; images: that run at once, the
    others follow; pinned: weights are loaded once, not in every strip."""

    begin: int
    end: int
    strips: int = 1
    images: int = 1
    pinned: bool = False

    def __len__(self) -> int:
        return self.end - self.begin


class Grouping:
    """The groups of one network on one device. modes: "maps" (whole maps stay) or "strips" (and parts of them)."""

    def __init__(self, network: Network, device: Device, mode: str):
        self.network, self.device, self.mode = network, device, mode
        self.layers = network.layers
        self.readers = consumers(self.layers)
        self.batch = self.layers[0].layer.N if len({item.layer.N for item in self.layers}) == 1 else 1
        self._kept_bits: dict[tuple[int, Bits], int] = {}
        self._members: dict[tuple[int, int, int], fusion.Group] = {}
        self._rows: dict[tuple[int, int, int, int], np.ndarray] = {}

    @cached_property
    def room_bits(self) -> int:
        """Bits of the memory where tensors stay."""
        return fusion.room_bits(self.device)

    @cached_property
    def may_pin(self) -> bool:
        """Whether weights may stay there too."""
        return fusion.may_pin(self.device)

    @cached_property
    def may_fuse(self) -> bool:
        """Whether a layer reads another one's output, which the device could keep."""
        return bool(self.room_bits) and any(item.source not in (None, DRAM) for item in self.layers)

    def stays(self, index: int, begin: int, end: int) -> bool:
        """Whether a layer's output stays on the chip in a group: all that reads it, adds included, is in it."""
        readers = self.readers[index]
        return bool(readers) and not self.layers[index].stored and all(begin <= reader < end for reader in readers)

    def members(self, group: Group, bits: Bits | None = None) -> fusion.Group:
        """The layers of a group as hw_model has them; without `bits` their outputs have no width."""
        key = group.begin, group.end, group.images
        if key not in self._members:
            self._members[key] = tuple(self._member(index, group) for index in range(group.begin, group.end))
        plain = self._members[key]
        if bits is None:
            return plain
        return tuple(replace(one, bits=self.kept_bits(group.begin + i, bits)) for i, one in enumerate(plain))

    def kept_bits(self, index: int, bits: Bits) -> int:
        """Bits of a word of a layer's output on the chip: as it is written, or as it is read if that is more."""
        if (index, bits) not in self._kept_bits:
            self._kept_bits[index, bits] = self._wider(index, bits)
        return self._kept_bits[index, bits]

    def _wider(self, index: int, bits: Bits) -> int:
        item = self.layers[index]
        read = [
            word_bits(self.device, self.layers[reader].bits_at(bits))["I"]
            for reader in self.readers[index]
            if self.layers[reader].source == index
        ]
        return max(word_bits(self.device, item.bits_at(bits))["final"], *read, 0)

    def _member(self, index: int, group: Group) -> fusion.Member:
        item = self.layers[index]

        def position(layer: int | None) -> int | None:
            return layer - group.begin if layer is not None and layer != DRAM and layer >= group.begin else None

        layer = nameless(item.layer)
        if group.images != layer.N:
            layer = replace(layer, N=group.images)
        adds = tuple(position(other) for other in item.adds)
        return fusion.Member(layer, position(item.source), adds, self.stays(index, group.begin, group.end))

    def rows(self, group: Group) -> np.ndarray:
        """[layers, strips, layers]: see `fusion.live_rows`."""
        key = group.begin, group.end, group.strips, group.images
        if key not in self._rows:
            self._rows[key] = fusion.live_rows(self.members(group), group.strips)
        return self._rows[key]

    def reserved_bits(self, group: Group, bits: Bits) -> list[int]:
        """Per layer of a group the bits that are on the chip and not its own: what is live, and pinned weights."""
        words = np.array(
            [one.layer.N * one.layer.G * one.layer.K * one.layer.Q for one in self.members(group)], np.int64
        )
        widths = np.array([self.kept_bits(index, bits) for index in range(group.begin, group.end)])
        pinned = self.weight_bits(group, bits) if group.pinned else 0
        return ((self.rows(group) @ (words * widths)).max(axis=1) + pinned).tolist()

    def weight_bits(self, group: Group, bits: Bits) -> int:
        """Bits of all weights of a group."""
        items = self.layers[group.begin : group.end]
        return sum(item.layer.words("W") * word_bits(self.device, item.bits_at(bits))["W"] for item in items)

    def left(self, group: Group, bits: Bits) -> float:
        """The share of the buffer that is left for its tiles to the layer that has the least."""
        return 1 - max(self.reserved_bits(group, bits)) / self.room_bits

    def passes(self, group: Group) -> int:
        """How often a group runs: once for each of the batch's images where these do not run together."""
        return self.layers[group.begin].layer.N // group.images

    def candidates(self, bits: Bits) -> Iterator[Group]:
        """Every group that fits at a bit-width and keeps a tensor on the chip; of those that differ in strips only, the
        FEWEST."""
        if not self.room_bits:
            return
        for begin in range(len(self.layers)):
            for end in range(begin + 2, len(self.layers) + 1):
                if not self._linked(end - 1, begin):
                    break
                found = list(self._variants(begin, end, bits)) if self._complete(begin, end) else None
                if found == []:
                    break
                yield from found or ()

    def _linked(self, index: int, begin: int) -> bool:
        """Whether a layer may be in the group that begins at `begin`, and has to do with it."""
        item = self.layers[index]
        if max(item.layer.P, self.layers[begin].layer.P) > ROWS:
            return False
        return any(other is not None and other >= begin for other in (item.source, *item.adds))

    def _complete(self, begin: int, end: int) -> bool:
        """Whether a group ends where it saves something: its last layer reads, or adds, a tensor that stays."""
        item = self.layers[end - 1]
        reads = [other for other in (item.source, *item.adds) if other is not None and other >= begin]
        return any(self.stays(other, begin, end) for other in reads)

    def _variants(self, begin: int, end: int, bits: Bits) -> Iterator[Group]:
        for images in sorted({1, self.batch}):
            for pinned in (False, True) if self.may_pin else (False,):
                yield from self._in_strips(Group(begin, end, 1, images, pinned), bits)

    def _in_strips(self, group: Group, bits: Bits) -> Iterator[Group]:
        rows = self.layers[group.end - 1].layer.P
        found = 0
        if group.pinned and self.weight_bits(group, bits) > self.room_bits:
            return
        if group.pinned and (self.mode == "maps" and self.passes(group) == 1):
            return  # weights are read once anyway
        may_divide = self.mode == "strips" and len(group) <= LONGEST and self._in_order(group)
        for strips in divisors(rows) if may_divide else [1]:
            one = replace(group, strips=strips)
            if strips == 1 and group.pinned and self.passes(group) == 1:
                continue
            left = self.left(one, bits)
            if left < SPARE or self.strips_of(one) is None:
                continue
            yield one
            found += 1
            if found == FEWEST or left >= AMPLE:
                return

    def _in_order(self, group: Group) -> bool:
        """Whether each layer but the last has a reader in the group that says which rows it wants."""
        inside = range(group.begin, group.end - 1)
        return all(any(index < reader < group.end for reader in self.readers[index]) for index in inside)

    def strips_of(self, group: Group) -> list[tuple[tuple[Layer, int], ...]] | None:
        """Per layer of a group its strips and how often each occurs, the largest first; None where one reads padding
        only."""
        members = self.members(group)
        try:
            every = [fusion.strips_of(members, group.strips, index) for index in range(len(group))]
        except InputError:
            return None
        return [tuple(sorted(parts, key=lambda pair: -pair[0].P)) for parts in every]
