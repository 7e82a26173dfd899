"""report.json: everything a run found, in one file that other tools read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from automapper import published
from automapper.dataflows import DATAFLOWS
from automapper.exhaustive import Optimum
from automapper.objective import Objective
from automapper.pipelines import Pipeline, Pipelines
from automapper.result import Result, found_of, result_at, value_of
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Network, NetworkLayer, listed, problem_of
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
    pipelines: Pipelines,
    search: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json. search: mappings, seconds, mappings_per_second, seed, ... ; settings: those of the
    run, of which `device` is the name or path that hw_model loads.

    A bit-width's energy, latency, interval and EDP (energy of one input times its latency) are those of its `mode`;
    `objective_value` is what was minimised, with the delay that counts. `multi_cycle` and `pipeline` (the best one
    found) are the two it was chosen from. `layers` and `baselines` are always multi-cycle: one layer after another on
    the whole array. Each layer's `dims`, `bits` and `mapping` with the device are a case of `python -m hw_model`, which
    gives the same numbers. They are what the network runs; only where that is behind a baseline at the layer itself, a
    layer shows its own best and the other in `in_network` (see trade). A baseline that only some layers have runs
    AutoMapper's mappings at the others; `covered` has the sums and gains over its own layers, on both sides, and
    `baseline_notes` the reason.
    """
    return {
        "format": FORMAT,
        "network": network.name,
        "device": settings["device"],
        "device_name": device.name,
        "objective": objective.name,
        "minimised": objective.quantity,
        "bit_widths": [_bit_width(network, bits, outcome, pipelines, objective, device) for bits in bit_widths],
        "unmapped": network.unmapped_report(),
        "search": dict(search),
        "settings": dict(settings),
        "versions": versions(),
    }


def _bit_width(
    network: Network, bits: int, outcome: Outcome, pipelines: Pipelines, objective: Objective, device: Device
) -> dict[str, Any]:
    pipeline = pipelines.best(bits)
    why_not = "" if pipeline else pipelines.why_not(bits)
    result = result_at(network, bits, outcome, pipeline, objective, why_not)
    baselines, notes = {}, {}
    for name in BASELINES:
        entry, note = _baseline(network, bits, outcome, name, result, objective, device)
        baselines |= {name: entry} if entry else {}
        notes |= {name: note} if note else {}
    return {
        "bits": bits,
        "accuracy": network.accuracy.get(bits),
        **_totals(result.chosen, objective),
        "interval_s": result.chosen.interval_s,
        "mode": result.mode,
        "why": result.why,
        "utilisation": result.chosen.total.utilisation,
        "baselines": baselines,
        "baseline_notes": notes,
        "multi_cycle": {**_totals(result.multi_cycle, objective), "interval_s": result.multi_cycle.interval_s},
        "pipeline": _pipeline(pipeline, network, objective, device) if pipeline else None,
        "layers": [_layer(item, bits, outcome, objective) for item in network.layers],
    }


def _baseline(
    network: Network, bits: int, outcome: Outcome, name: str, result: Result, objective: Objective, device: Device
) -> tuple[dict[str, Any] | None, str]:
    """(the sums of a dataflow over the layers that have a mapping in it, None where none has; a note on them)."""
    found = found_of(network, bits, outcome, name)
    shapes = [item.layer for item in network.layers]
    with_one = [shape for shape, one in zip(shapes, found, strict=True) if one]
    notes = []
    if name == published.NAME:
        adapted = [shape for shape in with_one if not published.is_published(shape)]
        if adapted:
            notes.append(f"adapted from AlexNet's layers to {listed(shape.name for shape in adapted)}")
        why = published.why_missing(shapes, found, device, bits)
    else:
        missing = [shape for shape, one in zip(shapes, found, strict=True) if one is None]
        why = (
            f"no mapping found inside its constraints for {listed(shape.name for shape in missing)}" if missing else ""
        )
    if not with_one:
        return None, f"none: {why}"
    best = found_of(network, bits, outcome)
    cost = sum((one or own).cost for one, own in zip(found, best, strict=True))
    entry = {
        **_totals(cost, objective),
        **improvements(result.chosen, cost, objective),
        "layers_covered": len(with_one),
        "layers": len(shapes),
    }
    if len(with_one) < len(shapes):
        theirs = sum(one.cost for one in found if one)
        ours = sum(own.cost for own, other in zip(best, found, strict=True) if other)
        both = {"automapper": _totals(ours, objective), **improvements(ours, theirs, objective)}
        entry["covered"] = {**_totals(theirs, objective), **both}
        notes.insert(0, f"gain over {len(with_one)} of {len(shapes)} layers, on both sides, multi-cycle; {why}")
    return entry, "; ".join(notes)


