"""report.json: everything a run found, in one file that other tools read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import instantnet
from automapper import published
from automapper.dataflows import Dataflow, built_in, why_none
from automapper.evolve import CONVERGED
from automapper.exhaustive import Optimum
from automapper.objective import Objective
from automapper.pareto import NetworkFront
from automapper.pipelines import Pipeline, Pipelines
from automapper.result import Result, baseline_of, best_of, result_at, value_of
from automapper.search import Found, Outcome
from automapper.workload import Network, NetworkLayer, listed, problem_of
from hw_model import Cost, Device, Layer, NetworkCost
from hw_model.widths import Bits, in_words, is_wider
from instantnet.engine.version import commit

FORMAT = 1
TIE = 1e-9  # EDPs that differ by less are the same
POINTS = 100  # of a Pareto front that a report shows, at most, besides the one with the lowest EDP


def build_report(
    network: Network,
    device: Device,
    objective: Objective,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    pipelines: Pipelines,
    search: Mapping[str, Any],
    settings: Mapping[str, Any],
    fronts: Mapping[Bits, NetworkFront] | None = None,
    fused: Mapping[Bits, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The content of report.json. search: mappings, seconds, mappings_per_second, seed, ... ; settings: those of the
    run, of which `device` is the name or path that hw_model loads.

    A bit-width's energy, latency, interval and EDP (energy of one input times its latency) are those of its `mode`;
    `objective_value` is what was minimised, with the delay that counts. `multi_cycle` and `pipeline` (the best one
    found) are the two it was chosen from. `layers` and `baselines` are always multi-cycle: one layer after another on
    the whole array. Each layer's `dims`, `bits` and `mapping` with the device are a case of `python -m hw_model`, which
    gives the same numbers. They are the layer's own best; where the network runs another mapping, that is in
    `in_network` (see trade). A baseline that only some layers have runs AutoMapper's mappings at the
    others; `covered` has the sums and gains over its own layers, on both sides, and `baseline_notes` the reason. A
    baseline has gains, `*_improvement_percent`, only where it is `converged`: its searches and AutoMapper's are.

    All of these are layer by layer. fused: `fused` of each bit-width, what the network costs with layers in groups.
    """
    return {
        "format": FORMAT,
        "network": network.name,
        "device": settings["device"],
        "device_name": device.name,
        "objective": objective.name,
        "minimised": objective.quantity,
        "within": outcome.baselines.own_name,
        "bit_widths": [
            _bit_width(network, bits, outcome, pipelines, objective, device)
            | (_pareto(fronts[bits], objective) if fronts else {})
            | ({"fused": fused[bits]} if fused else {})
            for bits in bit_widths
        ],
        "unmapped": network.unmapped_report(),
        "search": dict(search),
        "settings": dict(settings),
        "versions": versions(),
    }


def _bit_width(
    network: Network, bits: Bits, outcome: Outcome, pipelines: Pipelines, objective: Objective, device: Device
) -> dict[str, Any]:
    pipeline = pipelines.best(bits)
    why_not = "" if pipeline else pipelines.why_not(bits)
    result = result_at(network, bits, outcome, pipeline, objective, why_not)
    baselines: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    for name in outcome.baselines.shown:
        entry, note = _baseline(network, bits, outcome, name, result, objective, device)
        baselines |= {name: entry} if entry else {}
        notes |= {name: note} if note else {}
    chosen = outcome.chosen.get(bits)
    runs = best_of(network, bits, outcome)
    return {
        "bits": bits,
        "accuracy": network.accuracy.get(bits),
        **_totals(result.chosen, objective),
        "interval_s": result.chosen.interval_s,
        "mode": result.mode,
        "why": result.why,
        **({"within_limits": chosen.met} if chosen else {}),
        "utilisation": result.chosen.total.utilisation,
        "baselines": baselines,
        "baseline_notes": notes,
        "multi_cycle": {**_totals(result.multi_cycle, objective), "interval_s": result.multi_cycle.interval_s},
        "pipeline": _pipeline(pipeline, network, objective, device) if pipeline else None,
        "layers": [_layer(item, bits, outcome, objective, one) for item, one in zip(network.layers, runs, strict=True)],
    }


def _pareto(front: NetworkFront, objective: Objective) -> dict[str, Any]:
    energy_j, latency_s = front.energy_pj * 1e-12, front.latency_s()
    best = front.best(lambda energy, latency: energy * latency)
    even = np.linspace(0, len(front) - 1, min(len(front), POINTS)).round().astype(int)
    points = sorted({*even.tolist(), best})
    return {
        "pareto": {
            "size": len(front),
            "lowest_edp": points.index(best),
            "points": [
                {
                    "energy_j": float(energy_j[point]),
                    "latency_s": float(latency_s[point]),
                    "edp_js": float(energy_j[point] * latency_s[point]),
                    "choices": front.choices(point),
                }
                for point in points
            ],
            "layers": [[_mapped(found, objective) for found in options] for options in front.options],
        }
    }


