"""Every quantizer against its paper's equations, transcribed here in double precision, gradients too.

The transcriptions are scalar by scalar or by torch's own gradients; no function of the quantizers is used in them.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS
from instantnet.quantizers.dorefa import DoReFaInputs, DoReFaWeights
from instantnet.quantizers.dorefa_scl import ClippedInputs, RescaledWeights
from instantnet.quantizers.lsq import LSQInputs, LSQWeights
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights
from instantnet.quantizers.nested import NestedInputs, NestedWeights
from instantnet.quantizers.symmetric import SymmetricInputs, SymmetricWeights

BITS = (2, 3, 4, 8, 12, 16)
each_width = pytest.mark.parametrize("bits", BITS)


def at(bits, quantizer, *arguments):
    return quantizer(Precision([bits, 32]) if bits != 32 else Precision([bits]), *arguments).double()


def in_bits(quantizer, bits):
    quantizer.precision.set(bits)
    return quantizer


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def rounded(value: float) -> int:
    """To the nearest integer, halves to even."""
    return round(value)


def clamped(value, low, high):
    return max(low, min(high, value))


def each(function, x: torch.Tensor) -> torch.Tensor:
    """function of every element, a Python float."""
    return torch.tensor([function(value) for value in x.flatten().tolist()], dtype=torch.float64).view(x.shape)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * float(expected.detach().abs().max()))


def gradients(quantizer, x, upstream, *others):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(quantizer(x), [x, *others], upstream)


# --- min-max


def by_min_max(x, low, high, bits):
    scale = (high - low) / (2**bits - 1)
    return each(lambda v: rounded(clamped((v - low) / scale, 0, 2**bits - 1)) * scale + low, x)


@each_width
def test_min_max_weights(bits):
    weight = doubles(5, 3, 2, 2) * torch.logspace(-2, 2, 5, dtype=torch.float64).view(-1, 1, 1, 1)
    quantizer = in_bits(at(bits, MinMaxWeights, 5), bits)
    got, codes = quantizer(weight), quantizer.codes(weight)
    for k in range(5):
        low, high = float(weight[k].min()), float(weight[k].max())
        close(got[k], by_min_max(weight[k], low, high, bits))
        assert (codes.codes[k].min(), codes.codes[k].max()) == (0, 2**bits - 1), "both ends are values"
    (gradient,) = gradients(quantizer, weight, upstream := doubles(5, 3, 2, 2))
    assert torch.equal(gradient, upstream)


@each_width
@pytest.mark.parametrize("channels", [None, 3])
def test_min_max_inputs(bits, channels):
    """Over the batch in training, the first batch's and 0.9 old + 0.1 new after it in evaluation."""
    batches = [doubles(4, 3, 5, 5), 2 * doubles(4, 3, 5, 5) + 1]
    quantizer = in_bits(at(bits, MinMaxInputs, channels), bits)
    parts = [(slice(None), slice(c, c + 1)) for c in range(3)] if channels else [(slice(None), slice(None))]
    for x in batches:
        got = quantizer.train()(x)
        for part in parts:
            close(got[part], by_min_max(x[part], float(x[part].min()), float(x[part].max()), bits))
    x = 3 * batches[0]
    got = quantizer.eval()(x)
    for part in parts:
        first, second = batches
        low = 0.9 * float(first[part].min()) + 0.1 * float(second[part].min())
        high = 0.9 * float(first[part].max()) + 0.1 * float(second[part].max())
        close(got[part], by_min_max(x[part], low, high, bits))
    (gradient,) = gradients(quantizer, x, upstream := doubles(4, 3, 5, 5))
    assert torch.equal(gradient, upstream), "beyond the running range, too"


# --- symmetric


@each_width
def test_symmetric_weights(bits):
    weight = doubles(5, 3, 2, 2) * torch.logspace(-2, 2, 5, dtype=torch.float64).view(-1, 1, 1, 1)
    quantizer = in_bits(at(bits, SymmetricWeights, 5), bits)
    got, codes = quantizer(weight), quantizer.codes(weight)
    most = 2 ** (bits - 1) - 1
    for k in range(5):
        step = float(weight[k].abs().max()) / most
        close(got[k], each(lambda w, step=step: clamped(rounded(w / step), -most, most) * step, weight[k]))
        integers = codes.codes[k] - codes.zero_point[k]
        assert integers.abs().max() == most, "the largest magnitude is one of the values"
    assert (codes.offset == 0).all() and (codes.zero_point == most).all()
    (gradient,) = gradients(quantizer, weight, upstream := doubles(5, 3, 2, 2))
    assert torch.equal(gradient, upstream)


