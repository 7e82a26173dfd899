"""The experiments: what a run keeps, that it is never repeated, the statistics, and every claim as a smoke run."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch

import pytest
from tiny_runs import ROOT, same_tensors

from experiments import origin, report, stages
from experiments.__main__ import main
from experiments.claims import CLAIMS
from experiments.command import brief
from experiments.images import subset
from experiments.mapped import least_dram_cycles
from experiments.plan import derived_network, map_run, search_run, train_run
from experiments.runs import PATHS, Run
from experiments.scales import PAPER_BITS, SCALES, SMOKE
from experiments.shards import expected_seconds, unique
from experiments.statistics import significant
from experiments.store import Store
from experiments.tables import Results, accuracy_table, commit_of, compared
from experiments.verdicts import decided, differing, primary
from hw_model import Layer, load_device
from instantnet.engine.errors import UserError, exit_status
from instantnet.settings import presets


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(results, work) that the smoke runs of this file share."""
    folder = tmp_path_factory.mktemp("experiments")
    return folder / "results", folder / "work"


def command(folders, *words):
    return [*words, "--smoke", "--out", str(folders[0]), "--work", str(folders[1])]


ORIGIN = {
    "device": "CPU of a test, 2 cores", "threads": 1, "versions": {"torch": "2"}, "commit": "0123456789abcdef",
    "uncommitted_changes": False,
}  # fmt: skip


def made_up(run, result, **more):
    """What would be kept of `run` if it had found `result`."""
    settings = {name: value for name, value in run.asked().items() if name not in PATHS}
    times = {"seconds": 60, "cpu_seconds": 50, "finished": "2026-01-01 00:00 UTC"}
    identity = {"name": run.name, "stage": run.stage, "presets": list(run.presets), "differences": run.differences}
    return {**identity, **times, "settings": {"seed": 0, **settings}, "origin": ORIGIN, "result": result, **more}


def without(store, *patterns):
    """Take runs out of a store by their names."""
    lines = store.file.path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(fnmatch(json.loads(line).get("name", ""), text) for text in patterns)]
    assert len(kept) < len(lines)
    store.file.path.write_text("".join(kept))


# --- runs


def test_a_run_keeps_what_it_found_and_where_it_comes_from(folders):
    store = Store("smoke", *folders)
    run = train_run(SMOKE, 1, (2, 8, 32))
    kept = store.perform(run)
    assert kept == store.result(run)
    assert set(kept["result"]["accuracy"]) == {"2", "8", "32"}
    assert kept["settings"]["seed"] == 1 and kept["settings"]["teachers"] == "cascade"
    assert kept["seconds"] > 0 and kept["cpu_seconds"] > 0
    assert {"device", "versions", "commit", "uncommitted_changes", "threads"} == set(kept["origin"])
    assert kept["differences"]["load_path"] == "@" + derived_network(SMOKE).name and kept["finished"].endswith("UTC")
    assert str(folders[1]) not in json.dumps(kept), "no path of this machine"


def test_a_finished_run_is_not_repeated(folders, monkeypatch):
    store = Store("smoke", *folders)
    run = train_run(SMOKE, 1, (2, 8, 32))
    before = store.perform(run)
    monkeypatch.setitem(stages.STAGES, "train", lambda words: pytest.fail("it ran again"))
    assert store.perform(run) == before


def test_what_another_commit_did_is_done_again_where_asked_for(tmp_path):
    store = Store("smoke", tmp_path / "results", tmp_path / "work")
    run = train_run(SMOKE, 1, (4,))
    kept = store.perform(run)
    assert store.perform(run, redo=True) == kept, "it is of this commit"
    wrong = {"result": {"accuracy": {"4": -1.0}}}
    store.file.append({**kept, **wrong, "origin": {**kept["origin"], "commit": "0" * 40}})
    assert store.perform(run)["result"]["accuracy"] == {"4": -1.0}
    again = store.perform(run, redo=True)
    assert (again["result"], again["origin"], again["resumed"]) == (kept["result"], kept["origin"], False)
    assert store.result(run) == again
    store.file.append({**store.result(run.needs[0]), "finished": "9999-01-01 00:00 UTC"})
    store.file.append({**again, **wrong})
    assert store.perform(run)["result"]["accuracy"] == {"4": -1.0}
    assert store.perform(run, redo=True)["result"] == kept["result"], "its architecture was searched anew"


