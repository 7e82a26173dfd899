"""Claim 2: SP-NAS against searches at the highest (FP-NAS) and at the lowest (LP-NAS) bit-width alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.plan import METHODS, search_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale, Window
from experiments.tables import PerSeed, Results, accuracy_table, compared, table, with_spread
from experiments.verdicts import UNDECIDED, Primary, Verdict, at_lowest, listed, of_claim, primary

TITLE = "Searching at the lowest bit-width against searching at one bit-width"
CLAIM = "The paper: the network that SP-NAS finds is more accurate than those of FP-NAS and LP-NAS at the same FLOPs"
REMARKS = {
    "cifar_cpu": "These searches are too short to judge a method by. After so few steps the supernet "
    "whose accuracy chooses `arch.pt` has hardly learned (last column; chance is 10 %), "
    "and the FLOPs of its architecture change by a factor of up to 2.8 from one epoch to "
    "the next. Six of the nine searches of 1.16 to 1.36 MFLOPs end outside: four had no "
    "epoch inside, and two had one that was not validated, but `arch.pt` comes from a "
    "validated epoch. The authors' windows of 90 to 100M and 120 to 130M have no "
    "counterpart here.",
    "cifar_cpu_search": "All nine end inside. But two searches of SP-NAS and two of LP-NAS take their "
    "architecture from epochs 3 to 11 of 30, when the supernet had learned less "
    "(last column): in nearly all later epochs their FLOPs were outside. The "
    "order of the three methods reflects this as much as the bit-width of the "
    "search.",
}
CHOSEN = ("epoch", "supernet_accuracy")
SHOWN = "cifar_cpu_search"
LEGAL = tuple(SCALES[name] for name in ("digits", "cifar_cpu", "cifar_cpu_search", "smoke"))


def pair(scale: Scale, window: Window, method: str, seed: int) -> tuple[Run, Run]:
    """(search, training of what it found), both with one seed."""
    found = search_run(scale, seed, method, window, extra=window.search)
    return found, train_run(scale, seed, architecture=found)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [
        run
        for window in scale.windows
        for seed in seeds
        for method in METHODS
        for run in pair(scale, window, method, seed)
    ]


def pairs_of(scale: Scale, window: Window, seeds: Sequence[int]) -> dict[str, list[tuple[Run, Run]]]:
    return {METHODS[method]: [pair(scale, window, method, seed) for seed in seeds] for method in METHODS}


def accuracies(scale: Scale, window: Window, seeds: Sequence[int], results: Results) -> dict[str, PerSeed]:
    """Method -> accuracies of what every search found, wherever it ended."""
    pairs = pairs_of(scale, window, seeds)
    rows = {method: results.accuracies([train] for _, train in done) for method, done in pairs.items()}
    return {method: row for method, row in rows.items() if row}


def at_equal_flops(scale: Scale, window: Window, seeds: Sequence[int], results: Results) -> dict[str, PerSeed]:
    """Method -> accuracies of the networks inside the window."""

    def inside(found: Run) -> bool:
        flops = results.values([found], "flops")
        return bool(flops) and window.low <= flops[0] <= window.high

    pairs = pairs_of(scale, window, seeds)
    rows = {
        method: results.accuracies([train] for found, train in done if inside(found)) for method, done in pairs.items()
    }
    return {method: row for method, row in rows.items() if row}


def primaries(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Primary]:
    """Window -> SP-NAS against the best other method, among the networks inside it."""
    found = {}
    for window in scale.windows:
        rows = at_equal_flops(scale, window, seeds, results)
        first = METHODS[next(iter(METHODS))]
        if len(lacking(rows)) == 0:
            test = primary({first: rows.pop(first), **rows}, PAPER_BITS)
            if test:
                found[window_title(window)] = test
    return found


def lacking(rows: Mapping[str, PerSeed]) -> list[str]:
    """The methods of which fewer than two searches ended at the FLOPs asked for."""
    return [method for method in METHODS.values() if len(rows.get(method, {}).get(PAPER_BITS[0], {})) < 2]


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    judged = of_claim(primaries, LEGAL, scale, seeds, results)
    found = {}
    for window in scale.windows:
        title = window_title(window)
        if len(accuracies(scale, window, seeds, results)) < 2:
            continue
        rows = at_equal_flops(scale, window, seeds, results)
        if few := lacking(rows):
            because = f"fewer than two searches of {listed(few)} ended at the FLOPs asked for"
            found[title] = Verdict(UNDECIDED, because)
        elif title in judged:
            found[title] = replace(judged[title], because=f"{judged[title].because}; {at_lowest(rows, PAPER_BITS)}")
        else:
            found[title] = Verdict(UNDECIDED, "no seed ended inside with two methods")
    return found


def window_title(window: Window) -> str:
    return f"{window.low / 1e6:g} to {window.high / 1e6:g} MFLOPs"


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    said = verdicts(scale, seeds, results)
    parts = []
    for window in scale.windows:
        rows = accuracies(scale, window, seeds, results)
        if len(rows) < 2:
            continue
        parts.append(f"**Window {window_title(window)}** ({window.stands_for})")
        parts += [accuracy_table("search", rows, PAPER_BITS), compared(rows, PAPER_BITS)]
        lines, courses = [], []
        for method, done in pairs_of(scale, window, seeds).items():
            flops = [value / 1e6 for value in results.values((found for found, _ in done), "flops")]
            inside = sum(window.low <= 1e6 * value <= window.high for value in flops)
            parameters = [value / 1e6 for value in results.values((train for _, train in done), "parameters")]
            networks = results.values((found for found, _ in done), "ops")
            names = "<br>".join(" ".join(ops) for ops in networks)
            for seed, (search, _) in zip(seeds, done, strict=True):
                for per_epoch in results.values([search], "flops_per_epoch"):
                    courses.append(f"* {method}, seed {seed}: {' '.join(f'{value / 1e6:.2f}' for value in per_epoch)}")
            count = f"{inside} of {len(flops)}"
            chosen = zip(*(results.values((found for found, _ in done), name) for name in CHOSEN), strict=True)
            by = "<br>".join(f"{epoch + 1}: {next(iter(accuracy.values())):.1f}" for epoch, accuracy in chosen)
            lines.append([method, with_spread(flops), count, with_spread(parameters, ".3f"), names, by])
        head = ["search", "MFLOPs", "inside the window", "M parameters", "networks, one per seed"]
        head.append("epoch chosen: supernet's accuracy at its lowest bit-width, %")
        parts += [table(head, lines), "MFLOPs of the derived network after each epoch:\n\n" + "\n".join(courses)]
        equal = at_equal_flops(scale, window, seeds, results)
        if any(len(equal.get(method, {}).get(b, {})) != len(row[b]) for method, row in rows.items() for b in row):
            parts.append("At equal FLOPs, the networks inside the window alone:")
            parts += [accuracy_table("search", equal, PAPER_BITS)] if equal else ["none."]
        parts.append(str(said[window_title(window)]))
    return "\n\n".join(parts)
