"""The quantizer against its formula, the state that holds the bit-width, and the layers that read it."""

import copy
import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from instantnet.model_infer import DerivedNetwork
from instantnet.quantize import (
    FLOAT_BITS,
    BatchNorm2d,
    Precision,
    SwitchableBatchNorm2d,
    SwitchableConv2d,
    SwitchableLinear,
    SwitchableNetwork,
    recalibrate,
)
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights, fake_quantize

OPS = ["k3_e3", "k5_e1_g2", "skip", "k3_e1"]


def quantize_weight(weight, bits):
    return MinMaxWeights(Precision([bits]), len(weight))(weight)


def formula(x, low, high, bits):
    """The equation of the method, word for word, in double precision."""
    x, low, high = (torch.as_tensor(t, dtype=torch.float64) for t in (x, low, high))
    scale = (high - low) / (2**bits - 1)
    q = torch.round(torch.clamp((x - low) / scale, 0, 2**bits - 1))
    return q * scale + low


def assert_follows_formula(result, x, low, high, bits):
    """Equal to the formula; within float32's rounding of a tie between two codes either neighbour is right."""
    x64, low64, high64 = (torch.as_tensor(t, dtype=torch.float64) for t in (x, low, high))
    scale = (high64 - low64) / (2**bits - 1)
    eps = 1e-6 * (low64.abs() + high64.abs() + x64.abs())
    result = result.double()
    code = (result - low64) / scale
    assert ((code - code.round()).abs() * scale <= eps).all(), "not one of the 2^bits values"
    assert (code.round() >= 0).all() and (code.round() <= 2**bits - 1).all()
    near_tie = ((x64 - low64) / scale % 1 - 0.5).abs() * scale <= eps
    assert ((result - formula(x, low, high, bits)).abs() <= torch.where(near_tie, scale + eps, eps)).all()


# --- the quantizer


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 12, 16])
@pytest.mark.parametrize("shift", [0.0, -7.0, 5.0])
def test_fake_quantize_is_the_formula(bits, shift):
    x = torch.randn(4000) + shift
    assert_follows_formula(fake_quantize(x, x.min(), x.max(), bits), x, x.min(), x.max(), bits)


def test_fake_quantize_by_hand():
    """2 bit over [0, 3]: the values 0, 1, 2, 3. Over [-4, -1]: -4, -3, -2, -1."""
    x = torch.tensor([0.0, 0.4, 0.6, 1.4, 2.6, 3.0])
    assert fake_quantize(x, torch.tensor(0.0), torch.tensor(3.0), 2).tolist() == [0, 0, 1, 1, 3, 3]
    x = torch.tensor([-4.0, -3.6, -3.4, -2.2, -1.1])
    assert fake_quantize(x, torch.tensor(-4.0), torch.tensor(-1.0), 2).tolist() == [-4, -4, -3, -2, -1]


def test_one_bit_has_two_values():
    x = torch.tensor([-1.0, -0.2, 0.2, 1.0])
    assert fake_quantize(x, x.min(), x.max(), 1).tolist() == [-1, -1, 1, 1]


def test_the_ends_of_the_range_are_kept():
    for bits in (2, 4, 8, 16):
        low, high = torch.tensor(-0.7), torch.tensor(1.9)
        ends = fake_quantize(torch.stack([low, high]), low, high, bits)
        torch.testing.assert_close(ends, torch.stack([low, high]), rtol=0, atol=1e-6)


def test_values_outside_the_range_are_clamped():
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    x = torch.tensor([-1e6, -1.01, 2.01, 1e6])
    assert fake_quantize(x, low, high, 2).tolist() == [-1, -1, 2, 2]


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    bits=st.integers(1, 16),
)
def test_fake_quantize_on_any_numbers(values, bits):
    x = torch.tensor(values)
    low, high = x.min(), x.max()
    result = fake_quantize(x, low, high, bits)
    assert result.isfinite().all()
    if low == high:
        assert torch.equal(result, x)
    elif (high - low) > 1e-30:
        # At most half a step away, and float32's own rounding.
        half_step = (high.double() - low.double()) / (2**bits - 1) / 2
        assert ((result.double() - x.double()).abs() <= half_step + 1e-6 * x.double().abs().max() + 1e-37).all()


