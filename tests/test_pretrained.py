"""The network in pretrained/: it loads, is what the page says of it, and the README's line maps it."""

import re

import pytest
import torch
from PIL import Image
from tiny_runs import ROOT, load

import automapper.__main__ as mapper
import instantnet
from automapper.layers import load_network
from experiments import pretrained
from experiments.scales import CIFAR_CPU_LONG
from experiments.store import Store
from experiments.tables import Results
from instantnet.engine.errors import exit_status
from instantnet.networks.build import build_network
from instantnet.quantize import Precision

FOLDER = ROOT / "pretrained"


@pytest.fixture(scope="module")
def weights():
    return load(FOLDER / "weights.pt")


def test_it_is_small_and_belongs_together(weights):
    files = [FOLDER / "arch.pt", FOLDER / "weights.pt"]
    assert sum(file.stat().st_size for file in files) < 20e6
    assert load(files[0])["ops"] == weights["arch"]["ops"]
    assert not [v for v in weights["config"].values() if isinstance(v, str) and v.startswith("/")], "no machine's path"


def test_it_loads_and_runs_at_every_bit_width(weights):
    config = weights["config"]
    model = build_network(weights["arch"], config, Precision(weights["bits"]))
    model.load_state_dict(weights["model"])
    images = torch.randn(2, 3, config["image_height"], config["image_width"])
    logits = {bits: model.eval()(images, num_bits=bits) for bits in weights["bits"]}
    assert all(out.shape == (2, config["num_classes"]) and out.isfinite().all() for out in logits.values())
    assert not torch.equal(logits[4], logits[32])


def test_its_accuracy_is_the_stored_result(weights):
    """The page's table is made of the stored result, and that is the result of the very weights that are here."""
    store = Store(CIFAR_CPU_LONG.name)
    kept = store.result(pretrained.best(CIFAR_CPU_LONG, CIFAR_CPU_LONG.seeds, Results(store)))
    assert {str(bits): value for bits, value in weights["accuracy"].items()} == kept["result"]["accuracy"]
    assert weights["arch"]["flops"] == kept["result"]["flops"]


@pytest.mark.parametrize("bits", [["--bits", "8"], pytest.param([], marks=pytest.mark.full)], ids=len)
def test_the_readmes_line_maps_it(tmp_path, monkeypatch, capsys, bits):
    (words,) = re.findall(r"python -m automapper (pretrained\S*.*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.M)
    monkeypatch.chdir(ROOT)
    assert exit_status(lambda: mapper.main([*words.split(), *bits, "--budget", "200", "--save", str(tmp_path)])) == 0
    assert "EDP" in capsys.readouterr().out
    assert load_network("pretrained", 1).bit_widths == (4, 8, 12, 16, 32)


def test_it_names_what_it_sees(weights):
    net = instantnet.load(FOLDER)
    chances = net.predict(Image.new("RGB", (40, 30), "skyblue"), bits=4)
    assert {name for name, _ in chances} == set(weights["data"]["class_names"]) and len(chances) == 10
    assert sum(chance for _, chance in chances) == pytest.approx(1, abs=1e-5)
