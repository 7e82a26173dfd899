"""The stages as the experiments run them, and what is kept of what they write."""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import automapper.__main__ as mapper
from experiments.mapped import map_result
from experiments.runs import PATHS
from hw_model.yaml_lines import read_text
from instantnet import train, train_search
from instantnet.engine.checkpoint import load_checkpoint
from instantnet.engine.errors import Diverged, Stopped, UserError
from instantnet.engine.files import replacing

STAGES = {"search": train_search.main, "train": train.main, "map": mapper.main}
PRODUCT = {"search": "arch.pt", "train": "weights.pt", "map": "report.json"}
TIMES = ("seconds", "cpu_seconds")
SUMMARY = {"search": "metrics.jsonl", "train": "result.json", "map": "report.json"}


def outcome(stage: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Run a stage; what it found, or of a training that diverged (a result too: it would again) when it did.

    Raises Stopped where it was interrupted, of which the mapper says nothing.
    """
    try:
        with (
            open(folder / "output.txt", "a", encoding="utf-8", errors="backslashreplace") as output,
            redirect_stdout(output),
        ):
            STAGES[stage](words)
    except Diverged as error:
        if stage != "train":
            raise
        return {"diverged": error.what}
    with reading(folder / SUMMARY[stage]):
        if stage == "map" and json.loads((folder / "report.json").read_text())["search"]["interrupted"]:
            raise Stopped(signal.SIGINT)
        return RESULT_OF[stage](folder)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What `path` holds is read within it. Raises UserError that names the file where it is damaged or gone."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); without {path.parent} the run begins again"
        ) from error


def search_result(folder: Path) -> dict[str, Any]:
    arch = load_checkpoint(folder / "arch.pt", ["ops", "flops", "epoch", "accuracy"], "arch.pt of train_search.py")
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counted = {"efficiency": arch["efficiency"]["value"]} if "efficiency" in arch else {}
    return {
        **counted,
        "ops": list(arch["ops"]),
        "flops": arch["flops"],
        "epoch": arch["epoch"],
        "supernet_accuracy": arch["accuracy"],
        "flops_per_epoch": [epoch["flops"] for epoch in epochs],
    }


def train_result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    for bits, accuracy in result["accuracy"].items():
        if not isinstance(accuracy, int | float):
            raise TypeError(f"accuracy at {bits} bit is no number")
    return result


RESULT_OF = {"search": search_result, "train": train_result, "map": map_result}


def settings_of(folder: Path, stage: str) -> dict[str, Any]:
    """The resolved settings of a run, without those that name places on this machine."""
    path = folder / ("report.json" if stage == "map" else "settings.json")
    with reading(path):
        settings = json.loads(path.read_text())["settings"]
        return {name: value for name, value in settings.items() if name not in PATHS}


def spent(path: Path) -> dict[str, float]:
    """`seconds` and `cpu_seconds` that the file spent.json states, as 0 where it is damaged or not there."""
    try:
        stated = json.loads(read_text(path))
        times = {name: float(stated[name]) for name in TIMES}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        times = {}
    return times if times and all(0 <= time < math.inf for time in times.values()) else dict.fromkeys(TIMES, 0.0)


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Add the time that the block takes, finished or stopped, to that in the file: `seconds` and `cpu_seconds`."""
    before = spent(path)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        took = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
        with replacing(path) as file:
            file.write(json.dumps({name: round(before[name] + value, 3) for name, value in took.items()}).encode())
