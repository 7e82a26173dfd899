"""Pipelines: the best split is found, and every number of it is true."""

import itertools
import json
from pathlib import Path

import pytest

import hw_model
from automapper.__main__ import main
from automapper.objective import parse_objective
from automapper.pipelines import Pipelines, best_split
from automapper.search import Found
from automapper.workload import Network, NetworkLayer

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


@pytest.fixture(scope="module", params=[500, pytest.param(20000, marks=pytest.mark.full)])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    (folder / "layers.yaml").write_text(LAYERS)
    words = ["--network", folder / "layers.yaml", "--bits", "4,16", "--budget", request.param, "--save", folder]
    main([*map(str, words), "--delay", "interval", "--fuse", "off", "--baselines", "row_stationary"])
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


def test_a_pipeline_of_wider_words_runs_narrower_ones_too():
    layers = [hw_model.Layer(name=name, K=16, C=8, P=8, Q=8) for name in "ab"]
    network = Network("two", tuple(map(NetworkLayer, layers)), ())
    pipelines = Pipelines(network, (4, 16), hw_model.load_device("eyeriss"), parse_objective("edp"), 2, 0, workers=1)
    pipelines.advance(200, 1.0)
    wide = pipelines.best(16)
    for (width, problem), found in list(pipelines.found.items()):
        if problem.bits == 4:  # as if the search at 4 bit had found nothing good
            pipelines.found[width, problem] = Found(found.search, found.mapping, found.cost * 100)
    narrow = pipelines.best(4)
    assert (narrow.columns, narrow.ends) == (wide.columns, wide.ends)
    assert narrow.cost.edp_js < wide.cost.edp_js
    begins = (0, *narrow.ends[:-1])
    for columns, begin, end in zip(narrow.columns, begins, narrow.ends, strict=True):
        (part,) = hw_model.partition(hw_model.load_device("eyeriss"), [columns])
        for layer, found in zip(layers[begin:end], narrow.found[begin:end], strict=True):
            assert found.cost.edp_js == hw_model.evaluate(layer, found.mapping, part, 4).edp_js


def test_multi_cycle_only(tmp_path):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    words = ["--network", tmp_path / "layers.yaml", "--bits", "8", "--budget", "640", "--save", tmp_path]
    main([*map(str, words), "--stages", "1"])
    (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    assert row["pipeline"] is None
    assert row["mode"] == "multi-cycle"
    assert row["why"] == "no pipeline: --stages 1 asks for multi-cycle only"


SMALL = """
- {name: a, K: 5, C: 5, P: 5, Q: 5}
- {name: b, K: 5, C: 5, P: 5, Q: 5, R: 3, S: 3}
- {name: c, K: 5, C: 5, P: 5, Q: 5}
- {name: d, K: 5, C: 5, P: 5, Q: 5, R: 3, S: 3}
"""  # too small for the whole array: a pipeline of parts wins


def run(folder, layers, *words):
    (folder / "layers.yaml").write_text(layers)
    words = ["--network", folder / "layers.yaml", "--budget", "640", "--save", folder, *words]
    main([*map(str, words)])
    return json.loads((folder / "report.json").read_text())


def with_change(folder, device, old, new):
    text = (Path(hw_model.__file__).parent / "devices" / f"{device}.yaml").read_text()
    assert old in text
    (folder / "device.yaml").write_text(text.replace(old, new))
    return str(folder / "device.yaml")


def test_the_report_says_why_there_is_no_pipeline(tmp_path):
    (row,) = run(tmp_path, "[{name: one, K: 4, C: 4}]", "--bits", "8")["bit_widths"]
    assert row["why"] == "no pipeline: the network has one layer only"

    narrow = with_change(tmp_path, "eyeriss", "array: {x: 14,", "array: {x: 1,")
    (row,) = run(tmp_path, LAYERS, "--bits", "8", "--device", narrow)["bit_widths"]
    assert row["why"] == "no pipeline: the array's 1 column cannot be split"

    # an input and an output word of 32 bit fill the buffer: a part of it does not hold them
    tiny = with_change(tmp_path, "eyeriss", "size_bits: 819200", "may_bypass: []\n    size_bits: 64")
    layers = "[{name: small, K: 2, C: 2}, {name: smaller, K: 2}]"
    (row,) = run(tmp_path, layers, "--bits", "32", "--device", tiny)["bit_widths"]
    assert row["mode"] == "multi-cycle" and row["pipeline"] is None
    assert row["why"].startswith("no pipeline: layer ") and "columns: glb: " in row["why"]


def test_where_a_pipeline_wins_the_report_says_what_is_whose(report, tmp_path):
    for row in report["bit_widths"]:
        layers = row["layers"]
        for name in ("energy_j", "latency_s"):
            assert row["multi_cycle"][name] == pytest.approx(sum(layer[name] for layer in layers), rel=1e-12)
            assert row[name] == row["multi_cycle" if row["mode"] == "multi-cycle" else "pipeline"][name]
        assert row["objective_value"] == pytest.approx(row["energy_j"] * row["interval_s"], rel=1e-12)
        assert row["objective_value"] <= row["multi_cycle"]["objective_value"]
        for baseline in row["baselines"].values():
            assert row["objective_value"] <= baseline["objective_value"]
            if not baseline["converged"]:
                assert report["settings"]["budget"] == "500"
                continue
            gain = 100 * (1 - row["objective_value"] / baseline["objective_value"])
            assert baseline["objective_improvement_percent"] == pytest.approx(gain, abs=1e-9)


def test_stages_are_in_the_folder_and_the_page(tmp_path, capsys):
    (row,) = run(tmp_path, SMALL, "--bits", "8", "--delay", "interval", "--device", "eyeriss168")["bit_widths"]
    assert row["mode"] == "pipeline"
    files = sorted(file.name for file in (tmp_path / "mappings/8bit/pipeline").iterdir())
    names = [(number, layer["name"]) for number, stage in enumerate(row["pipeline"]["stages"], 1)
             for layer in stage["layers"]]  # fmt: skip
    assert [(int(name[5]), name[11]) for name in files] == names
    assert "columns" in (tmp_path / "mappings/8bit/pipeline" / files[0]).read_text()
    assert "is a pipeline of these stages" in (tmp_path / "report.html").read_text()
    assert "last columns: energy x interval against" in capsys.readouterr().out


@pytest.mark.parametrize("budget", [4000, pytest.param(20000, marks=pytest.mark.full)])
def test_the_goal_is_met_by_the_result_pipelines_included(tmp_path, budget):
    words = ["--bits", "8", "--delay", "interval", "--budget", budget, "--device", "eyeriss168"]
    whole = run(tmp_path, SMALL, *words)
    (full,) = whole["bit_widths"]
    assert full["mode"] == "pipeline"
    share = 0.25  # between the two, out of reach for multi-cycle
    goal = full["objective_value"] ** share * full["multi_cycle"]["objective_value"] ** (1 - share)
    report = run(tmp_path, SMALL, *words, "--goal", goal)
    assert report["search"]["goal_met"]
    (row,) = report["bit_widths"]
    assert row["objective_value"] <= goal < row["multi_cycle"]["objective_value"]
    assert report["search"]["mappings"] < whole["search"]["mappings"] / 2