@pytest.mark.parametrize("constant", [0.1, -0.1, 0.0, 3e-39, 123456.789, -1e30, 1e-8])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_constant_is_returned_exactly(constant, bits):
    x = torch.full((3, 4), constant)
    assert torch.equal(fake_quantize(x, x.min(), x.max(), bits), x)
    assert torch.equal(quantize_weight(x, bits), x)


def test_a_constant_channel_beside_others():
    weight = torch.randn(3, 2, 3, 3)
    weight[1] = -0.3
    quantized = quantize_weight(weight, 4)
    assert torch.equal(quantized[1], weight[1])
    assert not torch.equal(quantized[0], weight[0])


def test_a_single_value():
    x = torch.tensor([0.37])
    assert torch.equal(fake_quantize(x, x.min(), x.max(), 4), x)


def test_the_input_is_not_changed():
    x = torch.randn(50)
    before = x.clone()
    fake_quantize(x, x.min(), x.max(), 3)
    assert torch.equal(x, before)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_weights_are_quantized_per_output_channel(bits):
    weight = torch.randn(6, 3, 3, 3) * torch.logspace(-3, 3, 6).view(-1, 1, 1, 1)
    quantized = quantize_weight(weight, bits)
    for k in range(6):
        assert_follows_formula(quantized[k], weight[k], weight[k].min(), weight[k].max(), bits)
        assert len(quantized[k].unique()) <= 2**bits


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_the_gradient_passes_unchanged(bits):
    """Everywhere: also where the value was clamped, and where the range is zero."""
    x = torch.randn(3, 40, dtype=torch.float32, requires_grad=True)
    gradient = torch.randn(3, 40)
    low, high = torch.tensor([[-0.5], [0.2], [0.1]]), torch.tensor([[0.5], [0.2], [0.3]])
    (got,) = torch.autograd.grad(fake_quantize(x, low, high, bits), x, gradient)
    assert torch.equal(got, gradient)


def test_weight_gradient_passes_unchanged():
    """Not through min and max either: the extreme weights get no more than their own."""
    weight = torch.randn(4, 2, 3, 3, requires_grad=True)
    gradient = torch.randn(4, 2, 3, 3)
    (got,) = torch.autograd.grad(quantize_weight(weight, 4), weight, gradient)
    assert torch.equal(got, gradient)


# --- the state


def test_precision_starts_at_the_highest_and_sorts():
    precision = Precision([8, 32, 4])
    assert precision.bit_widths == (4, 8, 32)
    assert (precision.bits, precision.index) == (32, 2)
    precision.set(4)
    assert (precision.bits, precision.index) == (4, 0)


@pytest.mark.parametrize("illegal", [5, 0, -4, 33, 4.5, None, "4"])
def test_an_illegal_bit_width_is_a_value_error_and_changes_nothing(geometry, illegal):
    model = DerivedNetwork(OPS, geometry, Precision([4, 8]))
    model.set_bits(4)
    with pytest.raises(ValueError, match=r"not one of \[4, 8\]"):
        model.set_bits(illegal)
    assert model.precision.bits == 4


def test_switching_is_two_attribute_writes_whatever_the_depth(geometry):
    """All layers read one object; switching walks no module and allocates nothing."""
    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32]))
    states = [m.precision for m in model.modules() if hasattr(m, "precision")]
    assert len(states) > 20
    assert all(getattr(state, "network", state) is model.precision for state in states)

    writes = []

    class Watched(Precision):
        def __setattr__(self, name, value):
            writes.append(name)
            super().__setattr__(name, value)

    def no_walk(*_):
        raise AssertionError("switching walks the modules")

    model.precision.__class__ = Watched
    walkers = [m for m in model.modules() if m is not model]
    model.modules = model.named_modules = model.children = model.apply = no_walk
    model.set_bits(4)
    assert sorted(writes) == ["bits", "index"]
    assert all(m.precision.bits == 4 for m in walkers if hasattr(m, "precision"))


