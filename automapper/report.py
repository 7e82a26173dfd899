"""report.json: everything a run found, in one file that other tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from automapper import published
from automapper.dataflows import DATAFLOWS
from automapper.exhaustive import Optimum
from automapper.objective import Objective
from automapper.pipelines import Pipeline
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Network, NetworkLayer, problem_of
from hw_model import Cost, Device, NetworkCost

FORMAT = 1
BASELINES = (*DATAFLOWS, published.NAME)
TIE = 1e-9  # EDPs that differ by less are the same


def build_report(
    network: Network,
    device: Device,
    objective: Objective,
    bit_widths: Sequence[int],
    outcome: Outcome,
    pipelines: Mapping[int, Pipeline],
    search: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json. search: mappings, seconds, mappings_per_second, seed, ... .

    A bit-width's energy, latency, interval and EDP (energy of one input times its latency) are those of its `mode`.
    `layers` are mapped onto the whole array, one after another: multi-cycle. Each one's `dims`, `bits` and `mapping`
    with the device are a case of `python -m hw_model`, which gives the same numbers. `pipeline`: the best one found.
    """
    return {
        "format": FORMAT,
        "network": network.name,
        "device": device.name,
        "objective": objective.name,
        "bit_widths": [
            _bit_width(network, bits, outcome, pipelines.get(bits), objective, device) for bits in bit_widths
        ],
        "search": dict(search),
        "settings": dict(settings),
        "versions": versions(),
    }


def network_cost(network: Network, bits: int, outcome: Outcome, dataflow: str = "") -> Cost | None:
    """The sum over the layers; None where one of them has no mapping in this dataflow."""
    found = [outcome.found.get(Search(problem_of(item, bits), dataflow)) for item in network.layers]
    return sum(item.cost for item in found) if all(found) else None


def _bit_width(
    network: Network, bits: int, outcome: Outcome, pipeline: Pipeline | None, objective: Objective, device: Device
) -> dict[str, Any]:
    total = network_cost(network, bits, outcome)
    mode, why = _mode(total, pipeline, objective)
    chosen = pipeline.cost if mode == "pipeline" else total
    baselines = {}
    for name in BASELINES:
        cost = network_cost(network, bits, outcome, name)
        if cost is not None:
            baselines[name] = {**_totals(cost), **improvements(chosen, cost)}
    return {
        "bits": bits,
        "accuracy": network.accuracy.get(bits),
        **_totals(chosen),
        "interval_s": pipeline.cost.interval_s if mode == "pipeline" else total.latency_s,
        "mode": mode,
        "why": why,
        "utilisation": total.utilisation,
        "baselines": baselines,
        "pipeline": _pipeline(pipeline, network, device) if pipeline else None,
        "layers": [_layer(item, bits, outcome, objective) for item in network.layers],
    }


def _mode(total: Cost, pipeline: Pipeline | None, objective: Objective) -> tuple[str, str]:
    """("multi-cycle" or "pipeline", why)."""
    if pipeline is None:
        return "multi-cycle", "no pipeline: one stage asked for, one layer, no valid split, or interrupted before"
    cost = pipeline.cost
    alone = objective.network_value(total.energy_j, total.latency_s, total.latency_s)
    staged = objective.network_value(cost.energy_j, cost.latency_s, cost.interval_s)
    mode, other = ("pipeline", "multi-cycle") if staged < alone else ("multi-cycle", "the best pipeline")
    gain = 1 - min(alone, staged) / max(alone, staged)
    times = [
        f"{over / under:.2f} x the {name}"
        for name, over, under in (
            ("latency", cost.latency_s, total.latency_s),
            ("interval", cost.interval_s, total.latency_s),
            ("energy", cost.energy_j, total.energy_j),
        )
    ]
    return mode, (
        f"{_quantity(objective)} is {gain:.1%} lower than with {other}; the pipeline's "
        f"{len(pipeline.columns)} stages, with a part of PEs, buffers and bandwidth each, take {', '.join(times)}"
    )


def _quantity(objective: Objective) -> str:
    """The objective in words: `energy`, `the interval`, `edp over the latency`."""
    if not objective.latency_weight:
        return "energy"
    return f"{objective.name} over the {objective.delay}" if objective.energy_weight else f"the {objective.delay}"


def _pipeline(pipeline: Pipeline, network: Network, device: Device) -> dict[str, Any]:
    stages = []
    for columns, begin, end, cost in zip(
        pipeline.columns, (0, *pipeline.ends), pipeline.ends, pipeline.cost.stages, strict=False
    ):
        layers = [
            {"name": item.layer.name, "bits": found.search.problem.bits, "mapping": found.mapping.to_dict(),
             "cycles": found.cost.cycles, **_totals(found.cost)}
            for item, found in zip(network.layers[begin:end], pipeline.found[begin:end], strict=True)
        ]  # fmt: skip
        stages.append({"columns": columns, "pes": columns * device.array[1], **_totals(cost), "layers": layers})
    return {**_totals(pipeline.cost), "interval_s": pipeline.cost.interval_s, "stages": stages}


def _layer(item: NetworkLayer, bits: int, outcome: Outcome, objective: Objective) -> dict[str, Any]:
    problem = problem_of(item, bits)
    best = outcome.found[Search(problem)]
    baselines = {}
    for name in BASELINES:
        found = outcome.found.get(Search(problem, name))
        if found:
            baselines[name] = {
                **_totals(found.cost),
                "cycles": found.cost.cycles,
                **improvements(best.cost, found.cost),
                "mapping": found.mapping.to_dict(),
            }
    return {
        "name": item.layer.name,
        "bits": problem.bits,
        "dims": {name: size for name, size in item.layer.to_dict().items() if name != "name"},
        "mapping": best.mapping.to_dict(),
        "cycles": best.cost.cycles,
        **_totals(best.cost),
        **({"exhaustive": _optimum(outcome.optima[problem])} if problem in outcome.optima else {}),
        "winner": _winner(best, baselines, objective),
        "baselines": baselines,
        "cost": best.cost.to_dict(),
    }


def _optimum(optimum: Optimum) -> dict[str, int]:
    """What shows that a layer's mapping is the best there is."""
    return {"mappings_covered": optimum.covered, "mappings_costed": optimum.evaluated, "nodes": optimum.nodes}


def _winner(best: Found, baselines: Mapping[str, Mapping[str, Any]], objective: Objective) -> str:
    """The dataflow that is as good by the objective as the best mapping found, or "automapper" where none is."""
    ours = objective.value(best.cost.energy_j, best.cost.latency_s)
    for name, values in baselines.items():
        if objective.value(values["energy_j"], values["latency_s"]) <= ours * (1 + TIE):
            return name
    return "automapper"


def _totals(cost: Cost | NetworkCost) -> dict[str, float]:
    return {"energy_j": cost.energy_j, "latency_s": cost.latency_s, "edp_js": cost.edp_js}


def improvements(cost: Cost | NetworkCost, over: Cost) -> dict[str, float]:
    """How many percent lower energy, latency and EDP of `cost` are than those of `over`."""
    ours, theirs = _totals(cost), _totals(over)
    return {
        f"{name.rpartition('_')[0]}_improvement_percent": 100.0 * (1.0 - ours[name] / theirs[name]) for name in ours
    }


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for package in ("numpy", "numba", "torch", "torchvision", "joblib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
