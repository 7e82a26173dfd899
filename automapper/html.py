"""report.html: the content of report.json as one page that works offline."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

from automapper.fusion.fuse import lines as fused_lines
from automapper.fusion.picture import picture
from automapper.plot import COLOURS, Series, plot
from automapper.terminal import fronts, modes, notes
from automapper.workload import unmapped_lines
from hw_model import DIMS, TENSORS, Device, Layer
from hw_model import Mapping as LoopMapping
from hw_model.energy import mac_rate
from hw_model.loop_nest import loop_nest
from hw_model.tables import word_bits
from hw_model.widths import Bits, in_words, widths_of


def render(report: Mapping[str, Any], device: Device) -> str:
    """The page of a report made for `device`."""
    widths = [_bit_width(row, device) for row in report["bit_widths"]]
    places = [*device.level_names, "noc", "mac", *(["idle"] if device.idle_power_mw else [])]
    return _template().render(
        report=report,
        device=device,
        widths=widths,
        colour=dict(zip(places, itertools.cycle(COLOURS))),
        macs=sum(math.prod(layer["dims"][d] for d in DIMS) for layer in report["bit_widths"][0]["layers"]),
        accuracy_plot=accuracy_plot(report),
        convergence_plot=convergence_plot(report),
        pareto_plot=pareto_plot(report),
        dataflows=_baselines(report),
        groups=picture(report),
        notes=[
            *notes(report),
            *modes(report),
            *fronts(report),
            *fused_lines(report),
            *unmapped_lines(report["unmapped"]),
        ],
    )


@functools.cache
def _template():
    from jinja2 import Environment, PackageLoader, StrictUndefined  # imported here: only this needs it

    environment = Environment(loader=PackageLoader("automapper", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters["short"] = lambda value: f"{value:.3g}"
    environment.filters["in_words"] = in_words
    environment.filters["words"] = lambda name: name.replace("_", "-")
    return environment.get_template("report.html.j2")


def _baselines(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for row in report["bit_widths"] for name in row["baselines"]))


def accuracy_plot(report: Mapping[str, Any]) -> str:
    """Accuracy over EDP (or what else was minimised), one point per bit-width, AutoMapper and each dataflow; without
    accuracies EDP over bits."""
    quantity = _axis_label(report)
    rows = report["bit_widths"]
    known = all(row["accuracy"] is not None for row in rows)
    series = []
    for name in ["AutoMapper", *_baselines(report)]:
        costs = [row if name == "AutoMapper" else row["baselines"].get(name) for row in rows]
        pairs = [(row, cost) for row, cost in zip(rows, costs, strict=True) if cost]
        values = [cost["objective_value"] for _, cost in pairs]
        points = [
            (value, row["accuracy"]) if known else (_mean_width(row["bits"]), value)
            for (row, _), value in zip(pairs, values, strict=True)
        ]
        notes = [
            f"{name}, {in_words(row['bits'])}: {quantity} {value:.3e}"
            for (row, _), value in zip(pairs, values, strict=True)
        ]
        if points:
            part = next((cost for _, cost in pairs if "covered" in cost), None)
            label = name.replace("_", "-")
            label += f" ({part['layers_covered']} of {part['layers']} layers)" if part else ""
            series.append(Series(label, points, notes, dashed=name != "AutoMapper"))
    if known:
        return plot(series, quantity, "accuracy, %", log_x=True, y_most=100)
    return plot(series, "bit-width", quantity, log_y=True)


def pareto_plot(report: Mapping[str, Any]) -> str:
    """Energy against latency: the Pareto front of every bit-width; nothing where none was searched."""
    series = []
    for row in report["bit_widths"]:
        if "pareto" not in row:
            continue
        points = row["pareto"]["points"]
        notes = [f"{one['latency_s']:.3e} s, {one['energy_j']:.3e} J, EDP {one['edp_js']:.3e} J*s" for one in points]
        notes[row["pareto"]["lowest_edp"]] += ", the lowest"
        series.append(Series(in_words(row["bits"]), [(one["latency_s"], one["energy_j"]) for one in points], notes))
    return plot(series, "latency, s", "energy, J", log_x=True, log_y=True) if series else ""


def _axis_label(report: Mapping[str, Any]) -> str:
    return "energy-delay product, J*s" if report["minimised"] == "EDP" else report["minimised"]


def convergence_plot(report: Mapping[str, Any]) -> str:
    """Convergence: the layers' objective, its geometric mean in percent above the final value, against mappings
    tried."""
    history = report["search"]["convergence"]
    series = []
    for row in report["bit_widths"]:
        bits = str(row["bits"])
        points = [
            (point["mappings"], 100 * (point["mean_layer_value"][bits] / history[-1]["mean_layer_value"][bits] - 1))
            for point in history
        ]
        series.append(Series(in_words(row["bits"]), points))
    return plot(series, "mappings tried", f"{report['minimised']} above the final, %", log_x=True)


def _bit_width(row: Mapping[str, Any], device: Device) -> dict[str, Any]:
    layers = [_layer(layer, device) for layer in row["layers"]]
    largest = max(layer["energy_j"] for layer in row["layers"])
    for layer in layers:
        layer["bar_percent"] = 100 * layer["energy_j"] / largest
    return {**row, "layers": layers, "roofline": roofline_plot(layers, row["bits"], device)}


def _layer(layer: Mapping[str, Any], device: Device) -> dict[str, Any]:
    cost = layer["cost"]
    parts = {level: sum(t["energy_j"] for t in tensors.values()) for level, tensors in cost["levels"].items()}
    parts |= {name: cost[name]["energy_j"] for name in ("noc", "mac", "idle") if cost[name]["energy_j"]}
    shape = Layer(name=layer["name"], **layer["dims"])
    mapping = LoopMapping.from_dict(layer["mapping"])
    return {
        **layer,
        "parts": [(name, joules, 100 * joules / layer["energy_j"]) for name, joules in parts.items()],
        "nest": loop_nest(shape, mapping, device, layer["bits"]),
        "intensity": _intensity(layer, shape, device),
        "macs_per_cycle": cost["macs"] / layer["cycles"],
    }


def _mean_width(bits: Bits) -> float:
    """The position of a bit-width on an axis: the mean of weights and inputs."""
    widths = widths_of(bits)
    return (widths.W + widths.I) / 2


def _intensity(layer: Mapping[str, Any], shape: Layer, device: Device) -> float:
    """MACs per byte over the busier direction of the DRAM link."""
    bits = word_bits(device, layer["bits"])
    dram = layer["cost"]["levels"][device.level_names[0]]
    outputs = shape.words("O")
    read = sum(bits[tensor] * dram[tensor]["reads"] for tensor in TENSORS)
    written = bits["final"] * outputs + bits["O"] * (dram["O"]["updates"] - outputs)
    level = device.levels[0]
    faster = level.read_bandwidth_bits_per_cycle / level.write_bandwidth_bits_per_cycle
    busiest = max(read, written * (faster if math.isfinite(faster) else 1.0))
    return layer["cost"]["macs"] / (busiest / 8)


def roofline_plot(layers: list[dict[str, Any]], bits: Bits, device: Device) -> str:
    """MACs per cycle against MACs per byte of DRAM traffic, under what array and link allow (Williams et al. 2009)."""
    times, per = mac_rate(device.mac, bits)
    peak = device.pes * device.lanes * times / per
    bytes_per_cycle = device.levels[0].read_bandwidth_bits_per_cycle / 8
    points = [(layer["intensity"], layer["macs_per_cycle"]) for layer in layers]
    notes = [f"{layer['name']}: {layer['macs_per_cycle']:.1f} MACs/cycle" for layer in layers]
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 2
    roof = [(low, peak), (high, peak)]
    if math.isfinite(bytes_per_cycle):
        ridge = peak / bytes_per_cycle
        low, high = min(low, ridge / 2), max(high, ridge * 2)
        roof = [(low, low * bytes_per_cycle), (ridge, peak), (high, peak)]
    return plot(
        [Series(f"layers at {in_words(bits)}", points, notes, line=False),
         Series("array and DRAM link", roof, marks=False)],
        "MACs per byte of DRAM traffic", "MACs per cycle", log_x=True, log_y=True,
    )  # fmt: skip
