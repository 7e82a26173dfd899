"""The fused quantizer against the plain one: equal bit for bit, gradients and running ranges included."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instantnet.kernels import quantize as fused_quantize
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import ActivationRange, Precision, fake_quantize, quantize_weight

TINY = Geometry((1, 1), (8, 16), (1, 2), 8, 1, 16, 4, 8, 8, False)


def plain_quantize(x, bits, per_channel):
    if per_channel:
        low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
        return low, high, fake_quantize(x, low.view(1, -1, 1, 1), high.view(1, -1, 1, 1), bits)
    low, high = (bound.view(1) for bound in x.aminmax())
    return low, high, fake_quantize(x, low, high, bits)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(1, 22),
    per_channel=st.booleans(),
    channels=st.sampled_from([1, 3, 16, 40]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    offset=st.sampled_from([0.0, -5.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_range_and_values_are_bit_equal(bits, per_channel, channels, scale, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, channels, 4, 4, generator=generator) * scale + offset
    x = x.to(memory_format=torch.channels_last)
    x[:, 0] = offset  # a constant channel
    low, high, expected = plain_quantize(x, bits, per_channel)
    assert fused_quantize.usable(x, bits, per_channel)
    fused_low, fused_high = fused_quantize.batch_range(x, per_channel)
    assert torch.equal(fused_low, low)
    assert torch.equal(fused_high, high)
    result = fused_quantize.quantize(x, low, high, bits, per_channel)
    assert torch.equal(result, expected)
    assert result.stride() == x.stride()


@pytest.mark.parametrize("per_channel", [False, True])
def test_threads_change_nothing(per_channel, monkeypatch):
    x = torch.randn(16, 32, 16, 16).to(memory_format=torch.channels_last)
    low, high, expected = plain_quantize(x, 4, per_channel)
    for blocks in (1, 2, 3, 7):
        monkeypatch.setattr(fused_quantize, "blocks_of", lambda _, blocks=blocks: blocks)
        assert torch.equal(fused_quantize.batch_range(x, per_channel)[0], low)
        assert torch.equal(fused_quantize.batch_range(x, per_channel)[1], high)
        assert torch.equal(fused_quantize.quantize(x, low, high, 4, per_channel), expected)


def test_more_threads_than_rows(monkeypatch):
    x = torch.randn(1, 8, 2, 4).to(memory_format=torch.channels_last)
    monkeypatch.setattr(fused_quantize, "blocks_of", lambda _: 16)
    *_, expected = plain_quantize(x, 4, True)
    assert torch.equal(fused_quantize.quantize(x, *fused_quantize.batch_range(x, True), 4, True), expected)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 1, 5, 5), (6, 10)])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_weights_are_bit_equal(shape, bits):
    weight = torch.randn(shape)
    weight[0] = 0.7
    for layout in [weight, weight.to(memory_format=torch.channels_last)] if len(shape) == 4 else [weight]:
        assert fused_quantize.weight_usable(layout, bits)
        assert torch.equal(quantize_weight(layout, bits, fused=True), quantize_weight(layout, bits))


def test_not_a_number_is_not_swallowed():
    x = torch.randn(4, 16, 4, 4).to(memory_format=torch.channels_last)
    x[1, 2, 3, 0] = float("nan")
    low, high = fused_quantize.batch_range(x, False)
    assert torch.isnan(fused_quantize.quantize(x, low, high, 4, False)[1, 2, 3, 0])


def test_what_it_cannot_serve_is_left_to_the_plain_path():
    x = torch.randn(4, 16, 4, 4)
    assert not fused_quantize.usable(x, 4, per_channel=True)  # not channels_last
    assert not fused_quantize.usable(x.double(), 4, per_channel=False)
    assert not fused_quantize.usable(x, 23, per_channel=False)
    assert not fused_quantize.usable(x[:, ::2], 4, per_channel=False)
    assert not fused_quantize.usable(torch.randn(1, 3, 3, 3), 4, per_channel=False)  # 27 elements
    measure = ActivationRange(Precision([4, 23], fused=True))
    measure.precision.set(4)
    assert torch.equal(measure.quantize(x[:, ::2]), plain_quantize(x[:, ::2], 4, False)[2])


def test_network_is_bit_equal_in_values_gradients_and_running_ranges():
    torch.manual_seed(0)
    plain = DerivedNetwork(["k3_e3", "k5_e1_g2"], TINY, Precision([4, 8, 32])).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fused.precision.fused = True
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
