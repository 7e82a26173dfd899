"""report.json: everything a run found, in one file that other tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from automapper.dataflows import DATAFLOWS
from automapper.exhaustive import Optimum
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Network, NetworkLayer, problem_of
from hw_model import Cost, Device

FORMAT = 1
TIE = 1e-9  # EDPs that differ by less are the same


def build_report(
    network: Network,
    device: Device,
    objective: str,
    bit_widths: Sequence[int],
    outcome: Outcome,
    search: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json. search: mappings, seconds, mappings_per_second, seed, ... .

    The layers run one after another on the whole array (multi-cycle), so a network's energy and latency are sums, and
    the interval between two results is the latency. A layer's `dims`, `bits` and `mapping` with the device are a case
    of `python -m hw_model`, which gives the same numbers.
    """
    return {
        "format": FORMAT,
        "network": network.name,
        "device": device.name,
        "objective": objective,
        "bit_widths": [_bit_width(network, bits, outcome) for bits in bit_widths],
        "search": dict(search),
        "settings": dict(settings),
        "versions": versions(),
    }


def network_cost(network: Network, bits: int, outcome: Outcome, dataflow: str = "") -> Cost | None:
    """The sum over the layers; None where one of them has no mapping in this dataflow."""
    found = [outcome.found.get(Search(problem_of(item, bits), dataflow)) for item in network.layers]
    return sum(item.cost for item in found) if all(found) else None


def _bit_width(network: Network, bits: int, outcome: Outcome) -> dict[str, Any]:
    total = network_cost(network, bits, outcome)
    baselines = {}
    for name in DATAFLOWS:
        cost = network_cost(network, bits, outcome, name)
        if cost is not None:
            baselines[name] = {**_totals(cost), "edp_improvement_percent": improvement(total, cost)}
    return {
        "bits": bits,
        "accuracy": network.accuracy.get(bits),
        **_totals(total),
        "interval_s": total.latency_s,
        "mode": "multi-cycle",
        "utilisation": total.utilisation,
        "baselines": baselines,
        "layers": [_layer(item, bits, outcome) for item in network.layers],
    }


def _layer(item: NetworkLayer, bits: int, outcome: Outcome) -> dict[str, Any]:
    problem = problem_of(item, bits)
    best = outcome.found[Search(problem)]
    baselines = {}
    for name in DATAFLOWS:
        found = outcome.found.get(Search(problem, name))
        if found:
            baselines[name] = {
                **_totals(found.cost),
                "cycles": found.cost.cycles,
                "edp_improvement_percent": improvement(best.cost, found.cost),
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
        "winner": _winner(best, baselines),
        "baselines": baselines,
        "cost": best.cost.to_dict(),
    }


def _optimum(optimum: Optimum) -> dict[str, int]:
    """What shows that a layer's mapping is the best there is."""
    return {"mappings_covered": optimum.covered, "mappings_costed": optimum.evaluated, "nodes": optimum.nodes}


def _winner(best: Found, baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """The dataflow that is as good as the best mapping found, or "automapper" where none is."""
    for name, values in baselines.items():
        if values["edp_js"] <= best.cost.edp_js * (1 + TIE):
            return name
    return "automapper"


def _totals(cost: Cost) -> dict[str, float]:
    return {"energy_j": cost.energy_j, "latency_s": cost.latency_s, "edp_js": cost.edp_js}


def improvement(cost: Cost, over: Cost) -> float:
    """How many percent lower the EDP of `cost` is than that of `over`."""
    return 100.0 * (1.0 - cost.edp_js / over.edp_js)


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for package in ("numpy", "numba", "torch", "torchvision", "joblib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
