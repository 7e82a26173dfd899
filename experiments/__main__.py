"""`python -m experiments` lists the paper's claims; `python -m experiments CLAIM [--scale SCALE]` measures one and
prints its table; `python -m experiments report` writes all tables that have results into docs/results.md."""

import argparse
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NoReturn

from experiments.claims import CLAIMS, seeds_of
from experiments.images import subset
from experiments.runs import RESULTS, WORK, Run, Store
from experiments.scales import SCALES, Scale
from experiments.tables import Results, duration
from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.folders import writable_folder

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
        ignored = [name for name in ("scale", "seeds", "only", "data", "redo", "smoke") if getattr(arguments, name)]
        if ignored:
            raise UserError(
                f"report: --{ignored[0]} has no effect: it writes what is stored for the seeds of every scale"
            )
        from experiments.report import write  # here: it draws figures, which takes seconds to load

        for path in write(arguments.out):
            print(f"wrote {path}")
        return
    claim = CLAIMS[arguments.claim]
    scale = chosen_scale(arguments, claim.LEGAL)
    seeds = arguments.seeds or seeds_of(claim, scale)
    results = writable_folder(arguments.out, f"--out {arguments.out}")
    work = writable_folder(arguments.work, f"--work {arguments.work}")
    data = None
    if scale.images_per_class and arguments.data:
        data = subset(arguments.data, work / "images", *scale.images_per_class)
    store = Store(scale.name, results, work, data)
    planned = claim.runs(scale, seeds)
    if arguments.only:
        planned = [run for run in planned if fnmatch(run.name, arguments.only)]
        if not planned:
            raise UserError(
                f"--only {arguments.only}: no run of {arguments.claim} at scale {scale.name} has such a name"
            )
    for number, run in enumerate(planned, start=1):
        before = store.result(run)
        try:
            result = store.perform(run, arguments.redo)
        except KeyboardInterrupt:
            print(f"stopped in {run.name}: the same command goes on", file=sys.stderr)
            raise
        said = "stored" if result == before else duration(result["seconds"])
        print(f"[{number}/{len(planned)}] {run.name}: {brief(run, result['result'])} ({said})", flush=True)
    if hasattr(claim, "publish") and not arguments.only and scale.name != "smoke":
        written = claim.publish(store, scale)
        print(f"wrote {', '.join(map(str, written))}" if written else NOTHING_TO_PUBLISH)
    stored = Results(store)
    table = claim.section(scale, seeds, stored)
    if not table:
        missing = sum(store.result(run) is None for run in claim.runs(scale, seeds))
        print(f"\nno table yet: {missing} of the runs of {arguments.claim} are not done")
        return
    print(f"\nScale {scale.name}: {getattr(claim, 'CAPTION', scale.caption)}.\n\n{table}\n\n{stored.provenance()}")


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


def unique(planned: Sequence[Run]) -> list[Run]:
    """`planned` and what it needs, each once."""
    found: dict[str, Run] = {}
    for run in planned:
        for need in unique(run.needs):
            found.setdefault(need.name, need)
        found.setdefault(run.name, run)
    return list(found.values())


def expected_seconds(run: Run, scale: Scale, store: Store) -> float:
    """As long as it took, or it with another seed, on an idle machine, where stored; else the scale's estimate."""
    content = store.result(run) or store.other_seed(run)
    if content is not None:
        alone = content["device"].startswith("CPU") and content["threads"] == 1  # what it waited for was other work
        return content["cpu_seconds"] if alone else content["seconds"]
    alone = run.stage == "train" and "/alone/" in run.name
    return 60 * scale.minutes[run.stage] * (0.25 if alone else 1)


if __name__ == "__main__":
    sys.exit(exit_status(main))
