"""Claim 12: a search that counts EDP on a device against one that counts FLOPs, at several sizes of the network."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from experiments.plan import budget, join, map_run, search_run, train_run
from experiments.runs import Run
from experiments.scales import SCALES, Scale, Window
from experiments.statistics import Paired, mean, paired, spread
from experiments.tables import Results, said, table, with_spread
from experiments.trade_off import Lines, parallel_lines
from experiments.verdicts import FAILS, HOLDS, UNDECIDED, Verdict

TITLE = "Searching by EDP on a device against searching by FLOPs"
CLAIM = (
    "No claim of the paper, which searches by FLOPs and maps afterwards. The aim here: at the lowest bit-width an EDP "
    "at least 20 % lower, at an accuracy within the spread over the seeds"
)
LEGAL = (SCALES["cifar_chip"], SCALES["smoke"])
CAPTION = (
    f"{SCALES['cifar_chip'].caption}. The verdict on a device is no test: the aim is met where the geometric mean of "
    "all ratios of EDP is at most 0.8 and the mean difference of accuracy is not below minus the standard deviation "
    "over the seeds. EDP is what the mapper finds for the trained network, layers one after another, nothing fused"
)
REMARKS = {
    "cifar_chip": "The aim is met on both devices, and every search ended inside its window. But accuracy hardly "
    "depends on the size of a network here: twice the EDP brings 0.1 to 0.3 points, within the interval of nothing. "
    "So a search for a smaller network by FLOPs loses little accuracy too, and at equal EDP neither search is "
    "ahead. What a search gives up in accuracy for EDP was not measured: it takes a scale at which larger networks "
    "are better. On `gemmini`, where networks of equal FLOPs differ most, a search by FLOPs leaves the EDP to "
    "chance: within one window it differs by up to 2.9x between seeds. On `eyeriss` the search by EDP takes fewer "
    "expansions by 6 and fewer skips; otherwise the operations differ little.",
}
BARS = (
    "Small: one seed each. Large: means of a window (of EDP the geometric mean); the line joins the Pareto front "
    "of the means of one kind of search."
)
FLOPS, EDP = KINDS = ("FLOPs", "EDP")
AIM = 0.8  # ratio of EDP, searched by EDP / searched by FLOPs, at most


class Target(NamedTuple):
    """A size of network: a window of FLOPs, and on every device one of EDP at the lowest bit-width in J*s that lies
    below what networks in the window of FLOPs usually have there."""

    flops: tuple[float, float]
    edp: Mapping[str, tuple[float, float]]


TARGETS = {  # of 20,000 random networks, those in a window of FLOPs: eyeriss .70 to .78 of their median EDP, gemmini
    # .50 to .58, where their 5th percentiles are .77 to .83 and .47 to .50 of it (tests/test_chip.py, marked full)
    "cifar_chip": (
        Target((0.71e6, 0.79e6), {"eyeriss": (2.94e-10, 3.27e-10), "gemmini": (6.58e-10, 7.63e-10)}),
        Target((1.09e6, 1.21e6), {"eyeriss": (6.76e-10, 7.53e-10), "gemmini": (1.77e-9, 2.05e-9)}),
        Target((1.66e6, 1.84e6), {"eyeriss": (1.52e-9, 1.69e-9), "gemmini": (5.12e-9, 5.93e-9)}),
    ),
    "smoke": (Target((0.0, 1e6), {"eyeriss": (0.0, 1.0)}),),
}


class Chain(NamedTuple):
    """A search, the training of what it found, and the mapping of that."""

    found: Run
    trained: Run
    mapped: Run


def bits_of(scale: Scale) -> tuple[int, ...]:
    return scale.bit_lists["derived"][0]


def devices_of(scale: Scale) -> list[str]:
    return list(TARGETS[scale.name][0].edp)


def searched(scale: Scale, by: str, target: Target, device: str, seed: int) -> Run:
    """by: FLOPS, one search for all devices, or EDP."""
    bits = bits_of(scale)
    if by == FLOPS:
        return search_run(scale, seed, window=Window(*target.flops, ""), bits=bits)
    window = Window(*target.edp[device], "", metric="edp")
    counted = {"efficiency_metric": "edp", "hw_device": device, "efficiency_budget": scale.map_budget}
    return search_run(scale, seed, window=window, bits=bits, name=f"edp_{device}", extra=counted)


def chain(scale: Scale, by: str, target: Target, device: str, seed: int) -> Chain:
    found = searched(scale, by, target, device, seed)
    trained = train_run(scale, seed, bits_of(scale), architecture=found)
    name = trained.name.removeprefix("train/").replace("/", "_")
    return Chain(found, trained, map_run(scale, name, trained, device))


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    """All of a seed before the next seed."""
    chains = [
        chain(scale, by, target, device, seed)
        for seed in seeds
        for target in TARGETS[scale.name]
        for device in devices_of(scale)
        for by in KINDS
    ]
    return list(dict.fromkeys(run for each in chains for run in each))


class Point(NamedTuple):
    """A network that a search found, at the lowest bit-width: energy-delay product in J*s, accuracies in %."""

    edp_js: float
    accuracy: float
    train_accuracy: float
    flops: float
    ops: tuple[str, ...]
    inside: bool


Measured = dict[tuple[int, int, str], Point]
"""(index of the target, seed, by) -> what was found."""


def measured(scale: Scale, device: str, seeds: Sequence[int], results: Results) -> Measured:
    """The networks of every target and seed that both kinds of search have found, trained and mapped."""
    low = str(min(bits_of(scale)))
    done: Measured = {}
    for index, target in enumerate(TARGETS[scale.name]):
        for seed in seeds:
            pair = {}
            for by in KINDS:
                found, trained, mapped = (results.of(run) for run in chain(scale, by, target, device, seed))
                if found and trained and mapped:
                    least, most = target.flops if by == FLOPS else target.edp[device]
                    counted = found["flops"] if by == FLOPS else found["efficiency"]
                    pair[index, seed, by] = Point(
                        mapped["bits"][low]["edp_js"],
                        trained["accuracy"][low],
                        trained.get("train_accuracy", {}).get(low, math.nan),
                        found["flops"],
                        tuple(found["ops"]),
                        least <= counted <= most,
                    )
            if len(pair) == 2:
                done |= pair
    return done


def points_of(points: Measured, by: str, index: int | None = None) -> list[Point]:
    """Those of a kind of search, of one target or of all; in an order that is the same for both kinds."""
    return [point for (target, _, kind), point in points.items() if kind == by and index in (None, target)]


def ratios(points: Measured, index: int | None = None) -> list[float]:
    """EDP of the network searched by EDP over that of the one searched by FLOPs, pair by pair."""
    pairs = zip(points_of(points, FLOPS, index), points_of(points, EDP, index), strict=True)
    return [by_edp.edp_js / by_flops.edp_js for by_flops, by_edp in pairs]


def complete(points: Measured, scale: Scale) -> Measured:
    """Those of the seeds that have every target."""
    count = {seed: sum(seed == other for _, other, by in points if by == FLOPS) for _, seed, _ in points}
    return {key: point for key, point in points.items() if count[key[1]] == len(TARGETS[scale.name])}


def seeds_of(points: Measured) -> list[int]:
    return sorted({seed for _, seed, _ in points})


def of_seed(points: Measured, by: str, seed: int) -> list[Point]:
    """Those of a kind of search and a seed, of all targets."""
    return [point for (_, other, kind), point in points.items() if (kind, other) == (by, seed)]


def lines_of(points: Measured) -> Lines | None:
    """points: `complete`."""
    return parallel_lines(
        {
            seed: [[(point.edp_js, point.accuracy) for point in of_seed(points, by, seed)] for by in KINDS]
            for seed in seeds_of(points)
        }
    )


def gap_over_targets(points: Measured) -> Paired:
    """Accuracy by EDP minus by FLOPs, mean over the targets, paired by seed. points: `complete`."""
    means = {
        by: [mean([point.accuracy for point in of_seed(points, by, seed)]) for seed in seeds_of(points)] for by in KINDS
    }
    return paired(means[EDP], means[FLOPS])


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    """Device -> whether the aim is met, over all targets and the seeds that have all of them: by the geometric mean of
    the ratios of EDP, and by the mean difference of accuracy against the spread over the seeds (of the networks by
    FLOPs, mean over the targets)."""
    found = {}
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        if not points:
            continue
        points = complete(points, scale)
        if len(seeds_of(points)) < 2:
            found[device] = Verdict(UNDECIDED, "fewer than two seeds have every window")
            continue
        ratio, gap = geometric_mean(ratios(points)), gap_over_targets(points)
        spreads = [
            spread([point.accuracy for point in points_of(points, FLOPS, index)])
            for index in range(len(TARGETS[scale.name]))
        ]
        cheaper, as_accurate = ratio <= AIM, gap.gap >= -mean(spreads)
        because = (
            f"EDP {ratio - 1:+.0%} ({'' if cheaper else 'not '}20 % lower), accuracy {said(gap)} "
            f"({'within' if as_accurate else 'below'} the standard deviation over the seeds of networks by FLOPs, "
            f"{mean(spreads):.2f} points; {gap.count} seeds)"
        )
        word = HOLDS if cheaper and as_accurate else FAILS
        lines = lines_of(points)
        if word == HOLDS and lines and abs(lines.at_equal_edp.gap) <= lines.at_equal_edp.half:
            word += ", without a difference shown at equal EDP"
        found[device] = Verdict(word, because)
    return found


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    judged = verdicts(scale, seeds, results)
    parts = []
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        if points:
            parts += [f"**On `{device}`, at {min(bits_of(scale))} bit of [{join(bits_of(scale))}]**"]
            parts += [budget(scale), networks(scale, device, points), differences(scale, points)]
            parts += [at_equal(complete(points, scale))]
            parts += [operations(points), str(judged[device])]
    return "\n\n".join(part for part in parts if part)


def networks(scale: Scale, device: str, points: Measured) -> str:
    """What was found, per target and kind of search."""
    lines = []
    for index, target in enumerate(TARGETS[scale.name]):
        for by in KINDS:
            row = points_of(points, by, index)
            if not row:
                continue
            least, most = target.flops if by == FLOPS else target.edp[device]
            window = f"{least / 1e6:g} to {most / 1e6:g} MFLOPs" if by == FLOPS else f"{least:.2e} to {most:.2e} J·s"
            lines.append(
                [
                    f"by {by}",
                    window,
                    f"{sum(point.inside for point in row)} of {len(row)}",
                    with_spread([point.flops / 1e6 for point in row]),
                    f"{geometric_mean([point.edp_js for point in row]):.3e}",
                    with_spread([point.accuracy for point in row]),
                    with_spread([p.train_accuracy for p in row if p.train_accuracy == p.train_accuracy], ".1f"),
                ]
            )
    head = ["search", "window", "inside", "MFLOPs", "EDP, J·s (geometric mean)", "accuracy, %", "on training images, %"]
    return table(head, lines)


def differences(scale: Scale, points: Measured) -> str:
    """Target by target, both kinds of search with the same seeds."""
    lines = []
    for index, target in enumerate(TARGETS[scale.name]):
        pairs = [[point.accuracy for point in points_of(points, by, index)] for by in (EDP, FLOPS)]
        if pairs[0]:
            gap, of_pairs = paired(*pairs), ratios(points, index)
            size = f"{target.flops[0] / 1e6:g} to {target.flops[1] / 1e6:g} MFLOPs"
            ends = f"{min(of_pairs):.2f} to {max(of_pairs):.2f}"
            lines.append([size, f"{geometric_mean(of_pairs):.2f}", ends, said(gap)])
    head = ["FLOPs window", "EDP ratio, by EDP / by FLOPs", "range over seeds", "accuracy, by EDP minus by FLOPs"]
    return table(head, lines)


def at_equal(points: Measured) -> str:
    """Accuracy at equal EDP, EDP at equal accuracy. points: `complete`."""
    found = lines_of(points)
    if found is None:
        return ""
    slope = f"{found.slope * math.log(2):+.2f} ± {found.slope_half * math.log(2):.2f} points for twice the EDP"
    text = (
        f"At equal EDP, accuracy by EDP minus by FLOPs: {said(found.at_equal_edp)} (parallel lines of accuracy over "
        f"log EDP, {slope}; jackknife over the seeds). "
    )
    if found.log_edp is None:
        return text + "EDP at equal accuracy has no meaning: accuracy does not clearly rise with EDP."
    gap, half, *_ = found.log_edp
    low, high = math.exp(gap - half), math.exp(gap + half)
    return text + f"At equal accuracy, EDP ratio {math.exp(gap):.2f}, 95 % interval {low:.2f} to {high:.2f}."


OPERATIONS_OF = {
    "skip": lambda op: op == "skip",
    "5x5": lambda op: op.startswith("k5"),
    "grouped": lambda op: op.endswith("_g2"),
    "expansion 1": lambda op: "_e1" in op,
    "expansion 3": lambda op: "_e3" in op,
    "expansion 6": lambda op: "_e6" in op,
}


def operations(points: Measured) -> str:
    """Which operations the two kinds of search take, in % of all layers."""
    lines = []
    for by in KINDS:
        layers = [op for point in points_of(points, by) for op in point.ops]
        lines.append(
            [f"by {by}", *(f"{100 * mean([counts(op) for op in layers]):.0f}" for counts in OPERATIONS_OF.values())]
        )
    return table(["% of all layers", *OPERATIONS_OF], lines)


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """Accuracy against EDP: a panel per device, a line per kind of search."""
    from experiments.figures import save, trade_off_by_search

    panels = {}
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        targets = sorted({index for index, _, _ in points})
        if points:
            panels[f"{device}, {min(bits_of(scale))} bit"] = {
                f"searched by {by}": [
                    [(1e9 * point.edp_js, point.accuracy) for point in points_of(points, by, index)]
                    for index in targets
                ]
                for by in KINDS
            }
    return save(trade_off_by_search(panels), folder / f"chip_{scale.name}") if panels else []
