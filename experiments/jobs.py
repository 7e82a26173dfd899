"""`--jobs N`: N processes on one machine, each with the next run that no other is doing.

They are the same command with `--worker`, so that each has a device context of its own. The results folder and its
locks divide the runs; this module starts the processes, passes signals on, and waits.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from experiments.runs import SETTINGS_OF, Run
from experiments.store import Store, reads_images
from instantnet.data.cache import image_cache
from instantnet.dataloader import load_data
from instantnet.settings.configuration import configuration

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # the processes are the parallelism


class Ended(NamedTuple):
    """statuses: of the processes, in their order; negative = killed by that signal. stopped: the first signal that this
    process was sent meanwhile, 0 = none."""

    statuses: list[int]
    stopped: int

    def failures(self) -> list[str]:
        """A sentence for each that ended by itself, but not well."""
        if self.stopped:
            return []
        ends = [f"killed by {signal.Signals(-s).name}" if s < 0 else f"ended with status {s}" for s in self.statuses]
        pairs = enumerate(zip(self.statuses, ends, strict=True), start=1)
        return [f"worker {index} of {len(ends)} {end}" for index, (status, end) in pairs if status]


def together(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> Ended:
    """Run the commands side by side until all have ended, however any of them does.

    SIGINT and SIGTERM are passed on to each, once per signal. Each is in a process group of its own: the terminal's
    Ctrl-C would else reach it a second time. A command can see by the end of its standard input that this process is
    gone (`end_with_parent`).
    """
    children: list[subprocess.Popen] = []
    signals: list[int] = []
    told: set[int] = set()

    def pass_on(number: int, _frame: object) -> None:
        signals.append(number)
        for child in children:
            told.add(child.pid)
            with suppress(ProcessLookupError):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for command in commands:
            if not signals:
                children.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, env=dict(environment))
                )
        for child in children:
            if signals and child.pid not in told:  # it came while the process was being started
                child.send_signal(signals[0])
        return Ended([child.wait() for child in children], signals[0] if signals else 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child in children:
            child.stdin.close()


def end_with_parent() -> None:
    """In a worker: a SIGTERM, on which what runs is saved, once standard input ends because the parent has."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def decode_once(store: Store, runs: Iterable[Run]) -> None:
    """Put the images that the runs read into the store's cache, each set decoded once for all processes.

    Raises UserError where the images cannot be used.
    """
    wanted = {}
    for run in runs:
        if not reads_images(run):
            continue
        defaults, _ = configuration(SETTINGS_OF[run.stage])
        settings = defaults.replaced(**run.asked())
        arguments = settings.data_arguments() | {"dataset_path": store.here(run.settings["dataset_path"])}
        arguments["num_workers"] = os.cpu_count() or 1
        if settings.dataset == "image_folder":
            wanted[str(arguments)] = arguments
    with image_cache(store.image_cache):
        for arguments in wanted.values():
            load_data(**arguments)
