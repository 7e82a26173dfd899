"""The Pareto front of energy and latency: exact for a network's layers, true in its numbers; limits of either."""

import itertools
import json

import numpy as np
import pytest

import automapper
import hw_model
from automapper.__main__ import main, with_network_setting
from automapper.dataflows import built_in
from automapper.evolve import known_row
from automapper.objective import parse_objective
from automapper.pareto import Limits, network_front, nondominated
from automapper.search import Found
from automapper.space import Search, build_space
from automapper.workload import Network, NetworkLayer, Problem, problem_of
from hw_model import Cost, Layer, Mapping, load_device

LAYERS = [
    Layer(name="conv", K=16, C=3, P=12, Q=12, R=5, S=5, stride=2),
    Layer(name="again", K=16, C=16, P=6, Q=6, R=3, S=3),
    Layer(name="once more", K=16, C=16, P=6, Q=6, R=3, S=3),
    Layer(name="fc", K=10, C=64),
]
SEARCH = {"budget": 200, "stages": 1, "workers": 1, "baselines": []}


@pytest.fixture(scope="module")
def report():
    return automapper.map_network(LAYERS, "simple256", [4, 8], pareto=True, **SEARCH)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_nondominated_points(count):
    draw = np.random.default_rng(count)
    energy, cycles = draw.integers(1, 12, count).astype(float), draw.integers(1, 12, count)
    kept = nondominated(energy, cycles)
    points = list(zip(cycles, energy, strict=True))
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert [points[i] for i in kept] == sorted(set(points) - beaten)


def found(problem, energy_pj, cycles):
    return Found(Search(problem), Mapping(), Cost(energy_pj=energy_pj, cycles=cycles, latency_s=cycles * 1e-9))


def made_up_front(seed):
    draw = np.random.default_rng(seed)
    network = Network("made up", tuple(NetworkLayer(layer) for layer in LAYERS), ())
    fronts = {}
    for item in network.layers:
        problem = problem_of(item, 8)
        points = zip(np.sort(draw.integers(1, 40, 4))[::-1], np.sort(draw.integers(1, 40, 4)), strict=True)
        fronts.setdefault(problem, [found(problem, float(e), int(c)) for e, c in points])
    return network_front(network, 8, fronts)


@pytest.mark.parametrize("seed", range(5))
def test_a_networks_front_is_that_of_all_combinations(seed):
    front = made_up_front(seed)
    sums = {}
    for way in itertools.product(*(range(len(options)) for options in front.options)):
        costs = [options[i].cost for options, i in zip(front.options, way, strict=True)]
        sums[way] = sum(cost.cycles for cost in costs), sum(cost.energy_pj for cost in costs)
    points = set(sums.values())
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert list(zip(front.cycles.tolist(), front.energy_pj.tolist(), strict=True)) == sorted(points - beaten)
    for point in range(len(front)):
        assert sums[tuple(front.choices(point))] == (front.cycles[point], front.energy_pj[point])


