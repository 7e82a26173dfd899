"""What holds in every report.json."""

from itertools import pairwise

import pytest


def check_inequalities(report: dict) -> None:
    """By the very numbers of the report, no tolerance."""
    for row in report["bit_widths"]:
        for part in (row, *row["layers"]):
            for name, baseline in part["baselines"].items():
                assert part["objective_value"] <= baseline["objective_value"], (row["bits"], name, part.get("name"))
                own = baseline.get("covered", {}).get("automapper")
                assert own is None or own["objective_value"] <= baseline["covered"]["objective_value"] * (1 + 1e-12)
        runs = [layer.get("in_network", layer) for layer in row["layers"]]
        for name in ("energy_j", "latency_s"):
            assert row["multi_cycle"][name] == pytest.approx(sum(layer[name] for layer in runs), rel=1e-12)
    for narrow, wide in pairwise(report["bit_widths"]):
        assert narrow["objective_value"] <= wide["objective_value"]
        for one, other in zip(narrow["layers"], wide["layers"], strict=True):
            assert one["objective_value"] <= other["objective_value"]
