"""Never behind the strongest public mapper, on every layer of the reference."""

import importlib.util
from pathlib import Path

from automapper.evolve import LOCAL

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 20000


def test_at_most_timeloops_edp_on_every_layer():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "automapper.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = benchmark.measure(budget=BUDGET, seeds=1)
    assert len(results) == 15
    for row in results:
        for space in ("same_space", "with_bypass"):
            assert row[f"{space}_edp_over_timeloop"] <= 1.0, row
            assert BUDGET <= row[f"{space}_mappings"] <= (1.1 + LOCAL) * BUDGET
            assert row[f"{space}_seconds"] > 0
