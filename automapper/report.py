"""report.json: everything a run found, in one file that other tools read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from automapper.search import Found
from automapper.workload import Network, NetworkLayer, Problem, problem_of
from hw_model import Cost, Device
from runtime.errors import UserError

FORMAT = 1


def build_report(
    network: Network,
    device: Device,
    objective: str,
    bit_widths: Sequence[int],
    found: Mapping[Problem, Found],
    search: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json. search: mappings, seconds, mappings_per_second, seed.

    The layers run one after another on the whole array (multi-cycle), so a network's energy and latency are sums, and
    an image leaves every latency_s. A layer's `dims`, `bits` and `mapping` are a case of `python -m hw_model`.
    """
    rows = []
    for bits in bit_widths:
        layers = [_layer(item, found[problem_of(item, bits)]) for item in network.layers]
        total = sum(found[problem_of(item, bits)].cost for item in network.layers)
        rows.append(
            {
                "bits": bits,
                "accuracy": network.accuracy.get(bits),
                "energy_j": total.energy_j,
                "latency_s": total.latency_s,
                "interval_s": total.latency_s,
                "edp_js": total.edp_js,
                "mode": "multi-cycle",
                "baselines": {},
                "layers": layers,
            }
        )
    return {
        "format": FORMAT,
        "network": network.name,
        "device": device.name,
        "objective": objective,
        "bit_widths": rows,
        "search": dict(search),
        "settings": dict(settings),
        "versions": versions(),
    }


def _layer(item: NetworkLayer, found: Found) -> dict[str, Any]:
    cost: Cost = found.cost
    sizes = item.layer.to_dict()
    sizes.pop("name", None)
    return {
        "name": item.layer.name,
        "bits": found.problem.bits,
        "dims": sizes,
        "mapping": found.mapping.to_dict(),
        "cycles": cost.cycles,
        "energy_j": cost.energy_j,
        "latency_s": cost.latency_s,
        "edp_js": cost.edp_js,
        "cost": cost.to_dict(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for package in ("numpy", "numba", "torch", "torchvision"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def output_folder(path: str) -> Path:
    """The folder, made if it is not there. Raises UserError where nothing can be written in it."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"setting save = {path!r}: cannot write there ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write so that `path` holds either the old file or the whole new one, whatever happens meanwhile."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; the file before, if any, is intact") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write report.json into the folder; its path."""
    path = folder / "report.json"
    write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return path
