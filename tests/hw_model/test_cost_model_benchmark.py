"""The speed benchmark runs, and the batched model is compiled code."""

import json
import subprocess
import sys
from pathlib import Path

import hw_model
from hw_model import Layer, Mapping
from hw_model.kernel_loader import kernel

ROOT = Path(__file__).parent.parent.parent


def test_command(tmp_path):
    out = tmp_path / "out.json"
    options = ["--rows", "50000", "--repeats", "3", "--largest", "10000", "--json", str(out)]
    command = [sys.executable, str(ROOT / "benchmarks/cost_model.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "million mappings/s" in done.stdout
    report = json.loads(out.read_text())
    assert report["loops_per_mapping"] > 10
    small, large = (line["allocated_bytes"] for line in report["memory"])
    assert large <= small < 64


def test_the_batched_model_is_compiled():
    """Without Python objects, whose speed would be orders of magnitude lower."""
    layer, mapping = Layer(K=4), Mapping.from_dict({"dram": [["K", 4]]})
    hw_model.evaluate(layer, mapping, hw_model.load_device("eyeriss"), bits=8)
    assert kernel().cost_batch.nopython_signatures
