"""A dataflow is what it is called, by a second definition and by the cost model's counters; its files are checked."""

import itertools
import json
import random

import pytest

import hw_model
from automapper import legal
from automapper.__main__ import main
from automapper.dataflows import built_in, constraints, load_dataflow, why_none
from automapper.evolve import Evolution
from automapper.objective import parse_objective
from automapper.space import Search, inside
from automapper.workload import Problem
from hw_model import DIMS, Layer, encode
from hw_model.layer import RELEVANT
from instantnet.engine.errors import exit_status

EDP = parse_objective("edp")
LAYERS = [
    Layer(K=64, C=32, P=14, Q=14, R=3, S=3),
    Layer(K=32, C=3, P=27, Q=27, R=11, S=11, stride=4),
    Layer(G=96, P=14, Q=14, R=3, S=3),
    Layer(G=48, P=7, Q=7, R=5, S=5, stride=2),
    Layer(K=96, C=24, P=28, Q=28),
    Layer(N=4, G=2, K=24, C=12, P=13, Q=13, R=5, S=5),
    Layer(K=100, C=256),
    Layer(N=8, K=64, C=64),
    Layer(K=17, C=13, P=11, Q=9, R=3, S=1),
    Layer(K=12, C=8, Q=64, S=9, stride=2),
]
CASES = list(itertools.product(built_in(), hw_model.device_names(), (4, 8, 16), range(len(LAYERS)), range(3)))


def outside(mapping, device):
    """The loops outside the PEs, outermost first, as a string of dimensions."""
    levels = device.level_names[: device.first_pe_level]
    return "".join(dim for name in levels for dim, n in mapping[name] if n > 1)


def along(mapping, slot):
    return {dim for dim, n in mapping[slot] if n > 1}


def in_pes(mapping, device):
    return {dim for name in device.level_names[device.first_pe_level :] for dim, n in mapping[name] if n > 1}


def nested(order, outer, inner):
    """Whether no loop over one of `outer` runs inside one over one of `inner`."""
    first = min((i for i, dim in enumerate(order) if dim in inner), default=len(order))
    return not any(dim in outer for dim in order[first:])


def check_definition(name, mapping, layer, device, bits):
    """The definitions in words of hardware.md, not by the code under test."""
    order, x, y = outside(mapping, device), along(mapping, "spatial_x"), along(mapping, "spatial_y")
    if name == "row_stationary":
        height, rows = device.array[1], dict(mapping["spatial_y"]).get("R", 1)
        assert rows >= layer.R or height < layer.R or "R" not in device.axis_dims[1]
        assert nested(order, RELEVANT["W"], "Q") and "Q" not in x | y and "S" not in x | y
        assert in_pes(mapping, device) <= set("SKC")
    if name == "weight_stationary":
        assert x <= set("KG") and y <= set("C") and nested(order, RELEVANT["W"], "NPQ")
    if name.startswith("output_stationary"):
        outputs = set("PQ") if name == "output_stationary" else set("NGKPQ")
        lanes = along(mapping, "lanes") if "lanes" in device.slots else set()
        assert x | y <= outputs and in_pes(mapping, device) | lanes <= set("CRS")
        assert nested(order, RELEVANT["O"], "CRS")
    if name == "no_local_reuse":
        assert not in_pes(mapping, device) and x <= set("KG") and y <= set("C")


def check_counters(name, mapping, layer, device, bits):
    """What the definitions are for, as the cost model counts it."""
    cost = hw_model.evaluate(layer, mapping, device, bits)
    first = next(level for level in device.levels[device.first_pe_level :] if "W" in level.holds or name[0] != "w")
    if name == "weight_stationary":
        once = layer.words("W")  # along x and y lie dimensions of the weights only: one copy
        assert cost.levels[device.level_names[0]]["W"].reads == cost.levels[first.name]["W"].fills == once
    if name.startswith("output_stationary"):
        assert all(level["O"].fills == 0 for level in cost.levels.values() if "O" in level)


