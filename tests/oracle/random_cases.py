"""Random tiny layers, devices and mappings for the brute-force counter."""

from __future__ import annotations

import random

DIMS = "NGKCPQRS"


def device_fields(rng: random.Random) -> dict:
    """A device file's content: 2 to 4 levels, shared or split capacities, any network, sometimes lanes."""
    names = rng.choice([["dram", "rf"], ["dram", "glb"], ["dram", "glb", "rf"], ["dram", "l2", "glb", "rf", "latch"],
                        ["dram", "glb", "rf"], ["dram", "glb", "rf", "latch"]])  # fmt: skip
    levels = []
    for index, name in enumerate(names):
        holds = ["W", "I", "O"] if index == 0 else sorted(rng.sample("WIO", rng.choice([1, 2, 3, 3, 3])))
        level = {"name": name, "holds": holds, "read_energy_pj_per_bit": 1.0, "write_energy_pj_per_bit": 1.0}
        if name in ("rf", "latch"):
            level["scope"] = "pe"
        if index:
            level["size_bits"] = 10**6 if rng.random() < 0.5 else dict.fromkeys(holds, 10**6)
        levels.append(level)
    array = {"x": 4, "y": 4, "reduce": rng.choice(["both", "both", "both", "x", "y", "none"])}
    if rng.random() < 0.3:
        array["lanes"] = 4
    return {
        "name": "random", "clock_mhz": 100, "array": array, "psum_bits": 16, "levels": levels,
        "network": {
            "energy_pj_per_bit": 1.0, "multicast": rng.random() < 0.75,
        },
        "forward_inputs": rng.random() < 0.3,
        "input_sharing": rng.choice(["union", "union", "identical"]),
        "input_words": rng.choice(["real", "real", "real", "real", "box"]),
        "mac": {"multiplier_energy_pj": 1.0, "multiplier_bits": 16, "adder_energy_pj": 0.1, "adder_bits": 32},
    }  # fmt: skip


def layer_and_loops(rng: random.Random, slots: list[str], steps: int = 600) -> tuple[dict, dict]:
    """A layer, and loops per slot that cover it, often with overshoot, at most `steps` MACs.

    Strides 1 to 4, dilations 1 to 3, kernels smaller and larger than the stride, padding on any side.
    """
    budget = {"spatial_x": 4, "spatial_y": 4, "lanes": 4}
    loops: dict[str, list] = {slot: [] for slot in slots}
    total = 1
    for _ in range(rng.randrange(2, 9)):
        slot, dim, factor = rng.choice(slots), rng.choice(DIMS + "PQRS"), rng.choice([2, 2, 2, 3, 3, 4, 5])
        used = 1
        for _, n in loops[slot]:
            used *= n
        if total * factor > steps or used * factor > budget.get(slot, steps):
            continue
        loops[slot].append((dim, factor))
        total *= factor
    for pairs in loops.values():
        rng.shuffle(pairs)
    layer = {}
    for dim in DIMS:
        covered = 1
        for pairs in loops.values():
            for d, n in pairs:
                covered *= n if d == dim else 1
        layer[dim] = rng.randint(max(1, covered - covered // 2), covered) if rng.random() < 0.4 else covered
    for out, tap, way, pad, size in (("P", "R", "h", "pad_top", "H"), ("Q", "S", "w", "pad_left", "W")):
        layer[f"stride_{way}"] = stride = rng.choice([1, 1, 1, 2, 2, 3, 4])
        layer[f"dilation_{way}"] = dilation = rng.choice([1, 1, 1, 2, 3])
        kernel = (layer[tap] - 1) * dilation + 1
        reach = (layer[out] - 1) * stride + kernel
        layer[pad] = rng.randint(0, min(kernel - 1, reach - 1)) if rng.random() < 0.6 else 0
        layer[size] = needed = reach - layer[pad]
        if rng.random() < 0.5:  # padding at the end too, or rows that nothing needs
            layer[size] = max(1, needed + rng.randint(-min(kernel - 1, 3), 2))
    return layer, loops


def loops_of(rng: random.Random, layer, slots: list[str], widest: int = 4) -> dict:
    """Loops per slot that cover a layer, sometimes with overshoot; at most `widest` units of an axis or of lanes."""
    loops: dict[str, list] = {slot: [] for slot in slots}
    used = dict.fromkeys(("spatial_x", "spatial_y", "lanes"), 1)
    for dim in rng.sample(DIMS, len(DIMS)):
        left = getattr(layer, dim)
        while left > 1:
            slot, factor = rng.choice(slots), rng.choice([left, left, 2, 2, 3])
            if slot in used:
                if used[slot] * factor > widest:
                    continue
                used[slot] *= factor
            loops[slot].append((dim, factor))
            left = -(-left // factor)
    for pairs in loops.values():
        rng.shuffle(pairs)
    return loops
