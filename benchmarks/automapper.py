"""The mapper against Timeloop's: best energy-delay product found per layer, and the seconds it took.

    python benchmarks/automapper.py [--budget 60000] [--seeds 3] [--json FILE]

Timeloop's mappings are the best its search found in 40 to 60 CPU seconds each (tests/data/timeloop_mapper.json). Both
are costed by hw_model: energy without network and without drains, in MACs of 16 bit, times cycles. This makes
Timeloop's mappings up to 6 % better than its own count, which refetches more inputs. "same space" keeps every tensor in
the global buffer, as Timeloop's search did; "with bypass" is the whole space. Compilation is not timed; one core is
used.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from automapper.evolve import Evolution  # noqa: E402
from automapper.objective import parse_objective  # noqa: E402
from automapper.space import Search  # noqa: E402
from automapper.terminal import table  # noqa: E402
from automapper.workload import Problem  # noqa: E402
from hw_model import Cost, Device, Layer, evaluate, load_device  # noqa: E402

REFERENCE = ROOT / "tests" / "data" / "timeloop_mapper.json"
BITS = 16


def reference_cases() -> list[dict]:
    """Timeloop's cases with `layer` and `device` as objects; network energy left out of the device, as there."""
    cases = json.loads(REFERENCE.read_text())["cases"]
    for case in cases:
        device = replace(load_device(case["architecture"]), network_energy_pj_per_bit=0.0)
        case["device"] = device if case["bandwidth_limited"] else device.unlimited()
        case["name"] = case["layer"]
        case["layer"] = Layer(**case["dims"], stride=case["stride"])
        case["mapping"] = {name.removesuffix("_temporal"): loops for name, loops in case["mapping"].items()}
    return cases


def without_bypass(device: Device) -> Device:
    """The device with every tensor kept at every level."""
    return replace(device, levels=tuple(replace(level, may_bypass=()) for level in device.levels))


def timeloop_edp(cost: Cost) -> float:
    """Energy without drains times cycles, the unit of the reference file."""
    return cost.energy_without_drains_j * 1e12 * cost.cycles


def search(layer: Layer, device: Device, budget: int, seed: int) -> tuple[Cost, float, int]:
    """The best cost found, the seconds it took on one core, and how many mappings it costed."""
    begin = time.perf_counter()
    evolution = Evolution([Search(Problem(layer, BITS))], device, parse_objective("edp"), seed)
    for part in range(1, 21):
        evolution.advance(budget * part // 20, part / 20)
    cost = evaluate(layer, evolution.best(0), device, BITS)
    return cost, time.perf_counter() - begin, evolution.evaluated


def measure(budget: int, seeds: int) -> list[dict]:
    """One result per case: EDP over Timeloop's in both spaces, the worst of the seeds, and the longest search."""
    search(Layer(K=2), load_device("simple256"), 1, 0)  # compiles
    results = []
    for case in reference_cases():
        layer, device = case["layer"], case["device"]
        known = timeloop_edp(evaluate(layer, case["mapping"], device, BITS))  # Timeloop's own refetches more inputs
        assert 0.9 < known / case["edp_without_network"] < 1.001
        result = {
            "layer": case["name"],
            "architecture": case["architecture"],
            "bandwidth_limited": case["bandwidth_limited"],
            "timeloop_seconds": case["cpu_seconds"],
        }
        for space, where in (("same_space", without_bypass(device)), ("with_bypass", device)):
            runs = [search(layer, where, budget, seed) for seed in range(seeds)]
            result[f"{space}_edp_over_timeloop"] = max(timeloop_edp(cost) for cost, _, _ in runs) / known
            result[f"{space}_seconds"] = max(seconds for _, seconds, _ in runs)
            result[f"{space}_mappings"] = max(mappings for _, _, mappings in runs)
        results.append(result)
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=60000, help="mappings per search")
    parser.add_argument("--seeds", type=int, default=3, help="searches per layer; the worst counts")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args(arguments)
    results = measure(options.budget, options.seeds)
    rows = [
        [
            row["layer"],
            row["architecture"],
            "yes" if row["bandwidth_limited"] else "no",
            f"{row['timeloop_seconds']:.0f}",
            f"{row['same_space_edp_over_timeloop']:.3f}",
            f"{row['same_space_seconds']:.2f}",
            f"{row['with_bypass_edp_over_timeloop']:.3f}",
            f"{row['with_bypass_seconds']:.2f}",
        ]
        for row in results
    ]
    header = ["layer", "architecture", "bandwidth limits", "Timeloop s", "same space", "s", "with bypass", "s"]
    print(table(header, rows))
    means = [
        math.exp(statistics.mean(math.log(row[f"{space}_edp_over_timeloop"]) for row in results))
        for space in ("same_space", "with_bypass")
    ]
    print(
        f"EDP over Timeloop's, worst of {options.seeds} seeds; geometric mean {means[0]:.3f} in the same space, "
        f"{means[1]:.3f} with bypass; Python {platform.python_version()}, {platform.machine()}, one core"
    )
    if options.json:
        content = {"budget": options.budget, "seeds": options.seeds, "cases": results}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
