"""Bit Fusion ranks layers as its authors' simulator does: energy at 0.95 or more, latency at 0.8 or more."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("bitfusion_benchmark", ROOT / "benchmarks/bitfusion.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("budget", [300, pytest.param(1500, marks=pytest.mark.full)])
def test_ranks(budget):
    lines = benchmark.compare(benchmark.simulator_rows(), budget=budget)
    assert len(lines) == 8
    for line in lines:
        assert line["energy_spearman"] >= 0.95, line
        assert line["latency_spearman"] >= 0.8, line


def test_spearman_shares_ranks_of_ties():
    assert benchmark.spearman([1, 2, 2, 5], [3, 7, 7, 9]) == pytest.approx(1)
    assert benchmark.spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)


def test_a_file_that_is_none(tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("kind,bits\npw,eight\n")
    command = [sys.executable, str(ROOT / "benchmarks/bitfusion.py"), str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(bad) in done.stderr