def test_switching_allocates_nothing(geometry):
    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32]))
    widths = [4, 8, 32] * 50
    for bits in widths:
        model.set_bits(bits)  # whatever the first calls cache
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for bits in widths:
            model.set_bits(bits)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Call frames come and go; one object kept or made per switch would show 150 times.
    assert after - before < 500
    assert peak - before < 1500


def test_calling_with_num_bits_is_the_same_as_switching(geometry):
    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32])).eval()
    x = torch.randn(2, 3, 8, 8)
    model.set_bits(4)
    expected = model(x)
    model.set_bits(32)
    assert not torch.equal(model(x), expected)
    assert torch.equal(model(x, num_bits=4), expected)
    assert model.precision.bits == 4


def test_a_copied_network_has_one_state_of_its_own(geometry):
    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32]))
    model.set_bits(8)
    twin = copy.deepcopy(model)
    assert twin.precision is not model.precision
    states = [m.precision for m in twin.modules() if hasattr(m, "precision")]
    assert all(getattr(state, "network", state) is twin.precision for state in states)
    twin.set_bits(4)
    assert model.precision.bits == 8


def test_frozen_statistics_ends_with_the_block_even_on_an_error():
    precision = Precision([4])
    with pytest.raises(RuntimeError), precision.frozen_statistics():
        assert not precision.track_statistics
        raise RuntimeError
    assert precision.track_statistics


# --- layers


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_convolution_quantizes_weights_per_channel_and_inputs_per_tensor(bits):
    conv = SwitchableConv2d(6, 4, 3, padding=1, stride=2, groups=2, bias=False, precision=Precision([bits]))
    x = torch.randn(5, 6, 9, 9) * torch.logspace(-2, 2, 6).view(1, -1, 1, 1)
    x_hat = formula(x, x.min(), x.max(), bits)
    w_hat = torch.stack([formula(w, w.min(), w.max(), bits) for w in conv.weight.detach()])
    expected = F.conv2d(x_hat, w_hat, stride=2, padding=1, groups=2)
    # float32 may round a tie to the other code: compare up to one such step of one input.
    torch.testing.assert_close(conv(x).double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_depthwise_convolution_quantizes_inputs_per_channel(bits):
    conv = SwitchableConv2d(5, 5, 3, padding=1, groups=5, bias=False, precision=Precision([bits]))
    x = torch.randn(4, 5, 8, 8) * torch.logspace(-3, 3, 5).view(1, -1, 1, 1)
    w_hat = torch.stack([formula(w, w.min(), w.max(), bits) for w in conv.weight.detach()])
    result = conv(x)
    for c in range(5):
        x_hat = formula(x[:, c : c + 1], x[:, c].min(), x[:, c].max(), bits)
        expected = F.conv2d(x_hat, w_hat[c : c + 1], padding=1)
        torch.testing.assert_close(
            result[:, c : c + 1].double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )


@pytest.mark.parametrize("stride", [2, (1, 2), (3, 2)])
@pytest.mark.parametrize("channels, groups", [(2, 1), (4, 1), (4, 2), (12, 1), (16, 1), (4, 4)])
def test_a_strided_1x1_convolution_of_few_channels_is_the_convolution(channels, groups, stride):
    """oneDNN's gradient of its weights is wrong, or ends the process, on processors with AVX2 alone (issue 6035)."""
    conv = SwitchableConv2d(channels, 8, 1, stride=stride, groups=groups, precision=Precision([32]))
    conv = conv.to(memory_format=torch.channels_last)
    plain = nn.Conv2d(channels, 8, 1, stride=stride, groups=groups).double()
    plain.load_state_dict(
        {name: value.double() for name, value in conv.state_dict().items() if name in ("weight", "bias")}
    )
    for _ in range(20):
        x = torch.randn(32, channels, 8, 9).to(memory_format=torch.channels_last).requires_grad_()
        other = x.detach().double().requires_grad_()
        results = []
        for module, images in ((conv, x), (plain, other)):
            y = module(images)
            results.append((y, *torch.autograd.grad(y.square().mean(), [images, *module.parameters()])))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups", "ranges"), [(5, 5, 5), (2, 2, 2), (1, 1, None), (4, 1, None), (4, 2, None)]
)
def test_a_range_per_channel_is_for_depthwise_convolutions(channels, groups, ranges):
    """One channel in one group, as of grey images, is a dense convolution."""
    conv = SwitchableConv2d(channels, 2 * channels, 3, groups=groups, precision=Precision([4]))
    assert conv.input_quantizer.channels == ranges


