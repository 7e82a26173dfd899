"""Layers traded against each other: a dataflow's sums over the network are not ahead where that can be avoided."""

import math
from dataclasses import replace

import pytest
from inequalities import check_inequalities

import hw_model
from automapper.baselines import default_baselines
from automapper.budget import Budget
from automapper.dataflows import built_in
from automapper.exhaustive import Optimum
from automapper.objective import parse_objective
from automapper.pipelines import Pipelines
from automapper.report import build_report
from automapper.result import network_cost
from automapper.search import Found, run_search
from automapper.space import Search
from automapper.trade import Contribution, trade_layers
from automapper.workload import Network, NetworkLayer, Problem, distinct_problems

DEVICE = hw_model.load_device("eyeriss")
EDP = parse_objective("edp")
NETWORK = Network(
    "two layers",
    (
        NetworkLayer(hw_model.Layer(name="conv", K=64, C=3, P=55, Q=55, R=11, S=11, stride=4)),
        NetworkLayer(hw_model.Layer(name="fc", K=4096, C=9216)),
    ),
    (),
)


@pytest.fixture(scope="module")
def searched():
    """An outcome whose best mappings save latency in the small layer and energy in none: a dataflow's sums are ahead,
    though no layer of it is better."""
    outcome = run_search(
        distinct_problems(NETWORK, [32]), DEVICE, EDP, Budget(2000), 0, workers=1, baselines=default_baselines([32])
    )
    conv, fc = distinct_problems(NETWORK, [32])
    fronts = []
    for weights in ("energy=1.95,latency=0.05", "energy=1.7,latency=0.3", "energy=1.3,latency=0.7", "edp"):
        found = run_search([conv], DEVICE, parse_objective(weights), Budget(2000), 0, workers=1).found
        fronts += [Found(Search(conv), one.mapping, one.cost) for one in found.values()]
    pairs = [
        (slow, fast)
        for slow in fronts
        for fast in fronts
        if fast.cost.edp_js <= slow.cost.edp_js and slow.cost.energy_j < fast.cost.energy_j
        and total(slow, outcome, fc) < total(fast, outcome, fc)
    ]  # fmt: skip
    slow, fast = max(pairs, key=lambda pair: total(pair[1], outcome, fc) / total(pair[0], outcome, fc))
    for name in built_in():
        outcome.found[Search(fc, name)] = outcome.found[Search(fc)]
        outcome.found[Search(conv, name)] = slow
    outcome.found[Search(conv)] = fast
    return outcome


@pytest.fixture
def behind(searched):
    """`searched`, for a test to change."""
    return replace(searched, found=dict(searched.found), optima={}, traded={})


def total(one, outcome, fc):
    other = outcome.found[Search(fc)].cost
    return (one.cost.energy_j + other.energy_j) * (one.cost.latency_s + other.latency_s)


def test_no_dataflow_stays_ahead(behind):
    sums = network_cost(NETWORK, 32, behind, "row_stationary")
    assert network_cost(NETWORK, 32, behind).edp_js > sums.edp_js
    trade_layers(NETWORK, [32], behind, DEVICE, EDP, seed=0, workers=1)
    assert network_cost(NETWORK, 32, behind).edp_js <= sums.edp_js
    for item in NETWORK.layers:
        problem = Problem(hw_model.Layer(**{**item.layer.to_dict(), "name": ""}), 32)
        found = behind.best(problem, 32)
        assert found.cost.edp_js <= behind.found[Search(problem, "row_stationary")].cost.edp_js * (1 + 1e-9)
        true = hw_model.evaluate(problem.layer, found.mapping, DEVICE, 32)
        assert (true.energy_j, true.cycles) == (found.cost.energy_j, found.cost.cycles)


