"""Words that exist: the numbers by hand of layers whose traffic was once counted with words that no chip moves."""

import pytest

import hw_model
from hw_model import Layer
from hw_model.cases import Case

WHOLE = {  # every dimension is looped over at DRAM, outermost first, each tile used up before the next
    "depth-wise 5x5 on 4x4": (Layer(G=8, P=4, Q=4, R=5, S=5, H=4, W=4, pad_top=2, pad_left=2), 8 * 16),
    "3x3 on 7x7": (Layer(K=4, C=4, P=7, Q=7, R=3, S=3, H=7, W=7, pad_top=1, pad_left=1), 4 * 49),
    "5x5 on 8x8": (Layer(K=2, C=3, P=8, Q=8, R=5, S=5, H=8, W=8, pad_top=2, pad_left=2), 3 * 64),
    "1x1 of stride 2": (Layer(K=128, C=64, P=28, Q=28, stride=2), 64 * 28 * 28),
    "3x3 of dilation 2": (Layer(C=2, P=3, Q=3, R=3, S=3, dilation=2), 2 * 49),
    "3x3 of dilation 3, one output": (Layer(C=2, R=3, S=3, dilation=3), 2 * 9),
}


@pytest.mark.parametrize(("layer", "inputs"), WHOLE.values(), ids=WHOLE)
def test_inputs_are_read_once_where_they_fit(layer, inputs):
    """The whole layer in one tile of the buffer."""
    loops = [[dim, size] for dim, size in zip(hw_model.DIMS, layer.sizes, strict=True)]
    device = {
        "extends": "simple256", "input_words": "real", "levels": {"glb": {"size_bits": 10**9}},
    }  # fmt: skip
    cost = hw_model.evaluate(layer, {"glb": loops}, device, 16)
    assert cost.levels["dram"]["I"].reads == inputs == layer.words("I")
    boxes = hw_model.evaluate(layer, {"glb": loops}, {**device, "input_words": "box"}, 16)
    rows = (layer.P - 1) * layer.stride_h + (layer.R - 1) * layer.dilation_h + 1
    assert boxes.levels["dram"]["I"].reads == layer.G * layer.C * rows * rows


@pytest.mark.parametrize("order", ["PQ", "QP"])
def test_a_strided_1x1_reads_what_it_needs_in_any_order(order):
    layer = Layer(K=128, C=64, P=28, Q=28, stride=2)
    outer = [[dim, 14] for dim in order]
    mapping = {"dram": [*outer, ["C", 64]], "glb": [["K", 128], ["P", 2], ["Q", 2]]}
    cost = hw_model.evaluate(layer, mapping, {"extends": "simple256", "input_words": "real"}, 16)
    assert cost.levels["dram"]["I"].reads == 50_176


def test_overshoot_costs_time_but_no_words():
    """17 filters on 16 columns: two turns, of which the second has one real column."""
    layer = Layer(K=17, C=64, P=14, Q=14)
    mapping = {"dram": [["K", 2]], "glb": [["P", 14], ["Q", 14]], "spatial_x": [["K", 16]], "rf": [["C", 64]]}
    cost = hw_model.evaluate(layer, mapping, {"extends": "simple256", "input_words": "real"}, 8)
    assert cost.levels["dram"]["O"].updates == 17 * 14 * 14 == 3_332
    assert cost.levels["dram"]["W"].reads == 17 * 64 == 1_088
    assert cost.levels["rf"]["W"].reads == cost.macs == layer.macs
    assert cost.padded_macs == 32 * 64 * 196 and cost.to_dict()["mac"]["count"] == layer.macs
    assert cost.cycles >= 2 * 14 * 14 * 64


def test_the_public_case_of_two_tools():
    """N=1, K=768, C=1408, P=512: tools give 35,389,440 and 39,321,600 DRAM words of W; the tensor times 32 is true."""
    layer = Layer(K=768, C=1408, P=512)
    mapping = {
        "dram": [["P", 32], ["C", 9]], "glb": [["C", 10], ["K", 48]], "spatial_y": [["C", 16]],
        "spatial_x": [["K", 16]], "rf": [["P", 16]],
    }  # fmt: skip
    device = {"extends": "simple256", "levels": {"glb": {"size_bits": 10**9}, "rf": {"size_bits": 10**6}}}
    cost = hw_model.evaluate(layer, mapping, device, 16)
    assert cost.levels["dram"]["W"].reads == 768 * 1408 * 32 == 34_603_008


def test_padding_moves_on_no_wire():
    """A 3x3 on one pixel: nine MACs, one real input at every level, on the network and at the MAC."""
    layer = Layer(R=3, S=3, H=1, W=1, pad_top=1, pad_left=1)
    cost = hw_model.evaluate(layer, {"rf": [["R", 3], ["S", 3]]}, "eyeriss", 8)
    for level in ("dram", "glb", "rf"):
        assert cost.levels[level]["I"].reads == 1
    assert cost.noc["I"].fills == 1 and cost.macs == cost.levels["rf"]["W"].reads == 9


