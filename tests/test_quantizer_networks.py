"""Every quantizer in every network: a step, evaluation, recalibration, copies, types, export, kernels, the commands."""

import copy
import json

import pytest
import torch
from test_networks import settings as network_settings
from tiny_runs import TINY_GEOMETRY, TINY_NETWORK, load, run_here

from config_train import C
from instantnet import inference, train, train_search
from instantnet.engine import synchronised
from instantnet.engine.average import averaged_model
from instantnet.engine.checkpoint import load_weights, save_checkpoint
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.networks.build import build_network
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableConv2d, SwitchableLinear, recalibrate
from instantnet.quantizers import QUANTIZERS, Quantizer, learned_by_quantizers
from instantnet.training import make_optimizer, set_learning_rate

BITS = (2, 4, 32)
OPS = ["k3_e3", "k5_e1_g2", "skip", "k3_e1"]
LEARNING = ["lsq", "dorefa_scl"]
SAMPLE = ("symmetric", "lsq", "dorefa_scl")  # integers on a chip; learned steps; learned clipping levels
NEW = [name for name in QUANTIZERS if name != "minmax"]
by_name = pytest.mark.parametrize("name", QUANTIZERS)
new = pytest.mark.parametrize("name", NEW)


def small(**changes):
    return network_settings(8, width_mult=0.25, num_classes=5, **changes)


NETWORKS = {
    "derived": lambda precision: DerivedNetwork(OPS, TINY_GEOMETRY, precision),
    "ends": lambda precision: DerivedNetwork(
        ["k3_e1"], Geometry((1,), (4,), (2,), 4, 1, 8, 5, 8, 8, quantize_ends=True), precision
    ),
    "resnet38": lambda precision: build_network({"network": "resnet38"}, small(), precision),
    "mobilenet_v2": lambda precision: build_network({"network": "mobilenet_v2"}, small(), precision),
    "supernet": lambda precision: Supernet(Geometry((1,), (4,), (2,), 4, 1, 8, 5, 8, 8, False), precision),
}


def derived(name, bits=BITS):
    return NETWORKS["derived"](Precision(bits, quantizer=name))


def images(batch=4):
    return torch.randn(batch, 3, 8, 8)


def trained(name, bits=BITS):
    model = derived(name, bits)
    for width in bits:
        model(images(), num_bits=width)
    return model


def step(model, x, widths=BITS):
    """A step of SGD on the sum of the losses; returns the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for bits in widths:
        loss = torch.nn.functional.cross_entropy(model(x, num_bits=bits), torch.arange(len(x)) % 5)
        loss.backward()
        losses.append(float(loss.detach()))
    optimizer.step()
    return losses


@pytest.mark.sample(14)
@by_name
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_an_evaluation_and_a_recalibration(name, network):
    model, x = NETWORKS[network](Precision(BITS, quantizer=name)), images(8)
    learned = {id(p): p.detach().clone() for p in learned_by_quantizers(model)}
    assert bool(learned) == (name in LEARNING)
    first = step(model, x)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for module in model.modules():
        for p in module.learned() if isinstance(module, Quantizer) else []:
            assert p.grad is not None and p.grad.abs().sum(1).count_nonzero() > 0, "what is learned has a gradient"
    assert torch.isfinite(torch.tensor(first + step(model, x))).all()
    model.eval()
    with torch.no_grad():
        before = {bits: model(x, num_bits=bits) for bits in BITS}
        recalibrate(model, 4, [(3 * images(8), None) for _ in range(2)])
        assert not model.training
        after = {bits: model(x, num_bits=bits) for bits in BITS}
    assert torch.equal(before[2], after[2]) and torch.equal(before[32], after[32])
    assert not torch.equal(before[4], after[4])


@by_name
def test_32_bit_is_float_bit_for_bit(name):
    """The layers are torch's own, and the network is the one of any other quantizer."""
    precision = Precision(BITS, quantizer=name)
    conv = SwitchableConv2d(4, 4, 3, groups=4, padding=1, precision=precision)
    linear = SwitchableLinear(4, 3, precision=precision)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(conv(x), torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1, groups=4))
    x = x[..., 0, 0]
    assert torch.equal(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias))
    reference, model = derived("minmax"), derived(name)
    model.load_state_dict(
        {**model.state_dict(), **{n: t for n, t in reference.state_dict().items() if "quant" not in n}}
    )
    x = images()
    assert torch.equal(model(x, num_bits=32), reference(x, num_bits=32))


