"""Claim 6: AutoMapper against dataflows, fixed and published mappings, on four networks. Nothing is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.runs import Run
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.statistics import mean
from experiments.tables import Results, table, with_spread
from experiments.verdicts import UNDECIDED, Verdict, listed, ranged

TITLE = "AutoMapper against the Eyeriss dataflow"
CLAIM = "The paper: AutoMapper's mappings have a lower EDP than the Eyeriss dataflow at every bit-width"
CAPTION = (
    "full-size networks at 224x224 with random weights (an EDP does not depend on them), batch 1, device `eyeriss`, "
    "20,000 mappings per layer, bit-width and dataflow, layers one after another"
)
REMARKS = {
    "full": "The paper's gain, largest at the lowest bit-width, appears over a fixed mapping: tiles "
    "chosen for 32-bit words leave the memories mostly empty at 4 bit. It does not appear "
    "over the best row-stationary mapping of each bit-width, whose latency is within a few "
    "percent of AutoMapper's. Layer by layer, no dataflow is faster where the DRAM link bounds a layer, and "
    "row-stationary is as fast at nearly all of these layers. Idle power and DRAM traffic, "
    "which a dataflow cannot lower there, are more than half of the energy.\n"
    "\n"
    "Every search has the same budget, and AutoMapper takes over what the dataflows' searches "
    "find, so its EDP is never above theirs by construction. A negative gain in energy or "
    "latency is the price for the other. The published mappings are those of AlexNet's five "
    "convolutions for words of up to 16 bit; they do not fit at 32.",
}
LEGAL = (SCALES["full"], SCALES["smoke"])
BARS = "Means over the search's seeds; bars: sample standard deviation. No bar where a search has not converged."
BASELINES = {
    "row_stationary": "the best row-stationary mapping",
    "row_stationary_fixed": "a fixed row-stationary mapping",
    "weight_stationary": "the best weight-stationary mapping",
    "output_stationary": "the best output-stationary mapping",
    "output_stationary_channels": "the best mapping output-stationary over channels",
    "eyeriss_published": "the chip's published mappings",
}
CELLS = (
    "An empty cell: a search has not converged ([when a gain is shown](../automapper.md#when-a-gain-is-shown)). A "
    "dash: the baseline has no mapping. A fixed mapping is the best one at 32 bit, costed at every other width."
)
BOUND = (
    "Such a layer takes exactly the cycles that the link needs to read every weight and input once, "
    "or to write every output once. No mapping of any dataflow is faster there."
)
JUDGED = ("row_stationary", "row_stationary_fixed")  # what the paper's Eyeriss dataflow may mean
NETWORKS = {"alexnet": "AlexNet", "vgg16": "VGG-16", "mobilenet_v2": "MobileNetV2", "resnet18": "ResNet-18"}
PLACES = {
    "dram": "DRAM",
    "glb": "buffer",
    "rf": "PE memories",
    "noc": "array network",
    "mac": "MACs",
    "idle": "idle power",
}


def networks_of(scale: Scale) -> dict[str, str]:
    """`NETWORKS`; as smoke one of them, as the others differ in their layers only."""
    return NETWORKS if scale.name != "smoke" else {"alexnet": NETWORKS["alexnet"]}


def seeds_of(scale: Scale) -> tuple[int, ...]:
    """Seeds of the mapper's search; nothing else is random."""
    return (0, 1, 2) if scale.name != "smoke" else (0,)


def network_run(scale: Scale, network: str, seed: int) -> Run:
    settings = {"network": network, "device": "eyeriss", "bits": list(PAPER_BITS), "budget": scale.map_budget}
    settings |= {"stages": 1, "workers": 1, "seed": seed, **scale.map_settings}
    return Run("map", f"map/{network}/eyeriss/seed{seed}", settings=settings)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [network_run(scale, network, seed) for network in networks_of(scale) for seed in seeds_of(scale)]


Rows = dict[tuple[str, int], list[dict]]  # (network, bit-width) -> what the search of every seed ended with


def rows_of(scale: Scale, results: Results) -> Rows:
    found: Rows = {}
    for network in networks_of(scale):
        for seed in seeds_of(scale):
            mapped = results.of(network_run(scale, network, seed))
            for b in PAPER_BITS if mapped else ():
                found.setdefault((network, b), []).append(mapped["bits"][str(b)])
    return found


