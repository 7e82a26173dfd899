"""Claim 5: stem, header and classifier at 32 bit, as released, against quantized like every other layer."""

from collections.abc import Sequence

from experiments.plan import map_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.tables import Results, accuracy_table, compared, table

TITLE = "Quantizing the ends"
CLAIM = "Nothing is claimed: the released code leaves the ends at 32 bit, the paper is silent"
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["cifar_gpu"], SCALES["smoke"])
AT_32, QUANTIZED = "ends at 32 bit", "ends quantized"


def training(scale: Scale, seed: int) -> dict[str, Run]:
    quantized = train_run(scale, seed, name="quantized_ends", extra=("--quantize_ends", "yes"))
    return {AT_32: train_run(scale, seed), QUANTIZED: quantized}


def mapping(scale: Scale, seed: int) -> dict[str, Run]:
    done = training(scale, seed)
    return {
        AT_32: map_run(scale, "derived", done[AT_32]),
        QUANTIZED: map_run(scale, "derived_quantized_ends", done[QUANTIZED]),
    }


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [run for seed in seeds for run in training(scale, seed).values()] + [*mapping(scale, seeds[0]).values()]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    rows = {label: results.accuracies([training(scale, seed)[label]] for seed in seeds) for label in (AT_32, QUANTIZED)}
    if not all(rows.values()):
        return ""
    parts = [accuracy_table("", rows, PAPER_BITS, best=False), compared(rows, PAPER_BITS)]
    costs = {label: results.of(run) for label, run in mapping(scale, seeds[0]).items()}
    if all(costs.values()):
        lines = [
            [f"EDP on {found['device']}, J·s, {label}", *(f"{found['bits'][str(b)]['edp_js']:.3e}" for b in PAPER_BITS)]
            for label, found in costs.items()
        ]
        before, after = (costs[label]["bits"] for label in (AT_32, QUANTIZED))
        gains = [1 - after[str(b)]["edp_js"] / before[str(b)]["edp_js"] for b in PAPER_BITS]
        lines.append(["lower by", *(f"{gain:.1%}" for gain in gains)])
        parts.append(table(["", *(f"{b} bit" for b in PAPER_BITS)], lines))
    return "\n\n".join(parts)