def test_linear_quantizes_weights_per_output_and_keeps_the_bias():
    linear = SwitchableLinear(12, 3, precision=Precision([4]))
    x = torch.randn(7, 12)
    w_hat = torch.stack([formula(w, w.min(), w.max(), 4) for w in linear.weight.detach()])
    expected = formula(x, x.min(), x.max(), 4) @ w_hat.T + linear.bias.detach().double()
    torch.testing.assert_close(linear(x).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_32_bit_is_float_bit_for_bit(training):
    precision = Precision([4, 32])
    conv = SwitchableConv2d(6, 4, 3, groups=2, stride=2, padding=1, precision=precision).train(training)
    plain = nn.Conv2d(6, 4, 3, groups=2, stride=2, padding=1)
    plain.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    linear = SwitchableLinear(6, 3, precision=precision).train(training)
    x = torch.randn(3, 6, 7, 7)
    assert torch.equal(conv(x), plain(x))
    assert torch.equal(linear(x[..., 0, 0]), F.linear(x[..., 0, 0], linear.weight, linear.bias))
    assert not conv.input_quantizer.initialised.any(), "32 bit has no range to record"


def test_a_list_of_32_bit_alone(geometry):
    model = DerivedNetwork(OPS, geometry, Precision([32]))
    before = {k: v.clone() for k, v in model.state_dict().items() if "input_quantizer" in k}
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


# --- running ranges


def ranges_of(conv, bits):
    slot = conv.precision.bit_widths.index(bits)
    return conv.input_quantizer.low[slot].clone(), conv.input_quantizer.high[slot].clone()


def test_first_batch_initialises_the_range_and_later_ones_move_it_by_a_tenth():
    precision = Precision([4, 8, 32])
    conv = SwitchableConv2d(3, 2, 1, precision=precision)
    precision.set(4)
    batches = [torch.rand(2, 3, 4, 4) * k - k / 3 for k in (1, 5, 2)]
    conv(batches[0])
    low, high = ranges_of(conv, 4)
    assert (low, high) == (batches[0].min(), batches[0].max())
    for batch in batches[1:]:
        conv(batch)
        low, high = 0.9 * low + 0.1 * batch.min(), 0.9 * high + 0.1 * batch.max()
    torch.testing.assert_close(ranges_of(conv, 4), (low, high))
    assert conv.input_quantizer.initialised.tolist() == [True, False], "8 bit has seen nothing"
    assert ranges_of(conv, 8) == (0, 0)


def test_each_bit_width_has_a_range_of_its_own():
    precision = Precision([4, 8])
    conv = SwitchableConv2d(3, 2, 1, precision=precision)
    small, large = torch.rand(2, 3, 4, 4), 10 * torch.rand(2, 3, 4, 4)
    precision.set(4)
    conv(small)
    precision.set(8)
    conv(large)
    assert ranges_of(conv, 4) == (small.min(), small.max())
    assert ranges_of(conv, 8) == (large.min(), large.max())


def test_depthwise_ranges_run_per_channel():
    precision = Precision([4])
    conv = SwitchableConv2d(3, 3, 3, groups=3, precision=precision)
    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    conv(first)
    conv(second)
    expected = 0.9 * first.amin((0, 2, 3)) + 0.1 * second.amin((0, 2, 3))
    torch.testing.assert_close(ranges_of(conv, 4)[0], expected)


def test_the_shared_range_follows_the_released_rule():
    precision = Precision([4, 8, 32], range_scope="shared", range_momentum=0.9)
    conv = SwitchableConv2d(3, 2, 1, precision=precision)
    first, second = torch.rand(2, 3, 4, 4), 10 * torch.rand(2, 3, 4, 4) - 5
    precision.set(8)
    conv(first)
    precision.set(4)
    conv(second)
    torch.testing.assert_close(conv.input_quantizer.low[0, 0], 0.1 * first.min() + 0.9 * second.min())
    torch.testing.assert_close(conv.input_quantizer.high[0, 0], 0.1 * first.max() + 0.9 * second.max())
    assert len(conv.input_quantizer.low) == 1


@pytest.mark.parametrize("groups", [1, 3])
def test_evaluation_uses_the_running_range_and_leaves_it(groups):
    precision = Precision([4, 8])
    conv = SwitchableConv2d(3, 3, 1, groups=groups, bias=False, precision=precision)
    precision.set(4)
    conv(torch.rand(4, 3, 5, 5))
    low, high = ranges_of(conv, 4)
    conv.eval()
    wide = 3 * torch.randn(2, 3, 5, 5)
    shape = (1, -1, 1, 1)
    x_hat = formula(wide, low.view(shape), high.view(shape), 4)
    w_hat = torch.stack([formula(w, w.min(), w.max(), 4) if w.numel() > 1 else w for w in conv.weight.detach()])
    torch.testing.assert_close(
        conv(wide).double(), F.conv2d(x_hat, w_hat.double(), groups=groups), rtol=1e-4, atol=1e-4
    )
    assert ranges_of(conv, 4)[0].equal(low) and ranges_of(conv, 4)[1].equal(high)


def test_evaluation_of_one_image_does_not_depend_on_its_batch():
    precision = Precision([4])
    conv = SwitchableConv2d(3, 3, 1, precision=precision)
    conv(torch.randn(4, 3, 5, 5))
    conv.eval()
    x = torch.randn(8, 3, 5, 5)
    torch.testing.assert_close(conv(x)[:1], conv(x[:1]))


def test_training_quantizes_by_the_batch_not_by_the_running_range():
    precision = Precision([4])
    conv = SwitchableConv2d(3, 3, 1, bias=False, precision=precision)
    conv(torch.rand(4, 3, 5, 5))
    x = 20 * torch.randn(4, 3, 5, 5)
    fresh = copy.deepcopy(conv)
    fresh.input_quantizer.reset()
    assert torch.equal(conv(x), fresh(x))


def test_ranges_survive_a_state_dict():
    precision = Precision([4, 8])
    conv = SwitchableConv2d(3, 3, 1, precision=precision)
    precision.set(4)
    conv(torch.randn(4, 3, 5, 5))
    other_precision = Precision([4, 8])
    other = SwitchableConv2d(3, 3, 1, precision=other_precision)
    other(torch.randn(4, 3, 5, 5))  # knows 8 bit, which `conv` does not
    other.load_state_dict(conv.state_dict())
    x = torch.randn(2, 3, 5, 5)
    for bits in (4, 8):
        precision.set(bits)
        other_precision.set(bits)
        assert torch.equal(conv.eval()(x), other.eval()(x))


def test_frozen_statistics_records_nothing(geometry):
    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32]))
    for bits in (4, 8, 32):
        model(torch.randn(4, 3, 8, 8), num_bits=bits)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 3, 8, 8)
    with model.precision.frozen_statistics():
        frozen = [model(x, num_bits=bits) for bits in (4, 8, 32)]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    # Apart from that, the pass is the training pass.
    for bits, logits in zip((4, 8, 32), frozen, strict=True):
        torch.testing.assert_close(model(x, num_bits=bits), logits)


