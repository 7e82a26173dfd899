"""`python -m experiments` lists the paper's claims; `python -m experiments CLAIM [--scale SCALE]` measures one and
prints its table; `python -m experiments report` writes all tables that have results into docs/results.md."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from experiments.claims import CLAIMS, seeds_of
from experiments.images import subset
from experiments.runs import Run
from experiments.scales import SCALES, Scale
from experiments.shards import Shard, TimeLimit, expected_seconds, unique, work_through
from experiments.store import RESULTS, WORK, Store
from experiments.tables import Results, duration
from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.folders import writable_folder

ALONE = ("RANK", "WORLD_SIZE", "SLURM_PROCID")  # unset, a run is of this process, whatever started it beside others
NOTHING_TO_PUBLISH = (
    "nothing to publish: the results are stored, but not the weights, which lie in --work where they were trained; "
    "--redo trains them again"
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.claim is None:
        print(listing(arguments.out))
        return
    if arguments.claim == "report":
        write_report(arguments)
        return
    claim = CLAIMS[arguments.claim]
    scale = chosen_scale(arguments, claim.LEGAL)
    seeds = arguments.seeds or seeds_of(claim, scale)
    store = store_of(arguments, scale)
    planned = claim.runs(scale, seeds)
    if arguments.only:
        planned = [run for run in planned if fnmatch(run.name, arguments.only)]
        if not planned:
            raise UserError(
                f"--only {arguments.only}: no run of {arguments.claim} at scale {scale.name} has such a name"
            )
    left = measure(planned, store, scale, arguments)
    if left:
        print(f"{left} of the {len(planned)} runs are left to other processes or to the same command later")
    elif hasattr(claim, "publish") and not arguments.only and scale.name != "smoke":
        written = claim.publish(store, scale)
        print(f"wrote {', '.join(map(str, written))}" if written else NOTHING_TO_PUBLISH)
    print(f"\n{claim_table(claim, scale, seeds, store)}")


def write_report(arguments: argparse.Namespace) -> None:
    options = ("scale", "seeds", "only", "data", "redo", "smoke", "shard", "minutes")
    ignored = [name for name in options if getattr(arguments, name)]
    if ignored:
        raise UserError(f"report: --{ignored[0]} has no effect: it writes what is stored for the seeds of every scale")
    from experiments.report import write  # here: it draws figures, which takes seconds to load

    for path in write(arguments.out):
        print(f"wrote {path}")


def store_of(arguments: argparse.Namespace, scale: Scale) -> Store:
    """The scale's runs in the folders that the command names."""
    results = writable_folder(arguments.out, f"--out {arguments.out}")
    work = writable_folder(arguments.work, f"--work {arguments.work}")
    data = None
    if scale.images_per_class and arguments.data:
        data = subset(arguments.data, work / "images", *scale.images_per_class)
    return Store(scale.name, results, work, data)


def measure(planned: Sequence[Run], store: Store, scale: Scale, arguments: argparse.Namespace) -> int:
    """Do the runs and print a line for each; returns how many are not done when there is nothing more to do, or no
    time."""
    for name in ALONE:
        os.environ.pop(name, None)
    shard, limit = arguments.shard or Shard(1, 1), TimeLimit(arguments.minutes)
    mine, done = shard.order(planned), 0
    try:
        with limit.enforced():
            for run, kept, new in work_through(store, scale, mine, limit, arguments.redo, waits=shard.count == 1):
                done += 1
                said = duration(kept["seconds"]) if new else "stored"
                print(f"[{done}/{len(planned)}] {run.name}: {brief(run, kept['result'])} ({said})", flush=True)
    except KeyboardInterrupt:
        if not limit.over:
            print("stopped: the same command continues where it was", file=sys.stderr)
            raise
        print(f"--minutes {arguments.minutes:g} are over: what ran is saved, and the same command continues it")
    return len(planned) - done


def claim_table(claim: ModuleType, scale: Scale, seeds: Sequence[int], store: Store) -> str:
    """What is stored of a claim at a scale, or that it is too little."""
    stored = Results(store)
    table = claim.section(scale, seeds, stored)
    if not table:
        missing = sum(store.result(run) is None for run in claim.runs(scale, seeds))
        return f"no table yet: {missing} of the runs of {claim.__name__.rpartition('.')[2]} are not done"
    return f"Scale {scale.name}: {getattr(claim, 'CAPTION', scale.caption)}.\n\n{table}\n\n{stored.provenance()}"


def chosen_scale(arguments: argparse.Namespace, legal: Sequence[Scale]) -> Scale:
    """The scale named, or the claim's first."""
    name = "smoke" if arguments.smoke else arguments.scale or legal[0].name
    for scale in legal:
        if scale.name == name:
            return scale
    names = ", ".join(scale.name for scale in legal)
    raise UserError(f"--scale {name}: {arguments.claim} is measured at {names}")


class Parser(argparse.ArgumentParser):
    """argparse, but a complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all)")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m experiments", description=__doc__)
    legal = [*CLAIMS, "report"]
    parser.add_argument("claim", nargs="?", choices=legal, metavar="CLAIM", help=", ".join(legal))
    parser.add_argument("--scale", choices=list(SCALES), help="how large; default: the claim's first")
    parser.add_argument("--smoke", action="store_true", help="the same as --scale smoke: under a minute")
    parser.add_argument("--seeds", type=numbers, help="comma-separated, instead of the scale's")
    parser.add_argument("--only", metavar="PATTERN", help="only the runs of such a name, as '*resnet38*none*'")
    parser.add_argument("--redo", action="store_true", help="do again what another commit of the code did")
    parser.add_argument("--shard", type=shard, metavar="I/N", help="this is the I-th of N processes over one --out")
    parser.add_argument("--minutes", type=minutes, help="start nothing that takes longer than is left; save and end")
    parser.add_argument("--data", type=folder, help="folder of CIFAR-10 as images: train/<class>/, test/<class>/")
    parser.add_argument("--out", type=folder, default=RESULTS, help="folder of the results; default: %(default)s")
    parser.add_argument("--work", type=folder, default=WORK, help="folder of what the runs write; default: %(default)s")
    return parser.parse_args(argv)


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


def brief(run: Run, result: dict) -> str:
    """One line of what a run found."""
    if "diverged" in result:
        return result["diverged"]
    if run.stage == "search":
        return f"{result['flops'] / 1e6:.2f} MFLOPs, {' '.join(result['ops'])}"
    if run.stage == "train":
        return "  ".join(f"{bits}b {value:.2f}" for bits, value in result["accuracy"].items()) + " %"
    return "EDP (J*s) " + "  ".join(f"{bits}b {row['edp_js']:.3e}" for bits, row in result["bits"].items())


def listing(out: Path) -> str:
    """Every claim with how many runs it takes at every scale, how many are stored, and how long it takes in all."""
    lines = []
    for name, claim in CLAIMS.items():
        lines.append(f"{name:12} {claim.TITLE}")
        for scale in claim.LEGAL:
            planned = unique(claim.runs(scale, seeds_of(claim, scale)))
            store = Store(scale.name, out)
            seconds = sum(expected_seconds(run, scale, store) for run in planned)
            stored = sum(store.result(run) is not None for run in planned)
            count = f"{len(planned):3} {'run, ' if len(planned) == 1 else 'runs,'}"
            lines.append(f"  --scale {scale.name:16} {count} {stored:3} stored, about {duration(seconds)} in all")
    lines.append("\npython -m experiments CLAIM --scale SCALE [--data DIR]   measures (a stored run is not repeated)")
    lines.append("python -m experiments report                             docs/results.md out of what is stored")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_status(main))
