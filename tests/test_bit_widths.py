"""Weights and activations at bit-widths of their own; single layers; residual additions; files, commands, mapper."""

import copy
import json
import random

import pytest
import torch
from tiny_runs import TINY_GEOMETRY, TINY_NETWORK, load, run_here
from torch import nn

import instantnet
from automapper.layers import load_module, load_network
from automapper.networks import chosen_bits
from automapper.workload import Network, problem_of
from instantnet import train, train_search
from instantnet.distill import bit_widths_of_step, teachers_of
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError
from instantnet.engine.log import per_bits
from instantnet.engine.loop import Mean
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.networks.residual import Addition
from instantnet.quantize import Precision, SwitchableConv2d, SwitchableLinear, recalibrate, set_own_bits
from instantnet.quantizers import QUANTIZERS, Quantizer
from instantnet.quantizers.minmax import fake_quantize
from instantnet.widths import Widths, in_order, own_bits, widths_of

MIXED = ["w4a8", 8, "w8a4", "w4a32", "w32a8", 32]
ORDERED = ["w8a4", "w4a8", 8, "w32a8", "w4a32", 32]
OPS = ["k3_e3", "k5_e1_g2", "skip", "k3_e1"]
by_name = pytest.mark.parametrize("name", QUANTIZERS)


def images(batch=4):
    return torch.randn(batch, 3, 8, 8)


def derived(quantizer="minmax", bits=("w4a8", 8, 32)):
    return DerivedNetwork(OPS, TINY_GEOMETRY, Precision(bits, quantizer=quantizer))


# --- how they are written and sorted


def test_they_are_sorted_by_activations_then_weights():
    assert in_order(MIXED) == ORDERED == list(Precision(MIXED).bit_widths)
    assert in_order(["w8a8", "W4A08", 4]) == [4, "w4a8", 8]
    assert widths_of("w4a8") == Widths(4, 8) and widths_of(8) == widths_of("8") == Widths(8, 8)


@pytest.mark.parametrize("bad", ["w4a", "w0a8", "w4a33", "a8", 0, 33, -1, True, None, "w4a8 ", 4.0])
def test_what_is_no_bit_width(bad):
    with pytest.raises(ValueError, match="is not between 1 and 32, or widths of weights and activations as in w4a8"):
        Precision([8, bad])


@pytest.mark.parametrize("bad", [[], [4, 4], [8, "w8a8"]])
def test_a_list_names_each_once(bad):
    with pytest.raises(ValueError, match="at least one, and none twice"):
        Precision(bad)


def test_a_quantizer_begins_at_its_lowest_on_both_sides():
    for bits in ("w1a4", "w4a1"):
        with pytest.raises(ValueError, match=f"bit-width {bits}: quantizer 'lsq' begins at 2 bit"):
            Precision([bits, 8], quantizer="lsq")


def test_schedules_and_teachers_follow_the_order():
    rng = random.Random(0)
    assert bit_widths_of_step("high2low", MIXED, rng) == ORDERED[::-1]
    running = bit_widths_of_step("sandwich", MIXED, rng)
    assert len(running) == 4 and (running[0], running[-1]) == (32, "w8a4") and in_order(running) == running[::-1]
    assert teachers_of("w4a8", MIXED, "cascade") == [8, "w32a8", "w4a32", 32]
    assert teachers_of("w8a4", MIXED, "next") == ["w4a8"]


def test_logs_and_means_take_them():
    assert per_bits({8: 1.0, "w4a8": 2.0, 4: 3.0}, ".1f") == "4b 3.0  w4a8 2.0  8b 1.0"
    mean, again = Mean(), Mean()
    mean.add({8: 1.0, "w4a8": 2.0})
    again.load_state_dict(mean.state_dict())
    assert again.value() == {"w4a8": 2.0, 8: 1.0}
    with pytest.raises(ValueError, match="running means"):
        again.load_state_dict({"w4a": [1.0, 1]})


# --- what layers compute


@pytest.mark.parametrize("bits", MIXED)
def test_a_layer_rounds_its_weights_and_its_input_to_their_own_bits(bits):
    precision = Precision(MIXED)
    conv, x = SwitchableConv2d(3, 4, 3, precision=precision), torch.randn(2, 3, 5, 5)
    precision.set(bits)
    weights, activations = widths_of(bits)
    weight, low, high = conv.weight.detach(), conv.weight.detach().amin((1, 2, 3)), conv.weight.detach().amax((1, 2, 3))
    if weights != 32:
        weight = fake_quantize(weight, low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1), weights)
    inputs = x if activations == 32 else fake_quantize(x, x.amin().view(1), x.amax().view(1), activations)
    assert torch.equal(conv(x), nn.functional.conv2d(inputs, weight, conv.bias))
    assert (precision.weights.bits, precision.activations.bits) == (weights, activations)


