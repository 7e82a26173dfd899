"""Processes of one run for the tests: functions called in all of them at once, or scripts as torchrun starts them."""

import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from tiny_runs import ROOT, run_script

from instantnet.engine.distributed import joined


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment of a process that was started by hand."""
    names = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}


class Together:
    """Calls a function in every process: `function(processes, *arguments)`; gives back what each returned."""

    def __init__(self, connections):
        self._connections = connections

    def __call__(self, function, *arguments):
        for connection in self._connections:
            connection.send((function, arguments))
        answers = [connection.recv() for connection in self._connections]
        for _, error in answers:
            assert error is None, error
        return [result for result, _ in answers]


@contextmanager
def together(world_size: int, device: str):
    """`Together` of this number of processes; cpu: gloo, cuda: NCCL."""
    context, port = mp.get_context("fork" if device == "cpu" else "spawn"), free_port()
    pipes = [context.Pipe() for _ in range(world_size)]
    workers = [
        context.Process(target=_serve, args=(theirs, variables(rank, world_size, port), device), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    try:
        yield Together([ours for ours, _ in pipes])
    finally:
        for ours, _ in pipes:
            ours.send(None)
        for worker in workers:
            worker.join(timeout=60)
            worker.kill()


def _serve(connection, environment, device) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with joined(device) as processes:
        while (request := connection.recv()) is not None:
            function, arguments = request
            try:
                connection.send((function(processes, *arguments), None))
            except Exception:
                connection.send((None, traceback.format_exc()))


def torchrun(*words: str, processes: int = 2, options: tuple[str, ...] = (), timeout: int = 120) -> SimpleNamespace:
    """`torchrun --nproc-per-node N WORDS` from the repository's root."""
    started = start_torchrun(*words, processes=processes, options=options)
    out, err = started.communicate(timeout=timeout)
    return SimpleNamespace(status=started.returncode, out=out, err=err)


def start_torchrun(*words: str, processes: int = 2, options: tuple[str, ...] = ()) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-port", str(free_port()), *options]
    return _started([*launcher, *words], os.environ | {"OMP_NUM_THREADS": "1"})


def by_hand(
    main: Callable[[], int], folder: Path, environments: Sequence[dict[str, str]] | None = None
) -> list[SimpleNamespace]:
    """Status, out and err of `main` in forks of this process, where everything is imported; they write what they print
    to `folder`. environments: of each; None = of two processes that were started by hand."""
    port = free_port()
    environments = environments or [variables(rank, 2, port) for rank in range(2)]
    files = [folder / f"process {rank}" for rank in range(len(environments))]
    pids = [_forked(main, environment, file) for environment, file in zip(environments, files, strict=True)]
    return [_ended(pid, file) for pid, file in zip(pids, files, strict=True)]


def forked(main: Callable[[], int], files: Path) -> SimpleNamespace:
    """Status, out and err of `main` in a fork of this process; what it prints is written to `files`.out and .err."""
    return _ended(_forked(main, {}, files), files)


def forked_script(*words: str) -> SimpleNamespace:
    """`python WORDS`, a script or `-m MODULE`, in a fork of this process, from the repository's root."""

    def main() -> int:
        os.chdir(ROOT)
        name, sys.argv = (words[1], list(words[1:])) if words[0] == "-m" else (words[0], list(words))
        if words[0] == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(name).parent))
            runpy.run_path(name, run_name="__main__")
        return 0

    with tempfile.TemporaryDirectory() as folder:
        return forked(main, Path(folder, "says"))


STARTS = [forked_script, pytest.param(run_script, marks=pytest.mark.full)]
"""Ways to start a script: in a fork of the test, and under `full` as `python` in a process of its own."""


def of_torchrun(restarts: int = 0, processes: int = 2) -> list[dict[str, str]]:
    """The environment of each process that torchrun starts on one machine, after this number of restarts."""
    port = free_port()
    own = {"TORCHELASTIC_RUN_ID": "one", "TORCHELASTIC_RESTART_COUNT": str(restarts)}
    own |= {"LOCAL_WORLD_SIZE": str(processes), "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    return [variables(rank, processes, port) | own for rank in range(processes)]


def of_srun(processes: int = 2) -> list[dict[str, str]]:
    """The environment of each process that `srun --ntasks N` starts on one machine."""
    shared = {"SLURM_NTASKS": processes, "SLURM_JOB_ID": free_port(), "SLURM_STEP_ID": 0, "OMP_NUM_THREADS": 1}
    shared |= {"SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": free_port()}
    ranks = [{**shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in range(processes)]
    return [{name: str(value) for name, value in own.items()} for own in ranks]


def _ended(pid: int, files: Path) -> SimpleNamespace:
    """Status, out and err of a process that `_forked` started, once it has ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return SimpleNamespace(status=status, out=Path(f"{files}.out").read_text(), err=Path(f"{files}.err").read_text())


def _forked(main: Callable[[], int], environment: dict[str, str], files: Path) -> int:
    for name in ("sklearn.datasets", "torch._dynamo"):  # runs import them late, and so would every fork
        importlib.import_module(name)
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        signal.alarm(300)  # a fork that hangs ends all the same
        sys.stdout, sys.stderr = (open(f"{files}.{name}", "w") for name in ("out", "err"))  # noqa: SIM115
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
            os.dup2(stream.fileno(), descriptor)
        os.environ.update(environment)
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
