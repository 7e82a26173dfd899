"""What a run tells: lines on the terminal and in logs.txt, one object per epoch in metrics.jsonl, TensorBoard events,
and a progress bar over all steps."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from instantnet.engine.checkpoint import replacing
from instantnet.engine.errors import UserError

EVENTS = "events.out.tfevents."


class RunLog:
    """Writes into `folder`: anew, or on from where a checkpoint left off.

    resumed: the checkpoint's `sizes()`. What was logged after it is cut off, as it will be logged again. Raises
    `UserError` where the folder cannot be written, now or later. Close it, or use it in a `with`.
    """

    def __init__(self, folder: Path | str, resumed: Mapping[str, int] | None = None):
        self.folder = Path(folder)
        from tensorboardX import RecordWriter  # here: it costs start-up time

        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._files():
                _cut(path, (resumed or {}).get(path.name, 0))
            self._lines = open(self.folder / "logs.txt", "a", buffering=1)  # noqa: SIM115
            self._metrics = open(self.folder / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
            earlier = len(list(self.folder.glob(f"{EVENTS}*")))  # makes the name new within one second too
            self._events = RecordWriter(str(self.folder / f"{EVENTS}{int(time.time()):010}.{earlier}"))
            self._event(file_version="brain.Event:2")
            self._events.flush()

    def sizes(self) -> dict[str, int]:
        """How many bytes of each file are written so far."""
        with self._writing():
            return {path.name: path.stat().st_size for path in self._files()}

    def result(self, content: Mapping[str, Any]) -> None:
        """What the run arrived at: result.json."""
        self._json("result.json", content)

    def settings(
        self,
        values: Mapping[str, Any],
        preset: str,
        shown: str,
        versions: Mapping[str, str],
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        """The resolved settings and the versions: printed, and settings.json in the folder.

        shown: the settings as a person reads them, and where they come from. resumed: those of the run that is
        continued; what differs now is named.
        """
        self.line(f"settings {shown}\nversions: {', '.join(f'{k} {v}' for k, v in versions.items())}")
        for name, value in values.items():
            if resumed is not None and resumed.get(name, value) != value:
                self.line(f"note: {name} was {resumed[name]!r} before, and is {value!r} from here on")
        self._json("settings.json", {"preset": preset, "settings": dict(values), "versions": dict(versions)})

    def line(self, text: str = "") -> None:
        """One line (or block) for a person."""
        tqdm.write(text)
        stamp = time.strftime("%m-%d %H:%M:%S")
        with self._writing():
            self._lines.writelines(f"{stamp}  {part}\n" for part in text.splitlines() or [""])

    def epoch(self, epoch: int, metrics: Mapping[str, Any], nepochs: int, also: str = "") -> None:
        """A line for a person, one object of metrics.jsonl, and the same as TensorBoard scalars.

        metrics: numbers, or dictionaries of numbers per bit-width; "loss" and "images_per_s" among them. also: what the
        line says of the epoch beside loss and accuracy.
        """
        from tensorboardX.summary import scalar

        text = f"epoch {epoch + 1:3}/{nepochs}  loss {per_bits(metrics['loss'], '.3f')}"
        if "accuracy" in metrics:
            text += f"  | accuracy % {per_bits(metrics['accuracy'], '.2f')}"
        self.line(f"{text}  | {also}{also and ', '}{metrics['images_per_s']:.0f} img/s")
        with self._writing():
            self._metrics.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
            for name, value in metrics.items():
                for bits, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                    if isinstance(number, int | float):
                        tag = name if bits is None else f"{name}/{bits}_bits"
                        self._event(step=epoch, summary=scalar(tag, number))
            self._events.flush()

    def close(self) -> None:
        for file in (self._lines, self._metrics, self._events):
            with suppress(OSError):  # everything was flushed as it came: a full disk has been told of
                file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files(self) -> list[Path]:
        """The files that grow."""
        paths = [self.folder / "logs.txt", self.folder / "metrics.jsonl", *self.folder.glob(f"{EVENTS}*")]
        return [path for path in paths if path.is_file()]

    def _event(self, **content: Any) -> None:
        # Not by tensorboardX's SummaryWriter: it writes in a thread, where an error is lost and no size is final.
        from tensorboardX.proto.event_pb2 import Event

        self._events.write(Event(wall_time=time.time(), **content).SerializeToString())

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with replacing(self.folder / name) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"setting save = {str(self.folder)!r}: cannot write there ({error.strerror}); "
                "the last good checkpoint.pt, if any, is intact"
            ) from error


def _cut(path: Path, size: int) -> None:
    """Cut `path` to `size` bytes at most; of text, whole lines only. Event files without a byte go."""
    if path.name.startswith(EVENTS):
        if not size:
            return path.unlink()
    else:
        size = path.read_bytes()[:size].rfind(b"\n") + 1
    os.truncate(path, min(size, path.stat().st_size))


class SilentLog:
    """What the other processes have in place of the main one's `RunLog`."""

    def sizes(self) -> dict[str, int]:
        return {}

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    line = epoch = settings = result = close = _nothing

    def __enter__(self) -> "SilentLog":
        return self

    __exit__ = _nothing


class Progress:
    """A bar over `total_images` of a whole run: loss per bit-width, images/s, time left. Silent off a terminal, or not
    `shown`."""

    def __init__(self, total_images: int, done_images: int = 0, shown: bool = True):
        self._bar = tqdm(
            total=total_images,
            initial=done_images,
            unit=" img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if shown else True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar:12}| {rate_fmt}, {remaining} left{postfix}",
        )

    def losses(self, losses: Mapping[int, float]) -> None:
        """Of the newest step, per bit-width."""
        self._bar.set_postfix_str("loss " + per_bits(losses, ".2f"), refresh=False)

    def step(self, images: int, epoch: int, nepochs: int) -> None:
        """A step on so many images is done."""
        self._bar.set_description_str(f"epoch {epoch + 1}/{nepochs}", refresh=False)
        self._bar.update(images)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def per_bits(values: Mapping[int, float], form: str) -> str:
    """`4b 0.81  8b 0.64`, lowest bit-width first."""
    return "  ".join(f"{bits}b {values[bits]:{form}}" for bits in sorted(values))
