"""What the tests of all stages share: one thread, repeatable hypothesis runs, a network small enough for any test."""

import functools
import random
import re
import shlex
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from process_groups import forked
from tiny_runs import SHORT_TRAINING, TINY_GEOMETRY, TINY_SEARCH, run_here

from instantnet import train, train_search
from instantnet.operations import OPERATIONS, Geometry

# Tensors this small run no faster on more threads, and far slower on a busy machine.
torch.set_num_threads(1)

# A shell lets what it runs in the background ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

with suppress(ImportError):  # tests/gpu needs none, on a machine that has little but torch
    import hypothesis

    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-device", default="cuda", help="device of tests/gpu; cpu = rehearse them without a GPU")


@pytest.hookimpl(tryfirst=True)  # before `-m "not full"` is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The mapper's tests first, then those that need no mapper, then the others; of some a sample only.

    On a new clone the mapper's code is compiled, for minutes. Of two processes (`--dist worksteal`) the first begins at
    the front and the second in the middle, and by the time that it comes to the mapper all is compiled.
    """
    items.sort(key=lambda item: _part(item.path))
    _leave_samples(items)


def _leave_samples(items: list[pytest.Item]) -> None:
    """Mark as `full` what a test marked `sample` does not draw: the same in every process and at every run."""
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("full"):
            variants.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for test, every in variants.items():
        count = every[0].get_closest_marker("sample").args[0]
        every.sort(key=lambda item: item.nodeid)
        for item in random.Random(test).sample(every, max(0, len(every) - count)):
            item.add_marker(pytest.mark.full)


@functools.cache
def _part(file: Path) -> int:
    if file.parent.name in ("automapper", "hw_model"):
        return 0
    return 1 + bool(re.search("automapper|hw_model|experiments|kernels", file.read_text()))


@pytest.fixture
def geometry() -> Geometry:
    """Four searched layers: a strided one, one with matching shapes, all small."""
    return TINY_GEOMETRY


@pytest.fixture
def random_ops():
    """random_ops(geometry, seed) -> one operation's name per searched layer."""

    def draw(geometry: Geometry, seed: int) -> list[str]:
        return random.Random(seed).choices(list(OPERATIONS), k=geometry.num_layers)

    return draw


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)


# --- the scripts as a user runs them


@pytest.fixture(scope="session")
def search_run(tmp_path_factory) -> SimpleNamespace:
    """One run of train_search.py in a fork of this process: status, out, err, folder."""
    folder = tmp_path_factory.mktemp("search")
    words = [*TINY_SEARCH, "--save", folder]
    result = forked(lambda: run_here(train_search, *words), tmp_path_factory.mktemp("search says") / "all")
    result.folder = folder
    return result


@pytest.fixture(scope="session")
def train_run(search_run, tmp_path_factory) -> SimpleNamespace:
    """The command that the search printed, run for fewer steps and into another folder; words: what it was run with."""
    folder = tmp_path_factory.mktemp("train run")  # a space in a path is legal
    (command,) = [line.removeprefix("next: ") for line in search_run.out.splitlines() if line.startswith("next: ")]
    python, script, *words = shlex.split(command)
    assert shutil.which(python) is not None  # "python", or the path of one that the shell would not find
    assert script == "train.py"
    words += [*SHORT_TRAINING, "--save", str(folder)]
    result = forked(lambda: run_here(train, *words), tmp_path_factory.mktemp("train says") / "all")
    result.folder, result.words = folder, words
    return result
