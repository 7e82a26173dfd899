"""Cycles of Gemmini's RTL against the systolic model: rank, and measured over modelled.

    python benchmarks/gemmini.py [FILE.csv] [--json] [--cross_validate]

FILE.csv has the columns of tests/data/gemmini_rtl.csv (1,471 mappings on arrays of 4 to 64, from the public data of
DOSA, MICRO 2023, BSD-2): N, K, C, P, Q, R, S, stride, kind (conv or matmul), array, mapping, measured_cycles; columns
beyond these are ignored. Every row counts; the table also gives the rows without those marked 1 in a column `suspect`.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hw_model import Device, InputError, Layer, Mapping, load_device  # noqa: E402
from hw_model.systolic import FITTED, Constants, estimate  # noqa: E402

DATA = ROOT / "tests/data/gemmini_rtl.csv"
LEVELS = {"L3": "dram", "L2": "scratchpad", "L1": "accumulator", "L0": "pe"}
ROWS = "C"  # spatial factors along the rows of the array; all others lie along its columns
# What --cross_validate tries for the three constants that are not minima of the measurements.
GRID = {
    "request": (1.1, 1.2, 1.3, 1.4, 1.5),
    "line": (7.0, 8.0, 9.0, 10.0, 11.0, 13.0),
    "cache_bytes": tuple(1024.0 * kib for kib in (256, 320, 384, 448, 512)),
}
LOW = 0.95  # the fit keeps the 5th percentile of measured/modelled at least here


class Row(NamedTuple):
    """A measured mapping."""

    layer: Layer
    kind: str
    array: int
    mapping: Mapping
    measured: float
    suspect: bool


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file. Raises InputError naming the line and what is wrong."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [_row(fields, f"{path}, line {reader.line_num}") for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(rows) < 2:
        raise InputError(f"{path}: expected at least two rows of mappings, got {len(rows)}")
    return rows


def _row(fields: dict, where: str) -> Row:
    try:
        missing = [name for name in (*"NKCPQRS", "stride", "kind", "array", "mapping", "measured_cycles")
                   if fields.get(name) is None]  # fmt: skip
        if missing:
            raise InputError(f"no column {missing[0]}")
        sizes = {name: _number(fields, name) for name in (*"NKCPQRS", "stride")}
        measured = float(fields["measured_cycles"])
        if not 0 < measured < math.inf:
            raise InputError(f"measured_cycles: {fields['measured_cycles']} is not above 0")
        if fields["kind"] not in ("conv", "matmul"):
            raise InputError(f"kind: expected conv or matmul, got {fields['kind']!r}")
        array, mapping = _number(fields, "array"), read_mapping(fields["mapping"])
        return Row(Layer(**sizes), fields["kind"], array, mapping, measured, fields.get("suspect") == "1")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _number(fields: dict, name: str) -> int:
    try:
        return int(fields[name])
    except ValueError:
        raise InputError(f"{name}: expected a whole number, got {fields[name]!r}") from None


def read_mapping(text: str) -> Mapping:
    """ "L3[WIO] K8 Q28 - L2[WI] K4X - L1[O] R3 C4X - L0[W] P2" as a mapping of the device `gemmini`; X: spatial."""
    loops: dict[str, list] = {name: [] for name in (*LEVELS.values(), "spatial_x", "spatial_y")}
    for part in text.split(" - "):
        level, *words = part.split()
        slot = LEVELS.get(level.partition("[")[0])
        if slot is None:
            raise InputError(f"mapping: expected levels L3, L2, L1 and L0, got {level!r}")
        for word in words:
            match = re.fullmatch(r"([NKCPQRS])([0-9]{1,9})(X?)", word)
            if not match:
                raise InputError(f"mapping: expected factors like K8, K4X or C4X, got {word!r}")
            axis = "spatial_y" if match[1] == ROWS else "spatial_x"
            loops[axis if match[3] else slot].append([match[1], int(match[2])])
    return Mapping.from_dict(loops)


@functools.cache
def device_of(array: int) -> Device:
    """Gemmini with a square array of this size."""
    return load_device({"extends": "gemmini", "array": {"x": array, "y": array}})


def modelled(rows: Sequence[Row], constants: Constants = FITTED) -> np.ndarray:
    """Cycles of each row."""
    return np.array(
        [estimate(row.layer, row.mapping, device_of(row.array), row.kind, constants).cycles for row in rows]
    )


def figures(measured: np.ndarray, model: np.ndarray) -> dict:
    """Number of rows, Spearman's rank correlation, and percentiles of measured/modelled."""
    low, middle, high = np.percentile(measured / model, [5, 50, 95])
    ranks = [_ranks(measured), _ranks(model)]
    known = all(np.ptp(values) for values in ranks)  # no correlation where all are equal
    return {
        "rows": len(measured),
        "spearman": float(np.corrcoef(ranks)[0, 1]) if known else None,
        "ratio_p5": float(low),
        "ratio_p50": float(middle),
        "ratio_p95": float(high),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[group]


def table(rows: Sequence[Row], model: np.ndarray) -> str:
    """The figures of all rows, and of each array and kind."""
    measured = np.array([row.measured for row in rows])
    lines = [f"{'rows':26}{'number':>7}{'Spearman':>10}   measured/modelled: 5 %   50 %   95 %"]

    def add(label: str, mask: np.ndarray) -> None:
        if mask.sum() >= 2:
            f = figures(measured[mask], model[mask])
            f["spearman"] = math.nan if f["spearman"] is None else f["spearman"]
            lines.append(f"{label:26}{f['rows']:7}{f['spearman']:10.4f}{f['ratio_p5']:26.2f}{f['ratio_p50']:7.2f}"
                         f"{f['ratio_p95']:7.2f}")  # fmt: skip

    suspect = np.array([row.suspect for row in rows])
    add("all", np.ones(len(rows), bool))
    if suspect.any():
        add("without suspects", ~suspect)
        add("suspects", suspect)
    groups = [(row.kind, row.array) for row in rows]
    for kind, array in sorted(set(groups)):
        mask = np.array([group == (kind, array) for group in groups])
        add(f"{kind}, {array} x {array}", mask & ~suspect)
    return "\n".join(lines)


def fit(measured: np.ndarray, tried: dict[Constants, np.ndarray], mask: np.ndarray) -> Constants:
    """The constants of GRID with the smallest standard deviation of log(measured/modelled) among those that keep its
    5th percentile at LOW or above; where none does, the ones with the highest 5th percentile."""

    def quality(constants: Constants) -> tuple[float, float]:
        ratio = measured[mask] / tried[constants][mask]
        low = float(np.percentile(ratio, 5))
        return max(0.0, LOW - low), float(np.log(ratio).std())

    return min(tried, key=quality)


def cross_validate(rows: Sequence[Row]) -> str:
    """Figures of rows that the constants were not fitted on: each array size left out in turn, then each fifth of the
    layers; and the constants fitted on all."""
    rows = [row for row in rows if not row.suspect]
    measured = np.array([row.measured for row in rows])
    tried = {}
    for values in itertools.product(*GRID.values()):
        constants = FITTED._replace(**dict(zip(GRID, values, strict=True)))
        tried[constants] = modelled(rows, constants)
    layers = {layer: index % 5 for index, layer in enumerate(dict.fromkeys(row.layer for row in rows))}
    splits = {
        "array": np.array([row.array for row in rows]),
        "layers": np.array([layers[row.layer] for row in rows]),
    }
    lines = []
    for name, group in splits.items():
        left_out = np.zeros(len(rows))
        for value in np.unique(group):
            held = group == value
            chosen = fit(measured, tried, ~held)
            left_out[held] = tried[chosen][held]
            lines.append(f"left out {name} {value}: {_shown(chosen)} {_shown(figures(measured[held], left_out[held]))}")
        lines.append(f"all left-out {name}: {_shown(figures(measured, left_out))}")
    return "\n".join([*lines, f"fitted on all: {_shown(fit(measured, tried, np.ones(len(rows), bool)))}"])


def _shown(values: Constants | dict) -> str:
    fields = values if isinstance(values, dict) else {name: getattr(values, name) for name in GRID}
    return " ".join(f"{name} {value:.6g}" for name, value in fields.items() if value is not None)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", default=DATA, metavar="FILE.csv", help="measured mappings (default: ours)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--cross_validate", action="store_true", help="refit on parts of the file (about two minutes)")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.file)
        model = modelled(rows)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(figures(np.array([row.measured for row in rows]), model), allow_nan=False))
    else:
        print(table(rows, model))
    if options.cross_validate:
        print(cross_validate(rows), file=sys.stderr if options.json else sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
