"""Networks with kernels against the plain path: results, state, copies, and what is left to the plain path."""

import copy
import importlib
import pickle
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

from instantnet.kernels import library, with_kernels
from instantnet.kernels.block import KernelConvBlock
from instantnet.model_infer import DerivedNetwork, profile
from instantnet.model_search import Supernet
from instantnet.networks.build import build_network
from instantnet.operations import Geometry
from instantnet.quantize import Precision, recalibrate

BITS = (4, 8, 16, 32)
SMALL = Geometry((1, 2, 1), (16, 24, 24), (1, 2, 1), 16, 1, 32, 5, 8, 8, False)


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    model = Supernet(SMALL, Precision(BITS)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.alpha.copy_(torch.randn_like(model.alpha))
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def derived(seed: int = 0) -> DerivedNetwork:
    torch.manual_seed(seed)
    ops = ["k3_e1_g2", "k5_e3", "k5_e1_g2", "k3_e6"]
    return DerivedNetwork(ops, SMALL, Precision(BITS)).to(memory_format=torch.channels_last)


def gradients(model, images, bits):
    """(output, all gradients in one vector)."""
    model.zero_grad()
    output = model(images, num_bits=bits)
    output.square().mean().backward()
    return output.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "make, bits", [(supernet, 16), pytest.param(supernet, 32, marks=pytest.mark.full), (derived, 16), (derived, 32)]
)
def test_network_is_no_farther_from_float64_than_the_plain_path(make, bits):
    """Where rounding to a code amplifies float32's own error little: outputs, gradients, statistics, ranges."""
    errors = {"plain": [0.0, 0.0], "kernels": [0.0, 0.0]}
    for seed in range(3):
        plain = make(seed)
        fast, exact = with_kernels(copy.deepcopy(plain)), copy.deepcopy(plain).double()
        images = channels_last(8, 3, 8, 8)
        output, gradient = gradients(exact, images.double(), bits)
        for name, model in (("plain", plain), ("kernels", fast)):
            y, g = gradients(model, images, bits)
            errors[name][0] += ((y - output).norm() / output.norm()).item()
            errors[name][1] += ((g - gradient).norm() / gradient.norm()).item()
        for (name, a), b in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
            bound = 1e-2 if bits == 16 else 1e-4
            assert torch.allclose(b.double(), a.double(), rtol=bound, atol=1e-2 * bound), name
    assert errors["kernels"][0] <= 3 * errors["plain"][0] + 1e-6
    assert errors["kernels"][1] <= 3 * errors["plain"][1] + 1e-6


def test_they_record_what_the_plain_path_does():
    """At 4 bit single codes differ; the statistics and ranges that were recorded are the same buffers all the same."""
    plain = supernet()
    fast = with_kernels(copy.deepcopy(plain))
    images = channels_last(8, 3, 8, 8)
    before = {name: t.clone() for name, t in fast.state_dict().items()}
    with fast.precision.frozen_statistics():
        fast(images, num_bits=4)
    assert all(torch.equal(before[name], t) for name, t in fast.state_dict().items())
    changed = []
    for model in (fast, plain):
        model(images, num_bits=4)
        changed.append({name for name, t in model.state_dict().items() if not torch.equal(t, before[name])})
    assert changed[0] == changed[1]
    assert any("input_quantizer" in name for name in changed[0])