def gains(rows: Sequence[dict], baseline: str, cost: str = "edp_js") -> list[float]:
    """By how many percent AutoMapper's cost is lower, per seed, over the layers that have a mapping in the baseline.
    Empty where none has, or a search has not converged."""
    others = [row["baselines"].get(baseline) for row in rows]
    if not all(other and other["converged"] for other in others):
        return []
    owns = [other.get("automapper", row) for row, other in zip(rows, others, strict=True)]
    return [100 * (1 - own[cost] / other[cost]) for own, other in zip(owns, others, strict=True)]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    rows = rows_of(scale, results)
    if not rows:
        return ""
    parts = ["**AutoMapper's mappings**", own_costs(rows)]
    parts += [
        "**Their energy, %, mean over the bit-widths**",
        shares_table(rows),
        "**EDP lower by, %**",
        edp_table(rows),
        CELLS,
    ]
    parts.append("\n".join(f"* {about}: {verdict}" for about, verdict in every_verdict(rows).items()))
    parts += [text for text in [in_two_sentences(rows)] if text]
    for baseline in JUDGED:
        parts += [f"**Energy and latency lower by, %, than with {BASELINES[baseline]}**", parts_table(rows, baseline)]
    parts += ["**Layers bound by the DRAM link**", BOUND, bound_table(rows), bound_layers(rows)]
    return "\n\n".join(parts)


def in_two_sentences(rows: Rows) -> str:
    """The gain of EDP over a fixed and over the best row-stationary mapping, at the lowest bit-width and at 16 bit."""
    found = []
    for baseline in reversed(JUDGED):
        means = mean_gains(rows, baseline)
        at = {b: [gain for (_, of), gain in means.items() if of == b] for b in (PAPER_BITS[0], 16)}
        said = [f"{ranged(values, '.1f')} lower at {b} bit" for b, values in at.items() if values]
        if said:
            found.append(f"Than with {BASELINES[baseline]} the EDP is {' and '.join(said)}.")
    return " ".join(found)


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    """Against the best row-stationary mapping, and against a fixed one. A measurement, which cannot fail: AutoMapper
    takes over what the dataflows' searches find."""
    found = every_verdict(rows_of(scale, results))
    return {key: found[key] for key in (f"against {BASELINES[name]}" for name in JUDGED) if key in found}


