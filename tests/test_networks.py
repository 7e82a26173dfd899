"""The paper's other networks: depth, parameters and multiply-accumulates as published, and through all three stages."""

import json

import pytest
import torch
from tiny_runs import load, run_here, same_tensors
from torch import nn

from automapper import capture, layers
from config_train import C
from instantnet import train
from instantnet.engine.errors import UserError
from instantnet.model_infer import DerivedNetwork, profile
from instantnet.networks.build import build_network
from instantnet.networks.mobilenet import InvertedResidual
from instantnet.networks.paper import Form
from instantnet.networks.resnet import BasicBlock, cifar_resnet
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision, SwitchableConv2d, SwitchableLinear

BITS = (4, 8, 32)


def settings(size=32, **changes):
    return C.to_dict() | {"num_classes": 10, "image_height": size, "image_width": size} | changes


def build(name, size=32, bits=(32,), **changes):
    with torch.device("meta"):
        return build_network({"network": name}, settings(size, **changes), Precision(bits))


def mapped(model, size):
    """The layers that the mapper sees."""
    with torch.device("meta"):
        return [item.layer for item in capture.extract_layers(model, torch.zeros(1, 3, size, size))]


def run(*words):
    return run_here(train, *words)


# --- against published figures


@pytest.mark.parametrize(
    "blocks, depth, millions, mega_macs",
    [
        (3, 20, 0.27, 40.8),  # parameters: He et al. 2016, table 6; multiply-accumulates: as usually counted of these
        (5, 32, 0.46, 69.1),
        (7, 44, 0.66, 97.4),
        (9, 56, 0.85, 125.7),
    ],
)
def test_the_resnet_family_has_the_published_sizes(blocks, depth, millions, mega_macs):
    with torch.device("meta"):
        model = cifar_resnet("resnet", Form.from_settings(settings()), Precision([32]), blocks)
    found = mapped(model, 32)
    assert len(found) == depth
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert sum(layer.macs for layer in found) / 1e6 == pytest.approx(mega_macs, rel=0.01)


@pytest.mark.parametrize("name, depth, parameters", [("resnet38", 38, 561_370), ("resnet74", 74, 1_144_666)])
def test_the_papers_resnets(name, depth, parameters):
    """By hand: stem 432; 2n convolutions of 9*16*16, then of 9*32*32 and 9*64*64 with one from the narrower width; a
    norm of 2 per channel behind each; classifier 650."""
    n = (depth - 2) // 6
    convolutions = 432 + 2 * n * 2304 + (2 * n - 1) * 9216 + 4608 + (2 * n - 1) * 36864 + 18432
    norms = 2 * 16 + 2 * n * 2 * (16 + 32 + 64)
    assert convolutions + norms + 650 == parameters
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(mapped(model, 32)) == depth


def test_mobilenet_v2_at_224_is_torchvisions_layer_by_layer():
    from torchvision import models

    with torch.device("meta"):
        theirs = mapped(models.mobilenet_v2(num_classes=10), 224)
    model = build("mobilenet_v2", 224)
    ours = mapped(model, 224)
    assert len(ours) == 53
    sizes = [[{k: v for k, v in layer.to_dict().items() if k != "name"} for layer in both] for both in (ours, theirs)]
    assert sizes[0] == sizes[1]
    assert sum(layer.macs for layer in ours) / 1e6 == pytest.approx(300, rel=0.005)
    with torch.device("meta"):
        wanted = sum(p.numel() for p in models.mobilenet_v2(num_classes=10).parameters())
    assert sum(p.numel() for p in model.parameters()) == wanted == 2_236_682


def test_mobilenet_v2_for_small_images_keeps_the_weights_and_halves_less_often():
    model = build("mobilenet_v2", 32)
    assert sum(p.numel() for p in model.parameters()) == 2_236_682
    assert mapped(model, 32)[-2].P == 4  # the header's map; ImageNet's strides would leave one pixel
    assert sum(layer.macs for layer in mapped(model, 32)) / 1e6 == pytest.approx(88, rel=0.01)


@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.75, 1.4])
def test_thin_mobilenets_are_torchvisions(width):
    from torchvision import models

    with torch.device("meta"):
        wanted = sum(p.numel() for p in models.mobilenet_v2(num_classes=10, width_mult=width).parameters())
    assert sum(p.numel() for p in build("mobilenet_v2", 224, width_mult=width).parameters()) == wanted


def test_a_thin_resnet_has_a_quarter_of_every_width():
    found = mapped(build("resnet38", 32, width_mult=0.25), 32)
    assert [found[i].K for i in (0, 13, 25)] == [4, 8, 16]
    assert found[-1].C == 16


# --- as switchable networks


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", ["resnet38", "mobilenet_v2"])
@pytest.mark.parametrize("size", [16, 17, 96])
@pytest.mark.parametrize("quantize_ends", [False, True])
def test_thop_equals_the_formula(name, size, quantize_ends):
    network = build_network(
        {"network": name}, settings(size, width_mult=0.25, quantize_ends=quantize_ends), Precision(BITS)
    )
    flops, parameters = profile(network)
    assert flops == network.flops()
    assert parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet38", "mobilenet_v2"])
def test_only_the_ends_are_plain(name):
    plain = {
        module_name
        for module_name, module in build(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, SwitchableConv2d | SwitchableLinear)
    }
    header = {"header.conv"} if name == "mobilenet_v2" else set()
    assert plain == {"stem.conv", "classifier", *header}
    quantized = build(name, quantize_ends=True)
    assert all(
        isinstance(module, SwitchableConv2d | SwitchableLinear)
        for module in quantized.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )


@pytest.mark.parametrize("name", ["resnet38", "mobilenet_v2"])
def test_bit_widths_differ_and_all_weights_learn(name):
    model = build_network({"network": name}, settings(16, width_mult=0.25), Precision(BITS))
    images = torch.randn(4, 3, 16, 16)
    logits = {bits: model(images, num_bits=bits) for bits in BITS}
    assert logits[4].shape == (4, 10)
    assert not torch.allclose(logits[4], logits[32], atol=1e-3)
    sum(out.square().sum() for out in logits.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_resnet_shortcut_by_hand():
    """With convolutions of zero the block is its shortcut: every second pixel, zero channels on both sides."""
    block = BasicBlock(2, 6, 2, Precision([32])).eval()
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
    x = torch.rand(1, 2, 5, 4)
    y = block(x)
    assert y.shape == (1, 6, 3, 2)
    torch.testing.assert_close(y[:, 2:4], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 4:].any()


def test_an_inverted_residual_by_hand():
    """Without expansion, with unit norms: project(ReLU6(depth-wise(x))), no ReLU after, plus x."""
    block = InvertedResidual(3, 3, 1, Precision([32]), 1).eval()
    assert block.expand is None
    x = 10 * torch.randn(1, 3, 4, 4)
    middle = nn.functional.conv2d(x, block.depthwise.weight, padding=1, groups=3) / (1 + 1e-5) ** 0.5
    wanted = nn.functional.conv2d(middle.clamp(0, 6), block.project.weight) / (1 + 1e-5) ** 0.5 + x
    torch.testing.assert_close(block(x), wanted)
    assert not InvertedResidual(3, 3, 2, Precision([32]), 6).has_shortcut


def test_a_searched_network_is_a_derived_network():
    ops = ["k3_e1"] * 22
    model = build_network({"ops": ops}, settings(), Precision(BITS))
    assert isinstance(model, DerivedNetwork) and model.ops == ops and ops[0] in OPERATIONS
    with pytest.raises(ValueError, match="resnet99"):
        build_network({"network": "resnet99"}, settings(), Precision(BITS))


# --- through the stages


THIN = ["--width_mult", "0.125", "--image_height", "8", "--image_width", "8", "--num_bits_list", "4,32"]
SMOKE = ["--preset", "smoke", *THIN, "--device", "cpu", "--batch_size", "4"]


@pytest.mark.parametrize("name", ["resnet38", "mobilenet_v2"])
def test_train_evaluate_and_map(name, tmp_path, capsys):
    """No arch.pt is needed; weights.pt says which network it is, and every later command takes it at its word."""
    assert run(*SMOKE, "--network", name, "--save", tmp_path) == 0
    assert f"network = {name}" in capsys.readouterr().out
    weights = load(tmp_path / "weights.pt")
    flops = build(name, 8, width_mult=0.125).flops()
    assert weights["arch"] == {"network": name, "flops": flops}
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["flops"] == flops

    assert run("--eval_only", "--save", tmp_path, "--max_steps", 1, "--batch_size", 4) == 0
    out = capsys.readouterr().out
    assert all(f"{bits}b {value:.2f}" in out for bits, value in weights["accuracy"].items())

    network = layers.load_network(str(tmp_path), 1)
    assert network.bit_widths == (4, 32) and network.accuracy == weights["accuracy"]
    assert len(network.layers) == {"resnet38": 38, "mobilenet_v2": 53}[name]
    assert [item.own_bits for item in network.layers if item.layer.name in ("stem.conv", "classifier")] == [32, 32]


def test_training_resumes_and_starts_from_weights(tmp_path):
    words = [*SMOKE, "--network", "resnet38"]
    assert run(*words, "--save", tmp_path / "whole", "--nepochs", 2) == 0
    assert run(*words, "--save", tmp_path / "part", "--nepochs", 1, "--lr_schedule", "multistep") == 0
    assert (
        run(*words, "--save", tmp_path / "on", "--pretrain", tmp_path / "part", "--nepochs", 0, "--update_bn=no") == 0
    )
    assert same_tensors(load(tmp_path / "on/weights.pt")["model"], load(tmp_path / "part/weights.pt")["model"])


def test_what_does_not_go_together_is_said(tmp_path, capsys):
    assert run(*SMOKE, "--save", tmp_path) == 2  # a width_mult without a network
    assert "width_mult = 0.125" in capsys.readouterr().err
    assert run(*SMOKE, "--network", "resnet38", "--load_path", tmp_path, "--save", tmp_path) == 2
    assert "load_path" in capsys.readouterr().err
    assert run(*SMOKE, "--network", "resnet", "--save", tmp_path) == 2
    assert "resnet38" in capsys.readouterr().err


def test_a_damaged_network_name_is_one_line_of_error(tmp_path):
    from instantnet.engine.checkpoint import save_checkpoint

    content = {"model": {}, "arch": {"network": "resnet99"}, "bits": [4], "accuracy": {4: 1.0}, "config": settings()}
    save_checkpoint(tmp_path / "weights.pt", content)
    with pytest.raises(UserError, match="resnet99"):
        layers.load_network(str(tmp_path), 1)
    content["arch"]["network"], content["config"]["width_mult"] = "resnet38", -1.0
    save_checkpoint(tmp_path / "weights.pt", content)
    with pytest.raises(UserError, match="width_mult"):
        layers.load_network(str(tmp_path), 1)