@by_name
def test_a_step_a_recalibration_and_a_copy(name):
    model, x = derived(name, MIXED), images(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for bits in MIXED:
        nn.functional.cross_entropy(model(x, num_bits=bits), torch.arange(8) % 5).backward()
    optimizer.step()
    for bits in MIXED:
        assert model(x, num_bits=bits).isfinite().all()
    recalibrate(model, "w4a8", [(x, None)])
    twin = derived(name, MIXED).eval()
    twin.load_state_dict(model.eval().state_dict())
    for bits in MIXED:
        assert torch.equal(twin(x, num_bits=bits), model(x, num_bits=bits))
    with pytest.raises(ValueError, match="bit-width w2a8 is not one of"):
        model.set_bits("w2a8")


@pytest.mark.parametrize("bits", ["w4a8", "w8a4", "w4a32", "w32a8"])
def test_kernels_serve_them_as_the_plain_path(bits):
    plain = derived(bits=MIXED).to(memory_format=torch.channels_last)
    fast = with_kernels(copy.deepcopy(plain), layers=False)
    blocks = with_kernels(copy.deepcopy(plain))
    x = images().to(memory_format=torch.channels_last)
    expected = plain(x, num_bits=bits)
    assert torch.equal(fast(x, num_bits=bits), expected)
    torch.testing.assert_close(blocks(x, num_bits=bits), expected, rtol=0.2, atol=0.2)  # a value may round otherwise


@by_name
def test_plain_numbers_have_the_state_they_had(name):
    """One row per bit-width below 32."""
    for module in derived(name, (4, 8, 32)).modules():
        if isinstance(module, Quantizer):
            assert all(len(tensor) == 2 for tensor in module.state_dict().values())


# --- single layers


def test_layers_with_a_bit_width_of_their_own():
    model = derived(bits=(4, 8, 32))
    set_own_bits(model, {"cells.*": 8, "cells.0.*": "w2a3", "cells.0.expand": 32})
    seen = {}
    for bits in (4, 32):
        model.set_bits(bits)
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, SwitchableConv2d | SwitchableLinear)]
        seen[bits] = {n: (m.weight_quantizer.precision.bits, m.input_quantizer.precision.bits) for n, m in layers}
    assert seen[4] == seen[32], "at every position of the switch"
    assert seen[4]["cells.0.expand"] == (32, 32) and seen[4]["cells.0.project"] == (2, 3)
    assert seen[4]["cells.1.expand"] == (8, 8)
    assert model.cells[1].expand.input_quantizer.low.shape == (3, 1), "a range at 32, where the layer has 8"
    assert model(images(), num_bits=32).isfinite().all()
    with pytest.raises(ValueError, match="no switchable layer is named 'layer4"):
        set_own_bits(model, {"layer4.*": 8})
    with pytest.raises(ValueError, match="'symmetric' begins at 2 bit"):
        set_own_bits(derived("symmetric", (4, 8)), {"cells.*": "w1a8"})


def test_entries_of_the_setting():
    assert own_bits(["layer4.*=8", "a=b=w4a8"]) == {"layer4.*": 8, "a=b": "w4a8"}
    for bad in ("layer4", "=8", "layer4=w4a"):
        with pytest.raises(ValueError, match=r"pattern=bits|is not between"):
            own_bits([bad])


