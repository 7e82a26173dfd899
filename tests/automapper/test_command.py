"""`python -m automapper` as a user runs it: the report, its numbers, and what it says to bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_clock import FakeClock
from inequalities import check_inequalities
from tiny_network import OPS, tiny_settings

import hw_model
from automapper.__main__ import main
from automapper.dataflows import built_in
from automapper.evolve import Evolution
from automapper.objective import parse_objective
from automapper.space import Search
from automapper.workload import Problem
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError, exit_status

ROOT = Path(__file__).resolve().parents[2]
FAST = ["--budget", "60", "--fuse", "off"]  # test_fusion.py is about groups of layers
ONE_MODE = ["--stages", "1"]  # where a test is not about pipelines
ONE_BASELINE = ["--baselines", "row_stationary"]  # where it is not about dataflows


def run(*words, folder):
    main([*map(str, words), "--save", str(folder), *FAST])
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def report(weights, tmp_path_factory):
    return run(weights, folder=tmp_path_factory.mktemp("map"))


def without_time(report):
    search = {name: value for name, value in report["search"].items() if "second" not in name}
    search["convergence"] = [{**point, "seconds": None} for point in search["convergence"]]
    settings = {name: value for name, value in report["settings"].items() if name != "save"}
    return {**report, "search": search, "settings": settings}


def test_report_is_complete(report, weights):
    assert report["format"] == 1
    assert report["network"] == str(weights)
    assert report["device"] == "eyeriss"
    assert report["objective"] == "edp"
    assert [row["bits"] for row in report["bit_widths"]] == [4, 8, 16]
    assert [row["accuracy"] for row in report["bit_widths"]] == [90.5, 95.25, 96.0]
    assert report["search"]["seed"] == 0
    assert report["search"]["mappings"] >= 4 * 30 * 60  # 7 layers at 3 bit-widths, 3 ends at 32 bit, 6 searches each
    assert [point["mappings"] for point in report["search"]["convergence"]][-1] == report["search"]["mappings"]
    assert report["search"]["seconds"] > 0
    for row in report["bit_widths"]:
        assert row["mode"] == "multi-cycle"
        assert row["interval_s"] == row["latency_s"]
        assert [layer["name"] for layer in row["layers"]][:2] == ["stem.conv", "cells.0.expand"]
        assert {layer["bits"] for layer in row["layers"]} == {row["bits"], 32}


def test_every_number_is_true(report):
    for row in report["bit_widths"]:
        costs = [
            hw_model.evaluate(layer["dims"], layer["mapping"], report["device"], layer["bits"])
            for layer in row["layers"]
        ]
        for layer, cost in zip(row["layers"], costs, strict=True):
            for other in layer["baselines"].values():
                true = hw_model.evaluate(layer["dims"], other["mapping"], report["device"], layer["bits"])
                assert (other["cycles"], other["energy_j"], other["edp_js"]) == (
                    true.cycles,
                    true.energy_j,
                    true.edp_js,
                )
            assert (layer["cycles"], layer["energy_j"], layer["edp_js"]) == (cost.cycles, cost.energy_j, cost.edp_js)
            assert layer["cost"]["padded_macs"] >= hw_model.Layer.from_dict(layer["dims"]).macs
            assert layer["cycles"] * 168 >= hw_model.Layer.from_dict(layer["dims"]).macs
        run = [  # what the network runs, where that is not the layer's own best
            hw_model.evaluate(layer["dims"], layer["in_network"]["mapping"], report["device"], layer["bits"])
            if "in_network" in layer
            else cost
            for layer, cost in zip(row["layers"], costs, strict=True)
        ]
        assert row["energy_j"] == pytest.approx(sum(cost.energy_j for cost in run), rel=1e-12)
        assert row["latency_s"] == pytest.approx(sum(cost.latency_s for cost in run), rel=1e-12)
        assert row["edp_js"] == pytest.approx(row["energy_j"] * row["latency_s"], rel=1e-12)


@pytest.mark.full  # of one bit-width: test_another_seed_is_another_search
def test_one_seed_one_result(report, weights, tmp_path):
    assert without_time(run(weights, folder=tmp_path)) == without_time(report)


def test_bits_batch_and_folder(weights, tmp_path):
    words = ["--bits", "16,4", "--batch", "2", "--device", "simple256", *ONE_MODE, *ONE_BASELINE]
    report = run(weights.parent, *words, folder=tmp_path)
    assert [row["bits"] for row in report["bit_widths"]] == [4, 16]
    assert {layer["dims"]["N"] for row in report["bit_widths"] for layer in row["layers"]} == {2}


def test_as_a_user_runs_it(weights, tmp_path):
    words = [str(weights), "--device", "eyeriss", "--bits", "8", "--save", str(tmp_path), *FAST, *ONE_MODE]
    words += ONE_BASELINE
    command = [sys.executable, "-m", "automapper", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((tmp_path / "report.json").read_text())
    table = [line.split() for line in done.stdout.splitlines()]
    for row in report["bit_widths"]:
        numbers = [f"{row[name]:.3e}" for name in ("energy_j", "latency_s", "interval_s", "edp_js")]
        assert [str(row["bits"]), f"{row['accuracy']:.2f}", *numbers] in [words[:6] for words in table]
    assert f"wrote {tmp_path}/report.json" in done.stdout

    layer = report["bit_widths"][0]["layers"][2]
    case = {"layer": layer["dims"], "device": report["device"], "bits": layer["bits"], "mapping": layer["mapping"]}
    (tmp_path / "case.json").write_text(json.dumps(case))
    command = [sys.executable, "-m", "hw_model", str(tmp_path / "case.json"), "--json"]
    cost = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert all(cost[name] == layer[name] for name in ("cycles", "energy_j", "edp_js"))


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("checkpoint", "device", "bits", "budget", "seed", "objective"))


def test_no_dataflow_is_better_and_edp_grows_with_the_bit_width(report):
    check_inequalities(report)
    for row in report["bit_widths"]:
        assert list(row["baselines"]) == [*built_in(), "row_stationary_fixed"]


def test_another_seed_is_another_search(report, weights, tmp_path):
    def mappings(row):
        return [layer["mapping"] for layer in row["layers"]]

    for seed in ("0", "1"):
        (row,) = run(weights, "--bits", "4", "--seed", seed, *ONE_MODE, folder=tmp_path)["bit_widths"]
        assert (mappings(row) == mappings(report["bit_widths"][0])) is (seed == "0")


LAYERS = """
- {name: conv, K: 8, C: 3, P: 6, Q: 6, R: 3, S: 3}
- {name: depthwise, G: 8, P: 3, Q: 3, R: 3, S: 3, stride: 2}
- {K: 10, C: 72}
"""


def test_workers_do_not_change_the_result(tmp_path):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    ways = [["--workers", "1"], ["--workers", "2"], ["--workers", "2", "--backend", "loky"], []]
    first, *others = (run(tmp_path / "layers.yaml", "--bits", "4,8", *way, folder=tmp_path) for way in ways)
    assert any(row["pipeline"] for row in first["bit_widths"])
    for other in others:
        assert other["bit_widths"] == first["bit_widths"]
        assert without_time(other)["search"] == without_time(first)["search"]


def test_processes_that_get_read_only_arrays(tmp_path):
    """Arrays of more than a megabyte reach joblib's processes as read-only memory maps."""
    (tmp_path / "layers.yaml").write_text("- {K: 8, C: 3, P: 6, R: 3}\n- {K: 10, C: 72}\n")
    words = [
        tmp_path / "layers.yaml",
        "--bits",
        ",".join(map(str, range(1, 10))),
        "--budget",
        "100",
        "--fuse",
        "off",
        *ONE_MODE,
    ]
    for more in ([], ["--backend", "loky", "--workers", "2"]):
        main([*map(str, words), *more, "--save", str(tmp_path / f"{len(more)}")])
    threads, processes = (json.loads((tmp_path / name / "report.json").read_text()) for name in "04")
    assert threads["bit_widths"] == processes["bit_widths"]
    searches = [Search(Problem(hw_model.Layer(), bits), name) for bits in range(1, 10) for name in ("", *built_in())]
    pool = Evolution(searches, hw_model.load_device("eyeriss"), parse_objective("edp"), 0).pool
    assert pool[0].nbytes > 2**20


