"""The examples of CONTRIBUTING.md, as they stand there."""

import random
import re
from pathlib import Path

import pytest
import torch
from tiny_runs import TINY_GEOMETRY

import automapper
from automapper.engines import ENGINES
from hw_model import Layer, load_device
from instantnet.distill import Cascade
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision, recalibrate
from instantnet.quantizers import QUANTIZERS

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
LAYERS = [Layer(name="one", K=8, C=4, P=6, Q=6, R=3, S=3)]
QUICK = {"budget": 60, "stages": 1, "workers": 1, "baselines": []}


def example(first_words):
    """The code block whose first line is a comment that begins with these words."""
    (block,) = re.findall(rf"```\w+\n# {first_words}.*?\n(.*?)```", PAGE, flags=re.DOTALL)
    return block


@pytest.fixture
def restored():
    """The registries are afterwards as they were."""
    saved = [(registry, dict(registry)) for registry in (OPERATIONS, QUANTIZERS, ENGINES)]
    yield
    for registry, entries in saved:
        registry.clear()
        registry.update(entries)


def test_an_operation(restored):
    number = len(OPERATIONS)
    exec(example("operation"), {})
    supernet = Supernet(TINY_GEOMETRY, Precision([4, 32]))
    assert supernet.alpha.shape[1] == number + 1
    supernet.sample()
    supernet(torch.randn(2, 3, 8, 8), num_bits=4).sum().backward()
    added = supernet.cells[0].candidates[number]
    assert added.depthwise.kernel_size == (7, 7) and added.depthwise.weight.grad is not None


def test_a_quantizer(restored):
    code = example("quantizer")
    assert len(code.splitlines()) <= 40
    exec(code, {})
    precision = Precision([2, 4, 32], quantizer="shift")
    supernet = Supernet(TINY_GEOMETRY, precision)
    supernet(torch.randn(2, 3, 8, 8), num_bits=4).sum().backward()
    layer = supernet.cells[0].candidates[0].depthwise
    assert layer.weight.grad is not None
    for quantizer, x in ((layer.weight_quantizer, layer.weight), (layer.input_quantizer, torch.randn(2, 4, 5, 5))):
        assert torch.equal(quantizer.codes(x).values(), quantizer(x))
        assert torch.equal(quantizer.codes(x).scale.log2() % 1, torch.zeros_like(quantizer.codes(x).scale))


def test_a_quantizer_trains_a_network(restored):
    exec(example("quantizer"), {})
    ops = ["k3_e3", "k5_e1_g2", "skip", "k3_e1"]
    model = DerivedNetwork(ops, TINY_GEOMETRY, Precision([4, 8], quantizer="shift"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cascade = Cascade(bit_widths=(4, 8), loss_scale={4: 1.0, 8: 1.0})
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    conv = model.cells[0].expand
    before = conv.weight.detach().clone()
    losses = cascade.step(model, images, labels, optimizer.step, cascade.running(random.Random(0)))
    assert sorted(losses) == [4, 8] and all(loss.isfinite() for loss in losses.values())
    assert not torch.equal(conv.weight, before)
    conv.input_quantizer.high.fill_(1e6)
    recalibrate(model, 4, [(images, labels)])
    assert conv.input_quantizer.high[0] < 100 < conv.input_quantizer.high[1]


def test_a_device(tmp_path):
    (tmp_path / "my_chip.yaml").write_text(example("device"))
    device = load_device(str(tmp_path / "my_chip.yaml"))
    assert device.name == "my_chip" and device.array == (16, 16)
    report = automapper.map_network(LAYERS, str(tmp_path / "my_chip.yaml"), bits=8, **QUICK).to_dict()
    assert report["bit_widths"][0]["edp_js"] > 0


def test_a_dataflow(tmp_path):
    (tmp_path / "my_flow.yaml").write_text(example("dataflow"))
    options = QUICK | {"dataflow": [str(tmp_path / "my_flow.yaml")]}
    report = automapper.map_network(LAYERS, "eyeriss", bits=8, **options).to_dict()
    assert "my_flow" in report["bit_widths"][0]["baselines"]


def test_an_engine(restored):
    exec(example("engine"), {})
    report = automapper.map_network(LAYERS, "eyeriss", bits=8, engine="climbing", **QUICK).to_dict()
    assert report["search"]["engine"] == "climbing" and report["bit_widths"][0]["edp_js"] > 0


def test_a_setting():
    """tests/test_settings.py adds one; here: the line in the page is one that the schema takes."""
    from instantnet.settings.schema import AtLeast, Settings

    (line,) = re.findall(r"^patience: .*$", PAGE, flags=re.MULTILINE)
    words = "\n    ".join(["class More(Settings):", line])
    scope = {"Settings": Settings, "AtLeast": AtLeast}
    exec(f"from typing import Annotated\n{words}", scope)
    assert scope["More"]().to_dict() == {"patience": 0}
