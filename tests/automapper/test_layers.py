"""Every layer that runs, with its true shape, stride and precision."""

import pytest
import torch
from tiny_network import OPS, tiny_model, tiny_settings, write_weights
from torch import nn

from automapper.capture import extract_layers
from automapper.layers import load_network
from automapper.workload import distinct_problems
from hw_model import Layer
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError
from instantnet.model_infer import profile
from instantnet.operations import OPERATIONS

BY_HAND = [  # 8x8 images, stem 8, cells 8 -> 8, 8 -> 12 (stride 2), 12 -> 12, 12 -> 16
    (Layer(name="stem.conv", K=8, C=3, P=8, Q=8, R=3, S=3, H=8, W=8, pad_top=1, pad_left=1), 32),
    (Layer(name="cells.0.expand", K=24, C=8, P=8, Q=8), None),
    (Layer(name="cells.0.depthwise", G=24, P=8, Q=8, R=3, S=3, H=8, W=8, pad_top=1, pad_left=1), None),
    (Layer(name="cells.0.project", K=8, C=24, P=8, Q=8), None),
    (Layer(name="cells.1.expand", G=2, K=4, C=4, P=8, Q=8), None),
    (Layer(name="cells.1.depthwise", G=8, P=4, Q=4, R=3, S=3, stride=2, H=8, W=8, pad_top=1, pad_left=1), None),
    (Layer(name="cells.1.project", G=2, K=6, C=4, P=4, Q=4), None),
    # cells.2 is an identity: nothing runs
    (Layer(name="cells.3.expand", K=12, C=12, P=4, Q=4), None),
    (Layer(name="cells.3.depthwise", G=12, P=4, Q=4, R=5, S=5, H=4, W=4, pad_top=2, pad_left=2), None),
    (Layer(name="cells.3.project", K=16, C=12, P=4, Q=4), None),
    (Layer(name="header.conv", K=20, C=16, P=4, Q=4), 32),
    (Layer(name="classifier", K=10, C=20), 32),
]


def extracted(model, images=1):
    size = model.geometry
    return extract_layers(model, torch.zeros(images, 3, size.image_height, size.image_width))


def test_shapes_strides_and_precision_by_hand():
    assert [(item.layer, item.own_bits) for item in extracted(tiny_model())] == BY_HAND


def test_a_skip_that_changes_the_shape_is_a_strided_convolution():
    found = extracted(tiny_model(["k3_e1", "skip", "skip", "skip"]))
    skips = [item.layer for item in found if item.layer.name.endswith(".conv") and "cells" in item.layer.name]
    assert skips == [
        Layer(name="cells.1.conv", K=12, C=8, P=4, Q=4, stride=2, H=8, W=8),
        Layer(name="cells.3.conv", K=16, C=12, P=4, Q=4),
    ]


def test_quantized_ends_run_at_the_current_bit_width():
    assert all(item.own_bits is None for item in extracted(tiny_model(quantize_ends=True)))


def test_batch_is_N_of_every_layer():
    one, four = extracted(tiny_model()), extracted(tiny_model(), images=4)
    assert {item.layer.N for item in four} == {4}
    assert sum(item.layer.macs for item in four) == 4 * sum(item.layer.macs for item in one)


@pytest.mark.parametrize("op", sorted(OPERATIONS))
def test_macs_equal_thop(op):
    """thop counts convolutions and 4 per batch norm output; the classifier is the project's own to add."""
    model = tiny_model([op] * 4)
    outputs = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output.numel()))
    layers = extracted(model)
    norms = 4 * sum(outputs)
    convolutions = profile(model)[0] - norms
    classifier = model.classifier.in_features * model.classifier.out_features
    assert sum(item.layer.macs for item in layers) == convolutions + classifier


def test_the_model_is_left_as_it_was():
    model = tiny_model()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extracted(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_network_of_a_file_and_of_its_folder(tmp_path):
    weights = write_weights(tmp_path)
    network = load_network(str(weights), batch=1)
    assert network == load_network(str(weights.parent), batch=1)
    assert network.bit_widths == (4, 8, 16)
    assert network.accuracy == {4: 90.5, 8: 95.25, 16: 96.0}
    assert [(item.layer, item.own_bits) for item in network.layers] == BY_HAND


def test_architecture_of_stage_1(tmp_path):
    save_checkpoint(tmp_path / "arch.pt", {"ops": OPS, "accuracy": {4: 50.0}, "config": tiny_settings()})
    network = load_network(str(tmp_path), batch=2)
    assert len(network.layers) == len(BY_HAND)
    assert network.accuracy == {}, "that of the supernet is not the network's"


def test_equal_layers_are_searched_once(tmp_path):
    network = load_network(str(write_weights(tmp_path, quantize_ends=False)), batch=1)
    problems = distinct_problems(network, network.bit_widths)
    assert len(problems) == len(set(problems))
    assert sum(problem.bits == 32 for problem in problems) == 3  # stem, header, classifier: once for all bit-widths
    assert {(p.layer, p.bits) for p in problems} == {
        (Layer(**{**layer.to_dict(), "name": ""}), own or bits) for layer, own in BY_HAND for bits in (4, 8, 16)
    }


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("bits", "abc"),
        ("bits", [4, 4]),
        ("bits", [4, 8.5]),
        ("bits", []),
        ("model", {}),
        ("model", None),
        ("accuracy", {4: float("nan")}),
        ("accuracy", {"low": 3}),
        ("config", {"image_height": "x"}),
        ("config", {"image_height": -3}),
        ("config", {"stride_list": [0, 2, 1]}),
        ("config", {"num_layer_list": [1, 2]}),
    ],
)
def test_malformed_weights_are_one_line_of_error(weights, tmp_path, entry, value):
    content = torch.load(weights, weights_only=True)
    content[entry] = content["config"] | value if entry == "config" else value
    save_checkpoint(tmp_path / "weights.pt", content)
    with pytest.raises(UserError, match=r"weights\.pt|setting") as error:
        load_network(str(tmp_path), batch=1)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(weights, tmp_path):
    content = torch.load(weights, weights_only=True)
    content["model"]["stem.conv.weight"][:] = float("nan")
    save_checkpoint(tmp_path / "weights.pt", content)
    with pytest.raises(UserError, match="diverged"):
        load_network(str(tmp_path), batch=1)


def test_a_module_that_runs_twice_is_two_layers_with_names_of_their_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(self.conv(x))

    layers = extract_layers(Twice(), torch.zeros(1, 3, 9, 9))
    assert [(item.layer.name, item.layer.P) for item in layers] == [("conv", 7), ("conv (run 2)", 5)]