# --- switchable batch norm


def test_each_bit_width_has_its_own_statistics_and_affine():
    precision = Precision([4, 8, 32])
    norm = SwitchableBatchNorm2d(3, precision)
    plain = {bits: nn.BatchNorm2d(3) for bits in (4, 8, 32)}
    for index, bits in enumerate((4, 8, 32)):
        with torch.no_grad():
            norm.per_bit_width[index].weight.fill_(bits)
            plain[bits].weight.fill_(bits)
    for step in range(3):
        for bits in (4, 8, 32):
            precision.set(bits)
            x = torch.randn(4, 3, 5, 5) * bits + step
            assert torch.equal(norm(x), plain[bits](x))
    for index, bits in enumerate((4, 8, 32)):
        assert norm.per_bit_width[index].running_mean.equal(plain[bits].running_mean)
        assert norm.per_bit_width[index].running_var.equal(plain[bits].running_var)
        assert (norm.per_bit_width[index].eps, norm.per_bit_width[index].momentum) == (1e-5, 0.1)


@pytest.mark.parametrize("quantize_ends", [False, True])
def test_no_parameter_is_dead(geometry, quantize_ends):
    """All bit-widths in one step reach every parameter, and each of them with a gradient that is not zero."""
    from dataclasses import replace

    model = DerivedNetwork(OPS, replace(geometry, quantize_ends=quantize_ends), Precision([4, 8, 32]))
    x = torch.randn(8, 3, 8, 8)
    for bits in (32, 8, 4):
        model(x, num_bits=bits).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_the_ends_are_shared_and_float_unless_asked(geometry):
    from dataclasses import replace

    model = DerivedNetwork(OPS, geometry, Precision([4, 8, 32]))
    assert type(model.stem.conv) is type(model.header.conv) is nn.Conv2d
    assert type(model.stem.norm) is type(model.header.norm) is BatchNorm2d
    assert type(model.classifier) is nn.Linear
    model = DerivedNetwork(OPS, replace(geometry, quantize_ends=True), Precision([4, 8, 32]))
    assert isinstance(model.stem.conv, SwitchableConv2d) and isinstance(model.header.norm, SwitchableBatchNorm2d)
    assert isinstance(model.classifier, SwitchableLinear)
    x = torch.randn(2, 3, 8, 8)
    assert len({model.stem.conv(x).sum().item() for bits in (4, 8, 32) if not model.set_bits(bits)}) == 3


