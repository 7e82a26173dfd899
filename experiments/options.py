"""The words of `python -m experiments`, read before anything that takes seconds to load."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from experiments.runs import Run
from experiments.scales import SCALES
from instantnet.engine.errors import UserError
from instantnet.settings.ranges import MOST_AT_ONCE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
WORK = ROOT / "ckpt" / "experiments"
NAMES = (
    "cdt", "search", "end_to_end", "released", "ends", "mapper", "paper_size", "cdt_tried", "pretrained", "demo",
    "quantizers", "chip",
)  # fmt: skip
"""Of the claims, and of their modules, in the order of docs/results.md."""


class Shard(NamedTuple):
    """This process is the `index`-th of `count`, from 1."""

    index: int
    count: int

    def order(self, runs: Sequence[Run]) -> list[Run]:
        """Every run: first those of this shard, then those of the next, so that processes seldom meet."""
        firsts = [(self.index - 1 + step) % self.count for step in range(self.count)]
        return [run for first in firsts for run in runs[first :: self.count]]


class Worker(NamedTuple):
    """This process is the `index`-th of `count`, from 1, of a command that began at `begun` (time.monotonic())."""

    index: int
    count: int
    begun: float

    @classmethod
    def parse(cls, text: str) -> "Worker":
        index, count, begun = re.split("[/@]", text)
        return cls(int(index), int(count), float(begun))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}@{self.begun!r}"


class Parser(argparse.ArgumentParser):
    """argparse, but a complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all)")


def parse(argv: Sequence[str], description: str = "") -> argparse.Namespace:
    """The options of a command. Raises UserError where a word is wrong."""
    parser = Parser(prog="python -m experiments", description=description)
    legal = [*NAMES, "report", "take"]
    parser.add_argument("claim", nargs="?", choices=legal, metavar="CLAIM", help=", ".join(legal))
    parser.add_argument("file", nargs="?", type=folder, metavar="FILE", help="after take: SCALE.jsonl of elsewhere")
    parser.add_argument("--scale", choices=list(SCALES), help="how large; default: the claim's first")
    parser.add_argument("--smoke", action="store_true", help="the same as --scale smoke: under a minute")
    parser.add_argument("--seeds", type=numbers, help="comma-separated, instead of the scale's")
    parser.add_argument("--only", metavar="PATTERN", help="only the runs of such a name, as '*resnet38*none*'")
    parser.add_argument("--redo", action="store_true", help="do again what another commit of the code did")
    parser.add_argument("--shard", type=shard, metavar="I/N", help="this is the I-th of N processes over one --out")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="N processes here, which share device and images")
    parser.add_argument("--worker", type=Worker.parse, help=argparse.SUPPRESS)  # what --jobs starts
    parser.add_argument("--minutes", type=minutes, help="start nothing that takes longer than is left; save and end")
    parser.add_argument("--data", type=folder, help="folder of CIFAR-10 as images: train/<class>/, test/<class>/")
    parser.add_argument("--out", type=folder, default=RESULTS, help="folder of the results; default: %(default)s")
    parser.add_argument("--work", type=folder, default=WORK, help="folder of what the runs write; default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.file is not None and arguments.claim != "take":
        raise UserError(f"{arguments.file}: a file is named after take alone (--help lists all)")
    return arguments


def numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, as 1,2,3") from None
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return found


def shard(text: str) -> Shard:
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share, as 1/4 to 4/4 for four processes")
    return Shard(int(match[1]), int(match[2]))


def job_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes from 1 to {MOST_AT_ONCE}")
    return int(text)


def minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return number


def folder(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))