def test_where_no_substitute_helps_the_network_adopts_the_dataflow(behind):
    """Another dataflow as good as the best mapping of the small layer forbids any that saves more energy there."""
    conv = distinct_problems(NETWORK, [32])[0]
    behind.found[Search(conv, "output_stationary")] = behind.found[Search(conv)]
    ahead = network_cost(NETWORK, 32, behind, "row_stationary").edp_js
    trade_layers(NETWORK, [32], behind, DEVICE, EDP, seed=0, workers=1, searching=False)
    assert network_cost(NETWORK, 32, behind).edp_js <= ahead
    assert set(behind.traded) == {(32, conv)}
    report = build_report(
        NETWORK, DEVICE, EDP, [32], behind, Pipelines(NETWORK, [32], DEVICE, EDP, 1, 0), {}, {"device": "eyeriss"}
    )
    check_inequalities(report)
    layer = report["bit_widths"][0]["layers"][0]  # shows its own best, and what the network runs
    assert layer["traded"] and layer["in_network"]["edp_js"] > layer["edp_js"]
    assert layer["mapping"] == behind.found[Search(conv)].mapping.to_dict()
    for shown in (layer, layer["in_network"]):
        true = hw_model.evaluate(layer["dims"], shown["mapping"], DEVICE, 32)
        assert (shown["cycles"], shown["energy_j"], shown["edp_js"]) == (true.cycles, true.energy_j, true.edp_js)


def test_a_proven_optimum_stays_the_layers(behind):
    conv = distinct_problems(NETWORK, [32])[0]
    behind.optima[conv] = Optimum(None, 0.0, 1, 1, 1)
    optimum = behind.found[Search(conv)].mapping
    sums = network_cost(NETWORK, 32, behind, "row_stationary")
    trade_layers(NETWORK, [32], behind, DEVICE, EDP, seed=0, workers=1)
    assert network_cost(NETWORK, 32, behind).edp_js <= sums.edp_js
    assert behind.own(conv).mapping == optimum != behind.best(conv, 32).mapping


def test_known_mappings_only(behind):
    """An engine that is compared with others is not helped by a search of another kind."""
    sums, before = network_cost(NETWORK, 32, behind, "row_stationary"), dict(behind.found)
    trade_layers(NETWORK, [32], behind, DEVICE, EDP, seed=0, workers=1, searching=False)
    assert network_cost(NETWORK, 32, behind).edp_js <= sums.edp_js
    known = {found.mapping for found in before.values()}
    assert {found.mapping for found in [*behind.found.values(), *behind.traded.values()]} <= known


def test_narrower_words_are_not_behind_wider_ones(behind):
    """The network at 32 bit, traded, is a reference of the one at 31."""
    outcome = run_search(distinct_problems(NETWORK, [31]), DEVICE, EDP, Budget(1), 0, workers=1)
    behind.found |= {search: found for search, found in outcome.found.items() if not search.dataflow}
    trade_layers(NETWORK, [31, 32], behind, DEVICE, EDP, seed=0, workers=1, searching=False)
    assert network_cost(NETWORK, 31, behind).edp_js <= network_cost(NETWORK, 32, behind).edp_js


def test_where_no_dataflow_is_ahead_nothing_changes():
    problems = distinct_problems(NETWORK, [4, 16])
    outcome = run_search(problems, DEVICE, parse_objective("energy"), Budget(640), 0, workers=1)
    before = dict(outcome.found)
    trade_layers(NETWORK, [4, 16], outcome, DEVICE, parse_objective("energy"), seed=0, workers=1)
    assert outcome.found == before and outcome.traded == {}


def test_the_score_of_a_layer_is_what_it_contributes():
    """To first order, the network's objective moves as the contribution one of the layer."""
    energy, latency, others = 3.0, 2.0, (7.0, 11.0)
    share = energy / (energy + others[0]), latency / (latency + others[1])
    contribution = Contribution(EDP, *share, math.inf)
    step = 1e-6
    for moved in ((energy * (1 + step), latency), (energy, latency * (1 - step))):
        network = [math.log((e + others[0]) * (t + others[1])) for e, t in ((energy, latency), moved)]
        assert contribution.score(*moved) - contribution.score(energy, latency) == pytest.approx(
            network[1] - network[0], rel=1e-4
        )


def test_a_penalty_where_a_dataflow_would_be_ahead():
    contribution = Contribution(EDP, 1.5, 0.5, limit=0.0)
    assert contribution.score(0.5, 1.0) < contribution.score(0.5, 2.0) < contribution.score(0.5, 2.1)
    assert contribution.score(0.1, 12.0) > contribution.score(1.0, 1.0)
