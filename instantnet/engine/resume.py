"""How a run stops and resumes: when `checkpoint.pt` is written, which older ones are kept, and where to resume."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from instantnet.engine.checkpoint import load_checkpoint, save_checkpoint
from instantnet.engine.distributed import Processes, launch, was_restarted
from instantnet.engine.errors import Stopped, UserError
from instantnet.engine.log import RunLog, SilentLog
from instantnet.engine.loop import finite_weights
from instantnet.engine.stopping import StopRequest

MOST = 2**31 - 1  # epochs, and steps of one

Item = TypeVar("Item")


class Position(NamedTuple):
    """All epochs before `epoch` (from 0) are done, and `step` steps of it."""

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        """What was done last, counted from 1."""
        if self.step:
            return f"epoch {self.epoch + 1}, step {self.step}"
        return f"epoch {self.epoch}" if self.epoch else "the start"

    def file_name(self) -> str:
        """The name under which an older checkpoint is kept."""
        if self.step:
            return f"checkpoint_epoch{self.epoch + 1:03}_step{self.step:05}.pt"
        return f"checkpoint_epoch{self.epoch:03}.pt"


def load_newest(
    path: Path,
    needs: Sequence[str],
    what: str,
    steps: int | None = None,
    check: Callable[[dict[str, Any]], None] = lambda content: None,
) -> dict[str, Any]:
    """The content of the checkpoint `path`, from which this run resumes.

    steps: of an epoch of this run, None while unknown; check: raises `UserError` where the content does not fit this
    run. Raises `UserError` where it cannot be used; the message names older checkpoints.
    """
    try:
        content = load_checkpoint(path, [*needs, "epoch", "step", "log_sizes", "config"], what)
        position = Position(content["epoch"], content["step"])
        if not (0 <= position.step <= MOST and 0 <= position.epoch <= MOST):
            raise UserError(f"{path}: it is at epoch {position.epoch}, step {position.step}")
        if steps is not None and position.step > steps:
            raise UserError(f"{path} is at {position}, but an epoch has {steps} steps here: keep batch_size and data")
        if not all(type(size) is int and size >= 0 for size in content["log_sizes"].values()):
            raise UserError(f"{path}: its 'log_sizes' are not numbers of bytes")
        check(content)
    except UserError as error:
        others = [other.name for other in _older(path.parent)[::-1] if other != path]
        hint = f"; --resume takes older ones beside it, newest first: {', '.join(others[:3])}" if others else ""
        raise UserError(f"{error}{hint}") from error
    return content


def resumes_after_failure(folder: str) -> bool:
    """Whether torchrun restarted this run after a failure, and checkpoint.pt in `folder` is of the same run."""
    if not was_restarted():
        return False
    try:
        content = load_checkpoint(Path(folder) / "checkpoint.pt", [], "checkpoint.pt")
    except UserError:
        return False
    return content.get("launch") == launch()


def _older(folder: Path) -> list[Path]:
    """The older checkpoints kept in `folder`, last written last."""
    try:
        return sorted(folder.glob("checkpoint_*.pt"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    except OSError:  # a folder that cannot be read, a file that has just gone
        return []


class Checkpoints:
    """Keeps `checkpoint.pt` of a run: a context in which SIGINT and SIGTERM end the run at a point where it can resume.

    state: returns the content of a checkpoint except the position, at any step. every: steps between two checkpoints,
    0 = only at the end of an epoch; keep: how many older ones stay. loaded: the path of the checkpoint that the run
    resumes, at position `start`. command: resumes the run; it is printed when the run is stopped. Of several processes
    the main one writes, and a signal to any of them stops all after the same step.
    """

    def __init__(
        self,
        folder: Path,
        state: Callable[[], dict[str, Any]],
        log: RunLog | SilentLog,
        processes: Processes,
        command: str,
        every: int = 0,
        keep: int = 0,
        start: Position = Position(),  # noqa: B008
        loaded: Path | None = None,
    ):
        self.path = folder / "checkpoint.pt"
        self.every, self.keep = every, keep
        self.processes, self.log, self.state, self.command = processes, log, state, command
        self.position, self.saved = start, start if loaded == self.path else None
        self._stop = StopRequest(says=processes.is_main)

    def __enter__(self) -> "Checkpoints":
        self._stop.__enter__()
        if self.saved is None:
            # Of another run, or of a later position of this one.
            self._save(keep_as=self.path.with_name("checkpoint_replaced.pt"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.__exit__(*error)

    def first_step(self, epoch: int) -> int:
        """The first step of `epoch` that is left."""
        return self.position.step if epoch == self.position.epoch else 0

    def after_step(self, epoch: int, step: int, steps: int) -> None:
        """Save where one is due after this step of an epoch of `steps`; raises `Stopped` where a signal came."""
        self.position = Position(epoch, step + 1)
        if self.every and (epoch * steps + step + 1) % self.every == 0:
            self._save()
        self._stop_if_asked()

    def after_epoch(self, epoch: int) -> None:
        """Save at the end of an epoch; raises `Stopped` where a signal came."""
        self.position = Position(epoch + 1)
        self._save()
        self._stop_if_asked()

    def unless_stopped(self, batches: Iterable[Item]) -> Iterator[Item]:
        """`batches`, until a signal comes: for work that is repeated after a resume, such as a validation."""
        for batch in batches:
            self._stop_if_asked()
            yield batch

    @property
    def last_good(self) -> str:
        """For messages: the newest checkpoint."""
        return f"{self.path} ({self.saved})" if self.saved not in (None, Position()) else "none yet"

    def _save(self, keep_as: Path | None = None) -> None:
        content = {**self.position._asdict(), **self.state(), "log_sizes": self.log.sizes(), "launch": launch()}
        finite_weights(content["model"], f"by {self.position}", self.last_good)
        if self.keep and self.saved not in (None, self.position):
            keep_as = self.path.with_name(self.saved.file_name())
        self.saved = self.position
        if not self.processes.is_main:
            return
        save_checkpoint(self.path, content, keep_as)
        kept = [path for path in _older(self.path.parent) if path.name != "checkpoint_replaced.pt"]
        for path in kept[: max(0, len(kept) - self.keep)]:
            path.unlink(missing_ok=True)

    def _stop_if_asked(self) -> None:
        number = self.processes.largest(self._stop.signal or 0)
        if not number:
            return
        if self.saved != self.position:
            self._save()
        self.log.line(f"\nstopped by {signal.Signals(number).name}; {self.path} is at {self.position}")
        self.log.line(f"to resume: {self.command}")
        raise Stopped(number, together=True)
