"""Fixed mappings: found inside a dataflow at one bit-width and kept at every other, as on a chip without a mapper.

The paper's baseline is one: its energy-delay product is linear in the bit-width.
"""

from __future__ import annotations

from collections.abc import Sequence

from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Network, Problem, problem_of
from hw_model import Device, InvalidMapping, evaluate
from hw_model.widths import Bits


def fixed_problems(network: Network, bit_widths: Sequence[Bits], fixed_at: Bits) -> list[Problem]:
    """Problems to search besides those of the run: none where `fixed_at` is one of its bit-widths."""
    if fixed_at in bit_widths:
        return []
    return list(dict.fromkeys(problem_of(item, fixed_at) for item in network.layers if item.own_bits is None))


def add_fixed(outcome: Outcome, network: Network, bit_widths: Sequence[Bits], device: Device) -> None:
    """Add the fixed mappings that a run shows to the outcome, at every bit-width at which they fit."""
    baselines = outcome.baselines
    for name in baselines.shown:
        kept = baselines.kept(name)
        if not kept:
            continue
        for item in network.layers:
            source = outcome.found.get(Search(problem_of(item, baselines.fixed_at), kept))
            if source is None or item.own_bits is not None:
                continue
            for bits in bit_widths:
                problem = problem_of(item, bits)
                try:
                    cost = evaluate(problem.layer, source.mapping, device, problem.bits)
                except InvalidMapping:  # the words are wider than those it was found for
                    continue
                outcome.found[Search(problem, name)] = Found(Search(problem, name), source.mapping, cost, source.gaps)
