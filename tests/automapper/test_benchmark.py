"""Never behind the strongest public mapper, on every layer of the reference."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_at_most_timeloops_edp_on_every_layer():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "automapper.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = benchmark.measure(budget=20000, seeds=1)
    assert len(results) == 15
    for row in results:
        assert row["same_space_edp_over_timeloop"] <= 1.0, row
        assert row["with_bypass_edp_over_timeloop"] <= 1.0, row
        assert row["same_space_seconds"] < 2.0
