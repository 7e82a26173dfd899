"""Searches that are saved, and a run that goes on with them."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import automapper
from automapper import search
from automapper.__main__ import main
from automapper.saved_search import NAME
from hw_model import Layer
from instantnet.engine.errors import exit_status

LAYERS = [Layer(name="conv", K=24, C=12, P=10, Q=10, R=3, S=3), Layer(name="fc", K=40, C=96)]
SETTINGS = {"stages": 1, "workers": 1, "baselines": []}
UNLIKE = (
    "seconds",
    "seconds_for_groups",
    "mappings_per_second",
    "convergence",
    "resumed",
    "mappings",
    "interrupted",
)  # from run to run


def mapped(budget, layers=LAYERS, device="eyeriss", bits=(4, 8), **settings):
    return automapper.map_network(layers, device, list(bits), budget=budget, **SETTINGS, **settings)


def found(report):
    """What a report says was found, without how long it took."""
    content = report.to_dict()
    statistics = {name: value for name, value in content["search"].items() if name not in UNLIKE}
    return content["bit_widths"], statistics


@pytest.fixture(scope="module")
def whole():
    return mapped(2000)


FULL = [pytest.param(rounds, marks=pytest.mark.full) for rounds in (3, 17)]


@pytest.mark.parametrize("rounds", [10, *FULL])
def test_stopped_and_resumed_it_finds_what_an_uninterrupted_run_does(whole, rounds, tmp_path, monkeypatch):
    advance, done = search._advance, []

    def interrupted_after(units, *arguments):
        if len(done) == rounds:
            raise KeyboardInterrupt
        done.append(1)
        return advance(units, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(search, "_advance", interrupted_after)
        stopped = mapped(2000)
    assert stopped.to_dict()["search"]["interrupted"]
    stopped.write(tmp_path)
    resumed = mapped(2000, resume=str(tmp_path))
    assert found(resumed) == found(whole)
    searches = sum(len(array) for name, array in whole.state.items() if name.endswith(".bred"))
    assert resumed.to_dict()["search"]["resumed"] == searches > whole.to_dict()["search"]["resumed"] == 0


def test_a_finished_search_goes_on_with_a_larger_budget(whole, tmp_path):
    whole.write(tmp_path)
    more = mapped(6000, resume=str(tmp_path / NAME))
    for before, after in zip(whole.to_dict()["bit_widths"], more.to_dict()["bit_widths"], strict=True):
        assert after["edp_js"] <= before["edp_js"] * (1 + 1e-12)


def test_a_finished_search_is_not_searched_again(whole, tmp_path):
    whole.write(tmp_path)
    same = mapped(2000, resume=str(tmp_path))
    assert found(same) == found(whole)
    assert same.to_dict()["search"]["mappings"] == whole.to_dict()["search"]["mappings"]
    older = {name: array for name, array in load_file(tmp_path / NAME).items() if not name.endswith(".climbed")}
    save_file(older, tmp_path / NAME)
    again = mapped(2000, resume=str(tmp_path))
    assert again.to_dict()["search"]["mappings"] >= same.to_dict()["search"]["mappings"]
    assert [row["edp_js"] for row in again.to_dict()["bit_widths"]] == [
        row["edp_js"] for row in whole.to_dict()["bit_widths"]
    ]


def test_a_layer_that_is_new_begins(whole, tmp_path):
    whole.write(tmp_path)
    layers = [Layer(name="new", K=8, C=8, P=5, Q=5), *LAYERS]
    report = mapped(2000, layers, resume=str(tmp_path))
    alone = mapped(2000, layers[:1])
    for row, of_new in zip(report.to_dict()["bit_widths"], alone.to_dict()["bit_widths"], strict=True):
        assert row["layers"][0]["mapping"] == of_new["layers"][0]["mapping"]


def lines_of(tmp_path):
    path = tmp_path / "layers.yaml"
    path.write_text("- {name: conv, K: 24, C: 12, P: 10, Q: 10, R: 3, S: 3}\n- {name: fc, K: 40, C: 96}\n")
    return ["--network", path, "--bits", "8", "--budget", "600", "--stages", "1", "--workers", "1"]


def test_the_command(tmp_path, capsys):
    words = [*lines_of(tmp_path), "--save", tmp_path / "map"]
    assert exit_status(lambda: main([*map(str, words), "--resume"])) == 2
    assert f"setting resume: {tmp_path}/map/{NAME}: No such file" in capsys.readouterr().err
    assert exit_status(lambda: main([*map(str, words)])) == 0
    assert (tmp_path / "map" / NAME).is_file()
    assert exit_status(lambda: main([*map(str, words), "--resume"])) == 0
    report = json.loads((tmp_path / "map" / "report.json").read_text())
    assert report["search"]["resumed"] > 0
    for other in (["--seed", "3"], ["--device", "simba_like"], ["--objective", "energy"], ["--bits", "4"]):
        assert exit_status(lambda other=other: main([*map(str, words), "--resume", *other])) == 2
        assert "holds none of these searches" in capsys.readouterr().err


def damage(state):
    """(what, state) of states in which one thing is wrong."""
    first = next(iter(state)).split(".")[0]
    changes = {
        "score": lambda a: a - 1,
        "pool.o": lambda a: a * 0 + 9,
        "pool.f": lambda a: a * 0,
        "rows.o": lambda a: a + 100,
        "rows.b": lambda a: a + 50,
        "kept": lambda a: a[:, :1],
        "improved": lambda a: a + 1000,
        "fresh": lambda a: a + 7,
        "next_row": lambda a: a + 10**6,
        "bred": lambda a: a - 10**9,
        "pool_score": lambda a: a.astype(np.float32),
        "tops.f": lambda a: a[:, :2],
        "layouts": lambda a: a[:, :1],
        "layouts.number": lambda a: a[1:],
        "layouts.o": lambda a: a + 100,
        "together": lambda a: a[:0],
        "evaluated": lambda a: np.zeros(3, int),
    }
    for name, change in changes.items():
        yield name, state | {f"{first}.{name}": np.ascontiguousarray(change(state[f"{first}.{name}"]))}
    flags = state[f"{first}.layouts"].copy()
    flags[:, 2] = np.where(np.arange(len(flags)), 0, flags[:, 2].sum())
    yield "layouts, one for all", state | {f"{first}.layouts": flags}
    yield "missing", {name: array for name, array in state.items() if name != f"{first}.rows.f"}


def test_damaged_states_are_one_line_and_status_2(tmp_path, capsys):
    words = [*map(str, [*lines_of(tmp_path), "--save", tmp_path / "map"])]
    assert exit_status(lambda: main(words)) == 0
    good = load_file(tmp_path / "map" / NAME)
    for what, state in damage(good):
        save_file(state, tmp_path / "bad.safetensors")
        capsys.readouterr()
        status = exit_status(lambda: main([*words, "--resume", str(tmp_path / "bad.safetensors")]))
        error = capsys.readouterr().err
        assert (status, error.count("\n")) == (2, 1), f"{what}: {error}"
        assert "is damaged" in error, what
    for content in (b"", b"\0" * 100, b"\xff" * 100, (tmp_path / "map" / NAME).read_bytes()[:-10]):
        (tmp_path / "bad.safetensors").write_bytes(content)
        assert exit_status(lambda: main([*words, "--resume", str(tmp_path / "bad.safetensors")])) == 2
        assert "not a file of safetensors, or a damaged one" in capsys.readouterr().err
    os.mkfifo(tmp_path / "fifo")
    assert exit_status(lambda: main([*words, "--resume", str(tmp_path / "fifo")])) == 2
    assert "not a regular file" in capsys.readouterr().err
