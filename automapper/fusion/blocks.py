"""What runs of layers cost by themselves when their layers may be fused, as the candidates of a search space."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

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
    """Block, `without_names` -> bit-width -> (energy in J, latency in s) with its layers in the groups that its own
    objective is lowest with; what is added to its output is charged. A block without layers is left out.

    outcome: the mappings of its layers. mode: "maps" or "strips". effort: of each block, but for `workers`, blocks at a
    time, and `seconds`, for all of them. show: called with the share that is done.
    """
    every = [block for block in dict.fromkeys(map(without_names, blocks)) if block]
    known = replace(outcome, units=[])  # searches that are done are large to send to another process
    clock, at_once = Clock(effort.seconds), effort.workers or os.cpu_count() or 1
    found: dict[Block, dict[Bits, tuple[float, float]]] = {}
    for begin in range(0, len(every), at_once):
        alone = replace(effort, workers=1, seconds=clock.until() / math.ceil((len(every) - begin) / at_once))
        some = every[begin : begin + at_once]
        work = [(block, bit_widths, known, device, objective, mode, alone) for block in some]
        costs = run_parallel(_fuse_block, work, effort.workers, effort.backend)
        found |= zip(some, costs, strict=True)
        show(len(found) / len(every))
    return found


def without_names(block: Block) -> Block:
    """The same for all blocks of the same shapes."""
    return tuple(replace(item, layer=nameless(item.layer)) for item in block)


def _fuse_block(
    block: Block,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    mode: str,
    effort: Effort,
) -> dict[Bits, tuple[float, float]]:
    network = Network("block", block, ())
    _, plans = fuse_network(network, bit_widths, outcome, device, objective, mode, effort, scenarios=False)
    return {bits: fused.plan.energy_and_latency for bits, fused in plans.items()}
