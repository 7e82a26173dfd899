"""Stages and the mapper, killed with SIGKILL at random moments and started again, against an undisturbed run.

Every run is a forked process, so that it needs no second to import torch; the parent must not have run a backward pass.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_runs import TINY_NETWORK, TINY_SEARCH

import automapper.__main__ as mapper
from instantnet import train, train_search
from instantnet.engine.errors import exit_status

MOST_SECONDS = 600.0  # of one run, the first of which may compile kernels; one that takes longer hangs
LAYERS = "- {name: conv1, K: 16, C: 3, P: 8, Q: 8, R: 3, S: 3}\n- {name: classifier, K: 10, C: 64}\n"
OUT = "out"


@dataclass(frozen=True)
class Command:
    """A command with its words; `result` reads of the folder that it ran in what must be the same bit by bit."""

    main: Callable[[list[str]], object]
    words: list[str]
    result: Callable[[Path], object]
    resumes: bool


def commands(folder: Path) -> Iterator[tuple[str, Command]]:
    """Both stages on a tiny network and digits, and the mapper. The second reads what the first wrote in `folder`."""
    often = ["--checkpoint_every", "1"]
    yield "train_search.py", Command(train_search.main, [*TINY_SEARCH, *often], of_stage("arch.pt"), True)
    words = ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--nepochs", "3", "--batch_size", "32"]
    words += ["--max_steps", "2", "--load_path", str(folder / "train_search.py" / OUT)]
    yield "train.py", Command(train.main, [*words, *often], of_stage("weights.pt"), True)
    (folder / "layers.yaml").write_text(LAYERS)
    words = ["--network", str(folder / "layers.yaml"), "--bits", "4,8", "--budget", "200", "--stages", "1"]
    yield "automapper", Command(mapper.main, words, of_mapper, False)


def of_stage(name: str) -> Callable[[Path], object]:
    """What the file that the stage writes holds, every tensor bit by bit, and metrics.jsonl but for the times."""

    def read(folder: Path) -> object:
        lines = [json.loads(line) for line in (folder / OUT / "metrics.jsonl").read_text().splitlines()]
        metrics = [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]
        return comparable(torch.load(folder / OUT / name, weights_only=True)), metrics

    return read


def comparable(value: Any) -> Any:
    """Plain data, with tensors as (type, shape, bytes). Texts that are one object are written once to a file, and a
    resumed run has others, so that the bytes of the files say nothing."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return [(key, comparable(each)) for key, each in value.items()]
    return [comparable(each) for each in value] if isinstance(value, list | tuple) else value


def of_mapper(folder: Path) -> object:
    """report.json but for the times, and every file of mappings/."""
    report = json.loads((folder / OUT / "report.json").read_text())
    search = {name: value for name, value in report["search"].items() if "second" not in name}
    search["convergence"] = [{**point, "seconds": None} for point in search["convergence"]]
    files = [path for path in sorted((folder / OUT / "mappings").rglob("*")) if path.is_file()]
    return {**report, "search": search}, {str(path.relative_to(folder)): path.read_bytes() for path in files}


def started(command: Command, folder: Path) -> int:
    """The process id of the command, at work in `folder`; what it prints goes to output.txt there."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)  # its own processes are killed with it where it hangs
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resume = ["--resume"] if command.resumes and (folder / OUT / "checkpoint.pt").exists() else []
        status = exit_status(lambda: command.main([*command.words, "--save", OUT, *resume]))  # type: ignore[arg-type]
    finally:
        os._exit(status)


def ended(child: int, seconds: float) -> int | None:
    """The exit status of the process; None where it has not ended after so long."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def finished(command: Command, folder: Path) -> str:
    """Let the command run to its end; what was wrong with that, or ""."""
    child = started(command, folder)
    status = ended(child, MOST_SECONDS)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"not done after {MOST_SECONDS:.0f} s"
    last = (folder / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
    return f"status {status}: {last}" if status else ""


def killed_runs(command: Command, whole: Path, folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """Kill the command `count` times in all, up to four times a run; (runs tried, what was wrong with them).

    whole: where it has run undisturbed before, but for the first time, which is done here.
    """
    if wrong := finished(command, whole):
        return 1, [f"undisturbed: {wrong}"]
    begin, expected = time.monotonic(), command.result(whole)
    again = finished(command, folder / "timed")
    seconds, faults, kills, tries = time.monotonic() - begin, [again] if again else [], 0, 0
    rng = random.Random(seed)
    while kills < count:
        place, tries = folder / f"run{tries}", tries + 1
        for _ in range(min(rng.randint(1, 4), count - kills)):
            child = started(command, place)
            status = ended(child, rng.uniform(0, 1.2 * seconds))
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            elif status:
                faults.append(f"run {tries}: status {status} before a kill")
            kills += 1
        wrong = finished(command, place)
        if not wrong and command.result(place) != expected:
            wrong = "ends otherwise than the undisturbed run"
        if not wrong and (left := [path.name for path in (place / OUT).iterdir() if path.name.startswith(".")]):
            wrong = f"{left} are left"
        if wrong:
            faults.append(f"run {tries}: {wrong}")
        else:
            shutil.rmtree(place)
    return kills, faults
