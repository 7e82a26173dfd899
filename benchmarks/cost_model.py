"""Speed and memory of the batched cost model: mappings per second on one core and on more.

    python benchmarks/cost_model.py [--device eyeriss] [--rows 1000000] [--repeats 7] [--json FILE]

Every timed mapping is valid, because an invalid one is rejected early and would inflate the speed. All eight dimensions
are used, and rows differ in layer, bit-width, factors and loop orders. Compilation is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numba  # noqa: E402
import numpy as np  # noqa: E402

import hw_model  # noqa: E402
from hw_model.kernel_loader import cpu_count  # noqa: E402

LAYERS = [
    hw_model.Layer(name="alexnet_conv2", N=4, G=2, K=128, C=48, P=27, Q=27, R=5, S=5),
    hw_model.Layer(name="resnet_conv3", N=4, K=128, C=128, P=28, Q=28, R=3, S=3),
    hw_model.Layer(name="resnet_conv4_down", N=4, K=256, C=128, P=14, Q=14, R=3, S=3, stride=2),
    hw_model.Layer(name="grouped", N=2, G=4, K=32, C=16, P=14, Q=14, R=3, S=3),
    hw_model.Layer(name="depthwise", N=2, G=192, P=28, Q=28, R=3, S=3),
    hw_model.Layer(name="pointwise", N=2, K=192, C=32, P=28, Q=28),
]
BITS = [4, 8, 16]
DISTINCT = 20_000  # valid mappings; repeated to fill larger batches


def prime_factors(number: int) -> list[int]:
    """12 -> [2, 2, 3]."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def random_mappings(device: hw_model.Device, layer: hw_model.Layer, count: int, rng: np.random.Generator) -> tuple:
    """Factors and orders of random mappings; outer levels are likelier, so that more of them fit."""
    weights = np.array([4 if slot == "dram" else 2 if slot == device.level_names[1] else 1 for slot in device.slots])
    factors = np.ones((count, len(device.slots), 8), np.int32)
    for d, size in enumerate(layer.sizes):
        for prime in prime_factors(size):
            slot = rng.choice(len(device.slots), count, p=weights / weights.sum())
            factors[np.arange(count), slot, d] *= prime
    n_levels = len(device.levels)
    orders = rng.permuted(np.tile(np.arange(8, dtype=np.int8), (count * n_levels, 1)), axis=1)
    return factors, orders.reshape(count, n_levels, 8)


def valid_population(device: hw_model.Device, seed: int = 0) -> dict:
    """DISTINCT valid mappings with the layer and bit-width of each; and the share of random ones that were valid."""
    rng = np.random.default_rng(seed)
    problems = [(layer, bits) for layer in LAYERS for bits in BITS]
    per_problem = -(-DISTINCT // len(problems))
    found: dict[str, list] = {"factors": [], "orders": [], "problem": []}
    tried = 0
    for index, (layer, bits) in enumerate(problems):
        have = 0
        while have < per_problem:
            factors, orders = random_mappings(device, layer, 20_000, rng)
            valid = np.flatnonzero(hw_model.evaluate_batch(layer, factors, orders, device, bits).valid)
            tried += len(factors)
            valid = valid[: per_problem - have]
            have += len(valid)
            found["factors"].append(factors[valid])
            found["orders"].append(orders[valid])
            found["problem"].append(np.full(len(valid), index, np.int32))
    population = {name: np.concatenate(parts) for name, parts in found.items()}
    shuffle = rng.permutation(len(population["problem"]))
    population = {name: array[shuffle] for name, array in population.items()}
    return {
        **population, "layers": [layer for layer, _ in problems], "bits": [bits for _, bits in problems],
        "valid_share": len(shuffle) / tried,
    }  # fmt: skip


def repeated(population: dict, rows: int) -> dict:
    """The population's mappings, repeated to a batch of `rows` rows."""
    index = np.arange(rows) % len(population["problem"])
    return {name: population[name][index] for name in ("factors", "orders", "problem")}


def evaluate(device: hw_model.Device, population: dict, arrays: dict, threads: int) -> hw_model.BatchCost:
    """One call of the batched model."""
    return hw_model.evaluate_batch(
        population["layers"], arrays["factors"], arrays["orders"], device, population["bits"],
        problem=arrays["problem"], threads=threads,
    )  # fmt: skip


def speeds(device: hw_model.Device, population: dict, rows: int, repeats: int) -> list[dict]:
    """Mappings per second on 1, 2, 4, .. cores; runs of the different counts alternate, so that they meet one load."""
    arrays = repeated(population, rows)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= cpu_count()]
    seconds: dict[int, list[float]] = {threads: [] for threads in counts}
    cpu_seconds: dict[int, list[float]] = {threads: [] for threads in counts}
    for _ in range(repeats):
        for threads in counts:
            start, cpu_start = time.perf_counter(), time.process_time()
            result = evaluate(device, population, arrays, threads)
            seconds[threads].append(time.perf_counter() - start)
            cpu_seconds[threads].append(time.process_time() - cpu_start)
    assert result.valid.all()
    return [
        {
            "threads": threads,
            "best_per_second": rows / min(runs),
            "median_per_second": rows / statistics.median(runs),
            "worst_per_second": rows / max(runs),
            "best_per_cpu_second": rows / min(cpu_seconds[threads]),
        }
        for threads, runs in seconds.items()
    ]