def check(case):
    """One search; returns whether it found a valid mapping."""
    name, device, bits, index, seed = case
    device, layer = hw_model.load_device(device), LAYERS[index]
    if why_none(built_in()[name], device):
        return False
    evolution = Evolution([Search(Problem(layer, bits), name)], device, EDP, seed).advance(400, 1.0)
    mapping = evolution.best(0)
    assert inside(evolution.space, 0, encode(mapping, device))
    assert legal.inside(*(part[0] for part in evolution.pool), 0, evolution.space).all()  # not the best alone
    check_definition(name, mapping, layer, device, bits)
    if evolution.score[0] >= 1e6:
        return False
    check_counters(name, mapping, layer, device, bits)
    return True


def test_every_mapping_is_in_its_dataflow_sampled():
    found = sum(map(check, random.Random(0).sample(CASES, 75)))
    assert found > 52


@pytest.mark.full
def test_every_mapping_is_in_its_dataflow():
    assert sum(map(check, CASES)) > 0.7 * len(CASES)


def test_the_weight_stationary_search_of_the_defect():
    """It once returned the row-stationary mapping."""
    problem = Problem(Layer(K=256, C=256, P=14, Q=14, R=3, S=3), 8)
    device = hw_model.load_device("eyeriss")
    evolution = Evolution([Search(problem, "weight_stationary")], device, EDP, 0).advance(5000, 1.0)
    check_definition("weight_stationary", evolution.best(0), problem.layer, device, 8)
    row = Evolution([Search(problem, "row_stationary")], device, EDP, 0).advance(5000, 1.0)
    assert not inside(evolution.space, 0, row.rows[0])


def test_a_mapping_outside_its_dataflow_is_an_error():
    problem, device = Problem(LAYERS[0], 8), hw_model.load_device("eyeriss")
    evolution = Evolution([Search(problem), Search(problem, "weight_stationary")], device, EDP, 0).advance(500, 1.0)
    f, o, b = evolution.rows[1]
    foreign = f.copy()
    foreign[device.slots.index("spatial_x"), DIMS.index("P")] = 2
    evolution.rows[1] = foreign, o, b
    with pytest.raises(AssertionError, match="outside the constraints"):
        evolution.best(1)


def test_the_order_across_levels():
    """Weights in the buffer's loops under P at DRAM come back for every P: not weight-stationary."""
    device, problem = hw_model.load_device("simple256"), Problem(Layer(K=8, C=4, P=6), 8)
    space = Evolution([Search(problem, "weight_stationary")], device, EDP, 0).space
    for dram, glb, ok in (
        ([["K", 2], ["P", 6]], [], True),
        ([["P", 6], ["K", 2]], [], False),
        ([["P", 6]], [["K", 2]], False),
        ([["K", 2]], [["P", 6]], True),
        ([["P", 3]], [["P", 2]], True),
        ([["K", 2], ["P", 3]], [["P", 2]], True),
        ([["K", 2]], [["C", 4], ["P", 6]], True),
        ([["K", 2]], [["P", 6], ["C", 4]], False),
    ):
        inner = [["K", 4 if ["K", 2] in dram + glb else 8], ["C", 1 if ["C", 4] in glb else 4]]
        inner += [["P", 1 if "P" in str(dram + glb) else 6]]
        row = encode({"dram": dram, "glb": glb, "rf": inner}, device)
        assert inside(space, 0, row) is ok, (dram, glb)
        if ok:
            cost = hw_model.evaluate(problem.layer, {"dram": dram, "glb": glb, "rf": inner}, device, 8)
            assert cost.levels["rf"]["W"].fills == cost.levels["dram"]["W"].reads == 32


MINE = """
name: mine
description: filters along x, filter rows along y, finished sums
x: [K]
y: {dims: [C, R], whole: [R]}
pe: [C, S, Q]
stays: O
over: [C, S]
may_bypass: [I]
"""
NETWORK = "[{name: conv, K: 8, C: 6, P: 6, Q: 6, R: 3, S: 3}, {name: fc, K: 10, C: 72}]"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "layers.yaml").write_text(NETWORK)
    return tmp_path