@by_name
def test_frozen_statistics_record_nothing_before_or_after_the_first_batch(name):
    for model in (derived(name), trained(name)):
        before = copy.deepcopy(model.state_dict())
        with model.precision.frozen_statistics():
            for bits in BITS:
                assert model(images(), num_bits=bits).isfinite().all()
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@by_name
def test_evaluation_records_nothing_before_or_after_the_first_batch(name):
    for model in (derived(name).eval(), trained(name).eval()):
        before = copy.deepcopy(model.state_dict())
        for bits in BITS:
            assert model(images(), num_bits=bits).isfinite().all()
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@by_name
def test_what_is_learned_survives_a_recalibration(name):
    model = trained(name)
    step(model, images())
    kept = {n: t.clone() for n, t in model.state_dict().items() if n.endswith((".step", ".level", ".signed"))}
    for bits in BITS:
        recalibrate(model, bits, [(5 * images(), None)])
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in kept.items())
    assert bool(kept) == (name in (*LEARNING, "dorefa"))


@by_name
def test_copies_states_and_types(name):
    model, x = trained(name).eval(), images()
    fresh = derived(name).eval()
    fresh.load_state_dict(model.state_dict())
    load_weights(other := derived(name).eval(), model.state_dict(), "weights.pt")
    twin = copy.deepcopy(model)
    for bits in BITS:
        expected = model(x, num_bits=bits)
        for same in (fresh, other, twin):
            assert torch.equal(same(x, num_bits=bits), expected)
    step(twin.train(), x)
    assert torch.equal(model(x, num_bits=4), fresh(x, num_bits=4)), "a copy trains alone"
    double = copy.deepcopy(model).double()
    assert double(x.double(), num_bits=32).dtype == torch.float64
    torch.testing.assert_close(double(x.double(), num_bits=32).float(), model(x, num_bits=32), rtol=1e-4, atol=1e-5)
    assert double(x.double(), num_bits=4).isfinite().all()
    assert model.half()(x.half(), num_bits=4).dtype == torch.float16
    with torch.inference_mode():
        assert torch.equal(fresh(x, num_bits=4), other(x, num_bits=4))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("minmax", "dorefa_scl") else pytest.mark.full) for n in QUANTIZERS]
)
def test_a_loaded_network_exports(name):
    """No branch of its passes depends on a buffer."""
    model = derived(name).eval()
    model.load_state_dict(trained(name).state_dict())
    model.set_bits(4)
    x = images(2)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))


@by_name
def test_switching_is_two_attribute_writes(name):
    model = trained(name)
    written = []

    class Watched(Precision):
        def __setattr__(self, attribute, value):
            written.append(attribute)
            super().__setattr__(attribute, value)

    model.precision.__class__ = Watched
    states = [m.precision for m in model.modules() if hasattr(m, "precision")]
    assert all(getattr(state, "network", state) is model.precision for state in states)
    model.set_bits(4)
    assert sorted(written) == ["bits", "index"]


@by_name
def test_a_moving_average_follows(name):
    model = trained(name)
    average = averaged_model(model, 0.9)
    for _ in range(3):
        step(model, images())
        average.update_parameters(model)
    assert average.module.eval()(images(), num_bits=4).isfinite().all()


@pytest.mark.sample(8)
@new
@pytest.mark.parametrize("bits", BITS)
def test_kernels_leave_other_quantizers_alone(name, bits):
    """In training with gradients: kernels of blocks assume min-max, so a block runs by its modules below 32 bit."""
    plain = derived(name).to(memory_format=torch.channels_last)
    fast = with_kernels(copy.deepcopy(plain))
    x = images().to(memory_format=torch.channels_last)
    for _ in range(2):
        results = []
        for model in (plain, fast):
            model.zero_grad()
            logits = model(x, num_bits=bits)
            logits.square().sum().backward()
            results.append((logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        (expected, expected_gradients), (got, gradients) = results
        tolerance = {"rtol": 1e-3, "atol": 1e-4} if bits == 32 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(got, expected, **tolerance)
        assert gradients.keys() == expected_gradients.keys()
        for key, gradient in gradients.items():
            scale = 1 + float(expected_gradients[key].abs().max())
            torch.testing.assert_close(gradient / scale, expected_gradients[key] / scale, **tolerance)
    if bits != 32:
        assert all(torch.equal(t, fast.state_dict()[n]) for n, t in plain.state_dict().items())


@by_name
def test_under_autocast_values_keep_their_bits(name):
    """bfloat16 has 8 significant bits, 12 bit has 4096 values."""
    precision = Precision([12], quantizer=name)
    quantizer = QUANTIZERS[name].inputs(precision)
    x = torch.rand(1, 1, 100, 100)
    quantizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer(x.bfloat16()).dtype == torch.float32
        assert model_runs_under_autocast(name)


def model_runs_under_autocast(name):
    model = trained(name)
    logits = model(images(), num_bits=4)
    logits.float().sum().backward()
    return bool(logits.isfinite().all())


def test_steps_begin_with_what_all_processes_agree_on():
    """`agree` is asked on the first training batch alone, and its answer is the step."""
    asked = []
    quantizer = QUANTIZERS["lsq"].inputs(Precision([4], quantizer="lsq"))
    quantizer.agree = lambda measured: asked.append(measured.clone()) or measured + 1
    x = torch.rand(2, 3)
    quantizer.eval()(x)
    assert not asked
    quantizer.train()(x)
    quantizer(x)
    sign, step = asked
    assert not sign and torch.equal(quantizer.step.detach()[0], step + 1)


def test_all_processes_get_it_without_sync_bn(monkeypatch):
    class Two:
        alone = False

    model = derived("lsq")
    assert synchronised.synchronised(model, Two(), wanted=False) is model
    asked = [m for m in model.modules() if hasattr(m, "agree")]
    assert asked and all(m.agree is synchronised.mean_of_all for m in asked)
    monkeypatch.setattr(synchronised.dist, "all_reduce", lambda tensor: tensor.mul_(3))
    monkeypatch.setattr(synchronised.dist, "get_world_size", lambda: 2)
    measured = torch.tensor([2.0, 4.0])
    assert synchronised.mean_of_all(measured).tolist() == [3.0, 6.0] and measured.tolist() == [2.0, 4.0]
    copy.deepcopy(model)


# --- the optimizer


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_what_is_learned_has_no_weight_decay(opt):
    model = derived("lsq")
    learned = learned_by_quantizers(model)
    optimizer = make_optimizer(list(model.parameters()), C.replaced(opt=opt), learned)
    weights, steps = optimizer.param_groups
    assert (weights["weight_decay"], steps["weight_decay"]) == (C.weight_decay, 0.0)
    assert {id(p) for p in steps["params"]} == {id(p) for p in learned}
    assert len(weights["params"]) + len(steps["params"]) == len(list(model.parameters()))
    set_learning_rate(optimizer, 0.123)
    assert [group["lr"] for group in optimizer.param_groups] == [0.123, 0.123]
    before = [p.detach().clone() for p in learned]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, kept) for p, kept in zip(learned, before, strict=True))