def memory(device: hw_model.Device, population: dict, largest: int) -> list[dict]:
    """Bytes per mapping of the arrays given and of what the evaluation allocates on top (peak, results included)."""
    lines = []
    for rows in (10**exponent for exponent in range(3, 8) if 10**exponent <= largest):
        arrays = repeated(population, rows)
        given = sum(array.nbytes for array in arrays.values())
        evaluate(device, population, arrays, 1)
        tracemalloc.start()
        evaluate(device, population, arrays, 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        lines.append({"rows": rows, "given_bytes": given / rows, "allocated_bytes": peak / rows})
    return lines


def main() -> None:
    """Print the tables; write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="eyeriss", help="name or path of a device (default: eyeriss)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="mappings per timed call (default: 1000000)")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls (default: 7)")
    parser.add_argument("--largest", type=int, default=10**7, help="largest batch of the memory table")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    device = hw_model.load_device(options.device)
    population = valid_population(device)
    loops = float((population["factors"] > 1).sum((1, 2)).mean())
    print(f"{device.name}: {len(population['problem'])} distinct valid mappings, {loops:.1f} loops each")
    print(f"python {platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}, {cpu_count()} cores")
    load = os.getloadavg()[0]
    print(f"load of the machine before: {load:.1f} (timings of a busy machine say little; CPU time says more)")
    speed = speeds(device, population, options.rows, options.repeats)
    print(f"\ncores   million mappings/s: best  median  worst of {options.repeats}  against one core  per CPU second")
    for line in speed:
        figures = [line[f"{name}_per_second"] / 1e6 for name in ("best", "median", "worst")]
        ratio = line["best_per_second"] / speed[0]["best_per_second"]
        cpu = line["best_per_cpu_second"] / 1e6
        print(f"{line['threads']:5}{'':19}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2]:7.2f}{ratio:17.2f}x{cpu:16.2f}")
    space = memory(device, population, options.largest)
    print("\n    rows   bytes per mapping: given   allocated (peak)")
    for line in space:
        print(f"{line['rows']:8}{'':18}{line['given_bytes']:8.1f}{line['allocated_bytes']:15.1f}")
    if options.json:
        report = {
            "device": device.name, "loops_per_mapping": loops, "valid_share_of_random": population["valid_share"],
            "load_before": load, "python": platform.python_version(), "numba": numba.__version__, "cores": cpu_count(),
            "speed": speed, "memory": space,
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
