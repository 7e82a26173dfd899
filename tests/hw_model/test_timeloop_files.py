"""What is written for Timeloop reads back as the same mapping, for every reference case and every device."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import random_cases
import yaml

import hw_model
from hw_model.timeloop import export_timeloop, import_mapping, import_problem, write_timeloop

DATA = Path(__file__).parent.parent / "data"
CASES = json.loads((DATA / "timeloop_bypass_cases.json").read_text())["cases"]


@pytest.mark.parametrize("index", range(0, len(CASES), 3))
def test_reference_cases_read_back(index):
    case = CASES[index]
    device = hw_model.load_device(case["architecture"])
    mapping = {slot.removesuffix("_temporal"): loops for slot, loops in case["mapping"].items()}
    mapping = hw_model.Mapping.from_dict({**mapping, "bypass": {"glb": case["bypass_glb"]}}).on(device)
    layer = hw_model.Layer.from_dict({**case["dims"], "stride": case["stride"]})
    texts = export_timeloop(layer, mapping, device, 16)
    back = import_mapping(texts["map.yaml"], device)
    assert back.bypass == mapping.bypass
    for level in device.level_names:
        assert back[level] == mapping[level]
    assert hw_model.evaluate(import_problem(texts["problem.yaml"]), back, device, 16) == hw_model.evaluate(
        layer, mapping, device, 16
    )


@pytest.mark.parametrize("seed", range(60))
def test_any_device_reads_back(seed):
    rng = random.Random(seed)
    device = hw_model.load_device(random_cases.device_fields(rng))
    if "lanes" in device.slots and not device.levels[-1].in_pe:
        device = hw_model.load_device("simba_like")
    _, loops = random_cases.layer_and_loops(rng, list(device.slots))
    loops = {slot: list({dim: (dim, n) for dim, n in pairs}.values()) for slot, pairs in loops.items()}
    x_dims = {dim for dim, _ in loops["spatial_x"]}
    loops["spatial_y"] = [pair for pair in loops["spatial_y"] if pair[0] not in x_dims]
    mapping = hw_model.Mapping.from_dict({**loops, "bypass": {device.level_names[1]: ["O"]}}).on(device)
    back = import_mapping(export_timeloop(hw_model.Layer(), mapping, device, 16)["map.yaml"], device)
    for slot in device.slots:
        order = (lambda pairs: pairs) if slot in device.level_names else sorted
        assert order(back[slot]) == order(mapping[slot])
    one, two = ({t for t in device.levels[1].holds if t in m.bypassed(device.level_names[1])} for m in (back, mapping))
    assert one == two


def test_the_three_files(tmp_path):
    device = hw_model.load_device("eyeriss168")
    layer = hw_model.Layer(name="conv", K=4, C=3, P=5, Q=5, R=3, S=3, stride=2)
    mapping = {"dram": [["K", 2], ["C", 3]], "glb": [["P", 5]], "spatial_x": [["Q", 5]], "spatial_y": [["R", 3]],
               "rf": [["K", 2], ["S", 3]], "bypass": {"glb": ["W"]}}  # fmt: skip
    write_timeloop(tmp_path / "out", export_timeloop(layer, mapping, device, 16))
    files = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert files["problem.yaml"]["problem"]["instance"] == {
        "N": 1, "G": 1, "K": 4, "C": 3, "P": 5, "Q": 5, "R": 3, "S": 3, "Stride": 2,
    }  # fmt: skip
    directives = {(d["target"], d["type"]): d for d in files["map.yaml"]["mapping"]}
    assert directives["dram", "temporal"]["permutation"].startswith("CK")
    assert directives["rf_O", "temporal"]["factors"] == "N=1 G=1 K=2 C=1 P=1 Q=1 R=1 S=3"
    assert directives["rf_W", "temporal"]["factors"] == "N=1 G=1 K=1 C=1 P=1 Q=1 R=1 S=1"
    assert directives["rf_W", "datatype"] == {
        "target": "rf_W", "type": "datatype", "keep": ["Weights"], "bypass": ["Inputs", "Outputs"],
    }  # fmt: skip
    assert directives["glb", "datatype"]["bypass"] == ["Weights"]
    spatial = directives["glb", "spatial"]
    assert spatial["permutation"][: spatial["split"]] == "Q" and "R=3" in spatial["factors"]
    system = files["arch.yaml"]["architecture"]["subtree"][0]
    chip = system["subtree"][0]
    assert chip["local"][0]["attributes"]["entries"] == 55296
    assert chip["local"][0]["attributes"]["read_bandwidth"] == 16
    pe = chip["subtree"][0]
    assert pe["name"] == "pe[0..167]" and [part["name"] for part in pe["local"]] == ["rf_W", "rf_I", "rf_O", "mac"]
    assert [part["attributes"].get("entries") for part in pe["local"]] == [224, 12, 24, None]


def test_timeloop_own_style():
    text = """
