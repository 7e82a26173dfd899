"""Work in parallel on cores, processes or machines, by joblib; results come in the order of the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from instantnet.engine.errors import UserError

PACKAGES = {"dask": "distributed", "ray": "ray"}  # that a backend needs besides joblib


class WorkerLost(UserError):
    """A process that searched is gone, with what it was to return; what was returned before is not lost."""


def run_parallel(function: Callable, work: Sequence[tuple], workers: int, backend: str) -> list[Any]:
    """[function(*arguments) for arguments in work], `workers` at a time.

    Args:
        workers: 0 = all that the backend has.
        backend: "threading", "loky" (processes), "dask" (the scheduler of dask's settings, DASK_SCHEDULER_ADDRESS, or a
            local cluster), "ray" (the cluster of RAY_ADDRESS, or a local one).

    Raises:
        UserError: the backend's package is not installed.
    """
    if workers == 1 or len(work) < 2:
        return [function(*arguments) for arguments in work]
    from joblib import Parallel, delayed, parallel_config  # imported here: a single worker needs none of it

    jobs = [delayed(function)(*arguments) for arguments in work]
    try:
        if backend == "dask":
            _ensure_client(workers)
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
    except ImportError as error:
        package = PACKAGES[backend]
        raise UserError(
            f"setting backend = {backend!r}: needs the package {package} (pip install {package})"
        ) from error
    from joblib.externals.loky.process_executor import BrokenProcessPool

    try:
        with parallel_config(backend=backend, n_jobs=workers or -1):
            return Parallel()(jobs)
    except BrokenProcessPool as error:
        raise WorkerLost("a process of the search was killed (out of memory?); fewer --workers need less") from error


def seconds_each(seconds: float, units: int, workers: int) -> float:
    """What each of `units` may take, `workers` at a time (0: as many as there are cores), to end after `seconds`."""
    return seconds * min(1.0, (workers or os.cpu_count() or 1) / max(1, units))


def _ensure_client(workers: int) -> None:
    """A client of the scheduler that dask's settings name, or of a cluster on this machine; kept for later rounds."""
    import dask
    from distributed import Client, default_client

    try:
        default_client()
    except ValueError:  # none yet
        if dask.config.get("scheduler-address", None):
            Client()
        else:
            Client(n_workers=workers or None, threads_per_worker=1, dashboard_address=None)
