"""benchmarks/sampled_paths.py, as short as it goes."""

import json

import pytest
from process_groups import STARTS
from tiny_runs import TINY_NETWORK


@pytest.mark.parametrize("start", STARTS)
def test_a_row_per_choice(tmp_path, start):
    short = ["--search_epochs", "1", "--train_epochs", "1", "--seeds", "3,4", "--json", str(tmp_path / "table.json")]
    words = [*TINY_NETWORK, "--device", "cpu", "--max_steps", "1"]
    result = start("benchmarks/sampled_paths.py", *short, "--", *words)
    assert result.status == 0, result.err
    report = json.loads((tmp_path / "table.json").read_text())
    rows = report["rows"]
    assert [(row["sample_paths"], row["seed"]) for row in rows] == [(0, 3), (0, 4), (2, 3), (2, 4), (1, 3), (1, 4)]
    assert all(len(row["ops"]) == 2 and row["flops"] > 0 and row["search_cpu_s"] > 0 for row in rows)
    assert all(set(row["accuracy"]) == {"4", "8", "32"} for row in rows)
    agreed = sum(a == b for a, b in zip(rows[0]["ops"], rows[1]["ops"], strict=True))
    assert report["seeds_agree_in_layers"] == agreed
    assert f"agree in {agreed:.1f} of 2 layers" in result.out
