"""Compiled layers against the plain path: each operation, whole networks, and what is left to the plain path."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from instantnet.kernels import norm as fused_norm
from instantnet.kernels import quantize as fused_quantize
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import MixedOp, Supernet
from instantnet.operations import ConvBlock, ConvNorm, Geometry
from instantnet.quantize import BatchNorm2d, Precision, recalibrate

BITS = (4, 8, 16, 32)
SMALL = Geometry((1, 2, 1), (16, 24, 24), (1, 2, 1), 16, 1, 32, 5, 8, 8, False)
SHAPES = [(4, 3, 5, 5), (8, 16, 8, 8), (2, 24, 6, 6), (3, 70, 4, 4), (16, 40, 1, 1), (1, 1, 9, 9)]


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def random_norm(channels: int) -> BatchNorm2d:
    norm = BatchNorm2d(channels, Precision([4, 32]))
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels))  # negative ones turn the range around
        norm.bias.copy_(torch.randn(channels))
    return norm


def close(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-5) -> bool:
    """Equal within `bound` of the largest value."""
    return (a - b).abs().max().item() <= bound * max(b.abs().max().item(), 1e-30)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norm_relu_is_that_of_torch(shape, offset):
    """Values, all gradients and running statistics; a mean of 100 deviations costs no digits."""
    norm = random_norm(shape[1])
    plain = copy.deepcopy(norm).double()
    x = (channels_last(*shape) + offset).requires_grad_()
    double = x.detach().double().requires_grad_()
    assert fused_norm.usable(x, norm)
    y = fused_norm.norm_relu(x, norm, 0.1)
    expected = F.relu(plain(double))
    assert close(y, expected.float())
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradient = channels_last(*shape)
    # A ReLU's mask may differ where its input is zero but for rounding; there the gradient is left out.
    gradient[(expected.detach().abs() < 1e-4) & (expected.detach() > 0)] = 0
    gradient[(y.detach() > 0) != (expected.detach() > 0)] = 0
    y.backward(gradient)
    expected.backward(gradient.double())
    assert close(x.grad, double.grad.float(), 2e-4 if offset else 1e-5)
    assert close(norm.weight.grad, plain.weight.grad.float(), 2e-4 if offset else 1e-5)
    assert close(norm.bias.grad, plain.bias.grad.float())
    assert close(norm.running_mean, plain.running_mean.float())
    assert close(norm.running_var, plain.running_var.float())
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_swallowed(value):
    """A ReLU written carelessly makes zeros of it, and a diverged training goes on unnoticed."""
    x = channels_last(4, 16, 4, 4)
    x[1, 2, 3, 0] = value
    x.requires_grad_()
    norm = random_norm(16)
    y = fused_norm.norm_relu(x, norm, 0.1)
    assert y[:, 2].isnan().all()
    y.sum().backward()
    assert x.grad[:, 2].isnan().all()
    assert not norm.running_mean[2].isfinite()
    assert y[:, 3].isfinite().all()
    assert fused_norm.weighted_norms([x], [norm], torch.ones(1), 0.0)[:, 2].isnan().all()


@pytest.mark.parametrize("with_shortcut", [False, True])
def test_weighted_norms(with_shortcut):
    norms = [random_norm(12) for _ in range(3)]
    plain = [copy.deepcopy(norm).double() for norm in norms]
    xs = [channels_last(4, 12, 6, 6).requires_grad_() for _ in norms]
    weights, shortcut = torch.rand(3, requires_grad=True), channels_last(4, 12, 6, 6).requires_grad_()
    doubles = [t.detach().double().requires_grad_() for t in (*xs, weights, shortcut)]
    ends = (shortcut, weights.sum()) if with_shortcut else ()
    y = fused_norm.weighted_norms(xs, norms, weights, 0.1, *ends)
    expected = sum(w * norm(x) for w, norm, x in zip(doubles[3], plain, doubles, strict=False))
    if with_shortcut:
        expected = expected + doubles[4] * doubles[3].sum()
    assert close(y, expected.float())
    gradient = channels_last(4, 12, 6, 6)
    y.backward(gradient)
    expected.backward(gradient.double())
    for ours, theirs in zip((*xs, weights, *([shortcut] if with_shortcut else [])), doubles, strict=False):
        assert close(ours.grad, theirs.grad.float())
    for ours, theirs in zip(norms, plain, strict=True):
        assert close(ours.weight.grad, theirs.weight.grad.float())
        assert close(ours.bias.grad, theirs.bias.grad.float())
        assert close(ours.running_var, theirs.running_var.float())


def test_norms_on_several_threads(monkeypatch):
    norm, x, gradient = random_norm(24), channels_last(5, 24, 6, 6).requires_grad_(), channels_last(5, 24, 6, 6)
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(fused_norm, "blocks_of", lambda _, threads=threads: threads)
        y = fused_norm.norm_relu(x, norm, 0.0)
        z = fused_norm.weighted_norms([y], [norm], torch.ones(1), 0.0)
        results.append([y, z, *torch.autograd.grad(z, [x, norm.weight], gradient)])
    for several in results[1:]:
        assert all(close(a, b) for a, b in zip(several, results[0], strict=True))


def test_one_thread_starts_no_others(monkeypatch):
    """`num_threads` = 1 means one: torch's setting decides, not numba's."""
    assert torch.get_num_threads() == 1
    for name in ("norm_kernels", "block_kernels", "quantize_kernels"):
        monkeypatch.setattr(fused_quantize.load_kernels(f"instantnet.kernels.{name}"), "parallel", None)
    model = compiled_supernet()
    model(channels_last(16, 3, 32, 32), num_bits=4).square().mean().backward()


def compiled_supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    model = Supernet(SMALL, Precision(BITS, fused=True, compiled=True)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.alpha.copy_(torch.randn_like(model.alpha))
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def compiled_derived(seed: int = 0) -> DerivedNetwork:
    torch.manual_seed(seed)
    ops = ["k3_e1_g2", "k5_e3", "k5_e1_g2", "k3_e6"]
    return DerivedNetwork(ops, SMALL, Precision(BITS, fused=True, compiled=True)).to(memory_format=torch.channels_last)


def gradients(model, images, bits):
    """(output, all gradients in one vector)."""
    model.zero_grad()
    output = model(images, num_bits=bits)
    output.square().mean().backward()
    return output.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("make", [compiled_supernet, compiled_derived])
@pytest.mark.parametrize("bits", [16, 32])
def test_network_is_no_farther_from_float64_than_the_plain_path(make, bits):
    """Where rounding to a code amplifies float32's own error little: outputs, gradients, statistics, ranges."""
    errors = {"plain": [0.0, 0.0], "compiled": [0.0, 0.0]}
    for seed in range(3):
        compiled = make(seed)
        plain, exact = copy.deepcopy(compiled), copy.deepcopy(compiled).double()
        plain.precision.compiled = False
        images = channels_last(8, 3, 8, 8)
        output, gradient = gradients(exact, images.double(), bits)
        for name, model in (("plain", plain), ("compiled", compiled)):
            y, g = gradients(model, images, bits)
            errors[name][0] += ((y - output).norm() / output.norm()).item()
            errors[name][1] += ((g - gradient).norm() / gradient.norm()).item()
        for (name, a), b in zip(plain.state_dict().items(), compiled.state_dict().values(), strict=True):
            bound = 1e-2 if bits == 16 else 1e-4
            assert torch.allclose(b.double(), a.double(), rtol=bound, atol=1e-2 * bound), name
    assert errors["compiled"][0] <= 3 * errors["plain"][0] + 1e-6
    assert errors["compiled"][1] <= 3 * errors["plain"][1] + 1e-6


