"""What a run tells: lines on the terminal and in logs.txt, one object per epoch in metrics.jsonl, TensorBoard events,
and a progress bar over all steps."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.errors import UserError
from runtime.settings import Settings


class RunLog:
    """Writes into `folder`: anew, or with `first_epoch` (a resumed run) behind what was logged of the epochs before.

    Raises `UserError` where the folder cannot be written. Close it, or use it in a `with`.
    """

    def __init__(self, folder: Path | str, first_epoch: int | None = None):
        self.folder = Path(folder)
        resume = first_epoch is not None
        mode = "a" if resume else "w"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lines = open(self.folder / "logs.txt", mode, buffering=1)  # noqa: SIM115
            kept = self._metrics_before(first_epoch) if resume else []
            self._metrics = open(self.folder / "metrics.jsonl", "w", buffering=1)  # noqa: SIM115
            self._metrics.writelines(kept)
        except OSError as error:
            raise UserError(f"setting save = {str(folder)!r}: cannot write there ({error.strerror})") from error
        if not resume:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        from tensorboardX import SummaryWriter  # here: it costs start-up time

        self._events = SummaryWriter(str(self.folder))

    def _metrics_before(self, epoch: int) -> list[str]:
        """Lines of metrics.jsonl that an interrupted run wrote of the epochs before `epoch`."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] < epoch]

    def result(self, content: Mapping[str, Any]) -> None:
        """What the run arrived at: result.json."""
        (self.folder / "result.json").write_text(json.dumps(content, indent=1) + "\n")

    def settings(
        self, C: Settings, module: str, versions: Mapping[str, str], resumed: Mapping[str, Any] | None = None
    ) -> None:
        """The resolved settings and the versions: printed, and settings.json in the folder.

        resumed: the settings of the run that is continued; those that differ now are named.
        """
        source = f"{module}{C.preset and ', preset ' + C.preset}, command line"
        self.line(f"settings ({source}):\n{C}\nversions: {', '.join(f'{k} {v}' for k, v in versions.items())}")
        for name, value in C.to_dict().items():
            if resumed is not None and resumed.get(name, value) != value and name != "resume":
                self.line(f"note: {name} was {resumed[name]!r} before, and is {value!r} from here on")
        content = {"preset": C.preset, "settings": C.to_dict(), "versions": dict(versions)}
        (self.folder / "settings.json").write_text(json.dumps(content, indent=1) + "\n")

    def line(self, text: str = "") -> None:
        """One line (or block) for a person."""
        tqdm.write(text)
        stamp = time.strftime("%m-%d %H:%M:%S")
        self._lines.writelines(f"{stamp}  {part}\n" for part in text.splitlines() or [""])

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """One object of metrics.jsonl, and the same as TensorBoard scalars; nested dictionaries are per bit-width."""
        self._metrics.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        for name, value in metrics.items():
            for bits, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                if isinstance(number, int | float):
                    self._events.add_scalar(name if bits is None else f"{name}/{bits}_bits", number, epoch)
        self._events.flush()

    def close(self) -> None:
        self._lines.close()
        self._metrics.close()
        self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Progress:
    """A bar over `total_images` of a whole run: loss per bit-width, images/s, time left. Silent off a terminal."""

    def __init__(self, total_images: int, done_images: int = 0):
        self._bar = tqdm(
            total=total_images,
            initial=done_images,
            unit=" img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None,
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar:12}| {rate_fmt}, {remaining} left{postfix}",
        )

    def step(self, images: int, epoch: int, nepochs: int, losses: Mapping[int, float]) -> None:
        self._bar.set_description_str(f"epoch {epoch + 1}/{nepochs}", refresh=False)
        self._bar.set_postfix_str("loss " + per_bits(losses, ".2f"), refresh=False)
        self._bar.update(images)

    def close(self) -> None:
        self._bar.close()


def per_bits(values: Mapping[int, float], form: str) -> str:
    """`4b 0.81  8b 0.64`, lowest bit-width first."""
    return "  ".join(f"{bits}b {values[bits]:{form}}" for bits in sorted(values))
