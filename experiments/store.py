"""The runs of one scale: which are done, and doing one.

What a run found is a line of `RESULTS/SCALE.jsonl`, with settings, seed, device, versions, seconds and commit; what it
wrote lies in `WORK/SCALE/NAME/`. A finished run is never repeated, an interrupted one resumes. Of several processes, or
machines with one results folder, one at a time does a run: it holds a lock on a file in `RESULTS/.claims/`, which ends
with it.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.jsonl import ResultsFile, locked
from experiments.options import RESULTS, WORK
from experiments.origin import commit_of_code, origin
from experiments.runs import DATA, Run, command_line
from experiments.stages import PRODUCT, outcome, settings_of, spent, timed
from hw_model import InputError
from hw_model.yaml_lines import read_text
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError
from instantnet.engine.files import replacing


class Claimed(Exception):
    """Another process is at work on `run`."""

    def __init__(self, run: Run):
        super().__init__(run.name)
        self.run = run


class Lost(Exception):
    """A process of the same command ended within `run`, and would have another one end there, too."""

    def __init__(self, run: Run):
        super().__init__(run.name)
        self.run = run


def reads_images(run: Run) -> bool:
    """Whether it reads the folder of images that --data names."""
    return DATA in str(run.settings.get("dataset_path", ""))


class Store:
    """The runs of one scale, on disk. data: folder that `{data}` stands for. doing: the run last begun here.
    command: of several processes that one command has started, what tells it from other commands."""

    def __init__(self, scale: str, results: Path = RESULTS, work: Path = WORK, data: Path | None = None):
        self.results, self.file = results, ResultsFile(results / f"{scale}.jsonl")
        self.claims = results / ".claims" / scale
        self.work, self.data = work / scale, data
        self.image_cache = work / "images" / "decoded"
        self.doing: Run | None = None
        self.command: str | None = None

    def beside(self, scale: str) -> "Store":
        """What is stored of another scale in the same folder."""
        return Store(scale, self.results)

    def result(self, run: Run) -> dict[str, Any] | None:
        """What is kept of `run`; None where it is not finished, or was made with other settings."""
        content = self.file.runs().get(run.name)
        return content if content is not None and run.has_made(content) else None

    def other_seed(self, run: Run) -> dict[str, Any] | None:
        """What is kept of a run that differs from `run` in its seed alone, if any is; of several, the last to end."""
        found = []
        for content in self.file.runs().values():
            rest = {name: value for name, value in content["differences"].items() if name != "seed"}
            if "seed" in run.settings and (content["stage"], content["presets"], rest) == run.but_for("seed"):
                found.append(content)
        return max(found, key=lambda content: content["finished"], default=None)

    def seconds_spent(self, run: Run) -> float:
        """By tries of `run` that were stopped."""
        return spent(self.work / run.name / "spent.json")["seconds"]

    def perform(self, run: Run, redo: bool = False) -> dict[str, Any]:
        """Do `run`, and before it what it needs, unless they are done; returns what is kept of it.

        redo: do `run` again, from its beginning, where another commit did it, or before what it needs was done again.
        Raises Claimed where another process is at work on one of them, Lost where one of this command was.
        """
        done = self.standing(run, redo)
        if done is not None:
            return done
        for need in run.needs:
            self.provide(need, run.stage)
        with self.claim(run):
            done = self.standing(run, redo)  # another process may have done it meanwhile
            if done is not None:
                return done
            if self.result(run) is not None:
                shutil.rmtree(self.work / run.name, ignore_errors=True)
            with self._begun(run):
                return self._run(run)

    def standing(self, run: Run, redo: bool) -> dict[str, Any] | None:
        """What is kept of `run` and need not be done again."""
        done = self.result(run)
        if done is None or not redo:
            return done
        newer = any((self.result(need) or done)["finished"] > done["finished"] for need in run.needs)
        return done if done["origin"]["commit"] == commit_of_code()[0] and not newer else None

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
        with self.claim(run):
            self._run(run)

    def _network(self, run: Run, content: Mapping[str, Any]) -> dict[str, Any]:
        """The description that `networks.build_network` rebuilds the network of a finished training from."""
        if content["settings"]["network"] != "derived":
            return {"network": content["settings"]["network"]}
        (search,) = run.needs
        return {"ops": self.perform(search)["result"]["ops"]}

    def _run(self, run: Run) -> dict[str, Any]:
        self.doing = run
        folder = self.work / run.name
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: self.here(value) for name, value in run.settings.items()} | {"save": str(folder)}
        if reads_images(run):
            settings["image_cache"] = str(self.image_cache)
        resumed = self._resumes(run, folder)
        if resumed:
            settings["resume"] = True
        elif run.stage != "map":
            settings["overwrite"] = True  # the folder is the store's: what lies there is of a run that does not count
        with timed(folder / "spent.json"):
            result = outcome(run.stage, command_line(run.presets, settings), folder)
        kept = {
            "name": run.name,
            "stage": run.stage,
            "presets": list(run.presets),
            "differences": run.differences,
            "result": result,
            **spent(folder / "spent.json"),
            "resumed": resumed,
            "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
            "settings": settings_of(folder, run.stage),
            "origin": origin(),
        }
        self.file.append(kept)
        return kept

    def _resumes(self, run: Run, folder: Path) -> bool:
        """Whether a try of the very same run left a checkpoint; else what it spent is forgotten."""
        started = folder / "run.json"
        asked = json.dumps(run.asked())
        try:
            resumes = read_text(started) == asked and (folder / "checkpoint.pt").exists()
        except InputError:  # damaged, or not there
            resumes = False
        with replacing(started) as file:
            file.write(asked.encode())
        if not resumes:
            (folder / "spent.json").unlink(missing_ok=True)
        return resumes

    def here(self, value: Any) -> Any:
        """A setting's value on this machine."""
        if isinstance(value, Run):
            return str(self.work / value.name)
        if not isinstance(value, str) or DATA not in value:
            return value
        if self.data is None:
            raise UserError(
                "this scale trains on images: name their folder with --data (train/<class>/, test/<class>/)"
            )
        return value.replace(DATA, str(self.data))

    @contextmanager
    def _begun(self, run: Run) -> Iterator[None]:
        """Within a claim, note who does `run` until it is done; raises Lost where a process of this command did."""
        if self.command is None:
            yield
            return
        note = self.claims / f"{run.name.replace('/', '_')}.begun"
        if note.exists() and note.read_bytes() == self.command.encode():
            raise Lost(run)
        note.write_text(self.command)
        yield
        note.unlink()

    @contextmanager
    def claim(self, run: Run) -> Iterator[None]:
        """Keep other processes away from `run`; raises Claimed where one of them does so."""
        path = self.claims / run.name.replace("/", "_")
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, wait=False) as file:
            if file is None:
                raise Claimed(run)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
