"""The spread of a search over seeds: (worst - best) / best of a layer's energy-delay product over five seeds.

    python benchmarks/seeds.py [--device simba_like,eyeriss] [--cases 48] [--budget 20000] [--seeds 5] [--json FILE]

48 cases: layers of AlexNet, VGG-16, ResNet, MobileNetV2 and EfficientNet, linear, grouped and odd-sized ones, each at
one bit-width. A search is what a run does for a layer: the whole space and the built-in dataflows. One core;
compilation is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from automapper.budget import Budget  # noqa: E402
from automapper.objective import parse_objective  # noqa: E402
from automapper.search import load_kernels, run_search  # noqa: E402
from automapper.terminal import table  # noqa: E402
from automapper.workload import Problem  # noqa: E402
from hw_model import Device, Layer, device_names, load_device  # noqa: E402

LAYERS = [
    *({"N": 4, "G": g, "K": k, "C": c, "P": p, "Q": p, "R": r, "S": r, "stride": stride}
      for g, k, c, p, r, stride in ((1, 96, 3, 55, 11, 4), (2, 128, 48, 27, 5, 1), (1, 384, 256, 13, 3, 1))),
    *({"K": k, "C": c, "P": p, "Q": p, "R": 3, "S": 3}
      for k, c, p in ((64, 3, 224), (64, 64, 224), (128, 64, 112), (256, 256, 56), (512, 512, 28), (512, 512, 14))),
    *({"K": k, "C": c, "P": p, "Q": p, "R": r, "S": r, "stride": stride}
      for k, c, p, r, stride in ((64, 3, 112, 7, 2), (64, 64, 56, 3, 1), (128, 64, 28, 3, 2), (128, 64, 28, 1, 2),
                                 (256, 1024, 14, 1, 1), (2048, 512, 7, 1, 1), (512, 512, 7, 3, 1))),
    *({"G": g, "P": p, "Q": p, "R": r, "S": r, "stride": stride}
      for g, p, r, stride in ((32, 112, 3, 1), (96, 56, 3, 2), (144, 56, 3, 1), (576, 14, 3, 1), (672, 14, 5, 1),
                              (1152, 7, 5, 1), (960, 7, 3, 1))),
    *({"K": k, "C": c, "P": p, "Q": p}
      for k, c, p in ((16, 32, 112), (96, 16, 112), (144, 24, 56), (576, 96, 14), (320, 960, 7), (1280, 320, 7))),
    *({"N": n, "K": k, "C": c} for n, k, c in ((1, 1000, 2048), (1, 4096, 9216), (8, 1000, 1280), (64, 512, 512))),
    *({"G": g, "K": k, "C": c, "P": p, "Q": p, "R": 3, "S": 3}
      for g, k, c, p in ((32, 4, 4, 56), (8, 16, 16, 28), (32, 32, 32, 7))),
    {"K": 17, "C": 13, "P": 29, "Q": 31, "R": 3, "S": 3},
    {"K": 7, "C": 5, "P": 53, "Q": 19, "R": 5, "S": 1},
    {"N": 3, "K": 37, "C": 41, "P": 11, "Q": 11, "R": 3, "S": 3, "stride": 2},
    {"G": 23, "P": 19, "Q": 19, "R": 7, "S": 7},
    {"K": 101, "C": 103},
    {"N": 2, "K": 48, "C": 24, "P": 1, "Q": 128, "S": 9},
    {"K": 80, "C": 64, "P": 73, "Q": 73},
    {"K": 192, "C": 80, "P": 71, "Q": 71, "R": 3, "S": 3},
    {"K": 64, "C": 64, "P": 35, "Q": 35, "R": 5, "S": 5},
    {"K": 224, "C": 224, "P": 17, "Q": 17, "R": 1, "S": 7},
    {"K": 24, "C": 24, "P": 150, "Q": 150, "R": 3, "S": 3},
    {"N": 16, "K": 64, "C": 64, "P": 8, "Q": 8, "R": 3, "S": 3},
]  # fmt: skip
BITS = (8, 16, 4, 12, 32)


def cases(count: int) -> list[Problem]:
    """The first `count` of 48, spread over all kinds of layers."""
    every = [Problem(Layer(**sizes), BITS[index % len(BITS)]) for index, sizes in enumerate(LAYERS)]
    return [every[index * 7 % len(every)] for index in range(min(count, len(every)))]


def measure(device: Device, problems: list[Problem], budget: int, seeds: int) -> list[dict]:
    """Per problem (worst - best) / best in percent, and the CPU seconds of the slowest seed."""
    load_kernels(device)
    results = []
    for problem in problems:
        edps, seconds = [], []
        for seed in range(seeds):
            begin = time.process_time()
            outcome = run_search([problem], device, parse_objective("edp"), Budget(budget), seed, workers=1)
            seconds.append(time.process_time() - begin)
            edps.append(outcome.own(problem).cost.edp_js)
        results.append(
            {
                "device": device.name,
                "layer": problem.layer.to_dict(),
                "bits": problem.bits,
                "edp_js": edps,
                "spread_percent": 100 * (max(edps) / min(edps) - 1),
                "seconds": max(seconds),
                "converged": outcome.own(problem).converged,
            }
        )
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=",".join(device_names()), help="devices, by comma")
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--budget", type=int, default=20000, help="mappings per search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args(arguments)
    rows, results = [], []
    for name in options.device.split(","):
        found = measure(load_device(name), cases(options.cases), options.budget, options.seeds)
        results += found
        spreads = sorted(row["spread_percent"] for row in found)
        rows.append(
            [
                name,
                f"{statistics.median(spreads):.2f}",
                f"{spreads[-1]:.2f}",
                str(sum(spread > 2 for spread in spreads)),
                f"{max(row['seconds'] for row in found):.2f}",
                f"{sum(row['converged'] for row in found)} of {len(found)}",
            ]
        )
    print(table(["device", "median %", "worst %", "above 2 %", "seconds at most", "converged"], rows))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
