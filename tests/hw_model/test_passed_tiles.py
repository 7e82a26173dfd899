"""PEs that take boxes of inputs from a neighbour, as Timeloop counts: equal to enumeration, whatever the mapping."""

import dataclasses
import math
import random

import numpy as np
import pytest
import random_cases
import word_sets

import hw_model
from hw_model.batch import REASONS
from hw_model.layer import DIMS
from hw_model.timeloop import import_mapping

SAMPLE, CASES = 500, 6000  # of the default suite, of `make test-full`
CHUNKS = 4
PASSING = {"input_sharing": "identical", "forward_inputs": True, "input_words": "box"}
SIMPLE = {"extends": "simple256", **PASSING}


def passing_case(seed):
    """A device, a layer and loops: few PEs on rows that are not always full, several loops on an axis and outside."""
    rng = random.Random(seed)
    fields = random_cases.device_fields(rng) | PASSING
    fields["network"]["multicast"] = True
    fields["array"] = {"x": rng.choice([2, 3, 4, 6]), "y": rng.choice([1, 2, 4])}
    if rng.random() < 0.8:  # inputs in the buffer and in the PEs
        names = rng.choice([["dram", "glb", "rf"], ["dram", "rf"], ["dram", "glb", "rf", "latch"]])
        level = fields["levels"][0] | {"size_bits": 10**6}
        inner = [level | {"name": name, "scope": "chip" if name == "glb" else "pe"} for name in names[1:]]
        fields["levels"] = [fields["levels"][0], *inner]
    device = hw_model.load_device(fields)
    room = {"spatial_x": device.array[0], "spatial_y": device.array[1]}
    outside = device.level_names[: device.first_pe_level]
    loops = {slot: [] for slot in device.slots}
    sizes = dict.fromkeys("NGKCPQRS", 1)
    dims = rng.choice(["PQRS", "PQRSK", "PRK", "NGKCPQRSPQRS"])
    for slots in (["spatial_x"], ["spatial_x", "spatial_y"], outside[-1:], outside, device.slots, device.slots):
        slot = rng.choice(slots)
        dim, n = rng.choice(dims), rng.choice([2, 2, 2, 3, 4, 5])
        used = math.prod(m for _, m in loops[slot])
        if used * n <= room.get(slot, 99) and math.prod(sizes.values()) * n <= 400:
            loops[slot].append((dim, n))
            sizes[dim] *= n
    if rng.random() < 0.2:  # overshoot
        for dim in rng.sample("NGKCPQRS", 3):
            sizes[dim] = max(1, sizes[dim] - rng.randint(0, sizes[dim] // 2))
    steps = {name: rng.choice([1, 1, 2]) for name in ("stride_h", "stride_w", "dilation_h", "dilation_w")}
    return device, hw_model.Layer(**sizes, **steps), loops


def check_case(seed):
    """Returns whether neighbours passed anything on."""
    device, layer, loops = passing_case(seed)
    cost = hw_model.evaluate(layer, loops, device, 16)
    truth = word_sets.run(
        {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}, loops, device.level_names,
        device.first_pe_level, {level.name: level.holds for level in device.levels}, reduces=device.reduces,
        sharing="identical", box=True, forward=True, width=device.array[0],
    )  # fmt: skip
    for name in device.level_names:
        for counter in ("reads", "fills"):
            found = getattr(cost.levels[name]["I"], counter)
            assert found == truth[name]["I"][counter], (seed, name, counter, layer, loops)
    try:
        row = hw_model.encode(loops, device)
    except hw_model.InputError:  # a dimension twice in one slot
        row = None
    if row is not None:
        batch = hw_model.evaluate_batch(layer, *(array[None] for array in row[:2]), device, 16)
        assert (batch.energy_pj[0], batch.cycles[0]) == (cost.energy_pj, cost.cycles), (seed, layer, loops)
        assert hw_model.evaluate(layer, hw_model.decode(*row[:2], device), device, 16) == cost, (seed, layer, loops)
    return cost != hw_model.evaluate(layer, loops, dataclasses.replace(device, forward_inputs=False), 16)


@pytest.mark.sample(2)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_counters_equal_enumeration(chunk):
    assert sum(check_case(seed) for seed in range(chunk, SAMPLE, CHUNKS)) > 5


@pytest.mark.full
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_more_counters_equal_enumeration(chunk):
    for seed in range(SAMPLE + chunk, CASES, CHUNKS):
        check_case(seed)


@pytest.mark.parametrize(
    ("device", "outputs", "reading"), [("simple256", 14, 25), ("simple256", 9, 14), ("eyeriss168", 9, 14),
                                       ("eyeriss168", 12, 21), ("simple256", 16, 16)]
)  # fmt: skip
def test_an_output_on_each_pe(device, outputs, reading):
    """3 x 3 taps on a square of PEs of one output each. Where a row of taps begins, all read; at the others, those
    without a neighbour that had the input at the tap before: a column of the square where it fills the rows of the
    array, more where its rows are folded into longer ones."""
    layer = hw_model.Layer(P=outputs, Q=outputs, R=3, S=3)
    mapping = {"glb": [["R", 3], ["S", 3]], "spatial_y": [["P", outputs]], "spatial_x": [["Q", outputs]]}
    reads = hw_model.evaluate(layer, mapping, {"extends": device, **PASSING}, 16).levels["glb"]["I"].reads
    assert reads == 3 * outputs**2 + 6 * reading


def orders_of_an_axis():
    """A layer on simple256 and one mapping with the loops of x either way round."""
    layer = hw_model.Layer(K=2, P=4, R=3)
    return layer, [{"glb": [["R", 3]], "spatial_x": loops} for loops in ([["K", 2], ["P", 4]], [["P", 4], ["K", 2]])]


def test_the_order_of_an_axis_counts():
    """PEs of neighbouring outputs are neighbours with P inside K only; without forwarding both orders cost the same."""
    layer, mappings = orders_of_an_axis()
    reads = [hw_model.evaluate(layer, mapping, SIMPLE, 16).levels["glb"]["I"].reads for mapping in mappings]
    assert reads == [4 + 2 * 1, 4 + 2 * 4]
    alone = [hw_model.evaluate(layer, mapping, "simple256", 16) for mapping in mappings]
    assert alone[0] == alone[1]


def test_arrays_carry_the_order_of_an_axis():
    layer, mappings = orders_of_an_axis()
    factors, orders, bypass = hw_model.encode_batch(mappings, SIMPLE)
    assert orders.shape == (2, 5, 8) and bypass.shape == (2, 3)
    alone = [hw_model.evaluate(layer, mapping, SIMPLE, 16).energy_pj for mapping in mappings]
    assert alone[0] != alone[1]
    assert hw_model.evaluate_batch(layer, factors, orders, SIMPLE, 16).energy_pj.tolist() == alone
    # left out: the order of DIMS, K outside P
    assert hw_model.evaluate_batch(layer, factors, orders[:, :3], SIMPLE, 16).energy_pj.tolist() == [alone[0]] * 2
    assert hw_model.decode(factors[1], orders[1, :3], SIMPLE)["spatial_x"] == (("K", 2), ("P", 4))
    assert hw_model.encode_batch([], SIMPLE)[1].shape == (0, 5, 8)


def test_arrays_that_are_no_order():
    layer, mappings = orders_of_an_axis()
    factors, orders, _ = hw_model.encode_batch(mappings, SIMPLE)
    orders[0, 4, 0] = orders[0, 4, 1]
    batch = hw_model.evaluate_batch(layer, factors, orders, SIMPLE, 16)
    assert batch.reason.tolist() == [1 << REASONS.index("factor"), 0]
    with pytest.raises(hw_model.InputError, match=r"orders: expected an array \[2, 3, 8\], got \[2, 5, 8\]"):
        hw_model.evaluate_batch(layer, factors, orders, "simple256", 16)
    with pytest.raises(hw_model.InputError, match="spatial_x: dimension P twice"):
        hw_model.encode({"spatial_x": [["P", 2], ["K", 2], ["P", 2]]}, SIMPLE)


def test_loops_over_one_dimension_in_a_row_are_one():
    """Only the first two turns of a loop are looked at, so that it matters where a loop ends."""
    layer = hw_model.Layer(Q=24, S=3)
    costs = [
        hw_model.evaluate(layer, {"glb": loops, "spatial_y": [["S", 3]]}, SIMPLE, 16)
        for loops in ([["Q", 2], ["Q", 12]], [["Q", 24]])
    ]
    assert costs[0] == costs[1]


def test_only_boxes_are_passed_on():
    layer, mappings = orders_of_an_axis()
    real = {**SIMPLE, "input_words": "real"}
    for mapping in mappings:
        without = hw_model.evaluate(layer, mapping, {**real, "forward_inputs": False}, 16)
        assert hw_model.evaluate(layer, mapping, real, 16) == without


def test_an_array_too_large_to_follow():
    with pytest.raises(hw_model.InputError, match=r"array\.x: at most 1048576 PEs can pass identical boxes on"):
        hw_model.load_device({**SIMPLE, "array": {"x": 2048, "y": 1024}})


def test_timeloop_files_keep_the_order_of_an_axis():
    layer, mappings = orders_of_an_axis()
    device = hw_model.load_device(SIMPLE)
    for mapping in mappings:
        text = hw_model.export_timeloop(layer, hw_model.Mapping.from_dict(mapping), device, 16)["map.yaml"]
        assert import_mapping(text, device)["spatial_x"] == tuple(map(tuple, mapping["spatial_x"]))


def test_many_rows_agree_with_single_evaluation():
    """Rows of all kinds, on rows of the array that are not full, each as `evaluate` has it."""
    rng = np.random.default_rng(3)
    device = hw_model.load_device({"extends": "eyeriss168", **PASSING})
    primes = {"K": [2, 2], "C": [2], "P": [3, 3], "Q": [2, 3], "R": [3], "S": [3]}
    layer = hw_model.Layer(**{dim: math.prod(numbers) for dim, numbers in primes.items()})
    factors = np.ones((300, len(device.slots), 8), np.int32)
    for dim, numbers in primes.items():
        for prime in numbers:
            factors[np.arange(300), rng.integers(0, len(device.slots), 300), DIMS.index(dim)] *= prime
    orders = rng.permuted(np.tile(np.arange(8, dtype=np.int8), (300 * 5, 1)), axis=1).reshape(300, 5, 8)
    batch = hw_model.evaluate_batch(layer, factors, orders, device, 16)
    assert batch.valid.sum() > 100
    for row in np.flatnonzero(batch.valid):
        cost = hw_model.evaluate(layer, hw_model.decode(factors[row], orders[row], device), device, 16)
        assert (batch.energy_pj[row], batch.cycles[row]) == (cost.energy_pj, cost.cycles)
