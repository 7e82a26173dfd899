"""The quantizer by kernels against the plain one: equal bit for bit, gradients and running ranges included."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instantnet.kernels import library, with_kernels
from instantnet.kernels import quantize as kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import Precision
from instantnet.quantizers import minmax
from instantnet.quantizers.minmax import MinMaxInputs

TINY = Geometry((1, 1), (8, 16), (1, 2), 8, 1, 16, 4, 8, 8, False)


def axis_of(per_channel):
    return 1 if per_channel else None


def plain_quantize(x, bits, per_channel):
    low, high = minmax.min_max(x, axis_of(per_channel))
    return low, high, minmax.rounded(x, low, high, bits, axis_of(per_channel))


@pytest.fixture
def no_plain_path(monkeypatch):
    """Whatever the kernels would leave to the plain path is an error."""

    def refuse(*_):
        raise AssertionError("left to the plain path")

    monkeypatch.setattr(kernels, "minmax", type("Refuse", (), {"min_max": refuse, "rounded": refuse}))


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(1, 31),
    per_channel=st.booleans(),
    channels=st.sampled_from([1, 3, 16, 40]),
    scale=st.sampled_from([1e-40, 1e-30, 1e-3, 1.0, 1e20]),
    offset=st.sampled_from([0.0, -5.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_range_and_values_are_bit_equal(bits, per_channel, channels, scale, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, channels, 4, 4, generator=generator) * scale + offset
    x = x.to(memory_format=torch.channels_last)
    x[:, 0] = offset  # a constant channel
    low, high, expected = plain_quantize(x, bits, per_channel)
    assert kernels._columns(x, axis_of(per_channel))
    kernel_low, kernel_high = kernels.min_max(x, axis_of(per_channel))
    assert torch.equal(kernel_low, low)
    assert torch.equal(kernel_high, high)
    result = kernels.rounded(x, low, high, bits, axis_of(per_channel))
    assert torch.equal(result, expected)
    assert result.stride() == x.stride()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(16, 32, 16, 16), (1, 8, 2, 4)])
def test_threads_change_nothing(per_channel, threads, shape, monkeypatch, no_plain_path):
    """More of them than rows included."""
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    low, high, expected = plain_quantize(x, 4, per_channel)
    monkeypatch.setattr(kernels, "threads_for", lambda _: threads)
    assert all(map(torch.equal, kernels.min_max(x, axis_of(per_channel)), (low, high)))
    assert torch.equal(kernels.rounded(x, low, high, 4, axis_of(per_channel)), expected)


def test_one_thread_or_those_of_torch(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert library.threads_for(torch.empty(1000)) == 1
    assert library.threads_for(torch.empty(library.PARALLEL_FROM)) == 4


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 1, 5, 5), (6, 10), (3, 40, 1, 1)])
@pytest.mark.parametrize("bits", [2, 4, 8, 16, 24])
def test_weights_are_bit_equal(shape, bits, no_plain_path):
    weight = torch.randn(shape)
    weight[0] = 0.7
    for layout in [weight, weight.to(memory_format=torch.channels_last)] if len(shape) == 4 else [weight]:
        low, high = minmax.min_max(layout, 0)
        assert all(map(torch.equal, kernels.min_max(layout, 0), (low, high)))
        assert torch.equal(kernels.rounded(layout, low, high, bits, 0), minmax.rounded(layout, low, high, bits, 0))


def test_not_a_number_is_not_swallowed(no_plain_path):
    x = torch.randn(4, 16, 4, 4).to(memory_format=torch.channels_last)
    x[1, 2, 3, 0] = float("nan")
    low, high = kernels.min_max(x, None)
    assert torch.isnan(kernels.rounded(x, low, high, 4, None)[1, 2, 3, 0])


@pytest.mark.parametrize(
    "x, axis",
    [
        (torch.randn(4, 16, 4, 4), 1),  # not channels_last
        (torch.randn(4, 16, 4, 4).double(), None),
        (torch.randn(4, 16, 4, 4)[:, ::2], None),
        (torch.randn(1, 3, 3, 3), None),  # 27 elements
        (torch.randn(6, 4, 3, 3)[:, ::2], 0),
    ],
)
def test_what_they_cannot_serve_goes_the_plain_path(x, axis):
    low, high = minmax.min_max(x, axis)
    assert all(map(torch.equal, kernels.min_max(x, axis), (low, high)))
    assert torch.equal(kernels.rounded(x, low, high, 4, axis), minmax.rounded(x, low, high, 4, axis))


def test_a_quantizer_gets_them():
    quantizer = with_kernels(MinMaxInputs(Precision([4])))
    x = torch.randn(4, 16, 4, 4)
    assert (quantizer.measure, quantizer.rounding) == (kernels.min_max, kernels.rounded)
    assert torch.equal(quantizer(x), plain_quantize(x, 4, False)[2])


def test_network_is_bit_equal_in_values_gradients_and_running_ranges():
    torch.manual_seed(0)
    plain = DerivedNetwork(["k3_e3", "k5_e1_g2"], TINY, Precision([4, 8, 32])).to(memory_format=torch.channels_last)
    fused = with_kernels(copy.deepcopy(plain), layers=False)
    for _ in range(3):
        images = torch.randn(4, 3, 8, 8)
        for bits in (32, 8, 4):
            outputs = [model(images, num_bits=bits) for model in (plain, fused)]
            assert torch.equal(*outputs)
            for output in outputs:
                output.square().mean().backward()
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(plain.state_dict().values(), fused.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.eval()(images, num_bits=4), fused.eval()(images, num_bits=4))
