"""`automapper.map_network`: what a network may be, and a report that is the command's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_network import tiny_model
from torch import nn

import automapper
from automapper.__main__ import main
from hw_model import InputError, Layer, load_device
from instantnet.engine.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FAST = {"budget": 60, "stages": 1, "fuse": "off", "baselines": ["row_stationary"]}
LAYERS = [Layer(name="conv", K=8, C=4, P=6, Q=6, R=3, S=3), Layer(K=10, C=8)]
YAML = "- {name: conv, K: 8, C: 4, P: 6, Q: 6, R: 3, S: 3}\n- {K: 10, C: 8}\n"


def rows(report):
    return report.to_dict()["bit_widths"]


def test_the_report_is_the_commands(tmp_path):
    (tmp_path / "layers.yaml").write_text(YAML)
    main([str(tmp_path / "layers.yaml"), "--bits", "4,8", "--budget", "60", "--save", str(tmp_path / "command")])
    report = automapper.map_network(tmp_path / "layers.yaml", "eyeriss", [4, 8], budget=60)
    report.write(tmp_path / "python")
    written = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("command", "python")}
    assert written["python"] == report.to_dict()
    assert set(written["python"]) == set(written["command"])
    assert written["python"]["bit_widths"] == written["command"]["bit_widths"]
    for folder in ("command", "python"):
        assert (tmp_path / folder / "report.html").read_text().startswith("<!DOCTYPE html>")
        assert sorted(path.name for path in (tmp_path / folder / "mappings").iterdir()) == ["4bit", "8bit"]
    settings = written["command"]["settings"] | {"save": "", "checkpoint": ""}
    assert written["python"]["settings"] == settings


def test_a_report_is_printed_as_the_command_does(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text(YAML)
    main([str(tmp_path / "layers.yaml"), "--bits", "4", "--budget", "60", "--save", str(tmp_path)])
    report = automapper.map_network(str(tmp_path / "layers.yaml"), "eyeriss", 4, budget=60)
    assert str(report) == report.summary()
    assert str(report) in capsys.readouterr().out


def test_what_to_dict_gives_is_the_callers_own():
    report = automapper.map_network(LAYERS, "eyeriss", 8, **FAST)
    report.to_dict()["bit_widths"].clear()
    assert [row["bits"] for row in rows(report)] == [8]


def test_layers_get_names_and_the_batch():
    (row,) = rows(automapper.map_network(LAYERS, "eyeriss", 8, batch=3, **FAST))
    assert [layer["name"] for layer in row["layers"]] == ["conv", "layer 1"]
    assert {layer["dims"]["N"] for layer in row["layers"]} == {3}


def test_a_module_with_its_example():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    report = automapper.map_network(model, "simple256", [8], example=torch.zeros(2, 3, 8, 8), **FAST)
    assert report.to_dict()["network"] == "Sequential"
    assert [layer["dims"] for layer in rows(report)[0]["layers"]] == [
        {"N": 2, "G": 1, "K": 4, "C": 3, "P": 6, "Q": 6, "R": 3, "S": 3, "stride": 1},
        {"N": 2, "G": 1, "K": 5, "C": 144, "P": 1, "Q": 1, "R": 1, "S": 1, "stride": 1},
    ]


def test_a_switchable_module_has_its_bit_widths_and_ends_at_32():
    report = automapper.map_network(tiny_model(), "eyeriss", example=torch.zeros(1, 3, 8, 8), **FAST)
    assert [row["bits"] for row in rows(report)] == [4, 8, 16]
    bits = {layer["name"]: layer["bits"] for layer in rows(report)[0]["layers"]}
    assert {bits.pop(name) for name in ("stem.conv", "header.conv", "classifier")} == {32}
    assert set(bits.values()) == {4}


def test_a_checkpoint(weights):
    report = automapper.map_network(weights, "eyeriss", 4, **FAST)
    assert report.to_dict()["settings"]["checkpoint"] == str(weights)
    assert rows(report)[0]["accuracy"] == 90.5
    assert rows(automapper.map_network(str(weights.parent), "eyeriss", 4, **FAST)) == rows(report)


def test_a_torchvision_model():
    report = automapper.map_network("alexnet", "eyeriss", 8, budget=50, stages=1, fuse="off")
    names = [layer["name"] for layer in rows(report)[0]["layers"]]
    assert names == [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))]


def test_devices(tmp_path):
    (tmp_path / "mine.yaml").write_text((ROOT / "hw_model/devices/simple256.yaml").read_text())
    named = automapper.map_network(LAYERS, "simple256", 8, **FAST).to_dict()
    for device in (load_device("simple256"), tmp_path / "mine.yaml"):
        report = automapper.map_network(LAYERS, device, 8, **FAST).to_dict()
        assert report["bit_widths"] == named["bit_widths"]
        assert report["device"] == (str(device) if isinstance(device, Path) else "simple256")


def test_progress_is_told():
    class Seen(automapper.Progress):
        def __init__(self):
            self.shares, self.fusing, self.closed = [], [], False

        def searched(self, share, edp_js):
            self.shares.append(share)
            assert set(edp_js) == {8}

        def fused(self, done, of):
            self.fusing.append((done, of))

        def close(self):
            self.closed = True

    seen = Seen()
    automapper.map_network(LAYERS, "eyeriss", 8, progress=seen, **{**FAST, "fuse": "strips"})
    assert seen.shares == sorted(seen.shares) and seen.shares[-1] == 1.0
    assert seen.fusing == [(0, 1)]
    assert seen.closed


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("resnet19", {}, "did you mean 'resnet1"),
        ("nowhere/weights.pt", {}, "no such file"),
        ([], {}, "network: a list is neither"),
        ([nn.ReLU()], {}, "network: a list is neither"),
        (7, {}, "network: a int is neither"),
        ([LAYERS[0], LAYERS[0]], {}, r"layers\[1\]: name: 'conv' is the name of \[0\] too"),
        (nn.Linear(3, 4), {}, "example: Linear needs one"),
        (nn.Linear(3, 4), {"example": torch.zeros(1, 2)}, "example: Linear does not run on it"),
        (nn.Linear(3, 4), {"example": torch.zeros(1, 3), "batch": 2}, "the batch of a module is that of its example"),
        (LAYERS, {"example": torch.zeros(1, 3)}, "only a torch module takes an example"),
        (LAYERS, {"bits": [8, 33]}, "setting bits = .*: must be between 1 and 32"),
        (LAYERS, {"bits": "8"}, "setting bits"),
        (LAYERS, {"budget": 0}, "setting budget = '0'"),
        (LAYERS, {"objective": "speed"}, "setting objective = 'speed'"),
        (LAYERS, {"engine": "genetic"}, "setting engine = 'genetic'"),
        (LAYERS, {"device": "eyeris"}, "did you mean 'eyeriss'"),
    ],
)
def test_mistakes_are_one_line(network, options, message):
    options = {"device": "eyeriss", **FAST, **options}
    with pytest.raises((UserError, InputError), match=message) as error:
        automapper.map_network(network, **options)
    assert "\n" not in str(error.value)


def test_importing_the_package_loads_nothing_heavy():
    code = "import automapper, sys; print([n for n in ('torch', 'numba', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