# --- recalibration


def trained(geometry, scope="bit_width", quantize_ends=False):
    from dataclasses import replace

    precision = Precision([4, 8, 32], scope)
    model = DerivedNetwork(OPS, replace(geometry, quantize_ends=quantize_ends), precision)
    for _ in range(2):
        for bits in (32, 8, 4):
            model(torch.randn(6, 3, 8, 8), num_bits=bits)
    return model


def calibration_batches():
    generator = torch.Generator().manual_seed(7)
    return [(2 * torch.randn(6, 3, 8, 8, generator=generator) + 1, torch.zeros(6)) for _ in range(3)]


def belongs_to(name, bits):
    """Whether the state_dict entry `name` is a statistic that only `bits` of (4, 8, 32) uses."""
    index = (4, 8, 32).index(bits)
    return f"per_bit_width.{index}." in name and ("running" in name or "num_batches" in name)


@pytest.mark.parametrize("quantize_ends", [False, True])
@pytest.mark.parametrize("bits", [4, 8, 32])
def test_recalibrating_one_bit_width_leaves_the_others_bit_identical(geometry, bits, quantize_ends):
    model = trained(geometry, quantize_ends=quantize_ends)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, bits, calibration_batches())
    slot = (4, 8, 32).index(bits)
    changed = 0
    for name, tensor in model.state_dict().items():
        if belongs_to(name, bits):
            changed += not torch.equal(tensor, before[name])
        elif "input_quantizer" in name and bits != 32:
            other = [i for i in range(len(tensor)) if i != slot]
            assert torch.equal(tensor[other], before[name][other]), name
            changed += not torch.equal(tensor[slot], before[name][slot])
        else:
            assert torch.equal(tensor, before[name]), f"{name} is not of {bits} bit, but changed"
    assert changed > 10
    assert model.training
    assert model.precision.bits == bits


@pytest.mark.parametrize("bits", [4, 32])
def test_recalibration_with_a_shared_range_leaves_it(geometry, bits):
    """The one range of all bit-widths is theirs too: moving it for one would move it for the others."""
    model = trained(geometry, scope="shared")
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, bits, calibration_batches())
    for name, tensor in model.state_dict().items():
        assert belongs_to(name, bits) or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("bits", [4, 8])
