"""What a run prints: a table per bit-width, numbers a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summary(report: Mapping[str, Any]) -> str:
    """The table of a report: per bit-width accuracy, energy, latency, interval, EDP, and what it gains over each
    dataflow."""
    header = ["bit-width", "accuracy %", "energy (J)", "latency (s)", "interval (s)", "EDP (J*s)"]
    names = list(dict.fromkeys(name for row in report["bit_widths"] for name in row["baselines"]))
    header += [name.replace("_", "-") for name in names]
    rows = []
    for row in report["bit_widths"]:
        gains = [row["baselines"].get(name) for name in names]
        rows.append(
            [
                str(row["bits"]),
                "-" if row["accuracy"] is None else f"{row['accuracy']:.2f}",
                *(f"{row[name]:.3e}" for name in ("energy_j", "latency_s", "interval_s", "edp_js")),
                *("-" if gain is None else f"{-gain['edp_improvement_percent']:+.1f} %" for gain in gains),
            ]
        )
    lines = [
        table(header, rows),
        "last columns: EDP against the best mapping found inside each of these dataflows, or the published one",
    ]
    for mode in ("multi-cycle", "pipeline"):
        chosen = [row for row in report["bit_widths"] if row["mode"] == mode]
        if chosen:
            bits = ", ".join(str(row["bits"]) for row in chosen)
            lines.append(f"{mode} at {bits} bit: {chosen[0]['why']} ({chosen[0]['bits']} bit)")
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns under a ruled header."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
