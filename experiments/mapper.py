"""Claim 6: AutoMapper against the Eyeriss dataflow, on four networks at each bit-width. Nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

from experiments.plan import join
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.statistics import mean
from experiments.tables import Results, table, with_spread
from experiments.verdicts import FAILS, HOLDS, IN_PART, Verdict, listed, ranged

TITLE = "AutoMapper against the Eyeriss dataflow"
CLAIM = "The paper: AutoMapper's mappings have a lower EDP than the Eyeriss dataflow at every bit-width"
CAPTION = (
    "full-size networks at 224x224 with random weights (an EDP does not depend on them), batch 1, device `eyeriss`, "
    "20,000 mappings per layer and bit-width, layers one after another"
)
REMARKS = {
    "full": "AutoMapper and each dataflow search with the same budget, and AutoMapper may take over what the "
    "dataflows' searches find: its EDP is lower or equal by construction. What is measured is how far below; its "
    "spread over the search's seeds is mostly that of the baseline's own search (in 18 of 20 cases). The chip's "
    "published mappings are those of AlexNet's five convolutions, for words of up to 16 bit: at 32 bit they do not "
    "fit its memories. They are fixed: tiles chosen for 16-bit words leave the memories mostly empty at 4 bit. The "
    "*best* row-stationary mapping, which the same search finds for each layer and bit-width, leaves little to "
    "gain: where the multipliers are at work all of the time no dataflow is faster, and where they are not it is "
    "mostly the DRAM link they wait for, over which at batch 1 every weight comes once with either. EDP is what the "
    "search minimises, layer by layer: a negative energy or latency is what a network paid for the other.",
}
LEGAL = (SCALES["full"], SCALES["smoke"])
COSTS = ("edp_js", "energy_j", "latency_s")
BARS = "Means over the search's seeds; bars: sample standard deviation."
BASELINES = {
    "row_stationary": "the best row-stationary mapping",
    "eyeriss_published": "the chip's published mappings",
}
NETWORKS = {"alexnet": "AlexNet", "vgg16": "VGG-16", "mobilenet_v2": "MobileNetV2", "resnet18": "ResNet-18"}


def networks_of(scale: Scale) -> dict[str, str]:
    """`NETWORKS`; as smoke one of them, as the others differ in their layers only."""
    return NETWORKS if scale.name != "smoke" else {"alexnet": NETWORKS["alexnet"]}


def seeds_of(scale: Scale) -> tuple[int, ...]:
    """Of the mapper's search: nothing else is drawn."""
    return (0, 1, 2) if scale.name != "smoke" else (0,)


def network_run(scale: Scale, network: str, seed: int) -> Run:
    words = ("--network", network, "--device", "eyeriss", "--bits", join(PAPER_BITS), "--budget", scale.map_budget)
    return Run(
        "map", f"map/{network}/eyeriss/seed{seed}", (*words, "--stages", "1", "--workers", "1", "--seed", f"{seed}")
    )


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [network_run(scale, network, seed) for network in networks_of(scale) for seed in seeds_of(scale)]


Pair = tuple[dict, dict]  # AutoMapper's costs, and a baseline's over the same layers


def pairs(scale: Scale, results: Results, baseline: str) -> dict[tuple[str, int], list[Pair]]:
    """(network, bit-width) -> what every seed's search ended with, where the baseline has a mapping."""
    found: dict[tuple[str, int], list[Pair]] = {}
    for network in networks_of(scale):
        for seed in seeds_of(scale):
            mapped = results.of(network_run(scale, network, seed))
            for b in PAPER_BITS if mapped else ():
                row = mapped["bits"][str(b)]
                other = row["baselines"].get(baseline)
                if other is not None:
                    own = other.get("automapper", row) | {"utilisation": row["utilisation"]}
                    found.setdefault((network, b), []).append((own, other))
    return found


def gains(seeds: Sequence[Pair], cost: str = "edp_js") -> list[float]:
    """By how many percent AutoMapper's cost is lower, per seed."""
    return [100 * (1 - own[cost] / other[cost]) for own, other in seeds]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    said = verdicts(scale, seeds, results)
    parts = []
    for baseline, name in BASELINES.items():
        text = against(scale, results, baseline, name)
        parts += [text, str(said[f"against {name}"])] if text else []
    return "\n\n".join(parts)


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    """Per baseline: at how many networks and bit-widths the mean EDP is below its, and by how much."""
    found = {}
    for baseline, name in BASELINES.items():
        means = {key: mean(gains(values)) for key, values in pairs(scale, results, baseline).items()}
        if not means:
            continue
        lower = sum(gain > 0 for gain in means.values())
        word = HOLDS if lower == len(means) else IN_PART if lower else FAILS
        networks = list(dict.fromkeys(NETWORKS[network] for network, _ in means))
        because = (
            f"{listed(networks)}: a lower EDP in {lower} of {len(means)} cases, by {ranged(means.values(), '.1f')}"
        )
        network, b = max(means, key=means.get)
        because += f"; most for {NETWORKS[network]} at {b} bit"
        if baseline == "row_stationary":
            because += "; never above it by construction"
        found[f"against {name}"] = Verdict(word, because)
    return found


def against(scale: Scale, results: Results, baseline: str, name: str) -> str:
    """EDP, energy and latency per network and bit-width, and how much lower they are than the baseline's, over the
    layers that have a mapping in it."""
    lines = []
    found = pairs(scale, results, baseline)
    whole = all(other["layers_covered"] == other["layers"] for ((_, other), *_) in found.values())
    for (network, b), values in found.items():
        own, other = values[0]
        covered = f"{other['layers_covered']} of {other['layers']}"
        costs = [f"{mean([own[cost] for own, _ in values]):.3e}" for cost in COSTS]
        lower = [f"{with_spread(gains(values, cost), 'z.1f')} %" for cost in COSTS]
        busy = [f"{100 * own['utilisation']:.0f} %"] if whole else []  # known of the whole network alone
        lines.append([NETWORKS[network], f"{b}", covered, str(len(values)), *costs, *lower, *busy])
    if not lines:
        return ""
    head = [
        "network",
        "bits",
        "layers",
        "seeds",
        "EDP, J·s",
        "energy, J",
        "latency, s",
        "EDP lower by",
        "energy",
        "latency",
    ]
    return f"**Against {name}**\n\n" + table([*head, *(["multipliers at work"] if whole else [])], lines)


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """How far the EDP is below that of the row-stationary dataflow, per network and bit-width."""
    from experiments.figures import grouped_bars, save

    found = pairs(scale, results, "row_stationary")
    groups = {
        title: [gains(found[network, b]) for b in PAPER_BITS]
        for network, title in networks_of(scale).items()
        if (network, PAPER_BITS[0]) in found
    }
    if not groups:
        return []
    label = "EDP below row-stationary, %"
    return save(grouped_bars(groups, [f"{b} bit" for b in PAPER_BITS], label), folder / f"mapper_{scale.name}")