def test_recalibrated_statistics_are_those_of_the_batches(geometry, bits):
    """Against statistics computed from each norm's own inputs: mean over batches of mean and unbiased variance."""
    model = trained(geometry)
    inputs, ranges = {}, {}
    norms = {m: name for name, m in model.named_modules() if isinstance(m, SwitchableBatchNorm2d)}
    hooks = [m.register_forward_pre_hook(lambda m, x: inputs.setdefault(m, []).append(x[0].clone())) for m in norms]
    watched = [m for m in model.modules() if isinstance(m, MinMaxInputs)]
    hooks += [m.register_forward_pre_hook(lambda m, x: ranges.setdefault(m, []).append(x[0].clone())) for m in watched]
    recalibrate(model, bits, calibration_batches())
    for hook in hooks:
        hook.remove()
    for m, name in norms.items():
        means = torch.stack([x.double().mean((0, 2, 3)) for x in inputs[m]]).mean(0)
        variances = torch.stack([x.double().var((0, 2, 3), unbiased=True) for x in inputs[m]]).mean(0)
        own = m.per_bit_width[(4, 8, 32).index(bits)]
        torch.testing.assert_close(own.running_mean.double(), means, rtol=1e-4, atol=1e-5, msg=name)
        torch.testing.assert_close(own.running_var.double(), variances, rtol=1e-4, atol=1e-5, msg=name)
        assert own.momentum == 0.1, "training goes on with the usual momentum"
    slot = (4, 8, 32).index(bits)
    for m in watched:
        dims = (0, 2, 3) if m.channels else (0, 1, 2, 3)
        low, high = ranges[m][0].amin(dims), ranges[m][0].amax(dims)
        for x in ranges[m][1:]:
            low, high = 0.9 * low + 0.1 * x.amin(dims), 0.9 * high + 0.1 * x.amax(dims)
        torch.testing.assert_close(m.low[slot], low.view(-1))
        torch.testing.assert_close(m.high[slot], high.view(-1))


def test_a_small_last_batch_counts_by_its_images():
    """By hand: batches of 6 and 2 images, means 1 and 5, variances 2 and 10: 6/8 of the one and 2/8 of the other."""

    class Norm(SwitchableNetwork):
        def __init__(self):
            super().__init__(Precision([8]))
            self.norm = SwitchableBatchNorm2d(1, self.precision)

        def forward(self, x):
            return self.norm(x)

    def batch(mean, variance, count):
        deviation = (variance * (count - 1) / count) ** 0.5  # the statistics hold the unbiased variance
        return (mean + deviation * torch.tensor([-1.0, 1.0] * (count // 2))).view(-1, 1, 1, 1), None

    model = Norm()
    recalibrate(model, 8, [batch(1, 2, 6), batch(5, 10, 2)])
    norm = model.norm.current()
    torch.testing.assert_close(norm.running_mean, torch.tensor([2.0]))
    torch.testing.assert_close(norm.running_var, torch.tensor([4.0]))
    assert norm.num_batches_tracked == 2 and norm.momentum == 0.1
    recalibrate(model, 8, [batch(1, 2, 6), batch(5, 10, 2)], images_in=[12, 12].__getitem__)  # shares of equal batches
    torch.testing.assert_close(norm.running_mean, torch.tensor([3.0]))
    torch.testing.assert_close(norm.running_var, torch.tensor([6.0]))


def test_recalibration_measures_whatever_mode_the_network_was_left_in(geometry):
    """A network in evaluation would measure nothing: statistics of 0 and 1, and an accuracy to match."""
    model = trained(geometry)
    twin = copy.deepcopy(model).eval()
    for network in (model, twin):
        recalibrate(network, 4, calibration_batches())
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_released_recalibration_resets_every_bit_width(geometry):
    model = trained(geometry)
    recalibrate(model, 8, calibration_batches(), reset="all")
    norms = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
    for norm in norms:
        for other in (0, 2):
            assert not norm.per_bit_width[other].running_mean.any()
            assert norm.per_bit_width[other].running_var.eq(1).all()
        assert norm.per_bit_width[1].running_mean.any()
        assert norm.per_bit_width[1].num_batches_tracked == 3
    assert model.stem.norm.num_batches_tracked == 3


def test_recalibration_keeps_evaluation_mode_and_restores_on_an_error(geometry):
    model = trained(geometry).eval()
    recalibrate(model, 4, calibration_batches())
    assert not any(m.training for m in model.modules())

    def broken():
        yield calibration_batches()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        recalibrate(model, 4, broken())
    assert not any(m.training for m in model.modules())
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, BatchNorm2d))


def test_float_bits_is_32():
    assert FLOAT_BITS == 32