def test_a_training_that_diverges_is_a_result(tmp_path):
    store = Store("smoke", tmp_path / "results", tmp_path / "work")
    run = train_run(SMOKE, 1, (4, 32), name="absurd", extra={"lr": 1e30, "grad_clip": 0.0})
    kept = store.perform(run)
    assert "NaN" in kept["result"]["diverged"] and "checkpoint" not in kept["result"]["diverged"]
    assert brief(run, kept["result"]) == kept["result"]["diverged"]
    results = Results(store)
    assert results.of(run) is None and not results.missing and results.accuracies([[run]]) == {}
    assert f"in no mean above: `{run.name}`: {kept['result']['diverged']}." in results.provenance()
    with pytest.raises(UserError, match=f"{run.name} is needed, but"):
        store.perform(map_run(SMOKE, "absurd", run))


def test_other_settings_under_the_same_name_are_another_run(folders, monkeypatch):
    store = Store("smoke", *folders)
    run = train_run(SMOKE, 1, (2, 8, 32))
    store.perform(run)
    assert store.result(replace(run, settings={**run.settings, "lr": 0.5})) is None
    assert store.result(replace(run, presets=("released", *run.presets))) is None
    monkeypatch.setitem(presets.TRAIN["digits_tiny"], "lr", 0.5)
    assert store.result(run) is None, "its preset means something else now"
    monkeypatch.setitem(presets.TRAIN["digits_tiny"], "lr", store.file.runs()[run.name]["settings"]["lr"])
    assert store.result(run) is not None


def test_an_architecture_comes_back_out_of_its_result(folders, tmp_path):
    """Results are kept, what runs wrote is not: a later run needs arch.pt all the same."""
    from instantnet.engine.checkpoint import load_checkpoint

    found = search_run(SMOKE, 1)
    kept = Store("smoke", *folders).perform(found)
    elsewhere = Store("smoke", folders[0], tmp_path)
    elsewhere.provide(found, "train")
    arch = load_checkpoint(tmp_path / "smoke" / found.name / "arch.pt", ["ops"], "arch.pt")
    assert arch["ops"] == kept["result"]["ops"]
    result = Store("smoke", tmp_path / "results", tmp_path).perform(train_run(SMOKE, 1, (8,)))
    assert 0 <= result["result"]["accuracy"]["8"] <= 100


@pytest.mark.parametrize("network", ["derived", pytest.param("mobilenet_v2", marks=pytest.mark.full)])
def test_a_network_is_mapped_without_its_weights(network, folders, tmp_path, monkeypatch):
    """A mapping depends on no weight: a training whose weights are gone is not repeated for it."""
    with_weights = Store("smoke", *folders)
    training = train_run(SMOKE, 1, (2, 32), network=network)
    with_weights.perform(training)
    run = map_run(SMOKE, f"again_{network}", training)
    run = replace(run, settings={**run.settings, "baselines": []})
    expected = with_weights.perform(run)["result"]
    without(with_weights, run.name)
    monkeypatch.setitem(stages.STAGES, "train", lambda words: pytest.fail("it trained again"))
    found = Store("smoke", folders[0], tmp_path).perform(run)["result"]
    assert found["bits"] == expected["bits"]
    assert not list(tmp_path.rglob("weights.pt")), "nothing that looks like a trained network"


# --- mappings


def test_least_dram_cycles_by_hand():
    """64-bit link at 90 MHz beside a core at 200 MHz: 28.8 bits a cycle each way."""
    layer = Layer(K=8, C=4, P=3, Q=5)
    read, written = 8 * (8 * 4 + 4 * 3 * 5), 8 * 8 * 3 * 5
    assert least_dram_cycles(layer, load_device("eyeriss"), 8) == math.ceil(max(read, written) / 28.8)
    wide = Layer(K=64, C=2, P=3, Q=5)
    assert least_dram_cycles(wide, load_device("eyeriss"), 8) == math.ceil(8 * 64 * 3 * 5 / 28.8), "outputs"
    assert least_dram_cycles(layer, load_device("eyeriss").unlimited(), 8) == 0


def test_a_map_keeps_what_explains_its_costs(folders):
    """Shares add up; a layer that the DRAM link bounds is no faster in any dataflow."""
    store = Store("smoke", *folders)
    run = CLAIMS["mapper"].runs(SMOKE, SMOKE.seeds)[0]
    run = replace(run, name="map/two_bit_widths", settings={**run.settings, "bits": [4, 16]})
    store.perform(run)
    result = store.result(run)["result"]
    report_of_run = json.loads((store.work / run.name / "report.json").read_text())
    bound = 0
    for row in report_of_run["bit_widths"]:
        kept = result["bits"][str(row["bits"])]
        assert sum(kept["energy_shares"].values()) == pytest.approx(1)
        assert {name: kept["baselines"][name]["edp_js"] for name in kept["baselines"]} == {
            name: values.get("covered", values)["edp_js"] for name, values in row["baselines"].items()
        }
        for layer in row["layers"]:
            if layer["name"] in kept["dram_bound"]:
                bound += 1
                assert all(other["cycles"] >= layer["cycles"] for other in layer["baselines"].values())
    assert bound, "AlexNet's classifier waits for its weights"


