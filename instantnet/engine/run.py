"""A training run in its folder: what it can be resumed from, its log, its checkpoints, its progress.

parts = {"model": model, "optimizer": optimizer, "loss": loss}
run = Run("ckpt/finetune", parts, config, processes, command)
run.load("ckpt/finetune/checkpoint.pt", "checkpoint.pt of train.py", steps)       # only to resume
with run.recorded(batches, steps, nepochs) as log:
    for epoch in run.epochs():
        for step, (images, labels) in run.steps(epoch):
            ...
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from instantnet.engine.checkpoint import restore
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import UserError, shown
from instantnet.engine.folders import owned
from instantnet.engine.log import Progress, RunLog, SilentLog
from instantnet.engine.loop import Mean, finite_losses, finite_weights
from instantnet.engine.resume import Checkpoints, Position, load_newest
from instantnet.widths import Bits


class Stateful(Protocol):
    """A part of a run that a checkpoint holds."""

    def state_dict(self) -> Any:
        """Plain data and tensors."""

    def load_state_dict(self, state: Any) -> Any:
        """Restore a `state_dict()`. Raises ValueError or TypeError where it is not one."""


class Attribute:
    """One attribute of an object as a `Stateful`."""

    def __init__(self, owner: object, name: str):
        self.owner, self.name = owner, name

    def state_dict(self) -> Any:
        return getattr(self.owner, self.name)

    def load_state_dict(self, state: Any) -> None:
        if type(state) is not type(self.state_dict()):
            raise TypeError(f"it is {shown(state)}")
        setattr(self.owner, self.name, state)


class Run:
    """One run of a training loop. Each process has one, and only that of the main process writes.

    parts: name -> what a checkpoint holds under that name; config: settings, stored beside them, and header, what the
    file begins with. command: what continues the run, printed when it is stopped. every, keep: as `Checkpoints` has
    them. check_every: steps between two readings of losses that lie on a GPU, each of which waits for it. refuse:
    raises `UserError` where the folder holds what this run must not overwrite.
    """

    def __init__(
        self,
        folder: Path | str,
        parts: Mapping[str, Stateful],
        config: Mapping[str, Any],
        processes: Processes,
        command: str,
        every: int = 0,
        keep: int = 0,
        header: Mapping[str, Any] = {},
        check_every: int = 1,
        refuse: Callable[[], None] = lambda: None,
    ):
        self.header = dict(header)
        self.folder, self.parts, self.config = Path(folder), parts, config
        self.processes, self.command, self.every, self.keep = processes, command, every, keep
        self.start = Position()
        self.refuse = refuse
        self.loaded: Path | None = None
        self._read: os.stat_result | None = None
        self.earlier: dict[str, Any] = {}
        self.log: RunLog | SilentLog = SilentLog()
        self.check_every = 1 if processes.device.type == "cpu" else check_every
        self._unread: list[tuple[Mean, int, int, dict[Bits, Tensor]]] = []

    def load(self, path: Path, what: str, steps: int) -> None:
        """Put every part into the state that the checkpoint `path` holds. what: how messages call it; steps: of an
        epoch. Raises `UserError` where it does not fit."""
        if self.processes.is_main and path.exists():
            self._read = path.stat()
        self.earlier = self.processes.from_main(load_newest, path, list(self.parts), what, steps)
        self.loaded, self.start = path, Position(self.earlier["epoch"], self.earlier["step"])
        for name, part in self.parts.items():
            restore(part, self.earlier[name], name, path)

    def state(self) -> dict[str, Any]:
        """The content of checkpoint.pt except the position."""
        self.read_losses()
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                self.processes.average_statistics(part)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return self.header | parts | {"config": dict(self.config)}

    @contextmanager
    def recorded(self, batches: Any, steps: int, nepochs: int) -> Iterator[RunLog | SilentLog]:
        """The context of the run; gives its log. batches: of training, as dataloader.Batches; steps: of an epoch."""
        self.batches, self.steps_per_epoch, self.nepochs = batches, steps, nepochs
        self.images_per_epoch = min(steps * batches.batch_size, batches.num_images)
        total = nepochs * self.images_per_epoch
        done = self.start.epoch * self.images_per_epoch + self.start.step * batches.batch_size
        main = self.processes.is_main
        here = self.loaded is not None and self.loaded.parent.resolve() == self.folder.resolve()
        sizes = self.earlier["log_sizes"] if here else None
        with (
            self._owned() if main else nullcontext(),
            RunLog(self.folder, sizes) if main else SilentLog() as self.log,
            Checkpoints(
                self.folder, self.state, self.log, self.processes, self.command, self.every, self.keep, self.start,
                self.loaded,
            ) as self.checkpoints,
            Progress(total, done, shown=main) as self.progress,
        ):  # fmt: skip
            yield self.log

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """The folder as this process's own, as it was when the run was prepared: another run may have ended in it."""
        named = f"setting save = {str(self.folder)!r}"
        with owned(self.folder, named):
            self.refuse()
            if self._read is not None and self.loaded is not None:
                now = self.loaded.stat() if self.loaded.exists() else None
                if now is None or (now.st_ino, now.st_mtime_ns) != (self._read.st_ino, self._read.st_mtime_ns):
                    raise UserError(f"{self.loaded}: another process went on with this run meanwhile; start again")
            yield

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, counted from 0. After each one, checks the weights and saves."""
        gc.freeze()  # garbage collection in the loop then skips thousands of modules that stay anyway
        for epoch in range(self.start.epoch, self.nepochs):
            self._begin = time.perf_counter()
            yield epoch
            self.checkpoints.after_epoch(epoch)

    def steps(self, epoch: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """(step, batch) for the rest of an epoch. After each one, shows progress and saves where due; after the last,
        checks that every loss and weight is finite."""
        first = self.checkpoints.first_step(epoch)
        self.batches.set_epoch(epoch)
        batches = islice(self.batches.iterate_from(first), self.steps_per_epoch - first)
        for step, batch in enumerate(batches, first):
            self._at = epoch, step
            yield step, batch
            if (step + 1) % self.check_every == 0:
                self.read_losses()
            self.progress.step(self.batches.images_in(step), epoch, self.nepochs)
            self.checkpoints.after_step(epoch, step, self.steps_per_epoch)
        self.read_losses()
        finite_weights(self.parts["model"].state_dict(), f"by the end of epoch {epoch + 1}", self.last_good)
        images = max(0, self.images_per_epoch - first * self.batches.batch_size)
        self.images_per_s = images / (time.perf_counter() - self._begin)

    def note(self, mean: Mean, losses: Mapping[Bits, Tensor]) -> None:
        """Add this step's losses, bit-width -> scalar, to `mean` once they are read from the device."""
        self._unread.append((mean, *self._at, dict(losses)))

    def read_losses(self) -> None:
        """Read what was noted. `Diverged` where a loss is not finite, naming the first such step."""
        unread, self._unread = self._unread, []
        for mean, epoch, step, losses in unread:
            values = finite_losses(losses, epoch, step, self.last_good)
            mean.add(values)
            if mean is self.parts.get("loss"):
                self.progress.losses(values)

    def epoch_again(self, epoch: int, batches: Any, max_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first max_steps batches of an epoch (0 = all), until a signal comes: for measurements on them.

        batches: of training images, as dataloader.Batches.
        """
        batches.set_epoch(epoch)
        return self.unless_stopped(islice(batches, max_steps or None))

    def first_step(self, epoch: int) -> int:
        """The first step of `epoch` that is left."""
        return self.checkpoints.first_step(epoch)

    def unless_stopped(self, batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """`batches`, until a signal comes: for work that is repeated after a resume, such as a validation."""
        return self.checkpoints.unless_stopped(batches)

    @property
    def last_good(self) -> str:
        """For messages: the newest checkpoint."""
        return self.checkpoints.last_good
