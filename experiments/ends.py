"""Claim 5: stem, header and classifier at 32 bit, as released, against quantized like every other layer."""

from collections.abc import Sequence

from experiments.plan import budget, map_run, train_run
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.statistics import CONFIDENCE, mean
from experiments.tables import PerSeed, Results, accuracy_table, by_seed, compared, said, table, values
from experiments.verdicts import NO_SPREAD, Verdict, ranged

TITLE = "Quantizing the ends"
CLAIM = "No claim of the paper: the released code leaves the ends at 32 bit, the paper is silent"
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["smoke"])
AT_32, QUANTIZED = "ends at 32 bit", "ends quantized"


def training(scale: Scale, seed: int) -> dict[str, Run]:
    quantized = train_run(scale, seed, name="quantized_ends", extra={"quantize_ends": True})
    return {AT_32: train_run(scale, seed), QUANTIZED: quantized}


def mapping(scale: Scale, seed: int) -> dict[str, Run]:
    done = training(scale, seed)
    return {
        AT_32: map_run(scale, "derived", done[AT_32]),
        QUANTIZED: map_run(scale, "derived_quantized_ends", done[QUANTIZED]),
    }


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [run for seed in seeds for run in training(scale, seed).values()] + [*mapping(scale, seeds[0]).values()]


def accuracies(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, PerSeed]:
    return {label: results.accuracies([training(scale, seed)[label]] for seed in seeds) for label in (AT_32, QUANTIZED)}


def edp_gains(scale: Scale, seeds: Sequence[int], results: Results) -> dict[int, float]:
    """Bit-width -> by how many percent quantized ends lower the EDP, where both searches have converged; empty where a
    network is not mapped yet."""
    before, after = (results.of(mapping(scale, seeds[0])[label]) for label in (AT_32, QUANTIZED))
    if not before or not after:
        return {}
    pairs = {b: (before["bits"][str(b)], after["bits"][str(b)]) for b in PAPER_BITS}
    return {
        b: 100 * (1 - less["edp_js"] / more["edp_js"])
        for b, (more, less) in pairs.items()
        if more["converged"] and less["converged"]
    }


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    rows, gains = accuracies(scale, seeds, results), edp_gains(scale, seeds, results)
    if not all(rows.values()):
        return {}
    low = min(PAPER_BITS)
    test = by_seed(rows[QUANTIZED][low], rows[AT_32][low])
    known, differ = test.p == test.p, test.p < 1 - CONFIDENCE
    change = [mean(values(rows[QUANTIZED], b)) - mean(values(rows[AT_32], b)) for b in PAPER_BITS]
    word = "accuracy changes" if differ else "no significant difference in accuracy" if known else NO_SPREAD
    because = f"{ranged(change, '+.2f', ' points')} when quantized (at {low} bit {said(test)})"
    below_32 = [gain for b, gain in gains.items() if b < 32]
    if below_32:
        because += f"; EDP {ranged(below_32)} lower below 32 bit, most at {max(gains, key=gains.get)} bit"
    return {"quantized ends": Verdict(word, because, test.half if known and not differ else None)}


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    rows = accuracies(scale, seeds, results)
    if not all(rows.values()):
        return ""
    parts = [accuracy_table("", rows, PAPER_BITS, best=False), compared(rows, PAPER_BITS)]
    costs = {label: results.of(run) for label, run in mapping(scale, seeds[0]).items()}
    if all(costs.values()):
        lines = [
            [f"EDP on {found['device']}, J·s, {label}", *(f"{found['bits'][str(b)]['edp_js']:.3e}" for b in PAPER_BITS)]
            for label, found in costs.items()
        ]
        gains = edp_gains(scale, seeds, results)
        lines.append(["lower by", *(f"{gains[b]:.1f}%" if b in gains else "" for b in PAPER_BITS)])
        parts += [budget(scale), table(["", *(f"{b} bit" for b in PAPER_BITS)], lines)]
    parts += map(str, verdicts(scale, seeds, results).values())
    return "\n\n".join(parts)