def made_up_row(gain, converged):
    """One search's row, with row-stationary EDPs above AutoMapper's by so much that the gain is `gain` %."""
    costs = {"edp_js": 1 - gain / 100, "energy_j": 1.0, "latency_s": 1.0}
    other = {"edp_js": 1.0, "energy_j": 1.0, "latency_s": 1.0, "layers": 2, "layers_covered": 2, "converged": converged}
    return {**costs, "baselines": {"row_stationary": other}}


def test_a_gain_is_shown_where_every_search_has_converged():
    claim = CLAIMS["mapper"]
    rows = {("alexnet", b): [made_up_row(10.0 + b, True), made_up_row(12.0 + b, b != 8)] for b in PAPER_BITS}
    line = claim.edp_table(rows).splitlines()[2]
    assert line == (
        "| AlexNet | the best row-stationary mapping | 2 | 15.0 ± 1.4 |  | 23.0 ± 1.4 | 27.0 ± 1.4 | 43.0 ± 1.4 |"
    )
    (said,) = claim.every_verdict(rows).values()
    assert said.word == "measured, an EDP 15.0 to 43.0 % lower"
    assert "lower in 4 of 4 cases (not converged: 1 more)" in said.because
    nothing = {key: [made_up_row(10.0, False)] for key in rows}
    (said,) = claim.every_verdict(nothing).values()
    assert said.word == "not decided"


