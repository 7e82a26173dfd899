"""Command lines: a mistake is one line at once, before torch is loaded; output that cannot be written is one line."""

import subprocess
import sys

import pytest
from tiny_runs import ROOT

from instantnet.engine.errors import LONGEST_LINE, UserError, exit_status, one_line

WATCHED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("torch" in sys.modules, end.code)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--lrr", "3"],
        ["train_search.py", "--lr", "fast"],
        ["-m", "automapper", "--budgt", "3"],
        ["-m", "instantnet", "train", "--preset", "digit"],
        ["-m", "instantnet", "search", "--nepochs", "-1"],
        ["train.py", "--num_workers", "1000000"],
        ["-m", "automapper", "--workers", "1000000"],
        ["-m", "instantnet.deploy", "--bit", "4"],
        ["-m", "experiments", "cdtt"],
        ["-m", "experiments", "cdt", "--jobs", "0"],
    ],
)
def test_a_mistake_is_answered_before_torch_is_loaded(words):
    result = subprocess.run([sys.executable, "-c", WATCHED, *words], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "False 2\n" and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["-m", "instantnet", "--version"], ["-m", "hw_model", "tests/data/none.json"]])
def test_a_full_output_is_one_line(words):
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (PermissionError(13, "Permission denied", "/folder/x"), "/folder/x: Permission denied"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "killed"),
        (UserError("\x1b[31mred\x1b[0m \ud800 " + "x" * 1000), "\\x1b[31mred"),
    ],
)
def test_failures_of_the_system_are_one_line(error, part, capsys):
    def fail():
        raise error

    assert exit_status(fail) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1 and len(err) <= LONGEST_LINE + 1


def test_a_bug_is_no_users_error():
    def fail():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        exit_status(fail)


def test_a_long_message_keeps_its_ends():
    text = one_line("error: the file " + "x" * 500 + " is damaged")
    assert len(text) <= LONGEST_LINE and text.startswith("error: the file") and text.endswith("is damaged")
