"""Build hook: the wheel knows the commit it was made from (`instantnet --version`)."""

import subprocess
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Puts instantnet/_commit.txt into the wheel where it is built inside a git repository."""

    def initialize(self, version: str, build_data: dict) -> None:
        git = ["git", "-C", self.root, "rev-parse", "--short=7", "HEAD"]
        try:
            commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return
        file = Path(tempfile.mkdtemp()) / "_commit.txt"
        file.write_text(commit)
        build_data["force_include"][str(file)] = "instantnet/_commit.txt"
