"""Claim 6: AutoMapper against the Eyeriss dataflow, on four networks at each bit-width. Nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

from experiments.plan import join
from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.tables import Results, table
from experiments.verdicts import FAILS, HOLDS, IN_PART, Verdict, ranged

TITLE = "AutoMapper against the Eyeriss dataflow"
CLAIM = "The paper: AutoMapper's mappings have a lower EDP than the Eyeriss dataflow at every bit-width"
CAPTION = (
    "full-size networks at 224x224 with random weights (an EDP does not depend on them), batch 1, device `eyeriss`, "
    "20,000 mappings per layer and bit-width, layers one after another"
)
REMARKS = {
    "full": "The chip's published mappings are fixed: tiles chosen for 16-bit words leave its memories mostly empty "
    "at 4 bit. The *best* row-stationary mapping, which the same search finds for each layer and bit-width, leaves "
    "little to gain: at batch 1 most layers are bound by the DRAM link, which no dataflow shortens. EDP is what the "
    "search minimises, layer by layer: a negative energy or latency is what a network paid for the other, and a sum "
    "over layers can be behind where no layer is.",
}
LEGAL = (SCALES["full"], SCALES["smoke"])
COSTS = ("edp_js", "energy_j", "latency_s")
NETWORKS = {"alexnet": "AlexNet", "vgg16": "VGG-16", "mobilenet_v2": "MobileNetV2", "resnet18": "ResNet-18"}


def networks_of(scale: Scale) -> dict[str, str]:
    """`NETWORKS`; as smoke one of them, as the others differ in their layers only."""
    return NETWORKS if scale.name != "smoke" else {"alexnet": NETWORKS["alexnet"]}


def network_run(scale: Scale, network: str) -> Run:
    words = ("--network", network, "--device", "eyeriss", "--bits", join(PAPER_BITS), "--budget", scale.map_budget)
    return Run("map", f"map/{network}/eyeriss", (*words, "--stages", "1", "--workers", "1", "--seed", "0"))


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [network_run(scale, network) for network in networks_of(scale)]


BASELINES = {
    "row_stationary": "the best row-stationary mapping",
    "eyeriss_published": "the chip's published mappings",
}


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    said = verdicts(scale, seeds, results)
    parts = []
    for baseline, name in BASELINES.items():
        text = against(scale, results, baseline, name)
        parts += [text, str(said[f"against {name}"])] if text else []
    return "\n\n".join(parts)


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    """Per baseline: at how many networks and bit-widths the EDP is below its, and by how much."""
    found = {}
    for baseline, name in BASELINES.items():
        gains = {}
        for network in networks_of(scale):
            mapped = results.of(network_run(scale, network))
            for b in PAPER_BITS if mapped else ():
                row = mapped["bits"][str(b)]
                other = row["baselines"].get(baseline)
                if other is not None:
                    gains[network, b] = 100 * (1 - other.get("automapper", row)["edp_js"] / other["edp_js"])
        if not gains:
            continue
        lower = sum(gain > 0 for gain in gains.values())
        word = HOLDS if lower == len(gains) else IN_PART if lower else FAILS
        because = f"a lower EDP in {lower} of {len(gains)} cases, by {ranged(gains.values(), '.1f')}"
        network, b = max(gains, key=gains.get)
        found[f"against {name}"] = Verdict(word, f"{because}; most for {NETWORKS[network]} at {b} bit")
    return found


def against(scale: Scale, results: Results, baseline: str, name: str) -> str:
    """EDP, energy and latency per network and bit-width, and how much lower they are than the baseline's, over the
    layers that have a mapping in it."""
    lines = []
    for network, title in networks_of(scale).items():
        found = results.of(network_run(scale, network))
        for b in PAPER_BITS if found else ():
            row = found["bits"][str(b)]
            other = row["baselines"].get(baseline)
            if other is None:
                continue
            own = other.get("automapper", row)
            covered = f"{other['layers_covered']} of {other['layers']}"
            cells = [f"{own['edp_js']:.3e}", f"{own['energy_j']:.3e}", f"{own['latency_s']:.3e}"]
            lines.append([title, f"{b}", covered, *cells, *(f"{1 - own[cost] / other[cost]:.1%}" for cost in COSTS)])
    if not lines:
        return ""
    head = ["network", "bits", "layers", "EDP, J·s", "energy, J", "latency, s", "EDP", "energy", "latency"]
    return f"**Against {name}** (last columns: how much lower)\n\n" + table(head, lines)


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """EDP over that of the row-stationary dataflow, per network and bit-width."""
    from experiments.figures import grouped_bars, save

    ratios = {}
    for network, name in networks_of(scale).items():
        found = results.of(network_run(scale, network))
        if found:
            rows = [found["bits"][str(b)] for b in PAPER_BITS]
            ratios[name] = [100 * (1 - row["edp_js"] / row["baselines"]["row_stationary"]["edp_js"]) for row in rows]
    if not ratios:
        return []
    label = "EDP below row-stationary, %"
    return save(grouped_bars(ratios, [f"{b} bit" for b in PAPER_BITS], label), folder / f"mapper_{scale.name}")