def test_without_learned_parameters_there_is_one_group_as_in_older_checkpoints():
    model = derived("symmetric")
    assert len(make_optimizer(list(model.parameters()), C, learned_by_quantizers(model)).param_groups) == 1


# --- the commands


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SAMPLE else pytest.mark.full) for n in NEW])
def test_the_commands(name, tmp_path, capsys):
    """Training with its recalibration, resuming, the accuracy of the file again, and the file as a network."""
    words = ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--quantizer", name, "--max_steps", 2]
    save_checkpoint(tmp_path / "arch.pt", {"ops": ["k3_e3", "k5_e1_g2"]})
    words += ["--batch_size", 32, "--load_path", tmp_path / "arch.pt", "--save", tmp_path / "out"]
    assert run_here(train, *words, "--nepochs", 1) == 0, capsys.readouterr().err
    content = load(tmp_path / "out" / "weights.pt")
    assert content["quantizer"] == content["config"]["quantizer"] == name
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["quantizer"] == name
    assert run_here(train, *words, "--nepochs", 2, "--resume") == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run_here(train, *words, "--eval_only") == 0
    out = capsys.readouterr().out
    stated = load(tmp_path / "out" / "weights.pt")["accuracy"]
    net = inference.load(tmp_path / "out")
    assert type(net.model.cells[0].project.weight_quantizer) is QUANTIZERS[name].weights
    for bits in (4, 8, 32):
        assert net(images(), bits=bits).isfinite().all()
        assert f"{bits}b {stated[bits]:.2f}" in out


@pytest.mark.parametrize("name", ["lsq", "symmetric"])
def test_a_search(name, tmp_path, capsys):
    words = ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--quantizer", name, "--max_steps", 1]
    assert run_here(train_search, *words, "--nepochs", 1, "--batch_size", 32, "--save", tmp_path / "search") == 0
    out = capsys.readouterr().out
    assert f"--quantizer {name}" in out
    assert load(tmp_path / "search" / "arch.pt")["quantizer"] == name


def test_a_file_whose_quantizer_is_not_that_of_its_settings(tmp_path, capsys):
    save_checkpoint(tmp_path / "arch.pt", {"ops": ["k3_e3", "k5_e1_g2"], "quantizer": "gptq"})
    words = ["--preset", "smoke", *TINY_NETWORK, "--device", "cpu", "--load_path", tmp_path, "--save", tmp_path / "o"]
    assert run_here(train, *words) == 2
    assert "its quantizer is 'gptq'; this version has minmax, symmetric" in capsys.readouterr().err
    assert run_here(train, *words, "--quantizer", "lsq", "--num_bits_list", "1,4") == 2
    assert "quantizer = lsq, num_bits_list = [1, 4]: this quantizer begins at 2 bit" in capsys.readouterr().err
    with pytest.raises(ValueError, match="bit-width 1: quantizer 'symmetric' begins at 2 bit"):
        Precision([1, 4], quantizer="symmetric")
