"""What a run reports: lines on the terminal and in logs.txt, one object per epoch in metrics.jsonl, TensorBoard events,
and a progress bar over all steps."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from instantnet.engine.errors import UserError
from instantnet.engine.files import check_appendable, open_to_append, refuse_link, replacing
from instantnet.widths import Bits, width_order

EVENTS = "events.out.tfevents."
LINES = "logs.txt", "metrics.jsonl"


class RunLog:
    """Writes into `folder`, from the start or from a checkpoint on.

    resumed: the checkpoint's `sizes()`. Later entries are cut off, because they will be logged again. Raises
    `UserError` where the folder cannot be written, now or later. Close it, or use it in a `with`.
    """

    def __init__(self, folder: Path | str, resumed: Mapping[str, int] | None = None):
        self.folder, resumed = Path(folder), resumed or {}
        from tensorboardX import RecordWriter  # here: it costs start-up time

        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            gone = [name for name in resumed if not (self.folder / name).exists()]
            for name in LINES:
                check_appendable(self.folder / name)
            lost = [_cut(path, resumed.get(path.name, 0)) for path in self._files()]
            self._lines, self._metrics = (open_to_append(self.folder / name) for name in LINES)
            earlier = len(list(self.folder.glob(f"{EVENTS}*")))  # makes the name new within one second too
            self._events = RecordWriter(str(self.folder / f"{EVENTS}{int(time.time()):010}.{earlier}"))
            self._event(file_version="brain.Event:2")
            self._events.flush()
        lost += [f"{name} is gone, {resumed[name]:,} bytes that the checkpoint counts on" for name in gone]
        for text in filter(None, lost):
            self.line(f"note: {text}")

    def sizes(self) -> dict[str, int]:
        """Bytes of each file written so far and synced to disk, so that a checkpoint may rely on them."""
        with self._writing():
            for path in self._files():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            return {path.name: path.stat().st_size for path in self._files()}

    def result(self, content: Mapping[str, Any]) -> None:
        """Write the result of the run: result.json."""
        self._json("result.json", content)

    def settings(
        self,
        values: Mapping[str, Any],
        preset: str,
        shown: str,
        versions: Mapping[str, str],
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the resolved settings and the versions, and write them to settings.json.

        shown: the settings as text, and where they come from. resumed: those of the run that is continued; differences
        are named.
        """
        self.line(f"settings {shown}\nversions: {', '.join(f'{k} {v}' for k, v in versions.items())}")
        for name, value in values.items():
            if resumed is not None and resumed.get(name, value) != value:
                self.line(f"note: {name} was {resumed[name]!r} before, and is {value!r} from here on")
        self._json("settings.json", {"preset": preset, "settings": dict(values), "versions": dict(versions)})

    def line(self, text: str = "") -> None:
        """Print and log one line (or block)."""
        tqdm.write(text)
        stamp = time.strftime("%m-%d %H:%M:%S")
        with self._writing():
            self._lines.writelines(f"{stamp}  {part}\n" for part in text.splitlines() or [""])

    def epoch(self, epoch: int, metrics: Mapping[str, Any], nepochs: int, also: str = "") -> None:
        """Print a line, and write an object of metrics.jsonl and the same as TensorBoard scalars.

        metrics: numbers, or dictionaries of numbers per bit-width; "loss" and "images_per_s" among them. also: text
        for the line besides loss and accuracy.
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
                        tag = name if bits is None else f"{name}/{bits}" + "_bits" * isinstance(bits, int)
                        self._event(step=epoch, summary=scalar(tag, number))
            self._events.flush()

    def close(self) -> None:
        for file in (self._lines, self._metrics, self._events):
            with suppress(OSError):  # everything was flushed at once: a full disk has been reported
                file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files(self) -> list[Path]:
        """The files that grow."""
        paths = [*(self.folder / name for name in LINES), *self.folder.glob(f"{EVENTS}*")]
        return [path for path in paths if path.is_file()]

    def _event(self, **content: Any) -> None:
        # Not tensorboardX's SummaryWriter: it writes in a thread, where errors are lost and no size is final.
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


def _cut(path: Path, size: int) -> str:
    """Cut `path` to `size` bytes at most; of text, whole lines only. Empty event files are removed.

    Returns a sentence where the file is shorter than that, else nothing.
    """
    refuse_link(path)
    wanted, present = size, path.stat().st_size
    if path.name.startswith(EVENTS):
        if not size:
            path.unlink()
            return ""
    else:
        with open(path, "rb") as file:
            size = file.read(size).rfind(b"\n") + 1
    os.truncate(path, min(size, present))
    return f"{path.name} has {present:,} of the {wanted:,} bytes that the checkpoint counts on" * (present < wanted)


class SilentLog:
    """The `RunLog` of all processes but the main one: it does nothing."""

    def sizes(self) -> dict[str, int]:
        return {}

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    line = epoch = settings = result = close = _nothing

    def __enter__(self) -> "SilentLog":
        return self

    __exit__ = _nothing


class Progress:
    """A bar over `total_images` of a whole run: loss per bit-width, images/s, time left. Silent off a terminal and
    where not `shown`."""

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

    def losses(self, losses: Mapping[Bits, float]) -> None:
        """Set the losses shown: those of the newest step, per bit-width."""
        self._bar.set_postfix_str("loss " + per_bits(losses, ".2f"), refresh=False)

    def step(self, images: int, epoch: int, nepochs: int) -> None:
        """Advance by one step of `images` images."""
        self._bar.set_description_str(f"epoch {epoch + 1}/{nepochs}", refresh=False)
        self._bar.update(images)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def per_bits(values: Mapping[Bits, float], form: str) -> str:
    """`4b 0.81  w4a8 0.7  8b 0.64`, lowest bit-width first."""
    names = {bits: bits if isinstance(bits, str) else f"{bits}b" for bits in values}
    return "  ".join(f"{names[bits]} {values[bits]:{form}}" for bits in sorted(values, key=width_order))
