"""Spatial unrollings: every one that keeps the array busy, and a mapping's loops around each."""

import itertools
import math

import numpy as np
import pytest

from automapper import legal
from automapper.dataflows import built_in, why_none
from automapper.evolve import Evolution
from automapper.local_search import INVALID
from automapper.objective import parse_objective
from automapper.space import Search, build_space
from automapper.unrolling import MOST, SLACK, unrolled, unrollings
from automapper.workload import Problem
from hw_model import DIMS, Layer, device_names, encode, load_device

LAYER = Layer(K=5, C=4, P=3, Q=2)


def space_of(layer, device, flow=""):
    return build_space([Search(Problem(layer, 8), flow)], device)


def row_of(mapping, device):
    f, o, b = encode(mapping, device)
    return f, o[: len(device.levels)], b


def every_unrolling(layer, device, most):
    """{(factors on x, factors on y)}: those of the definition, tried one by one."""

    def parts(size, axis, dim):  # (factor, steps) of those that need all of it
        largest = size if dim in device.axis_dims[axis] else 1
        found = [(n, math.ceil(size / n)) for n in range(1, largest + 1)]
        return [(n, steps) for n, steps in found if n == 1 or math.ceil(size / (n - 1)) > steps]

    options = [
        [(x, y, steps) for x, left in parts(size, 0, dim) for y, steps in parts(left, 1, dim)]
        for dim, size in zip(DIMS, layer.sizes, strict=True)
    ]
    found = set()
    for choice in itertools.product(*options):
        x, y, steps = zip(*choice, strict=True)
        if math.prod(x) <= device.array[0] and math.prod(y) <= device.array[1] and math.prod(steps) <= most:
            found.add((x, y))
    return found


@pytest.mark.parametrize(("array", "most"), [((4, 3), 12), ((4, 3), 120), ((5, 5), 6), ((1, 7), 40), ((2, 2), 40)])
@pytest.mark.parametrize("alike", [True, False])
def test_unrollings_are_those_of_the_definition(array, most, alike):
    device = load_device({"extends": "eyeriss", "array": {"x": array[0], "y": array[1]}})
    slots = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    space = space_of(LAYER, device)
    found = unrollings(space, 0, space.sizes[0], slots, most, alike)
    expected = every_unrolling(LAYER, device, most)
    assert expected
    if alike:  # one of those with the same PEs of each dimension
        assert sorted(map(tuple, found.prod(1).tolist())) == sorted(
            {tuple(a * b for a, b in zip(x, y, strict=True)) for x, y in expected}
        )
        assert {(tuple(x), tuple(y)) for x, y in found.tolist()} <= expected
    else:
        assert sorted((tuple(x), tuple(y)) for x, y in found.tolist()) == sorted(expected)
    steps = np.ceil(np.ceil(space.sizes[0] / found[:, 0]) / found[:, 1]).prod(1)
    assert (np.diff(steps) >= 0).all()


@pytest.mark.parametrize("device", device_names())
def test_unrolled_mappings_are_mappings_of_the_search_with_the_same_loops_where_they_fit(device):
    device = load_device(device)
    layer = Layer(K=24, C=10, P=14, Q=9, R=3, S=3)
    flows = ["", *(name for name, flow in built_in().items() if not why_none(flow, device))]
    evolution = Evolution([Search(Problem(layer, 8), flow) for flow in flows], device, parse_objective("edp"), 0)
    evolution.advance(300, 0.5)
    spatial = [device.slots.index(slot) for slot in ("spatial_x", "spatial_y", "lanes") if slot in device.slots]
    temporal = [slot for slot in range(1, len(device.slots)) if slot not in spatial]
    for t, row in enumerate(evolution.rows):
        f, o, b = unrolled(evolution.space, t, [row], device)
        assert legal.inside(f, o, b, t, evolution.space).all()
        assert (f.prod(1, dtype=np.int64) >= evolution.space.sizes[t]).all()
        assert (f[:, temporal] <= row[0][temporal]).all()
        assert (o == row[1]).all() and (b == row[2]).all()
        steps, own = (np.ceil(evolution.space.sizes[t] / one[..., spatial, :].prod(-2)).prod(-1) for one in (f, row[0]))
        assert (steps <= SLACK * own).all()
        if not flows[t]:
            assert steps.min() <= own


def test_bypasses_and_orders_of_several_mappings_are_tried():
    device = load_device("eyeriss")
    space = space_of(LAYER, device)
    row = row_of({"dram": [["K", 5]], "glb": [["C", 4], ["P", 3]], "rf": [["Q", 2]]}, device)
    past = row[0], row[1], row[2] | space.free[0].astype(np.uint8)
    one, both = unrolled(space, 0, [row], device), unrolled(space, 0, [row, past], device)
    assert len(both[0]) == 2 * len(one[0]) > 2
    assert {b.tobytes() for b in both[2]} == {row[2].tobytes(), past[2].tobytes()}


@pytest.mark.parametrize("pes", [256, 1 << 16])
def test_there_is_a_limit_to_how_many_are_tried(pes):
    """Of either axis there are tens of millions with 65,536 PEs."""
    layer = Layer(N=64, G=64, K=64, C=64, P=64, Q=64, R=64, S=64)
    device = load_device({"extends": "eyeriss", "array": {"x": pes, "y": pes}})
    row = row_of({"dram": [[dim, 64] for dim in DIMS]}, device)
    f, _, _ = unrolled(space_of(layer, device), 0, [row], device)
    assert len(f) == MOST


def test_a_search_goes_on_from_the_best_unrollings():
    device, layer = load_device("eyeriss_v1_norm"), Layer(K=17, C=13, P=29, Q=31, R=3, S=3)
    evolution = Evolution([Search(Problem(layer, 16))], device, parse_objective("edp"), 3)
    evolution.advance(2000, 0.5)
    end = float(evolution.score[0]), evolution.rows[0]

    def score(rows):
        return evolution._score(*rows, np.zeros(len(rows[0]), int))

    def more(ends, begun=frozenset(), may=True, count=10**6):
        return evolution._unrolled(0, ends, count, begun, score, lambda number: may)

    found = more([end, (2 * INVALID, end[1])])
    f, o, b = unrolled(evolution.space, 0, [end[1]], device)
    scores = score((f, o, b))
    assert [round(value, 9) for value, _ in found] == sorted(set(scores[scores < INVALID].round(9).tolist()))
    assert all(score(tuple(part[None] for part in row))[0] == value for value, row in found)
    first = round(found[0][0], 9)
    assert [value for value, _ in more([end], {first})] == [value for value, _ in found[1:]]
    assert [value for value, _ in more([end], count=3)] == [value for value, _ in found[:3]]
    assert more([end], may=False) == []  # nothing more may be costed
    assert more([(INVALID, end[1])]) == []  # nothing to go on from
