"""Whole runs on the GPU: stopped and resumed, evaluated, read where there is no GPU.

Bit for bit the same is a run on the same card with torch's deterministic algorithms (the fixture `deterministic`).
"""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import ROOT, TINY_NETWORK, load, run_here, same_tensors

import instantnet
from instantnet import train, train_search
from instantnet.distill import Cascade
from instantnet.engine.graph import StepGraph
from instantnet.formats import read_weights

pytestmark = pytest.mark.gpu

LENGTH = ["--nepochs", "2", "--max_steps", "3", "--batch_size", "32"]
LAST = (1, 2)  # epoch and step at which a stopped run stops: in the second epoch
OPTIONS = {
    "train_search": {"plain": [], "paths": ["--sample_paths", "2", "--opt", "adam"]},
    "train": {
        "plain": [],
        "average": ["--ema", "0.9", "--mixed_precision", "bfloat16", "--channels_last", "false"],
        "graph": ["--cuda_graph", "true", "--ema", "0.9"],
        "adam": ["--opt", "adam", "--bit_schedule", "sandwich", "--recalibration", "all"],
    },
}


@pytest.fixture(scope="module")
def arch(device, tmp_path_factory):
    """An arch.pt that the GPU has searched."""
    folder = tmp_path_factory.mktemp("arch")
    assert run_here(train_search, *words_of(train_search, device, folder), "--save", folder) == 0
    return folder


def words_of(stage, device, arch):
    words = ["--preset", "digits", *TINY_NETWORK, "--device", device.type, *LENGTH]
    return words if stage is train_search else [*words, "--load_path", str(arch)]


def stop_at(patch, number, owner=Cascade, name="step"):
    """SIGTERM in the `number`-th step of training from now on. owner, name: the method called in every step."""
    step, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    patch.setattr(owner, name, counted)


def metrics(folder):
    """metrics.jsonl but for the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


@pytest.mark.parametrize(
    "stage, options",
    [(train_search, name) for name in OPTIONS["train_search"]] + [(train, name) for name in OPTIONS["train"]],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_stopped_run_resumes_bit_for_bit(deterministic, device, arch, tmp_path, monkeypatch, stage, options):
    if options == "graph" and device.type == "cpu":
        pytest.skip("graphs are CUDA's")
    kind, result = ("train_search", "arch.pt") if stage is train_search else ("train", "weights.pt")
    words = [*words_of(stage, device, arch), *OPTIONS[kind][options]]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_here(stage, *words, "--save", whole) == 0
    with monkeypatch.context() as patch:
        every_step = (StepGraph, "__call__") if options == "graph" else (Cascade, "step")
        stop_at(patch, 5, *every_step)
        assert run_here(stage, *words, "--save", stopped) == 128 + signal.SIGTERM
    checkpoint = load(stopped / "checkpoint.pt")
    assert (checkpoint["epoch"], checkpoint["step"]) == LAST
    assert run_here(stage, *words, "--save", stopped, "--resume") == 0
    assert metrics(stopped) == metrics(whole)
    for name in (result, "checkpoint.pt"):
        assert same_tensors(load(stopped / name), load(whole / name)), name


@pytest.fixture(scope="module")
def trained(device, arch, tmp_path_factory):
    """The folder of a training on the GPU, its words, the accuracies it has printed."""
    folder = tmp_path_factory.mktemp("trained")
    words = words_of(train, device, arch)
    assert run_here(train, *words, "--save", folder) == 0
    return SimpleNamespace(folder=folder, words=words, accuracy=load_on_cpu(folder / "weights.pt")["accuracy"])


def load_on_cpu(path):
    return torch.load(path, weights_only=True, map_location="cpu")


@pytest.mark.parametrize("on", ["the GPU", "the CPU"])
def test_evaluation(trained, device, capsys, on):
    """On the CPU values on the edge of two codes may turn over, and with them an image or two of 360."""
    name = device.type if on == "the GPU" else "cpu"
    assert run_here(train, "--eval_only", "--pretrain", trained.folder, "--device", name) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    printed = {int(bits): float(value) for bits, value in re.findall(r"(\d+)b (\S+)", line)}
    assert printed == pytest.approx(trained.accuracy, abs=0.006 if on == "the GPU" else 1.0)


def test_the_network_to_use(trained):
    """On the CPU, from a file that a GPU has written."""
    assert {tensor.device.type for tensor in read_weights(trained.folder).weights.values()} == {"cpu"}
    network = instantnet.load(trained.folder)
    assert {tensor.device.type for tensor in network.model.state_dict().values()} == {"cpu"}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for bits in network.bits:
        shares = network.predict(image, bits)
        assert {name for name, _ in shares} == set(map(str, range(10)))
        assert sum(share for _, share in shares) == pytest.approx(1, abs=1e-5)


def test_a_process_that_sees_no_gpu(trained):
    code = f"import torch, instantnet; net = instantnet.load({str(trained.folder)!r})\n"
    code += "print(torch.cuda.is_available(), net(torch.zeros(1, 3, 8, 8), 4).device, *net.bits)"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False cpu 4 8 32\n", "")


def test_a_run_begun_on_the_gpu_ends_on_the_cpu(deterministic, device, arch, tmp_path, monkeypatch):
    words = words_of(train, device, arch)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert run_here(train, *words, "--save", tmp_path) == 128 + signal.SIGTERM
    assert run_here(train, *words, "--device", "cpu", "--save", tmp_path, "--resume") == 0
    assert sum("loss" in line for line in metrics(tmp_path)) == 2
    assert all(0 <= share <= 100 for share in load_on_cpu(tmp_path / "weights.pt")["accuracy"].values())
