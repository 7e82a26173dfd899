"""Many runs by several processes: in which order, within which time."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from experiments.runs import Run
from experiments.scales import Scale
from experiments.store import Claimed, Lost, Store
from instantnet.engine.errors import Stopped

POLL_S = 2.0  # between two looks at runs that other processes are doing


class TimeLimit:
    """`--minutes`: whether there is time for a run, and a stop signal for what still runs at the end; None = no limit.

    over: whether that signal came.
    """

    def __init__(self, minutes: float | None, begun: float | None = None):
        """begun: since when they count, by time.monotonic(), which all processes of a machine share; None = now."""
        self._end = None if minutes is None else (time.monotonic() if begun is None else begun) + 60 * minutes
        self.over = False

    def allows(self, seconds: float) -> bool:
        return self._end is None or time.monotonic() + seconds <= self._end

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Within it the end of the time is a SIGTERM: stages 1 and 2 save a checkpoint, then Stopped is raised."""
        if self._end is None:
            yield
            return
        handlers = {signal.SIGALRM: self._stop, signal.SIGTERM: _raise_stopped}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.setitimer(signal.ITIMER_REAL, max(self._end - time.monotonic(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.over = True
        signal.raise_signal(signal.SIGTERM)


def _raise_stopped(number: int, _frame: object) -> None:
    raise Stopped(number)


class Done(NamedTuple):
    """A run, what is kept of it, and whether it was not stored before."""

    run: Run
    kept: dict[str, Any]
    new: bool


def work_through(
    store: Store, scale: Scale, runs: Sequence[Run], limit: TimeLimit, redo: bool = False, waits: bool = True
) -> Iterator[Done]:
    """Do the runs, those first that no other process is doing, and yield each as soon as it is done.

    It ends when all are done or there is no time for any other. waits: for runs that other processes are doing, too;
    without, only where some run needs their results.
    """
    waiting = list(runs)
    while waiting:
        left: list[Run] = []
        worth_waiting = waits
        for run in waiting:
            before = store.result(run)
            if (before is None or redo) and not limit.allows(seconds_left(run, scale, store)):
                continue
            try:
                kept = store.perform(run, redo)
            except Claimed as claimed:
                left.append(run)
                worth_waiting |= claimed.run != run
            except Lost:
                continue
            else:
                yield Done(run, kept, kept != before)
        if len(left) == len(waiting):
            if not worth_waiting:
                return
            time.sleep(POLL_S)
        waiting = left


def unique(planned: Sequence[Run]) -> list[Run]:
    """`planned` and what it needs, each once."""
    found: dict[str, Run] = {}
    for run in planned:
        for need in unique(run.needs):
            found.setdefault(need.name, need)
        found.setdefault(run.name, run)
    return list(found.values())


def seconds_left(run: Run, scale: Scale, store: Store) -> float:
    """An estimate of what `run` takes from now on, with what it needs; a tenth of it at least, if it was begun."""
    needs = [need for need in unique(run.needs) if store.result(need) is None]
    seconds = 0.0
    for each in (*needs, run):
        expected = expected_seconds(each, scale, store)
        spent = store.seconds_spent(each) if store.result(each) is None else 0.0
        seconds += max(expected - spent, 0.1 * expected)
    return seconds


def expected_seconds(run: Run, scale: Scale, store: Store) -> float:
    """As long as it took, or it with another seed, on an idle machine, where stored; else the scale's estimate."""
    content = store.result(run) or store.other_seed(run)
    if content is not None:
        origin = content["origin"]
        alone = origin["device"].startswith("CPU") and origin["threads"] == 1  # what it waited for was other work
        return content["cpu_seconds"] if alone else content["seconds"]
    alone = run.stage == "train" and "/alone/" in run.name
    return 60 * scale.planned_minutes(run.stage, run.name) * (0.25 if alone else 1)
