"""`instantnet.switchable`: any module at any bit-width, equal to itself at 32 bit."""

import copy
import importlib
import random
import sys

import pytest
import torch
import torchvision
from tiny_runs import ROOT
from torch import nn

import instantnet
from instantnet.distill import Cascade
from instantnet.networks import layers
from instantnet.quantize import SwitchableBatchNorm, SwitchableConv2d, SwitchableLinear, recalibrate
from instantnet.quantizers import Quantizer
from instantnet.quantizers.minmax import fake_quantize

BITS = [4, 8, 32]


class Small(nn.Module):
    """A shared layer, a norm of its own eps, a residual, a dropout; 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8, eps=1e-2, momentum=0.3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))
        self.up = nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4, output_padding=1)
        self.hidden = nn.Linear(12, 12)
        self.flat_norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.block(x)
        x = x + self.block(x)
        x = self.up(x).mean((2, 3))
        return self.head(self.flat_norm(self.hidden(self.hidden(x))))


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def converted(model=None, **options):
    return instantnet.switchable(model or Small(), BITS, **{"example": IMAGES, **options})


def test_at_32_bit_it_is_the_module_itself_bit_for_bit():
    model = Small()
    with torch.no_grad():
        model(IMAGES)  # running statistics of its own
    network = converted(model)
    assert isinstance(network, Small) and network.precision.bits == 32
    for training in (False, True):
        model.train(training), network.train(training)
        results = []
        for module in (model, network):
            torch.manual_seed(1)
            y = module(IMAGES)
            results.append([y, *torch.autograd.grad(y.square().sum(), [module.stem.weight, module.head.bias])])
        assert all(map(torch.equal, *results))
    assert torch.equal(network.norm.per_bit_width[2].running_mean, model.norm.running_mean)


def test_the_original_stays_as_it_is():
    model = Small()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    converted(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and not any(isinstance(module, Quantizer) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_which_layers_switch():
    network = converted()
    kinds = {name: type(module) for name, module in network.named_modules()}
    assert kinds["stem"] is nn.Conv2d and kinds["head"] is nn.Linear, "the first and the last stay float"
    assert kinds["block.0"] is kinds["block.2"] is SwitchableConv2d and kinds["hidden"] is SwitchableLinear
    assert kinds["up"] is layers.SwitchableConvTranspose2d
    assert kinds["norm"] is kinds["flat_norm"] is SwitchableBatchNorm
    norms = network.norm.norms()
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-2, 0.3)] * 3
    assert network.block[0].input_quantizer.channels == 8 and network.block[2].input_quantizer.channels is None


@pytest.mark.parametrize(
    "keep_float, kept",
    [
        ([], set()),
        (["hidden"], {"hidden"}),
        (["block.*", "up"], {"block.0", "block.2", "up"}),
        (lambda name, module: isinstance(module, nn.Linear), {"hidden", "head"}),
    ],
    ids=["none", "a name", "patterns", "a function"],
)
def test_layers_kept_float_are_chosen(keep_float, kept):
    network = converted(keep_float=keep_float)
    names = ["stem", "block.0", "block.2", "up", "hidden", "head"]
    assert {n for n in names if not hasattr(network.get_submodule(n), "weight_quantizer")} == kept


@pytest.mark.parametrize("bits", [4, 8])
def test_layers_quantize_weights_per_output_channel_and_inputs(bits):
    torch.manual_seed(0)
    cases = [
        (nn.Conv1d(6, 9, 3, groups=3), torch.randn(2, 6, 10), 0),
        (nn.Conv3d(2, 4, 2, stride=2), torch.randn(2, 2, 4, 4, 4), 0),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 5), 1),
        (nn.ConvTranspose2d(6, 6, 3, groups=6), torch.randn(2, 6, 5, 5), 0),
        (nn.ConvTranspose3d(2, 3, 2), torch.randn(2, 2, 3, 3, 3), 1),
    ]
    for layer, x, axis in cases:
        network = instantnet.switchable(nn.Sequential(nn.ReLU(), layer), BITS, keep_float=[], example=x)
        weight = layer.weight.detach()
        others = [i for i in range(weight.dim()) if i != axis]
        low, high = weight.amin(others, keepdim=True), weight.amax(others, keepdim=True)
        depthwise = layer.groups == layer.in_channels > 1
        of = [i for i in range(x.dim()) if i != 1] if depthwise else list(range(x.dim()))
        inputs = x.relu()
        plain = copy.deepcopy(layer)
        plain.weight.data = fake_quantize(weight, low, high, bits)
        expected = plain(fake_quantize(inputs, inputs.amin(of, keepdim=True), inputs.amax(of, keepdim=True), bits))
        torch.testing.assert_close(network(x, num_bits=bits), expected)


def test_an_output_channel_of_grouped_transposed_weights_has_a_range_of_its_own():
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2)
    network = instantnet.switchable(
        nn.Sequential(nn.ReLU(), layer), BITS, keep_float=[], example=torch.rand(2, 4, 3, 3)
    )
    network.set_bits(4)
    got = network[1].quantized_weight()
    for group in range(2):
        for output in range(3):
            own = layer.weight.detach()[2 * group : 2 * group + 2, output]
            expected = fake_quantize(own, own.min(), own.max(), 4)
            torch.testing.assert_close(got[2 * group : 2 * group + 2, output], expected)


def test_a_shared_module_stays_shared():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    twice = nn.Sequential(model, nn.ReLU(), model)
    network = instantnet.switchable(twice, BITS, keep_float=[], example=IMAGES)
    assert network[0] is network[2] and network[0][1] is network[2][1]
    assert len(list(network.parameters())) == 4 + 2 * len(BITS)


def test_float_weights_load_for_every_bit_width():
    trained = Small()
    with torch.no_grad():
        trained(IMAGES)
    network = converted()
    network.load_state_dict(trained.state_dict())
    for norm in network.norm.norms():
        assert torch.equal(norm.running_mean, trained.norm.running_mean) and norm.num_batches_tracked == 1
    assert torch.equal(network.eval()(IMAGES, num_bits=32), trained.eval()(IMAGES))
    other = converted()
    other.load_state_dict(network.state_dict())  # its own too
    assert torch.equal(other.eval()(IMAGES, num_bits=4), network(IMAGES, num_bits=4))


def test_weights_of_another_network_are_refused_by_their_names():
    state = Small().state_dict()
    state["hidden.weights"] = state.pop("hidden.weight")
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"hidden.weight".*Unexpected key.*"hidden.weights"'):
        converted().load_state_dict(state)
    own = converted().state_dict()
    own.pop("hidden.input_quantizer.low")
    with pytest.raises(RuntimeError, match=r'Missing key.*"hidden.input_quantizer.low"'):
        converted().load_state_dict(own)


def test_it_trains_recalibrates_and_is_copied():
    torch.manual_seed(0)
    network = converted().train()
    cascade = Cascade(tuple(BITS), dict.fromkeys(BITS, 1.0))
    labels = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

    def update():
        optimizer.step()
        optimizer.zero_grad()

    losses = []
    for _ in range(15):
        step = cascade.step(network, IMAGES, labels, update, cascade.running(random.Random(0)))
        losses.append(sum(loss.item() for loss in step.values()))
    assert losses[-1] < 0.7 * losses[0]
    recalibrate(network, 4, [(IMAGES, labels)])
    network.eval()
    logits = {bits: network(IMAGES, num_bits=bits) for bits in BITS}
    assert not torch.equal(logits[4], logits[32])
    twin = copy.deepcopy(network)
    twin.set_bits(4)
    network.set_bits(8)
    assert torch.equal(twin(IMAGES), logits[4]) and torch.equal(network(IMAGES), logits[8])
    assert converted().double()(IMAGES.double(), num_bits=4).dtype == torch.float64


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.own = OwnForward(4, 4, 1)
        self.read = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = self.own(self.first(x)).mean((2, 3)) @ self.read.weight
        x, _ = self.attention(x[:, None], x[:, None], x[:, None])
        return self.last(x[:, 0])


def test_what_cannot_switch_is_named_with_its_reason():
    with pytest.raises(ValueError) as caught:
        instantnet.switchable(Odd(), BITS, example=IMAGES)
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 modules cannot be made switchable; strict=False leaves them float:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["own", "read", "attention.out_proj", "attention"]
    assert "a subclass whose forward is its own" in lines[1] and "its forward does not run" in lines[2]
    model = Odd().eval()
    network = instantnet.switchable(model, BITS, example=IMAGES, strict=False)
    assert list(network.kept_float) == ["own", "read", "attention.out_proj", "attention"]
    assert torch.equal(network(IMAGES), model(IMAGES))


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm has it."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3)
        self.drop, self.act = nn.Identity(), nn.PReLU(channels)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_a_norm_with_a_forward_of_its_own_is_not_lost():
    layers_of = [nn.Conv2d(3, 4, 1), OwnNorm(4), nn.Conv2d(4, 5, 1)]
    with pytest.raises(ValueError, match=r"1: a subclass whose forward is its own"):
        instantnet.switchable(nn.Sequential(*layers_of), BITS, example=IMAGES)
    model = nn.Sequential(*layers_of).eval()
    network = instantnet.switchable(model, BITS, example=IMAGES, strict=False)
    assert type(network[1]) is OwnNorm and torch.equal(network(IMAGES), model(IMAGES))


def test_a_norm_that_ends_in_an_activation():
    """One per bit-width; the activation is shared, with its weights by their names."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1))
    model(IMAGES)
    network = instantnet.switchable(model, BITS, example=IMAGES)
    model.eval(), network.eval()
    assert isinstance(network[1], SwitchableBatchNorm) and torch.equal(network(IMAGES), model(IMAGES))
    assert [norm.eps for norm in network[1].norms()] == [1e-3] * 3
    own = set(network.state_dict())
    assert {"1.act.weight", "1.per_bit_width.0.weight"} <= own and "1.per_bit_width.0.act.weight" not in own
    with torch.no_grad():
        model[1].act.weight.fill_(0.7)
    network.load_state_dict(model.state_dict())
    assert torch.equal(network(IMAGES), model(IMAGES))


