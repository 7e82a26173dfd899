"""Line and point plots as SVG text, without scripts or other files, sharp in print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 96, 34, 14, 58
LEGEND = 24  # height of a line of it, for the larger letters of a phone too
# Okabe and Ito, 2008, and black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#222222")


@dataclass(frozen=True)
class Series:
    """points: (x, y); notes: what each point says when pointed at; lines and marks may be left out."""

    name: str
    points: Sequence[tuple[float, float]]
    notes: Sequence[str] = ()
    line: bool = True
    marks: bool = True
    dashed: bool = False


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    y_most: float = math.inf,
) -> str:
    """An <svg> of the series with axes, grid and legend. Points that a logarithmic axis cannot show are left out.

    y_most: the largest possible y; no tick is above it.
    """
    shown = [
        Series(s.name, [p for p in s.points if (p[0] > 0 or not log_x) and (p[1] > 0 or not log_y)], s.notes, s.line,
               s.marks, s.dashed)
        for s in series
    ]  # fmt: skip
    points = [point for one in shown for point in one.points]
    if not points:
        return ""
    x_at, x_ticks = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log_x)
    y_at, y_ticks = _axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log_y)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + LEGEND * len(shown)}" role="img" aria-label="{escape(y_label)}">']
    for value in x_ticks:
        x = x_at(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{_number(value)}</text>')
    for value in [tick for tick in y_ticks if tick <= y_most]:
        y = y_at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(18 {middle_y}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for index, one in enumerate(shown):
        colour = COLOURS[index % len(COLOURS)]
        places = [(x_at(x), y_at(y)) for x, y in one.points]
        if one.line and len(places) > 1:
            way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            dash = ' stroke-dasharray="6 4"' if one.dashed else ""
            parts.append(f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for position, (x, y) in enumerate(places if one.marks else []):
            note = one.notes[position] if position < len(one.notes) else one.name
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(note)}</title></circle>'
            )
        y = HEIGHT + LEGEND * index
        parts.append(f'<rect x="{LEFT}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{y + 11}">{escape(one.name)}</text>')
    return "".join([*parts, "</svg>"])


def _axis(
    values: Sequence[float], begin: float, end: float, logarithmic: bool
) -> tuple[Callable[[float], float], list[float]]:
    """(value -> place, ticks) of an axis from `begin` to `end` that shows all values."""
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        scaled = math.log10(value) if logarithmic else value
        return begin + (end - begin) * (scaled - low) / (high - low)

    if logarithmic:
        ticks: list[float] = []
        for multiples in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), [m / 10 for m in range(10, 100)]):
            powers = range(math.floor(low), math.ceil(high) + 1)
            ticks = [m * 10.0**p for p in powers for m in multiples if low <= math.log10(m * 10.0**p) <= high]
            if len(ticks) > 2:
                break
        step = max(1, math.ceil(len(ticks) / 8))
        return at, ticks[::step]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 7)
    first = math.ceil(low / step)
    return at, [i * step for i in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
    """0.0000012 -> 1.2e-6, as short as it can be read."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
