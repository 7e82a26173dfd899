"""One run of a stage: what it is, whether it is done, and what is kept of it.

A run is a command line of train_search.py, train.py or automapper under a name. What it found is one small JSON file,
`RESULTS/SCALE/NAME.json`, with settings, seed, device, versions, seconds and commit; what it wrote lies in
`WORK/SCALE/NAME/`. A finished run is never repeated, an interrupted one resumes, and two processes never do the same
one at once.
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import automapper.__main__ as mapper
from experiments.mapped import map_result
from instantnet import train, train_search
from instantnet.engine.checkpoint import load_checkpoint, save_checkpoint
from instantnet.engine.errors import Diverged, UserError
from instantnet.engine.machine import versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
WORK = ROOT / "ckpt" / "experiments"
DATA = "{data}"  # in a run's words: the folder of the data set, which differs from machine to machine
STAGES = {"search": train_search.main, "train": train.main, "map": mapper.main}
PRODUCT = {"search": "arch.pt", "train": "weights.pt", "map": "report.json"}
PATHS = ("dataset_path", "save", "load_path", "pretrain", "checkpoint")  # settings that name a place on this machine


@dataclass(frozen=True)
class Run:
    """stage: search, train or map; name: unique within a scale, with slashes; words: its command line without `--save`.

    A word is text, in which `{data}` stands for the data set's folder, or another run, which stands for its folder and
    has to be finished before.
    """

    stage: str
    name: str
    words: tuple["str | Run", ...]

    @property
    def needs(self) -> list["Run"]:
        return [word for word in self.words if isinstance(word, Run)]

    @property
    def command(self) -> list[str]:
        """The words as text; another run is `@NAME`."""
        return [f"@{word.name}" if isinstance(word, Run) else word for word in self.words]


class Store:
    """The runs of one scale, on disk. data: folder that `{data}` stands for."""

    def __init__(self, scale: str, results: Path = RESULTS, work: Path = WORK, data: Path | None = None):
        self.results, self.work, self.data = results / scale, work / scale, data

    def result(self, run: Run) -> dict[str, Any] | None:
        """What is kept of `run`; None where it is not finished, or was made by another command line."""
        path = self.results / f"{run.name}.json"
        try:
            content = json.loads(path.read_text())
            return content if content["command"] == run.command else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error!r}): remove it to run it again") from error

    def other_seed(self, run: Run) -> dict[str, Any] | None:
        """What is kept of a run that differs from `run` in its seed alone, if any is."""
        for path in sorted((self.results / run.name).parent.glob("seed*.json")):
            content = json.loads(path.read_text())
            if "--seed" in run.command and "--seed" in content["command"]:
                words = run.command.copy()
                words[words.index("--seed") + 1] = content["command"][content["command"].index("--seed") + 1]
                if words == content["command"]:
                    return content
        return None

    def perform(self, run: Run, redo: bool = False) -> dict[str, Any]:
        """Do `run`, and before it what it needs, unless they are done; returns what is kept of it.

        redo: do `run` again, from its beginning, where another commit did it, or before what it needs was done again.
        """
        done = self._standing(run, redo)
        if done is not None:
            return done
        for need in run.needs:
            self.provide(need, run.stage)
        with self._locked(run):
            done = self._standing(run, redo)  # another process may have done it meanwhile
            if done is not None:
                return done
            if self.result(run) is not None:
                shutil.rmtree(self.work / run.name, ignore_errors=True)
            return self._run(run)

    def _standing(self, run: Run, redo: bool) -> dict[str, Any] | None:
        """What is kept of `run` and need not be done again."""
        done = self.result(run)
        if done is None or not redo:
            return done
        newer = any((self.result(need) or done)["finished"] > done["finished"] for need in run.needs)
        return done if done["commit"] == commit_of_code()[0] and not newer else None

    def provide(self, run: Run, reader: str) -> None:
        """See to it that what `run` wrote is there for a run of the stage `reader`.

        A mapping depends on no weight: where a training's are gone, its network alone is enough for the mapper.
        """
        content = self.perform(run)
        if "diverged" in content["result"]:
            raise UserError(f"{run.name} is needed, but {content['result']['diverged']}")
        product = self.work / run.name / PRODUCT[run.stage]
        if product.exists():
            return
        if run.stage == "search":  # an architecture is small enough to be kept whole
            save_checkpoint(product, {"ops": content["result"]["ops"], "config": content["settings"]})
            return
        if run.stage == "train" and reader == "map":
            save_checkpoint(
                product.with_name("arch.pt"), {**self._network(run, content), "config": content["settings"]}
            )
            return
        with self._locked(run):
            self._run(run)

    def _network(self, run: Run, content: Mapping[str, Any]) -> dict[str, Any]:
        """What `networks.build_network` makes the network of a finished training of."""
        if content["settings"]["network"] != "derived":
            return {"network": content["settings"]["network"]}
        (search,) = run.needs
        return {"ops": self.perform(search)["result"]["ops"]}

    def _run(self, run: Run) -> dict[str, Any]:
        folder = self.work / run.name
        folder.mkdir(parents=True, exist_ok=True)
        started = folder / "command.json"
        resume = started.exists() and json.loads(started.read_text()) == run.command
        started.write_text(json.dumps(run.command))
        words = [self._word(word) for word in run.words] + ["--save", str(folder)]
        if resume and (folder / "checkpoint.pt").exists():
            words.append("--resume")
        spent = folder / "spent.json"  # by tries that were stopped
        if words[-1] != "--resume":
            spent.unlink(missing_ok=True)
        with timed(spent):
            result = outcome(run.stage, words, folder)
        kept = {
            "command": run.command,
            "stage": run.stage,
            "result": result,
            **json.loads(spent.read_text()),
            "resumed": words[-1] == "--resume",
            **origin(),
            "settings": settings_of(folder, run.stage),
        }
        path = self.results / f"{run.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(as_json(kept))
        temporary.replace(path)
        return kept

    def _word(self, word: str | Run) -> str:
        if isinstance(word, Run):
            return str(self.work / word.name)
        if DATA not in word:
            return word
        if self.data is None:
            raise UserError(
                "this scale trains on images: name their folder with --data (train/<class>/, test/<class>/)"
            )
        return word.replace(DATA, str(self.data))

    @contextmanager
    def _locked(self, run: Run) -> Iterator[None]:
        path = self.work / ".locks" / run.name.replace("/", "_")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Add the time that the block takes, finished or stopped, to that in the file: `seconds` and `cpu_seconds`."""
    before = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0, "cpu_seconds": 0.0}
    begin, begin_cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        took = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
        path.write_text(json.dumps({name: round(before[name] + value, 3) for name, value in took.items()}))