def summary(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    """How much lower the EDP is than with the other baselines."""
    rows = rows_of(scale, results)
    found = {name: values for name in BASELINES if name not in JUDGED and (values := mean_gains(rows, name))}
    said = [f"{ranged(values.values())} lower than with {BASELINES[name]}" for name, values in found.items()]
    return f"EDP {listed(said)}" if said else "no other search has converged"


def mean_gains(rows: Rows, baseline: str) -> dict[tuple[str, int], float]:
    """(network, bit-width) -> the mean gain of EDP over the seeds, where the searches have converged; not that over a
    fixed mapping at the bit-width it was found at."""
    return {
        key: mean(values)
        for key, of_seeds in rows.items()
        if (values := gains(of_seeds, baseline)) and not found_at(of_seeds, baseline, key[1])
    }


def found_at(rows: Sequence[dict], baseline: str, b: int) -> bool:
    """Whether a baseline is a mapping kept from bit-width `b`, so that at `b` it is the best one of its dataflow."""
    return rows[0]["baselines"].get(baseline, {}).get("fixed_at") == b


def every_verdict(rows: Rows) -> dict[str, Verdict]:
    """Per baseline: at how many networks and bit-widths the mean EDP is below its, and by how much."""
    found = {}
    for baseline, name in BASELINES.items():
        has_one = [
            key
            for key, of_seeds in rows.items()
            if any(baseline in row["baselines"] for row in of_seeds) and not found_at(of_seeds, baseline, key[1])
        ]
        if not has_one:
            continue
        means = mean_gains(rows, baseline)
        found[f"against {name}"] = judged(means, len(has_one)) if means else Verdict(UNDECIDED, "no search converged")
    return found


def judged(means: Mapping[tuple[str, int], float], cases: int) -> Verdict:
    lower = sum(gain > 0 for gain in means.values())
    word = f"measured, an EDP {ranged(means.values(), '.1f')} lower"
    networks = list(dict.fromkeys(NETWORKS[network] for network, _ in means))
    because = f"{listed(networks)}: lower in {lower} of {len(means)} cases"
    if len(means) < cases:
        because += f" (not converged: {cases - len(means)} more)"
    network, b = max(means, key=means.get)
    return Verdict(word, f"{because}; most for {NETWORKS[network]} at {b} bit")


def own_costs(rows: Rows) -> str:
    """EDP, energy and latency per network and bit-width, the means over the seeds."""
    lines = []
    for (network, b), of_seeds in rows.items():
        costs = [f"{mean([row[cost] for row in of_seeds]):.3e}" for cost in ("edp_js", "energy_j", "latency_s")]
        busy = f"{100 * mean([row['utilisation'] for row in of_seeds]):.0f} %"
        lines.append([NETWORKS[network], f"{b}", str(len(of_seeds)), *costs, busy])
    return table(["network", "bits", "seeds", "EDP, J·s", "energy, J", "latency, s", "multipliers at work"], lines)


def shares_table(rows: Rows) -> str:
    """Where the energy goes, in %: the means over bit-widths and seeds."""
    lines = []
    for network in dict.fromkeys(network for network, _ in rows):
        found = [row["energy_shares"] for b in PAPER_BITS for row in rows[network, b]]
        lines.append(
            [NETWORKS[network], *(f"{100 * mean([shares[place] for shares in found]):.1f}" for place in PLACES)]
        )
    return table(["network", *PLACES.values()], lines)


def edp_table(rows: Rows) -> str:
    """By how much AutoMapper's EDP is below every baseline's; a cell is empty where a search has not converged, and
    holds a dash where the baseline has no mapping."""
    lines = []
    for network in dict.fromkeys(network for network, _ in rows):
        for baseline, name in BASELINES.items():
            of_bits = {b: of_seeds for (of, b), of_seeds in rows.items() if of == network}
            others = {b: of_seeds[0]["baselines"].get(baseline) for b, of_seeds in of_bits.items()}
            if not any(others.values()):
                continue
            cells = [
                with_spread(gains(of_seeds, baseline), "z.1f")
                if gains(of_seeds, baseline)
                else ""
                if others[b]
                else "–"
                for b, of_seeds in of_bits.items()
            ]
            lines.append([NETWORKS[network], f"{name}{layers_of(others)}", str(len(of_bits[PAPER_BITS[0]])), *cells])
    return table(["network", "than with", "seeds", *(f"{b} bit" for b in PAPER_BITS)], lines)


def layers_of(others: Mapping[int, dict | None]) -> str:
    """Over how many layers a baseline is compared, where it does not cover all."""
    counts = {(other["layers_covered"], other["layers"]) for other in others.values() if other}
    least, every = min(counts)
    return f" ({least} of {every} layers)" if least < every else ""


def parts_table(rows: Rows, baseline: str) -> str:
    """How much of a gain of EDP comes from energy, and how much from latency."""
    lines = []
    for network in dict.fromkeys(network for network, _ in rows):
        for cost, name in (("energy_j", "energy"), ("latency_s", "latency")):
            of_bits = [gains(rows[network, b], baseline, cost) for b in PAPER_BITS]
            lines.append(
                [NETWORKS[network], name, *(with_spread(values, "z.1f") if values else "" for values in of_bits)]
            )
    return table(["network", "", *(f"{b} bit" for b in PAPER_BITS)], lines)


def bound_table(rows: Rows) -> str:
    """How many layers the DRAM link bounds, their share of the latency, and at how many the best row-stationary mapping
    takes exactly as many cycles."""
    lines = []
    for network in dict.fromkeys(network for network, _ in rows):
        firsts = [rows[network, b][0] for b in PAPER_BITS]
        layers = firsts[0]["baselines"]["row_stationary"]["layers"]
        counts = [f"{len(row['dram_bound'])}" for row in firsts]
        shares = [f"{sum(row['dram_bound'].values()):.0%}" for row in firsts]
        equal = [f"{row['baselines']['row_stationary']['as_fast']}" for row in firsts]
        lines.append([NETWORKS[network], f"layers, of {layers}", *counts])
        lines.append(["", "their share of the latency", *shares])
        lines.append(["", "of these, row-stationary as fast", *equal])
    return table(["network", "", *(f"{b} bit" for b in PAPER_BITS)], lines)


def bound_layers(rows: Rows) -> str:
    """Which layers these are: per network a list item for each bit-width at which some are bound that are not at a
    narrower one."""
    lines = []
    for network in dict.fromkeys(network for network, _ in rows):
        seen: set[str] = set()
        for b in PAPER_BITS:
            new = [name for name in rows[network, b][0]["dram_bound"] if name not in seen]
            seen |= set(new)
            if new:
                lines.append(f"* {NETWORKS[network]}, first at {b} bit: {', '.join(f'`{name}`' for name in new)}")
    return "\n".join(lines)


def figures(scale: Scale, seeds: Sequence[int], results: Results, folder: Path) -> list[Path]:
    """How far the EDP is below that of the best and of a fixed row-stationary mapping, per network and bit-width."""
    from experiments.figures import grouped_bars, save

    rows = rows_of(scale, results)
    networks = {title: network for network, title in networks_of(scale).items() if (network, PAPER_BITS[0]) in rows}
    if not networks:
        return []
    panels = {
        f"against {BASELINES[baseline]}": {
            title: [gains(rows[network, b], baseline) for b in PAPER_BITS] for title, network in networks.items()
        }
        for baseline in JUDGED
    }
    drawn = grouped_bars(panels, [f"{b} bit" for b in PAPER_BITS], "EDP lower by, %")
    return save(drawn, folder / f"mapper_{scale.name}")
