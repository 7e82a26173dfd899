"""Claim 3: accuracy against EDP of InstantNet (searched, CDT, AutoMapper) and of two baseline systems."""

from collections.abc import Sequence
from pathlib import Path

from experiments.plan import budget, join, map_run, train_run
from experiments.published import CIFAR10, SYSTEMS
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.statistics import mean
from experiments.tables import PerSeed, Results, accuracy_table, compared, table, values
from experiments.verdicts import FAILS, NO_EVIDENCE, UNDECIDED, Primary, Verdict, listed, of_claim, primary, ranged

TITLE = "End to end: accuracy against energy-delay product"
CLAIM = (
    "The paper: InstantNet has the higher accuracy at the lower EDP at nearly every bit-width; at 4 bit 0.9 to 1.4 "
    "points more at a 74 % lower EDP"
)
REMARKS = {
    "cifar_cpu": "The distances are no evidence about full training. MobileNetV2 at a quarter of its "
    "width keeps its 53 layers and its header of 1280 channels. It is larger than the "
    "searched network of this scale, so it costs far more energy and learns little in so "
    "few steps. Ten times as long: the scale below.",
    "cifar_cpu_long": "Once MobileNetV2 has learned, the shape is the paper's: InstantNet is ahead in "
    "the mean at 4 bit, level or behind from 8 bit up, at a far lower EDP. But the "
    "advantage at 4 bit is that of the small network, which loses less to 4 bit "
    "than MobileNetV2 does; cascade distillation with beta = 1 costs a little of "
    "it. On either network AutoMapper gains much over a fixed mapping and little "
    "over the best row-stationary one.",
}
LEGAL = tuple(SCALES[name] for name in ("cifar_cpu", "cifar_cpu_long", "smoke"))
UNTRAINED = "cifar_cpu"  # the scale whose baselines hardly learn: it decides nothing
AT_MOST = 3  # seeds: MobileNetV2 trains seven times as long as the searched network
INSTANTNET = "InstantNet: searched, cascade, AutoMapper"
BARS = "Bars: sample standard deviation over the seeds; the published points have none."
BASELINES = {
    "MobileNetV2, teachers as in SP-Nets (highest), row-stationary": "highest",
    "MobileNetV2, teachers as in AdaBits (none), row-stationary": "none",
}
BASELINE = next(iter(BASELINES))  # both run one network


def lists_of(scale: Scale) -> list[tuple[int, ...]]:
    """The lists of bit-widths that the paper has systems at, of those that the scale trains both networks at."""
    lists = scale.bit_lists.get("mobilenet_v2", scale.bit_lists["derived"])
    return [bits for bits in lists if bits in CIFAR10] or [lists[0]]


def training(scale: Scale, bits: tuple[int, ...], seed: int) -> dict[str, Run]:
    rows = {INSTANTNET: train_run(scale, seed, bits)}
    for label, teachers in BASELINES.items():
        rows[label] = train_run(scale, seed, bits, teachers, "mobilenet_v2")
    return rows


def untaught(scale: Scale, bits: tuple[int, ...], seed: int) -> Run:
    """The searched network without teachers: it shows how much of a distance is due to cascade distillation."""
    return train_run(scale, seed, bits, "none")


def mapping(scale: Scale, bits: tuple[int, ...], seed: int) -> dict[str, Run]:
    """A mapping does not depend on weights, so both baselines share one run."""
    done = training(scale, bits, seed)
    suffix = "" if bits == PAPER_BITS else "_" + join(bits, "-")
    baseline = map_run(scale, "mobilenet_v2" + suffix, done[BASELINE])
    return {INSTANTNET: map_run(scale, "derived" + suffix, done[INSTANTNET])} | dict.fromkeys(BASELINES, baseline)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [
        run
        for bits in lists_of(scale)
        for of_list in (
            *([*training(scale, bits, seed).values(), untaught(scale, bits, seed)] for seed in seeds),
            mapping(scale, bits, seeds[0]).values(),
        )
        for run in of_list
    ]


Points = dict[str, tuple[PerSeed, list[float]]]
DATAFLOWS = {"row_stationary": "the best row-stationary mapping", "row_stationary_fixed": "a fixed one"}


