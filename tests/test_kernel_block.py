"""A block as one operation against its modules one by one: values, gradients, statistics and ranges."""

import copy
import itertools

import pytest
import torch
from torch import nn

from instantnet.kernels import block as kernel_block
from instantnet.kernels import with_kernels
from instantnet.operations import ConvBlock
from instantnet.quantize import Precision
from instantnet.quantizers.minmax import fake_quantize

BITS = [2, 4, 8, 16, 32]

BLOCKS = {
    "plain": {"kernel_size": 3, "expansion": 3},
    "wide kernel": {"kernel_size": 5, "expansion": 3},
    "groups": {"kernel_size": 3, "expansion": 1, "groups": 2},
    "strided": {"kernel_size": 3, "expansion": 3, "stride": 2},
    "strided, wide kernel, groups": {"kernel_size": 5, "expansion": 2, "stride": 2, "groups": 2},
    "channels that fill no vector": {"kernel_size": 5, "expansion": 1, "c_in": 5, "c_out": 7},
    "groups of three": {"kernel_size": 3, "expansion": 2, "groups": 3, "c_in": 6, "c_out": 9},
    "several groups of channels": {"kernel_size": 3, "expansion": 6, "c_in": 18, "c_out": 17},
    "several strips": {"kernel_size": 5, "expansion": 6, "size": (33, 40), "batch": 2},
    "several strips, strided": {"kernel_size": 3, "expansion": 6, "size": (45, 41), "batch": 2, "stride": 2},
    "several strips of groups of channels": {
        "kernel_size": 5,
        "expansion": 7,
        "c_in": 20,
        "size": (37, 37),
        "batch": 1,
    },
    "narrower than the kernel": {"kernel_size": 5, "expansion": 2, "size": (1, 2)},
    "one image": {"kernel_size": 3, "expansion": 2, "batch": 1},
}


def block_and_input(
    name: str, bits: int, seed: int = 0, batch: int = 3, size: tuple[int, int] = (9, 7), c_in: int = 16, c_out: int = 24
) -> tuple[ConvBlock, torch.Tensor]:
    """A block with norms that are not those of initialization (negative factors turn a range around), and its input."""
    options = {"stride": 1} | BLOCKS[name]
    batch, size = options.pop("batch", batch), options.pop("size", size)
    c_in, c_out = options.pop("c_in", c_in), options.pop("c_out", c_out)
    torch.manual_seed(seed)
    precision = Precision(BITS)
    block = ConvBlock(c_in, c_out, precision=precision, **options).to(memory_format=torch.channels_last)
    with_kernels(block)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    precision.set(bits)
    return block, torch.randn(batch, c_in, *size).to(memory_format=torch.channels_last)


def modules(block: ConvBlock, x: torch.Tensor) -> torch.Tensor:
    """What `kernel_block.projected` stands for, module by module."""
    y = block.shuffle(torch.relu(block.expand_norm(block.expand(x))))
    return block.project(torch.relu(block.depthwise_norm(block.depthwise(y))))


def distance_of_relus(block: ConvBlock, x: torch.Tensor) -> float:
    """How near the inputs of the ReLUs come to 0, in float64."""
    block, seen = copy.deepcopy(block).double(), []
    for norm in (block.expand_norm, block.depthwise_norm):
        norm.register_forward_hook(lambda *args: seen.append(args[-1].abs().min().item()))
    with torch.no_grad():
        modules(block, x.double())
    return min(seen)


def fused(block: ConvBlock, x: torch.Tensor) -> torch.Tensor:
    assert kernel_block.serves(block, x)
    return kernel_block.projected(block, block.expand.input_quantizer(x))


