"""What holds in every report.json."""

from itertools import pairwise

import pytest

from automapper.baselines import PUBLISHED
from automapper.dataflows import built_in

OWN = (*built_in(), PUBLISHED)


def check_inequalities(report: dict) -> None:
    """By the very numbers of the report, no tolerance.

    A layer's own entry is not behind the built-in dataflows, which its search takes over from. What the network runs is
    not behind any baseline, and no wider word is cheaper.
    """
    for row in report["bit_widths"]:
        for part in (row, *row["layers"]):
            for name, baseline in part["baselines"].items():
                if part is row or name in OWN:
                    assert part["objective_value"] <= baseline["objective_value"], (row["bits"], name, part.get("name"))
                own = baseline.get("covered", {}).get("automapper")
                assert own is None or own["objective_value"] <= baseline["covered"]["objective_value"] * (1 + 1e-12)
                gains = [key for key in {**baseline, **baseline.get("covered", {})} if "improvement" in key]
                assert bool(gains) == baseline["converged"]
        runs = [layer.get("in_network", layer) for layer in row["layers"]]
        for name in ("energy_j", "latency_s"):
            assert row["multi_cycle"][name] == pytest.approx(sum(layer[name] for layer in runs), rel=1e-12)
    for narrow, wide in pairwise(report["bit_widths"]):
        assert narrow["objective_value"] <= wide["objective_value"]