def run(folder, *words, bits="8", budget="300"):
    fixed = ["--network", folder / "layers.yaml", "--bits", bits, "--budget", budget, "--stages", "1"]
    main([*map(str, [*fixed, "--save", folder / "map", *words])])
    return json.loads((folder / "map" / "report.json").read_text())


def in_mine(mapping, layer):
    device = hw_model.load_device("eyeriss")
    mapping = hw_model.Mapping.from_dict(mapping).on(device)
    assert along(mapping, "spatial_x") <= {"K"} and along(mapping, "spatial_y") <= {"C", "R"}
    assert in_pes(mapping, device) <= set("CSQ") and nested(outside(mapping, device), RELEVANT["O"], "CS")
    assert dict(mapping["spatial_y"]).get("R", 1) >= layer["dims"]["R"]
    assert set(dict(mapping.bypass).get("glb", ())) <= {"I"}


def test_a_users_dataflow_is_a_baseline(folder):
    report = run(folder, "--dataflow", folder / "mine.yaml")
    for row in report["bit_widths"]:
        assert "mine" in row["baselines"]
        for layer in row["layers"]:
            in_mine(layer["baselines"]["mine"]["mapping"], layer)
    assert "mine" in (folder / "map" / "report.html").read_text()


def test_automapper_within_a_dataflow(folder, capsys):
    report = run(folder, "--within", folder / "mine.yaml")
    assert report["within"] == "mine"
    assert "AutoMapper itself stays within mine" in capsys.readouterr().out
    for layer in report["bit_widths"][0]["layers"]:
        in_mine(layer["mapping"], layer)
    device = hw_model.load_device("eyeriss")
    for layer in run(folder, "--within", "weight_stationary")["bit_widths"][0]["layers"]:
        shape, mapping = Layer(**layer["dims"]), hw_model.Mapping.from_dict(layer["mapping"]).on(device)
        check_definition("weight_stationary", mapping, shape, device, 8)
        assert layer["mapping"] == layer["baselines"]["weight_stationary"]["mapping"]


def test_baselines_bypass_where_the_file_allows_it():
    problem, device = Problem(LAYERS[0], 8), hw_model.load_device("eyeriss")
    flows = [load_dataflow("row_stationary")]
    free = Evolution([Search(problem, flow) for flow in flows], device, EDP, 0).space.free[0]
    assert free.tolist() == [0, 2 | 4, 0]  # as AutoMapper: inputs and outputs may pass the buffer


def test_what_is_shown_and_the_mapping_that_is_kept(folder):
    words = ["--baselines", "weight_stationary_fixed,weight_stationary", "--dataflow", folder / "mine.yaml"]
    report = run(folder, *words, bits="4,8,16")
    for row in report["bit_widths"]:
        assert list(row["baselines"]) == ["weight_stationary_fixed", "weight_stationary", "mine"]
        assert row["baselines"]["weight_stationary_fixed"]["fixed_at"] == 16
        assert "fixed_at" not in row["baselines"]["weight_stationary"]
    for layers in zip(*(row["layers"] for row in report["bit_widths"]), strict=True):
        (mapping,) = {json.dumps(layer["baselines"]["weight_stationary_fixed"]["mapping"]) for layer in layers}
        assert json.loads(mapping) == layers[-1]["baselines"]["weight_stationary"]["mapping"]
        for layer in layers:
            shown = layer["baselines"]["weight_stationary_fixed"]
            true = hw_model.evaluate(layer["dims"], shown["mapping"], "eyeriss", layer["bits"])
            assert (shown["energy_j"], shown["cycles"]) == (true.energy_j, true.cycles)


def test_kept_at_a_width_of_its_own_it_may_not_fit(folder, capsys):
    report = run(folder, "--fixed_at", "2", bits="4,32", budget="2000")
    narrow, wide = (row["baselines"].get("row_stationary_fixed") for row in report["bit_widths"])
    assert narrow["fixed_at"] == 2
    assert wide is None or wide["layers_covered"] < wide["layers"]
    assert "the mappings found at 2 bit do not fit at 32 bit for" in capsys.readouterr().out


