"""What runs in a network, seen at torch's dispatcher: shapes by hand, names, what is not mapped."""

import random

import pytest
import torch
import torch.nn.functional as F
from tiny_network import tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from automapper.capture import capture, extract_layers
from automapper.layers import IMAGE_SIZE, build_torchvision, load_torchvision
from automapper.workload import Network, unmapped_lines
from hw_model import Layer
from instantnet.engine.errors import UserError

MODELS = models.list_models(module=models)
IMAGE = torch.zeros(2, 4, 9, 8)


class Calls(nn.Module):
    """Runs a function, with parameters of its own."""

    def __init__(self, function, **weights):
        super().__init__()
        self.function = function
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def layers_of(model, *inputs):
    return [item.layer for item in extract_layers(model, *inputs, plain_bits=None)]


def only(model, *inputs):
    """The only layer, without its name."""
    (layer,) = layers_of(model, *inputs)
    return Layer(**{**layer.to_dict(), "name": ""})


def counted(model, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return counter.get_total_flops() / 2


CONVOLUTIONS = {
    "padding": (
        nn.Conv2d(4, 6, 3, padding=1),
        {"K": 6, "C": 4, "P": 9, "Q": 8, "R": 3, "S": 3, "H": 9, "W": 8, "pad_top": 1, "pad_left": 1},
    ),
    "strides that differ": (
        nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0)),
        {"K": 6, "C": 4, "P": 11, "Q": 4, "R": 3, "S": 2, "stride_w": 2, "H": 9, "W": 8, "pad_top": 2},
    ),
    "dilation": (
        nn.Conv2d(4, 6, 3, dilation=(2, 3), padding=(2, 3)),
        {"K": 6, "C": 4, "P": 9, "Q": 8, "R": 3, "S": 3, "H": 9, "W": 8, "dilation_h": 2, "dilation_w": 3,
         "pad_top": 2, "pad_left": 3},
    ),
    "groups": (
        nn.Conv2d(4, 8, 3, groups=2, stride=2),
        {"G": 2, "K": 4, "C": 2, "P": 4, "Q": 3, "R": 3, "S": 3, "stride": 2, "H": 9, "W": 8},
    ),
    "same, odd": (
        nn.Conv2d(4, 6, 3, padding="same"),
        {"K": 6, "C": 4, "P": 9, "Q": 8, "R": 3, "S": 3, "H": 9, "W": 8, "pad_top": 1, "pad_left": 1},
    ),
    "same, even: the further zero is at the end": (
        nn.Conv2d(4, 6, (4, 2), padding="same"),
        {"K": 6, "C": 4, "P": 9, "Q": 8, "R": 4, "S": 2, "H": 9, "W": 8, "pad_top": 1},
    ),
    "padding as large as the kernel": (
        nn.Conv2d(4, 6, 1, padding=2),
        {"K": 6, "C": 4, "P": 13, "Q": 12, "H": 9, "W": 8, "pad_top": 2, "pad_left": 2},
    ),
    "padding by an operation is input": (
        nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(4, 6, 3)),
        {"K": 6, "C": 4, "P": 10, "Q": 9, "R": 3, "S": 3, "H": 12, "W": 11},
    ),
    "no batch": (nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(8, 6, 3)), {"N": 1, "K": 6, "C": 8, "P": 7, "Q": 6, "R": 3,
                                                                      "S": 3}),
    "transposed, no overlap": (nn.ConvTranspose2d(4, 6, 2, stride=2), {"K": 24, "C": 4, "P": 9, "Q": 8}),
    "transposed, groups and overlap": (
        nn.ConvTranspose2d(4, 6, (3, 4), stride=(1, 2), padding=1, groups=2),
        {"G": 2, "K": 3 * 3 * 4, "C": 2, "P": 9, "Q": 8},
    ),
    "functional": (
        Calls(lambda m, x: F.conv2d(x, m.w, stride=2), w=torch.zeros(6, 4, 3, 3)),
        {"K": 6, "C": 4, "P": 4, "Q": 3, "R": 3, "S": 3, "stride": 2, "H": 9, "W": 8},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_hand(name):
    model, expected = CONVOLUTIONS[name]
    layer = only(model, IMAGE)
    assert layer == Layer(**{"N": 2, **expected})
    assert layer.macs == counted(model, IMAGE)
    meta = only(model.to("meta"), IMAGE.to("meta"))
    assert meta == layer


def test_one_axis_is_rows():
    x = torch.zeros(2, 4, 20)
    conv = nn.Conv1d(4, 6, 5, stride=3, padding=2, dilation=2)
    expected = Layer(N=2, K=6, C=4, P=6, R=5, H=20, stride=3, dilation=2, pad_top=2)
    assert only(conv, x) == expected
    assert expected.macs == counted(conv, x)
    assert only(nn.ConvTranspose1d(4, 6, 3, stride=2), x) == Layer(N=2, K=18, C=4, P=20)


def test_three_axes_where_the_filter_has_one_tap_along_one():
    x = torch.zeros(2, 4, 5, 9, 8)
    for kernel, expected in {
        (1, 3, 3): Layer(N=10, K=6, C=4, P=7, Q=6, R=3, S=3),
        (3, 1, 1): Layer(N=18, K=6, C=4, P=3, Q=8, R=3),
        (2, 3, 1): Layer(N=16, K=6, C=4, P=4, Q=7, R=2, S=3),
    }.items():
        assert only(nn.Conv3d(4, 6, kernel), x) == expected
        assert expected.macs == counted(nn.Conv3d(4, 6, kernel), x)
    with pytest.raises(
        UserError, match=r"^layer 0 \(Conv3d\) has a filter of 3 x 3 x 2, over three axes: it cannot be"
    ):
        extract_layers(nn.Sequential(nn.Conv3d(4, 6, (3, 3, 2))), x)


def test_linear_layers_of_vectors_tokens_and_other_layouts():
    linear = nn.Linear(8, 5)
    tokens = torch.zeros(2, 7, 8)
    assert only(linear, torch.zeros(2, 8)) == Layer(N=2, K=5, C=8)
    assert only(linear, torch.zeros(8)) == Layer(K=5, C=8)
    assert only(linear, tokens) == Layer(N=2, K=5, C=8, P=7)
    assert only(nn.Linear(8, 5, bias=False), tokens) == Layer(N=2, K=5, C=8, P=7)
    turned = Calls(lambda m, x: F.linear(x.transpose(0, 1), m.w), w=torch.zeros(5, 8))  # bmm with the same weights
    assert only(turned, tokens) == Layer(N=2, K=5, C=8, P=7)
    left = Calls(lambda m, x: m.w @ x.transpose(1, 2), w=torch.zeros(5, 8))
    assert only(left, tokens) == Layer(N=2, K=5, C=8, P=7)
    einsum = Calls(lambda m, x: torch.einsum("btc,oc->bto", x, m.w), w=torch.zeros(5, 8))
    assert only(einsum, tokens) == Layer(N=2, K=5, C=8, P=7)
    grouped = Calls(lambda m, x: torch.einsum("btc,boc->bto", x, m.w), w=torch.zeros(2, 5, 8))
    assert only(grouped, tokens) == Layer(G=2, K=5, C=8, P=7)


def test_products_of_activations():
    q, k = torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 5, 8)
    scores = Layer(G=6, K=5, C=8, P=7)
    for function in (lambda m, q, k: q @ k.mT, lambda m, q, k: torch.einsum("bhld,bhmd->bhlm", q, k)):
        (item,) = extract_layers(Calls(function), q, k)
        assert Layer(**{**item.layer.to_dict(), "name": ""}) == scores
        assert item.product and item.layer.macs == 2 * 3 * 5 * 7 * 8
    flat = Calls(lambda m, x: x @ x.T)
    (item,) = extract_layers(flat, torch.zeros(7, 8))
    assert item.product and (item.layer.K, item.layer.C, item.layer.P) == (7, 8, 7)
    assert not extract_layers(nn.Linear(8, 8), torch.zeros(7, 8))[0].product


