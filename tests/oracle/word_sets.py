"""A counter that cannot be clever: runs every step of a tiny layer and keeps the real sets of words.

Written from docs/hardware.md ("What is counted") without using hw_model: layers and mappings are plain dictionaries.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

DIMS = "NGKCPQRS"
RELEVANT = {"W": "GKCRS", "O": "NGKPQ"}


def run(layer, loops, level_names, first_pe, holds, multicast=True, reduction=True):
    """Counters {level: {tensor: {reads, fills, updates, drains}}} of every level, by enumeration.

    layer: sizes and stride; loops: {slot: [(dim, n), ..]} for the temporal levels, spatial_x, spatial_y and lanes;
    holds: {level: tensors it holds}. Words of inputs are positions in the padded input, tiles bounding boxes.
    """
    levels = list(level_names)
    counters = {level: {t: defaultdict(int) for t in "WIO"} for level in levels}
    for tensor in "WIO":
        chain = [level for level in levels if tensor in holds[level]]
        inner = chain[-1]
        for parent, child in itertools.pairwise(chain):
            _transfers(tensor, parent, child, layer, loops, levels, first_pe, counters, multicast, reduction)
        _operands(tensor, inner, layer, loops, levels, first_pe, counters, multicast, reduction)
    return counters


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


def _words(tensor, at, extent, stride):
    """The set of words of a tile at an origin with these loop extents; inputs as a bounding box."""
    if tensor != "I":
        axes = [range(at[d], at[d] + extent[d]) for d in RELEVANT[tensor]]
        return set(itertools.product(*axes))
    axes = [range(at[d], at[d] + extent[d]) for d in "NGC"]
    for out, tap in ("PR", "QS"):
        start = at[out] * stride + at[tap]
        axes.append(range(start, start + (extent[out] - 1) * stride + extent[tap]))
    return set(itertools.product(*axes))


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


def _transfers(tensor, parent, child, layer, loops, levels, first_pe, counters, multicast, reduction):
    outside, fan, extent = _split(loops, levels, first_pe, child)
    crossing = levels.index(child) >= first_pe > levels.index(parent)
    pes = list(_origins(fan))
    held = [set() for _ in pes]
    parent_seen = defaultdict(set) if levels.index(parent) >= first_pe else set()
    parent_is_pe = isinstance(parent_seen, defaultdict)
    child_seen = [set() for _ in pes]
    down, up = counters[child][tensor], counters[parent][tensor]
    for at in _origins(outside):
        arriving = []
        for index, pe in enumerate(pes):
            tile = _words(tensor, _add(at, pe), extent, layer["stride"])
            arriving.append(tile - held[index])
            held[index] = tile
        if tensor != "O":
            down["fills"] += sum(map(len, arriving))
            shared = crossing and multicast
            up["reads"] += len(set().union(*arriving)) if shared else sum(map(len, arriving))
            continue
        # Every stay of a partial sum in a PE ends in one update of the parent; the PEs that work on one word at the
        # same step are added on the way, when the network can.
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
            batches = [set().union(*arriving)] if crossing and reduction else arriving
            for words in batches:
                up["updates"] += len(words)
                up["reads"] += len(words & parent_seen)
                parent_seen |= words
                down["drains"] += len(words)


def _operands(tensor, inner, layer, loops, levels, first_pe, counters, multicast, reduction):
    """MACs fetch their operands, and add their result, at every step from the innermost level that holds the tensor."""
    slots = _slots(levels, first_pe)
    nest = _nest(loops, slots)
    steps = [l for l in nest if l[0] in levels]
    pes = list(_origins([l for l in nest if l[0] in ("spatial_y", "spatial_x")]))
    lanes = list(_origins([l for l in nest if l[0] == "lanes"]))
    one = dict.fromkeys(DIMS, 1)
    in_pe = levels.index(inner) >= first_pe
    counts = counters[inner][tensor]
    seen = [set() for _ in pes] if in_pe else set()
    for at in _origins(steps):
        wanted = [
            set().union(*(_words(tensor, _add(_add(at, pe), lane), one, layer["stride"]) for lane in lanes))
            for pe in pes
        ]
        if tensor != "O":
            shared = multicast and not in_pe
            counts["reads"] += len(set().union(*wanted)) if shared else sum(map(len, wanted))
            continue
        if in_pe:
            for index, words in enumerate(wanted):
                counts["updates"] += len(words)
                counts["reads"] += len(words & seen[index])
                seen[index] |= words
        else:
            for words in [set().union(*wanted)] if reduction else wanted:
                counts["updates"] += len(words)
                counts["reads"] += len(words & seen)
                seen |= words