def test_a_layer_that_only_training_runs_switches_too():
    class WithHead(Small):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Linear(12, 5)

        def forward(self, x):
            y = super().forward(x)
            return y + self.auxiliary(y.new_ones(len(x), 12)) if self.training else y

    network = converted(WithHead())
    assert isinstance(network.auxiliary, SwitchableLinear) and not isinstance(network.head, SwitchableLinear)


@pytest.mark.parametrize(
    "model, options, message",
    [
        (nn.Sequential(nn.ReLU()), {}, "Sequential has no convolution and no linear layer"),
        (Small(), {"example": torch.randn(2, 4, 8, 8)}, r"does not run on the example \[\(2, 4, 8, 8\)\]: .*give an"),
        (Small(), {"keep_float": ["stm"]}, "no layer is named 'stm'; the first ones: stem, block.0"),
        (Small(), {"keep_float": "stem"}, "give a list of names"),
        (Small(), {"quantizer": "none"}, "quantizer 'none' is not one of"),
    ],
    ids=["no layer", "example", "name", "text", "quantizer"],
)
def test_mistakes_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        converted(model, **options)


def test_a_converted_network_is_not_converted_again():
    with pytest.raises(ValueError, match="has an attribute 'precision' already"):
        converted(converted())


def test_without_an_example_inputs_are_made_up():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    network = instantnet.switchable(model, BITS)
    assert [isinstance(layer, SwitchableLinear) for layer in network] == [False, False, True, False, False]