@pytest.mark.parametrize("seed", range(3))
def test_limits_choose_the_best_point_within_them(seed):
    front = made_up_front(seed)
    energy, latency = front.energy_pj * 1e-12, front.latency_s()
    edp = parse_objective("edp")
    for most in np.linspace(latency[0], 1.1 * latency[-1], 7):
        choice = Limits(latency_s=most).choice(front, edp)
        assert choice.met
        assert sum(one.cost.energy_j for one in choice.found) == pytest.approx(min(energy[latency <= most]))
    for most in np.linspace(energy[-1], 1.1 * energy[0], 7):
        choice = Limits(energy_j=most).choice(front, edp)
        assert choice.met
        assert sum(one.cost.latency_s for one in choice.found) == pytest.approx(min(latency[energy <= most]))
    middle = Limits(latency[len(front) // 2], energy[len(front) // 2])
    assert middle.choice(front, edp).met
    out_of_reach = Limits(latency_s=0.9 * latency[0]).choice(front, edp)
    assert not out_of_reach.met and "the nearest takes" in out_of_reach.why
    assert sum(one.cost.cycles for one in out_of_reach.found) == front.cycles[0]


def evaluated(layer, mapping):
    return hw_model.evaluate(layer["dims"], mapping, "simple256", layer["bits"])


def test_every_point_is_a_sum_of_mappings(report):
    for row in report.to_dict()["bit_widths"]:
        pareto = row["pareto"]
        assert len(pareto["points"]) <= pareto["size"]
        for point in pareto["points"]:
            options = [of_layer[i] for of_layer, i in zip(pareto["layers"], point["choices"], strict=True)]
            costs = [evaluated(layer, one["mapping"]) for layer, one in zip(row["layers"], options, strict=True)]
            assert point["energy_j"] == pytest.approx(sum(cost.energy_j for cost in costs), rel=1e-12)
            assert point["latency_s"] == pytest.approx(sum(cost.latency_s for cost in costs), rel=1e-12)
            assert point["edp_js"] == point["energy_j"] * point["latency_s"]


def test_points_rise_in_latency_and_fall_in_energy_and_one_has_the_lowest_edp(report):
    fronts = 0
    for row in report.to_dict()["bit_widths"]:
        points = row["pareto"]["points"]
        fronts += len(points) > 2
        for one, next_one in itertools.pairwise(points):
            assert one["latency_s"] < next_one["latency_s"] and one["energy_j"] > next_one["energy_j"]
        lowest = points[row["pareto"]["lowest_edp"]]["edp_js"]
        assert lowest == min(point["edp_js"] for point in points)
        assert lowest <= row["multi_cycle"]["edp_js"] * (1 + 1e-9), "every layer's own mapping is one to choose from"
        for layer, options in zip(row["layers"], row["pareto"]["layers"], strict=True):
            own = layer["energy_j"] * (1 + 1e-9), layer["latency_s"]
            assert any(one["energy_j"] <= own[0] and one["latency_s"] <= own[1] for one in options)
    assert fronts, "a device on which energy and latency differ"


def test_the_front_is_drawn_and_said(report, tmp_path):
    report.write(tmp_path)
    assert "Energy against latency" in (tmp_path / "report.html").read_text()
    assert "Pareto front at 4 bit: " in str(report) and "lowest EDP" in str(report)


def test_one_seed_one_front_for_any_number_of_workers(report):
    again = automapper.map_network(LAYERS, "simple256", [4, 8], pareto=True, **SEARCH | {"workers": 2})
    fronts = [[row["pareto"] for row in one.to_dict()["bit_widths"]] for one in (report, again)]
    assert fronts[0] == fronts[1]


def test_a_deadline_is_met_with_the_lowest_energy(report, tmp_path, capsys):
    points = report.to_dict()["bit_widths"][0]["pareto"]["points"]
    deadline = points[1]["latency_s"]
    limited = automapper.map_network(LAYERS, "simple256", [4, 8], max_latency=deadline, **SEARCH)
    first, second = limited.to_dict()["bit_widths"]
    assert first["within_limits"] and first["mode"] == "multi-cycle"
    assert first["energy_j"] == pytest.approx(points[1]["energy_j"]) and first["latency_s"] <= deadline * (1 + 1e-12)
    assert f"4 bit: {first['why']}" in str(limited)
    mappings = [layer.get("in_network", layer) for layer in first["layers"]]
    costs = [evaluated(layer, one["mapping"]) for layer, one in zip(first["layers"], mappings, strict=True)]
    assert first["energy_j"] == pytest.approx(sum(cost.energy_j for cost in costs), rel=1e-12)
    assert any(layer["traded"] for layer in first["layers"])
    limited.write(tmp_path)
    assert list((tmp_path / "mappings").glob("4bit/*.in_network.txt"))
    assert second["within_limits"] == (second["latency_s"] <= deadline)


def test_a_limit_out_of_reach_is_said_with_the_nearest(report):
    fastest = report.to_dict()["bit_widths"][0]["pareto"]["points"][0]
    limited = automapper.map_network(LAYERS, "simple256", 4, max_latency=1e-9, **SEARCH)
    (row,) = limited.to_dict()["bit_widths"]
    assert not row["within_limits"] and row["latency_s"] == pytest.approx(fastest["latency_s"])
    nearest = f"no combination of mappings is within 1e-09 s; the nearest takes {row['latency_s']:.3e} s"
    assert f"4 bit: {nearest}" in str(limited)


def test_constrained_to_a_dataflow_the_front_stays_inside():
    free, inside = (
        automapper.map_network(LAYERS[:1], "simple256", 8, pareto=True, within=within, **SEARCH)
        for within in (None, "weight_stationary")
    )
    (one,), (other,) = (report.to_dict()["bit_widths"] for report in (free, inside))
    mappings = [option["mapping"] for option in other["pareto"]["layers"][0]]
    flow, layer, device = built_in()["weight_stationary"], LAYERS[0], load_device("simple256")
    space = build_space([Search(Problem(layer, 8), flow)], device)
    assert mappings and all(known_row(space, Mapping.from_dict(mapping), device) is not None for mapping in mappings)
    assert one["pareto"]["points"][0]["latency_s"] <= other["pareto"]["points"][0]["latency_s"]


def test_the_command_line(tmp_path, capsys):
    assert with_network_setting(["--pareto", "--bits", "8", "net.pt"]) == [
        "--checkpoint", "net.pt", "--pareto", "--bits", "8",
    ]  # fmt: skip
    assert with_network_setting(["--pareto", "false", "net.yaml"]) == ["--network", "net.yaml", "--pareto", "false"]
    assert with_network_setting(["--pareto", "net.pt"]) == ["--checkpoint", "net.pt", "--pareto"]
    (tmp_path / "layers.yaml").write_text("- {K: 8, C: 16}\n")
    words = [
        "--pareto",
        str(tmp_path / "layers.yaml"),
        "--bits",
        "8",
        "--budget",
        "20",
        "--save",
        str(tmp_path / "map"),
    ]
    main(words)
    assert "Pareto front at 8 bit" in capsys.readouterr().out
    assert "pareto" in json.loads((tmp_path / "map/report.json").read_text())["bit_widths"][0]