def _pipeline(pipeline: Pipeline, network: Network, objective: Objective, device: Device) -> dict[str, Any]:
    stages = []
    for columns, begin, end, cost in zip(
        pipeline.columns, (0, *pipeline.ends), pipeline.ends, pipeline.cost.stages, strict=False
    ):
        layers = [
            {"name": item.layer.name, "bits": found.search.problem.bits, **_mapped(found, objective)}
            for item, found in zip(network.layers[begin:end], pipeline.found[begin:end], strict=True)
        ]  # fmt: skip
        pes = columns * device.array[1]
        stages.append({"columns": columns, "pes": pes, **_totals(cost, objective), "layers": layers})
    return {**_totals(pipeline.cost, objective), "interval_s": pipeline.cost.interval_s, "stages": stages}


def _layer(item: NetworkLayer, bits: int, outcome: Outcome, objective: Objective) -> dict[str, Any]:
    problem = problem_of(item, bits)
    best = outcome.shown(problem, bits)
    baselines = {}
    for name in BASELINES:
        found = outcome.found.get(Search(problem, name))
        if found:
            baselines[name] = {
                **_totals(found.cost, objective),
                "cycles": found.cost.cycles,
                **({"adapted": not published.is_published(item.layer)} if name == published.NAME else {}),
                **improvements(best.cost, found.cost, objective),
                "mapping": found.mapping.to_dict(),
            }
    return {
        "name": item.layer.name,
        "bits": problem.bits,
        "dims": {name: size for name, size in item.layer.to_dict().items() if name != "name"},
        **_mapped(best, objective),
        **(_proof(outcome.optima[problem], best, objective) if problem in outcome.optima else {}),
        "winner": _winner(best, baselines, objective),
        "traded": (bits, problem) in outcome.traded,
        **({"in_network": _mapped(outcome.best(problem, bits), objective)} if (bits, problem) in outcome.aside else {}),
        "baselines": baselines,
        "cost": best.cost.to_dict(),
    }


def _mapped(found: Found, objective: Objective) -> dict[str, Any]:
    return {"mapping": found.mapping.to_dict(), "cycles": found.cost.cycles, **_totals(found.cost, objective)}


def _proof(optimum: Optimum, best: Found, objective: Objective) -> dict[str, Any]:
    """What shows how good a layer's mapping is. `bound`: no mapping is below the lower value; the gap is the share by
    which the best one found could be improved at most, 0 where the walk came to its end (`complete`)."""
    value = objective.value(best.cost.energy_j, best.cost.latency_s)
    gap = 0.0 if optimum.complete else -math.expm1(optimum.lower - optimum.score)
    what = "edp_js" if objective.name == "edp" else "objective_value"
    return {
        "exhaustive": {
            "complete": optimum.complete,
            "mappings_covered": optimum.covered,
            "mappings_costed": optimum.evaluated,
            "nodes": optimum.nodes,
        },
        "bound": {f"best_{what}": value, f"lower_{what}": value * (1 - gap), "gap": gap},
    }


def _winner(best: Found, baselines: Mapping[str, Mapping[str, Any]], objective: Objective) -> str:
    """The dataflow that is as good by the objective as the best mapping found, or "automapper" where none is."""
    ours = objective.value(best.cost.energy_j, best.cost.latency_s)
    for name, values in baselines.items():
        if objective.value(values["energy_j"], values["latency_s"]) <= ours * (1 + TIE):
            return name
    return "automapper"


def _totals(cost: Cost | NetworkCost, objective: Objective) -> dict[str, float]:
    return {
        "energy_j": cost.energy_j,
        "latency_s": cost.latency_s,
        "edp_js": cost.edp_js,
        "objective_value": value_of(objective, cost),
    }


def improvements(cost: Cost | NetworkCost, over: Cost, objective: Objective) -> dict[str, float]:
    """How many percent lower energy, latency, EDP and the objective of `cost` are than those of `over`."""
    ours, theirs = _totals(cost, objective), _totals(over, objective)
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