def gradients(run, block: ConvBlock, x: torch.Tensor, gradient: torch.Tensor | None = None):
    """(output, {name: gradient})."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(block, x)
    y.backward(torch.ones_like(y) if gradient is None else gradient.to(y.dtype))
    named = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    return y.detach(), named | {"x": x.grad}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("name", BLOCKS)
def test_float_block_is_that_of_float64(name):
    """The gradient of a ReLU whose input is zero but for rounding is left to chance: a few in a thousand may differ."""
    block, x = block_and_input(name, 32)
    exact = copy.deepcopy(block).double()
    with torch.no_grad():
        gradient = torch.randn_like(modules(copy.deepcopy(exact), x.double()))
    y, ours = gradients(fused, block, x, gradient)
    expected, theirs = gradients(modules, exact, x.double(), gradient)
    assert y.shape == expected.shape and y.is_contiguous(memory_format=torch.channels_last)
    assert distance(y, expected) < 1e-6
    assert ours.keys() == theirs.keys()
    # A depth-wise bias of gradients summed to nothing by the norm behind has no digits of its own.
    largest = max(g.abs().max().item() for g in theirs.values())
    for key, gradient in ours.items():
        assert gradient.shape == theirs[key].shape
        assert (gradient - theirs[key]).abs().max() < 2e-5 * largest, key
    for (key, a), b in zip(block.state_dict().items(), exact.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6), key


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.full), 16])
def test_quantized_block_is_no_farther_from_float64_than_its_modules(name, bits):
    """A value on the edge between two codes may fall on either side, of both; so the two are compared by their distance
    from float64, over several inputs. Ranges and statistics are recorded alike. (At 2 bit sums of the few values there
    are lie exactly on edges, and float64 cannot decide.) Inputs at which a ReLU stands on its edge are left out: one
    gradient passed or not is a hundredth of all."""
    apart = {"fused": 0.0, "modules": 0.0}
    drawn = (block_and_input(name, bits, seed) for seed in itertools.count())
    for block, x in itertools.islice((pair for pair in drawn if distance_of_relus(*pair) > 3e-6), 3):
        single, exact = copy.deepcopy(block), copy.deepcopy(block).double()
        expected, theirs = gradients(modules, exact, x.double())
        for way, run, of in (("fused", fused, block), ("modules", modules, single)):
            y, ours = gradients(run, of, x)
            assert ours.keys() == theirs.keys()
            apart[way] += distance(y, expected) + sum(distance(ours[key], theirs[key]) for key in ("x", *SOME))
        for (key, a), b in zip(block.state_dict().items(), single.state_dict().values(), strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=0.02, atol=0.02), key
        assert block.project.input_quantizer.initialised.tolist() == single.project.input_quantizer.initialised.tolist()
    assert apart["fused"] <= 3 * apart["modules"] + 0.01


SOME = ("expand.weight", "depthwise.weight", "project.weight")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_between(bits):
    """With an identity for a projection the output is the second quantizer's: 2^bits values over exactly its range."""
    block, x = block_and_input("plain", bits)
    channels = block.depthwise.out_channels
    block.project = copy.deepcopy(block.project)
    block.project.weight = nn.Parameter(torch.eye(channels)[:, :, None, None])
    with torch.no_grad():
        codes = fused(block, x)
    quantizer = block.project.input_quantizer
    slot = block.expand.precision.index
    low, high = quantizer.low[slot], quantizer.high[slot]
    assert (codes.min(), codes.max()) == (low, high)
    assert len(codes.unique()) <= 2**bits
    assert torch.allclose(codes, fake_quantize(codes, low, high, bits), rtol=1e-6, atol=1e-6 * high.item())


@pytest.mark.parametrize("frozen", [(), ("expand",), ("depthwise",), ("project",), ("expand", "depthwise", "project")])
@pytest.mark.parametrize("bits", [4, 32])
def test_only_the_gradients_that_are_wanted(frozen, bits):
    """Frozen weights get none, and the others are what they are without it, also where the input needs none."""
    block, x = block_and_input("groups", bits)
    _, full = gradients(fused, copy.deepcopy(block), x)
    for name in frozen:
        getattr(block, name).weight.requires_grad_(False)
    _, some = gradients(fused, copy.deepcopy(block), x)
    assert full.keys() - some.keys() == {f"{name}.weight" for name in frozen}
    assert all(torch.equal(gradient, full[key]) for key, gradient in some.items())
    fused(block, x).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, full[name])


