"""The integer network: its graph, its NumPy form against fake quantization, and on disk."""

import copy
import errno
import json
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import settings as network_settings
from test_quantizer_networks import NETWORKS
from torch import nn

import instantnet
from instantnet.deploy import export, oracle, parity, stored
from instantnet.deploy.export import Subject, lowered
from instantnet.deploy.graph import graph_of
from instantnet.deploy.packed import packed, unpacked
from instantnet.deploy.program import fixed_point, taps_inside
from instantnet.engine.errors import UserError
from instantnet.networks.build import build_network
from instantnet.quantize import Precision, recalibrate
from instantnet.quantizers import QUANTIZERS

SHAPE = (3, 8, 8)
BITS = (4, 8, 16, 32)
by_name = pytest.mark.parametrize("name", QUANTIZERS)


def pictures(count=4, seed=0, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def calibrated(model):
    """With ranges, and norms of its own at every bit-width."""
    for bits in model.precision.bit_widths:
        recalibrate(model, bits, [(pictures(8, bits), None)])
    return model.eval()


def network(kind, name, bits=BITS):
    torch.manual_seed(0)
    return calibrated(NETWORKS[kind](Precision(bits, quantizer=name)))


def both(model, shape=SHAPE):
    return lowered(Subject("test", model, shape))


# --- the graph


def test_the_graph_of_a_block():
    graph = graph_of(network("derived", "symmetric"), SHAPE)
    shown = {node.name: (node.op, node.inputs, node.clamp is not None) for node in graph.nodes.values()}
    assert shown["cells.1.expand"] == ("conv", ["add"], True)
    assert shown["cells.1.shuffle"] == ("shuffle", ["cells.1.expand"], False)
    assert shown["cells.1.depthwise"] == ("conv", ["cells.1.shuffle"], True)
    assert [node.op for node in graph.nodes.values()][-3:] == ["avg_pool", "flatten", "linear"]
    assert graph.output == "classifier" and not graph.nodes["stem.conv"].quantized


class Odd(nn.Module):
    """A network with one operation that has no integer form."""

    def __init__(self, what):
        super().__init__()
        self.first, self.second, self.odd = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), what
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.odd(self.second(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (nn.Sigmoid(), "odd: Sigmoid has no integer form here; use convolutions, "),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), "odd.1: a batch norm that is not directly behind a convolution"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "odd: a convolution with padding 'reflect'"),
        (nn.AvgPool2d(2, padding=1), "an average pooling with padding or ceil_mode"),
        (nn.ConvTranspose2d(4, 4, 1), "odd: SwitchableConvTranspose2d has no integer form"),
    ],
    ids=["activation", "norm", "padding", "pooling", "transposed"],
)
def test_an_operation_without_integer_form_is_named(odd, said):
    model = instantnet.switchable(Odd(odd), [8, 32], quantizer="symmetric", example=pictures(2))
    with pytest.raises(UserError) as error:
        both(model.eval())
    assert said in str(error.value)


def test_a_forward_that_depends_on_values_is_refused():
    class Branches(Odd):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    model = instantnet.switchable(Branches(nn.ReLU()), [8, 32], quantizer="symmetric", example=pictures(2))
    with pytest.raises(UserError, match="cannot be traced"):
        both(model.eval())


def test_a_quantizer_without_codes_is_named():
    model = network("derived", "symmetric", (8, 32))
    model.cells[0].expand.weight_quantizer.codes = lambda x: (_ for _ in ()).throw(NotImplementedError)
    with pytest.raises(UserError, match=r"cells.0.expand: SymmetricWeights offers no codes.*symmetric"):
        both(model)


def test_an_unmeasured_range_is_named():
    with pytest.raises(UserError, match="the range of its input at 8 bit was never measured"):
        both(NETWORKS["derived"](Precision((8, 32), quantizer="symmetric")))


# --- the NumPy form against fake quantization


OTHERS = [(kind, name) for kind in ("resnet38", "mobilenet_v2", "ends") for name in QUANTIZERS]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("derived", name) for name in QUANTIZERS]
    + [("resnet38", "symmetric")]
    + [pytest.param(*each, marks=pytest.mark.full) for each in OTHERS],
)
def test_codes_equal_those_of_fake_quantization(kind, name):
    """In float64, where another order of a sum is too little to reach another code: every layer's, and all logits."""
    model = network(kind, name).double()
    graph, program = both(model)
    for bits in program.bit_widths:
        found = parity.code_parity(model, graph, program, pictures(2, 5).numpy(), bits, real=True)
        assert found.codes > 100 and found.off_by_one == found.further == 0
        assert found.logits.max_logit_difference < 1e-12


