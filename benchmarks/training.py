"""Speed of search and training, plain and fast: python benchmarks/training.py [--quick] [--threads 1] [--json FILE]

plain: what the authors' code does, operation by operation: channels first, the quantizer as eight passes of its own,
the allocator as it comes, gradients of weights and alpha in both steps of the search, weights quantized at each use.
fast: the settings of config_search.py and config_train.py as they stand; each step computes only its own gradients.

Both run the same network on the same images at bit-widths 4, 8, 12, 16, 32. Every variant has a process of its own
(the allocator is a process's), steps alternate between the two, and the table quotes medians. On one CPU thread a
step's time is its process's CPU time, which other work on the machine disturbs little; else it is wall-clock time.

The steps are explained at the top of benchmarks/training_cases.py. With a GPU the table is that of
benchmarks/training_gpu.py instead; without one it is left empty.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import training_gpu
from training_gpu import RUN_S, RUNS

from instantnet.engine.machine import versions

WORKER = Path(__file__).with_name("training_cases.py")


class Worker:
    """A process of its own that runs the steps of a case, one case after another."""

    def __init__(self) -> None:
        command = [sys.executable, str(WORKER)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def build(self, case: dict) -> dict:
        """Make the network of `case`, dropping the one before; {"before_bytes": largest resident set so far}."""
        return self._ask("build " + json.dumps(case))

    def step(self, count: int = 1) -> dict:
        """{"cpu_s", "wall_s"} of `count` steps."""
        return self._ask(f"step {count}")

    def memory(self) -> dict[str, float]:
        """{"peak_bytes"}: the largest resident set so far."""
        return self._ask("memory")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, words: str) -> dict:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process that was to {words} ended with status {self.process.wait()}")
        return json.loads(line)


class Workers:
    """Processes of a measurement: new ones for each, so that memory is its own, or (`reuse`) always the same ones."""

    def __init__(self, reuse: bool):
        self.reuse = reuse
        self.kept: list[Worker] = []

    @contextmanager
    def take(self, count: int) -> Iterator[list[Worker]]:
        """`count` workers, ended afterwards unless they are kept."""
        workers = [self.kept.pop() if self.kept else Worker() for _ in range(count)]
        yield workers
        if self.reuse:
            self.kept += workers
        else:
            for worker in workers:
                worker.close()

    def close(self) -> None:
        """End the processes that were kept."""
        for worker in self.kept:
            worker.close()


def measure(workers: list[Worker], cases: list[dict], repeats: int) -> list[dict]:
    """Steps of `cases` in turn, the first of each left out: per case its medians, single times and memory."""
    built = [worker.build(case) for worker, case in zip(workers, cases, strict=True)]
    timed: list[list[dict]] = [[] for _ in workers]
    for turn in range(repeats + 1):
        order = list(enumerate(workers))
        for i, worker in order[::-1] if turn % 2 else order:  # each goes first as often
            seconds = worker.step()
            if turn:
                timed[i].append(seconds)
    rows = []
    for case, before, worker, times in zip(cases, built, workers, timed, strict=True):
        seconds = [time[clock(case)] for time in times]
        row = {"clock": clock(case), "seconds": statistics.median(seconds), "all_seconds": seconds}
        rows.append(case | before | row | worker.memory())
    return rows


def clock(case: dict) -> str:
    """Which time of a step is quoted."""
    return "cpu_s" if case["device"] == "cpu" and case["threads"] == 1 else "wall_s"


def speedup_rows(options: argparse.Namespace, common: dict, workers: Workers) -> list[dict]:
    """(a), (b), (c), (f): each step plain and fast, time and peak memory."""
    rows = []
    for name, batch in (("weight step", 16), ("alpha step", 16), ("training step", 32)):
        batch = options.batch or batch
        pair = [common | {"step": name, "variant": v, "batch": batch} for v in ("plain", "fast")]
        with workers.take(2) as taken:
            plain, fast = measure(taken, pair, options.repeats)
        rows.append({"plain": plain, "fast": fast, "ratio": plain["seconds"] / fast["seconds"]})
        memory = " ".join(f"{row['peak_bytes'] / 2**30:8.2f}" for row in (plain, fast))
        times = f"{plain['seconds']:9.2f} {fast['seconds']:9.2f} {rows[-1]['ratio']:6.2f}x"
        print(f"{name:<15} {batch:>5} {times} {memory} GiB", flush=True)
    return rows


def overhead_rows(options: argparse.Namespace, common: dict, workers: Workers) -> dict:
    """(d): five bit-widths against five passes at 32 bit."""
    batch = options.batch or 16
    case = common | {"variant": "fast", "batch": batch}
    rows = {}
    for step in ("weight step", "training step"):
        pair = [case | {"step": step}, case | {"step": step, "all_float": True}]
        with workers.take(2) as taken:
            quantized, floats = measure(taken, pair, options.repeats)
        ratio = quantized["seconds"] / floats["seconds"]
        rows[step] = {"quantized": quantized, "float": floats, "ratio": ratio}
        times = f"{floats['seconds']:9.2f} {quantized['seconds']:9.2f} {ratio:6.2f}x"
        print(f"{step:<15} {batch:>5} {times}", flush=True)
    return rows


def path_rows(options: argparse.Namespace, common: dict, workers: Workers) -> list[dict]:
    """The fast weight step with all candidates running, and with the setting sample_paths."""
    base = common | {"step": "weight step", "variant": "fast", "batch": options.batch or 16}
    with workers.take(2) as taken:
        everything, *_ = measure(taken[:1], [base], options.repeats)
        some = [measure(taken[1:], [base | {"sample_paths": n}], options.repeats)[0] for n in (2, 1)]
    for row in some:
        row["ratio"] = everything["seconds"] / row["seconds"]
        count = f"{row['sample_paths']} of 9"
        print(f"{count:<15} {row['batch']:>5} {everything['seconds']:9.2f} {row['seconds']:9.2f} {row['ratio']:6.2f}x")
    return [everything, *some]


def linearity_rows(options: argparse.Namespace, common: dict, workers: Workers) -> list[dict]:
    """(e): the fast weight step with more and more bit-widths, candidates and images."""
    batch = options.batch or 16
    base = common | {"step": "weight step", "variant": "fast", "batch": batch}
    # All bit-widths alike and all candidates alike (k3_e3), so that equal steps add equal work.
    sweeps = {
        "bit-widths": [base | {"bit_widths": list(range(8, 8 + n))} for n in (1, 2, 3, 5)],
        "candidates": [base | {"candidates": n, "bit_widths": [8]} for n in (2, 4, 6, 8)],
        "images": [base | {"batch": n * batch, "bit_widths": [8]} for n in (1, 2, 3, 4)],
    }
    counts = {"bit-widths": (1, 2, 3, 5), "candidates": (2, 4, 6, 8), "images": tuple(batch * n for n in (1, 2, 3, 4))}
    rows = []
    for name, cases in sweeps.items():
        with workers.take(1) as taken:
            seconds = [measure(taken, [case], options.repeats)[0]["seconds"] for case in cases]
        r = statistics.correlation(counts[name], seconds)
        rows.append({"of": name, "counts": counts[name], "seconds": seconds, "correlation": r})
        text = "  ".join(f"{n}: {s:.2f}" for n, s in zip(counts[name], seconds, strict=True))
        print(f"{name:<15} {text}   r = {r:.4f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 0 = all (default 1: CPU time is quoted)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--batch", type=int, default=0, help="images per step instead of 16 (search) and 32 (training)")
    parser.add_argument(
        "--only", choices=["speed", "overhead", "paths", "linearity"], help="one part of the CPU's table"
    )
    parser.add_argument("--cells", default="", metavar="PATTERNS", help="GPU: as resnet38/graph/*,profile/*")
    parser.add_argument("--minutes", type=float, default=30.0, help="GPU: start no row after so many minutes")
    parser.add_argument("--quick", action="store_true", help="a tiny network, one timed step: to see that it runs")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.quick:
        options.repeats, options.batch = 1, 4
    cuda = options.device.startswith("cuda")
    common = {"threads": options.threads, "device": "cuda" if cuda else "cpu", "tiny": options.quick}
    begin = time.perf_counter()
    result: dict = {"versions": versions(), "device": device_name(cuda, options.threads), "rows": {}}
    print(f"{result['device']}; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()))

    def keep(rows: dict) -> None:  # a run that is cut off loses one row
        if options.json:
            Path(options.json).write_text(json.dumps(result | {"rows": {"gpu": rows}}, indent=1) + "\n")

    if cuda:
        print(f"{RUNS} runs of {RUN_S} s a cell, their median; {options.minutes:g} minutes at most")
        result["rows"]["gpu"] = training_gpu.rows(options.device, options.quick, options.minutes, keep, options.cells)
    else:
        workers = Workers(reuse=options.quick)
        kind = "CPU seconds" if options.threads == 1 else "seconds"
        print(f"medians of {options.repeats} steps, {kind}")
        if options.only in (None, "speed"):
            print(f"\n{'':<15} {'batch':>5} {'plain':>9} {'fast':>9} {'':>7} {'peak memory, plain and fast':>22}")
            result["rows"]["speed"] = speedup_rows(options, common, workers)
        if options.only in (None, "overhead"):
            print(f"\n{'':<15} {'batch':>5} {'5 x float':>9} {'5 widths':>9}   (fast path: what quantization costs)")
            result["rows"]["overhead"] = overhead_rows(options, common, workers)
        if options.only in (None, "paths"):
            print(
                f"\n{'sample_paths':<15} {'batch':>5} {'all':>9} {'some':>9}   (weight step, fast path: another method)"
            )
            result["rows"]["paths"] = path_rows(options, common, workers)
        if options.only in (None, "linearity"):
            print("\nweight step, fast path, against the number of")
            result["rows"]["linearity"] = linearity_rows(options, common, workers)
        workers.close()
        print("\nGPU: none here, not measured")
    result["took_s"] = time.perf_counter() - begin
    print(f"took {result['took_s']:.0f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def device_name(cuda: bool, threads: int) -> str:
    """What the table was measured on."""
    if cuda:
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"CPU {line.split(':')[1].strip()}, {threads or torch.get_num_threads()} threads"
    return f"CPU, {threads or torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