def test_the_table_of_converted_networks(monkeypatch, capsys):
    """`python benchmarks/converted.py`, on the smallest."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("converted")
    monkeypatch.setattr(sys, "argv", ["converted.py", "--only", "squeezenet1_0"])
    monkeypatch.setitem(benchmark.NETWORKS, "squeezenet1_0", 64)
    benchmark.main()
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[1:5] == ["64", "24", "0", "yes"]
    before, after = map(float, row[5].rstrip(" |").split(", "))
    assert after < before
    assert sorted(benchmark.NETWORKS) == sorted(EVERY)


# --- torchvision

PIXELS = {"alexnet": 224, "vgg11_bn": 224, "squeezenet1_0": 224, "googlenet": 224, "inception_v3": 299}
PIXELS |= dict.fromkeys(["densenet121", "vit_b_32", "swin_t", "maxvit_t"], 224)
EVERY = [
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
    "squeezenet1_0", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0",
    "regnet_y_400mf", "googlenet", "inception_v3", "convnext_tiny", "vit_b_32", "swin_t", "maxvit_t",
]  # fmt: skip
ATTENTION = {"vit_b_32": 24, "swin_t": 24, "maxvit_t": 0}  # modules that read their weights themselves
SAMPLE = ["mobilenet_v3_small", "shufflenet_v2_x0_5", "resnet18"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.full) for name in EVERY]
)
def test_networks_of_torchvision(name):
    """Equal at 32 bit in evaluation; five steps at 4 bit reduce the loss."""
    torch.manual_seed(0)
    weights = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=10, **weights).eval()
    images = torch.randn(2, 3, *(PIXELS.get(name, 64),) * 2)
    network = instantnet.switchable(model, BITS, example=images, strict=name not in ATTENTION)
    assert len(network.kept_float) == ATTENTION.get(name, 0)
    with torch.no_grad():
        assert torch.equal(network(images, num_bits=32), model(images))
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)  # the same dropout
        logits = network(images, num_bits=4)
        logits = getattr(logits, "logits", logits)
        loss = nn.functional.cross_entropy(logits, torch.tensor([3, 7]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
