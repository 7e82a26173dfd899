"""A layer's result depends on layer, bit-width, device, constraints, objective, budget and seed alone."""

import json
import math
import re
from pathlib import Path

import pytest

import hw_model
from automapper.__main__ import main
from automapper.baselines import Baselines
from automapper.budget import Budget
from automapper.dataflows import built_in, load_dataflow
from automapper.evolve import CONVERGED, Evolution
from automapper.objective import parse_objective
from automapper.report import have_converged
from automapper.search import Found, run_search
from automapper.space import Search
from automapper.workload import Problem

ROOT = Path(__file__).resolve().parents[2]
EDP = parse_objective("edp")
CONV, FC = hw_model.Layer(K=32, C=16, P=14, Q=14, R=3, S=3), hw_model.Layer(K=100, C=72)
MINE = "name: mine\nx: [K]\ny: [C]\nstays: I\n"


@pytest.mark.parametrize("device", ["eyeriss", pytest.param("simba_like", marks=pytest.mark.full)])
def test_what_is_searched_beside_a_layer_changes_nothing(device, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    added = load_dataflow(str(tmp_path / "mine.yaml"))
    device, problem = hw_model.load_device(device), Problem(CONV, 8)
    alone = run_search([problem], device, EDP, Budget(1500), 0, workers=1).found
    beside = run_search(
        [Problem(CONV, 32), problem, Problem(CONV, 4), Problem(FC, 8)], device, EDP, Budget(1500), 0, workers=1,
        baselines=Baselines(added=(added,)), fixed=[Problem(CONV, 2)],
    ).found  # fmt: skip
    assert set(alone) <= {Search(problem, name) for name in ("", *built_in())}
    assert len(alone) > 4
    for search, found in alone.items():
        assert beside[search] == found
    assert beside[Search(problem, added)] == run_search(
        [problem], device, EDP, Budget(1500), 0, workers=1, baselines=Baselines(added=(added,))
    ).found[Search(problem, added)]  # fmt: skip


def test_one_search_alone_is_the_same_search():
    """Those of the whole space excepted, which take over from the built-in dataflows."""
    device, problem = hw_model.load_device("eyeriss"), Problem(CONV, 8)
    together = Evolution([Search(problem, flow) for flow in ("", *built_in())], device, EDP, 3).advance(3000, 1.0)
    for index, flow in enumerate(built_in(), 1):
        alone = Evolution([Search(problem, flow)], device, EDP, 3).advance(3000, 1.0)
        assert (alone.score[0], alone.bred[0]) == (together.score[index], together.bred[index])
        assert alone.best(0) == together.best(index)


def test_a_copy_of_a_dataflow_is_the_same_search(tmp_path):
    text = (ROOT / "automapper/dataflows/weight_stationary.yaml").read_text()
    (tmp_path / "copy.yaml").write_text(text.replace("name: weight_stationary", "name: another_name"))
    copy = load_dataflow(str(tmp_path / "copy.yaml"))
    searches = [Search(Problem(CONV, 8), "weight_stationary"), Search(Problem(CONV, 8), copy)]
    evolution = Evolution(searches, hw_model.load_device("eyeriss"), EDP, 0).advance(1000, 1.0)
    assert evolution.best(0) == evolution.best(1)


def test_the_entries_of_a_report(tmp_path):
    """At 8 bit the same, whatever the other bit-widths and baselines; the network's choices are beside them."""
    (tmp_path / "mine.yaml").write_text(MINE)
    layers = [{"name": "conv", **CONV.to_dict()}, {"name": "fc", **FC.to_dict()}]
    (tmp_path / "layers.yaml").write_text(json.dumps(layers))
    words = ["--network", str(tmp_path / "layers.yaml"), "--budget", "300", "--stages", "1", "--save", str(tmp_path)]
    rows = []
    for more in (["--bits", "8"], ["--bits", "2,8,32", "--dataflow", str(tmp_path / "mine.yaml"), "--fixed_at", "4"]):
        main([*words, *more])
        report = json.loads((tmp_path / "report.json").read_text())
        (row,) = [row for row in report["bit_widths"] if row["bits"] == 8]
        rows.append(row)
    for one, other in zip(*(row["layers"] for row in rows), strict=True):
        changed = ("baselines", "in_network", "traded", "winner")
        assert {k: v for k, v in one.items() if k not in changed} == {
            k: v for k, v in other.items() if k not in changed
        }
        for name in built_in():
            assert one["baselines"][name] == other["baselines"][name]


def evolution_of(budget):
    return Evolution([Search(Problem(FC, 8))], hw_model.load_device("eyeriss"), EDP, 0).advance(budget, 1.0)


def test_converged():
    evolution = evolution_of(20000)
    assert evolution.converged(0)
    score, half = evolution.score[0], evolution.bred[0] / 2
    known = list(evolution.improved[0])
    for gap, ok in ((0.9 * CONVERGED, True), (1.1 * CONVERGED, False)):
        evolution.improved[0] = [(1, score + gap), (int(half) + 1, score)]  # gained by the last half
        assert evolution.converged(0) is ok
        assert evolution.gaps(0)[0] == pytest.approx(gap)
        evolution.improved[0] = known
        evolution.starts[0] = [score + gap, score]
        assert evolution.converged(0) is ok
        assert evolution.gaps(0)[1] == pytest.approx(gap)
        evolution.starts[0] = [score, score]
    evolution.starts[0] = [score]  # one start agrees with none
    assert not evolution.converged(0)


def test_layers_converge_as_a_whole():
    """A small layer may be open where a large one is not; an infinite gap is too large however small the layer."""

    def found(energy_j, gap):
        return Found(None, None, hw_model.Cost(energy_pj=energy_j * 1e12, latency_s=energy_j), (gap, 0.0))

    assert not have_converged([found(1.0, 2 * CONVERGED)], EDP)
    assert have_converged([found(1.0, 2 * CONVERGED), found(2.0, 0.0)], EDP)
    assert not have_converged([found(2.0, 2 * CONVERGED), found(1.0, 0.0)], EDP)
    assert not have_converged([found(1e-9, math.inf), found(1.0, 0.0)], EDP)


@pytest.mark.parametrize("budget", [1, 100, 1000])
def test_a_short_search_has_not_converged(budget):
    assert not evolution_of(budget).converged(0)


def test_gains_are_shown_where_both_searches_have_converged(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text(json.dumps([{"name": "fc", **FC.to_dict()}]))
    words = ["--network", str(tmp_path / "layers.yaml"), "--bits", "8", "--stages", "1", "--save", str(tmp_path)]
    texts = []
    for budget in ("1", "20000"):
        main([*words, "--budget", budget])
        texts.append(capsys.readouterr().out)
        (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
        baselines = [*row["baselines"].values(), *row["layers"][0]["baselines"].values()]
        for baseline in baselines:
            assert baseline["converged"] is (budget != "1")
            gains = {key.split("_")[0] for key in baseline if "improvement" in key}
            assert gains == (set() if budget == "1" else {"edp", "energy", "latency", "objective"})
            if gains:
                gain = 100 * (1 - row["edp_js"] / baseline["edp_js"])
                assert baseline["edp_improvement_percent"] == pytest.approx(gain, abs=1e-9)
        page = (tmp_path / "report.html").read_text().split('class="results"')[1].split("</table>")[0]
        assert len(re.findall(r"<td>-?[0-9.]+ %", page)) == (0 if budget == "1" else 6)
    (short,) = [line for line in texts[0].splitlines() if line.split()[:1] == ["8"]]
    assert "%" not in short and "no gain is shown where a search has not converged" in texts[0]
    (full,) = [line for line in texts[1].splitlines() if line.split()[:1] == ["8"]]
    assert full.count("%") == 6 and "not converged" not in texts[1]
