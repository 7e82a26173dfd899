"""What the arrays of the devices can do: axes, sums, forwarded inputs, lanes, fused MACs."""

import numpy as np
import pytest

import hw_model
from automapper.evolve import Evolution
from automapper.objective import parse_objective
from automapper.space import Search
from automapper.workload import Problem

TILE = {"spatial_y": [["P", 8]], "spatial_x": [["Q", 8]]}


@pytest.mark.parametrize(("taps", "forwarded", "alone"), [(3, 128, 576), (5, 256, 1600), (7, 448, 3136)])
@pytest.mark.parametrize("order", ["RS", "SR"])
def test_shidiannao_reads_of_inputs(taps, forwarded, alone, order):
    """Per output tile of 8 x 8, a tap a step; Du et al., ISCA 2015, count the same."""
    loops = [[dim, taps] for dim in order]
    without = {"extends": "shidiannao", "forward_inputs": False}
    for device, expected in (("shidiannao", forwarded), (without, alone)):
        one = hw_model.evaluate(hw_model.Layer(P=8, Q=8, R=taps, S=taps), TILE | {"sram": loops}, device, 16)
        assert one.levels["sram"]["I"].reads == expected
        many = hw_model.Layer(G=3, P=16, Q=24, R=taps, S=taps)
        tiles = {"dram": [["G", 3]], "sram": [["P", 2], ["Q", 3], *loops]}
        assert hw_model.evaluate(many, TILE | tiles, device, 16).levels["sram"]["I"].reads == 18 * expected
        deep = hw_model.Layer(K=2, C=5, P=8, Q=8, R=taps, S=taps)
        cost = hw_model.evaluate(deep, TILE | {"dram": [["K", 2]], "sram": [["C", 5], *loops]}, device, 16)
        assert cost.levels["sram"]["I"].reads == 10 * expected


AXES = {  # device: dimensions along x, along y, on lanes
    "shidiannao": ("Q", "P", ""),
    "bitfusion": ("K", "C", ""),
    "edge_tpu_like": ("K", "CRS", ""),
    "simba_like": ("K", "C", "KC"),
    "eyeriss": ("NGKPQ", "NGKCPQRS", ""),
    "eyeriss_v1_norm": ("NGKPQ", "NGKCPQRS", ""),
}
REDUCES = {"shidiannao": (False, False)}  # the others add up along y


@pytest.mark.parametrize("name", AXES)
def test_axes_carry_what_the_chip_can(name):
    device = hw_model.load_device(name)
    assert device.reduces == REDUCES.get(name, (False, True))
    slots = ("spatial_x", "spatial_y", "lanes") if device.lanes > 1 else ("spatial_x", "spatial_y")
    for slot, legal in zip(slots, AXES[name], strict=False):
        for dim in hw_model.DIMS:
            layer = hw_model.Layer(**{dim: 2})
            row = {slot: [[dim, 2]]}
            factors, orders = hw_model.encode(hw_model.Mapping.from_dict(row), device)[:2]
            batch = hw_model.evaluate_batch(layer, factors[None], orders[None], device, 8)
            if dim in legal:
                assert hw_model.evaluate(layer, row, device, 8).active_pes == (1 if slot == "lanes" else 2)
                assert batch.valid[0]
                continue
            with pytest.raises(hw_model.InvalidMapping) as caught:
                hw_model.evaluate(layer, row, device, 8)
            what = "lanes" if slot == "lanes" else slot
            assert f"array: {what} cannot carry {dim} on device {name}, only {', '.join(legal)}" in caught.value.reasons
            assert not batch.valid[0] and batch.violation[0] == pytest.approx(1.0)


DEPTH_WISE = hw_model.Layer(G=96, P=28, Q=28, R=3, S=3)
BUSY = {"bitfusion": 1, "edge_tpu_like": 9, "simba_like": 1, "shidiannao": 64}  # MACs a cycle at most, 8 bit


@pytest.mark.parametrize("name", BUSY)
def test_depth_wise_layers_are_slow(name):
    device = hw_model.load_device(name)
    search = Evolution([Search(Problem(DEPTH_WISE, 8))], device, parse_objective("latency"), 0).advance(2000, 1.0)
    cost = hw_model.evaluate(DEPTH_WISE, search.best(0), device.unlimited(), 8)
    assert cost.cycles >= DEPTH_WISE.macs / BUSY[name]
    assert cost.cycles <= 4 * DEPTH_WISE.macs / BUSY[name]


def test_fused_macs_need_channels():
    """Bit Fusion does four 4-bit MACs at once, of different input channels; a depth-wise layer has one."""
    wide = hw_model.Layer(C=8, P=4)
    for layer, at_4_bit in ((wide, 8), (hw_model.Layer(G=8, P=4), 32), (hw_model.Layer(C=2, P=16), 16)):
        loops = {"dram": [[dim, n] for dim, n in zip(hw_model.DIMS, layer.sizes, strict=True) if n > 1]}
        device = hw_model.load_device("bitfusion").unlimited()
        assert hw_model.evaluate(layer, loops, device, 8).cycles == layer.macs
        assert hw_model.evaluate(layer, loops, device, 4).cycles == at_4_bit
        free = {"extends": "bitfusion", "mac": {"fused_dims": list(hw_model.DIMS)}}
        assert hw_model.evaluate(layer, loops, hw_model.load_device(free).unlimited(), 4).cycles == layer.macs / 4
        assert hw_model.evaluate(layer, loops, device, 16).cycles == layer.macs * 4
    rows = {"spatial_y": [["C", 8]], "dram": [["P", 4]]}
    assert hw_model.evaluate(wide, rows, hw_model.load_device("bitfusion").unlimited(), 4).cycles == 4


def test_bit_fusion_outputs_leave_at_accumulator_width():
    layer = hw_model.Layer(K=32, C=16, P=7, Q=7)
    mapping = {"spatial_x": [["K", 32]], "spatial_y": [["C", 16]], "buffer": [["P", 7], ["Q", 7]]}
    four, eight = (hw_model.evaluate(layer, mapping, "bitfusion", bits) for bits in (4, 8))
    assert four.levels["dram"]["O"] == eight.levels["dram"]["O"]
    assert four.levels["dram"]["O"].energy_pj == pytest.approx(layer.words("O") * 32 * 16.0)


def test_bad_fields():
    for fields, message in (
        ({"array": {"lanes_dims": ["Z"]}}, "lanes_dims"),
        ({"mac": {"fused_dims": "C"}}, "fused_dims: expected a list of dimensions"),
    ):
        with pytest.raises(hw_model.InputError, match=message):
            hw_model.load_device({"extends": "simba_like"} | fields)


def test_violation_of_lanes_counts_the_whole_factor():
    device = hw_model.load_device("simba_like")
    factors, orders = hw_model.encode(hw_model.Mapping.from_dict({"lanes": [["P", 32]]}), device)[:2]
    batch = hw_model.evaluate_batch(hw_model.Layer(P=32), factors[None], orders[None], device, 8)
    assert batch.violation[0] == pytest.approx(np.log2(32))
