"""The speed benchmark runs, and the batched model is compiled code: not orders below its measured speed."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_command(tmp_path):
    out = tmp_path / "out.json"
    options = ["--rows", "50000", "--repeats", "3", "--largest", "10000", "--json", str(out)]
    command = [sys.executable, str(ROOT / "benchmarks/cost_model.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "million mappings/s" in done.stdout
    report = json.loads(out.read_text())
    assert report["loops_per_mapping"] > 10
    assert report["speed"][0]["best_per_cpu_second"] > 500_000
    small, large = (line["allocated_bytes"] for line in report["memory"])
    assert large <= small < 64
