"""The result of a run at one bit-width: multi-cycle or the best pipeline, whichever has the lower objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automapper.objective import Objective
from automapper.pipelines import Pipeline
from automapper.search import Found, Outcome
from automapper.workload import Network, problem_of
from hw_model import Cost, NetworkCost, multi_cycle
from hw_model.widths import Bits


@dataclass(frozen=True)
class Result:
    """mode: "multi-cycle" or "pipeline", that of `chosen`; value: of the objective, for `chosen`; pipeline: the best
    one found, chosen or not; why: of the mode, one sentence."""

    mode: str
    chosen: NetworkCost
    value: float
    multi_cycle: NetworkCost
    pipeline: Pipeline | None
    why: str


def best_of(network: Network, bits: Bits, outcome: Outcome) -> list[Found]:
    """The mapping of every layer as the network runs it, in running order. KeyError while a layer has none."""
    if bits in outcome.chosen:
        return list(outcome.chosen[bits].found)
    return [outcome.best(problem_of(item, bits), bits) for item in network.layers]


def baseline_of(network: Network, bits: Bits, outcome: Outcome, name: str) -> list[Found | None]:
    """What a baseline has for every layer, in running order; None where it has no mapping."""
    return [outcome.baseline(item, bits, name) for item in network.layers]


def network_cost(network: Network, bits: Bits, outcome: Outcome, baseline: str = "") -> Cost | None:
    """The sum over the layers; None where one of them has no mapping, or none in this baseline."""
    found: Sequence[Found | None] = ()
    if baseline:
        found = baseline_of(network, bits, outcome, baseline)
    elif all(outcome.has(problem_of(item, bits)) for item in network.layers):
        found = best_of(network, bits, outcome)
    costs = [one.cost for one in found if one]
    return sum(costs, Cost()) if len(costs) == len(network.layers) else None


def value_of(objective: Objective, cost: Cost | NetworkCost) -> float:
    """The objective of layers that run one after another, or of a network as its mode has it."""
    return objective.network_value(cost.energy_j, cost.latency_s, getattr(cost, "interval_s", cost.latency_s))


def result_at(
    network: Network, bits: Bits, outcome: Outcome, pipeline: Pipeline | None, objective: Objective, why_not: str = ""
) -> Result:
    """The result at a bit-width, of an outcome that has a mapping for every layer. why_not: there is no pipeline."""
    total = multi_cycle([found.cost for found in best_of(network, bits, outcome)])
    alone = value_of(objective, total)
    if bits in outcome.chosen:
        return Result("multi-cycle", total, alone, total, None, outcome.chosen[bits].why)
    if pipeline is None:
        return Result("multi-cycle", total, alone, total, None, f"no pipeline: {why_not}")
    cost = pipeline.cost
    staged = value_of(objective, cost)
    mode, other = ("pipeline", "multi-cycle") if staged < alone else ("multi-cycle", "the best pipeline")
    gain = 1 - min(alone, staged) / max(alone, staged)
    times = [
        f"{over / under:.2f} x the {name}"
        for name, over, under in (
            ("latency", cost.latency_s, total.latency_s),
            ("interval", cost.interval_s, total.interval_s),
            ("energy", cost.energy_j, total.energy_j),
        )
    ]
    why = (
        f"{objective.quantity} is {gain:.1%} lower than with {other}; the pipeline's "
        f"{len(pipeline.columns)} stages, with a part of PEs, buffers and bandwidth each, take {', '.join(times)}"
    )
    chosen = cost if mode == "pipeline" else total
    return Result(mode, chosen, min(alone, staged), total, pipeline, why)