def points(scale: Scale, bits: tuple[int, ...], seeds: Sequence[int], results: Results) -> Points:
    """System -> (accuracies per bit-width and seed, EDP in J*s per bit-width); empty where there is nothing to compare
    InstantNet with."""
    found = {}
    maps = mapping(scale, bits, seeds[0])
    for label in (INSTANTNET, *BASELINES):
        accuracies = results.accuracies([training(scale, bits, seed)[label]] for seed in seeds)
        mapped = results.of(maps[label])
        if not accuracies or mapped is None:
            continue
        rows = [mapped["bits"][str(b)] for b in bits]
        if label != INSTANTNET:
            rows = [row["baselines"]["row_stationary"] for row in rows]
        found[label] = {b: accuracies[b] for b in bits}, [row["edp_js"] for row in rows]
    return found if INSTANTNET in found and len(found) > 1 else {}


def measured(scale: Scale, seeds: Sequence[int], results: Results) -> dict[tuple[int, ...], Points]:
    """Bit-widths -> their points, where there are any."""
    found = {bits: points(scale, bits, seeds, results) for bits in lists_of(scale)}
    return {bits: systems for bits, systems in found.items() if systems}


def primaries(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Primary]:
    """List of bit-widths -> accuracy of InstantNet against that of the best baseline, which has to have learned."""
    if scale.name == UNTRAINED:
        return {}
    found = {
        f"[{join(bits)}]": primary({label: accuracies for label, (accuracies, _) in systems.items()}, bits)
        for bits, systems in measured(scale, seeds, results).items()
    }
    return {title: each for title, each in found.items() if each}


def judged(bits: tuple[int, ...], found: Points, accuracy: Verdict, size_ratio: float, split: str) -> Verdict:
    """Both axes: accuracy above the best baseline's, and EDP below each. accuracy: the verdict on it; size_ratio: of
    the FLOPs; split: what of the distance is not the networks'."""
    own = found[INSTANTNET][1]
    gains = {
        label: [100 * (1 - mine / theirs) for mine, theirs in zip(own, edps, strict=True)]
        for label, (_, edps) in found.items()
        if label != INSTANTNET
    }
    worse = [label for label, values in gains.items() if min(values) <= 0]
    every = [value for values in gains.values() for value in values]
    edp = f"its EDP is not below that of {listed(worse)}" if worse else f"its EDP is {ranged(every)} lower"
    low = min(bits)
    ahead = [mean(values(found[INSTANTNET][0], low)) - mean(values(found[label][0], low)) for label in gains]
    at_lowest = f"{ranged(ahead, '+.1f', '')} points at {low} bit"
    because = f"{accuracy.because} ({at_lowest}); {edp}; its network has {size_ratio:.2f} times their FLOPs; {split}"
    alike = 2 / 3 <= size_ratio <= 3 / 2
    if worse:
        return Verdict(FAILS, because)
    return Verdict(accuracy.word + ("" if alike else ", between networks of other sizes"), because, accuracy.detectable)


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    tested = of_claim(primaries, LEGAL, scale, seeds, results, AT_MOST)
    nothing = Verdict(UNDECIDED, "no seed is done for InstantNet and a baseline")
    if scale.name == UNTRAINED:
        nothing = Verdict(NO_EVIDENCE, "MobileNetV2 has hardly learned in so few steps")
    return {
        f"[{join(bits)}]": judged(
            bits,
            found,
            tested.get(f"[{join(bits)}]", nothing),
            size_ratio(scale, bits, seeds, results),
            shares(scale, bits, seeds, results, found),
        )
        for bits, found in measured(scale, seeds, results).items()
    }


def size_ratio(scale: Scale, bits: tuple[int, ...], seeds: Sequence[int], results: Results) -> float:
    """FLOPs of the searched network over those of the baselines' (one network, whichever of them is done)."""
    rows = [training(scale, bits, seed) for seed in seeds]
    own = results.values((row[INSTANTNET] for row in rows), "flops")
    theirs = results.values((row[label] for row in rows for label in BASELINES), "flops")
    return own[0] / theirs[0]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    said = verdicts(scale, seeds, results)
    parts = []
    for bits, found in measured(scale, seeds, results).items():
        rows = {label: accuracies for label, (accuracies, _) in found.items()}
        parts += [f"**At [{join(bits)}]**", accuracy_table("system", rows, bits), compared(rows, bits)]
        sizes = {label: size([training(scale, bits, seed)[label] for seed in seeds], results) for label in found}
        fixed = [row["row_stationary_fixed"]["edp_js"] for row in baselines_of(scale, bits, seeds, results, BASELINE)]
        parts += [budget(scale), costs(bits, found, sizes, fixed), distances(bits, found)]
        parts.append(str(said[f"[{join(bits)}]"]))
    return "\n\n".join(parts)


