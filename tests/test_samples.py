"""`make test` runs a sample of the variants of a test, always the same; `make test-full` runs all."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
FILE = """
import pytest

@pytest.mark.sample(3)
@pytest.mark.parametrize("number", range(8))
def test_numbers(number):
    pass

@pytest.mark.sample(3)
@pytest.mark.parametrize("number", range(2))
def test_fewer(number):
    pass
"""


@pytest.fixture
def collected(pytester):
    """collected(words) -> the names of the tests that pytest runs with them."""
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    sample(count)\n    full\n")
    pytester.makepyfile(FILE)

    def collect(*words: str) -> list[str]:
        passed, skipped, failed = pytester.inline_run("-p", "no:cacheprovider", *words).listoutcomes()
        assert not skipped and not failed
        return sorted(report.nodeid.rpartition("::")[2] for report in passed)

    return collect


def test_a_sample_is_the_same_each_time_and_all_of_it_is_one_option_away(collected):
    some = collected("-m", "not full")
    numbers = [name for name in some if name.startswith("test_numbers")]
    assert len(numbers) == 3 and len(some) == 5 and collected("-m", "not full") == some
    assert len(collected("-m", "full or not full")) == 10
    left = [name for name in collected("-m", "full") if name not in some]
    assert len(left) == 5, "what the sample left out"


def test_a_variant_asked_for_by_name_runs(collected):
    for number in range(8):
        name = f"test_numbers[{number}]"
        (file,) = Path.cwd().glob("test_*.py")
        assert collected("-m", "not full", f"{file.name}::{name}") == [name]
