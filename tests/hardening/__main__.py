"""Damaged files of every kind against every reader, and processes killed while they write. `make hardening`.

    python tests/hardening [--files 1500] [--kills 60] [--runs 3] [--seed 0]

Every file has to end in success or in one line of error, within 1 s and 200 MB. All of them are read in this process.
A killed process must leave the old file or the new one, whole. Both stages and the mapper, killed `--runs` times each
at random moments and started again, must end as they would have undisturbed. Prints what was tried and what failed; the
status is 1 where anything did.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from damage import damaged, damaged_bytes  # noqa: E402
from kinds import Kind, kinds  # noqa: E402
from runs import commands, killed_runs  # noqa: E402

from hw_model import InputError  # noqa: E402
from instantnet.data.pictures import Unreadable as Unusable  # noqa: E402
from instantnet.engine.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from instantnet.engine.errors import UserError, one_line  # noqa: E402
from instantnet.engine.untrusted import Unreadable  # noqa: E402

MOST_SECONDS, MOST_MB = 1.0, 200


@dataclass
class Outcome:
    """What was tried of a kind, and what was wrong with it."""

    tried: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def damage(kind: Kind, path: Path, rng: random.Random) -> str:
    """Write a damaged copy to `path`; returns what was done, in words."""
    if kind.content is not None and rng.random() < 0.7:
        changed, words = damaged(kind.content, rng)
        if path.suffix == ".pt":
            torch.save(changed, path)
        else:
            path.write_text(json.dumps(changed), encoding="utf-8", errors="surrogatepass")
        return words
    path.write_bytes(damaged_bytes(kind.whole.read_bytes(), rng))
    return "bytes"


def try_files(count: int, seed: int, folder: Path) -> dict[str, Outcome]:
    """Read `count` damaged files, as many of each kind."""
    every, outcomes = kinds(folder), {}
    for kind in every.values():
        for read in kind.readers:
            read(kind.whole)  # whole files are read; what is loaded only then is no file's doing
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        name = list(every)[number % len(every)]
        outcome, path = outcomes.setdefault(name, Outcome()), folder / f"damaged{every[name].whole.suffix}"
        try:
            words = damage(every[name], path, random.Random(f"{seed} {number}"))
        except Exception:  # a value that cannot be saved makes no file
            continue
        for read in every[name].readers:
            outcome.tried += 1
            wrong, refused, seconds = attempt(read, path)
            outcome.refused += refused
            outcome.slowest_s = max(outcome.slowest_s, seconds)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1000
            if grown > MOST_MB:
                wrong, memory = wrong or f"{grown:.0f} MB", memory + 1000 * int(grown)
            if wrong:
                outcome.wrong.append(f"file {number} ({words}): {wrong}")
    return outcomes


def attempt(read: Callable[[Path], object], path: Path) -> tuple[str, bool, float]:
    """(what is wrong, whether the file was refused, CPU seconds)."""
    begin, wrong, refused = time.process_time(), "", False
    try:
        read(path)
    except (UserError, InputError, Unreadable, Unusable) as error:
        refused = True
        wrong = "more than one line" if "\n" in one_line(str(error)) else ""
    except Exception as error:
        wrong = f"{type(error).__name__}: {error} at {traceback.extract_tb(error.__traceback__)[-1]}"[:400]
    seconds = time.process_time() - begin
    return wrong or (f"{seconds:.1f} s" if seconds > MOST_SECONDS else ""), refused, seconds


def try_kills(count: int, seed: int, folder: Path) -> Outcome:
    """Kill processes that write a checkpoint again and again; the file is whole after each."""
    outcome, path, rng = Outcome(), folder / "killed" / "checkpoint.pt", random.Random(seed)
    save_checkpoint(path, {"model": {"x": torch.zeros(1000)}, "epoch": 0})
    for number in range(count):
        child = os.fork()
        if not child:
            try:
                for epoch in range(10**6):
                    save_checkpoint(path, {"model": {"x": torch.full((100_000,), float(epoch))}, "epoch": epoch})
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.001, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        outcome.tried += 1
        try:
            content = load_checkpoint(path, ["model", "epoch"], "a checkpoint")
            if not bool((content["model"]["x"] == float(content["epoch"])).all()):
                outcome.wrong.append(f"kill {number}: old and new are mixed")
        except UserError as error:
            outcome.wrong.append(f"kill {number}: {error}")
    return outcome


def try_runs(count: int, seed: int, folder: Path) -> dict[str, Outcome]:
    """Kill every command `count` times; each run ends as an undisturbed one."""
    outcomes = {}
    for name, command in commands(folder):
        tried, wrong = killed_runs(command, folder / name, folder / f"killed {name}", count, seed)
        outcomes[f"killed {name}"] = Outcome(tried, wrong=wrong)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        outcomes = try_files(given.files, given.seed, Path(name))
        outcomes["killed while it writes"] = try_kills(given.kills, given.seed, Path(name))
        outcomes |= try_runs(given.runs, given.seed, Path(name)) if given.runs else {}
    print(f"{'kind':24} {'tried':>7} {'refused':>8} {'slowest s':>10} {'failed':>7}")
    for kind, outcome in outcomes.items():
        print(f"{kind:24} {outcome.tried:7} {outcome.refused:8} {outcome.slowest_s:10.2f} {len(outcome.wrong):7}")
    for kind, outcome in outcomes.items():
        for words, times in Counter(outcome.wrong).most_common(10):
            print(f"FAILED {kind}: {words} ({times})")
    return int(any(outcome.wrong for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
