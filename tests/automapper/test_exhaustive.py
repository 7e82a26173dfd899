"""The exhaustive engine finds the true optimum, and the evolutionary engine finds it too."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from automapper import exhaustive, lower_bound
from automapper.budget import Clock
from automapper.evolve import Evolution
from automapper.exhaustive import _covers, _tile_sizes, different_orders, find_optimum, splits_of
from automapper.objective import parse_objective
from automapper.space import Search, build_space
from automapper.workload import Problem
from hw_model import Layer, evaluate, evaluate_batch, load_device
from hw_model.tables import device_table, problem_table

EDP = parse_objective("edp")


def test_splits_against_enumeration():
    limits = [3, 4, 1, 12, 12]
    for size in range(1, 13):
        every = [
            row
            for row in itertools.product(*(range(1, min(limit, size) + 1) for limit in limits))
            if math.prod(row) >= size and all(n == 1 or math.prod(row) // n * (n - 1) < size for n in row)
        ]
        assert sorted(_covers(size, limits, Clock())) == sorted(every)


@pytest.mark.parametrize("share", [0.0, 0.9, math.inf])
def test_a_proof_that_its_time_ends_is_a_bound(share, monkeypatch):
    """share: of the time that a whole proof takes. The clock moves each time that it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr("automapper.budget.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(exhaustive, "NODES_AT_ONCE", 16)
    problem, device = Problem(Layer(K=8, C=6, P=5), 8), load_device("eyeriss")
    best = find_optimum(problem, device, EDP)
    whole = find_optimum(problem, device, EDP, best.score + 0.5, 1e9)
    begin = next(ticks)
    find_optimum(problem, device, EDP, best.score + 0.5, 1e9)
    ended = find_optimum(problem, device, EDP, best.score + 0.5, share * (next(ticks) - begin))
    assert ended.complete == (share == math.inf) and whole.complete
    assert (ended.nodes == 0) == (share == 0.0)
    assert ended.lower <= best.score + 1e-9


def test_a_layer_with_too_many_splits_has_a_bound_all_the_same(monkeypatch):
    problem, device = Problem(Layer(K=8, C=6, P=5), 8), load_device("eyeriss")
    walked = find_optimum(problem, device, EDP)
    for change in ((exhaustive, "MOST_SPLITS", 10), None):
        if change:
            monkeypatch.setattr(*change)
        seconds = math.inf if change else 0.0
        bound = find_optimum(problem, device, EDP, walked.score, seconds)
        assert (bound.mapping, bound.covered, bound.nodes, bound.complete) == (None, 0, 0, False)
        assert math.isfinite(bound.lower) and bound.lower <= walked.score + 1e-9
        monkeypatch.undo()
    huge = find_optimum(Problem(Layer(K=2**31 - 1, R=3), 8), device, EDP, 100.0)
    assert huge.covered == 0 and math.isfinite(huge.lower)


def random_rows(problem, device, count, seed=0):
    """Random valid mappings with their arrays."""
    evolution = Evolution([Search(problem)], device, EDP, seed, random=True)
    rows = [[], [], []]
    while sum(map(len, rows[0])) < count:
        evolution.step()
        for column, array in zip(rows, evolution.pool, strict=True):
            column.append(array[0].copy())
    return [np.concatenate(column) for column in rows]


CASES = [
    (Layer(K=6, C=5, P=7, Q=4, R=3, S=2), "eyeriss168", 8),
    (Layer(G=4, K=2, C=3, P=5, Q=9, R=3, S=3, stride=2), "simple256", 4),
    (Layer(N=2, K=3, C=4, P=9, Q=8, R=2, S=5, stride=3), "eyeriss", 16),
    (Layer(N=3, G=2, P=11, Q=6, R=5, S=1, stride=4), "eyeriss", 8),
    (Layer(K=6, C=5, P=8, Q=8, R=3, S=3, H=8, W=8, pad_top=1, pad_left=1), "eyeriss", 8),
    (Layer(G=6, P=7, Q=4, R=5, S=5, H=7, W=4, pad_top=2, pad_left=2), "eyeriss", 4),
    (Layer(K=3, C=4, P=7, Q=8, R=3, S=3, H=14, W=16, pad_top=1, pad_left=1, stride=2), "edge_tpu_like", 8),
    (Layer(K=5, C=3, P=9, Q=6, R=3, S=3, H=9, W=6, pad_top=2, pad_left=2, dilation=2), "shidiannao", 8),
    (Layer(K=7, C=6, P=5, Q=5, stride=2), "simba_like", 8),
    (Layer(K=4, P=8, Q=7, R=3, S=3), {"extends": "simple256", "input_sharing": "identical", "forward_inputs": True}, 8),
]


@pytest.mark.sample(5)
@pytest.mark.parametrize(("layer", "device", "bits"), CASES)
def test_the_bound_is_below_every_cost_at_every_node(layer, device, bits):
    """For random mappings: the bound of each partial assignment of their splits never passes their own cost."""
    device = load_device(device)
    f, o, b = random_rows(Problem(layer, bits), device, 2000)
    cost = evaluate_batch(layer, f, o, device, bits, bypass=b)
    slots, levels = device.slots, len(device.levels)
    of = device_table(device), problem_table([(layer, bits)], device), lower_bound.room_for(levels)
    rng = np.random.default_rng(1)
    checked = 0
    for row in np.flatnonzero(cost.valid):
        leaf = np.ones((8, levels + 2), np.int64)
        for level, name in enumerate(device.level_names):
            leaf[:, level] = f[row, slots.index(name)]
        leaf[:, levels] = f[row, slots.index("spatial_x")] * f[row, slots.index("spatial_y")]
        assigned, node = 0, np.ones_like(leaf)
        for d in rng.permutation(8):
            node[d] = leaf[d]
            assigned |= 1 << int(d)
            energy, cycles = lower_bound.bound(node, assigned, of[0].hold & ~b[row], *of)
            assert energy <= cost.energy_pj[row] * (1 + 1e-9)
            assert cycles <= cost.cycles[row]
            checked += 1
    assert checked > 1000


def brute_force(layer, device, bits):
    """The best EDP over every split, every order of the loops that run and every bypass, without any pruning."""
    dims = [d for d in range(8) if layer.sizes[d] > 1]
    slots, levels = device.slots, len(device.levels)
    free = build_space([Search(Problem(layer, bits))], device).free[0].tolist()
    best = math.inf
    axes = [_covers(layer.sizes[d], [*device.array, 1, *[99] * levels], Clock()) for d in dims]
    for splits in itertools.product(*axes):
        f = np.ones((len(slots), 8), np.int32)
        for d, (x, y, _, *loops) in zip(dims, splits, strict=True):
            f[slots.index("spatial_x"), d], f[slots.index("spatial_y"), d] = x, y
            for name, n in zip(device.level_names, loops, strict=True):
                f[slots.index(name), d] = n
        if f[slots.index("spatial_x")].prod() > device.array[0] or f[slots.index("spatial_y")].prod() > device.array[1]:
            continue
        orders = []
        for name in device.level_names:
            runs = [d for d in range(8) if f[slots.index(name), d] > 1]
            rest = [d for d in range(8) if d not in runs]
            orders.append([(*rest, *order) for order in itertools.permutations(runs)])
        o = np.array(list(itertools.product(*orders)), np.int8)
        for past in itertools.product(*(range(8) for _ in free)):
            if any(mask & ~may for mask, may in zip(past, free, strict=True)):
                continue
            b = np.repeat(np.array([past], np.uint8), len(o), axis=0)
            cost = evaluate_batch(layer, np.repeat(f[None], len(o), axis=0), o, device, bits, bypass=b, threads=1)
            best = min(best, cost.edp_js.min())
    return best


@pytest.mark.parametrize(
    ("layer", "device", "bits"),
    [
        pytest.param(Layer(K=4, C=3), "eyeriss168", 16, marks=pytest.mark.full),
        pytest.param(Layer(K=2, P=5, R=3), "simple256", 8, marks=pytest.mark.full),
        pytest.param(Layer(P=4, R=3, S=2, stride=2), "eyeriss", 4, marks=pytest.mark.full),
        (Layer(G=3, C=2, Q=3), "simple256", 4),
    ],
)
def test_optimum_equals_brute_force(layer, device, bits):
    device = load_device(device)
    found = find_optimum(Problem(layer, bits), device, EDP)
    cost = evaluate(layer, found.mapping, device, bits)
    assert cost.edp_js == pytest.approx(brute_force(layer, device, bits), rel=1e-9)
    assert EDP.score(cost.energy_pj, cost.cycles) == pytest.approx(found.score, abs=1e-12)
    assert found.covered > found.evaluated > 0


SMALL = [  # dimensions up to 16: dense, point-wise, depth-wise, grouped, strided, linear
    Layer(K=8, C=8, P=6, Q=6, R=3, S=3),
    Layer(K=16, C=12, P=5, Q=7),
    Layer(G=16, P=7, Q=7, R=3, S=3),
    Layer(G=12, P=5, Q=5, R=5, S=5, stride=2),
    Layer(G=4, K=6, C=5, P=4, Q=9, R=3),
    Layer(K=16, C=3, P=8, Q=8, R=3, S=3, stride=2),
    Layer(N=2, K=10, C=16),
    Layer(K=13, C=7, P=11, Q=3, R=3, S=1),
]
KNOWN = [
    (layer, name, bits) for layer in SMALL for name, bits in (("eyeriss168", 4), ("simple256", 8), ("eyeriss168", 16))
]


def gaps_of(cases):
    """By how much what evolution finds is above the optimum, per case."""
    gaps = []
    for layer, name, bits in cases:
        device, problem = load_device(name), Problem(layer, bits)
        evolution = Evolution([Search(problem)], device, EDP, seed=0)
        for part in range(1, 21):
            evolution.advance(1000 * part, part / 20)
        optimum = find_optimum(problem, device, EDP, score=float(evolution.score[0]))
        assert optimum.complete
        gaps.append(math.expm1(evolution.score[0] - optimum.score))
    return gaps


def test_evolution_finds_the_optimum():
    gaps = gaps_of([KNOWN[index] for index in (3, 8, 20)])
    assert max(gaps) < 0.01 and sum(gap < 1e-6 for gap in gaps) >= 2, gaps


@pytest.mark.full
def test_evolution_finds_the_optimum_of_all():
    """24 cases on both architectures of the Timeloop comparison: all within 1 %, at least 20 equal."""
    gaps = gaps_of(KNOWN)
    assert len(gaps) == 24 and max(gaps) < 0.01 and sum(gap < 1e-6 for gap in gaps) >= 20, gaps


def test_the_start_does_not_change_the_optimum():
    problem, device = Problem(Layer(G=2, K=3, C=4, P=4, Q=3, R=3), 8), load_device("eyeriss")
    alone = find_optimum(problem, device, EDP)
    helped = find_optimum(problem, device, EDP, score=alone.score + 0.01)
    assert helped.score == pytest.approx(alone.score, abs=1e-9)
    assert find_optimum(problem, device, EDP, score=alone.score).mapping is None


def test_padding_never_helps_where_it_is_not_needed():
    """Why covers need no factor that could be smaller: making one smaller never costs more."""
    layer, device = Layer(G=2, K=7, C=6, P=10, Q=5, R=3, S=3, stride=2), load_device("simple256")
    f, o, b = random_rows(Problem(layer, 8), device, 4000)
    cost = evaluate_batch(layer, f, o, device, 8, bypass=b)
    smaller, origin = [], []
    for row in np.flatnonzero(cost.valid):
        for slot, d in np.argwhere(f[row] > 1):
            less = f[row].copy()
            less[slot, d] -= 1
            if less[:, d].prod() >= layer.sizes[d]:
                smaller.append(less)
                origin.append(row)
    assert len(smaller) > 300
    after = evaluate_batch(layer, np.array(smaller), o[origin], device, 8, bypass=b[origin])
    assert after.valid.all()
    assert (after.energy_pj <= cost.energy_pj[origin] * (1 + 1e-12)).all()
    assert (after.cycles <= cost.cycles[origin]).all()


def test_orders_left_out_equal_one_that_is_kept():
    layer, device = Layer(N=2, K=4, C=3, P=6, R=3, Q=2), load_device("eyeriss168")
    f = np.ones((len(device.slots), 8), np.int32)
    f[0], f[1, [2, 4]], f[4, 6] = (2, 1, 2, 3, 2, 2, 1, 1), (2, 3), 3
    active = [tuple(d for d in range(8) if f[slot, d] > 1) for slot in (0, 1)]

    def costs(dram, glb):
        o = np.array([(*rows, tuple(range(8))) for rows in itertools.product(dram, glb)], np.int8)
        batch = evaluate_batch(layer, np.repeat(f[None], len(o), axis=0), o, device, 8)
        assert batch.valid.all()
        return set(np.round(batch.energy_pj, 3))

    every = [[(*set(range(8)) - set(a), *p) for p in itertools.permutations(a)] for a in active]
    kept = [different_orders(a) for a in active]
    assert math.prod(map(len, kept)) < math.prod(map(len, every))
    assert costs(*kept) == costs(*every)


def test_splits_leave_out_what_the_array_cannot_hold():
    device = load_device("eyeriss168")  # 14 x 12
    pes = {row[len(device.levels)] for row in splits_of(17, device, "K")}
    assert 17 not in pes  # a prime above both axes
    assert {9, 18} <= pes  # 9 along one axis, twice; and 18 = 9 x 2 over both


BOUNDED = [
    (Layer(K=5, C=3, P=5, Q=4, H=5, W=4, R=3, pad_top=1), "eyeriss", 8),
    (Layer(G=4, P=6, Q=4, R=3, S=3, H=6, W=4, pad_top=1, pad_left=1), "eyeriss", 4),
    (Layer(K=7, C=6, P=3, stride=2), "simple256", 8),
    (Layer(K=6, C=5, P=4), "edge_tpu_like", 8),
]


@pytest.mark.parametrize(("layer", "device", "bits"), BOUNDED)
def test_a_walk_given_up_bounds_the_optimum(layer, device, bits, monkeypatch):
    """The lower bound is below the optimum, which is at most the best found."""
    problem, device = Problem(layer, bits), load_device(device)
    score = float(Evolution([Search(problem)], device, EDP, seed=0).advance(200, 1.0).score[0])
    true = find_optimum(problem, device, EDP, score=score)
    assert true.complete and true.lower == true.score <= score
    for limit in (0, 30, 300, 3000):
        monkeypatch.setattr(exhaustive, "NODE_LIMIT", limit)
        found = find_optimum(problem, device, EDP, score=score + 0.1)
        assert -math.inf < found.lower <= true.score + 1e-9 <= found.score + 2e-9
        assert found.complete or found.nodes >= limit


def test_a_layer_of_resnet_is_bounded():
    layer = Layer(K=128, C=64, P=28, Q=28, R=3, S=3, stride=2, H=56, W=56, pad_top=1, pad_left=1)
    problem, device = Problem(layer, 8), load_device("eyeriss")
    score = float(Evolution([Search(problem)], device, EDP, seed=0).advance(4000, 1.0).score[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhaustive, "NODE_LIMIT", 500_000)
        found = find_optimum(problem, device, EDP, score=score)
    assert 0 < -math.expm1(found.lower - found.score) < 0.5


def test_a_walk_given_up_leaves_the_others_proven(monkeypatch, tmp_path, capsys):
    from automapper.__main__ import main

    (tmp_path / "layers.yaml").write_text("[{name: large, K: 48, C: 24, P: 14, Q: 14}, {name: small, K: 3, C: 2}]")
    monkeypatch.setattr(exhaustive, "NODE_LIMIT", 2000)
    main(["--network", str(tmp_path / "layers.yaml"), "--bits", "8", "--engine", "exhaustive", "--budget", "200",
          "--workers", "1", "--stages", "1", "--save", str(tmp_path)])  # fmt: skip
    (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    large, small = row["layers"]
    assert not large["exhaustive"]["complete"] and small["exhaustive"]["complete"]
    out = capsys.readouterr().out
    assert "exhaustive: 1 of 2 mappings are proven optima" in out and "improved by at most large (8 bit)" in out
    bound = large["bound"]
    assert bound["best_edp_js"] == large["edp_js"] and small["bound"]["gap"] == 0
    assert bound["lower_edp_js"] == pytest.approx(bound["best_edp_js"] * (1 - bound["gap"])) and 0 < bound["gap"] < 1
    cost = evaluate(large["dims"], large["mapping"], "eyeriss", 8)
    assert (cost.energy_j, cost.cycles) == (large["energy_j"], large["cycles"])


def test_every_tile_size_is_found():
    for size in range(1, 400):
        assert _tile_sizes(size) == sorted({-(-size // tiles) for tiles in range(1, size + 1)})
