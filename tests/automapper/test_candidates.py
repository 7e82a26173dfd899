"""The table of a search space: its sums are those of mapped networks, it is cached, and what it says to bad input."""

import json
import random
from dataclasses import asdict, replace

import pytest
import torch
from tiny_runs import TINY_GEOMETRY, run_here

import automapper
from automapper import candidates
from automapper.search import NoMapping, Outcome
from instantnet import table as command
from instantnet.engine.errors import UserError
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision

GEOMETRY = replace(TINY_GEOMETRY, num_layer_list=(2,), num_channel_list=(4,), stride_list=(1,), image_height=4)
BITS, BUDGET = [4, 8], 2
ENTRY = {"energy_j", "latency_s"}
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def made(cache):
    return automapper.table(GEOMETRY, "eyeriss", BITS, budget=BUDGET, workers=1)


@pytest.mark.parametrize(
    ("geometry", "count"), [(GEOMETRY, 2), pytest.param(TINY_GEOMETRY, 200, marks=pytest.mark.full)]
)
def test_sums_are_those_of_the_mapped_network(geometry, count, cache):
    """Of its layers' own mappings: multi-cycle, before any trade between layers, same budget and seed."""
    made = automapper.table(geometry, "eyeriss", BITS, budget=BUDGET, workers=1)
    draw = random.Random(0)
    for _ in range(count):
        ops = draw.choices(list(OPERATIONS), k=geometry.num_layers)
        with torch.device("meta"):
            network = DerivedNetwork(ops, geometry, Precision(BITS))
            images = torch.zeros(1, 3, geometry.image_height, geometry.image_width)
        report = automapper.map_network(
            network, "eyeriss", BITS, example=images, budget=BUDGET, stages=1, workers=1, baselines=[]
        )
        for row in report.to_dict()["bit_widths"]:
            layers = [(layer["energy_j"], layer["latency_s"]) for layer in row["layers"]]
            sums = tuple(map(sum, zip(*layers, strict=True)))
            assert made.cost(ops, row["bits"]) == pytest.approx(sums, rel=1e-12), ops