def _baseline(
    network: Network, bits: Bits, outcome: Outcome, name: str, result: Result, objective: Objective, device: Device
) -> tuple[dict[str, Any] | None, str]:
    """(the sums of a dataflow over the layers that have a mapping in it, None where none has; a note on them)."""
    found = baseline_of(network, bits, outcome, name)
    shapes = [item.layer for item in network.layers]
    with_one = [shape for shape, one in zip(shapes, found, strict=True) if one]
    notes = []
    missing = [shape for shape, one in zip(shapes, found, strict=True) if one is None]
    if name == published.NAME:
        adapted = [shape for shape in with_one if not published.is_published(shape)]
        if adapted:
            notes.append(f"adapted from AlexNet's layers to {listed(shape.name for shape in adapted)}")
        why = published.why_missing(shapes, found, device, bits)
    else:
        why = _why_missing(outcome, name, missing, device, bits)
    if not with_one:
        return None, f"none: {why}"
    best = best_of(network, bits, outcome)
    cost = sum(((one or own).cost for one, own in zip(found, best, strict=True)), Cost())
    own = [outcome.own(problem_of(item, bits)) for item in network.layers]
    converged = have_converged(own, objective) and have_converged([one for one in found if one], objective)
    entry: dict[str, Any] = {
        **_totals(cost, objective),
        "converged": converged,
        **(improvements(result.chosen, cost, objective) if converged else {}),
        **({"fixed_at": outcome.baselines.fixed_at} if outcome.baselines.kept(name) else {}),
        "layers_covered": len(with_one),
        "layers": len(shapes),
    }
    if len(with_one) < len(shapes):
        theirs = sum((one.cost for one in found if one), Cost())
        ours = sum((own.cost for own, other in zip(best, found, strict=True) if other), Cost())
        gains = improvements(ours, theirs, objective) if converged else {}
        entry["covered"] = {**_totals(theirs, objective), "automapper": _totals(ours, objective), **gains}
        notes.insert(0, f"gain over {len(with_one)} of {len(shapes)} layers, on both sides, multi-cycle; {why}")
    return entry, "; ".join(notes)


def _why_missing(outcome: Outcome, name: str, missing: Sequence[Layer], device: Device, bits: Bits) -> str:
    """Why some layers have no mapping in a dataflow, or no fixed one; empty where all have."""
    if not missing:
        return ""
    kept = outcome.baselines.kept(name)
    dataflow = kept or outcome.baselines.dataflows[name]
    definition = dataflow if isinstance(dataflow, Dataflow) else built_in()[dataflow]
    if why := why_none(definition, device):
        return why
    names, fixed_at = listed(shape.name for shape in missing), outcome.baselines.fixed_at
    if kept and not is_wider(fixed_at, bits):
        return f"the mappings found at {in_words(fixed_at)} do not fit at {in_words(bits)} for {names}"
    return f"no mapping found inside its constraints for {names}"


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


def _layer(item: NetworkLayer, bits: Bits, outcome: Outcome, objective: Objective, runs: Found) -> dict[str, Any]:
    """runs: what the network runs at this layer."""
    problem = problem_of(item, bits)
    best = outcome.own(problem)
    baselines = {}
    for name in outcome.baselines.shown:
        found = outcome.baseline(item, bits, name)
        if found:
            converged = best.converged and found.converged
            baselines[name] = {
                **_totals(found.cost, objective),
                "cycles": found.cost.cycles,
                **({"adapted": not published.is_published(item.layer)} if name == published.NAME else {}),
                "converged": converged,
                **(improvements(best.cost, found.cost, objective) if converged else {}),
                "mapping": found.mapping.to_dict(),
            }
    traded = runs.mapping != best.mapping
    return {
        "name": item.layer.name,
        "bits": problem.bits,
        "dims": {name: size for name, size in item.layer.to_dict().items() if name != "name"},
        **_mapped(best, objective),
        **(_proof(outcome.optima[problem], best, objective) if problem in outcome.optima else {}),
        "converged": best.converged,
        "winner": _winner(best, baselines, objective),
        "traded": traded,
        **({"in_network": _mapped(runs, objective)} if traded else {}),
        "baselines": baselines,
        "cost": best.cost.to_dict(),
    }


def _mapped(found: Found, objective: Objective) -> dict[str, Any]:
    return {"mapping": found.mapping.to_dict(), "cycles": found.cost.cycles, **_totals(found.cost, objective)}


def _proof(optimum: Optimum, best: Found, objective: Objective) -> dict[str, Any]:
    """The proof for a layer's mapping. `bound`: no mapping is below the lower value; the gap is the largest share by
    which the best one found could still improve, 0 where the walk ended (`complete`)."""
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


def have_converged(found: Sequence[Found], objective: Objective) -> bool:
    """Whether the searches of some layers have converged as a whole: the mean of their gaps, each layer weighted with
    its share in the sums of energy and latency, as far as the objective counts these."""
    energy_j, latency_s = sum(one.cost.energy_j for one in found), sum(one.cost.latency_s for one in found)
    means = [0.0, 0.0]
    for one in found:
        energy = objective.energy_weight * one.cost.energy_j / energy_j
        latency = objective.latency_weight * one.cost.latency_s / latency_s
        share = (energy + latency) / (objective.energy_weight + objective.latency_weight)
        means = [mean + share * gap for mean, gap in zip(means, one.gaps, strict=True)]
    return max(means) <= CONVERGED


def improvements(cost: Cost | NetworkCost, over: Cost, objective: Objective) -> dict[str, float]:
    """How many percent lower energy, latency, EDP and the objective of `cost` are than those of `over`."""
    ours, theirs = _totals(cost, objective), _totals(over, objective)
    return {
        f"{name.rpartition('_')[0]}_improvement_percent": 100.0 * (1.0 - ours[name] / theirs[name]) for name in ours
    }


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {"instantnet": f"{instantnet.__version__} ({commit()})"}
    for package in ("numpy", "numba", "torch", "torchvision", "joblib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
