"""`python -m experiments`, once its words are read: measure a claim, list all, write the pages, take stored runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from experiments import jobs
from experiments.claims import CLAIMS, seeds_of
from experiments.images import subset
from experiments.jsonl import ResultsFile
from experiments.options import Shard, Worker
from experiments.runs import Run
from experiments.scales import SCALES, Scale
from experiments.shards import TimeLimit, expected_seconds, unique, work_through
from experiments.store import Store
from experiments.tables import Results, duration
from instantnet.engine.errors import Stopped, UserError
from instantnet.engine.folders import writable_folder

ALONE = ("RANK", "WORLD_SIZE", "SLURM_PROCID")  # unset, a run is of this process, whatever started it beside others
NOTHING_TO_PUBLISH = (
    "nothing to publish: the results are stored, but not the weights, which lie in --work where they were trained; "
    "--redo trains them again"
)


def run(arguments: argparse.Namespace, words: Sequence[str], begun: float) -> int:
    """Do what the command asks for; returns the exit status. words: as it was given; begun: when, by
    time.monotonic()."""
    if arguments.claim is None:
        print(listing(arguments.out))
        return 0
    if arguments.claim == "report":
        write_report(arguments)
        return 0
    if arguments.claim == "take":
        take(arguments)
        return 0
    claim = CLAIMS[arguments.claim]
    scale = chosen_scale(arguments, claim.LEGAL)
    seeds = arguments.seeds or seeds_of(claim, scale)
    planned = claim.runs(scale, seeds)
    if arguments.only:
        planned = [run for run in planned if fnmatch(run.name, arguments.only)]
        if not planned:
            raise UserError(
                f"--only {arguments.only}: no run of {arguments.claim} at scale {scale.name} has such a name"
            )
    store = store_of(arguments, scale, planned)
    for name in ALONE:
        os.environ.pop(name, None)
    if arguments.worker:
        return work(planned, store, scale, arguments)
    status = 0
    if arguments.jobs:
        left, status = measure_by_jobs(planned, store, arguments, words, begun)
    else:
        left = measure(planned, store, scale, arguments)
    if left:
        print(f"{left} of the {len(planned)} runs are left to other processes or to the same command later")
    elif hasattr(claim, "publish") and not arguments.only and scale.name != "smoke":
        written = claim.publish(store, scale)
        print(f"wrote {', '.join(map(str, written))}" if written else NOTHING_TO_PUBLISH)
    print(f"\n{claim_table(claim, scale, seeds, store)}")
    return status


def refuse_options(arguments: argparse.Namespace, why: str) -> None:
    """Raise UserError where an option is given that is of measuring a claim."""
    options = ("scale", "seeds", "only", "data", "redo", "smoke", "shard", "jobs", "minutes")
    ignored = [name for name in options if getattr(arguments, name)]
    if ignored:
        raise UserError(f"{arguments.claim}: --{ignored[0]} has no effect: {why}")


def take(arguments: argparse.Namespace) -> None:
    """Add the runs of a results file, as `SCALE.jsonl` of another machine, to those in --out."""
    file = arguments.file
    if file is None:
        raise UserError("take: name the file, as elsewhere/cifar_gpu.jsonl")
    refuse_options(arguments, "it takes every run of the file")
    if file.suffix != ".jsonl" or file.stem not in SCALES:
        raise UserError(f"take {file}: a file of results is named after its scale, as cifar_gpu.jsonl")
    if not file.is_file():
        raise UserError(f"take {file}: no such file")
    other = ResultsFile(file)
    taken = Store(file.stem, writable_folder(arguments.out, f"--out {arguments.out}")).file.take(other)
    for name in taken:
        print(name)
    print(f"{len(taken)} of {len(other.runs())} runs are new here")


def write_report(arguments: argparse.Namespace) -> None:
    refuse_options(arguments, "it writes what is stored for the seeds of every scale")
    from experiments.report import write  # here: it draws figures, which takes seconds to load

    for path in write(arguments.out):
        print(f"wrote {path}")


def store_of(arguments: argparse.Namespace, scale: Scale, planned: Sequence[Run]) -> Store:
    """The scale's runs in the folders that the command names, with the images that those planned read."""
    results = writable_folder(arguments.out, f"--out {arguments.out}")
    work = writable_folder(arguments.work, f"--work {arguments.work}")
    data = None
    if scale.images_per_class and arguments.data:
        data = subset(arguments.data, work / "images", *scale.images_per_class)
    if scale.slots and arguments.data:
        data = work / "images" / arguments.data.name  # and the slot's numbers of images, as `subset` names its folder
        for slot in scale.slots:
            if any(slot.holds(run.name) for run in planned):
                subset(arguments.data, work / "images", *slot.images_per_class)
    return Store(scale.name, results, work, data)


