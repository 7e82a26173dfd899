"""The derived network: FLOPs against the authors' counts and thop's, and architectures that do not fit."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from config_search import C
from instantnet.model_infer import DerivedNetwork, profile
from instantnet.operations import OPERATIONS, ConvBlock, Geometry, Skip
from instantnet.quantize import Precision, SwitchableBatchNorm2d
from instantnet.settings.presets import SEARCH

CIFAR = Geometry.from_settings(C.to_dict(), num_classes=10)
IMAGENET = Geometry.from_settings(C.replaced(**SEARCH["imagenet"]).to_dict())
DIGITS = Geometry.from_settings(C.replaced(**SEARCH["digits"]).to_dict(), num_classes=10)


def test_the_space_is_the_papers():
    assert tuple(OPERATIONS) == (
        "k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip",
    )  # fmt: skip
    assert CIFAR.num_layers == 22
    layers = list(CIFAR.layers())
    assert layers[0] == (16, 16, 1)
    assert [c_out for _, c_out, _ in layers] == [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352]
    assert [i for i, (_, _, stride) in enumerate(layers) if stride == 2] == [5, 9, 17]
    assert [c_in for c_in, _, _ in layers[1:]] == [c_out for _, c_out, _ in layers[:-1]]
    assert [i for i, (_, _, stride) in enumerate(IMAGENET.layers()) if stride == 2] == [1, 5, 9, 17]
    assert (CIFAR.header_channel, IMAGENET.header_channel, IMAGENET.stem_stride) == (1504, 1984, 2)


@pytest.mark.parametrize(
    "op, millions, exact",
    [
        ("k3_e1", 33.8, 33_818_880),
        ("k3_e1_g2", 23.6, 23_547_648),  # the published figure was rounded twice, by way of 23.55
        ("k3_e3", 81.6, 81_627_904),
        ("k3_e6", 153.3, 153_341_440),
        ("k5_e3", 90.8, 90_782_464),
        ("k5_e6", 171.7, 171_650_560),
    ],
)
def test_flops_of_networks_of_one_operation(op, millions, exact):
    """Reference values of the method, at 3x32x32."""
    with torch.device("meta"):
        model = DerivedNetwork([op] * 22, CIFAR, Precision([4, 32]))
    assert model.flops() == exact
    assert exact / 1e6 == pytest.approx(millions, abs=0.055)


def test_flops_of_single_parts():
    """Reference values of the method: stem, header and a 16->16 k5_e6 block at 32x32."""
    model = DerivedNetwork(["skip"] * 22, CIFAR, Precision([4]))
    stem = 16 * 32 * 32 * (27 + 4)
    assert (stem, model.ends_flops() - stem) == (507_904, 8_566_784)
    assert OPERATIONS["k5_e6"](16, 16, 1, Precision([4])).flops(32, 32) == 6_455_296


def test_flops_of_a_strided_skip():
    """At stride 2; the released code takes it for one of stride 1, and for an identity where channels match."""
    strided, same, identity = (Skip(*shape, Precision([4])) for shape in ((8, 12, 2), (8, 8, 2), (8, 8, 1)))
    assert strided.flops(9, 10) == 12 * 5 * 5 * (8 + 4)
    assert strided.flops_as_released(9, 10) == 12 * 9 * 10 * (8 + 4)
    assert same.flops(8, 8) == 8 * 4 * 4 * (8 + 4)
    assert same.flops_as_released(8, 8) == 0
    assert identity.flops(8, 8) == identity.flops_as_released(8, 8) == 0


@pytest.mark.sample(12)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quantize_ends", [False, True])
@pytest.mark.parametrize("height, width", [(8, 8), (9, 7), (1, 13), (15, 2)])
def test_thop_equals_the_formula(geometry, random_ops, seed, quantize_ends, height, width):
    geometry = replace(geometry, image_height=height, image_width=width, quantize_ends=quantize_ends)
    model = DerivedNetwork(random_ops(geometry, seed), geometry, Precision([4, 8, 32]))
    model.set_bits((4, 8, 32)[seed % 3])
    flops, parameters = profile(model)
    assert flops == model.flops()
    assert parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("geometry", [CIFAR, DIGITS, IMAGENET], ids=["cifar", "digits", "imagenet"])
def test_thop_equals_the_formula_at_full_size(geometry, random_ops):
    model = DerivedNetwork(random_ops(geometry, 5), geometry, Precision([4]))
    model.set_bits(4)
    assert profile(model)[0] == model.flops()


def test_profiling_leaves_the_network_as_it_was(geometry, random_ops):
    model = DerivedNetwork(random_ops(geometry, 1), geometry, Precision([4, 8]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_parameters_by_hand():
    """8 -> 8 k3_e1: 64 + 72 + 64 weights, and per bit-width 3 norms of 2 x 8."""
    block = OPERATIONS["k3_e1"](8, 8, 1, Precision([4, 8]))
    assert sum(p.numel() for p in block.parameters()) == 64 + 72 + 64 + 2 * 3 * 16


# --- operations


def test_a_block_is_what_the_method_says():
    """Against plain torch layers carrying the same weights: order, ReLUs, shuffle, shortcut."""
    block = ConvBlock(6, 6, 1, Precision([32]), kernel_size=5, expansion=3, groups=2)
    x = torch.randn(2, 6, 7, 7)
    norm = lambda switchable, y: nn.functional.batch_norm(  # noqa: E731
        y, None, None, switchable.current().weight, switchable.current().bias, True
    )
    y = nn.functional.conv2d(x, block.expand.weight, groups=2)
    y = norm(block.expand_norm, y).relu()
    y = torch.stack([y[:, c // 2 + (c % 2) * 9] for c in range(18)], dim=1)  # halves interleaved
    y = nn.functional.conv2d(y, block.depthwise.weight, padding=2, groups=18)
    y = norm(block.depthwise_norm, y).relu()
    y = norm(block.project_norm, nn.functional.conv2d(y, block.project.weight, groups=2))
    torch.testing.assert_close(block(x), y + x)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("c_in, c_out, stride", [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 6, 2)])
def test_every_operation_has_the_stated_shape(name, c_in, c_out, stride):
    precision = Precision([4, 32])
    operation = OPERATIONS[name](c_in, c_out, stride, precision)
    x = torch.randn(2, c_in, 9, 6)
    for bits in (4, 32):
        precision.set(bits)
        assert operation(x).shape == (2, c_out, -(-9 // stride), -(-6 // stride))
    if name != "skip":
        kernel, expansion = int(name[1]), int(name.split("_")[1][1:])
        assert operation.depthwise.kernel_size == (kernel, kernel)
        assert operation.depthwise.groups == expansion * c_in
        assert operation.depthwise.stride == (stride, stride)
        assert operation.expand.groups == operation.project.groups == (2 if name.endswith("g2") else 1)
        assert operation.has_shortcut == (stride == 1 and c_in == c_out)


def test_skip_is_the_identity_or_conv_norm_relu():
    precision = Precision([32])
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(Skip(4, 4, 1, precision)(x), x)
    skip = Skip(4, 6, 2, precision)
    expected = nn.functional.batch_norm(nn.functional.conv2d(x, skip.conv.weight, stride=2), None, None, training=True)
    torch.testing.assert_close(skip(x), expected.relu())
    assert isinstance(skip.norm, SwitchableBatchNorm2d)


@pytest.mark.parametrize("name", OPERATIONS)
def test_channels_last_is_the_same_network(name):
    """The memory format is a matter of speed: same logits, whatever is grouped, shuffled or strided."""
    precision = Precision([8, 32])
    operation = OPERATIONS[name](6, 8, 2, precision)
    x = torch.randn(2, 6, 7, 5)
    for bits in (8, 32):
        precision.set(bits)
        expected = operation(x)
        other = copy.deepcopy(operation).to(memory_format=torch.channels_last)
        torch.testing.assert_close(other(x), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other(x.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision_list", [[4, 8, 12, 16, 32], [4, 5, 6, 8], [1, 2], [32]])
def test_logits_at_every_bit_width(geometry, random_ops, precision_list):
    model = DerivedNetwork(random_ops(geometry, 2), geometry, Precision(precision_list))
    for training in (True, False):
        model.train(training)
        for bits in precision_list:
            logits = model(torch.randn(3, 3, 8, 8), num_bits=bits)
            assert logits.shape == (3, 5) and logits.isfinite().all()


# --- architectures that do not fit


def test_unknown_operation(geometry):
    with pytest.raises(ValueError, match=r"unknown operation 'k7_e9'; known: k3_e1"):
        DerivedNetwork(["k3_e1", "k7_e9", "skip", "skip"], geometry, Precision([4]))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_wrong_number_of_layers(geometry, count):
    with pytest.raises(ValueError, match=rf"{count} layers.*needs 4"):
        DerivedNetwork(["skip"] * count, geometry, Precision([4]))
