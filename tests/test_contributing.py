"""The examples of CONTRIBUTING.md, as they stand there."""

import random
import re
from pathlib import Path

import pytest
import test_quantizers as promises
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


@pytest.fixture
def power_of_two(restored):
    """The quantizer of the page, registered."""
    exec(example("quantizer"), {})
    return "power_of_two"


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_quantizer_keeps_what_every_quantizer_promises(power_of_two, bits):
    for training in (True, False):
        promises.test_codes_reconstruct_the_fake_quantized_tensor_exactly(power_of_two, bits, training)
    promises.test_codes_are_in_range_for_every_input(power_of_two)
    promises.test_32_bit_passes_and_has_no_codes(power_of_two)
    promises.test_state_is_per_bit_width(power_of_two)


def test_a_quantizers_values(power_of_two):
    """By hand: max|x| / 4 = 0.75 at 3 bit, so the step is 1."""
    precision = Precision([3, 32], quantizer=power_of_two)
    precision.set(3)
    inputs = QUANTIZERS[power_of_two].inputs(precision)
    x = torch.tensor([[-2.2, -0.4, 0.6, 3.0]], requires_grad=True)
    assert inputs(x).tolist() == [[-2.0, 0.0, 1.0, 3.0]]
    codes = inputs.codes(x)
    assert codes.codes.tolist() == [[2, 4, 5, 7]]
    assert (codes.scale.item(), codes.zero_point.item(), codes.offset.item()) == (1.0, 4, 0.0)
    inputs(x).sum().backward()
    assert x.grad.tolist() == [[1.0] * 4]
    inputs.eval()
    assert inputs(torch.tensor([[9.0, -9.0]])).tolist() == [[3.0, -4.0]], "the running range cuts"


def test_a_quantizer_trains_a_network(power_of_two):
    model = DerivedNetwork(
        ["k3_e3", "k5_e1_g2", "skip", "k3_e1"], TINY_GEOMETRY, Precision([4, 8], quantizer="power_of_two")
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cascade = Cascade(bit_widths=(4, 8), loss_scale={4: 1.0, 8: 1.0})
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    conv = model.cells[0].expand
    before = conv.weight.detach().clone()
    losses = cascade.step(model, images, labels, optimizer.step, cascade.running(random.Random(0)))
    assert sorted(losses) == [4, 8] and all(loss.isfinite() for loss in losses.values())
    assert not torch.equal(conv.weight, before)
    assert (conv.input_quantizer.running > 0).all(), "both bit-widths have seen the batch"
    weights = conv.weight_quantizer.codes(conv.weight)
    assert torch.equal(weights.values(), conv.weight_quantizer(conv.weight))
    conv.input_quantizer.running.fill_(1e6)
    recalibrate(model, 4, [(images, labels)])
    assert conv.input_quantizer.running[0] < 100 < conv.input_quantizer.running[1]


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