class Residual(nn.Module):
    """An addition of each kind; the block's is in place, and shared by two calls."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 3, padding=1), Block(6)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.add(self.block(self.block(x)), x)
        return self.head((self.norm(x) + 1 + x.mean(0, keepdim=True)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.bias = nn.Conv2d(channels, channels, 3, padding=1), nn.Parameter(torch.zeros(1, channels, 8, 8))

    def forward(self, x):
        y = self.conv(x) + self.bias
        y += x
        return y.relu()


def converted(name="minmax", bits=("w4a8", 8, 32), model=None, **options):
    options = {"quantize_residual": True, "example": images(2), **options}
    return instantnet.switchable(model or Residual(), bits, quantizer=name, **options)


def test_bits_of_a_converted_network():
    network = converted(bits_of={"block.*": 2})
    assert network.block.conv.own_bits == network.block.residual_additions[0].own_bits == 2
    assert network.residual_additions[0].own_bits is None
    with pytest.raises(ValueError, match="no switchable layer is named 'layer4"):
        converted(bits_of={"layer4.*": 8})
    with pytest.raises(ValueError, match="'head' stays float"):
        converted(bits_of={"head": 8})


# --- residual additions


@by_name
def test_both_operands_of_an_addition_are_quantized(name):
    """Of two activations of one shape; not with a parameter, a number, or another shape. At 32 bit nothing changes."""
    model, x = Residual(), images()
    network = converted(name, model=model)
    names = {n for n, m in network.named_modules() if isinstance(m, Addition)}
    assert names == {"residual_additions.0", "block.residual_additions.0"}
    assert isinstance(network, Residual) and network.kept_float == {}
    results = []
    for module in (model, network):
        y = module(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [module.stem.weight, module.block.conv.weight])])
    assert all(map(torch.equal, *results))
    added, quantizers = [], network.block.residual_additions[0].quantizers
    handles = [q.register_forward_hook(lambda m, given, out: added.append(out)) for q in quantizers]
    block_in = torch.randn(2, 6, 8, 8)
    network.set_bits("w4a8")
    out = network.block(block_in)
    assert torch.equal(out, (added[0] + added[1]).relu()) and torch.equal(added[1], quantizers[1](block_in))
    assert len(added[0].unique()) <= 256
    for handle in handles:
        handle.remove()
    network(x, num_bits="w4a8").square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.block.conv.weight.grad.abs().sum() > 0


def test_an_addition_by_hand():
    network = converted(bits=(3, 32))
    addition = network.block.residual_additions[0]
    x, y = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    network.set_bits(3)
    ends = [(t.amin().view(1), t.amax().view(1)) for t in (x, y)]
    assert all(map(torch.equal, addition(x, y), [fake_quantize(t, *e, 3) for t, e in zip((x, y), ends, strict=True)]))
    z = x.clone()
    assert addition.added(torch.Tensor.add_, z, y) is z and torch.equal(z, sum(addition(x, y)))


def test_an_addition_that_cannot_be_seen_is_named():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)

        def forward(self, x):
            x = self.head(self.conv(x).mean((2, 3)))
            return torch.ops.aten.add.Tensor(x, x.relu())

    with pytest.raises(ValueError, match="Cell: additions inside a function of torch's"):
        converted(model=Cell())
    assert converted(model=Cell(), strict=False).kept_float.keys() == {"Cell"}
    with pytest.raises(ValueError, match="adds no two activations of one shape"):
        converted(model=nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)))


@by_name
def test_converted_networks_are_copied_loaded_and_change_type(name):
    network, x = converted(name), images(2)
    for bits in ("w4a8", 8):
        network(x, num_bits=bits)
    network.eval()
    fresh = converted(name).eval()
    fresh.load_state_dict(network.state_dict())
    twin = copy.deepcopy(network)
    for bits in network.precision.bit_widths:
        expected = network(x, num_bits=bits)
        assert torch.equal(twin(x, num_bits=bits), expected) and torch.equal(fresh(x, num_bits=bits), expected)
    double = copy.deepcopy(network).double()
    assert double(x.double(), num_bits="w4a8").dtype == torch.float64
    assert copy.deepcopy(network).half()(x.half(), num_bits=8).dtype == torch.float16
    with torch.inference_mode():
        assert torch.equal(network(x, num_bits="w4a8"), twin(x, num_bits="w4a8"))
    assert torch.equal(network(x, num_bits=8), twin(x, num_bits=8)), "after inference mode, too"
    network.train()(x, num_bits="w4a8").sum().backward()


@pytest.mark.sample(3)
@by_name
@pytest.mark.parametrize("loaded", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_converted_network_exports(name, loaded):
    """Loaded, or as it is after the conversion, when it has seen no batch."""
    network, x = converted(name), images(2)
    if loaded:
        trained = converted(name)
        trained(x, num_bits="w4a8")
        network.load_state_dict(trained.state_dict())
    network.eval().set_bits("w4a8")
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


# --- files, commands, mapper


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    """(words, folder): a training at w8a4, w4a8, 8 and 32 bit, one cell at its own bit-width."""
    folder = tmp_path_factory.mktemp("mixed")
    save_checkpoint(folder / "arch.pt", {"ops": ["k3_e3", "k5_e1_g2"]})
    words = ["--preset", "digits", *TINY_NETWORK, "--num_bits_list", "w4a8,8,32,w8a4", "--device", "cpu"]
    words += ["--max_steps", 2, "--batch_size", 32, "--load_path", folder / "arch.pt", "--save", folder / "out"]
    words += ["--bits_of", "cells.1.*=w2a3"]
    assert run_here(train, *words, "--nepochs", 1, "--bit_schedule", "sandwich", "--loss_scale", "1,2,3,4") == 0
    return words, folder / "out"


def test_the_commands(mixed_run, capsys):
    words, folder = mixed_run
    order = ["w8a4", "w4a8", 8, 32]
    content = load(folder / "weights.pt")
    assert content["bits"] == order == list(content["accuracy"]) and content["config"]["bits_of"] == ["cells.1.*=w2a3"]
    assert list(json.loads((folder / "result.json").read_text())["accuracy"]) == list(map(str, order))
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"].keys() == set(map(str, order))
    assert run_here(train, *words, "--nepochs", 2, "--bit_schedule", "low2high", "--resume") == 0
    capsys.readouterr()
    assert run_here(train, *words, "--eval_only", "--num_bits_list", "w4a8") == 0
    assert f"w4a8 {load(folder / 'weights.pt')['accuracy']['w4a8']:.2f}" in capsys.readouterr().out
    net = instantnet.load(folder)
    assert net.bits == tuple(order) and net(images(), bits="w4a8").isfinite().all()
    assert net.model.cells[1].project.own_bits == "w2a3"


@pytest.mark.parametrize("change", [["--quantizer", "symmetric"], ["--quantizer", "nested"], ["--bits_of", "cells.*=8"],
                                    ["--num_bits_list", "w4a8,8,32,4"]])  # fmt: skip
def test_a_run_does_not_go_on_with_other_values_of_a_bit_width(mixed_run, capsys, change):
    """minmax, symmetric and nested hold the same tensors: only names tell them apart."""
    words, _ = mixed_run
    assert run_here(train, *words, *change, "--nepochs", 3, "--resume") == 2
    err = capsys.readouterr().err
    assert change[0].removeprefix("--") in err and "the same" in err and err.count("\n") == 1


@pytest.mark.parametrize("bad", ["w4a", "w0a8", "8,w4a33"])
@pytest.mark.parametrize("stage", [train, train_search])
def test_bad_bit_widths_are_one_line(stage, bad, capsys):
    assert run_here(stage, "--num_bits_list", bad) == 2
    err = capsys.readouterr().err
    assert "setting num_bits_list" in err and "as in w4a8" in err and err.count("\n") == 1 and len(err) < 300


def test_bad_bits_of_are_one_line(mixed_run, capsys):
    words, folder = mixed_run
    for bad, part in (("cells.1.*", "pattern=bits"), ("cells=w4a", "pattern=bits"), ("layer4.*=8", "'layer4.*'")):
        assert run_here(train, *words, "--bits_of", bad, "--save", folder / "other") == 2
        err = capsys.readouterr().err
        assert part in err and err.count("\n") == 1 and "bits_of" in err


def test_a_search_hands_them_on(tmp_path, capsys):
    words = ["--preset", "digits", *TINY_NETWORK, "--num_bits_list", "8,w4a8", "--device", "cpu", "--max_steps", 1]
    assert run_here(train_search, *words, "--nepochs", 1, "--batch_size", 32, "--save", tmp_path / "s") == 0
    assert "--num_bits_list 8,w4a8" in capsys.readouterr().out
    content = load(tmp_path / "s" / "arch.pt")
    assert content["bits"] == list(content["accuracy"]) == ["w4a8", 8]


def test_the_mapper_maps_at_exactly_these(mixed_run):
    network = load_network(str(mixed_run[1]), 1)
    assert network.bit_widths == ("w8a4", "w4a8", 8, 32) and network.accuracy.keys() == set(network.bit_widths)
    at = {item.layer.name: problem_of(item, "w4a8").bits for item in network.layers}
    assert at["cells.0.project"] == "w4a8" and at["cells.1.project"] == "w2a3" and at["classifier"] == 32
    model = converted(bits_of={"block.conv": 2})
    layers = load_module(model, torch.zeros(1, 3, 8, 8)).layers
    assert {item.layer.name: item.own_bits for item in layers}["block.conv"] == 2


def test_which_bit_widths_the_mapper_may_be_asked_for():
    """Those of the list; and of plain numbers any two, as ever."""
    mixed, plain = (Network("net", (), tuple(bits)) for bits in (["w4a8", 8], [4, 8]))
    assert chosen_bits([], mixed) == ("w4a8", 8) and chosen_bits(["w4a8"], mixed) == ("w4a8",)
    assert chosen_bits(["w8a4", 8, "w4a8"], plain) == ("w8a4", "w4a8", 8)
    for bits in (4, "w4a4", "w8a4"):
        with pytest.raises(UserError, match="has no bit-width 4, only"):
            chosen_bits([bits], mixed)
