"""The device `bitfusion`, mapped by AutoMapper, against the cost rules of the Bit Fusion authors' simulator, by rank.

    python benchmarks/bitfusion.py [FILE.csv] [--json FILE]

Rows: tests/data/bitfusion_simulator.csv, point-wise and depth-wise layers at W = A = 4, 6, 8. For each kind and
bit-width, and for all bit-widths together, it prints Spearman's rank correlation of cycles and energy, and the median
of simulator/modelled. No constant is tuned on these rows; which traffic the device charges was chosen with them in
view.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import hw_model  # noqa: E402
from automapper.evolve import Evolution  # noqa: E402
from automapper.objective import parse_objective  # noqa: E402
from automapper.space import Search  # noqa: E402
from automapper.workload import Problem  # noqa: E402

DATA = ROOT / "tests/data/bitfusion_simulator.csv"
BUDGET = 4000  # mappings per layer and bit-width
KINDS = {"pw": "point-wise", "dw": "depth-wise"}


def simulator_rows(path: Path = DATA) -> list[dict]:
    """The table: name and kind as text, sizes, bits and cycles as integers, energy_nj as a float."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    return [
        {key: value if key in ("name", "kind") else float(value) if key == "energy_nj" else int(value)
         for key, value in row.items()}
        for row in csv.DictReader(lines)
    ]  # fmt: skip


def modelled(row: dict, device: hw_model.Device, budget: int = BUDGET) -> tuple[int, float]:
    """Cycles and energy (nJ) of AutoMapper's mapping of least EDP for a row."""
    layer = hw_model.Layer(
        G=row["G"], K=row["K"], C=row["C"], P=row["P"], Q=row["P"], R=row["R"], S=row["R"], stride=row["stride"]
    )
    search = Evolution([Search(Problem(layer, row["bits"]))], device, parse_objective("edp"), 0)
    cost = hw_model.evaluate(layer, search.advance(budget, 1.0).best(0), device, row["bits"])
    return cost.cycles, cost.energy_pj * 1e-3


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def compare(rows: list[dict], budget: int = BUDGET) -> list[dict]:
    """One line per kind and bit-width, and per kind for all bit-widths (bits None)."""
    device = hw_model.load_device("bitfusion")
    found = np.array([modelled(row, device, budget) for row in rows])
    lines = []
    for kind in KINDS:
        for bits in (*sorted({row["bits"] for row in rows}), None):
            own = [i for i, row in enumerate(rows) if row["kind"] == kind and bits in (None, row["bits"])]
            if len(own) < 2:
                continue
            cycles, energy = (np.array([rows[i][key] for i in own], float) for key in ("cycles", "energy_nj"))
            lines.append(
                {
                    "kind": kind,
                    "bits": bits,
                    "rows": len(own),
                    "latency_spearman": spearman(cycles, found[own, 0]),
                    "energy_spearman": spearman(energy, found[own, 1]),
                    "latency_ratio_p50": float(np.median(cycles / found[own, 0])),
                    "energy_ratio_p50": float(np.median(energy / found[own, 1])),
                }
            )
    return lines


def main() -> None:
    """Print the comparison; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default=str(DATA), help="rows of the simulator (CSV)")
    parser.add_argument("--json", metavar="FILE", help="write the lines to this file")
    options = parser.parse_args()
    try:
        rows = simulator_rows(Path(options.file))
        lines = compare(rows)
    except (OSError, KeyError, ValueError) as error:
        print(f"{options.file}: {error!r} (expected the columns of {DATA.name})", file=sys.stderr)
        sys.exit(2)
    print("kind        bits  rows   Spearman: latency  energy   simulator/model, median: latency  energy")
    for c in lines:
        print(
            f"{KINDS[c['kind']]:11} {c['bits'] or 'all':>4} {c['rows']:5} {c['latency_spearman']:19.3f} "
            f"{c['energy_spearman']:7.3f} {c['latency_ratio_p50']:33.2f} {c['energy_ratio_p50']:7.2f}"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
