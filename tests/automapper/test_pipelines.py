"""Pipelines: the best split is found, and every number of it is true."""

import itertools
import json

import pytest

import hw_model
from automapper.__main__ import main
from automapper.objective import parse_objective
from automapper.pipelines import best_split
from automapper.search import Found

LAYERS = """
- {name: a, K: 16, C: 8, P: 8, Q: 8, R: 3, S: 3}
- {name: b, G: 16, P: 8, Q: 8, R: 3, S: 3}
- {name: c, K: 8, C: 16, P: 8, Q: 8}
- {name: d, K: 10, C: 8}
"""


def cost(energy, latency):
    return hw_model.Cost(energy_pj=energy * 1e12, latency_s=latency)


def by_hand(rows, width, stages, objective):
    """The lowest objective over every split, straight from the definition."""
    count = len(next(iter(rows.values())))
    values = []
    for number in range(2, stages + 1):
        for columns in itertools.product(rows, repeat=number):
            for cuts in itertools.combinations(range(1, count), number - 1):
                if sum(columns) <= width:
                    edges = [0, *cuts, count]
                    parts = [rows[c][a:b] for c, a, b in zip(columns, edges, edges[1:], strict=False)]
                    times = [sum(item.cost.latency_s for item in part) for part in parts]
                    joules = sum(item.cost.energy_j for part in parts for item in part)
                    values.append(objective.network_value(joules, sum(times), max(times)))
    return min(values)


@pytest.mark.parametrize("delay", ["latency", "interval"])
def test_the_best_split(delay):
    times = {4: [5.0, 9.0, 2.0, 4.0, 7.0], 6: [4.0, 6.0, 2.0, 3.0, 4.0], 8: [3.0, 5.0, 2.0, 3.0, 3.0]}
    rows = {c: [Found(None, None, cost(1.0 + t / 7, t)) for t in values] for c, values in times.items()}
    objective = parse_objective("edp", delay)
    best = best_split(rows, 14, 3, objective)
    value = objective.network_value(best.cost.energy_j, best.cost.latency_s, best.cost.interval_s)
    assert value == pytest.approx(by_hand(rows, 14, 3, objective), rel=1e-12)
    assert sum(best.columns) <= 14
    assert best.ends[-1] == 5


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    (folder / "layers.yaml").write_text(LAYERS)
    words = ["--network", folder / "layers.yaml", "--bits", "4,16", "--budget", "2000", "--save", folder]
    main([*map(str, words), "--delay", "interval"])
    return json.loads((folder / "report.json").read_text())


def test_every_number_of_a_pipeline_is_true(report):
    device = hw_model.load_device("eyeriss")
    dims = {layer["name"]: layer["dims"] for layer in report["bit_widths"][0]["layers"]}
    for row in report["bit_widths"]:
        pipeline = row["pipeline"]
        assert [layer["name"] for stage in pipeline["stages"] for layer in stage["layers"]] == list("abcd")
        assert sum(stage["columns"] for stage in pipeline["stages"]) <= device.array[0]
        for stage in pipeline["stages"]:
            (part,) = hw_model.partition(device, [stage["columns"]])
            true = [hw_model.evaluate(dims[x["name"]], x["mapping"], part, x["bits"]) for x in stage["layers"]]
            assert [x["edp_js"] for x in stage["layers"]] == [one.edp_js for one in true]
            assert stage["latency_s"] == pytest.approx(sum(one.latency_s for one in true), rel=1e-12)
            assert stage["energy_j"] == pytest.approx(sum(one.energy_j for one in true), rel=1e-12)
        stages = pipeline["stages"]
        assert pipeline["latency_s"] == pytest.approx(sum(stage["latency_s"] for stage in stages), rel=1e-12)
        assert pipeline["interval_s"] == pytest.approx(max(stage["latency_s"] for stage in stages), rel=1e-12)


def test_the_better_mode_is_chosen(report):
    for row in report["bit_widths"]:
        layers = row["layers"]
        energy, latency = (sum(layer[name] for layer in layers) for name in ("energy_j", "latency_s"))
        pipeline = row["pipeline"]
        better = pipeline["energy_j"] * pipeline["interval_s"] < energy * latency
        assert row["mode"] == ("pipeline" if better else "multi-cycle")
        assert row["interval_s"] == pytest.approx(pipeline["interval_s"] if better else latency, rel=1e-12)
        assert row["edp_js"] == pytest.approx(row["energy_j"] * row["latency_s"], rel=1e-12)


def test_multi_cycle_only(tmp_path):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    words = ["--network", tmp_path / "layers.yaml", "--bits", "8", "--budget", "640", "--save", tmp_path]
    main([*map(str, words), "--stages", "1"])
    (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    assert row["pipeline"] is None
    assert row["mode"] == "multi-cycle"
