"""What is kept of a report.json of the mapper."""

import json
from collections.abc import Mapping
from math import ceil, inf
from pathlib import Path
from typing import Any

from hw_model import Device, Layer, evaluate, load_device
from hw_model.tables import word_bits
from hw_model.widths import BitsLike

COSTS = ("energy_j", "latency_s", "edp_js")


def map_result(folder: Path) -> dict[str, Any]:
    """Costs per bit-width, of AutoMapper and of every baseline; which layers the DRAM link bounds; shares of energy."""
    report = json.loads((folder / "report.json").read_text())
    device = load_device(report["device"])
    rows = {row["bits"]: of_bit_width(row, device) for row in report["bit_widths"]}
    search = {name: report["search"][name] for name in ("engine", "mappings", "seconds", "seed")}
    return {"device": report["device"], "layers": len(report["bit_widths"][0]["layers"]), "bits": rows, **search}


def of_bit_width(row: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """Costs of the network at one bit-width, and what explains them.

    converged: AutoMapper's own searches, known where those of some baseline have converged too. energy_shares: of a
    memory, the network between the PEs ("noc"), the multipliers ("mac") and idle power. dram_bound: {layer: share of
    the latency} of the layers that no mapping can run in fewer cycles, see `least_dram_cycles`.
    """
    bound = {layer["name"] for layer in row["layers"] if run_by_network(layer)["cycles"] <= least_of(layer, device)}
    latency_s = sum(run_by_network(layer)["latency_s"] for layer in row["layers"])
    return {
        **{name: row[name] for name in (*COSTS, "mode", "utilisation")},
        "converged": any(values["converged"] for values in row["baselines"].values()),
        "energy_shares": energy_shares(row, device),
        "dram_bound": {
            layer["name"]: run_by_network(layer)["latency_s"] / latency_s
            for layer in row["layers"]
            if layer["name"] in bound
        },
        "baselines": {name: of_baseline(name, values, row, bound) for name, values in row["baselines"].items()},
    }


def of_baseline(name: str, values: Mapping[str, Any], row: Mapping[str, Any], bound: set[str]) -> dict[str, Any]:
    """Its costs; where only some layers have a mapping in it, AutoMapper's over the same layers beside them.

    as_fast: at how many of the `bound` layers it takes as many cycles as AutoMapper.
    """
    own = values.get("covered", values)
    kept = {
        **{cost: own[cost] for cost in COSTS},
        **{fact: values[fact] for fact in ("converged", "fixed_at", "layers_covered", "layers") if fact in values},
        "as_fast": sum(
            layer["baselines"][name]["cycles"] == run_by_network(layer)["cycles"]
            for layer in row["layers"]
            if layer["name"] in bound and name in layer["baselines"]
        ),
    }
    if "automapper" in own:
        kept["automapper"] = {cost: own["automapper"][cost] for cost in COSTS}
    return kept


def run_by_network(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer's mapping and costs in the network, which may differ from the layer's own best."""
    return layer.get("in_network", layer)


def least_of(layer: Mapping[str, Any], device: Device) -> int:
    return least_dram_cycles(Layer(**layer["dims"]), device, layer["bits"])


def least_dram_cycles(layer: Layer, device: Device, bits: BitsLike) -> int:
    """Cycles that the DRAM link takes to bring every weight and input once, or to take every output once: the slower
    of the two. No mapping is faster, whatever its dataflow."""
    width, dram = word_bits(device, bits), device.levels[0]
    read = width["W"] * layer.words("W") + width["I"] * layer.words("I")
    written = width["final"] * layer.words("O")
    links = (read, dram.read_bandwidth_bits_per_cycle), (written, dram.write_bandwidth_bits_per_cycle)
    return max(0 if rate == inf else ceil(moved / rate) for moved, rate in links)


def energy_shares(row: Mapping[str, Any], device: Device) -> dict[str, float]:
    """Part of the energy per place, of the layers one after another."""
    costs = [
        evaluate(layer["dims"], run_by_network(layer)["mapping"], device, layer["bits"]) for layer in row["layers"]
    ]
    total = sum(costs)
    places = {
        name: sum(part.energy_pj for part in parts.values())
        for name, parts in {**total.levels, "noc": total.noc}.items()
    }
    places |= {"mac": total.mac_energy_pj, "idle": total.idle_energy_pj}
    return {name: energy_pj / total.energy_pj for name, energy_pj in places.items()}
