"""The examples of CONTRIBUTING.md, as they stand there."""

import re
from pathlib import Path

import pytest
import torch
from tiny_runs import TINY_GEOMETRY

import automapper
from automapper.engines import ENGINES
from hw_model import Layer, load_device
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision
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
    saved = [(registry, dict(registry)) for registry in (OPERATIONS, ENGINES, QUANTIZERS)]
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
