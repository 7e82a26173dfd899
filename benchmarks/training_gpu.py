"""The GPU's part of benchmarks/training.py: images/s of search and training, eager, compiled and as CUDA graphs.

Rows: training at batch 128 of ResNet-38, MobileNetV2 and a derived network of 133 MFLOPs, search at batch 64, each by

    plain     what the authors' code does, operation by operation
    eager     the settings as they stand
    graph     with `cuda_graph`
    compiled  with `compile`, which takes minutes before the first step, so it comes last

in float32, TF32 and bfloat16, with `tune_convolutions` and without, graphs in both memory layouts. Of each cell: median
and spread of RUNS runs of about RUN_S seconds, after the steps in which libraries choose their kernels; the GPU's
memory at its highest; how busy it was, as nvidia-smi has it. Of each network a profile: how long the GPU computes in an
eager step, and by which kernels.
"""

import statistics
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import product
from typing import Any

import torch
from training_cases import gpu_busy, step_of

RUNS = 3
RUN_S = 0.5
WARM_UP = 4
NETWORKS = ("resnet38", "mobilenet_v2", "derived", "supernet")
FORMATS = ("fp32", "tf32", "bf16")
LAYOUTS = ("nhwc", "nchw")  # setting channels_last on and off
KERNELS = 60  # of a profile, those that take longest
SHOWN = 10


def cells(tiny: bool = False) -> Iterator[dict[str, Any]]:
    """Every cell, the most telling first."""
    for variant in ("graph", "eager", "plain", "compiled"):
        for network in NETWORKS:
            for numbers in FORMATS[:1] if variant == "plain" else FORMATS:
                for layout, tuned in product(LAYOUTS if variant == "graph" else LAYOUTS[:1], (True, False)):
                    searching = network == "supernet"
                    yield {
                        "network": network,
                        "variant": variant,
                        "numbers": numbers,
                        "layout": layout,
                        "tuned": tuned,
                        "step": "search step" if searching else "training step",
                        "batch": 4 if tiny else 64 if searching else 128,
                        "large": not tiny,
                        "tiny": tiny,
                        "threads": 1,
                    }


def name_of(case: dict[str, Any]) -> str:
    """As resnet38/graph/fp32/nhwc/tuned, for --cells."""
    parts = [case[part] for part in ("network", "variant", "numbers", "layout")]
    return "/".join([*parts, "tuned" if case["tuned"] else "untuned"])


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """One cell: images/s of every run, memory, utilisation."""
    cuda = case["device"].startswith("cuda")
    torch._dynamo.reset()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    step = step_of(case)
    for _ in range(WARM_UP if case["variant"] == "graph" else WARM_UP // 2):
        step()
    wait(cuda)
    ready = time.perf_counter() - begin
    once = seconds_of(step, 1, cuda)
    count = 1 if case["tiny"] else max(1, round(RUN_S / once))
    times = [seconds_of(step, count, cuda) / count for _ in range(RUNS)]
    row = case | {"seconds": times, "steps_per_run": count, "ready_s": ready}
    row["images_per_s"] = case["batch"] / statistics.median(times)
    if cuda:
        for _ in range(count):
            step()
        row["gpu_busy"] = gpu_busy()  # before the queue runs dry
        wait(cuda)
        row["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
        row["gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return row


def seconds_of(step: Any, count: int, cuda: bool) -> float:
    """Of `count` steps, until the device has done them."""
    begin = time.perf_counter()
    for _ in range(count):
        step()
    wait(cuda)
    return time.perf_counter() - begin


def wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def profile(case: dict[str, Any]) -> dict[str, Any]:
    """An eager step's kernels: {"busy_ms", "launches", "kernels": [name, ms, calls]}."""
    step = step_of(case)
    for _ in range(WARM_UP):
        step()
    activity = torch.profiler.ProfilerActivity
    wanted = activity.CUDA if case["device"].startswith("cuda") else activity.CPU
    with torch.profiler.profile(activities=[wanted]) as profiler:
        step()
        wait(case["device"].startswith("cuda"))
    events = [event for event in profiler.key_averages() if event.self_device_time_total or wanted == activity.CPU]
    found = [(event.key, event.self_device_time_total / 1e3, event.count) for event in events]
    found.sort(key=lambda kernel: -kernel[1])
    return case | {
        "busy_ms": sum(ms for _, ms, _ in found),
        "launches": sum(calls for _, _, calls in found),
        "kernels": found[:KERNELS],
    }


def rows(device: str, tiny: bool, minutes: float, keep: Any, only: str = "") -> dict[str, list[dict[str, Any]]]:
    """Measure cell by cell, as long as there is time; keep(result) is called after each. only: patterns of their names,
    by commas, in the order of which they run; "profile" is those of the profiles.

    A cell that fails is a row with its error: the others are still worth their time.
    """
    end = time.monotonic() + 60 * minutes
    result: dict[str, list[dict[str, Any]]] = {"cells": [], "profiles": []}
    measurements = [(name_of(case), "cells", measured, case) for case in cells(tiny)]
    eager = [case for case in cells(tiny) if case["variant"] == "eager" and case["numbers"] == "fp32" and case["tuned"]]
    profiles = [(f"profile/{case['network']}", "profiles", profile, case) for case in eager]
    at = next((i for i, (name, *_) in enumerate(measurements) if "/plain/" in name), len(measurements))
    plan = [*measurements[:at], *profiles, *measurements[at:]]
    if only:
        plan = [entry for pattern in only.split(",") for entry in plan if fnmatch(entry[0], pattern)]
    for _, kind, function, case in plan:
        if time.monotonic() > end or (device == "cpu" and case["variant"] in ("graph", "compiled")):
            continue
        try:
            row = function(case | {"device": device})
        except Exception as error:
            row = case | {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        result[kind].append(row)
        keep(result)
        print(line(kind, row), flush=True)
    return result


def line(kind: str, row: dict[str, Any]) -> str:
    """A row as the terminal shows it."""
    how = f"{row['variant']:<9} {row['numbers']:<5} {row['layout']} {'tuned' if row['tuned'] else '':<5}"
    head = f"{row['network']:<13} {row['batch']:>4} {how}"
    if "error" in row:
        return f"{head} failed: {row['error']}"
    if kind == "profiles":
        return f"{head} GPU computes {row['busy_ms']:.1f} ms of a step, {row['launches']} launches" + "".join(
            f"\n      {ms:8.2f} ms {calls:>6} x {name[:90]}" for name, ms, calls in row["kernels"][:SHOWN]
        )
    ms = [1e3 * seconds for seconds in row["seconds"]]
    text = f"{head} {row['images_per_s']:9.0f} images/s {statistics.median(ms):8.2f} ms ({min(ms):.2f}-{max(ms):.2f})"
    if "gpu_peak_bytes" in row:
        text += f"  {row['gpu_peak_bytes'] / 2**30:6.2f} GiB  {row['gpu_busy']:>3} % busy"
    return text + f"  ready after {row['ready_s']:.1f} s"
