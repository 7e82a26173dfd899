"""A network on every device of a grid: energy, latency and on-chip bytes, and which devices no other one beats.

found = automapper.sweep("mobilenet_v2", "grid.yaml", bits=[4, 8])
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dictionary
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from automapper.budget import parse_budget
from automapper.device_grid import GridDevice, read_grid
from automapper.evolve import EXPLORE, Evolution
from automapper.objective import Objective, parse_objective
from automapper.parallel import run_parallel
from automapper.plot import Series, plot
from automapper.report import versions
from automapper.search import load_kernels
from automapper.space import Search
from automapper.terminal import table
from automapper.warm_start import Known, begin_with
from automapper.workload import Network, Problem, distinct_problems, problem_of
from hw_model import Device, InvalidMapping, Layer, Mapping, evaluate
from hw_model.widths import Bits, in_words
from instantnet.engine.errors import UserError
from instantnet.engine.files import replacing
from instantnet.settings.stages import MapSettings

FORMAT = 1
BUDGET = "500"  # mappings per layer and bit-width, where the run names none
CHAIN = 10  # devices; the result does not depend on the number of workers
QUANTITIES = ("energy_j", "latency_s", "on_chip_bytes")
SHOWN = 20  # devices in the table on the terminal


def sweep_devices(
    network: Network,
    grid: Sequence[GridDevice],
    bit_widths: Sequence[Bits],
    settings: Dictionary[str, Any],
    progress: Callable[[int], Any] = lambda done: None,
) -> dict[str, Any]:
    """The content of sweep.json: the network on every device, without baselines, multi-cycle.

    Devices are searched in chains of neighbours: each begins with the mappings found for those before it in its chain.

    settings: those of MapSettings by name; they become part of the result. progress: called with the number of devices
    done. Ctrl-C ends the sweep: the devices done so far are the result.

    Raises UserError where the budget is in seconds, or no device can run the network.
    """
    objective, budget = parse_objective(settings["objective"], settings["delay"]), parse_budget(settings["budget"])
    if budget.mappings is None:
        raise UserError(f"setting budget = {settings['budget']!r}: of a sweep, a number of mappings")
    begin, interrupted = time.perf_counter(), False
    devices: list[dict[str, Any]] = []
    load_kernels(grid[0].device)
    workers = settings["workers"] or os.cpu_count() or 1
    chains = [grid[first : first + CHAIN] for first in range(0, len(grid), CHAIN)]
    try:
        for first in range(0, len(chains), workers):
            part = chains[first : first + workers]
            work = [(chain, network, bit_widths, objective, budget.mappings, settings["seed"]) for chain in part]
            for done in run_parallel(_on_devices, work, settings["workers"], settings["backend"]):
                devices += done
            progress(len(devices))
    except KeyboardInterrupt:
        interrupted = True
    mapped = [one for one in devices if one["error"] is None]
    if not mapped and not interrupted:
        raise UserError(f"setting sweep: no device of {len(grid)} runs {network.name}; {devices[0]['error']}")
    for bits in bit_widths:
        rows = [one["bit_widths"][str(bits)] | {"on_chip_bytes": one["on_chip_bytes"]} for one in mapped]
        front = pareto_front(np.array([[row[name] for name in QUANTITIES] for row in rows]).reshape(-1, 3))
        for one, on_front in zip(mapped, front.tolist(), strict=True):
            one["bit_widths"][str(bits)]["on_front"] = on_front
    return {
        "format": FORMAT,
        "network": network.name,
        "bits": list(bit_widths),
        "objective": objective.name,
        "devices": devices,
        "of": len(grid),
        "interrupted": interrupted,
        "seconds": time.perf_counter() - begin,
        "settings": dict(settings),
        "versions": versions(),
    }


def pareto_front(values: np.ndarray) -> np.ndarray:
    """[n] bool: which of the points [n, quantities] no other one beats: as good in all, better in one."""
    beaten = [bool(((values <= one).all(1) & (values < one).any(1)).any()) for one in values]
    return ~np.array(beaten, bool)


def _on_devices(
    chain: Sequence[GridDevice], network: Network, bit_widths: Sequence[Bits], objective: Objective, mappings: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """The entries of `devices` of a chain."""
    known: dict[Layer, list[Mapping]] = {}
    entries = []
    for one in chain:
        found = _searched(one.device, distinct_problems(network, bit_widths), objective, mappings, seed, known)
        for problem, mapping in found.items():
            if mapping not in (of_layer := known.setdefault(problem.layer, [])):
                of_layer.append(mapping)
        entries.append(_entry(one, network, bit_widths, objective, found))
    return entries


def _entry(
    one: GridDevice, network: Network, bit_widths: Sequence[Bits], objective: Objective, found: dict[Problem, Mapping]
) -> dict[str, Any]:
    """An entry of `devices`: energy and latency at every bit-width, or in `error` why there is none."""
    entry: dict[str, Any] = {
        "name": one.device.name,
        "values": one.values,
        "on_chip_bytes": one.on_chip_bytes,
        "error": None,
        "bit_widths": {},
    }
    costs = {}
    for problem, mapping in found.items():
        try:
            costs[problem] = evaluate(problem.layer, mapping, one.device, problem.bits)
        except InvalidMapping as error:
            reason = f"layer {network.name_of(problem)} at {in_words(problem.bits)}: {'; '.join(error.reasons)}"
            return entry | {"error": reason}
    for bits in bit_widths:
        of_layers = [costs[problem_of(item, bits)] for item in network.layers]
        energy_j, latency_s = sum(cost.energy_pj for cost in of_layers) * 1e-12, sum(c.latency_s for c in of_layers)
        value = objective.value(energy_j, latency_s)
        entry["bit_widths"][str(bits)] = {
            "energy_j": energy_j,
            "latency_s": latency_s,
            "edp_js": energy_j * latency_s,
            "objective_value": value,
        }
    return entry


def _searched(
    device: Device, problems: Sequence[Problem], objective: Objective, mappings: int, seed: int, known: Known
) -> dict[Problem, Mapping]:
    """The best mapping of every problem, valid or not, from searches that begin with those known."""
    by_shape: dict[Layer, list[Search]] = {}
    for problem in problems:
        by_shape.setdefault(problem.layer, []).append(Search(problem))
    found: dict[Problem, Mapping] = {}
    for searches in by_shape.values():
        evolution = Evolution(searches, device, objective, seed)
        begin_with([evolution], known)
        evolution.advance(max(1, int(EXPLORE * mappings)), EXPLORE).advance(mappings, 1.0)
        found |= {search.problem: evolution.best(index) for index, search in enumerate(searches)}
    return found


def summary(sweep: Dictionary[str, Any]) -> str:
    """The table that the command prints: the devices that no other one beats, the lowest objective first."""
    parts = []
    for bits in sweep["bits"]:
        front = _front(sweep, bits)
        rows = [
            [
                one["name"], _values(one), f"{row['energy_j']:.3e}", f"{row['latency_s']:.3e}", f"{row['edp_js']:.3e}",
                f"{one['on_chip_bytes']:,.0f}",
            ]
            for one, row in front[:SHOWN]
        ]  # fmt: skip
        more = f"\n{len(front) - SHOWN} more are in sweep.json" if len(front) > SHOWN else ""
        header = ["device", "values", "energy (J)", "latency (s)", "EDP (J*s)", "on-chip bytes"]
        count = f"{len(front)} of {len(_mapped(sweep))} devices are beaten by none in energy, latency and on-chip bytes"
        parts.append(f"{in_words(bits)}: {count}\n{table(header, rows)}{more}")
    failed = [one for one in sweep["devices"] if one["error"] is not None]
    if failed:
        parts.append(f"{len(failed)} devices do not run the network; {failed[0]['name']}: {failed[0]['error']}")
    return "\n\n".join(parts)


def html(sweep: Dictionary[str, Any]) -> str:
    """A page without other files: for every bit-width the devices' energy against latency, and EDP against bytes."""
    parts = []
    for bits in sweep["bits"]:
        every = [(one, one["bit_widths"][str(bits)]) for one in _mapped(sweep)]
        if not every:
            continue
        groups = [("beaten in energy, latency and bytes", False), ("beaten by none", True)]
        figures = []
        for x, y, x_label, y_label in (
            ("latency_s", "energy_j", "latency, s", "energy, J"),
            ("on_chip_bytes", "edp_js", "on-chip bytes", "EDP, J*s"),
        ):
            series = []
            for label, on_front in groups:
                chosen = [(one | row, one) for one, row in every if row["on_front"] is on_front]
                notes = [f"{one['name']}: {_values(one)}" for _, one in chosen]
                if chosen:
                    series.append(Series(label, [(row[x], row[y]) for row, _ in chosen], notes, line=False))
            figures.append(f"<figure>{plot(series, x_label, y_label, log_x=True, log_y=True)}</figure>")
        parts.append(f"<h2>{escape(in_words(bits))}</h2>{''.join(figures)}")
    title = escape(f"{sweep['network']} on {len(sweep['devices'])} devices")
    table_of_front = f"<pre>{escape(summary(sweep))}</pre>"
    style = "body{font:16px system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}pre{overflow-x:auto}"
    style += "figure{max-width:40rem;margin:0}svg .grid{stroke:#d8dee4}"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head>"
        f"<body><h1>{title}</h1>{''.join(parts)}{table_of_front}</body></html>\n"
    )


