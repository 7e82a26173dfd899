"""What a run prints: a table per bit-width, numbers a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summary(report: Mapping[str, Any]) -> str:
    """The table of a report: bit-width, accuracy, energy, latency, EDP."""
    header = ["bit-width", "accuracy %", "energy (J)", "latency (s)", "EDP (J*s)"]
    rows = [
        [
            str(row["bits"]),
            "-" if row["accuracy"] is None else f"{row['accuracy']:.2f}",
            *(f"{row[name]:.3e}" for name in ("energy_j", "latency_s", "edp_js")),
        ]
        for row in report["bit_widths"]
    ]
    return table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns under a ruled header."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
