"""The groups along the network, per bit-width, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from automapper.plot import COLOURS
from hw_model.widths import in_words

WIDTH, LEFT, ROW, BOX, BELOW = 960, 80, 44, 26, 46
SMALLEST = 16  # pixels of a group that has room for its number of strips


def picture(report: Mapping[str, Any]) -> str:
    """An <svg>: a row per bit-width, a cell per layer in order, and over the cells each group, with its number of
    strips where that is more than one; what it holds when pointed at. Empty where nothing was fused."""
    rows = [row for row in report["bit_widths"] if "fused" in row]
    if not any(row["fused"]["groups"] for row in rows):
        return ""
    layers = len(rows[0]["layers"])
    cell = (WIDTH - LEFT - 4) / layers
    height = ROW * len(rows) + BELOW
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Groups of layers per bit-width">']
    for number, row in enumerate(rows):
        top = ROW * number + 8
        parts.append(f'<text x="{LEFT - 10}" y="{top + 18}" text-anchor="end">{escape(in_words(row["bits"]))}</text>')
        for index, layer in enumerate(row["layers"]):
            parts.append(
                f'<rect class="grid" x="{LEFT + index * cell:.1f}" y="{top}" width="{cell:.1f}" height="{BOX}" '
                f'fill="none"><title>{escape(layer["name"])}</title></rect>'
            )
        for count, group in enumerate(row["fused"]["groups"]):
            parts.append(_group(group, top, cell, COLOURS[count % 2]))
    for index in sorted({0, *range(9, layers, 10), layers - 1}):
        middle = LEFT + (index + 0.5) * cell
        parts.append(f'<text x="{middle:.1f}" y="{ROW * len(rows) + 20}" text-anchor="middle">{index + 1}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">layer; a colour is a group, a number '
        "its strips</text></svg>"
    )
    return "\n".join(parts)


def _group(group: Mapping[str, Any], top: int, cell: float, colour: str) -> str:
    names = [layer["name"] for layer in group["layers"]]
    left, width = LEFT + group["first"] * cell, len(names) * cell
    saved = group["dram_bits_saved"] / 8e6
    note = (
        f"{names[0]} to {names[-1]}: {group['strips']} strip{'s'[: group['strips'] > 1]}, {group['buffer']} "
        f"{group['occupancy']:.0%} full, {saved:.3g} MB less of DRAM traffic"
    )
    box = (
        f'<rect x="{left + 1:.1f}" y="{top + 1}" width="{width - 2:.1f}" height="{BOX - 2}" rx="4" fill="{colour}" '
        f'fill-opacity="0.75"><title>{escape(note)}</title></rect>'
    )
    if group["strips"] == 1 or width < SMALLEST:
        return box
    return f'{box}<text x="{left + width / 2:.1f}" y="{top + 18}" text-anchor="middle">{group["strips"]}</text>'
