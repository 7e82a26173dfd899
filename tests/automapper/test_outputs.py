"""report.html and mappings/ say what report.json says."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

import automapper
import hw_model
from automapper import folder as folder_file
from automapper.__main__ import main
from automapper.evolve import Evolution
from automapper.html import render
from automapper.objective import parse_objective
from automapper.plot import Series, plot
from automapper.space import Search, on_single_axes
from automapper.workload import Problem
from hw_model import Layer
from hw_model.timeloop import import_mapping
from instantnet.engine.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAME = "<b>&conv/1"  # a name that must be harmless in HTML and in file names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    layers = [{"name": NAME, "K": 8, "C": 3, "P": 6, "Q": 6, "R": 3, "S": 3}, {"name": "fc", "K": 10, "C": 72}]
    (folder / "layers.yaml").write_text(json.dumps(layers))
    main(["--network", str(folder / "layers.yaml"), "--bits", "4,8", "--budget", "640", "--save", str(folder)])
    return folder


class Page(HTMLParser):
    """Collects tags, the addresses they load from, and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_whole_and_loads_nothing(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.addresses == []
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", text)
    assert page.tags.count("details") == 4  # 2 layers at 2 bit-widths
    assert page.tags.count("svg") == 4  # EDP, convergence, 2 rooflines
    assert page.tags.count("b") == 4  # the layer's name did not become a tag


def test_page_shows_the_report(folder):
    report = json.loads((folder / "report.json").read_text())
    text = Page((folder / "report.html").read_text()).text
    for row in report["bit_widths"]:
        assert f"{row['edp_js']:.3e}" in text
        for layer in row["layers"]:
            nest = hw_model.loop_nest(
                hw_model.Layer(**layer["dims"]), hw_model.Mapping.from_dict(layer["mapping"]),
                hw_model.load_device("eyeriss"), layer["bits"],
            )  # fmt: skip
            assert nest in text
    assert NAME in text
    assert render(report, hw_model.load_device("eyeriss")) == (folder / "report.html").read_text()


def test_bars_are_the_energy_breakdown(folder):
    report = json.loads((folder / "report.json").read_text())
    for row in report["bit_widths"]:
        largest = max(layer["energy_j"] for layer in row["layers"])
        for layer in row["layers"]:
            for level, tensors in layer["cost"]["levels"].items():
                width = 100 * sum(part["energy_j"] for part in tensors.values()) / largest
                assert f"width:{width:.3f}%" in (folder / "report.html").read_text(), level


def test_mappings_as_text_and_case(folder):
    report = json.loads((folder / "report.json").read_text())
    for row in report["bit_widths"]:
        place = folder / "mappings" / f"{row['bits']}bit"
        assert sorted(path.name for path in place.glob("*.txt")) == ["000._b__conv_1.txt", "001.fc.txt"]
        for layer, case in zip(row["layers"], sorted(place.glob("*.json")), strict=True):
            command = [sys.executable, "-m", "hw_model", str(case), "--json"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["edp_js"] == layer["edp_js"]
            assert f"EDP {layer['edp_js']:.6g} J*s" in case.with_suffix(".txt").read_text()


def test_mappings_for_timeloop(folder, tmp_path):
    """Every layer's; one that lies in a single row of PEs there reads back on the device's own array."""
    words = ["--network", str(folder / "layers.yaml"), "--bits", "8", "--budget", "128", "--stages", "1"]
    main([*words, "--save", str(tmp_path)])
    device = hw_model.load_device("eyeriss")
    (row,) = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    folders = sorted((tmp_path / "mappings" / "8bit").glob("*.timeloop"))
    for layer, place in zip(row["layers"], folders, strict=True):
        assert {path.name for path in place.iterdir()} == {
            "arch.yaml", "problem.yaml", "map.yaml", "ert.yaml", "constraints.yaml",
        }  # fmt: skip
        text = (place / "map.yaml").read_text()
        back = import_mapping(text, device)
        assert hw_model.evaluate(layer["dims"], back, device, 8).edp_js == layer["edp_js"]


def test_a_level_that_every_tensor_passes_holds_nothing():
    device = hw_model.load_device("eyeriss")
    text = hw_model.loop_nest(hw_model.Layer(K=4), {"dram": [["K", 4]], "bypass": {"glb": ["I", "O"]}}, device, 8)
    assert "# glb holds nothing: all tensors pass it by" in text


def test_convergence_never_rises(folder):
    """The sums over a network may, as its layers minimise each their own."""
    points = [
        point["mean_layer_value"] for point in json.loads((folder / "report.json").read_text())["search"]["convergence"]
    ]
    assert len(points) > 5
    for bits in ("4", "8"):
        assert all(after[bits] <= before[bits] * (1 + 1e-9) for before, after in pairwise(points))


@pytest.mark.parametrize("seed", range(4))
def test_on_single_axes_costs_the_same(seed):
    device, layer = hw_model.load_device("eyeriss"), hw_model.Layer(G=2, K=12, C=6, P=14, Q=9, R=3, S=3, stride=2)
    evolution = Evolution([Search(Problem(layer, 8))], device, parse_objective("edp"), seed, random=True)
    evolution.advance(200, 0.0)
    x, y = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    both = changed = 0
    for f, o, b in zip(*(array[0] for array in evolution.pool), strict=True):
        new = on_single_axes(f, device)
        before, after = (hw_model.decode(rows, o, device, b) for rows in (f, new))
        try:
            cost = hw_model.evaluate(layer, before, device, 8)
        except hw_model.InvalidMapping:
            continue
        assert hw_model.evaluate(layer, after, device, 8) == cost
        both += bool(((f[x] > 1) & (f[y] > 1)).any())
        changed += bool((new != f).any())
        assert not (new != f).any() or not ((new[x] > 1) & (new[y] > 1)).any()
    assert changed > both / 4 > 0


def test_plot_places_points_where_they_belong():
    text = plot([Series("s", [(1, 10), (10, 20), (100, 30)], ["a", "b", "c"])], "x", "y", log_x=True)
    points = [tuple(map(float, p)) for p in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # decades are equally far apart
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2  # larger values stand higher
    assert "<title>b</title>" in text


def test_plot_of_one_point_and_of_none():
    assert "<circle" in plot([Series("s", [(5, 5)])], "x", "y")
    assert plot([Series("s", [(0, 1)])], "x", "y", log_x=True) == ""


def test_an_earlier_runs_mappings_are_replaced_and_nothing_else(folder, tmp_path):
    (tmp_path / "mappings/64bit").mkdir(parents=True)
    (tmp_path / "mappings/mine.txt").write_text("keep")
    words = ["--network", str(folder / "layers.yaml"), "--budget", "128", "--stages", "1", "--save", str(tmp_path)]
    main([*words, "--bits", "4,8"])
    assert sorted(path.name for path in (tmp_path / "mappings").iterdir()) == ["4bit", "64bit", "8bit", "mine.txt"]
    main([*words, "--bits", "8"])
    assert sorted(path.name for path in (tmp_path / "mappings").iterdir()) == ["64bit", "8bit", "mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mappings",
        "report.html",
        "report.json",
        "search.safetensors",
    ]


def report_at(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def results():
    """Two results of one small layer: at 4 and 8 bit, at 8 and 16 bit."""
    options = {"budget": 40, "stages": 1, "workers": 1, "baselines": []}
    layers = [Layer(name="one", K=4, C=4, P=4, Q=4)]
    return [automapper.map_network(layers, "eyeriss", bits=bits, **options) for bits in ([4, 8], [8, 16])]


def whole(folder):
    """The bit-widths of a result, which report.json, report.html and mappings/ agree on."""
    content = report_at(folder)
    bits = [row["bits"] for row in content["bit_widths"]]
    assert sorted(path.name for path in (folder / "mappings").iterdir()) == sorted(f"{b}bit" for b in bits)
    assert f"{bits[-1]} bit" in (folder / "report.html").read_text()
    return bits


def test_a_result_is_replaced_as_a_whole_wherever_the_process_is_killed(results, tmp_path, monkeypatch):
    """Killed before each of its renames: the next one to open the folder finds the old result, or the new one."""
    seen = set()
    for at in range(1, 12):
        folder = tmp_path / str(at)
        results[0].write(folder)
        moves = itertools.count(1)

        def killed(function, at=at, moves=moves):
            def move(*arguments, **options):
                if next(moves) >= at:
                    raise SystemExit("killed")
                return function(*arguments, **options)

            return move

        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(folder_file.os, name, killed(getattr(os, name)))
            patch.setattr(folder_file.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
            with contextlib.suppress(SystemExit):
                results[1].write(folder)
        with folder_file.result_folder(folder, "folder"):
            pass
        seen.add(tuple(whole(folder)))
        assert not list(folder.glob(".automapper*"))
    assert seen == {(4, 8), (8, 16)}


def test_foreign_files_are_neither_removed_nor_followed(results, tmp_path):
    foreign = tmp_path / "elsewhere" / "8bit"
    foreign.mkdir(parents=True)
    (foreign / "precious").write_text("keep")
    for linked in ("mappings", "report.json", "report.html"):
        folder = tmp_path / f"with {linked}"
        folder.mkdir()
        (folder / linked).symlink_to(foreign.parent if linked == "mappings" else foreign / "precious")
        with pytest.raises(UserError, match=f"{linked} is a link"):
            results[0].write(folder)
    (tmp_path / "own" / "mappings" / "8bit").mkdir(parents=True)
    (tmp_path / "own" / "mappings" / "8bit" / "notes").write_text("keep")
    with pytest.raises(UserError, match=r"mappings/8bit is not of the result"):
        results[0].write(tmp_path / "own")
    assert (foreign / "precious").read_text() == "keep"
    assert (tmp_path / "own" / "mappings" / "8bit" / "notes").read_text() == "keep"


@pytest.mark.parametrize("name", [".automapper-ready", ".automapper-ready-abc_d3fg"])
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("inode", ["none", "wrong", "right"])
def test_a_result_that_no_run_made_ready_is_not_moved(results, tmp_path, name, linked, inode):
    """Even where it knows its own number, as nobody's does by accident, it moves no more than folders of mappings."""
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    results[0].write(folder)
    ready = folder / name
    ready.mkdir()
    (elsewhere / "4bit").mkdir(parents=True)
    (elsewhere / "thesis.tex").write_text("keep")
    (folder / "mappings" / "2bit").mkdir()
    (folder / "mappings" / "2bit" / "thesis.tex").write_text("keep")
    (ready / "mappings").symlink_to(elsewhere) if linked else (ready / "mappings").mkdir()
    number = {"none": {}, "wrong": {"inode": 1}, "right": {"inode": ready.stat().st_ino}}[inode]
    (ready / "obsolete.json").write_text(json.dumps({**number, "folders": ["2bit", "../../elsewhere", "..", 3]}))
    results[1].write(folder)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["4bit", "thesis.tex"]
    assert (folder / "mappings" / "2bit" / "thesis.tex").read_text() == "keep"
    shutil.rmtree(folder / "mappings" / "2bit")
    assert whole(folder) == [8, 16]


@pytest.mark.parametrize("left", [["old/4bit"], ["mappings"], ["old", "mappings/8bit"]])
def test_what_is_left_of_one_half_removed_is_removed(results, tmp_path, left):
    results[0].write(tmp_path)
    for name in left:
        (tmp_path / ".automapper-new-abc_d3fg" / name).mkdir(parents=True)
    results[1].write(tmp_path)
    assert whole(tmp_path) == [8, 16] and not list(tmp_path.glob(".automapper*"))


@pytest.mark.parametrize("name", ["mappings", "report.html", "report.json", "search.safetensors"])
def test_a_place_that_is_taken_is_said_before_the_search(results, tmp_path, name):
    results[0].write(tmp_path)
    place = tmp_path / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.write_text("keep") if name == "mappings" else place.mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with (
        pytest.raises(UserError, match=f"{name} is (a|no) folder, and not of a result"),
        folder_file.result_folder(tmp_path, "folder"),
    ):
        pytest.fail("the search begins")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_fifo_in_the_folder_is_not_waited_for(results, tmp_path):
    os.mkfifo(tmp_path / "report.json")
    results[0].write(tmp_path)
    assert whole(tmp_path) == [4, 8]


def test_a_folder_in_use_is_refused(results, tmp_path):
    message = rf"in use by process {os.getpid()} on .*, since 20"
    with folder_file.result_folder(tmp_path, "folder"), pytest.raises(UserError, match=message):
        results[0].write(tmp_path)
    results[0].write(tmp_path)