@each_width
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("channels", [None, 3])
def test_symmetric_inputs(bits, shift, channels):
    """Zero is one of the values, also of a range that lies on one side of it."""
    x = doubles(4, 3, 5, 5) + shift
    quantizer = in_bits(at(bits, SymmetricInputs, channels), bits)
    got, codes = quantizer(x), quantizer.codes(x)
    parts = [(slice(None), slice(c, c + 1)) for c in range(3)] if channels else [(slice(None), slice(None))]
    for part in parts:
        low, high = min(0.0, float(x[part].min())), max(0.0, float(x[part].max()))
        step = (high - low) / (2**bits - 1)
        zero = rounded(-low / step)

        def value(x, step=step, zero=zero):
            return (clamped(rounded(x / step) + zero, 0, 2**bits - 1) - zero) * step

        close(got[part], each(value, x[part]))
    assert codes.zero_point.dtype == torch.int64 and (codes.offset == 0).all()
    zero = torch.zeros_like(x)
    assert torch.equal(quantizer.eval()(zero), zero)
    (gradient,) = gradients(quantizer, 3 * x, upstream := doubles(4, 3, 5, 5))
    assert torch.equal(gradient, upstream), "beyond the running range, too"


# --- nested


@each_width
def test_nested_weights(bits):
    weight = doubles(5, 3, 2, 2) - 0.3
    quantizer = in_bits(at(bits, NestedWeights, 5), bits)
    got = quantizer(weight)
    for k in range(5):
        low, high = float(weight[k].min()), float(weight[k].max())

        def value(w, low=low, high=high):
            code = min(math.floor(2**bits * ((w - low) / (high - low))), 2**bits - 1)
            return low + (code + 0.5) * (high - low) / 2**bits

        close(got[k], each(value, weight[k]))
    (gradient,) = gradients(quantizer, weight, upstream := doubles(5, 3, 2, 2))
    assert torch.equal(gradient, upstream)


@settings(max_examples=30)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    wide=st.integers(2, 24),
    cut=st.integers(1, 23),
)
def test_codes_at_fewer_bits_are_the_top_bits_of_wider_ones(values, wide, cut):
    narrow = max(1, wide - cut)
    precision = Precision([narrow, wide] if narrow < wide else [wide], range_scope="shared")
    x = torch.tensor([values])
    for quantizer in (NestedWeights(precision, 1), NestedInputs(precision)):
        codes = {}
        for bits in precision.bit_widths:
            precision.set(bits)
            quantizer(x)
            codes[bits] = quantizer.codes(x).codes
        assert torch.equal(codes[narrow], codes[wide] >> (wide - narrow))


def test_one_integer_tensor_gives_the_weights_at_every_bit_width():
    precision = Precision([1, 2, 4, 8, 16])
    weight = torch.randn(6, 4, 3, 3)
    quantizer = NestedWeights(precision, 6)
    precision.set(16)
    integers = quantizer.codes(weight).codes
    for bits in precision.bit_widths:
        precision.set(bits)
        codes = quantizer.codes(weight)._replace(codes=integers >> (16 - bits))
        assert torch.equal(codes.values(), quantizer(weight))


@each_width
def test_no_value_moves_by_more_than_half_a_cell(bits):
    weight = doubles(4, 50)
    width = weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)
    moved = (in_bits(at(bits, NestedWeights, 4), bits)(weight) - weight).abs()
    assert (moved <= width / 2 ** (bits + 1) * (1 + 1e-9)).all()


# --- LSQ


def lsq_by_hand(x, step, q_n, q_p, upstream, n):
    """Equations 1 to 3 and 5 of Esser et al. 2020, and their gradient scale: (x_hat, to x, to the step)."""
    x_hat, to_x, to_step = [], [], 0.0
    for v, g in zip(x.flatten().tolist(), upstream.flatten().tolist(), strict=True):
        ratio = v / step
        x_hat.append(rounded(clamped(ratio, -q_n, q_p)) * step)
        to_x.append(g if -q_n < ratio < q_p else 0.0)
        if ratio <= -q_n:
            to_step += -q_n * g
        elif ratio >= q_p:
            to_step += q_p * g
        else:
            to_step += (-ratio + rounded(ratio)) * g
    shape = x.shape
    return (
        torch.tensor(x_hat, dtype=torch.float64).view(shape),
        torch.tensor(to_x, dtype=torch.float64).view(shape),
        to_step / math.sqrt(n * q_p),
    )