def test_an_interrupted_run_resumes(folders, tmp_path, monkeypatch):
    """Stopped after its last epoch, before its result: the second try trains nothing again."""
    store = Store("smoke", folders[0].parent / "other", tmp_path)
    run = train_run(SMOKE, 1, (4,))
    with monkeypatch.context() as patch:
        patch.setitem(stages.RESULT_OF, "train", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.perform(run)
    assert store.result(run) is None
    spent = tmp_path / "smoke" / run.name / "spent.json"
    assert json.loads(spent.read_text())["seconds"] > 0
    spent.write_text('{"seconds": 1000.0, "cpu_seconds": 900.0}')
    kept = store.perform(run)
    assert kept["resumed"] and kept["seconds"] >= 1000 and kept["cpu_seconds"] >= 900, "the stopped try's time counts"
    log = (tmp_path / "smoke" / run.name / "logs.txt").read_text()
    assert log.count("epoch   1/1") == 1


DAMAGED = [
    "",
    '{"seconds": 1',
    "[]",
    "7",
    "null",
    '{"seconds": "1", "cpu_seconds": []}',
    '{"seconds": NaN}',
    "[" * 10**5,
]
DAMAGED_BYTES = [*(text.encode() for text in DAMAGED), b"\xff\xfe{}", b"{}"]


@pytest.mark.parametrize("content", DAMAGED_BYTES, ids=range(len(DAMAGED_BYTES)))
def test_damaged_notes_of_a_try_are_as_if_not_there(tmp_path, monkeypatch, content):
    """spent.json: no time was spent; run.json: the run begins again."""

    def train_nothing(words):
        assert "--resume" not in words and (folder / "run.json").read_text() == json.dumps(run.asked())
        for name, text in (("result", {"accuracy": {"4": 50.0}}), ("settings", {"settings": {"seed": 1}})):
            (folder / f"{name}.json").write_text(json.dumps(text))

    monkeypatch.setitem(stages.STAGES, "train", train_nothing)
    store, run = Store("smoke", tmp_path / "results", tmp_path), train_run(SMOKE, 1, (4,))
    run = replace(run, settings={name: value for name, value in run.settings.items() if name != "load_path"})
    folder = store.work / run.name
    folder.mkdir(parents=True)
    for name in ("run.json", "spent.json", "checkpoint.pt"):
        (folder / name).write_bytes(content)
    assert store.seconds_spent(run) == 0
    kept = store.perform(run)
    assert not kept["resumed"] and kept["result"] == {"accuracy": {"4": 50.0}} and 0 <= kept["seconds"] < 60


@pytest.mark.parametrize("content", DAMAGED_BYTES, ids=range(len(DAMAGED_BYTES)))
@pytest.mark.parametrize(
    "stage, name", [("train", "result.json"), ("train", "settings.json"), ("map", "report.json"), ("search", "metrics")]
)
def test_a_damaged_summary_of_a_run_is_one_line(tmp_path, monkeypatch, capsys, stage, name, content):
    if name == "metrics":
        name = "metrics.jsonl"
        if not content:
            return  # no epoch, no line
        from instantnet.engine.checkpoint import save_checkpoint

        save_checkpoint(tmp_path / "arch.pt", {"ops": ["skip"], "flops": 1.0, "epoch": 0, "accuracy": {4: 1.0}})
    monkeypatch.setitem(stages.STAGES, stage, lambda words: (tmp_path / name).write_bytes(content))

    def read():
        if name != "settings.json":
            stages.outcome(stage, [], tmp_path)
        stages.settings_of(tmp_path, stage)

    assert exit_status(read) == 2
    err = capsys.readouterr().err
    assert str(name) in err and "damaged" in err and err.count("\n") == 1 and len(err) < 310


@pytest.mark.parametrize("part, value", [("result", []), ("differences", 3), ("presets", None), ("finished", 1)])
def test_a_stored_run_of_wrong_types_is_one_line(tmp_path, capsys, part, value):
    store, run = Store("smoke", tmp_path), train_run(SMOKE, 1, (4,))
    store.file.append(made_up(run, {"accuracy": {"4": 50.0}}))
    lines = [json.loads(line) for line in store.file.path.read_text().splitlines()]
    lines[-1][part] = value
    store.file.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert exit_status(lambda: main(["--out", str(tmp_path)])) == 2
    err = capsys.readouterr().err
    assert "line 3 is damaged" in err and err.count("\n") == 1


@pytest.mark.parametrize("own_process", [False, pytest.param(True, marks=pytest.mark.full)])
def test_it_runs_from_any_folder(folders, tmp_path, monkeypatch, own_process):
    """Results and what runs write lie in the repository, or where they are asked for, not in the folder one is in."""
    words = command(folders, "pretrained")
    if own_process:
        python = [sys.executable, "-m", "experiments", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(python, cwd=tmp_path, env=environment, check=True, capture_output=True)
    else:
        monkeypatch.chdir(tmp_path)
        assert exit_status(lambda: main(words)) == 0
    assert not list(tmp_path.iterdir())


def test_runs_of_one_name_are_one_run():
    """Two claims that share a run must mean the same by its name, or one would throw the other's result away."""
    for scale in SCALES.values():
        found = {}
        for claim in [claim for claim in CLAIMS.values() if scale in claim.LEGAL]:
            for run in unique(claim.runs(scale, scale.seeds)):
                assert found.setdefault(run.name, run) == run


# --- images


def test_a_subset_is_the_first_images_of_every_class(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "all" / part / name).mkdir(parents=True)
            for number in range(5):
                (tmp_path / "all" / part / name / f"{number}.jpg").write_text(name)
    for _ in range(2):  # the second time it is there
        folder = subset(tmp_path / "all", tmp_path / "images", 3, 2)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
        assert names == [
            f"{p}/{c}/{i}.jpg" for p, n in (("test", 2), ("train", 3)) for c in ("cat", "dog") for i in range(n)
        ]
    with pytest.raises(UserError, match="has 5 images"):
        subset(tmp_path / "all", tmp_path / "images", 6, 2)
    with pytest.raises(UserError, match="--data"):
        subset(tmp_path / "nothing", tmp_path / "images", 1, 1)


def test_images_are_asked_for(tmp_path):
    run = Run("train", "x", settings={"dataset_path": "{data}"})
    with pytest.raises(UserError, match="--data"):
        Store("cifar_cpu", tmp_path, tmp_path).perform(run)


# --- statistics


def seeded(*values):
    """Accuracies of seeds 1, 2, ..."""
    return dict(enumerate(values, start=1))


def test_tables_mark_the_best_and_compare_seed_by_seed():
    """Differences of 9, 10 and 11: mean 10, sample deviation 1, half of the interval 4.303 / sqrt(3) = 2.484."""
    rows = {"a": {4: seeded(50.0, 60.0, 55.0)}, "b": {4: seeded(41.0, 50.0, 44.0)}, "c": {}}
    assert accuracy_table("x", rows, [4]).splitlines()[2:] == [
        "| a | 3 | **55.00 ± 5.00** |",
        "| b | 3 | 45.00 ± 4.58 |",
        "| c | 0 | – |",
    ]
    assert compared(rows, [4]).splitlines()[2:] == ["| b | **+10.00 ± 2.48** |", "| c | – |"]


def test_only_seeds_that_both_rows_have_are_compared():
    rows = {"a": {4: {1: 50.0, 2: 60.0}}, "b": {4: {2: 58.0, 3: 1.0}}}
    assert compared(rows, [4]).splitlines()[2:] == ["| b | +2.00 |"]
    assert compared({"a": {4: {1: 50.0}}, "b": {4: {2: 58.0}}}, [4]).splitlines()[2:] == ["| b | – |"]


def test_tests_taken_together_are_holms():
    """Holm's own order: 0.05/4, 0.05/3, ...; the first that fails takes the larger ones with it."""
    assert significant({"a": 0.01, "b": 0.015, "c": 0.03, "d": 0.04}) == {"a", "b"}
    assert significant({"a": 0.013, "b": 0.001, "c": 0.9}) == {"a", "b"}
    assert significant({"a": 0.02, "b": 0.02, "c": 0.02}) == set()


ABOVE, SAME, BELOW = seeded(60.0, 60.1, 60.2), seeded(50.0, 50.2, 49.9), seeded(40.0, 40.1, 40.2)


@pytest.mark.parametrize(
    "first, word, because",
    [
        (ABOVE, "holds", "cdt minus next at 2 bit: +9.07 points"),
        (BELOW, "does not hold", "cdt minus next at 2 bit: -10.93 points"),
        (seeded(51.0, 51.3, 50.8), "not decided", "3 seeds"),
        ({1: 60.0}, "one seed", "+9.00 points, 1 seed"),
        (seeded(52.0, 52.2, 51.9), "not decided", "+1.00 points, 3 seeds"),  # all alike: no error is known
    ],
)
def test_a_table_is_judged_by_its_first_row_against_the_best_other_at_the_lowest_bit_width(first, word, because):
    next_best = seeded(51.0, 51.2, 50.9)
    rows = {"cdt": {2: first, 4: BELOW}, "none": {2: SAME, 4: ABOVE}, "next": {2: next_best, 4: BELOW}}
    found = decided({"table": primary(rows, [2, 4])})["table"]
    assert found.word == word and because in found.because
    assert primary({"cdt": {}, "none": {2: SAME}}, [2]) is None


def test_what_is_not_decided_says_what_it_could_have_shown():
    """Differences -1, 1 and 3: mean 1, deviation 2, half of the interval 4.303 * 2 / sqrt(3) = 4.97."""
    rows = {"cdt": {4: seeded(49.0, 51.0, 53.0)}, "none": {4: seeded(50.0, 50.0, 50.0)}}
    found = decided({"table": primary(rows, [4])})["table"]
    assert found.word == "not decided" and str(found).startswith(
        "**Not decided** (smallest detectable difference 4.97): cdt minus none at 4 bit: +1.00 points"
    )


def test_one_lucky_interval_in_many_tables_decides_nothing():
    """p = 0.03 by itself; among ten tables each needs a tenth of 0.05."""
    lucky = primary({"cdt": {4: seeded(51.0, 51.4, 51.8)}, "none": {4: seeded(50.0, 50.0, 50.0)}}, [4])
    assert 0.005 < lucky.test.p < 0.05
    assert decided({"one": lucky})["one"].word == "holds"
    others = {
        number: primary({"cdt": {4: seeded(49.0, 51.0, 50.1)}, "none": {4: seeded(50.0, 50.0, 50.0)}}, [4])
        for number in range(9)
    }
    assert decided({"one": lucky, **others})["one"].word == "not decided"


def test_rows_that_differ_from_the_default_are_named():
    rows = {
        "default": {2: SAME, 4: SAME},
        "a": {2: BELOW, 4: BELOW},
        "b": {2: SAME, 4: SAME},
        "c": {2: seeded(1.0), 4: seeded(1.0)},
    }
    found = differing(rows, [2, 4])
    assert found.word == "1 of 2 rows differs from the default" and "a -9.93 points" in found.because


def test_a_search_is_judged_at_equal_flops(tmp_path):
    """Networks outside the window, however accurate, do not count."""
    claim, scale = CLAIMS["search"], SCALES["cifar_cpu"]
    window, store = scale.windows[0], Store("cifar_cpu", tmp_path)
    accuracies = {"sp_nas": 60.0, "fp_nas": 50.0, "lp_nas": 40.0}
    for method, accuracy in accuracies.items():
        for seed in scale.seeds:
            outside = method == "lp_nas" and seed > 1
            result = {"flops": window.low * (2 if outside else 1), "ops": ["skip"], "parameters": 1}
            result |= {"flops_per_epoch": [1e6, 2e6], "epoch": 1, "supernet_accuracy": {"4": 30.0}}
            result["accuracy"] = {str(b): (99.0 if outside else accuracy) + 0.1 * seed for b in PAPER_BITS}
            for run in claim.pair(scale, window, method, seed):
                store.file.append(made_up(run, result))
    results = Results(store)
    (said,) = claim.verdicts(scale, scale.seeds, results).values()
    assert said.word == "not decided" and "LP-NAS" in said.because and "SP-NAS" not in said.because
    text = claim.section(scale, scale.seeds, results)
    assert "| 2: 30.0<br>2: 30.0<br>2: 30.0 |" in text
    assert "* LP-NAS, seed 3: 1.00 2.00\n" in text
    assert "the networks inside the window alone" in text and "| LP-NAS | 1 | 40.10 |" in text


# --- the commands


CHEAP = ("search", "paper_size", "cdt_tried", "pretrained", "demo")  # a search, a training and a mapping among them


@pytest.mark.parametrize("claim", [pytest.param(c, marks=[] if c in CHEAP else pytest.mark.full) for c in CLAIMS])
def test_every_claim_runs_as_smoke_and_prints_its_table(claim, folders, capsys):
    assert exit_status(lambda: main(command(folders, claim))) == 0
    out = capsys.readouterr().out
    assert "| --- |" in out and re.search(r"<sub>\d+ runs?, ", out) and "not done" not in out


def test_a_part_of_a_claim_is_measured_by_itself(folders, capsys):
    assert exit_status(lambda: main(command(folders, "cdt", "--only", "*mobilenet*none*"))) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 1 and "/none/" in lines[0]
    assert exit_status(lambda: main(command(folders, "cdt", "--only", "nothing"))) == 2
    assert "--only nothing" in capsys.readouterr().err


def test_a_part_too_small_for_a_table_says_so(tmp_path, capsys):
    words = command((tmp_path / "results", tmp_path / "work"), "search", "--only", "search/sp_nas/*")
    assert exit_status(lambda: main(words)) == 0
    out = capsys.readouterr().out
    assert "no table yet: 5 of the runs of search are not done" in out and "| --- |" not in out


@pytest.mark.parametrize(
    "words, named",
    [
        (["cdt", "--seeds", "1,a"], "'1,a' is no list of whole numbers"),
        (["cdt", "--seeds", "1,2,1"], "'1,2,1' names a seed twice"),
        (["report", "--seeds", "1,2"], "--seeds has no effect"),
        (["cdt", "--smoke", "--out", "/proc/nothing"], "--out /proc/nothing"),
        (["cdt", "--smoke", "--out", __file__], "--out"),
        (["cdt", "--scale", "huge"], "'huge'"),
        (["nothing"], "'nothing'"),
        (["cdt", "--shard", "3/2"], "'3/2' is no share"),
        (["cdt", "--shard", "0/2"], "'0/2' is no share"),
        (["cdt", "--minutes", "0"], "'0' is no number of minutes above 0"),
        (["cdt", "--minutes", "inf"], "'inf' is no number"),
        (["report", "--shard", "1/2"], "--shard has no effect"),
        (["cdt", "--quick"], "--quick"),
        (["take"], "take: name the file"),
        (["take", "/nowhere/digits.jsonl"], "no such file"),
        (["take", "/nowhere/huge.jsonl"], "named after its scale"),
        (["take", "digits.jsonl", "--jobs", "2"], "--jobs has no effect"),
        (["cdt", "digits.jsonl"], "a file is named after take alone"),
    ],
)
def test_a_wrong_word_is_one_line(words, named, capsys):
    assert exit_status(lambda: main(words)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and named in told


def test_a_report_out_of_nothing_leaves_the_page_alone(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(f"{report.BEGIN}\nkept\n{report.END}\n")
    with pytest.raises(UserError, match="no such folder"):
        report.write(tmp_path / "nowhere", page, tmp_path, None)
    assert "kept" in page.read_text()


@pytest.mark.parametrize("device, expected", [("CPU of a test, 2 cores", 50), ("NVIDIA of a test", 60)])
def test_an_estimate_leaves_out_what_other_work_cost(device, expected, tmp_path):
    """A stored run of one thread on a CPU took its processor time; what it waited for was not its own."""
    store, run = Store("smoke", tmp_path), train_run(SMOKE, 1, (2, 8, 32))
    store.file.append(made_up(run, {}, origin={**ORIGIN, "device": device}))
    assert expected_seconds(run, SMOKE, store) == expected
    assert expected_seconds(train_run(SMOKE, 2, (2, 8, 32)), SMOKE, store) == expected, "another seed takes as long"
    assert expected_seconds(train_run(SMOKE, 2, (2, 32)), SMOKE, store) == 60 * SMOKE.minutes["train"]


def test_a_results_file_of_another_machine_is_taken(folders, tmp_path, capsys):
    store = Store("smoke", tmp_path / "there")
    run = train_run(SMOKE, 1, (2, 32), "none", "mobilenet_v2")
    store.file.append(made_up(run, {"accuracy": {"2": 50.0, "32": 60.0}}))
    words = ["take", str(store.file.path), "--out", str(tmp_path / "here")]
    assert exit_status(lambda: main(words)) == 0
    assert capsys.readouterr().out == f"{run.name}\n1 of 1 runs are new here\n"
    assert Store("smoke", tmp_path / "here").result(run) == store.result(run)
    main(words)
    assert "0 of 1 runs are new here" in capsys.readouterr().out


def test_the_commit_of_a_copy_without_its_repository_is_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "ROOT", tmp_path)

    def found():
        origin.commit_of_code.cache_clear()
        return origin.commit_of_code()

    try:
        monkeypatch.delenv(origin.STATED, raising=False)
        assert found() == (None, None)
        monkeypatch.setenv(origin.STATED, "0123456789" * 4)
        assert found() == ("0123456789" * 4, None)
        assert commit_of({"commit": found()[0], "uncommitted_changes": None}) == "012345678"
        monkeypatch.setenv(origin.STATED, "HEAD")
        with pytest.raises(UserError, match="INSTANTNET_COMMIT = 'HEAD' is no commit"):
            found()
    finally:
        origin.commit_of_code.cache_clear()


def test_a_claim_is_measured_at_its_own_scales(capsys):
    assert exit_status(lambda: main(["mapper", "--scale", "digits"])) == 2
    assert "full" in capsys.readouterr().err


def test_the_list_says_what_a_claim_costs(folders, capsys):
    main(["--out", str(folders[0])])
    out = capsys.readouterr().out
    for claim in CLAIMS:
        assert f"\n{claim} " in f"\n{out}"
    assert "--scale cifar_cpu" in out and "stored" in out and "min in all" in out


def test_a_network_is_published_without_this_machines_folders(tmp_path):
    from instantnet.engine.checkpoint import load_checkpoint

    claim, scale = CLAIMS["pretrained"], SMOKE
    store = Store("smoke", tmp_path / "results", tmp_path / "work")
    for run in claim.runs(scale, scale.seeds)[:2]:
        store.perform(run)
    chosen = claim.best(scale, scale.seeds, Results(store))
    assert chosen == max(
        claim.runs(scale, scale.seeds)[:2], key=lambda run: store.result(run)["result"]["accuracy"]["2"]
    )
    written = claim.publish(store, scale, tmp_path)
    assert [path.name for path in written] == ["arch.pt", "weights.pt"]
    for path in written:
        content = load_checkpoint(path, ["config"], path.name)
        assert not [value for value in content["config"].values() if isinstance(value, str) and value.startswith("/")]
    original = load_checkpoint(store.work / chosen.name / "weights.pt", ["model"], "weights.pt")
    assert same_tensors(original["model"], load_checkpoint(tmp_path / "weights.pt", ["model"], "weights.pt")["model"])


# --- the page


@pytest.fixture
def stored(tmp_path):
    """Made-up results of claims 1 and 3 at the scale `cifar_cpu`: cascade best at 2 and 4 bit, all alike elsewhere."""
    scale = SCALES["cifar_cpu"]
    store = Store("cifar_cpu", tmp_path / "results")
    best = {"cascade": 60.0}
    for claim in ("cdt", "end_to_end"):
        for run in unique(CLAIMS[claim].runs(scale, scale.seeds)):
            seed = float(run.name[-1]) if "seed" in run.name else 0.0
            bits = map(str, run.settings["num_bits_list"]) if run.stage == "train" else []
            teachers = next((name for name in best if f"/{name}/" in run.name), "")
            lowest = best.get(teachers, 50.0 + 0.02 * seed)  # so that gaps differ from seed to seed
            accuracy = {b: (lowest if b in ("2", "4") else 70.0) + 0.1 * seed for b in bits}
            edp = {"edp_js": 1e-6, "energy_j": 1e-3, "latency_s": 1e-3}
            other = {**edp, "edp_js": 4e-6, "converged": True}
            row = {**edp, "baselines": {"row_stationary": other, "row_stationary_fixed": {**other, "edp_js": 8e-6}}}
            result = {"accuracy": accuracy, "device": "eyeriss", "bits": {str(b): row for b in (*PAPER_BITS, 5, 6)}}
            result |= {"flops": 10**6, "parameters": 10**5, "ops": ["skip"]}
            store.file.append(made_up(run, result))
    return tmp_path / "results"


def test_the_report_puts_claims_between_the_markers_and_tables_on_their_pages(stored, tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text(f"# before\n\n{report.BEGIN}\nstale\n{report.END}\n\n# after\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    written = report.write(stored, page, tmp_path / "figures", readme)
    text, claims = page.read_text(), readme.read_text()
    cdt, end_to_end = ((tmp_path / "results" / f"{name}.md").read_text() for name in ("cdt", "end_to_end"))
    assert "* [Cascade distillation against its alternatives](docs/results.md#1-cascade-" in claims
    assert "): **holds** (`cifar_cpu`)" in claims and "): **not evidence** (`cifar_cpu`)" in claims
    assert text.startswith("# before\n") and text.endswith("\n# after\n") and "stale" not in text
    assert "Answer: **holds** (`cifar_cpu`)." in text and "[All tables](results/cdt.md): `cifar_cpu`." in text
    assert text.count("| cascade (CDT) | 3 |") == 1 < cdt.count("| cascade (CDT) | 3 |"), "one table a claim"
    assert "| cascade (CDT) | 3 | **60.20 ± 0.10** |" in cdt
    assert "| highest (teachers as in SP-Nets) | **+9.96 ± 0.05** | +0.00 ± 0.00 |" in cdt
    assert "minus none (teachers as in AdaBits): +9.96 points" in cdt
    assert re.search(r"\+9.9\d points, EDP -75%", end_to_end)
    assert "published: over baseline 1 | +1.39 points, EDP -74%" in end_to_end, "method.md, section 5: [4,8,12,16,32]"
    assert "published: over baseline 2 | +0.91 points, EDP -74% | +0.56 points, EDP -65%" in end_to_end, "[4,5,6,8]"
    assert "seeds 1, 2, 3; CPU of a test, 1 thread; torch 2; commit 012345678." in cdt
    assert "Not measured yet." in text
    names = {path.name for path in written}
    assert {"results.md", "cdt.md", "end_to_end_cifar_cpu.svg", "end_to_end_cifar_cpu.png"} <= names
    assert {"cdt_cifar_cpu.svg", "cdt_cifar_cpu.png"} <= names
    assert all(path.stat().st_size > 500 for path in written)
    monkeypatch.setattr(report, "FIGURES", tmp_path / "figures")
    again = report.Report(stored)
    assert again.sections() in text and again.claims_list() in claims, "the same results give the same page"


def test_missing_runs_are_counted(stored):
    without(Store("cifar_cpu", stored), "train/derived/4-8-12-16-32/none/seed2")
    pages = report.Report(stored).details()
    assert "| none (teachers as in AdaBits) | 2 |" in pages["cdt"]
    for claim in ("cdt", "end_to_end"):
        assert pages[claim].count("1 of the runs planned are not done") == 1


def test_one_baseline_is_enough_to_compare_with(stored):
    """End to end with the second baseline alone: the first is not trained yet."""
    without(Store("cifar_cpu", stored), "train/mobilenet_v2/*/highest/*")
    claim, scale = CLAIMS["end_to_end"], SCALES["cifar_cpu"]
    said = claim.verdicts(scale, scale.seeds, Results(Store(scale.name, stored)))
    assert said and all("1.00 times their FLOPs" in verdict.because for verdict in said.values())


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(report.BEGIN)
    with pytest.raises(UserError, match="once each"):
        report.write(tmp_path, page, tmp_path)


def test_the_page_is_what_the_stored_results_say():
    """docs/results.md is assembled, never edited: it equals what the command would write now."""
    text, stored = report.PAGE.read_text(), report.Report(report.RESULTS)
    assert text.split(report.BEGIN)[1].split(report.END)[0].strip() == stored.sections().strip()
    readme = report.README.read_text()
    assert readme.split(report.BEGIN)[1].split(report.END)[0].strip() == stored.claims_list().strip()
    pages = stored.details()
    for name, page in pages.items():
        assert (report.PAGE.parent / report.DETAILS / f"{name}.md").read_text() == page + "\n"
    assert len(list((report.PAGE.parent / report.DETAILS).iterdir())) == len(pages)
    for figure in re.findall(r"\((?:\.\./)?figures/(\S+)\)", "\n".join([text, *pages.values()])):
        assert (report.FIGURES / figure).exists() and (report.FIGURES / figure).with_suffix(".png").exists()