def test_a_dataflow_without_any_mapping_says_why(folder, capsys):
    report = run(folder, "--device", "shidiannao")
    assert "weight_stationary" not in report["bit_widths"][0]["baselines"]
    assert (
        "weight-stationary: none: the PEs of shidiannao hold no W, which has to stay there" in capsys.readouterr().out
    )


BAD = {
    "name: other\nx: []\ny: []\n": "names no dimension: give at least one of x, y, lanes, pe (dimensions) and stays",
    "name: other\n": "names no dimension",
    "x: [K]\n": "missing field 'name'",
    "name: Other\nx: [K]\n": "line 1: name: expected a name in lower case",
    "name: other_fixed\nx: [K]\n": "line 1: name: expected a name in lower case",
    "name: row_stationary\nx: [K]\n": "'row_stationary' is a built-in dataflow; take another name",
    "name: other\nx: [H]\n": "line 2: x[0]: expected one of N, G, K, C, P, Q, R, S, got 'H'",
    "name: other\nx: [K, K]\n": "line 2: x: expected a list of dimensions",
    "name: other\nx: K\n": "line 2: x: expected a list of dimensions",
    "name: other\nz: [K]\n": "line 2: z: unknown field 'z'",
    "name: other\nstays: V\n": "line 2: stays: expected the tensor that stays: W, I or O",
    "name: other\nstays: W\nover: [K]\n": "line 3: over: W depends on K; legal: N, P, Q",
    "name: other\nx: [K]\nover: [K]\n": "line 3: over: only with stays; legal: nothing",
    "name: other\nx: {dims: [K], whole: [C]}\n": "line 2: x.whole: C is not among the dims that may lie there (K)",
    "name: other\ny: {whole: [C]}\n":
        "dataflow other: layer fc at 8 bit: y: the whole of C, 72, has to lie there: y of eyeriss has 12",
    "name: other\nx: {whole: [C]}\n":
        "layer conv at 8 bit: x: the whole of C, 6, has to lie there: eyeriss spreads only",
    "name: other\nlanes: {whole: [S]}\n":
        "layer conv at 8 bit: lanes: the whole of S, 3, has to lie there: eyeriss has none",
    "name: other\npe: {whole: [C]}\n":
        "layer fc at 8 bit: pe: the whole of C, 72, has to lie there: rf of eyeriss has 192 of the 576 bits",
    "- 1\n": "expected a dataflow: an object",
    "name: [\n": "line",
}  # fmt: skip


@pytest.mark.parametrize("setting", ["--dataflow", "--within"])
@pytest.mark.parametrize("text", BAD)
def test_a_wrong_file_is_one_line_and_status_2(text, setting, folder, capsys):
    (folder / "bad.yaml").write_text(text)
    assert exit_status(lambda: run(folder, setting, folder / "bad.yaml")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and BAD[text] in line
    assert not (folder / "map" / "report.json").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--within", "weight_stationery"], "unknown dataflow 'weight_stationery', did you mean 'weight_stationary'?"),
        (["--dataflow", "none.yaml"], "none.yaml"),
        (["--baselines", "row_stationary,column_stationary"], "setting baselines: no baseline 'column_stationary'"),
        (["--within", "weight_stationary", "--device", "shidiannao"], "hold no W, which has to stay there"),
        (["--within", "weight_stationary", "--engine", "exhaustive"], "setting within: not with engine = 'exhaustive'"),
        (["--fixed_at", "0"], "setting fixed_at = 0: must be between 1 and 32"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(words, says, folder, capsys):
    assert exit_status(lambda: run(folder, *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line


def test_rows_that_do_not_fit_the_axis_are_split():
    device = hw_model.load_device({"extends": "eyeriss", "array": {"x": 8, "y": 8}})
    (turn, *_) = constraints(built_in()["row_stationary"], LAYERS[1], device, 8)
    assert turn.least[device.slots.index("spatial_y"), DIMS.index("R")] == 1
    (turn, *_) = constraints(built_in()["row_stationary"], LAYERS[0], device, 8)
    assert turn.least[device.slots.index("spatial_y"), DIMS.index("R")] == 3
