"""A search that begins with the mappings of an earlier report: on another device, at other bit-widths, other layers."""

import json
import os

import pytest

import automapper
from automapper.__main__ import main
from automapper.warm_start import read_mappings
from hw_model import Layer
from instantnet.engine.errors import UserError, exit_status

LAYERS = [
    Layer(name="conv", K=24, C=12, P=10, Q=10, R=3, S=3),
    Layer(name="fc", K=40, C=96),
]
SEARCH = {"stages": 1, "workers": 1, "baselines": []}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    report = automapper.map_network(LAYERS, "eyeriss", [4, 8], budget=2000, **SEARCH)
    report.write(folder)
    return folder, report.to_dict()


def map_again(layers, device, bits, warm_start=None):
    report = automapper.map_network(layers, device, bits, budget=1, warm_start=warm_start, **SEARCH)
    return report.to_dict()


def edp(report, bits, name):
    (row,) = [row for row in report["bit_widths"] if row["bits"] == bits]
    return next(layer["edp_js"] for layer in row["layers"] if layer["name"] == name)


def test_it_begins_where_the_other_run_ended(long_run):
    folder, before = long_run
    cold = map_again(LAYERS, "eyeriss", [4, 8])
    for place in (folder, folder / "report.json"):
        warm = map_again(LAYERS, "eyeriss", [4, 8], str(place))
        for bits in (4, 8):
            for layer in LAYERS:
                assert edp(warm, bits, layer.name) <= edp(before, bits, layer.name) * (1 + 1e-9)
        assert edp(warm, 8, "conv") < edp(cold, 8, "conv")
        assert warm["search"]["warm_starts"] >= 4 and warm["settings"]["warm_start"] == str(place)
    assert cold["search"]["warm_starts"] == 0


def test_other_bit_widths_layers_and_devices(long_run, tmp_path):
    folder, _ = long_run
    device = {"extends": "eyeriss", "name": "wider", "array": {"x": 16, "y": 16}}
    layers = [Layer(name="new", K=8, C=8, P=5, Q=5), *LAYERS]
    for where, bits in (("eyeriss", 6), (device, 4)):
        cold, warm = (map_again(layers, where, bits, warm) for warm in (None, str(folder)))
        assert edp(warm, bits, "conv") < edp(cold, bits, "conv")
        assert edp(warm, bits, "new") == edp(cold, bits, "new"), "no shape of the report"
    other = map_again(LAYERS, "gemmini", 8, str(folder))  # of other memories: nothing fits, nothing breaks
    assert other["bit_widths"][0]["edp_js"] > 0 and other["search"]["warm_starts"] == 0


def test_wider_words_do_not_begin_with_what_does_not_fit(long_run):
    warm = map_again(LAYERS, "eyeriss", 32, str(long_run[0]))
    assert warm["bit_widths"][0]["edp_js"] > 0


def test_a_report_names_every_mapping_once(long_run):
    folder, _ = long_run
    known = read_mappings(folder)
    assert len(known) == 2 and all(shape.name == "" for shape in known)
    for mappings in known.values():
        assert 1 <= len(mappings) == len(set(mappings)) <= 4


def changed(report, *path, value):
    content = json.loads(json.dumps(report))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(content)


LAYER = ("bit_widths", 0, "layers", 0)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("not json", "is not JSON"),
        ("[]", "list indices"),
        ("{}", "'bit_widths' is missing"),
        ((*LAYER, "dims", 0), "expected a report"),
        ((*LAYER, "mapping", {"dram": "all"}), "expected a report"),
        ((*LAYER, "mapping", None), "mapping: expected an object"),
    ],
)
def test_a_file_that_is_no_report_is_one_line(long_run, text, part, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(text if isinstance(text, str) else changed(long_run[1], *text[:-1], value=text[-1]))
    with pytest.raises(UserError, match=f"^setting warm_start: .*report.json.*{part}"):
        automapper.map_network(LAYERS, "eyeriss", 8, warm_start=str(file), budget=1)


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text("- {K: 10, C: 32}\n")
    words = [str(tmp_path / "layers.yaml"), "--save", str(tmp_path / "map"), "--warm_start", str(tmp_path / "none")]
    assert exit_status(lambda: main(words)) == 2
    assert "none: No such file or directory; expected a report.json" in capsys.readouterr().err
    assert exit_status(lambda: main([*words, "--engine", "random"])) == 2
    assert "engine = random: random mappings are the floor" in capsys.readouterr().err


@pytest.mark.parametrize("read", [automapper.read_table, read_mappings])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path / "fifo.json", "/dev/zero"):
        with pytest.raises(UserError, match="not a regular file; expected a"):
            read(path)
    large = tmp_path / "large.json"
    large.touch()
    os.truncate(large, 2**31)  # holes, which take no room
    with pytest.raises(UserError, match=r"2,147,483,648 bytes, and at most .* are read"):
        read(large)
