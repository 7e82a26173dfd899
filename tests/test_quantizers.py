"""What every quantizer promises: codes in range, exact reconstruction, state per bit-width; files of old versions."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import TINY_GEOMETRY

from instantnet.engine.checkpoint import load_weights
from instantnet.engine.errors import UserError
from instantnet.model_infer import DerivedNetwork
from instantnet.quantize import Precision, SwitchableConv2d, SwitchableLinear
from instantnet.quantizers import QUANTIZERS, Quantizer

OPS = ["k3_e3", "k5_e1_g2", "skip", "k3_e1"]
BITS = (1, 2, 4, 8, 16, 32)
MEASURING = ["minmax", "symmetric", "nested", "lsq"]
LEARNING = ["lsq", "dorefa_scl"]
SPECIAL = [float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 0.0, 3e38, -3e38]


def bits_of(name: str) -> tuple[int, ...]:
    return tuple(bits for bits in BITS if bits >= QUANTIZERS[name].lowest_bits)


def quantized(*widths: int):
    """Every quantizer with each bit-width that it has."""
    cases = [(name, bits) for name in QUANTIZERS for bits in widths if bits >= QUANTIZERS[name].lowest_bits]
    return pytest.mark.parametrize("name, bits", cases)


def operands(precision: Precision) -> list[tuple[Quantizer, torch.Tensor]]:
    """Quantizers of each kind with a tensor for each."""
    scheme = QUANTIZERS[precision.quantizer]
    return [
        (scheme.weights(precision, 6), torch.randn(6, 4, 3, 3)),
        (scheme.weights(precision, 4, axis=1), torch.randn(6, 4, 3, 3)),
        (scheme.inputs(precision, None), torch.randn(3, 4, 5, 5)),
        (scheme.inputs(precision, 4), torch.randn(3, 4, 5, 5)),
        (scheme.inputs(precision, None), torch.randn(5, 7)),
    ]


@quantized(1, 2, 4, 8, 16)
@pytest.mark.parametrize("training", [True, False])
def test_codes_reconstruct_the_fake_quantized_tensor_exactly(name, bits, training):
    precision = Precision(bits_of(name), quantizer=name)
    precision.set(bits)
    for quantizer, x in operands(precision):
        quantizer(x)
        quantizer.train(training)
        before = copy.deepcopy(quantizer.state_dict())
        wider = x * 1.5  # in evaluation beyond the running range
        codes = quantizer.codes(wider)
        assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items()), "records nothing"
        assert codes.codes.dtype == codes.zero_point.dtype == torch.int64
        assert codes.codes.shape == x.shape
        assert codes.codes.min() >= 0 and codes.codes.max() <= 2**bits - 1
        assert torch.equal(codes.values(), quantizer(wider))


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("measured", [True, False])
@given(
    values=st.lists(st.sampled_from(SPECIAL) | st.floats(width=32), min_size=1, max_size=12),
    bits=st.sampled_from([1, 2, 4, 8, 16, 24, 25, 31]),
)
def test_codes_are_in_range_for_every_input(name, measured, values, bits):
    """Also where another batch, of ordinary numbers, has set the state."""
    bits = max(bits, QUANTIZERS[name].lowest_bits)
    scheme, precision = QUANTIZERS[name], Precision([bits], quantizer=name)
    for quantizer in (scheme.inputs(precision, None), scheme.weights(precision, 1)):
        if measured:
            quantizer(torch.tensor([[-1.0, 0.3, 2.0]]))
            quantizer.eval()
        codes, _, zero_point, _ = quantizer.codes(torch.tensor([values]))
        assert codes.min() >= 0 and codes.max() <= 2**bits - 1
        assert zero_point.min() >= 0 and zero_point.max() <= 2**bits - 1


@pytest.mark.sample(40)
@quantized(1, 2, 4, 8, 16, 24, 25, 31)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31), size=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]), shift=st.sampled_from([0.0, -3.0, 7.0])
)
def test_any_numbers_are_reconstructed_exactly(name, bits, dtype, seed, size, shift):
    scheme, precision = QUANTIZERS[name], Precision([bits], quantizer=name)
    x = size * (torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift)
    for quantizer in (scheme.inputs(precision, None), scheme.inputs(precision, 3), scheme.weights(precision, 5)):
        quantizer.to(dtype)
        for training in (True, False):
            assert torch.equal(quantizer.train(training)(x), quantizer.codes(x).values())
            assert len(quantizer(x)[0, 0].unique()) <= 2**bits


@pytest.mark.parametrize("name", QUANTIZERS)
def test_32_bit_passes_and_has_no_codes(name):
    for quantizer, x in operands(Precision(bits_of(name), quantizer=name)):
        assert quantizer(x) is x
        with pytest.raises(ValueError, match="float"):
            quantizer.codes(x)


@pytest.mark.parametrize("name", MEASURING)
def test_state_is_per_bit_width(name):
    """What 4 bit has seen is not what 8 bit evaluates with, and forgetting one leaves the other."""
    precision = Precision((4, 8, 32), quantizer=name)
    quantizer, x = QUANTIZERS[name].inputs(precision, None), torch.rand(2, 3, 4, 4)
    results = {}
    for bits, factor in ((4, 1.0), (8, 10.0)):
        precision.set(bits)
        quantizer.train()(factor * x)
        results[bits] = quantizer.eval()(5 * x)
    precision.set(4)
    assert torch.equal(quantizer(5 * x), results[4])
    assert results[4].max() < 4 < results[8].max()
    precision.set(8)
    quantizer.reset()
    precision.set(4)
    assert torch.equal(quantizer(5 * x), results[4])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_learned_is_the_quantizers_own(name):
    for quantizer, _ in operands(Precision(bits_of(name), quantizer=name)):
        assert {id(p) for p in quantizer.learned()} == {id(p) for p in quantizer.parameters()}
    assert bool(QUANTIZERS[name].inputs(Precision((2, 4)), 3).learned()) == (name in LEARNING)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_layer_has_two_that_read_its_networks_state(name):
    precision = Precision((4, 32), quantizer=name)
    for layer in (SwitchableConv2d(3, 6, 3, precision=precision), SwitchableLinear(3, 6, precision=precision)):
        assert type(layer.weight_quantizer) is QUANTIZERS[name].weights
        assert type(layer.input_quantizer) is QUANTIZERS[name].inputs
        assert layer.weight_quantizer.precision is precision.weights
        assert layer.input_quantizer.precision is precision.activations


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"'lsqq' is not one of \['minmax'"):
        Precision([4], quantizer="lsqq")


# --- files of earlier versions


def as_written_before(state: dict) -> dict:
    """The names that ranges had when a layer's quantizer was called input_range."""
    renamed = {name.replace(".input_quantizer.", ".input_range."): tensor for name, tensor in state.items()}
    assert renamed.keys() != state.keys()
    return renamed


