"""What `make demo` searches and trains, with other seeds."""

from collections.abc import Sequence

from experiments.plan import search_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.statistics import mean
from experiments.tables import Results, table

TITLE = "The demo on handwritten digits"
CLAIM = (
    "No claim of the paper: search, then training, as `make demo` runs them (seed 12345, shown in README.md), with "
    "other seeds"
)
LEGAL = (SCALES["demo"], SCALES["smoke"])


def pair(scale: Scale, seed: int) -> tuple[Run, Run]:
    search = search_run(scale, seed)
    return search, train_run(scale, seed, architecture=search)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [run for seed in seeds for run in pair(scale, seed)]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    lines, columns = [], []
    for seed in seeds:
        search, training = (results.of(run) for run in pair(scale, seed))
        if search is None or training is None:
            continue
        accuracies = [training["accuracy"][str(b)] for b in PAPER_BITS]
        columns.append(accuracies)
        size = f"{training['flops'] / 1e6:.2f}"
        lines.append([str(seed), *(f"{value:.2f}" for value in accuracies), size, " ".join(search["ops"])])
    if len(columns) > 1:
        means = [f"{mean(values):.2f}" for values in zip(*columns, strict=True)]
        lines.append(["mean", *means, "", ""])
    return table(["seed", *(f"{b} bit" for b in PAPER_BITS), "MFLOPs", "network"], lines) if lines else ""
