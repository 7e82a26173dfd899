"""Figures of the experiments, as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.statistics import mean, spread
from experiments.tables import PerSeed, values

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito, 2008
MARKERS = "osD^v"
SHADES = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c")  # of one hue: bit-widths have an order
plt.rcParams.update({
    "svg.hashsalt": "instantnet",  # the same figure gives the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "axes.axisbelow": True,
})  # fmt: skip


def save(figure: plt.Figure, path: Path) -> list[Path]:
    """`path`.svg and `path`.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".svg"), path.with_suffix(".png")]
    figure.savefig(written[0], bbox_inches="tight", metadata={"Date": None})
    figure.savefig(written[1], bbox_inches="tight", dpi=150, metadata={"Software": None})
    plt.close(figure)
    return written


def accuracy_against_edp(
    rows: Sequence[Mapping[str, Mapping[str, tuple[PerSeed, Sequence[float]]]]],
) -> plt.Figure:
    """Rows of panels; per panel and system: a point per bit-width at (EDP in J*s, accuracy), with the spread over seeds
    as a bar. The systems of a column are those of its first panel."""
    columns = max(map(len, rows))
    shape = {"figsize": (5.2 * columns, 3.4 * len(rows) + 0.9), "squeeze": False}
    figure, axes = plt.subplots(len(rows), columns, **shape)
    for row, panels in zip(axes, rows, strict=True):
        for axis, (title, systems) in zip(row, panels.items(), strict=True):
            heights = {name: mean([mean(values(row, b)) for b in row]) for name, (row, _) in systems.items()}
            downwards = sorted(heights, key=heights.get, reverse=True)
            for index, (name, (accuracies, edps)) in enumerate(systems.items()):
                place = downwards.index(name)
                trade_off(axis, index, place, name, accuracies, [1e6 * edp for edp in edps])
            axis.set(ylabel="accuracy, %", title=title)
            axis.margins(0.08, 0.1)
            logarithmic(axis)
    for axis in axes[-1]:
        axis.set_xlabel("EDP per image, 1e-6 J·s (at each point: bit-width)")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.tight_layout()
    return figure


def logarithmic(axis: plt.Axes) -> None:
    """An x axis of EDPs, marked at 1, 2 and 5 of every decade."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def trade_off(axis: plt.Axes, index: int, place: int, name: str, accuracies: PerSeed, edps: list[float]) -> None:
    """One system's points, joined: accuracies per bit-width, an EDP for each. place: 0 for the panel's most accurate, 1
    for the next, 2: on which side of its points the labels stand."""
    means = [mean(values(accuracies, b)) for b in accuracies]
    spreads = [spread(values(accuracies, b)) for b in accuracies]
    options = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linewidth": 1.2}
    bars = spreads if all(s == s for s in spreads) else None
    axis.errorbar(edps, means, yerr=bars, capsize=2, label=name, **options)
    for b, x, y in zip(accuracies, edps, means, strict=True):
        offset = (((4, 6), (-11, 5), (4, -10)) if bars else ((4, 6), (4, -10), (-13, -9)))[place]
        shown = {"color": COLOURS[index], "fontsize": 7, "path_effects": [withStroke(linewidth=2, foreground="white")]}
        axis.annotate(f"{b}", (x, y), textcoords="offset points", xytext=offset, **shown)


def trade_off_by_search(panels: Mapping[str, Mapping[str, Sequence[Sequence[tuple[float, float]]]]]) -> plt.Figure:
    """Panels side by side; per panel and kind of search, groups of points (EDP in 1e-9 J*s, accuracy): small, and a
    large one at their geometric and arithmetic means; a line joins the means that form the Pareto front."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.4), squeeze=False)
    for axis, (title, kinds) in zip(axes[0], panels.items(), strict=True):
        for index, (name, groups) in enumerate(kinds.items()):
            single = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none"}
            for x, y in (point for group in groups for point in group):
                axis.plot(x, y, markersize=3.5, alpha=0.45, **single)
            means = [(geometric_mean([x for x, _ in group]), mean([y for _, y in group])) for group in groups]
            axis.plot(*zip(*means, strict=True), label=name, markersize=8, markeredgecolor="white", **single)
            front = [(x, y) for x, y in sorted(means) if all(y > other for at, other in means if at < x)]
            axis.plot(*zip(*front, strict=True), color=COLOURS[index], linewidth=1.4)
        axis.set(xlabel="EDP per image, 1e-9 J·s", ylabel="accuracy, %", title=title)
        logarithmic(axis)
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def bar(values: Sequence[float]) -> float:
    """How long the bar of a point is: nothing where there is no spread."""
    return spread(values) if len(values) > 1 else 0.0


def grouped_bars(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], names: Sequence[str], label: str
) -> plt.Figure:
    """Panels side by side; per panel a group of bars per entry, one bar per name: the mean of its values, with their
    spread. Nothing is drawn for a name without values."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.2), squeeze=False)
    width = 0.8 / len(names)
    for axis, (title, groups) in zip(axes[0], panels.items(), strict=True):
        for index, name in enumerate(names):
            shown = [
                (group + (index - (len(names) - 1) / 2) * width, values[index])
                for group, values in enumerate(groups.values())
                if values[index]
            ]
            places, heights = [place for place, _ in shown], [mean(seen) for _, seen in shown]
            options = {"capsize": 1.5, "error_kw": {"elinewidth": 0.8, "ecolor": "#404040"}}
            bars = [bar(seen) for _, seen in shown]
            axis.bar(places, heights, width * 0.92, yerr=bars, label=name, color=SHADES[index], **options)
        axis.set_xticks(range(len(groups)), list(groups))
        axis.grid(axis="x", visible=False)
        axis.set(ylabel=label, title=title)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncol=len(names), loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def points_with_spread(grid: Sequence[Mapping[str, Mapping[str, PerSeed]]], label: str) -> plt.Figure:
    """Rows of panels; per panel: bit-widths in groups, a point per row with its spread over seeds. Values are
    percentages."""
    columns = max(map(len, grid))
    size = (max(4.4 * columns, 5.6), 3.0 * len(grid) + 0.5)
    figure, axes = plt.subplots(len(grid), columns, figsize=size, squeeze=False)
    for line, panels in zip(axes, grid, strict=True):
        for axis in line[len(panels) :]:
            axis.set_axis_off()
        for axis, (title, rows) in zip(line, panels.items(), strict=False):
            bits = sorted({b for row in rows.values() for b in row})
            for index, (name, row) in enumerate(rows.items()):
                shown = [
                    (place + 0.14 * (index - (len(rows) - 1) / 2), values(row, b))
                    for place, b in enumerate(bits)
                    if row.get(b)
                ]
                bars = [bar(seen) for _, seen in shown]
                options = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linestyle": "none"}
                places, heights = [place for place, _ in shown], [mean(seen) for _, seen in shown]
                axis.errorbar(places, heights, yerr=bars, capsize=2, linewidth=1, label=name, **options)
            axis.set_ylim(top=min(100.0, axis.get_ylim()[1]))
            axis.set_xticks(range(len(bits)), [f"{b} bit" for b in bits])
            axis.grid(axis="x", visible=False)
            axis.set(ylabel=label, title=title)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=len(names) if columns > 1 else 3, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, (0.25 if columns > 1 else 0.45) / size[1], 1, 1))
    return figure