@pytest.mark.parametrize("place", ["cpu", "meta"])  # one operation, and its parts
def test_scaled_dot_product_attention_is_two_products(place):
    q, k = torch.zeros(2, 3, 7, 8, device=place), torch.zeros(2, 3, 5, 8, device=place)
    layers, others = capture(Calls(lambda m, q, k: F.scaled_dot_product_attention(q, k, k)), q, k)
    assert [item.layer for item in layers] == [
        Layer(name="Calls[matmul]", G=6, K=5, C=8, P=7),
        Layer(name="Calls[matmul 2]", G=6, K=8, C=5, P=7),
    ]
    assert all(item.product for item in layers)
    assert [item.operations for item in others if item.kind == "softmax"] == [6 * 7 * 5]


def test_attention_and_encoder_layers_are_named_by_their_module():
    attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    x = torch.zeros(2, 7, 16)
    assert [(layer.name, layer.macs) for layer in layers_of(attention, x)] == [
        ("self_attn[linear]", 2 * 7 * 16 * 48),
        ("self_attn[matmul]", 2 * 4 * 7 * 7 * 4),
        ("self_attn[matmul 2]", 2 * 4 * 7 * 7 * 4),
        ("self_attn[linear 2]", 2 * 7 * 16 * 16),
        ("linear1", 2 * 7 * 16 * 32),
        ("linear2", 2 * 7 * 16 * 32),
    ]
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.mkldnn.enabled