@by_name
def test_integer_requantization_is_rarely_off(name):
    """In a network of a few layers; further down one code off shifts others."""
    model = network("derived", name, (4, 8, 32)).double()
    graph, program = both(model)
    for bits in program.bit_widths:
        found = parity.code_parity(model, graph, program, pictures(8, 5).numpy(), bits)
        assert found.off_by_one < 1e-3 and found.further == 0
        assert found.logits.max_logit_difference < 0.02


class Residual(nn.Module):
    """What the built-in networks do not have: bias, dilation, unequal sizes, pooling, two readers of one value."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 1), stride=(1, 2), padding=(2, 0), bias=True)
        self.pool = nn.MaxPool2d(2, stride=1, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.right = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.wide = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.smaller, self.hidden, self.last = nn.AvgPool2d(2), nn.Linear(240, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        y = nn.functional.relu6(self.left(x) + self.right(x))
        y = self.smaller(self.wide(y))
        return self.last(self.hidden(torch.flatten(y, 1)).relu())


@by_name
@pytest.mark.parametrize("keep_float", [["last"], []], ids=["float_end", "all"])
def test_a_converted_network_equals_fake_quantization(name, keep_float):
    torch.manual_seed(1)
    converted = instantnet.switchable(
        Residual(), BITS, quantizer=name, keep_float=keep_float, example=pictures(2, shape=(3, 8, 9))
    )
    for bits in BITS:
        recalibrate(converted, bits, [(pictures(8, bits, (3, 8, 9)), None)])
    model = converted.double().eval()
    graph, program = both(model, (3, 8, 9))
    for bits in program.bit_widths:
        for real in (True, False):
            found = parity.code_parity(model, graph, program, pictures(4, 6, (3, 8, 9)).numpy(), bits, real)
            assert found.off_by_one <= (0 if real else 0.05 if bits == 16 else 0.001)
            assert found.further <= (0.01 if bits == 16 and not real else 0)


def test_inputs_beyond_the_declared_range_saturate():
    model = network("resnet38", "symmetric")
    _, program = both(model)
    values = oracle.run_all(program, 1e6 * pictures(1).numpy(), 8)
    wide = [value for step, value in zip(program.steps, values, strict=True) if step.kind == "wide"]
    assert wide and all(np.abs(value).max() <= 1 << 30 for value in wide)


def test_accumulators_are_proven():
    """The worst input reaches the bound from which 32 or 64 bit is chosen."""
    model = network("ends", "symmetric")
    _, program = both(model)
    widths = set()
    for step in program.steps:
        for bits in program.bit_widths:
            if step.is_layer:
                at = step.at[bits]
                weight = at["weight"].reshape(len(at["weight"]), -1).astype(object)
                highest = (1 << bits) - 1 - at["zero"].min()
                worst = max(int(np.abs(row).sum()) for row in weight) * max(int(at["zero"].max()), int(highest))
                assert int(at["long"]) == (worst >= 2**31)
                widths.add(int(at["long"]))
    assert widths == {0, 1}


# --- fixed point, borders, packing


@settings(deadline=None, max_examples=100)
@given(
    a=st.floats(-1e3, 1e3), c=st.floats(-1e3, 1e3), b=st.floats(-1e6, 1e6),
    at=st.integers(-(2**24), 2**24), s=st.integers(-(2**16), 2**16),
)  # fmt: skip
def test_fixed_point_is_the_rounded_real_number(a, c, b, at, s):
    parts = (np.array([part]) for part in (a, c, b))
    found = fixed_point(*parts, np.array([2.0**24]), np.array([2.0**16]))
    multiplier, second, addend, shift = (int(found[name][0]) for name in ("multiplier", "second", "addend", "shift"))
    assert max(abs(multiplier), abs(second)) <= 2**31
    assert abs(at * multiplier + s * second + addend) < 2**63
    exact = Fraction(a) * at + Fraction(c) * s + Fraction(b)
    allowed = Fraction(1, 2) + Fraction(2**25 + 2**16, 2**shift) + abs(Fraction(b)) / 2**50
    assert abs(((at * multiplier + s * second + addend) >> shift) - exact) <= allowed


def test_fixed_point_refuses_what_does_not_fit():
    huge, zero = np.array([1e30]), np.zeros(1)
    with pytest.raises(OverflowError):
        fixed_point(huge, zero, zero, np.array([1e6]), zero)
    with pytest.raises(OverflowError):
        fixed_point(np.array([np.nan]), zero, zero, np.array([1e6]), zero)


def test_taps_inside():
    assert taps_inside(4, 2, 3, 2, 1, 1).tolist() == [[False, True, True], [True, True, True]]
    assert taps_inside(3, 1, 2, 1, 0, 5).tolist() == [[True, False]]


@pytest.mark.parametrize("shape", [(1,), (3, 2), (2, 3, 1, 1)])
def test_packed_halves(shape):
    values = np.random.default_rng(0).integers(-8, 8, shape)
    assert packed(values).nbytes == -(-values.size // 2)
    assert np.array_equal(unpacked(packed(values), shape), values)


# --- on disk


@by_name
def test_a_stored_network_computes_the_same(name, tmp_path):
    _, program = both(network("derived", name))
    (tmp_path / "switchable.safetensors").write_bytes(stored.safetensors_file(program))
    (tmp_path / "card.json").write_text(json.dumps({"program": stored.steps_of(program)}))
    again = stored.read(tmp_path)
    for bits in program.bit_widths:
        before, after = (oracle.run_all(one, pictures(2).numpy(), bits) for one in (program, again))
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_one_tensor_serves_all_bit_widths_of_nested():
    for name, held in (("nested", [".weight"]), ("symmetric", [f".{bits}bit.weight" for bits in (4, 8, 16)])):
        _, program = both(network("derived", name))
        found = stored.tensors(program)
        weights = [key for key in found if key.startswith("cells.0.expand.") and key.endswith(".weight")]
        assert sorted(weights) == sorted(f"cells.0.expand{end}" for end in held)
    assert found["cells.0.expand.4bit.weight"].nbytes * 4 == found["cells.0.expand.16bit.weight"].nbytes


@pytest.mark.parametrize("damage", ["card", "tensors", "format", "deep", "fifo"])
def test_a_damaged_folder_is_one_line(tmp_path, damage):
    _, program = both(network("ends", "symmetric"))
    (tmp_path / "switchable.safetensors").write_bytes(
        b"x" * 99 if damage == "tensors" else stored.safetensors_file(program)
    )
    card = {"program": stored.steps_of(program) | ({"format": 9} if damage == "format" else {})}
    if damage == "fifo":
        os.mkfifo(tmp_path / "card.json")
        with pytest.raises(UserError, match="holds other files"):
            export.check_folder(tmp_path)
    else:
        text = {"card": "{", "deep": "[" * 100_000}.get(damage, json.dumps(card))
        (tmp_path / "card.json").write_text(text)
    with pytest.raises(UserError, match="no network of instantnet"):
        stored.read(tmp_path)


def test_the_export_leaves_the_network_as_it_was():
    model = network("derived", "symmetric")
    model.set_bits(8)
    before = copy.deepcopy(model.state_dict())
    both(model)
    assert model.precision.bits == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_names_and_widths_of_the_built_in_networks():
    model = build_network({"network": "resnet38"}, network_settings(8, width_mult=0.25), Precision((32,)))
    with pytest.raises(UserError, match="no bit-width below 32"):
        both(model.eval())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits_of": {"wide": 4}}, "wide: runs at 4 bit while the network is at 8"),
        ({"quantize_residual": True}, "its quantized additions have no exported form"),
    ],
)
def test_widths_that_an_export_does_not_have_are_named(options, said):
    example = pictures(2, shape=(3, 8, 9))
    model = instantnet.switchable(Residual(), [8, 32], quantizer="symmetric", example=example, **options)
    model(example, num_bits=8)
    with pytest.raises(UserError, match=said):
        both(model.eval(), (3, 8, 9))


def test_an_export_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    folder = tmp_path / "deploy"
    export.write({"card.json": json.dumps({"kind": export.KIND}).encode(), "c/old.c": b"old"}, folder)
    rename = os.rename

    def fails_for_the_new(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_for_the_new)
    with pytest.raises(UserError, match="the export before, if any, is intact"):
        export.write({"card.json": b"{}"}, folder)
    assert (folder / "c" / "old.c").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]
