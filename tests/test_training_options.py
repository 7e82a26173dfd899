"""benchmarks/training_options.py, as short as it goes."""

import json

import pytest
from process_groups import STARTS


@pytest.mark.parametrize("start", STARTS)
def test_a_row_per_setting(tmp_path, start):
    words = ["--seeds", "1", "--nepochs", "1", "--rows", "all,sandwich", "--json", str(tmp_path / "table.json")]
    words += ["--", "--max_steps", "3"]
    result = start("benchmarks/training_options.py", *words)
    assert result.status == 0, result.err
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["setting"].split()[0] for row in rows] == ["all", "sandwich"]
    assert rows[0]["against_first"] == 1 and rows[0]["step_ms"] > 0
    assert all(set(row["accuracy"]) == {"4", "8", "12", "16", "32"} for row in rows)
    assert all(row["setting"] in result.out for row in rows)
