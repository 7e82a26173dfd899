"""Damaged files: values, or bytes, that do not belong there. Seeded, so that a failure repeats."""

import copy
import functools
import random
from collections.abc import Iterator
from typing import Any

import torch


def strangers() -> list[Any]:
    """Values of every kind that a checkpoint can hold, and of some that it cannot."""
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    return [
        None, True, -1, 0, 2**62, 2**200, 1e308, -1.5, float("nan"), float("inf"), "", "../../x", "\x1b[31m", "\ud800",
        "x" * 70_000, b"bytes", [], [True], [[4, 8]], {}, {b"key": 1}, {(1, 2): 3}, {1.5: 2}, (), ((), ()), [0] * 5000,
        itself, torch.ones(3), torch.ones(()), torch.zeros(0), torch.full((2, 2), float("nan")),
        torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta"),
        torch.eye(3).to_sparse(), torch.ones(1).expand(10**9), torch.nn.Parameter(torch.ones(2)),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    ]  # fmt: skip


def places(content: Any, where: tuple = ()) -> Iterator[tuple]:
    """The path of keys to every value below `content`."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*where, key)
        yield from places(value, (*where, key))


def damaged(content: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str]:
    """A copy of `content` with one value replaced, removed, added or moved; and what was done, in words."""
    changed = copy.deepcopy(content)
    spots = list(places(changed))
    depth = rng.choice([1, 1, 2, 3])  # most values lie deep: without this few changes would be near the top
    *above, last = rng.choice([spot for spot in spots if len(spot) <= depth] or spots)
    parent = changed
    for key in above:
        parent = parent[key]
    kind = rng.choice(["replaced", "replaced", "replaced", "removed", "renamed", "moved"])
    index = rng.randrange(len(strangers()))
    if kind == "removed" or (kind == "renamed" and isinstance(parent, list)):
        del parent[last]
    elif kind == "renamed":
        parent[rng.choice(["x", 7, b"x", ("a",), "", "config"])] = parent.pop(last)
    elif kind == "moved":
        parent[last] = functools.reduce(lambda value, key: value[key], rng.choice(spots), changed)
    else:
        parent[last] = strangers()[index]
    return changed, f"{[*above, last]} {kind}{f' by stranger {index}' if kind == 'replaced' else ''}"


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """`data` with bits flipped, a part cut out, doubled, zeroed or replaced by noise, or its end gone."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 4, 64, 1000]))
    kind = rng.choice(["flip", "flip", "cut", "double", "zero", "noise", "end"])
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    middle = {
        "cut": b"", "double": data[start:end] * 2, "zero": bytes(end - start), "noise": rng.randbytes(end - start)
    }  # fmt: skip
    return data[:start] if kind == "end" else data[:start] + middle[kind] + data[end:]
