"""Claim 2: SP-NAS against searches at the highest (FP-NAS) and at the lowest (LP-NAS) bit-width alone."""

from collections.abc import Sequence

from experiments.plan import METHODS, search_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale, Window
from experiments.tables import Results, accuracy_table, compared, table, with_spread

TITLE = "Searching at the lowest bit-width against searching at one bit-width"
CLAIM = "The paper: the network that SP-NAS finds is more accurate than those of FP-NAS and LP-NAS at the same FLOPs"
REMARKS = {
    "cifar_cpu": "Undecided: most of these short searches ended outside the window, with networks smaller or larger "
    "than asked for, and size alone changes accuracy. The rows are not compared at equal FLOPs.",
}
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["cifar_gpu"], SCALES["smoke"])


def pair(scale: Scale, window: Window, method: str, seed: int) -> tuple[Run, Run]:
    """(search, training of what it found), both with one seed."""
    found = search_run(scale, seed, method, window)
    return found, train_run(scale, seed, architecture=found)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [
        run
        for window in scale.windows
        for seed in seeds
        for method in METHODS
        for run in pair(scale, window, method, seed)
    ]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    parts = []
    for window in scale.windows:
        pairs = {method: [pair(scale, window, method, seed) for seed in seeds] for method in METHODS}
        rows = {METHODS[method]: results.accuracies([train] for _, train in done) for method, done in pairs.items()}
        if sum(map(bool, rows.values())) < 2:
            continue
        low, high = window.low / 1e6, window.high / 1e6
        parts.append(f"**Window {low:g} to {high:g} MFLOPs** ({window.stands_for})")
        parts.append(accuracy_table("search", rows, PAPER_BITS))
        parts.append(compared(rows, PAPER_BITS))
        lines = []
        for method, done in pairs.items():
            flops = [value / 1e6 for value in results.values((found for found, _ in done), "flops")]
            inside = sum(low <= value <= high for value in flops)
            parameters = [value / 1e6 for value in results.values((train for _, train in done), "parameters")]
            networks = results.values((found for found, _ in done), "ops")
            names = "<br>".join(" ".join(ops) for ops in networks)
            count = f"{inside} of {len(flops)}"
            lines.append([METHODS[method], with_spread(flops), count, with_spread(parameters, ".3f"), names])
        parts.append(table(["search", "MFLOPs", "inside the window", "M parameters", "networks, one per seed"], lines))
    return "\n\n".join(parts)