mapping:
  - {target: DRAM, type: temporal, factors: C=8 M=4, permutation: CM}
  - {target: GLB, type: bypass, keep: [Inputs, Outputs], bypass: [Weights]}
  - {target: GLB, type: temporal, factors: "P=7,Q=2", permutation: [Q, P]}
  - {target: GLB, type: spatial, factors: Q=14 R=3, permutation: QR, split: 1}
  - {target: RF, type: temporal, factors: S=3, permutation: S}
"""
    mapping = import_mapping(text, hw_model.load_device("simple256"))
    assert mapping["dram"] == (("K", 4), ("C", 8))
    assert mapping["glb"] == (("P", 7), ("Q", 2))
    assert (mapping["spatial_x"], mapping["spatial_y"]) == ((("Q", 14),), (("R", 3),))
    assert mapping.bypassed("glb") == ("W",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mapping: 3", "expected 'mapping:' with a list"),
        ("mapping: [{target: GLLB, type: temporal}]", "did you mean 'glb'"),
        ("mapping: [{target: GLB, type: spacial}]", "did you mean 'spatial'"),
        ("mapping: [{target: GLB, type: temporal, factors: K=0}]", "K=0: a factor of 0, the rest, is not supported"),
        ("mapping: [{target: GLB, type: temporal, factors: C=2 C=3}]", "dimension C has two factors"),
        ("mapping: [{target: GLB, type: spatial, factors: K=2, split: -1}]", "split: expected a number of dimensions"),
        ("mapping: [{target: GLB, type: spatial, factors: K=2, split: 99}]", "split: expected a number of dimensions"),
        ("mapping: [{target: GLB, type: bypass, keep: [Inputs], bypass: [Inputs]}]", "both kept and bypassed"),
        ("mapping: [{target: GLB, type: temporal, factors: Z=2}]", "unknown dimension"),
        ("mapping: [{target: GLB, type: temporal, factors: K=2, permutation: KKC}]", "expected a permutation"),
        ("mapping: [{target: GLB, type: bypass, bypass: [Psums]}]", "unknown data space"),
        ("mapping: [{target: rf_W, type: temporal, factors: K=2}]", "cannot be said"),
        ("mapping: [{type: temporal}]", "expected an object with target and type"),
    ],
)
def test_bad_mapping_files(text, message):
    with pytest.raises(hw_model.InputError, match=message):
        import_mapping(text, hw_model.load_device("eyeriss168"))


def test_what_timeloop_cannot_say():
    device = hw_model.load_device("simple256")
    with pytest.raises(hw_model.InputError, match="repeat a dimension within one level"):
        export_timeloop(hw_model.Layer(), {"glb": [["K", 2], ["C", 2], ["K", 2]]}, device, 16)


def test_a_dimension_on_both_axes_makes_the_array_one_row():
    device, layer = hw_model.load_device("eyeriss168"), hw_model.Layer(K=12, C=4, P=6)
    mapping = {"dram": [["P", 6]], "spatial_x": [["K", 4], ["C", 2]], "spatial_y": [["K", 3], ["C", 2]]}
    texts = export_timeloop(layer, mapping, device, 16)
    assert "as one row; no count depends on that" in texts["map.yaml"]
    row = dataclasses.replace(device, array=(device.pes, 1))
    back = import_mapping(texts["map.yaml"], row)
    assert dict(back["spatial_x"]) == {"K": 12, "C": 4}
    assert hw_model.evaluate(layer, back, row, 16) == hw_model.evaluate(layer, mapping, device, 16)
    text = yaml.safe_load(texts["arch.yaml"])["architecture"]["subtree"][0]["subtree"][0]["subtree"][0]["local"][0]
    assert text["attributes"]["meshX"] == 168
