"""A budget is kept, however small, and every layer has a valid mapping all the same."""

import numpy as np
import pytest
from fake_clock import COSTING, FakeClock

import hw_model
from automapper.api import map_network
from automapper.budget import Budget
from automapper.dataflows import built_in
from automapper.evolve import FLOOR, Evolution
from automapper.local_search import LOCAL
from automapper.objective import parse_objective
from automapper.search import run_search
from automapper.space import Search
from automapper.workload import Problem

EDP = parse_objective("edp")
LAYERS = [
    hw_model.Layer(K=64, C=3, P=55, Q=55, R=11, S=11, stride=4),
    hw_model.Layer(G=32, P=28, Q=28, R=3, S=3),
    hw_model.Layer(K=1000, C=512),
]
PROBLEMS = [Problem(layer, bits) for layer in LAYERS for bits in (4, 32)]


def searches(layer=LAYERS[0]):
    return [Search(Problem(layer, bits), flow) for bits in (4, 32) for flow in ("", *built_in())]


@pytest.mark.sample(4)
@pytest.mark.parametrize("budget", [1, 7, 127, 128, 129, 300, 1100])
def test_exactly_so_many_are_bred(budget):
    evolution = Evolution(searches(), hw_model.load_device("simple256"), EDP, 0)
    evolution.advance(budget, 1.0)
    assert evolution.mappings == budget
    assert (evolution.bred[evolution.bred > budget] <= FLOOR).all()  # those without a valid mapping by then
    assert (evolution.bred == budget).sum() > len(evolution.searches) / 2
    assert evolution.evaluated <= (1.1 + LOCAL) * evolution.bred.sum() + 64


def test_how_a_budget_is_cut_into_rounds_changes_nothing():
    one, other = (Evolution(searches(), hw_model.load_device("eyeriss"), EDP, 0) for _ in range(2))
    one.advance(1500, 0.7)
    for target in (1, 2, 50, 200, 201, 999, 1500):
        other.advance(target, 0.7)
    assert one.mappings == other.mappings == 1500
    assert (one.score == other.score).all()
    assert all((a == b).all() for a, b in zip(one.pool, other.pool, strict=True))
    assert (one.pool_score == other.pool_score).all()


@pytest.mark.sample(18)
@pytest.mark.parametrize("budget", [Budget(1), Budget(3), Budget(seconds=0.01)])
@pytest.mark.parametrize("engine", ["evolution", "random"])
@pytest.mark.parametrize("device", hw_model.device_names())
def test_the_smallest_budgets_give_every_layer_a_mapping(budget, engine, device, monkeypatch):
    FakeClock(monkeypatch, mappings_per_s=1000)
    outcome = run_search(PROBLEMS, hw_model.load_device(device), EDP, budget, 0, engine, workers=1)
    assert outcome.per_search <= FLOOR
    for problem in PROBLEMS:
        best = outcome.found[Search(problem)]
        hw_model.evaluate(problem.layer, best.mapping, device, problem.bits)
        others = [outcome.found[Search(problem, name)] for name in built_in() if Search(problem, name) in outcome.found]
        if engine == "evolution":
            assert all(best.cost.edp_js <= other.cost.edp_js * (1 + 1e-6) for other in others)


@pytest.mark.parametrize(("seconds", "speed"), [(1.0, 20000), (1.0, 40000), (4.0, 5000)])
def test_seconds_are_kept(seconds, speed, monkeypatch):
    """As many mappings are bred as there is time for, whatever the machine's speed; local search is a part of it."""
    clock = FakeClock(monkeypatch, speed)
    outcome = run_search(PROBLEMS[-1:], hw_model.load_device("eyeriss"), EDP, Budget(seconds=seconds), 0, workers=1)
    assert 0.6 * seconds * speed <= outcome.per_search * len(outcome.found) <= seconds * speed
    assert 0.75 * seconds <= outcome.seconds <= 1.05 * seconds
    assert outcome.seconds <= clock.now
    assert np.isfinite([found.cost.edp_js for found in outcome.found.values()]).all()


CHAIN = """
- {name: a, K: 32, C: 16, P: 28, Q: 28}
- {name: b, from: a, G: 32, P: 28, Q: 28, R: 3, S: 3, H: 28, W: 28, pad_top: 1, pad_left: 1}
"""


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fuse": "off"},
        {"pareto": True, "fuse": "off"},
        {"pareto": True},
        {"max_latency": 1e-4},
        {"engine": "random"},
    ],
    ids=str,
)
def test_seconds_count_what_follows_the_search(settings, tmp_path, monkeypatch):
    """Mappings for the network, for fronts and for fused groups are bred within the budget too."""
    clock = FakeClock(monkeypatch, mappings_per_s=5000)
    (tmp_path / "layers.yaml").write_text(CHAIN)
    report = map_network(
        tmp_path / "layers.yaml", "eyeriss", bits=[8], budget="4s", workers=1, stages=1, **settings
    ).to_dict()
    assert 0.6 * 4 <= clock.now <= 1.05 * 4
    fused = report["bit_widths"][0].get("fused")
    assert (fused is not None) == ("fuse" not in settings and "max_latency" not in settings)
    assert not fused or fused["objective_value"] <= fused["layer_by_layer"]["objective_value"]


@pytest.mark.parametrize("seconds", [0.01, 30.0])
def test_a_budget_that_ends_before_layers_are_fused(seconds, tmp_path, monkeypatch):
    """No group is then looked at, and the layers alone are what the network runs; with time, groups are found."""
    FakeClock(monkeypatch, mappings_per_s=500)
    (tmp_path / "layers.yaml").write_text(CHAIN)
    report = map_network(tmp_path / "layers.yaml", "eyeriss", bits=[4, 8], budget=f"{seconds}s", workers=1, stages=1)
    for row in report.to_dict()["bit_widths"]:
        assert bool(row["fused"]["groups"]) == (seconds > 1)
        assert row["fused"]["edp_js"] <= row["fused"]["layer_by_layer"]["edp_js"]


def test_local_search_ends_when_its_time_is_up(monkeypatch):
    """Each search has its part of the time, and goes beyond it by what is costed at once, at most."""
    clock = FakeClock(monkeypatch, mappings_per_s=20000)
    took = []
    for limit_s in (np.inf, 0.15):
        evolution = Evolution(searches(), hw_model.load_device("eyeriss"), EDP, 0)
        evolution.advance(1500, 0.7)
        evolution.local_s = limit_s
        begin = clock.now
        evolution.climb()
        took.append(clock.now - begin)
        assert (evolution.costed > 0).all()
    neighbourhood_s = 5000 * COSTING / 20000  # more than descents side by side ever have
    assert took[1] < 0.15 + neighbourhood_s < took[0] - neighbourhood_s