def test_a_list_of_layers(tmp_path):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    report = run("--network", tmp_path / "layers.yaml", "--bits", "8,2", "--batch", "3", *ONE_MODE, folder=tmp_path)
    assert [row["bits"] for row in report["bit_widths"]] == [2, 8]
    row = report["bit_widths"][0]
    assert [layer["name"] for layer in row["layers"]] == ["conv", "depthwise", "layer 2"]
    assert {layer["bits"] for layer in row["layers"]} == {2}
    assert row["layers"][1]["dims"] == {"N": 3, "G": 8, "K": 1, "C": 1, "P": 3, "Q": 3, "R": 3, "S": 3, "stride": 2}
    assert row["accuracy"] is None


def test_a_list_of_layers_without_its_option(tmp_path):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    words = ["--bits", "8", *ONE_MODE]
    named = run("--network", tmp_path / "layers.yaml", *words, folder=tmp_path)
    assert without_time(run(tmp_path / "layers.yaml", *words, folder=tmp_path)) == without_time(named)


def test_objectives_and_goal(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text(LAYERS)
    words = ["--network", tmp_path / "layers.yaml", "--bits", "8", *ONE_MODE, *ONE_BASELINE]
    found = {
        name: run(*words, "--objective", name, folder=tmp_path)["bit_widths"][0]
        for name in ("edp", "energy", "latency", "energy=1,latency=3")
    }
    assert found["energy"]["energy_j"] == min(row["energy_j"] for row in found.values())
    assert found["latency"]["latency_s"] == min(row["latency_s"] for row in found.values())
    run(*words, "--goal", 1e-30, folder=tmp_path)
    assert "(budget used, goal not met)" in capsys.readouterr().out
    goal = found["edp"]["edp_js"] * 1.5
    whole = run(*words, folder=tmp_path)
    report = run(*words, "--goal", goal, folder=tmp_path)
    assert report["search"]["goal_met"] and not whole["search"]["goal_met"]
    assert report["bit_widths"][0]["edp_js"] <= goal
    assert report["search"]["mappings"] < whole["search"]["mappings"]


def test_random_engine_is_the_floor(tmp_path):
    (tmp_path / "layers.yaml").write_text("[{K: 64, C: 64, P: 14, Q: 14, R: 3, S: 3}]")
    words = ["--network", tmp_path / "layers.yaml", "--bits", "8", "--budget", "5000", "--fuse", "off", *ONE_MODE]
    main([*map(str, words), "--save", str(tmp_path), "--engine", "random"])
    floor = json.loads((tmp_path / "report.json").read_text())["bit_widths"][0]["edp_js"]
    main([*map(str, words), "--save", str(tmp_path)])
    assert json.loads((tmp_path / "report.json").read_text())["bit_widths"][0]["edp_js"] < floor


def test_budget_in_seconds(tmp_path, monkeypatch):
    clock = FakeClock(monkeypatch, mappings_per_s=20000)
    (tmp_path / "layers.yaml").write_text("- {K: 10, C: 72}\n")
    words = ["--bits", "8", "--budget", "1.5s", "--workers", "1", "--save", tmp_path]
    main([str(tmp_path / "layers.yaml"), *map(str, words)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert 0.75 * 1.5 <= report["search"]["seconds"] <= min(1.05 * 1.5, clock.now)
    assert report["search"]["mappings"] > 0.6 * 1.5 * 20000


@pytest.mark.parametrize(
    "seconds", [0.0, *(pytest.param(s, marks=pytest.mark.full) for s in (0.5, 2.0))]
)  # while the first pools are made, and in the search
def test_interrupt_writes_the_best_so_far(weights, tmp_path, seconds):
    words = ["--save", str(tmp_path), "--bits", "4,8", "--budget", "100000000", "--fuse", "off", *ONE_BASELINE]
    command = [sys.executable, "-m", "automapper", str(weights), *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        first, second, _ = (process.stdout.readline() for _ in range(3))
        assert first.startswith("instantnet ") and second.startswith("map ")
        time.sleep(seconds + 0.1)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "interrupted, best so far" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["search"]["interrupted"]
    assert len(report["bit_widths"]) == 2
    test_every_number_is_true(report)


def test_interrupted_among_the_pipelines_it_writes_what_the_search_found(weights, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("automapper.pipelines.Pipelines.advance", interrupted)
    main([str(weights), "--save", str(tmp_path), "--budget", "300", "--bits", "4", "--fuse", "off"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["search"]["interrupted"] and report["bit_widths"][0]["mode"] == "multi-cycle"
    assert "interrupted, best so far" in capsys.readouterr().out
    test_every_number_is_true(report)


def test_the_winner_of_a_layer_is_the_objectives(weights, tmp_path):
    words = [
        "--save",
        str(tmp_path),
        "--budget",
        "300",
        "--bits",
        "4",
        "--objective",
        "energy",
        "--fuse",
        "off",
        *ONE_MODE,
    ]
    main([str(weights), *words])
    (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    for layer in row["layers"]:
        joules = {name: values["energy_j"] for name, values in layer["baselines"].items()}
        as_good = [name for name, energy in joules.items() if energy <= layer["energy_j"] * (1 + 1e-6)]
        assert layer["winner"] in as_good if as_good else layer["winner"] == "automapper"
        assert all(layer["energy_j"] <= energy * (1 + 1e-6) for energy in joules.values())


@pytest.fixture
def files(tmp_path, weights):
    """Files that are no network to map."""
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:2000])
    torch.save({"format": 99}, tmp_path / "future.pt")
    config = tiny_settings()
    save_checkpoint(tmp_path / "no_arch.pt", {"model": {}, "config": config})
    save_checkpoint(tmp_path / "no_config.pt", {"arch": {"ops": OPS}})
    save_checkpoint(tmp_path / "unknown_op.pt", {"ops": ["k9_e9"] * 4, "config": config})
    save_checkpoint(tmp_path / "other_length.pt", {"ops": OPS[:2], "config": config})
    (tmp_path / "empty").mkdir()
    tiny = (ROOT / "hw_model/devices/eyeriss.yaml").read_text().replace("O: 384", "O: 8")
    (tmp_path / "tiny.yaml").write_text(tiny)
    (tmp_path / "clock.yaml").write_text(tiny.replace("clock_mhz: 200", "clock_mhz: fast"))
    (tmp_path / "words.yaml").write_text("just words")
    (tmp_path / "field.yaml").write_text("- {K: 4, C: 4}\n- {K: 4, kernel: 3}\n")
    (tmp_path / "twice.yaml").write_text("- {name: a, K: 4}\n- {name: b, K: 4}\n- {name: a, C: 4}\n")
    (tmp_path / "default.yaml").write_text("- {name: layer 1, K: 4}\n- {K: 4}\n")
    (tmp_path / "nameless.yaml").write_text("- {name: '', K: 4}\n")
    (tmp_path / "size.yaml").write_text("- {K: 0}\n")
    return tmp_path


BAD = {
    "{weights} --devise eyeriss": "unknown setting '--devise': did you mean 'device'?",
    "{weights} --device eyeris": "unknown device 'eyeris', did you mean 'eyeriss'?",
    "{weights} --budget 0": "setting budget = '0': must be a number of mappings from 1 up (20000), or of seconds",
    "{weights} --budget 0s": "setting budget = '0s'",
    "{weights} --budget 1.5": "setting budget = '1.5'",
    "{weights} --budget many": "setting budget = 'many'",
    "{weights} --goal 0": "setting goal = 0.0: must be strictly between 0 and inf",
    "{weights} --engine genetic": "setting engine = 'genetic': legal: evolution, random, exhaustive",
    "{weights} --network resnet18": "give one of them",
    "{weights} --delay throughput": "setting delay = 'throughput': legal: latency, interval",
    "{weights} --stages 9": "setting stages = 9: must be between 1 and 4",
    "--network resnet19": "did you mean 'resnet1",
    "--network fcn_resnet50": "a torchvision model, but not one that classifies images; only those can be mapped, or "
    "the layers that a file lists (--network layers.yaml): did you mean 'resnet50'?",
    "--network raft_large": "not one that classifies images; only those can be mapped",
    "--network vit_b16": "setting network = 'vit_b16': did you mean 'vit_b_16'? neither a torchvision model",
    "--network raft_larg": "setting network = 'raft_larg': neither a torchvision model",
    "--network {files}/twice.yaml": "line 3: [2]: name: 'a' is the name of [0] too",
    "--network {files}/default.yaml": "line 2: [1]: name: 'layer 1' is the name of [0] too",
    "--network {files}/nameless.yaml": "line 1: [0]: name: empty",
    "--network {files}/none.yaml": "No such file",
    "--network {files}/words.yaml": "expected a list of layers",
    "--network {files}/field.yaml": "line 2: [1]: unknown layer field 'kernel'",
    "--network {files}/size.yaml": "layer: K: 0 is not between 1 and",
    "{weights} --bits 5": "has no bit-width 5, only [4, 8, 16]",
    "{weights} --bits 4.5": "setting bits = 4.5",
    "{weights} --batch 0": "setting batch = 0: must be at least 1",
    "{weights} --objective speed": "setting objective = 'speed': legal: edp, energy, latency",
    "{weights} --objective energy=0": "one of the weights must be above 0",
    "{weights} --preset fast": "unknown preset 'fast'",
    "{weights} {weights}": "one checkpoint at a time",
    "{files}/twice.yaml": "line 3: [2]: name: 'a' is the name of [0] too",
    "{files}/size.yaml --network resnet18": "size.yaml' and --network: give one of them",
    "{weights} --checkpoint={weights}": "weights.pt' and --checkpoint: give one of them",
    "{files}/size.yaml --checkpoint {weights}": "give one of them",
    "{files}/missing.pt": "no such file",
    "{files}/empty": "neither weights.pt nor arch.pt",
    "{files}/text.pt": "not a readable checkpoint",
    "{files}/cut.pt": "not a readable checkpoint",
    "{files}/future.pt": "format 99",
    "{files}/no_arch.pt": "a checkpoint without architecture",
    "{files}/no_config.pt": "a checkpoint without config",
    "{files}/unknown_op.pt": "unknown operation 'k9_e9'",
    "{files}/other_length.pt": "2 layers",
    "{weights} --device {files}/none.yaml": "No such file or directory",
    "{weights} --device {files}/clock.yaml": "{files}/clock.yaml, line 7: clock_mhz: expected a number above 0",
    "{weights} --bits 4 --stages 1 --device {files}/tiny.yaml": "closest miss: rf: O needs",
    "{weights} --save {files}/text.pt": "cannot write there",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_status_2(words, files, weights, capsys):
    old = files / "map" / "report.json"
    old.parent.mkdir()
    old.write_text("old")
    argv = ["--save", str(old.parent), *FAST, *words.format(weights=weights, files=files).split()]
    assert exit_status(lambda: main(argv)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "error" in line]) == 1
    assert lines[-1].startswith("error: ")
    assert BAD[words].replace("{files}", str(files)) in lines[-1]
    assert old.read_text() == "old"


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_backend_whose_package_is_missing(backend, package, weights, tmp_path, monkeypatch):
    for name in (package, "dask", "ray.util.joblib"):
        monkeypatch.setitem(sys.modules, name, None)
    words = [str(weights), "--backend", backend, "--workers", "2", "--save", str(tmp_path), *FAST]
    with pytest.raises(UserError, match=rf"^setting backend = '{backend}': needs the package {package}"):
        main(words)


def test_no_mapping_error_names_the_layer(files, weights):
    message = r"^layer stem\.conv at 32 bit: no valid mapping on device .*tiny\.yaml found; closest miss: rf: O needs"
    with pytest.raises(UserError, match=message):
        run(weights, "--bits", "4", "--device", files / "tiny.yaml", *ONE_MODE, folder=files / "map")
