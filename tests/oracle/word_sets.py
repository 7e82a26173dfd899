"""A counter that cannot be clever: runs every step of a tiny layer and keeps the real sets of words.

Written from docs/hardware.md ("What is counted") without using hw_model: layers and mappings are plain dictionaries.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import NamedTuple

DIMS = "NGKCPQRS"
RELEVANT = {"W": "GKCRS", "O": "NGKPQ"}
AXES = (("P", "R", "h", "pad_top", "H"), ("Q", "S", "w", "pad_left", "W"))


def run(
    layer, loops, level_names, first_pe, holds, *, multicast=True, reduces=(True, True), sharing="union", box=False,
    forward=False, width=None,
):  # fmt: skip
    """Counters {level: {tensor: {reads, fills, updates, drains}}} of every level, by enumeration.

    layer: sizes, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, H, W; loops: {slot: [(dim, n), ..]} for
    the temporal levels, spatial_x, spatial_y and lanes; holds: {level: tensors it holds}; reduces: whether partial sums
    add up along x, along y; sharing: union or identical; box: tiles of inputs are bounding boxes, padding included;
    forward: PEs pass inputs on to their neighbours, with queues, or identical boxes without; width: PEs in a row of the
    whole array.
    """
    levels = list(level_names)
    loops = {slot: _merged(pairs) for slot, pairs in loops.items()}
    chip = Chip(levels, first_pe, multicast, reduces, sharing, box, forward, width)
    counters = {level: {t: defaultdict(int) for t in "WIO"} for level in levels}
    for tensor in "WIO":
        chain = [level for level in levels if tensor in holds[level]]
        inner = chain[-1]
        for parent, child in itertools.pairwise(chain):
            _transfers(tensor, parent, child, layer, loops, chip, counters)
        _operands(tensor, inner, layer, loops, chip, counters)
    return counters


class Chip(NamedTuple):
    levels: list
    first_pe: int
    multicast: bool
    reduces: tuple
    sharing: str
    box: bool
    forward: bool
    width: int


def _merged(pairs):
    """[("K", 2), ("K", 3)] is one loop of 6 trips."""
    runs = [(dim, [n for _, n in run]) for dim, run in itertools.groupby(pairs, key=lambda pair: pair[0])]
    return [(dim, math.prod(trips)) for dim, trips in runs]


def _nest(loops, slots):
    """[(slot, dim, n, step)] outermost first, where step is the product of the factors of dim further in."""
    inside = dict.fromkeys(DIMS, 1)
    nest = []
    for slot in reversed(slots):
        for dim, n in reversed(loops.get(slot, [])):
            nest.append((slot, dim, n, inside[dim]))
            inside[dim] *= n
    return nest[::-1]


def _slots(levels, first_pe):
    return [*levels[:first_pe], "spatial_y", "spatial_x", *levels[first_pe:], "lanes"]


def _origins(nest):
    """Index offsets {dim: value} of every iteration of these loops, in order."""
    for index in itertools.product(*(range(n) for _, _, n, _ in nest)):
        at = dict.fromkeys(DIMS, 0)
        for i, (_, dim, _, step) in zip(index, nest, strict=True):
            at[dim] += i * step
        yield at


def _words(tensor, at, extent, layer, box=False):
    """The set of real words of a tile at an origin with these loop extents.

    Of a tensor's own dimensions only iterations of the layer count; of inputs only positions inside the real input. A
    box of inputs has every position from the first to the last, real or not.
    """
    if tensor != "I":
        axes = [range(at[d], min(at[d] + extent[d], layer[d])) for d in RELEVANT[tensor]]
        return set(itertools.product(*axes))
    axes = [range(at[d], min(at[d] + extent[d], layer[d])) for d in "NGC"]
    for out, tap, way, pad, size in AXES:
        stride, dilation = layer[f"stride_{way}"], layer[f"dilation_{way}"]
        if box:
            first = at[out] * stride + at[tap] * dilation
            axes.append(range(first, first + (extent[out] - 1) * stride + (extent[tap] - 1) * dilation + 1))
            continue
        axes.append(
            {
                p * stride + r * dilation - layer[pad]
                for p in range(at[out], min(at[out] + extent[out], layer[out]))
                for r in range(at[tap], min(at[tap] + extent[tap], layer[tap]))
                if 0 <= p * stride + r * dilation - layer[pad] < layer[size]
            }
        )
    return set(itertools.product(*axes))


def _start(at, layer):
    """Where the box of a tile of inputs starts: tiles of the same start are the same tile to a bus that tags tiles."""
    place = [at["N"], at["G"], at["C"]]
    for out, tap, way, _, _ in AXES:
        place.append(at[out] * layer[f"stride_{way}"] + at[tap] * layer[f"dilation_{way}"])
    return tuple(place)


def _split(loops, levels, first_pe, level):
    """Loops outside a level (temporal), the spatial loops if the level is in the PEs, and the extents inside it."""
    slots = _slots(levels, first_pe)
    nest = _nest(loops, slots)
    position = slots.index(level)
    spatial = ("spatial_y", "spatial_x", "lanes")
    outside = [l for l in nest if slots.index(l[0]) < position and l[0] not in spatial]
    fan = [l for l in nest if slots.index(l[0]) < position and l[0] in spatial]
    extent = dict.fromkeys(DIMS, 1)
    for slot, dim, n, _ in nest:
        if slots.index(slot) >= position:
            extent[dim] *= n
    return outside, fan, extent


def _add(one, other):
    return {d: one[d] + other[d] for d in DIMS}


def _added(nest, reduces):
    """Per PE, in the order of `_origins(nest)`, the group whose partial sums of one word add up on the way."""
    groups = []
    for index in itertools.product(*(range(n) for _, _, n, _ in nest)):
        apart = [
            i
            for i, (slot, dim, _, _) in zip(index, nest, strict=True)
            if dim in "CRS" and not reduces[slot == "spatial_y"]
        ]
        groups.append(tuple(apart))
    return groups


def _shared(tensor, arriving, starts, chip):
    """Reads that serve all PEs of a step: one for each word, or for each word of each different tile."""
    if tensor == "I" and chip.sharing == "identical":
        tiles = defaultdict(set)
        for start, words in zip(starts, arriving, strict=True):
            tiles[start] |= words
        return sum(map(len, tiles.values()))
    return len(set().union(*arriving))


def _transfers(tensor, parent, child, layer, loops, chip, counters):
    outside, fan, extent = _split(loops, chip.levels, chip.first_pe, child)
    crossing = chip.levels.index(child) >= chip.first_pe > chip.levels.index(parent)
    pes = list(_origins(fan))
    groups = _added(fan, chip.reduces)
    held = [set() for _ in pes]
    parent_is_pe = chip.levels.index(parent) >= chip.first_pe
    parent_seen = defaultdict(set) if parent_is_pe else set()
    child_seen = [set() for _ in pes]
    down, up = counters[child][tensor], counters[parent][tensor]
    passing = []
    if tensor == "I" and crossing and chip.multicast and chip.forward and chip.sharing == "union":
        passing = _passing(layer, loops, outside, fan, chip)
    served = {}
    if tensor == "I" and crossing and chip.multicast and chip.forward and chip.sharing == "identical" and chip.box:
        served = _served(layer, outside, fan, extent, chip.width)
    turns = list(itertools.product(*(range(n) for _, _, n, _ in outside)))
    places = list(itertools.product(*(range(n) for _, _, n, _ in fan)))
    for turn, at in zip(turns, _origins(outside), strict=True):
        arriving = []
        for index, pe in enumerate(pes):
            tile = _words(tensor, _add(at, pe), extent, layer, chip.box)
            arriving.append(tile - held[index])
            held[index] = tile
        if tensor != "O":
            down["fills"] += sum(map(len, arriving))
            starts = [_start(_add(at, pe), layer) for pe in pes]
            for loop, axis in passing:  # the outer one first: only PEs at the edge read
                if turn[loop]:
                    edge = [place[axis] == fan[axis][2] - 1 for place in places]
                    arriving = [words if last else set() for words, last in zip(arriving, edge, strict=True)]
                    break
            if served:
                passed = served[tuple(min(i, 1) for i in turn)]
                arriving = [set() if one else words for words, one in zip(arriving, passed, strict=True)]
            shared = crossing and chip.multicast
            up["reads"] += _shared(tensor, arriving, starts, chip) if shared else sum(map(len, arriving))
            continue
        # Every stay of a partial sum in a PE ends in one update of the parent; the PEs that work on one word at the
        # same step are added on the way, where the network can.
        for index, words in enumerate(arriving):
            down["fills"] += len(words & child_seen[index])
            child_seen[index] |= words
        if parent_is_pe:
            for index, words in enumerate(arriving):
                up["updates"] += len(words)
                up["reads"] += len(words & parent_seen[index])
                parent_seen[index] |= words
                down["drains"] += len(words)
        else:
            batches = _batches(arriving, groups) if crossing else arriving
            for words in batches:
                up["updates"] += len(words)
                up["reads"] += len(words & parent_seen)
                parent_seen |= words
                down["drains"] += len(words)


def _passing(layer, loops, outside, fan, chip):
    """[(loop outside, spatial loop)]: per axis of the input the outermost loop that moves tiles by the way from a PE to
    the next along a dimension that is alone on its axis of the array; none where the axis overshoots."""
    slots = _slots(chip.levels, chip.first_pe)
    found = []
    for out, tap, way, _, _ in AXES:
        size = {out: layer[f"stride_{way}"], tap: layer[f"dilation_{way}"]}
        covered = dict.fromkeys((out, tap), 1)
        for _, dim, n, _ in _nest(loops, slots):
            covered[dim] = covered.get(dim, 1) * n
        if covered[out] != layer[out] or covered[tap] != layer[tap]:
            continue
        alone = [
            (axis, step * size[dim])
            for axis, (slot, dim, n, step) in enumerate(fan)
            if dim in size and n > 1 and sum(other == slot for other, _, m, _ in fan if m > 1) == 1
        ]
        for number, (_, dim, n, step) in enumerate(outside):
            if dim not in size or n < 2:
                continue
            axes = [axis for axis, pitch in sorted(alone, key=lambda a: fan[a[0]][1]) if pitch == step * size[dim]]
            if axes:
                found.append((number, axes[0]))
                break
    return sorted(found)


def _served(layer, outside, fan, extent, width):
    """{turn: [whether a neighbour serves a PE, ..]}: whether its new words are those of a neighbour the step before.

    Timeloop walks through the first two turns of every loop only: all others are as the second. The PEs in use are one
    line, folded into rows of `width`. Planes do not end here: where one is not real, there are no words to count.
    """
    endless = {**layer, **dict.fromkeys("NGC", 10**6)}
    pes = list(_origins(fan))
    held, before = [set() for _ in pes], [set() for _ in pes]
    served = {}
    for turn, at in zip(itertools.product(*(range(n) for _, _, n, _ in outside)), _origins(outside), strict=True):
        tiles = [_words("I", _add(at, pe), extent, endless, box=True) for pe in pes]
        if all(i < 2 for i in turn):
            new = [tile - had for tile, had in zip(tiles, held, strict=True)]
            served[turn] = [
                len(words) > 0 and any(before[other] == words for other in _beside(index, len(pes), width))
                for index, words in enumerate(new)
            ]
            before = new
        held = tiles
    return served


def _beside(index, count, width):
    """The neighbours of PE `index` of a line of `count`, folded into rows of `width`."""
    in_row = [other for other in (index - 1, index + 1) if other // width == index // width]
    return [other for other in (*in_row, index - width, index + width) if 0 <= other < count]


def _batches(words, groups):
    """The words that reach the parent, one set for each group of PEs that add up."""
    merged = defaultdict(set)
    for group, part in zip(groups, words, strict=True):
        merged[group] |= part
    return list(merged.values())


def _operands(tensor, inner, layer, loops, chip, counters):
    """MACs fetch their operands, and add their result, at every step from the innermost level that holds the tensor.

    Only real MACs do, those inside the layer in every dimension; a zero of the padding is not fetched.
    """
    slots = _slots(chip.levels, chip.first_pe)
    nest = _nest(loops, slots)
    steps = [l for l in nest if l[0] in chip.levels]
    spatial = [l for l in nest if l[0] in ("spatial_y", "spatial_x")]
    pes = list(_origins(spatial))
    groups = _added(spatial, chip.reduces)
    lanes = list(_origins([l for l in nest if l[0] == "lanes"]))
    one = dict.fromkeys(DIMS, 1)
    in_pe = chip.levels.index(inner) >= chip.first_pe
    counts = counters[inner][tensor]
    seen = [set() for _ in pes] if in_pe else set()
    boundless = {**layer, "H": 10**6, "W": 10**6, "pad_top": 0, "pad_left": 0} if chip.box else layer
    for at in _origins(steps):
        wanted = []
        for pe in pes:
            places = [_add(_add(at, pe), lane) for lane in lanes]
            real = [place for place in places if all(place[d] < layer[d] for d in DIMS)]
            wanted.append(set().union(*(_words(tensor, place, one, boundless) for place in real)))
        if tensor != "O":
            shared = chip.multicast and not in_pe
            starts = [_start(_add(at, pe), layer) for pe in pes]
            counts["reads"] += _shared(tensor, wanted, starts, chip) if shared else sum(map(len, wanted))
            continue
        if in_pe:
            for index, words in enumerate(wanted):
                counts["updates"] += len(words)
                counts["reads"] += len(words & seen[index])
                seen[index] |= words
        else:
            for words in _batches(wanted, groups):
                counts["updates"] += len(words)
                counts["reads"] += len(words & seen)
                seen |= words