def test_recurrent_layers_are_their_matrix_products():
    lstm = nn.LSTM(16, 8, batch_first=True)
    assert sum(layer.macs for layer in layers_of(lstm, torch.zeros(2, 3, 16))) == 2 * 3 * (16 + 8) * 4 * 8


def test_inference_mode_hides_nothing():
    model = Calls(torch.inference_mode()(lambda m, x: F.linear(x, m.w)), w=torch.zeros(5, 8))
    assert only(model, torch.zeros(2, 7, 8)) == Layer(N=2, K=5, C=8, P=7)


def test_operations_that_are_full_of_products_are_refused_by_name():
    bilinear = nn.Sequential(Calls(lambda m, x: F.bilinear(x, x, m.w), w=torch.zeros(3, 8, 8)))
    with pytest.raises(UserError, match=r"^layer 0 \(Calls\) runs aten::_trilinear: it cannot be mapped"):
        extract_layers(bilinear, torch.zeros(2, 8))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_compiled_modules_are_refused_not_skipped():
    traced = torch.jit.trace(nn.Conv2d(4, 4, 3), IMAGE)
    with pytest.raises(UserError, match=r"^layer 1 \(\w*TracedModule\) is compiled by torch\.jit: it cannot be mapped"):
        extract_layers(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), traced), IMAGE)


def test_quantization_is_one_operation_of_each_input():
    layers, others = capture(tiny_model(), torch.zeros(1, 3, 8, 8))
    found = {item.name: item.operations for item in others if item.kind == "quantize"}
    inputs = {i.layer.name: i.layer.G * i.layer.C * i.layer.H * i.layer.W for i in layers if i.own_bits is None}
    assert found == inputs
    assert {item.kind for item in others} >= {"quantize", "batch_norm", "relu"}


def test_modes_of_all_modules_are_left_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    model.train()[0].eval()  # a frozen batch norm
    extract_layers(model, IMAGE)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    with pytest.raises(RuntimeError):
        extract_layers(model, torch.zeros(1, 3, 9, 9))
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_not_mapped_is_listed_with_its_share():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1)
    )
    model.append(Calls(lambda m, x: x + (m.w * 2).sum(), w=torch.zeros(1000)))  # what only weights need is not work
    layers, others = capture(model, torch.zeros(1, 4, 8, 8))
    assert [(item.name, item.kind, item.operations) for item in others] == [
        ("1", "batch_norm", 384),
        ("2", "relu", 384),
        ("3", "max_pool2d", 384),
        ("5", "softmax", 96),
        ("6", "add", 96),
    ]
    report = Network("", layers, (), {}, others).unmapped_report()
    every = 64 * 24 + 3 * 384 + 2 * 96
    assert report[0] == {"name": "1", "kind": "batch_norm", "operations": 384, "share": 384 / every}
    (line,) = unmapped_lines(report)
    assert line == (
        "not mapped: 46.67% of the operations (batch norm 13.33%, relu 13.33%, max pool2d 13.33%, softmax 3.33% and "
        "add 3.33%)"
    )
    assert unmapped_lines([]) == []


def check_torchvision(name, batch=1):
    """Its multiply-accumulates against torch's own count, which shares nothing with ours."""
    images = torch.zeros(batch, 3, *IMAGE_SIZE.get(name, (224, 224)), device="meta")
    model = build_torchvision(name)
    with torch.device("meta"):
        expected = counted(model, images)
    network = load_torchvision(name, batch)
    assert network.macs == expected
    assert len({item.layer.name for item in network.layers}) == len(network.layers)
    for item in network.layers:
        needs = set(item.layer.name.replace("[", " ").split()[0].split("."))
        assert needs <= {part for path, _ in model.named_modules() for part in path.split(".")}
    assert network.unmapped


SAMPLE = ["convnext_tiny", "vit_b_32", "swin_t", "regnet_y_400mf", *random.Random(0).sample(MODELS, 8)]


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", dict.fromkeys(SAMPLE))
def test_classification_models_of_torchvision(name):
    check_torchvision(name, batch=3)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_every_classification_model_of_torchvision(name):
    check_torchvision(name)


def test_meta_and_real_tensors_give_the_same_layers():
    for name in ("vit_b_32", "swin_v2_t"):
        torch.manual_seed(0)
        real = models.get_model(name, weights=None)
        found, _ = capture(real, torch.zeros(1, 3, 224, 224), plain_bits=None)
        assert found == load_torchvision(name, 1).layers
