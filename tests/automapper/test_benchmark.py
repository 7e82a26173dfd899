"""Never behind the strongest public mapper, on every layer of the reference."""

import importlib.util
from pathlib import Path

import pytest

from automapper.local_search import LOCAL

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 20000


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.full)])
def test_at_most_timeloops_edp_on_every_layer(every, monkeypatch):
    """The default run takes every fifth of the 15 cases."""
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "automapper.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    cases = list(benchmark.reference_cases())
    monkeypatch.setattr(benchmark, "reference_cases", lambda: cases[::every])
    results = benchmark.measure(budget=BUDGET, seeds=1)
    assert len(cases) == 15 and len(results) == 15 // every
    for row in results:
        for space in ("same_space", "with_bypass"):
            assert row[f"{space}_edp_over_timeloop"] <= 1.0, row
            assert BUDGET <= row[f"{space}_mappings"] <= (1.1 + LOCAL) * BUDGET
            assert row[f"{space}_seconds"] > 0