@pytest.fixture
def trained():
    model = DerivedNetwork(OPS, TINY_GEOMETRY, Precision((4, 32)))
    model(torch.randn(4, 3, 8, 8), num_bits=4)
    return model


@pytest.mark.parametrize("through", ["load_state_dict", "load_weights"])
def test_old_names_load(trained, through):
    old = as_written_before(trained.state_dict())
    model = DerivedNetwork(OPS, TINY_GEOMETRY, Precision((4, 32)))
    given = dict(old)
    if through == "load_weights":
        load_weights(model, given, "weights.pt")
    else:
        model.load_state_dict(given)
    assert given.keys() == old.keys(), "the caller's dictionary stays as it was"
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.eval()(images, num_bits=4), trained.eval()(images, num_bits=4))


def test_old_names_of_an_average_load(trained):
    """A running average holds the network as `.module`."""
    holder = torch.nn.Module()
    holder.module = DerivedNetwork(OPS, TINY_GEOMETRY, Precision((4, 32)))
    old = as_written_before({f"module.{name}": tensor for name, tensor in trained.state_dict().items()})
    load_weights(holder, old, "checkpoint.pt")
    assert all(torch.equal(t, holder.module.state_dict()[name]) for name, t in trained.state_dict().items())


def test_a_name_that_no_version_had_is_refused(trained):
    weights = {name.replace("input_quantizer", "input_ranges"): t for name, t in trained.state_dict().items()}
    with pytest.raises(UserError, match="has no 'cells"):
        load_weights(trained, weights, "weights.pt")


def test_a_loaded_network_exports(trained):
    """No branch of its passes depends on a buffer."""
    model = DerivedNetwork(OPS, TINY_GEOMETRY, Precision((4, 32))).eval()
    model.load_state_dict(trained.state_dict())
    model.set_bits(4)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images), model(images))
