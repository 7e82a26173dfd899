"""What was tried where cascade distillation did not win: a weaker pull of the teachers, and longer training."""

from collections.abc import Sequence

from experiments.cdt import ROWS
from experiments.plan import join, train_run
from experiments.runs import Run
from experiments.scales import SCALES, Scale
from experiments.tables import Results, accuracy_table, compared

TITLE = "Cascade distillation: what was tried"
CLAIM = "beta = 1 and 200 epochs; these rows ask whether a smaller beta, or more epochs, changes the order of claim 1"
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["cifar_gpu"], SCALES["smoke"])
TEACHERS = ("cascade", "highest", "none")


def bits_of(scale: Scale) -> tuple[int, ...]:
    """The list with the lowest bit-width: differences are largest there."""
    return min(scale.bit_lists["derived"])


def weaker(scale: Scale, seed: int) -> dict[str, Run]:
    bits = bits_of(scale)
    rows = {"cascade, beta = 0.1": train_run(scale, seed, bits, name="beta0.1", extra=("--distill_weight", "0.1"))}
    return rows | {ROWS[name]: train_run(scale, seed, bits, name) for name in TEACHERS}


def longer(scale: Scale, seed: int) -> dict[str, Run]:
    bits = bits_of(scale)
    return {ROWS[name]: train_run(scale, seed, bits, name, name="longer", extra=scale.longer) for name in TEACHERS}


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    parts = (weaker, longer) if scale.longer else (weaker,)
    return [run for part in parts for seed in seeds for run in part(scale, seed).values()]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    bits = bits_of(scale)
    parts = []
    for heading, rows_of in (
        (f"A weaker pull, at [{join(bits)}]", weaker),
        (f"Longer training ({' '.join(scale.longer)}), at [{join(bits)}]", longer),
    ):
        if rows_of is longer and not scale.longer:
            continue
        per_seed = [rows_of(scale, seed) for seed in seeds]
        rows = {label: results.accuracies([done[label]] for done in per_seed) for label in per_seed[0]}
        if not all(rows.values()):
            continue
        parts += [f"**{heading}**", accuracy_table("teachers", rows, bits), compared(rows, bits)]
    return "\n\n".join(parts)