def write_sweep(folder: Path, sweep: Dictionary[str, Any]) -> None:
    """Write sweep.json and sweep.html into a folder. Raises UserError where that is not possible."""
    for name, text in (
        ("sweep.json", json.dumps(sweep, indent=1, allow_nan=False) + "\n"),
        ("sweep.html", html(sweep)),
    ):
        with replacing(folder / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def sweep(
    network: Any,
    device: str | os.PathLike | Dictionary[str, Any],
    bits: Bits | Sequence[Bits] | None = None,
    *,
    example: Any = None,
    batch: int = MapSettings.batch,
    budget: int | str = BUDGET,
    **settings: Any,
) -> dict[str, Any]:
    """`sweep_devices` from Python: the content of sweep.json.

    Args:
        network, bits, example, batch: as `map_network` takes them.
        device: a device file with lists in place of numbers, or its content.
        budget: mappings per layer and bit-width.
        settings: objective, seed, workers, backend.

    Raises:
        UserError: as `map_network`, or no device runs the network.
        hw_model.InputError: the device file is none, or has no list.
    """
    from automapper.networks import chosen_bits, read_network

    widths = [bits] if isinstance(bits, int | str) else list(bits or ())
    C = MapSettings().replaced(bits=widths, batch=batch, budget=str(budget), **settings)
    read = read_network(network, C.batch, example)
    named = device if isinstance(device, str) else None if isinstance(device, Dictionary) else os.fspath(device)
    return sweep_devices(read, read_grid(device), chosen_bits(C.bits, read), C.to_dict() | {"sweep": named})


def _mapped(sweep: Dictionary[str, Any]) -> list[dict[str, Any]]:
    return [one for one in sweep["devices"] if one["error"] is None]


def _front(sweep: Dictionary[str, Any], bits: Bits) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(device, its row) of the front at a bit-width, the lowest objective first."""
    pairs = [(one, one["bit_widths"][str(bits)]) for one in _mapped(sweep)]
    return sorted((pair for pair in pairs if pair[1]["on_front"]), key=lambda pair: pair[1]["objective_value"])


def _values(one: Dictionary[str, Any]) -> str:
    """`array.x 8, levels.glb.size_bits 819200`."""
    return ", ".join(f"{name} {'unlimited' if value is None else value}" for name, value in one["values"].items())