@pytest.mark.parametrize("name", ["plain", "strided, wide kernel, groups", "several strips"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(name, threads, monkeypatch):
    """More threads than images included; sums may differ in their last digits."""
    block, x = block_and_input(name, 32)
    alone = gradients(fused, copy.deepcopy(block), x)
    monkeypatch.setattr(kernel_block, "threads_of", lambda *_: threads)
    y, together = gradients(fused, block, x)
    assert distance(y, alone[0]) < 1e-6
    assert all(distance(gradient, alone[1][key]) < 1e-4 for key, gradient in together.items())


def test_large_means_cost_no_digits():
    """Activations that are nearly constant: the sums of squares would cancel to nothing around zero."""
    block, x = block_and_input("plain", 32)
    with torch.no_grad():
        block.expand_norm.current().bias.fill_(1000.0)
        x += 1000
    exact = copy.deepcopy(block).double()
    assert distance(fused(block, x), modules(exact, x.double())) < 0.01
    for (key, a), b in zip(block.state_dict().items(), exact.state_dict().values(), strict=True):
        if "running_var" in key:
            assert torch.allclose(a.double(), b.double(), rtol=0.01), key


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_swallowed(bits, value):
    block, x = block_and_input("plain", bits)
    x[1, 2, 3, 0] = value
    x.requires_grad_()
    y = kernel_block.projected(block, x)
    assert y.isnan().any()
    y.sum().backward()
    assert x.grad.isnan().any()
    assert not block.expand_norm.current().running_mean.isfinite().all()


def test_what_it_cannot_run():
    block, x = block_and_input("plain", 4)
    assert kernel_block.serves(block, x)
    assert not kernel_block.serves(block, x[:1, :, :1, :1])  # a norm of one value
    strided, _ = block_and_input("strided", 4)
    assert not kernel_block.serves(strided, x[:1, :, :2, :2])
    block.eval()
    assert not kernel_block.serves(block, x)
    seven = ConvBlock(16, 16, 1, Precision(BITS), kernel_size=7, expansion=1)
    assert not kernel_block.serves(seven, x)
    wide = ConvBlock(16, 16, 1, Precision([23]), kernel_size=3, expansion=1)
    assert not kernel_block.serves(wide, x)


def test_a_quantizer_that_rounds_otherwise_keeps_its_rounding():
    """A subclass of the paper's measures the same range, but its values are not the kernels'."""
    block, x = block_and_input("plain", 4)
    for conv in (block.depthwise, block.project):
        conv.input_quantizer.rounding = lambda x, low, high, bits, axis: torch.zeros_like(x)
    assert not kernel_block.serves(block, x)
    assert torch.equal(block(x).detach().abs().amax(dim=(2, 3)), block(0 * x).detach().abs().amax(dim=(2, 3)))


def test_small_blocks_take_one_thread(monkeypatch):
    """Waiting for another costs more than it brings, by far where the machine has other work to do."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    small, x = block_and_input("plain", 4)
    assert kernel_block.threads_of(small, x) == 1
    large, _ = block_and_input("plain", 4, c_in=64, c_out=64)
    assert kernel_block.threads_of(large, torch.empty(16, 64, 32, 32)) == 4


@pytest.mark.parametrize("bits", [4, 16, 32])
def test_denormal_inputs(bits):
    """1e-40 has no reciprocal in float32: a quantizer that multiplies by 1 / scale makes NaN of it."""
    block, x = block_and_input("plain", bits)
    tiny = (x.sign() * 1e-40).contiguous(memory_format=torch.channels_last)
    assert tiny.any()
    plain = copy.deepcopy(block)
    y, ours = gradients(fused, block, tiny)
    expected, theirs = gradients(modules, plain, tiny)
    assert torch.allclose(y, expected, rtol=1e-3, atol=1e-3)
    assert all(gradient.isfinite().all() for gradient in (*ours.values(), *theirs.values()))


@pytest.mark.parametrize("bits", [4, 16])
def test_denormals_inside(bits):
    """A norm that scales by 1e-40: the quantizer behind it has a denormal step."""
    block, x = block_and_input("plain", bits)
    with torch.no_grad():
        for norm in (block.expand_norm.current(), block.depthwise_norm.current()):
            norm.weight.fill_(1e-40)
            norm.bias.zero_()
    y, ours = gradients(fused, block, x)
    assert y.isfinite().all() and all(gradient.isfinite().all() for gradient in ours.values())