def size(runs_of: list[Run], results: Results) -> list[str]:
    """MFLOPs and million parameters of a row's network, the same with every seed."""
    return [
        f"{results.values(runs_of, name)[0] / 1e6:.{digits}f}" for name, digits in (("flops", 2), ("parameters", 3))
    ]


def costs(bits: tuple[int, ...], found: Points, sizes: dict[str, list[str]], fixed: list[float]) -> str:
    """fixed: EDPs of the baselines' network with one mapping at all bit-widths."""
    lines = [[label, *sizes[label], *(f"{edp:.3e}" for edp in edps)] for label, (_, edps) in found.items()]
    size_of_baseline = sizes[next(label for label in sizes if label != INSTANTNET)]
    lines.append(["MobileNetV2, fixed row-stationary", *size_of_baseline, *(f"{edp:.3e}" for edp in fixed)])
    return table(["EDP, J·s", "MFLOPs", "M parameters", *(f"{b} bit" for b in bits)], lines)


def distances(bits: tuple[int, ...], found: Points) -> str:
    """What InstantNet gains over every other system, here and in the paper."""
    ours, ours_edp = found[INSTANTNET]
    lines = []
    for label, (theirs, theirs_edp) in found.items():
        if label == INSTANTNET:
            continue
        gaps = zip(bits, ours_edp, theirs_edp, strict=True)
        cells = [
            f"{mean(values(ours, b)) - mean(values(theirs, b)):+.2f} points, EDP {mine / other - 1:+.0%}"
            for b, mine, other in gaps
        ]
        lines.append([f"over {label}", *cells])
    published = CIFAR10.get(bits)
    if published:
        ours_paper = published[SYSTEMS[0]]
        for system in SYSTEMS[1:]:
            gaps = zip(*ours_paper, *published[system], strict=True)
            cells = [f"{a - c:+.2f} points, EDP {b / d - 1:+.0%}" for a, b, c, d in gaps]
            lines.append([f"published: over {system}", *cells])
    return table(["InstantNet", *(f"{b} bit" for b in bits)], lines)


def baselines_of(
    scale: Scale, bits: tuple[int, ...], seeds: Sequence[int], results: Results, label: str
) -> list[dict[str, dict]]:
    """Per bit-width the costs of every baseline on the network of a system."""
    mapped = results.of(mapping(scale, bits, seeds[0])[label])
    return [mapped["bits"][str(b)]["baselines"] for b in bits]


def shares(scale: Scale, bits: tuple[int, ...], seeds: Sequence[int], results: Results, found: Points) -> str:
    """How much of the distance is due to the mapping and to the teachers; the rest is due to the network."""
    rows = baselines_of(scale, bits, seeds, results, INSTANTNET)
    gains = {
        name: [
            100 * (1 - own / row[name]["edp_js"])
            for b, own, row in zip(bits, found[INSTANTNET][1], rows, strict=True)
            if row[name]["converged"] and row[name].get("fixed_at") != b
        ]
        for name in DATAFLOWS
    }
    said = [f"{ranged(gains[name], '.1f')} against {text}" for name, text in DATAFLOWS.items() if gains[name]]
    text = f"on its own network AutoMapper lowers the EDP by {listed(said)}" if said else "no search has converged"
    plain = results.accuracies([untaught(scale, bits, seed)] for seed in seeds)
    if plain:
        low = min(bits)
        ahead = mean(values(found[INSTANTNET][0], low)) - mean(values(plain, low))
        text += f", cascade distillation makes {ahead:+.2f} points at {low} bit (against `none`)"
    return f"{text}, the networks make the rest"


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """Accuracy against EDP: a row per list of bit-widths, measured here and published."""
    from experiments.figures import accuracy_against_edp, save

    rows = []
    for bits, found in measured(scale, seeds, results).items():
        panels = {f"measured here, [{join(bits)}]": found}
        if bits in CIFAR10:
            published = CIFAR10[bits]
            panels[f"published (CIFAR-10, full size), [{join(bits)}]"] = {
                system: ({b: {0: value} for b, value in zip(bits, published[system][0], strict=True)},
                         [1e-6 * edp for edp in published[system][1]])
                for system in SYSTEMS
            }  # fmt: skip
        rows.append(panels)
    return save(accuracy_against_edp(rows), folder / f"end_to_end_{scale.name}") if rows else []
