"""Where the values of a program lie in memory: the least room that a simple plan needs."""

from math import prod

from instantnet.deploy.program import Program


def readers_end(program: Program) -> list[int]:
    """Of every step, the last step that reads its value; flatten shares its input's."""
    last = list(range(len(program.steps)))
    for index, step in enumerate(program.steps):
        for read in step.inputs:
            last[read] = max(last[read], index)
    for index in range(len(program.steps) - 1, -1, -1):  # a view keeps what it views
        if program.steps[index].op == "flatten":
            before = program.steps[index].inputs[0]
            last[before] = max(last[before], last[index])
    last[-1] = len(program.steps)
    return last


def planned(program: Program) -> tuple[dict[int, int], dict[str, int]]:
    """(step -> first element of its value in the memory of its kind, kind -> elements of that memory).

    Each value goes to the first gap that is free while it is needed. The image and the logits are the caller's.
    """
    last = readers_end(program)
    placed: dict[str, list[tuple[int, int, int, int]]] = {"codes": [], "wide": [], "float": []}
    start: dict[int, int] = {}
    for index, step in enumerate(program.steps[:-1]):
        if step.op == "input":
            continue
        if step.op == "flatten" and step.inputs[0] in start:
            start[index] = start[step.inputs[0]]
            continue
        if step.op == "flatten":
            continue
        size, at = prod(step.shape), 0
        for first, end, begin, until in sorted(placed[step.kind]):
            if until >= index and begin <= last[index]:
                if first - at >= size:
                    break
                at = max(at, end)
        placed[step.kind].append((at, at + size, index, last[index]))
        start[index] = at
    return start, {kind: max((end for _, end, _, _ in values), default=0) for kind, values in placed.items()}
