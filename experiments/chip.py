"""Claim 12: a search that counts EDP on a device against one that counts FLOPs, at several sizes of the network."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.plan import join, map_run, search_run, train_run
from experiments.runs import Run
from experiments.scales import SCALES, Scale, Window
from experiments.statistics import Paired, mean, paired, spread
from experiments.tables import Results, said, table, with_spread
from experiments.verdicts import FAILS, HOLDS, UNDECIDED, Verdict

TITLE = "Searching by EDP on a device against searching by FLOPs"
CLAIM = (
    "No claim of the paper, which searches by FLOPs and maps afterwards. The aim here: at the lowest bit-width an EDP "
    "at least 20 % lower, at an accuracy within the spread over the seeds"
)
LEGAL = (SCALES["cifar_chip"], SCALES["smoke"])
BARS = "Small: one seed each. Large, joined: means of a window (of EDP the geometric mean)."
FLOPS, EDP = "FLOPs", "EDP"
AIM = 0.8  # EDP by EDP over EDP by FLOPs, at most


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
        for by in (FLOPS, EDP)
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
            for by in (FLOPS, EDP):
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


def of(points: Measured, by: str, index: int | None = None) -> list[Point]:
    """Those of a kind of search, of one target or of all; in an order that is the same for both kinds."""
    return [point for (target, _, kind), point in points.items() if kind == by and index in (None, target)]


def quotients(points: Measured, index: int | None = None) -> list[float]:
    """EDP by EDP over EDP by FLOPs, pair by pair."""
    return [b.edp_js / a.edp_js for a, b in zip(of(points, FLOPS, index), of(points, EDP, index), strict=True)]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(mean([math.log(value) for value in values]))


def per_seed(points: Measured, seeds: Sequence[int]) -> dict[int, dict[str, list[Point]]]:
    """Seed -> kind of search -> its networks, of the seeds that have every target."""
    targets = {index for index, _, _ in points}
    found = {
        seed: {by: [points[index, seed, by] for index in targets if (index, seed, by) in points] for by in (FLOPS, EDP)}
        for seed in seeds
    }
    return {seed: of_seed for seed, of_seed in found.items() if targets and len(of_seed[FLOPS]) == len(targets)}


class Fronts(NamedTuple):
    """Accuracy over the logarithm of EDP: parallel lines for the two kinds of search.

    slope: points for e times the EDP, from networks of one seed and one kind; slope_half: half of its 95 % interval.
    at_equal_edp: distance of the lines in points, by EDP minus by FLOPs, paired by seed; it takes the slope as known.
    """

    slope: float
    slope_half: float
    at_equal_edp: Paired

    @property
    def edp_at_equal_accuracy(self) -> float | None:
        """By EDP over by FLOPs; None where accuracy does not clearly rise with EDP, so that it has no meaning."""
        return math.exp(-self.at_equal_edp.gap / self.slope) if self.slope > self.slope_half else None


def fronts(points: Measured, seeds: Sequence[int]) -> Fronts | None:
    """None where fewer than two seeds or two targets are done."""
    from scipy import stats

    groups = per_seed(points, seeds)
    if len(groups) < 2 or len(next(iter(groups.values()))[FLOPS]) < 2:
        return None
    xs = {key: np.log([point.edp_js for point in row]) for key, row in rows_of(groups).items()}
    ys = {key: np.array([point.accuracy for point in row]) for key, row in rows_of(groups).items()}
    x = np.concatenate([values - values.mean() for values in xs.values()])
    y = np.concatenate([values - values.mean() for values in ys.values()])
    slope = float(x @ y / (x @ x))
    freedom = len(x) - len(xs) - 1
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / freedom / float(x @ x))
    height = {key: float(ys[key].mean() - slope * xs[key].mean()) for key in xs}
    gap = paired([height[seed, EDP] for seed in groups], [height[seed, FLOPS] for seed in groups])
    return Fronts(slope, error * float(stats.t.ppf(0.975, freedom)), gap)


def rows_of(groups: Mapping[int, Mapping[str, list[Point]]]) -> dict[tuple[int, str], list[Point]]:
    return {(seed, by): row for seed, kinds in groups.items() for by, row in kinds.items()}


def gap_over_targets(points: Measured, seeds: Sequence[int]) -> Paired:
    """Accuracy by EDP minus by FLOPs, mean over the targets, paired by seed."""
    groups = per_seed(points, seeds).values()
    return paired(*([mean([point.accuracy for point in kinds[by]]) for kinds in groups] for by in (EDP, FLOPS)))


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    """Device -> whether the aim is met, over all targets: by the geometric mean of the quotients of EDP, and by the
    mean difference of accuracy against the spread over the seeds (of the networks by FLOPs, mean over the targets)."""
    found = {}
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        if not points:
            continue
        quotient, gap = geometric_mean(quotients(points)), gap_over_targets(points, seeds)
        if gap.count < 2:
            found[device] = Verdict(UNDECIDED, "fewer than two seeds are done")
            continue
        targets = sorted({index for index, _, _ in points})
        seeds_spread = mean([spread([point.accuracy for point in of(points, FLOPS, index)]) for index in targets])
        met = quotient <= AIM and gap.gap >= -seeds_spread
        because = (
            f"EDP {quotient - 1:+.0%}, accuracy {said(gap)}; the seeds' standard deviation is {seeds_spread:.2f} points"
        )
        found[device] = Verdict(HOLDS if met else FAILS, because)
    return found


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    judged = verdicts(scale, seeds, results)
    parts = []
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        if points:
            parts += [f"**On `{device}`, at {min(bits_of(scale))} bit of [{join(bits_of(scale))}]**"]
            parts += [networks(scale, device, points), differences(scale, points), line_of(points, seeds)]
            parts += [operations(points), str(judged[device])]
    return "\n\n".join(part for part in parts if part)


def networks(scale: Scale, device: str, points: Measured) -> str:
    """What was found, per target and kind of search."""
    lines = []
    for index, target in enumerate(TARGETS[scale.name]):
        for by in (FLOPS, EDP):
            row = of(points, by, index)
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
                    with_spread([point.train_accuracy for point in row], ".1f"),
                ]
            )
    head = ["search", "window", "inside", "MFLOPs", "EDP, J·s", "accuracy, %", "on training images, %"]
    return table(head, lines)


def differences(scale: Scale, points: Measured) -> str:
    """Target by target, both kinds of search with the same seeds."""
    lines = []
    for index, target in enumerate(TARGETS[scale.name]):
        pairs = [[point.accuracy for point in of(points, by, index)] for by in (EDP, FLOPS)]
        if pairs[0]:
            gap, ratios = paired(*pairs), quotients(points, index)
            size = f"{target.flops[0] / 1e6:g} to {target.flops[1] / 1e6:g} MFLOPs"
            seeds_of = f"{min(ratios):.2f} to {max(ratios):.2f}"
            lines.append([f"against {size}", f"{geometric_mean(ratios):.2f}", seeds_of, said(gap)])
    return table(["by EDP", "EDP, quotient", "of single seeds", "accuracy, difference"], lines)


def line_of(points: Measured, seeds: Sequence[int]) -> str:
    """Accuracy at equal EDP, EDP at equal accuracy."""
    found = fronts(points, seeds)
    if found is None:
        return ""
    slope = f"{found.slope * math.log(2):+.2f} ± {found.slope_half * math.log(2):.2f} points for twice the EDP"
    text = f"At equal EDP, by EDP minus by FLOPs: {said(found.at_equal_edp)} (accuracy over log EDP: {slope}). "
    quotient = found.edp_at_equal_accuracy
    if quotient is None:
        return text + "EDP at equal accuracy has no meaning: accuracy does not clearly rise with EDP."
    return text + f"At equal accuracy, EDP by EDP over EDP by FLOPs: {quotient:.2f}."


KINDS = {
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
    for by in (FLOPS, EDP):
        layers = [op for point in of(points, by) for op in point.ops]
        lines.append([f"by {by}", *(f"{100 * mean([counts(op) for op in layers]):.0f}" for counts in KINDS.values())])
    return table(["% of all layers", *KINDS], lines)


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """Accuracy against EDP: a panel per device, a line per kind of search."""
    from experiments.figures import fronts_by_search, save

    panels = {}
    for device in devices_of(scale):
        points = measured(scale, device, seeds, results)
        targets = sorted({index for index, _, _ in points})
        if points:
            panels[f"{device}, {min(bits_of(scale))} bit"] = {
                f"searched by {by}": [
                    [(1e9 * point.edp_js, point.accuracy) for point in of(points, by, index)] for index in targets
                ]
                for by in (FLOPS, EDP)
            }
    return save(fronts_by_search(panels), folder / f"chip_{scale.name}") if panels else []
