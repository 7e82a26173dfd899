"""The line that heads logs and reports: version, commit, torch, device."""

import functools
import subprocess
from importlib import metadata
from pathlib import Path

import instantnet

_PACKAGE = Path(instantnet.__file__).resolve().parent


@functools.cache
def commit() -> str:
    """The commit of the clone, with + where files differ from it, or that of the wheel; `unknown` without either."""
    recorded = _PACKAGE / "_commit.txt"
    if recorded.is_file():
        return recorded.read_text().strip()
    git = ["git", "-C", str(_PACKAGE.parent), "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version_line(device: object = "cpu") -> str:
    """`instantnet 0.1.0 (b0cc33a), torch 2.11.0, cpu`. device: of the run's tensors."""
    return f"instantnet {instantnet.__version__} ({commit()}), torch {metadata.version('torch')}, {device}"
