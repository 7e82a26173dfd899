"""The result of a run at one bit-width: multi-cycle or the best pipeline, whichever has the lower objective."""

from __future__ import annotations

from dataclasses import dataclass

from automapper.objective import Objective
from automapper.pipelines import Pipeline
from automapper.search import Found, Outcome
from automapper.workload import Network, problem_of
from hw_model import Cost, NetworkCost, multi_cycle


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


def found_of(network: Network, bits: int, outcome: Outcome, baseline: str = "") -> list[Found | None]:
    """The mapping of every layer, in running order; None where a layer has none in this baseline."""
    if not baseline:
        return [outcome.best(problem_of(item, bits), bits) for item in network.layers]
    return [outcome.baseline(item, bits, baseline) for item in network.layers]


def network_cost(network: Network, bits: int, outcome: Outcome, baseline: str = "") -> Cost | None:
    """The sum over the layers; None where one of them has no mapping in this baseline."""
    found = found_of(network, bits, outcome, baseline)
    return sum(item.cost for item in found) if all(found) else None


def value_of(objective: Objective, cost: Cost | NetworkCost) -> float:
    """The objective of layers that run one after another, or of a network as its mode has it."""
    return objective.network_value(cost.energy_j, cost.latency_s, getattr(cost, "interval_s", cost.latency_s))


def result_at(
    network: Network, bits: int, outcome: Outcome, pipeline: Pipeline | None, objective: Objective, why_not: str = ""
) -> Result | None:
    """The result at a bit-width, None while a layer has no valid mapping. why_not: there is no pipeline."""
    found = found_of(network, bits, outcome)
    if not all(found):
        return None
    total = multi_cycle([item.cost for item in found])
    alone = value_of(objective, total)
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
