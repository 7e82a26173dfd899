"""A searched network of the paper's size class, mapped: order of magnitude of the EDP, and its trend per bit-width."""

from collections.abc import Sequence
from itertools import pairwise

from experiments.plan import budget, map_run, search_run
from experiments.published import CIFAR10
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.tables import Results, table
from experiments.verdicts import Verdict, ranged

TITLE = "A searched network of the paper's size, mapped"
CLAIM = "The paper: 2.4e-6 J·s at 4 bit to 47e-6 at 32 bit on CIFAR-10; the gain over the baseline is largest at 4 bit"
REMARKS = {
    "full": "The paper's baseline is another network, MobileNetV2, with a row-stationary mapping. "
    "Here all rows run the same network. Layer by layer, no dataflow is faster where the DRAM "
    "link bounds a layer (claim 6).",
}
LEGAL = (SCALES["full"], SCALES["smoke"])
BASELINES = {
    "row_stationary": "the best row-stationary mapping",
    "row_stationary_fixed": "a fixed row-stationary mapping",
}


def pair(scale: Scale, seed: int) -> tuple[Run, Run]:
    found = search_run(scale, seed)
    return found, map_run(scale, "searched", found)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return list(pair(scale, seeds[0]))


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    mapped = results.of(pair(scale, seeds[0])[1])
    if not mapped:
        return {}
    rows = [mapped["bits"][str(b)] for b in PAPER_BITS]
    published = CIFAR10[PAPER_BITS]["InstantNet"][1]
    ratios = [1e6 * row["edp_js"] / theirs for row, theirs in zip(rows, published, strict=True)]
    rises = all(low["edp_js"] < high["edp_js"] for low, high in pairwise(rows))
    word = (
        "the published order of magnitude" if max(ratios) < 10 and min(ratios) > 0.1 else "another order of magnitude"
    )
    trend = "it rises with the bit-width" if rises else "it does not rise with the bit-width"
    because = [f"{ranged(ratios, '.1f', ' times')} the published EDP", trend]
    for baseline, name in BASELINES.items():
        gains = {
            b: gain
            for b, row in zip(PAPER_BITS, rows, strict=True)
            if (gain := gain_over(row, baseline)) is not None and row["baselines"][baseline].get("fixed_at") != b
        }
        if gains:
            most = max(gains, key=gains.get)
            because.append(f"the gain over {name}, {ranged(gains.values(), '.1f')}, is largest at {most} bit")
    return {"EDP": Verdict(word, "; ".join(because))}


def gain_over(row: dict, baseline: str) -> float | None:
    """By how many percent AutoMapper's EDP is lower; None where a search has not converged."""
    other = row["baselines"][baseline]
    return 100 * (1 - row["edp_js"] / other["edp_js"]) if other["converged"] else None


def bound_share(row: dict) -> float:
    """Part of the latency that layers take which no mapping of any dataflow can run faster."""
    return sum(row["dram_bound"].values())


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    found, mapped = map(results.of, pair(scale, seeds[0]))
    if not found or not mapped:
        return ""
    rows = [mapped["bits"][str(b)] for b in PAPER_BITS]
    ours, baseline, theirs = (CIFAR10[PAPER_BITS][name][1] for name in ("InstantNet", "baseline 1", "InstantNet"))
    lines = [
        ["EDP here, 1e-6 J·s", *(f"{1e6 * row['edp_js']:.2f}" for row in rows)],
        *(line for baseline, name in BASELINES.items() for line in compared(rows, baseline, name)),
        ["idle power, share of the energy", *(f"{row['energy_shares']['idle']:.0%}" for row in rows)],
        ["layers bound by the DRAM link, share of the latency", *(f"{bound_share(row):.0%}" for row in rows)],
        ["published: EDP, 1e-6 J·s (its own network)", *(f"{edp:g}" for edp in theirs)],
        ["published: lower than its baseline by", *(f"{1 - a / b:.0%}" for a, b in zip(ours, baseline, strict=True))],
    ]
    return (
        f"Found: {found['flops'] / 1e6:.1f} MFLOPs (per epoch: "
        f"{', '.join(f'{flops / 1e6:.1f}' for flops in found['flops_per_epoch'])}), `{' '.join(found['ops'])}`\n\n"
        f"{budget(scale)}\n\n"
        + table([f"on {mapped['device']}", *(f"{b} bit" for b in PAPER_BITS)], lines)
        + "\n\n"
        + str(verdicts(scale, seeds, results)["EDP"])
    )


def compared(rows: Sequence[dict], baseline: str, name: str) -> list[list[str]]:
    """A baseline's EDP and how much lower AutoMapper's is; an empty cell where a search has not converged."""
    lower = [gain_over(row, baseline) for row in rows]
    return [
        [f"{name}, 1e-6 J·s", *(f"{1e6 * row['baselines'][baseline]['edp_js']:.2f}" for row in rows)],
        ["lower by", *("" if gain is None else f"{gain:.1f}%" for gain in lower)],
    ]
