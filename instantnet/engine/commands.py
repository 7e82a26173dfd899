"""The shell commands that a run prints: what continues it, and what comes next."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

import torch.distributed as dist

from instantnet.engine.place import started_by_srun

COMMAND = "instantnet"


def python_command() -> str:
    """How the user's shell calls this Python: "python" where that is it, else its path."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable) and os.path.dirname(found) == os.path.dirname(sys.executable):
        return "python"
    path = os.path.relpath(sys.executable)
    return sys.executable if path.startswith("..") else path


def launcher() -> list[str]:
    """The words that start this run's script: `python`, or torchrun for as many processes, or srun (other options left
    to the user)."""
    if not dist.is_torchelastic_launched():
        return ["srun", python_command()] if started_by_srun() else [python_command()]
    nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
    words = [python_command(), "-m", "torch.distributed.run", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    return words + (["--nnodes", nodes] if nodes != "1" else [])


def started_by_command() -> bool:
    """Whether this process is `instantnet COMMAND`, not a script of the clone."""
    return sys.argv[0].startswith(f"{COMMAND} ")


def stage_command(command: str, *script: str, parallel: bool = True) -> list[str]:
    """The words that start a stage, as this process was started: `instantnet train`, or `python train.py`.

    command: the stage's name for `instantnet`; script: its words after `python`; parallel: by torchrun or srun
    where this process was.
    """
    start = launcher() if parallel else [python_command()]
    if not started_by_command():
        return [*start, *script]
    return [COMMAND, command] if len(start) == 1 else [*start, "-m", COMMAND, command]


def resume_command(command: str, script: str, argv: Sequence[str] | None, resumes: bool) -> str:
    """The shell command that continues this run: the words it was started with, and `--resume`.

    argv: the words after the script's name; None = the process's own, script included. resumes: the words already say
    to continue from the newest checkpoint.
    """
    words = [*launcher(), *sys.argv] if argv is None else [*stage_command(command, script), *argv]
    return shlex.join([*words, *([] if resumes else ["--resume"])])
