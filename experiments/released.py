"""Claim 4: each point where the authors' released code differs from the paper, alone, against the default."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.plan import search_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale, Settings
from experiments.tables import PerSeed, Results, accuracy_table, compared, table, with_spread
from experiments.verdicts import Verdict, differing

TITLE = "The released code's differences from the paper"
CLAIM = "No claim of the paper: what each documented difference (docs/method.md) does to accuracy"
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["smoke"])

TRAINING = {  # label -> settings of train.py
    "one running range for all bit-widths, 0.9 of the newest batch": {"range_scope": "shared", "range_momentum": 0.9},
    "sum over bit-widths instead of mean": {"loss_reduction": "sum"},
    "no gradient clipping": {"grad_clip": 0.0},
    "training images in a fixed order, last partial batch dropped": {"shuffle": False, "drop_last": True},
    "recalibration clears every bit-width": {"recalibration": "all"},
    "sum, and no gradient clipping": {"loss_reduction": "sum", "grad_clip": 0.0},
}
SEARCH = {  # label -> settings of train_search.py
    "fresh Gumbel noise in every forward": {"gumbel_noise": "per_forward"},
    "two Adam steps on alpha": {"alpha_step": "separate"},
    "split by index": {"split": "index"},
    "last epoch's architecture": {"arch_choice": "last"},
    "validation with noise, on the test set, run together": {"validation": "released"},
    "a strided skip counted at stride 1": {"skip_flops": "released"},
    "the most probable operation of each layer": {"derivation": "argmax"},
}
BY_ORDER = {  # rows that go by the images' own order -> settings that mix the images all the same
    "training images in a fixed order, last partial batch dropped": {"shuffle": True},
    "split by index": {"split": "random"},
}
REMARKS = {
    "cifar_cpu": "The released code reads CIFAR's own files, in which the classes are mixed, in a "
    "fixed order and splits them by index. In folders of images one class follows "
    "another, so in that order nearly every batch would be of one class. The two points "
    "that depend on the order are therefore left out here, of the whole preset too. The "
    "preset's loss in the mean is that of the sum over bit-widths (more than six "
    "points). The clipping never acts without the sum: its row repeats the default's to "
    "the last digit.",
    "digits": "In the mean of the final training, the loss of `--preset released` is that of the sum "
    "when nothing clips it. The sum's gradient is N times that of the mean, here at a "
    "learning rate of 0.1, four times the released one. The clipping never acts without the "
    "sum: its row repeats the default's to the last digit.",
}
DEFAULT, ALL = "default", "all of them (`--preset released`)"
ALL_OF_SEARCH = "`--preset released`, with the default's epochs"  # which the scale sets
FEWER = "half the epochs, down to the same temperature"  # its settings: `Scale.fewer_epochs`
HOW = {
    "final training": "one architecture for all rows",
    "search": "each row: its own search, then the default training",
}


def points(scale: Scale, of_stage: Mapping[str, Settings]) -> dict[str, tuple[int, Settings]]:
    """Label -> number and settings, of the rows that the scale's images allow."""
    numbered = {label: (number, settings) for number, (label, settings) in enumerate(of_stage.items(), start=1)}
    return {label: point for label, point in numbered.items() if not (scale.by_class and label in BY_ORDER)}


def mixed(scale: Scale, of_stage: Mapping[str, Settings]) -> Settings:
    """Settings that undo what depends on the images' order in the preset."""
    back = [BY_ORDER[label] for label in of_stage if label in BY_ORDER] if scale.by_class else []
    return {name: value for settings in back for name, value in settings.items()}


def training_rows(scale: Scale, seed: int) -> dict[str, list[Run]]:
    """Label -> runs; the architecture is the same in every row."""
    rows = {DEFAULT: [train_run(scale, seed)]}
    for label, (number, settings) in points(scale, TRAINING).items():
        rows[label] = [train_run(scale, seed, name=f"released{number}", extra=settings)]
    rows[ALL] = [train_run(scale, seed, name="released", presets=("released",), extra=mixed(scale, TRAINING))]
    return rows


def search_rows(scale: Scale, seed: int) -> dict[str, list[Run]]:
    """Label -> runs: a search with the seed and the difference, and the default training of what it found."""
    searches = {DEFAULT: search_run(scale, seed)}
    for label, (number, settings) in points(scale, SEARCH).items():
        searches[label] = search_run(scale, seed, name=f"released{number}", extra=settings)
    searches[FEWER] = search_run(scale, seed, name=f"released{len(SEARCH) + 1}", extra=scale.fewer_epochs)
    searches[ALL_OF_SEARCH] = search_run(
        scale, seed, name="released", presets=("released",), extra=mixed(scale, SEARCH)
    )
    return {label: [train_run(scale, seed, architecture=found)] for label, found in searches.items()}


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [
        run
        for rows in (training_rows, search_rows)
        for seed in seeds
        for row in rows(scale, seed).values()
        for run in row
    ]


def measured(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, dict[str, PerSeed]]:
    """`final training`, `search` -> the rows that are done, where there is something to compare."""
    found = {}
    for part, rows_of in (("final training", training_rows), ("search", search_rows)):
        per_seed = [rows_of(scale, seed) for seed in seeds]
        rows = {label: results.accuracies(rows[label] for rows in per_seed) for label in per_seed[0]}
        rows = {label: row for label, row in rows.items() if row}
        if len(rows) > 1 and DEFAULT in rows:
            found[part] = rows
    return found


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    return {part: differing(rows, PAPER_BITS) for part, rows in measured(scale, seeds, results).items()}


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    parts = []
    for part, rows in measured(scale, seeds, results).items():
        parts += [f"**Differences in the {part}** ({HOW[part]})", accuracy_table("row", rows, PAPER_BITS)]
        parts.append(compared(rows, PAPER_BITS))
        if part == "search":
            parts.append(sizes(scale, seeds, results, rows))
        parts.append(str(differing(rows, PAPER_BITS)))
    return "\n\n".join(parts)


def sizes(scale: Scale, seeds: Sequence[int], results: Results, labels: Iterable[str]) -> str:
    """The FLOPs of what every row's searches found: a part of what accuracies differ by."""
    per_seed = [search_rows(scale, seed) for seed in seeds]
    window = scale.windows[0]
    lines = []
    for label in labels:
        flops = results.values((run for rows in per_seed for run in rows[label]), "flops")
        inside = sum(window.low <= value <= window.high for value in flops)
        lines.append([label, with_spread([value / 1e6 for value in flops]), f"{inside} of {len(flops)}"])
    asked = f"inside {window.low / 1e6:g} to {window.high / 1e6:g}"
    return table(["row", "MFLOPs found", asked], lines)
