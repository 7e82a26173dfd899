"""A group of layers, one output row after another, with the rows that lie on the chip as sets.

Written from docs/fusion.md without using hw_model: a group is a list of dictionaries {P, H, R, stride, dilation, pad,
source, adds, stays}, source and adds being positions in it, or None for DRAM.
"""

from __future__ import annotations


def run(group, strips):
    """Per strip and layer: (rows computed in it, [rows held of each output while it runs])."""
    made = [0] * len(group)  # rows come in order, so their number says which
    steps = []
    for strip in range(1, strips + 1):
        goal = list(made)
        for index in reversed(range(len(group))):
            rows = group[index]["P"] * strip
            if index == len(group) - 1 or not any(_reads(later, index) for later in group):
                goal[index] = -(-rows // strips)
            for row in range(goal[index]):
                _want(group, goal, index, row)
        if strip == strips:
            goal = [layer["P"] for layer in group]
        row = []
        for index in range(len(group)):
            before = made[index]
            made[index] = goal[index]
            held = [
                len(_held(group, made, tensor, index, before)) if layer["stays"] else 0
                for tensor, layer in enumerate(group)
            ]
            row.append((range(before, made[index]), held))
        steps.append(row)
    return steps


def taps(layer, row):
    """The real input rows of an output row."""
    rows = (row * layer["stride"] + tap * layer["dilation"] - layer["pad"] for tap in range(layer["R"]))
    return [one for one in rows if 0 <= one < layer["H"]]


def _reads(layer, tensor):
    return tensor == layer["source"] or tensor in layer["adds"]


def _want(group, goal, index, row):
    """Raise the goals of the layers whose rows an output row reads or adds."""
    layer = group[index]
    for tensor, rows in [(layer["source"], taps(layer, row)), *((other, [row]) for other in layer["adds"])]:
        if tensor is not None and rows:
            goal[tensor] = max(goal[tensor], rows[-1] + 1)


def _held(group, made, tensor, running, before):
    """The rows of an output on the chip while a layer runs: from the first that is still read to the last."""
    wanted = set()
    for reader, layer in enumerate(group):
        done = before if reader == running else made[reader]
        for row in range(done, layer["P"]):
            if layer["source"] == tensor:
                wanted.update(taps(layer, row))
            if tensor in layer["adds"]:
                wanted.add(row)
    there = range(made[tensor])
    first = min(wanted, default=made[tensor])
    return there[first:]