def test_capacity_counts_the_box():
    layer = Layer(P=14, R=3, H=14, pad_top=1)
    with pytest.raises(hw_model.InvalidMapping, match="rf: I needs 256 bits, there are 192"):
        hw_model.evaluate(layer, {"rf": [["P", 14], ["R", 3]]}, "eyeriss", 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"R": 3, "P": 8, "H": 8, "pad_top": 3}, "layer: pad_top: 3 is as large as the dilated kernel, 3"),
        ({"S": 2, "dilation": 2, "Q": 9, "W": 9, "pad_left": 4}, "layer: pad_left: 4 is as large as the .* kernel, 3"),
        ({"P": 8, "H": 4}, "layer: padding at the bottom: 4 is as large as the dilated kernel, 1"),
        ({"P": 8, "H": 4, "pad_top": -1}, "layer: pad_top: -1 is not between 0"),
        ({"stride": 2, "stride_h": 1}, "layer: stride_h: 1 contradicts stride: 2"),
        ({"dilation": 2, "dilation_w": 3}, "layer: dilation_w: 3 contradicts dilation: 2"),
        ({"R": 3, "pad_top": 3}, "layer: pad_top: 3 leaves no real input"),
        ({"input_zeros": 1.5}, "layer: input_zeros: 1.5 is not a share"),
    ],
)
def test_bad_padding_and_strides_in_a_case(fields, message):
    case = {"layer": fields, "device": "eyeriss", "bits": 8, "mapping": {}}
    with pytest.raises(hw_model.InputError, match=message):
        Case.from_dict(case)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"W": 4, "I": 8, "X": 8}, "unknown tensor in bits: 'X'"),
        ({"W": 4, "I": 8}, "has no width for O"),
        ("w4", 'expected an integer from 1 to 32, "w4a8"'),
        ("w4a64", "expected an integer from 1 to 32, got 64"),
        (0, "bits: expected an integer from 1 to 32, got 0"),
    ],
)
def test_bad_widths(bits, message):
    with pytest.raises(hw_model.InputError, match=message):
        Case.from_dict({"layer": {}, "device": "eyeriss", "bits": bits, "mapping": {}})


def test_every_tensor_has_its_width():
    """Weights of 4 bit, inputs of 8, outputs of 16: each moves, and is stored, at its own."""
    layer = Layer(K=8, C=8)
    mapping = {"dram": [["K", 8]], "rf": [["C", 8]]}
    device = {"extends": "simple256", "psum_bits": 8}
    wide = hw_model.evaluate(layer, mapping, device, {"W": 4, "I": 8, "O": 16})
    for tensor, bits in (("W", 4), ("I", 8), ("O", 16)):
        alone = hw_model.evaluate(layer, mapping, device, bits)
        assert wide.levels["dram"][tensor].energy_pj == alone.levels["dram"][tensor].energy_pj
    assert hw_model.evaluate(layer, mapping, device, "w4a8").mac_energy_pj == wide.mac_energy_pj
    square = [hw_model.evaluate(layer, mapping, device, bits).mac_energy_pj for bits in (4, 8)]
    assert square[0] < wide.mac_energy_pj < square[1]
    assert hw_model.evaluate(layer, mapping, device, {"W": 8, "I": 8, "O": 8}) == hw_model.evaluate(
        layer, mapping, device, 8
    )


def test_output_bits_are_those_of_the_accumulator():
    layer = Layer(K=8, C=8)
    device = {"extends": "simple256", "psum_bits": 24}
    narrow = hw_model.evaluate(layer, {"dram": [["K", 8]], "rf": [["C", 8]]}, device, 8)
    wide = hw_model.evaluate(layer, {"dram": [["K", 8]], "rf": [["C", 8]]}, {**device, "output_bits": 24}, 8)
    assert wide.levels["dram"]["O"].energy_pj == 3 * narrow.levels["dram"]["O"].energy_pj
    assert wide.levels["dram"]["I"].energy_pj == narrow.levels["dram"]["I"].energy_pj


def test_idle_power_and_zero_gating():
    """1 mW at 200 MHz is 5 pJ a cycle; half the inputs zero: half the MAC energy, weight reads and sums of the MACs."""
    layer = Layer(K=8, C=8)
    mapping = {"dram": [["K", 8]], "rf": [["C", 8]]}
    plain = hw_model.evaluate(layer, mapping, {"extends": "eyeriss", "idle_power_mw": 0.0}, 16)
    idle = hw_model.evaluate(layer, mapping, {"extends": "eyeriss", "idle_power_mw": 1.0}, 16)
    assert idle.energy_pj - plain.energy_pj == pytest.approx(5 * plain.cycles) == pytest.approx(idle.idle_energy_pj)
    gating = {"extends": "eyeriss", "idle_power_mw": 0.0, "zero_gating": True}
    half = hw_model.evaluate(Layer(K=8, C=8, input_zeros=0.5), mapping, gating, 16)
    assert half.mac_energy_pj == plain.mac_energy_pj / 2
    saved = layer.macs * 16 * 0.068359375 / 2  # of the reads of weights at the register file
    assert plain.levels["rf"]["W"].energy_pj - half.levels["rf"]["W"].energy_pj == pytest.approx(saved)
    assert half.levels["rf"]["O"].energy_pj < plain.levels["rf"]["O"].energy_pj
    assert half.levels["rf"]["I"] == plain.levels["rf"]["I"] and half.levels["glb"] == plain.levels["glb"]
    off = hw_model.evaluate(Layer(K=8, C=8, input_zeros=0.5), mapping, {**gating, "zero_gating": False}, 16)
    assert off.energy_pj == plain.energy_pj
