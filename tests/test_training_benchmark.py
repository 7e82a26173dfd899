"""The training benchmark runs, and its two variants are the same computation."""

import importlib
import json
import statistics
import sys

import pytest
import torch
from tiny_runs import ROOT, run_script

from instantnet.model_search import Supernet
from instantnet.quantize import Precision

CASE = {"batch": 4, "threads": 1, "device": "cpu", "tiny": True}


@pytest.fixture(scope="module")
def cases():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("training_cases")
    finally:
        sys.path.pop(0)


@pytest.mark.full
def test_command(tmp_path):
    words = ["--quick", "--device", "cpu", "--json", str(tmp_path / "out.json")]
    done = run_script("benchmarks/training.py", *words)
    assert done.status == 0, done.err
    assert_whole(done.out, tmp_path / "out.json")


def test_command_in_this_process(cases, tmp_path, monkeypatch, capsys):
    """Each case in place of the one before: a worker's own process is left to `test_command`."""

    class Here:
        def build(self, case):
            self.run = cases.step_of(case)
            return self.memory()

        def step(self, count=1):
            return cases.timed(self.run, count)

        def memory(self):
            return {"peak_bytes": cases.peak_bytes()}

        def close(self):
            pass

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    training = importlib.import_module("training")
    monkeypatch.setattr(training, "Worker", Here)
    words = ["--quick", "--device", "cpu", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["training.py", *words])
    training.main()
    assert_whole(capsys.readouterr().out, tmp_path / "out.json")


def assert_whole(text, path):
    for name in ("weight step", "alpha step", "training step", "GPU: none here"):
        assert name in text
    report = json.loads(path.read_text())
    speed = report["rows"]["speed"]
    assert [row["plain"]["step"] for row in speed] == ["weight step", "alpha step", "training step"]
    for row in speed:
        assert row["ratio"] == row["plain"]["seconds"] / row["fast"]["seconds"] > 0
        assert row["fast"]["peak_bytes"] > 50e6
    assert report["rows"]["overhead"]["weight step"]["ratio"] > 0
    assert [row.get("sample_paths") for row in report["rows"]["paths"]] == [None, 2, 1]
    assert {row["of"] for row in report["rows"]["linearity"]} == {"bit-widths", "candidates", "images"}


def test_cells_of_the_gpu_run_on_any_device(cases, monkeypatch, capsys):
    """All but what only a GPU can do: graphs; "compiled" is left to test_compile.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    training_gpu = importlib.import_module("training_gpu")
    every = list(training_gpu.cells(tiny=True))
    assert len({tuple(case.values()) for case in every}) == len(every) == 2 * 4 * (3 * 2 + 3 + 1 + 3)
    one_of_each = [case for case in every if case["variant"] == "eager" and case["numbers"] == "fp32" and case["tuned"]]
    monkeypatch.setattr(training_gpu, "cells", lambda tiny: [*one_of_each, *every[-1:]])
    kept = []
    monkeypatch.setattr(training_gpu, "profile", lambda case: 1 / 0)
    result = training_gpu.rows("cpu", True, 10, lambda rows: kept.append(len(rows["cells"])))
    assert [row["network"] for row in result["cells"]] == ["resnet38", "mobilenet_v2", "derived", "supernet"]
    for row in result["cells"]:
        assert row["images_per_s"] == row["batch"] / statistics.median(row["seconds"]) > 0
        assert len(row["seconds"]) == training_gpu.RUNS
    assert kept[:4] == [1, 2, 3, 4]
    assert [row["error"] for row in result["profiles"]] == ["ZeroDivisionError: division by zero"] * 4
    assert capsys.readouterr().out.count("images/s") == 4
    chosen = training_gpu.rows("cpu", True, 10, lambda rows: None, "profile/r*,d*/eager/fp32/*")
    assert [len(chosen[kind]) for kind in ("cells", "profiles")] == [1, 1]
    assert chosen["cells"][0]["network"] == "derived" and chosen["profiles"][0]["network"] == "resnet38"
    assert training_gpu.rows("cpu", True, -1, kept.append) == {"cells": [], "profiles": []}


@pytest.mark.parametrize("numbers", ["tf32", "bf16"])
def test_other_numbers_run(cases, numbers):
    try:
        cases.step_of(CASE | {"step": "search step", "variant": "fast", "numbers": numbers})()
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    finally:
        cases.tune_gpu(False)


@pytest.mark.parametrize("step", ["weight step", "alpha step", "training step"])
def test_plain_and_fast_start_from_the_same_loss(cases, step, monkeypatch):
    """Same network, images and noise: what is timed differs in how it computes only."""
    losses = {}
    for variant in ("plain", "fast"):
        seen = losses[variant] = []
        original = torch.nn.functional.cross_entropy

        def cross_entropy(*arguments, seen=seen, original=original, **options):
            seen.append(original(*arguments, **options))
            return seen[-1]

        monkeypatch.setattr("torch.nn.functional.cross_entropy", cross_entropy)
        torch.manual_seed(0)
        run = cases.step_of(CASE | {"step": step, "variant": variant})
        run()
        monkeypatch.undo()
    assert len(losses["plain"]) == len(losses["fast"]) == (1 if step == "alpha step" else 5)
    if step != "weight step":  # plain draws its noise anew for every bit-width
        for plain, fast in zip(losses["plain"], losses["fast"], strict=True):
            assert torch.allclose(plain, fast, rtol=1e-3)


def test_equal_candidates(cases, geometry):
    """The sweep over candidates adds the same work each time."""
    supernet = Supernet(geometry, Precision([8, 32]))
    cases.equal_candidates(supernet, 3)
    assert supernet.alpha.shape == (geometry.num_layers, 3)
    assert all(len(cell.candidates) == 3 for cell in supernet.cells)
    assert supernet(torch.randn(2, 3, 8, 8), num_bits=8).shape == (2, geometry.num_classes)