def test_frozen_weights_get_no_gradient():
    model = with_kernels(supernet())
    cell, x, weights = model.cells[2], channels_last(4, 24, 4, 4), torch.rand(9, requires_grad=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    cell(x, weights, [0, 1]).square().mean().backward()
    assert weights.grad[[0, 1]].all() and not weights.grad[2:].any()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("make", [supernet, derived])
def test_what_they_cannot_serve_is_the_plain_path_bit_for_bit(make):
    plain = make()
    fast = with_kernels(copy.deepcopy(plain))
    images = torch.randn(8, 3, 8, 8)
    batches = [(images.to(memory_format=torch.channels_last), None)] * 2
    for model in (plain, fast):
        recalibrate(model, 8, batches)  # cumulative means
    for a, b in zip(plain.state_dict().values(), fast.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.eval()(images, num_bits=8), fast.eval()(images, num_bits=8))
    plain, fast = plain.train().double(), fast.train().double()
    assert torch.equal(plain(images.double(), num_bits=8), fast(images.double(), num_bits=8))
    nchw = [model.float().to(memory_format=torch.contiguous_format) for model in (plain, fast)]
    assert torch.equal(*(model(images, num_bits=8) for model in nchw))
    for model in (plain, fast):
        model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(*(model(batches[0][0], num_bits=8) for model in (plain, fast)))


def test_names_copies_and_files_are_those_of_the_network():
    plain, images = derived(), channels_last(4, 3, 8, 8)
    fast = with_kernels(copy.deepcopy(plain))
    assert with_kernels(fast) is fast, "twice is once"
    assert list(plain.state_dict()) == list(fast.state_dict())
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in fast.named_modules()]
    expected = fast(images, num_bits=4)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert sum(isinstance(m, KernelConvBlock) for m in other.modules()) == 4
        assert torch.equal(other(images, num_bits=4), expected)
    plain.load_state_dict(fast.state_dict())
    assert torch.equal(plain.eval()(images, num_bits=4), fast.eval()(images, num_bits=4))


def test_flops_and_parameters_are_counted_as_without():
    plain = derived()
    assert profile(with_kernels(copy.deepcopy(plain))) == profile(plain)


def test_choices():
    model = with_kernels(derived(), layers=False)
    assert not any(isinstance(m, KernelConvBlock) for m in model.modules())
    plain, images = derived(), channels_last(4, 3, 8, 8)
    assert torch.equal(model(images, num_bits=4), plain(images, num_bits=4)), "the quantizer's are bit-equal"
    blocks = with_kernels(derived(), quantizers=False)
    both = with_kernels(derived())
    assert torch.equal(blocks(images, num_bits=4), both(images, num_bits=4))
    assert isinstance(blocks.cells[0], KernelConvBlock)
    untouched = with_kernels(derived(), quantizers=False, layers=False)
    assert all(type(a) is type(b) for a, b in zip(untouched.modules(), plain.modules(), strict=True))


def test_other_networks_get_the_quantizers():
    settings = {"width_mult": 0.25, "num_classes": 4, "image_height": 8, "image_width": 8, "quantize_ends": True}
    plain = build_network({"network": "mobilenet_v2"}, settings, Precision(BITS)).to(memory_format=torch.channels_last)
    fast = with_kernels(copy.deepcopy(plain))
    images = channels_last(4, 3, 8, 8)
    assert torch.equal(plain(images, num_bits=4), fast(images, num_bits=4))


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"], ids=["none", "not there", "broken"])
def test_without_a_compiler_the_network_stays_as_it_is(compiler, monkeypatch, tmp_path):
    """Said once, with what to do."""
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(library, "COMPILERS", ())
    monkeypatch.setenv("CXX", compiler)
    library.shared_library.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="without kernels"):
            model = with_kernels(derived())
        assert not any(isinstance(m, KernelConvBlock) for m in model.modules())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with_kernels(model)
    finally:
        library.shared_library.cache_clear()


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    """Two names of the options are two files; a file that is there is taken as it is."""
    ran = []

    def run(command, **_):
        ran.append(command)
        (output,) = [word for word in command if word.endswith(".so")]
        open(output, "w").close()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(subprocess, "run", run)
    first = library.library_file(["c++", "-O2"])
    assert library.library_file(["c++", "-O2"]) == first != library.library_file(["c++", "-O3"])
    assert len(ran) == 2
    assert sorted(tmp_path.joinpath("cache").iterdir()) == sorted({first, library.library_file(["c++", "-O3"])})


@pytest.mark.parametrize("name", ["quantize", "operations", "model_search", "model_infer", "networks"])
def test_the_readable_path_imports_no_kernel(name):
    """Nor process groups: a module of the networks names none of their packages."""
    source = Path(importlib.import_module(f"instantnet.{name}").__file__).read_text()
    assert not any(word in source for word in ("kernels", "engine", "torch.distributed", "ctypes"))
