"""Where a number comes from: device, versions and commit."""

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from experiments.options import ROOT
from instantnet.engine.errors import UserError
from instantnet.engine.machine import versions

STATED = "INSTANTNET_COMMIT"


def origin() -> dict[str, Any]:
    """Device, threads, versions and commit of this process as it is now."""
    commit, changed = commit_of_code()
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit,
        "uncommitted_changes": changed,
    }


def device_name() -> str:
    """The GPU, else the CPU's model with the number of its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"CPU {model}, {os.cpu_count()} cores"


@cache
def commit_of_code() -> tuple[str | None, bool | None]:
    """(commit, whether code differs from it) as this process started.

    Where the environment variable INSTANTNET_COMMIT states a commit, as for a copy on another machine, it is
    that; whether the code differs is then unknown, None. Outside a git repository both are None. Raises UserError where
    the variable states no commit.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    stated = os.environ.get(STATED)
    if stated:
        if not re.fullmatch("[0-9a-f]{40}", stated):
            raise UserError(f"{STATED} = {stated!r} is no commit: `git rev-parse HEAD` prints it")
        return stated, None
    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = [
            line for line in git("status", "--porcelain", "--untracked-files=all").splitlines() if line.endswith(".py")
        ]
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changed)