def test_compiled_path_runs_and_records_what_the_plain_one_does():
    """At 4 bit single codes differ; the statistics and ranges that were recorded are the same buffers all the same."""
    compiled = compiled_supernet()
    plain = copy.deepcopy(compiled)
    plain.precision.compiled = False
    images = channels_last(8, 3, 8, 8)
    before = {name: t.clone() for name, t in compiled.state_dict().items()}
    with compiled.precision.frozen_statistics():
        compiled(images, num_bits=4)
    assert all(torch.equal(before[name], t) for name, t in compiled.state_dict().items())
    compiled(images, num_bits=4)
    plain(images, num_bits=4)
    changed = [
        {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
        for model in (compiled, plain)
    ]
    assert changed[0] == changed[1]
    assert any("input_range" in name for name in changed[0])


def test_frozen_weights_get_no_gradient():
    """Of two candidates alone, too."""
    model = compiled_supernet()
    cell, x, weights = model.cells[2], channels_last(4, 24, 4, 4), torch.rand(9, requires_grad=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    cell(x, weights, [0, 1]).square().mean().backward()
    assert weights.grad[[0, 1]].all() and not weights.grad[2:].any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_candidate_that_cannot_run_so_is_mixed_in_all_the_same():
    """A kernel of 7, and 24 bits."""
    torch.manual_seed(0)
    precision = Precision([24, 32], fused=True, compiled=True)
    cell = MixedOp(16, 16, 1, precision).to(memory_format=torch.channels_last)
    x, weights = channels_last(4, 16, 8, 8), torch.rand(9)
    precision.set(24)
    expected = sum(w * op(x) for w, op in zip(weights, cell.candidates, strict=True))
    assert torch.equal(cell(x, weights), expected)
    precision.set(32)
    cell.candidates[3] = ConvBlock(16, 16, 1, precision, kernel_size=7, expansion=2).to(
        memory_format=torch.channels_last
    )
    precision.compiled = False
    expected = sum(w * op(x) for w, op in zip(weights, cell.candidates, strict=True))
    precision.compiled = True
    assert close(cell(x, weights), expected)


@pytest.mark.parametrize("make", [compiled_supernet, compiled_derived])
def test_what_it_cannot_serve_is_the_plain_path_bit_for_bit(make):
    compiled = make()
    plain = copy.deepcopy(compiled)
    plain.precision.compiled = False
    images = torch.randn(8, 3, 8, 8)
    batches = [(images.to(memory_format=torch.channels_last), None)] * 2
    for model in (plain, compiled):
        recalibrate(model, 8, batches)  # cumulative means
    for a, b in zip(plain.state_dict().values(), compiled.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-2, atol=1e-3)  # codes may differ by one
    compiled.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(images, num_bits=8), compiled.eval()(images, num_bits=8))
    plain, compiled = plain.train().double(), compiled.train().double()
    assert torch.equal(plain(images.double(), num_bits=8), compiled(images.double(), num_bits=8))
    nchw = [model.float().to(memory_format=torch.contiguous_format) for model in (plain, compiled)]
    assert torch.equal(*(model(images, num_bits=8) for model in nchw))


def test_activations_other_than_relu_are_left_alone():
    """The ends of a MobileNetV2 have ReLU6."""
    end = ConvNorm(3, 16, 3, 1, Precision([32], compiled=True), False, nn.ReLU6).to(memory_format=torch.channels_last)
    with torch.no_grad():
        end.norm.bias.fill_(5.0)
    assert end(channels_last(4, 3, 8, 8)).max() == 6
