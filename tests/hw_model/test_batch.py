"""The batched path gives the numbers of the single one and flags what that one raises, on any number of threads."""

import random

import numpy as np
import pytest
import random_cases

import hw_model
from hw_model.batch import REASONS, ROWS_PER_THREAD
from hw_model.layer import DIMS
from hw_model.reasons import invalid_reasons

WORDS = {
    "spatial_x": "array: spatial_x",
    "spatial_y": "array: spatial_y",
    "uncovered": "dimension ",
    "capacity": " bits",
    "bypass": "cannot bypass",
    "overflow": "overflow",
}


def may_carry(device, slot, dim):
    """Whether a dimension may lie on a slot: anything on a temporal one."""
    axes = {"spatial_x": device.axis_dims[0], "spatial_y": device.axis_dims[1]}
    return dim in axes.get(slot, DIMS)


def random_rows(rng, device, layer, count, spread=2):
    """Factors and orders [count, ..] around a layer's sizes: valid and invalid mappings of every kind."""
    slots, n_levels = len(device.slots), len(device.levels)
    factors = np.ones((count, slots, 8), np.int32)
    for row in factors:
        for d, size in enumerate(layer.sizes):
            rest = size
            for slot in rng.permutation(slots):
                n = int(rng.integers(1, rest + 1)) if rng.random() < 0.5 else 1
                if not may_carry(device, device.slots[slot], DIMS[d]) and rng.random() < 0.9:
                    n = 1
                row[slot, d] = n
                rest = -(-rest // n)
            if rng.random() < 0.9:
                row[0, d] *= rest
    orders = rng.permuted(np.tile(np.arange(8, dtype=np.int8), (count * n_levels, 1)), axis=1)
    bypass = rng.integers(0, 8, (count, n_levels)).astype(np.uint8)
    bypass[:, 0] = 0
    bypass[rng.random((count, n_levels)) < 0.7] = 0
    return factors, orders.reshape(count, n_levels, 8), bypass


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", hw_model.device_names())
@pytest.mark.parametrize("bits", [4, 16, 32])
def test_equal_to_single_evaluation(name, bits):
    rng = np.random.default_rng(bits)
    device = hw_model.load_device(name)
    layers = [hw_model.Layer(N=2, K=8, C=6, P=7, Q=7, R=3, S=3, stride=2), hw_model.Layer(G=12, P=10, Q=10, R=5, S=5)]
    for layer in layers:
        factors, orders, bypass = random_rows(rng, device, layer, 300)
        batch = hw_model.evaluate_batch(layer, factors, orders, device, bits, bypass=bypass)
        assert 20 < batch.valid.sum() < 300
        for row in range(300):
            mapping = hw_model.decode(factors[row], orders[row], device, bypass[row])
            if not batch.valid[row]:
                reasons = " | ".join(invalid_reasons(layer, mapping.on(device), device, bits))
                for bit, reason in enumerate(REASONS):
                    if reason in WORDS:
                        assert bool(batch.reason[row] >> bit & 1) == (WORDS[reason] in reasons), (reason, reasons)
                assert batch.violation[row] > 0 and batch.energy_pj[row] == np.inf and batch.edp_js[row] == np.inf
                with pytest.raises(hw_model.InvalidMapping):
                    hw_model.evaluate(layer, mapping, device, bits)
                continue
            cost = hw_model.evaluate(layer, mapping, device, bits)
            assert (batch.energy_pj[row], batch.cycles[row]) == (cost.energy_pj, cost.cycles)
            assert batch.violation[row] == 0
            assert batch.edp_js[row] == pytest.approx(cost.edp_js, rel=1e-14)


def test_rows_with_layers_and_bits_of_their_own():
    rng = np.random.default_rng(5)
    device = hw_model.load_device("simple256")
    layers = [hw_model.Layer(K=4, C=4, P=5), hw_model.Layer(K=4, C=4, P=6, stride=2), hw_model.Layer(K=4, C=3, P=6)]
    factors, orders, bypass = random_rows(rng, device, layers[1], 200)
    problem = rng.integers(0, 3, 200)
    mixed = hw_model.evaluate_batch(layers, factors, orders, device, [4, 8, 16], bypass=bypass, problem=problem)
    for index, (layer, bits) in enumerate(zip(layers, (4, 8, 16), strict=True)):
        alone = hw_model.evaluate_batch(layer, factors, orders, device, bits, bypass=bypass)
        rows = problem == index
        assert np.array_equal(mixed.energy_pj[rows], alone.energy_pj[rows])
        assert np.array_equal(mixed.reason[rows], alone.reason[rows])


def test_threads_change_nothing():
    rng = np.random.default_rng(6)
    device = hw_model.load_device("eyeriss")
    layer = hw_model.Layer(K=8, C=8, P=6, Q=6, R=3, S=3)
    arrays = [np.tile(a, (40, *[1] * (a.ndim - 1))) for a in random_rows(rng, device, layer, 200)]
    assert len(arrays[0]) > 3 * ROWS_PER_THREAD
    one, three = (
        hw_model.evaluate_batch(layer, *arrays[:2], device, 8, bypass=arrays[2], threads=threads) for threads in (1, 3)
    )
    for field in ("energy_pj", "cycles", "reason", "violation"):
        assert np.array_equal(getattr(one, field), getattr(three, field))


def test_violation_tells_how_far():
    device = hw_model.load_device("simple256")
    layer = hw_model.Layer(K=512)
    factors, orders, _ = hw_model.encode_batch(
        [{"rf": [["K", 512]]}, {"rf": [["K", 256]]}, {"rf": [["K", 64]]}], device
    )
    batch = hw_model.evaluate_batch(layer, factors, orders, device, 16)
    # 512 and 256 outputs and weights in 256 words: 4 and 2 times too much, and 256 of 512 outputs: half covered
    assert batch.violation == pytest.approx([np.log2(1025 / 256), np.log2(513 / 256) + 1, 3])


@pytest.mark.parametrize("seed", range(40))
def test_encode_decode(seed):
    rng = random.Random(seed)
    device = hw_model.load_device(random_cases.device_fields(rng))
    _layer, loops = random_cases.layer_and_loops(rng, list(device.slots))
    loops = {slot: list({dim: (dim, n) for dim, n in pairs}.values()) for slot, pairs in loops.items()}
    mapping = hw_model.Mapping.from_dict({**loops, "bypass": {device.level_names[-1]: ["I"]}})
    factors, orders, bypass = hw_model.encode(mapping, device)
    back = hw_model.decode(factors, orders, device, bypass)
    assert back.bypass == mapping.bypass
    for slot in device.level_names:
        assert back[slot] == mapping.on(device)[slot]
    again = hw_model.encode(back, device)
    assert all(np.array_equal(one, two) for one, two in zip((factors, orders, bypass), again, strict=True))


def test_repeated_dimension_in_a_level():
    device = hw_model.load_device("simple256")
    split = {"glb": [["K", 2], ["C", 3], ["K", 2]]}
    with pytest.raises(hw_model.InputError, match="glb: dimension K twice"):
        hw_model.encode(split, device)
    together = {"glb": [["K", 2], ["K", 2], ["C", 3]]}
    layer = hw_model.Layer(K=4, C=3)
    same = hw_model.evaluate(layer, {"glb": [["K", 4], ["C", 3]]}, device, 16)
    assert hw_model.evaluate(layer, together, device, 16) == same
    factors, orders, _ = hw_model.encode(together, device)
    assert factors[1, DIMS.index("K")] == 4 and orders[1, 0] == DIMS.index("K")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": np.ones((3, 4, 8), np.int32)}, r"factors: expected an array \[B, 5, 8\], got \[3, 4, 8\]"),
        ({"factors": np.ones((3, 5, 8))}, "factors: expected integers, got float64"),
        ({"factors": np.full((3, 5, 8), 2**40)}, "factors: expected numbers from"),
        ({"orders": np.zeros((2, 3, 8), np.int8)}, r"orders: expected an array \[3, 3, 8\]"),
        ({"problem": np.array([0, 0, 1])}, "problem: expected 0 to 0, got 0 to 1"),
        ({"bits": 0}, "bits: expected an integer from 1 to 32, got 0"),
        ({"bits": [4, 8]}, "problem: 2 layers or bit-widths need an index"),
        ({"layers": []}, "layers, bits"),
    ],
)
def test_bad_arrays(change, message):
    arrays = hw_model.encode_batch([{}] * 3, "eyeriss")
    arguments = {
        "layers": hw_model.Layer(),
        "factors": arrays[0],
        "orders": arrays[1],
        "device": "eyeriss",
        "bits": 8,
        "bypass": arrays[2],
    }
    with pytest.raises(hw_model.InputError, match=message):
        hw_model.evaluate_batch(**{**arguments, **change})


def test_rows_that_are_no_mapping_are_flagged():
    device = hw_model.load_device("eyeriss")
    factors, orders, bypass = hw_model.encode_batch([{}] * 5, device)
    factors[1, 2, 3] = 0
    factors[2, 0, 0] = -5
    orders[3, 1, 0] = 7
    orders[4, 0, 0] = -1
    batch = hw_model.evaluate_batch(hw_model.Layer(), factors, orders, device, 8, bypass=bypass)
    assert batch.valid.tolist() == [True, False, False, False, False]
    assert np.isinf(batch.violation[1:]).all()


def test_empty_batch():
    device = hw_model.load_device("eyeriss")
    factors, orders, _ = hw_model.encode_batch([], device)
    assert len(hw_model.evaluate_batch(hw_model.Layer(), factors, orders, device, 8)) == 0
