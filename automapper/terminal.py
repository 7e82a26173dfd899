"""What a run prints: a table of the bit-widths, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automapper.fusion.fuse import lines as fused_lines
from automapper.workload import unmapped_lines
from hw_model.widths import in_words


def summary(report: Mapping[str, Any]) -> str:
    """The table of a report: per bit-width accuracy, energy, latency, interval, EDP, and what it gains over each
    dataflow."""
    header = ["bit-width", "accuracy %", "energy (J)", "latency (s)", "interval (s)", "EDP (J*s)"]
    names = _names(report)
    header += [name.replace("_", "-") for name in names]
    rows = []
    for row in report["bit_widths"]:
        gains = [row["baselines"].get(name) for name in names]
        rows.append(
            [
                str(row["bits"]),
                "-" if row["accuracy"] is None else f"{row['accuracy']:.2f}",
                *(f"{row[name]:.3e}" for name in ("energy_j", "latency_s", "interval_s", "edp_js")),
                *("-" if gain is None else _gain(gain) for gain in gains),
            ]
        )
    lines = [
        table(header, rows),
        f"last columns: {report['minimised']} against the best mapping found inside each of these dataflows, the one "
        "found at another bit-width and kept (fixed), or the published one",
        *([f"AutoMapper itself stays within {report['within']}"] if report["within"] else []),
        *notes(report),
        *modes(report),
        *fronts(report),
        *fused_lines(report),
        *unmapped_lines(report["unmapped"]),
    ]
    return "\n".join(lines)


def modes(report: Mapping[str, Any]) -> list[str]:
    """Which mode won at which bit-widths, and why, with the numbers of the lowest of them."""
    lines = [f"{in_words(row['bits'])}: {row['why']}" for row in report["bit_widths"] if "within_limits" in row]
    for mode in ("multi-cycle", "pipeline"):
        chosen = [row for row in report["bit_widths"] if row["mode"] == mode and "within_limits" not in row]
        if chosen:
            bits = _widths([row["bits"] for row in chosen])
            of = f" ({in_words(chosen[0]['bits'])})" if len(chosen) > 1 and chosen[0]["pipeline"] else ""
            lines.append(f"{mode} at {bits}: {chosen[0]['why']}{of}")
    return lines


def fronts(report: Mapping[str, Any]) -> list[str]:
    """The Pareto front of every bit-width: its ends, and its point with the lowest EDP."""
    lines = []
    for row in report["bit_widths"]:
        if "pareto" in row:
            points = row["pareto"]["points"]
            places = [f"{one['latency_s']:.3e} s, {one['energy_j']:.3e} J" for one in (points[0], points[-1])]
            ends = f"{places[0]} to {places[1]}" if len(points) > 1 else places[0]
            edp = points[row["pareto"]["lowest_edp"]]["edp_js"]
            size = f"{row['pareto']['size']:,} point{'s'[: row['pareto']['size'] > 1]}"
            lines.append(f"Pareto front at {in_words(row['bits'])}: {size}, {ends}; lowest EDP {edp:.3e} J*s")
    return lines


def _names(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for row in report["bit_widths"] for name in row["baselines"]))


def _converged(row: Mapping[str, Any], name: str) -> bool:
    return name not in row["baselines"] or row["baselines"][name]["converged"]


def _gain(baseline: Mapping[str, Any]) -> str:
    if not baseline["converged"]:
        return ""
    part = f" ({baseline['layers_covered']} of {baseline['layers']} layers)" if "covered" in baseline else ""
    return f"{-baseline.get('covered', baseline)['objective_improvement_percent']:+.1f} %{part}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """Notes on the baselines, each once for all its bit-widths."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in report["bit_widths"]:
        for name, note in row["baseline_notes"].items():
            found.setdefault((name, note), []).append(row["bits"])
    every, names = len(report["bit_widths"]), _names(report)
    lines = []
    where = []
    for name in names:
        bits = [row["bits"] for row in report["bit_widths"] if not _converged(row, name)]
        where += [f"{name.replace('_', '-')} ({_widths(bits)})"] if bits else []
    if where:
        lines = [f"no gain is shown where a search has not converged, a larger --budget may help: {', '.join(where)}"]
    for (name, note), bits in found.items():
        at = "" if len(bits) == every else f" at {_widths(bits)}"
        lines.append(f"{name.replace('_', '-')}{at}: {note}")
    return lines


def _widths(bits: Sequence[int | str]) -> str:
    """`4, 8 bit`, `w4a8, 8 bit`."""
    return ", ".join(map(str, bits)) + (" bit" if isinstance(bits[-1], int) else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns under a ruled header."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
