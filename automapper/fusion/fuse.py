"""Fuse the layers of a network at every bit-width, and say what came of it: `fused` of report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

from automapper.budget import Clock
from automapper.fusion.groups import SPARE, Group, Grouping
from automapper.fusion.plan import Effort, Plan, Planner, Step
from automapper.objective import Objective
from automapper.result import baseline_of, best_of
from automapper.search import Outcome
from automapper.workload import Network
from hw_model import Cost, Device
from hw_model.widths import Bits, is_wider, width_order

ROW_STATIONARY = "row_stationary"


@dataclass(frozen=True)
class Fused:
    """At one bit-width: the plan; layer by layer, what it is compared with; the same with row-stationary mappings only,
    where that is a baseline; and what all layers cost while every tensor and weight stays on the chip from one
    inference to the next, where that fits."""

    plan: Plan
    alone: Plan
    row_stationary: Plan | None
    everything_stays: Cost | None


def fuse_network(
    network: Network,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    mode: str,
    effort: Effort,
    *,
    show: Callable[[int, int], None] = lambda done, of: None,
    scenarios: bool = True,
) -> tuple[Planner, dict[Bits, Fused]]:
    """The best plan of every bit-width. mode: "maps" or "strips"; show: called with bit-widths done, and their
    number; scenarios: whether to look at what `everything_stays` would cost."""
    planner = Planner(Grouping(network, device, mode), objective, effort)
    clock = Clock(effort.seconds)
    found: dict[Bits, Fused] = {}
    for bits in sorted(bit_widths, key=width_order, reverse=True):
        show(len(found), len(bit_widths))
        planner.clock = Clock(clock.until() / (len(bit_widths) - len(found)))
        best = best_of(network, bits, outcome)
        alone = planner.layer_by_layer(bits, best)
        wider = [found[other].plan for other in found if is_wider(other, bits)]
        plan = planner.plan(alone, wider[-1] if wider else None, outcome.baselines.own)
        rows = None
        if ROW_STATIONARY in outcome.baselines.shown:
            theirs = baseline_of(network, bits, outcome, ROW_STATIONARY)
            filled = [one or own for one, own in zip(theirs, best, strict=True)]
            rows = planner.within(plan, planner.layer_by_layer(bits, filled), ROW_STATIONARY)
            if not outcome.baselines.own:
                plan = planner.taken_over(plan, rows)
        found[bits] = Fused(plan, alone, rows, everything_stays(planner, plan, alone) if scenarios else None)
    return planner, found


def everything_stays(planner: Planner, plan: Plan, alone: Plan) -> Cost | None:
    """The cost of an inference while all weights and every map that may stay are on the chip, from mappings found for
    the whole network as one group; None where they do not fit, or the chip holds no weights with its maps, or there is
    no time."""
    grouping = planner.grouping
    if not planner.clock.until() or len({item.layer.N for item in planner.layers}) > 1:
        return None
    whole = Group(0, len(planner.layers), 1, grouping.batch, pinned=True)
    if not grouping.may_pin or max(grouping.reserved_bits(whole, plan.bits)) > (1 - SPARE) * grouping.room_bits:
        return None
    known = {step.group.begin: step.mappings[0] for step in alone.steps}
    cost = alone.cost
    weights = planner.weights(cost.energy_pj, cost.cycles)
    found = planner.searched([whole], alone, known, weights, preloaded=True)
    return found.cost if found.steps[0].fused else None


def fused_report(planner: Planner, fused: Fused, network: Network) -> dict[str, Any]:
    """`fused` of a bit-width in report.json: sums of the plan; `layer_by_layer`: those that it is compared with, in
    which what is added to an output is read from DRAM too; `baselines`; `scenarios`; and the groups in order."""
    objective = planner.objective
    plan, alone = fused.plan, fused.alone
    baselines = {}
    if fused.row_stationary is not None:
        baselines[ROW_STATIONARY] = _totals(fused.row_stationary.cost, objective)
    scenarios = {}
    if fused.everything_stays is not None:
        scenarios["everything_stays"] = _totals(fused.everything_stays, objective)
    return {
        **_totals(plan.cost, objective),
        "dram_bits": sum(planner.dram_bits(step, plan.bits) for step in plan.steps),
        "layer_by_layer": {
            **_totals(alone.cost, objective),
            "dram_bits": sum(planner.dram_bits(step, plan.bits) for step in alone.steps),
        },
        "baselines": baselines,
        "scenarios": scenarios,
        "groups": [_group(planner, step, plan, alone, network) for step in plan.steps if step.fused],
    }


def _group(planner: Planner, step: Step, plan: Plan, alone: Plan, network: Network) -> dict[str, Any]:
    group, bits = step.group, plan.bits
    reserved = planner.grouping.reserved_bits(group, bits)
    parts = planner.grouping.strips_of(group)
    assert parts is not None
    before = sum(planner.dram_bits(one, bits) for one in alone.steps[group.begin : group.end])
    members = [
        {
            "name": network.layers[group.begin + index].layer.name,
            "bits": network.layers[group.begin + index].bits_at(bits),
            "stays": planner.stays(group, index),
            "reserved_bits": reserved[index],
            "strips": [
                {"times": times, "dims": {k: v for k, v in part.to_dict().items() if k != "name"}}
                for part, times in parts[index]
            ],
            "mapping": mapping.to_dict(),
            "energy_j": cost.energy_j,
            "latency_s": cost.latency_s,
        }
        for index, (mapping, cost) in enumerate(zip(step.mappings, step.costs, strict=True))
    ]
    cost = sum(step.costs, Cost())
    after = planner.dram_bits(step, bits)
    return {
        "first": group.begin,
        "layers": members,
        "strips": group.strips,
        "images": group.images,
        "weights_stay": group.pinned,
        "buffer": planner.device.levels[planner.home].name,
        "on_chip_bits": max(reserved),
        "occupancy": max(reserved) / planner.grouping.room_bits,
        "dram_bits": after,
        "dram_bits_saved": before - after,
        **_totals(cost, planner.objective),
    }


def _totals(cost: Cost, objective: Objective) -> dict[str, float]:
    return {
        "energy_j": cost.energy_j,
        "latency_s": cost.latency_s,
        "edp_js": cost.edp_js,
        "objective_value": objective.value(cost.energy_j, cost.latency_s),
    }


def lines(report: MappingABC[str, Any]) -> list[str]:
    """What fusing gains at each bit-width, as notes for terminal and page."""
    found = []
    for row in report["bit_widths"]:
        if "fused" not in row:
            continue
        fused = row["fused"]
        gain = 1 - fused["objective_value"] / fused["layer_by_layer"]["objective_value"]
        saved = 1 - fused["dram_bits"] / fused["layer_by_layer"]["dram_bits"]
        layers = sum(len(group["layers"]) for group in fused["groups"])
        text = f"{fused['edp_js']:.3e} J*s, {gain:.1%} lower, {saved:.1%} fewer DRAM bits" if layers else "no gain"
        count = len(fused["groups"])
        found.append((row["bits"], f"{layers} layers in {count} group{'s' * (count != 1)}: {text}"))
    return [
        f"fused at {bits} bit: {text}" if isinstance(bits, int) else f"fused at {bits}: {text}" for bits, text in found
    ]