def outcome(stage: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Run a stage; what it found, or of a training that diverged (a result too: it would again) when it did."""
    try:
        with open(folder / "output.txt", "a") as output, redirect_stdout(output):
            STAGES[stage](words)
    except Diverged as error:
        if stage != "train":
            raise
        return {"diverged": error.what}
    return RESULT_OF[stage](folder)


def search_result(folder: Path) -> dict[str, Any]:
    arch = load_checkpoint(folder / "arch.pt", ["ops", "flops"], "arch.pt of train_search.py")
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "ops": list(arch["ops"]),
        "flops": arch["flops"],
        "epoch": arch["epoch"],
        "supernet_accuracy": arch["accuracy"],
        "flops_per_epoch": [epoch["flops"] for epoch in epochs],
    }


def train_result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


RESULT_OF = {"search": search_result, "train": train_result, "map": map_result}


def settings_of(folder: Path, stage: str) -> dict[str, Any]:
    """The resolved settings of a run, without those that name places on this machine."""
    if stage == "map":
        settings = json.loads((folder / "report.json").read_text())["settings"]
    else:
        settings = json.loads((folder / "settings.json").read_text())["settings"]
    return {name: value for name, value in settings.items() if name not in PATHS}


def origin() -> dict[str, Any]:
    """Where a number comes from: device, versions, commit, time."""
    commit, changed = commit_of_code()
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit,
        "uncommitted_changes": changed,
        "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
    }


def device_name() -> str:
    """The GPU, else the CPU's model with the number of its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"CPU {model}, {os.cpu_count()} cores"


@cache
def commit_of_code() -> tuple[str | None, bool | None]:
    """(commit, whether code differs from it) as this process started; (None, None) outside a git repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = [
            line for line in git("status", "--porcelain", "--untracked-files=all").splitlines() if line.endswith(".py")
        ]
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changed)


def as_json(content: Mapping[str, Any]) -> str:
    """One line per entry, so that a difference between two results can be read."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
