"""What runs of layers cost by themselves when their layers may be fused, as the candidates of a search space."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from automapper.budget import Clock
from automapper.fusion.fuse import fuse_network
from automapper.fusion.plan import Effort
from automapper.objective import Objective
from automapper.parallel import run_parallel
from automapper.search import Outcome
from automapper.workload import Network, NetworkLayer, nameless
from hw_model import Device
from hw_model.widths import Bits

Block = tuple[NetworkLayer, ...]
"""Layers one after another that know no others: see `layers.by_itself`."""


def fuse_blocks(
    blocks: Sequence[Block],
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    mode: str,
    effort: Effort,
    show: Callable[[float], None] = lambda share: None,
) -> dict[Block, dict[Bits, tuple[float, float]]]:
    """Block -> bit-width -> (energy in J, latency in s) with its layers in the groups that its own objective is lowest
    with; what is added to its output is charged. A block without layers is left out; one shape is fused once.

    outcome: the mappings of its layers. mode: "maps" or "strips". effort: of each block, but for `workers`, blocks at a
    time, and `seconds`, for all of them. show: called with the share that is done.
    """
    shapes = {block: tuple(replace(item, layer=nameless(item.layer)) for item in block) for block in blocks if block}
    every = list(dict.fromkeys(shapes.values()))
    known = replace(outcome, units=[])  # searches that are done are large to send to another process
    clock, at_once = Clock(effort.seconds), effort.workers or os.cpu_count() or 1
    found: dict[Block, dict[Bits, tuple[float, float]]] = {}
    for begin in range(0, len(every), at_once):
        alone = replace(effort, workers=1, seconds=clock.until() / math.ceil((len(every) - begin) / at_once))
        some = every[begin : begin + at_once]
        work = [(Network("block", block, ()), bit_widths, known, device, objective, mode, alone) for block in some]
        found |= zip(some, run_parallel(_costs, work, effort.workers, effort.backend), strict=True)
        show(len(found) / len(every))
    return {block: found[shape] for block, shape in shapes.items()}


def _costs(*arguments: Any) -> dict[Bits, tuple[float, float]]:
    """What `fuse_network` finds with these arguments, small enough to send back."""
    _, plans = fuse_network(*arguments, scenarios=False)
    return {bits: fused.plan.energy_and_latency for bits, fused in plans.items()}