def measure(planned: Sequence[Run], store: Store, scale: Scale, arguments: argparse.Namespace) -> int:
    """Do the runs and print a line for each; returns how many are left when the time is over, or when other
    processes are doing the rest."""
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


def measure_by_jobs(
    planned: Sequence[Run], store: Store, arguments: argparse.Namespace, words: Sequence[str], begun: float
) -> tuple[int, int]:
    """`measure` by several processes; returns how many runs are not done, and the exit status."""
    done = [run for run in planned if store.standing(run, arguments.redo)]
    for number, run in enumerate(done, start=1):
        print(f"[{number}/{len(planned)}] {run.name}: {brief(run, store.result(run)['result'])} (stored)", flush=True)
    todo = [run for run in planned if run not in done]
    jobs.decode_once(store, unique(todo))
    count = min(arguments.jobs, len(todo))
    command = [sys.executable, "-m", "experiments", *words]
    workers = [[*command, "--worker", str(Worker(index, count, begun))] for index in range(1, count + 1)]
    ended = jobs.together(workers, os.environ | jobs.ONE_THREAD)
    left = sum(store.standing(run, arguments.redo) is None for run in planned)
    for failure in ended.failures():
        print(f"error: {failure}: what it was doing is not stored, and the same command does it", file=sys.stderr)
    if ended.stopped:
        print("stopped: the same command continues where it was", file=sys.stderr)
        return left, 128 + ended.stopped
    return left, 1 if ended.failures() else 0


def work(planned: Sequence[Run], store: Store, scale: Scale, arguments: argparse.Namespace) -> int:
    """One process of --jobs: do the runs that no other does, and print a line for each; returns the exit status.

    A run during which another of them died is skipped: it would end this one too.
    """
    worker, shard = arguments.worker, arguments.shard or Shard(1, 1)
    store.command = repr(worker.begun)
    jobs.end_with_parent()
    limit, mine = TimeLimit(arguments.minutes, worker.begun), shard.order(planned)
    try:
        with limit.enforced():
            done = work_through(store, scale, mine, limit, arguments.redo, waits=False)
            for run, kept, new in done:
                if new:
                    count = sum(store.standing(each, arguments.redo) is not None for each in planned)
                    line = f"{run.name}: {brief(run, kept['result'])} ({duration(kept['seconds'])})"
                    print(f"[{count}/{len(planned)}] {line}", flush=True)
    except KeyboardInterrupt as error:
        if limit.over:
            return 0
        return error.status if isinstance(error, Stopped) else 130
    except Exception:
        at = f", at {store.doing.name}" if store.doing else ""
        print(f"worker {worker.index} of {worker.count} fails{at}:", file=sys.stderr, flush=True)
        raise
    return 0


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
            lines += slot_lines(planned, scale, store)
    lines.append("\npython -m experiments CLAIM --scale SCALE [--data DIR]   measures (a stored run is not repeated)")
    lines.append("python -m experiments report                             docs/results.md out of what is stored")
    lines.append("python -m experiments take FILE                          adds what another machine stored")
    return "\n".join(lines)


def slot_lines(planned: Sequence[Run], scale: Scale, store: Store) -> list[str]:
    """The same for each slot of a scale."""
    lines = []
    for slot in scale.slots:
        held = [run for run in planned if slot.holds(run.name)]
        seconds = sum(expected_seconds(run, scale, store) for run in held)
        stored = sum(store.result(run) is not None for run in held)
        option = f"--only '*/{slot.name}/*'"
        lines.append(f"    {option:22} {len(held):3} runs, {stored:3} stored, about {duration(seconds)} in all")
    return lines