def test_the_file_is_the_json_of_the_page(made, tmp_path):
    made.write(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    assert set(content) == {"device", "geometry", "bits"} and content["device"] == "eyeriss"
    assert content["geometry"] == {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(GEOMETRY).items()}
    assert set(content["bits"]) == {"4", "8"}
    for row in content["bits"].values():
        assert set(row) == {"fixed", "layers"} and set(row["fixed"]) == ENTRY
        assert [set(layer) for layer in row["layers"]] == [set(OPERATIONS)] * GEOMETRY.num_layers
        assert all(set(entry) == ENTRY for layer in row["layers"] for entry in layer.values())
    assert automapper.read_table(tmp_path / "table.json") == made


def test_ends_are_charged_at_their_own_precision(made):
    assert made.rows[4].fixed == made.rows[8].fixed  # 32 bit
    ends = replace(GEOMETRY, quantize_ends=True)
    quantized = automapper.table(ends, "eyeriss", 4, budget=BUDGET, workers=1)
    assert quantized.rows[4].fixed.energy_j < made.rows[4].fixed.energy_j
    assert quantized.rows[4].layers == made.rows[4].layers


def test_only_an_identity_costs_nothing(made):
    for row in made.rows.values():
        for layer in row.layers:
            assert layer["skip"] == (0.0, 0.0)
            assert all(min(entry) > 0 for op, entry in layer.items() if op != "skip")
            assert layer["k3_e1"].energy_j < layer["k3_e6"].energy_j


def test_a_table_is_searched_once(made, monkeypatch, tmp_path):
    def search(*arguments):
        raise RuntimeError("searched")

    monkeypatch.setattr(candidates, "run_search", search)
    same = {"budget": BUDGET, "workers": 2}
    assert automapper.table(GEOMETRY, "eyeriss", [8, 4], **same) == made
    copy = tmp_path / "mine.yaml"
    copy.write_text((candidates.hw_model.device.DEVICE_FOLDER / "eyeriss.yaml").read_text())
    assert automapper.table(asdict(GEOMETRY), copy, BITS, **same) == replace(made, device=str(copy))
    copy.write_text(copy.read_text().replace("clock_mhz: 200", "clock_mhz: 100"))
    wider = replace(GEOMETRY, header_channel=10)
    for others in ((wider, "eyeriss", BITS), (GEOMETRY, copy, BITS), (GEOMETRY, "eyeriss", 4)):
        with pytest.raises(RuntimeError):
            automapper.table(*others, **same)
    for more in ({"budget": BUDGET + 1}, {"seed": 1}, {"objective": "energy"}, {"budget": "1s"}):
        with pytest.raises(RuntimeError):
            automapper.table(GEOMETRY, "eyeriss", BITS, **same | more)
    monkeypatch.setattr(candidates, "_code", lambda: "another version")
    with pytest.raises(RuntimeError):
        automapper.table(GEOMETRY, "eyeriss", BITS, **same)


def test_a_cache_that_is_damaged_or_cannot_be_written_is_searched_again(monkeypatch, tmp_path):
    outcomes, search = [], candidates.run_search

    def counted(*arguments):
        outcomes.append(outcomes[0] if outcomes else search(*arguments))
        return outcomes[-1]

    def made():
        return automapper.table(GEOMETRY, "eyeriss", 4, budget=1, workers=1)

    monkeypatch.setattr(candidates, "run_search", counted)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = made()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert made() == made() == first and len(outcomes) == 2
    (file,) = (tmp_path / "instantnet" / "tables").iterdir()
    whole = file.read_text()
    file.write_text(whole[:100])
    assert made() == first and len(outcomes) == 3
    assert file.read_text() == whole


def test_an_interrupted_search_is_no_table(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(candidates, "run_search", lambda *arguments: Outcome(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        automapper.table(GEOMETRY, "eyeriss", 4, budget=1)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_the_function_returns(made, tmp_path, capsys):
    sizes = [f"--{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in made.geometry.items()]
    words = ["--device", "eyeriss", "--bits", "4,8", "--budget", BUDGET, "--workers", "1", *sizes]
    assert run_here(command, *words, "--save", tmp_path / "t.json") == 0
    assert f"wrote {tmp_path}/t.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "t.json").read_text()) == made.to_dict()
    assert run_here(command, *words) == 0
    assert json.loads(capsys.readouterr().out) == made.to_dict()


def test_the_command_takes_the_network_of_a_preset():
    C = command.settings(["--bits", "4", "--preset", "cifar10"])
    assert (C.dataset, C.num_classes, C.budget) == ("cifar10", 10, "20000")
    assert command.settings(["--bits", "4", "--preset", "digits"]).num_layer_list == [1, 2, 2]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--bits 4 --device none", "unknown device 'none'"),
        ("--device eyeriss", "setting bits is empty"),
        ("--bits 33", "setting bits"),
        ("--bits 4 --lr 0.1", "unknown setting '--lr'"),
        ("--bits 4 --objective speed", "setting objective = 'speed'"),
        ("--bits 4 --budget none", "setting budget = 'none'"),
        ("--bits 4 --num_layer_list 1", "setting num_channel_list"),
        ("--bits 4 --dataset image_folder", "setting num_classes = None"),
        ("--bits 4 --preset fast", "unknown preset 'fast'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, part, capsys):
    assert run_here(command, *words.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {part}")


def test_a_layer_without_a_mapping_is_named(monkeypatch):
    def search(problems, device, *rest):
        raise NoMapping(problems[3], device, ["rf: O needs 16 bits, has 8"])

    monkeypatch.setattr(candidates, "run_search", search)
    message = r"^layer cells\.0\.expand at 4 bit: no valid mapping on device eyeriss found; closest miss: rf: O needs"
    with pytest.raises(UserError, match=message):
        automapper.table(GEOMETRY, "eyeriss", 4, seed=7)


def damaged(made, where, value):
    content = json.loads(json.dumps(made.to_dict()))
    place = content
    for step in where[:-1]:
        place = place[step]
    if value is None:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["device"], None),
        (["device"], 3),
        (["geometry", "stem_channel"], 3),
        (["geometry", "stem_stride"], None),
        (["bits"], {}),
        (["bits", "44"], {}),
        (["bits", "4", "fixed"], None),
        (["bits", "4", "fixed", "energy_j"], -1.0),
        (["bits", "4", "layers", 0, "skip"], None),
        (["bits", "4", "layers", 0, "skip", "latency_s"], "fast"),
        (["bits", "8", "layers"], []),
    ],
)
def test_a_file_that_is_no_table_is_one_line(made, where, value, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(damaged(made, where, value))
    with pytest.raises(UserError, match=r"table\.json: .*; expected a table of `instantnet table`$"):
        automapper.read_table(path)


def test_what_a_table_lacks_is_said(made):
    with pytest.raises(UserError, match="has no bit-width 16, only 4, 8"):
        made.cost(["skip"] * 2, 16)
    with pytest.raises(UserError, match="of 2 searched layers has no cost of 3 operations"):
        made.cost(["skip"] * 3, 4)
    with pytest.raises(UserError, match="operation 'k9_e9': the table has k3_e1, "):
        made.cost(["k9_e9"] * 2, 4)
    with pytest.raises(UserError, match=r"is of num_layer_list = \[2\], this search has \[4\]"):
        made.check_geometry(made.geometry | {"num_layer_list": [4]})