@each_width
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("narrowed", [1.0, 0.2])
def test_lsq_weights(bits, per_channel, narrowed):
    """At the first step, and at one so small that many weights lie outside."""
    weight, upstream = doubles(4, 3, 2, 2), doubles(4, 3, 2, 2)
    quantizer = in_bits(at(bits, LSQWeights, 4 if per_channel else None), bits)
    quantizer(weight)
    q_n, q_p = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    parts = [weight[k] for k in range(4)] if per_channel else [weight]
    first = [2 * float(part.abs().mean()) / math.sqrt(q_p) for part in parts]
    close(quantizer.step[0], torch.tensor(first, dtype=torch.float64))
    quantizer.step.data *= narrowed
    got, (to_x, to_step) = quantizer(weight), gradients(quantizer, weight, upstream, quantizer.step)
    for k, part in enumerate(parts):
        row = (k,) if per_channel else (...,)
        expected = lsq_by_hand(part, first[k] * narrowed, q_n, q_p, upstream[row], part.numel())
        close(got[row], expected[0])
        close(to_x[row], expected[1])
        assert float(to_step[0, k]) == pytest.approx(expected[2], rel=1e-9, abs=1e-12)


@each_width
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("signed", [True, False])
def test_lsq_inputs(bits, channels, signed):
    x, upstream = doubles(4, 3, 5, 5), doubles(4, 3, 5, 5)
    x = x if signed else x.relu()
    quantizer = in_bits(at(bits, LSQInputs, channels), bits)
    quantizer(x)
    q_n, q_p = (2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    parts = [(slice(None), slice(c, c + 1)) for c in range(3)] if channels else [(slice(None), slice(None))]
    first = [2 * float(x[part].abs().mean()) / math.sqrt(q_p) for part in parts]
    close(quantizer.step[0], torch.tensor(first, dtype=torch.float64))
    quantizer.step.data *= 0.3
    x = 1.1 * x - 0.01  # negative values of an input that had none when it was first seen
    got, (to_x, to_step) = quantizer(x), gradients(quantizer, x, upstream, quantizer.step)
    for k, part in enumerate(parts):
        n = x[part][0].numel()  # features of one image
        expected = lsq_by_hand(x[part], first[k] * 0.3, q_n, q_p, upstream[part], n)
        close(got[part], expected[0])
        close(to_x[part], expected[1])
        assert float(to_step[0, k]) == pytest.approx(expected[2], rel=1e-9, abs=1e-12)


def test_a_step_starts_above_zero_whatever_it_sees():
    """A channel that is all zero begins with the tensor's step, a tensor that is with 1."""
    precision = Precision([4])
    weight = torch.randn(3, 2, 3, 3)
    weight[1] = 0
    quantizer = LSQWeights(precision, 3)
    quantizer(weight)
    expected = [2 * float(w.abs().mean()) / math.sqrt(7) for w in (weight[0], weight, weight[2])]
    torch.testing.assert_close(quantizer.step[0], torch.tensor(expected))
    quantizer = LSQInputs(precision)
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert quantizer.step.tolist() == [[1.0]]


def test_a_step_below_zero_is_taken_by_its_size():
    """An optimizer may carry one across; its gradient then pushes it back as it would the positive one."""
    precision = Precision([4])
    quantizer, x = LSQInputs(precision).double(), doubles(2, 3, 4, 4)
    quantizer(x)
    results = []
    for sign in (1, -1):
        quantizer.step.data = sign * quantizer.step.data.abs()
        results.append((quantizer(x), *gradients(quantizer, x, torch.ones_like(x), quantizer.step)))
    (first, to_x, to_step), (mirrored, to_x_mirrored, to_step_mirrored) = results
    assert torch.equal(first, mirrored) and torch.equal(to_x, to_x_mirrored)
    assert torch.equal(to_step, -to_step_mirrored)


# --- DoReFa (Any-Precision), AdaBits


class Round(torch.autograd.Function):
    """q_k of the papers: round or floor to n + 1 values of 0..1, straight-through."""

    @staticmethod
    def forward(ctx, x, bits, down):
        n = 2**bits - 1
        return (torch.floor(2**bits * x).clamp(max=n) if down else torch.round(n * x)) / n

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None, None


@each_width
def test_dorefa_weights(bits):
    weight, upstream = doubles(4, 3, 3, 3), doubles(4, 3, 3, 3)

    def paper(w):
        e = torch.mean(torch.abs(w)).detach()
        t = torch.tanh(w)
        return (2 * Round.apply(t / 2 / torch.max(torch.abs(t)) + 0.5, bits, False) - 1) * e

    quantizer = in_bits(at(bits, DoReFaWeights, 4), bits)
    close(quantizer(weight), paper(weight))
    close(gradients(quantizer, weight, upstream)[0], gradients(paper, weight, upstream)[0])


@each_width
@pytest.mark.parametrize("shape, n", [((4, 3, 3, 3), 36), ((6, 1, 5, 5), 150), ((10, 7), 10)])
def test_rescaled_weights(bits, shape, n):
    weight, upstream = doubles(*shape), doubles(*shape)

    def paper(w):
        t = torch.tanh(w)
        q = 2 * Round.apply((t / torch.max(torch.abs(t)) + 1) / 2, bits, True) - 1
        return q * (1 / n**0.5 / torch.std(q.detach()))

    quantizer = in_bits(at(bits, RescaledWeights, shape[0]), bits)
    close(quantizer(weight), paper(weight))
    close(gradients(quantizer, weight, upstream)[0], gradients(paper, weight, upstream)[0])
    assert float(quantizer(weight).std()) == pytest.approx(1 / math.sqrt(n))


@each_width
@pytest.mark.parametrize("signed", [True, False])
def test_dorefa_inputs(bits, signed):
    x, upstream = doubles(4, 3, 5, 5), doubles(4, 3, 5, 5)

    def paper(x):
        if not signed:
            return Round.apply(torch.clamp(x, 0, 1), bits, False)
        return 2 * Round.apply((torch.clamp(x, -1, 1) + 1) / 2, bits, False) - 1

    quantizer = in_bits(at(bits, DoReFaInputs), bits)
    quantizer(x if signed else x.relu())
    close(quantizer(x), paper(x))
    close(gradients(quantizer, x, upstream)[0], gradients(paper, x, upstream)[0])


@each_width
@pytest.mark.parametrize("signed", [True, False])
def test_clipped_inputs(bits, signed):
    x, upstream = 3 * doubles(4, 3, 5, 5), doubles(4, 3, 5, 5)

    def paper(x, alpha):
        x = torch.where(x > -alpha, x, -alpha) if signed else torch.relu(x)
        x = torch.where(x < alpha, x, alpha) / alpha
        return (2 * Round.apply((x + 1) / 2, bits, False) - 1 if signed else Round.apply(x, bits, False)) * alpha

    quantizer = in_bits(at(bits, ClippedInputs), bits)
    assert quantizer.level.tolist() == [[8.0]], "as in the authors' code"
    quantizer(x if signed else x.relu())
    quantizer.level.data.fill_(2.3)
    alpha = torch.tensor([2.3], dtype=torch.float64, requires_grad=True)
    close(quantizer(x), paper(x, alpha))
    got = gradients(quantizer, x, upstream, quantizer.level)
    expected = gradients(lambda x: paper(x, alpha), x, upstream, alpha)
    close(got[0], expected[0])
    close(got[1][0], expected[1])


def test_the_gradient_of_a_clipping_level_by_hand():
    """2 bit, a = 3: 0.4 becomes 0 (-0.4 / 3), 1.7 becomes 2 (0.3 / 3), 9 becomes 3 (1), -1 becomes 0 (0)."""
    quantizer = ClippedInputs(Precision([2])).double()
    quantizer(torch.ones(1, 1, dtype=torch.float64))
    quantizer.level.data.fill_(3.0)
    x = torch.tensor([[0.4, 1.7, 9.0, -1.0]], dtype=torch.float64)
    assert quantizer(x).tolist() == [[0.0, 2.0, 3.0, 0.0]]
    for upstream, level in (([1, 0, 0, 0], -0.4 / 3), ([0, 1, 0, 0], 0.1), ([0, 0, 1, 0], 1.0), ([0, 0, 0, 1], 0.0)):
        upstream = torch.tensor([upstream], dtype=torch.float64)
        to_x, to_level = gradients(quantizer, x, upstream, quantizer.level)
        assert float(to_level) == pytest.approx(level)
        assert torch.equal(to_x, upstream * torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("weights", [DoReFaWeights, RescaledWeights])
@pytest.mark.parametrize("constant", [0.0, 0.3, -2.0])
def test_weights_that_are_all_the_same_stay_finite(weights, constant):
    for bits in (1, 4):
        weight = torch.full((3, 2), constant, requires_grad=True)
        quantized = weights(Precision([bits]), 3)(weight)
        (gradient,) = torch.autograd.grad(quantized.sum(), weight)
        assert quantized.isfinite().all() and gradient.isfinite().all()


# --- by name


@pytest.mark.parametrize(
    "name, weights, inputs",
    [
        ("minmax", MinMaxWeights, MinMaxInputs),
        ("symmetric", SymmetricWeights, SymmetricInputs),
        ("nested", NestedWeights, NestedInputs),
        ("lsq", LSQWeights, LSQInputs),
        ("dorefa_scl", RescaledWeights, ClippedInputs),
        ("dorefa", DoReFaWeights, DoReFaInputs),
    ],
)
def test_names(name, weights, inputs):
    assert QUANTIZERS[name] == (weights, inputs)
