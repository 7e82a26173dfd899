"""No test reads a clock: what takes how long depends on what else the machine does. Benchmarks time."""

import ast

import pytest
from tiny_runs import ROOT

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def clocks_of(source: str) -> list[int]:
    """Lines of a file that use anything of the modules `time`, `timeit` and `datetime` but time.sleep."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr != "sleep":
            lines += [node.lineno] * (node.value.id in ("time", "timeit", "datetime"))
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "timeit", "datetime"):
            lines += [node.lineno] * any(alias.name != "sleep" for alias in node.names)
    return sorted(lines)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_clock_is_read(path):
    assert clocks_of(path.read_text()) == []


def test_what_reads_a_clock_is_found():
    assert clocks_of("import time\ntime.sleep(1)\nbegin = time.perf_counter()\nfrom time import monotonic") == [3, 4]
