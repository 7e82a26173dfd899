"""What is written for Timeloop reads back as the same mapping, for every reference case and every device."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import random_cases
import yaml
from timeloop_accepts import rejections

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


def test_the_files(tmp_path):
    device = hw_model.load_device("eyeriss168")
    layer = hw_model.Layer(name="conv", K=4, C=3, P=5, Q=5, R=3, S=3, stride=2)
    mapping = {"dram": [["K", 2], ["C", 3]], "glb": [["P", 5]], "spatial_x": [["Q", 5]], "spatial_y": [["R", 3]],
               "rf": [["K", 2], ["S", 3]], "bypass": {"glb": ["W"]}}  # fmt: skip
    write_timeloop(tmp_path / "out", export_timeloop(layer, mapping, device, 16))
    files = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"arch.yaml", "problem.yaml", "map.yaml", "ert.yaml", "constraints.yaml"}
    assert files["problem.yaml"]["problem"]["instance"] == {
        "N": 1, "G": 1, "K": 4, "C": 3, "P": 5, "Q": 5, "R": 3, "S": 3,
        "Wstride": 2, "Wdilation": 1, "Hstride": 2, "Hdilation": 1,
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
        ("mapping: [{target: rf_W, type: temporal, factors: K=2}]", "are not supported"),
        ("mapping: [{type: temporal}]", "expected an object with target and type"),
        ("mapping: [{target: GLB, type: temporal, factors: 'P3,2'}]", "P3,2: an imperfect factor"),
        ("mapping: [{target: GLB, type: temporal, factors: K=2 P=3,2 C=4}]", "P=3,2: an imperfect factor"),
        ("mapping: [{target: GLB, type: spatial, factors: ['P3,2']}]", "P3,2: an imperfect factor"),
        ("mapping: [{target: rf_W, type: bypass, keep: [Outputs]}]", "rf_W of device eyeriss168 cannot keep Outputs"),
        ("mapping: [{target: GLB, type: temporal, factors: K2, no_temporal_reuse: [Weights]}]", "unknown field"),
        ("mapping: [{target: GLB, type: spatial, no_multicast_no_reduction: [Weights]}]", "but of nothing on device"),
        (
            "mapping: [{target: GLB, type: temporal, factors: K2}, {target: glb, type: temporal, factors: C2}]",
            "given twice",
        ),
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
    back = import_mapping(texts["map.yaml"], device)  # on the device itself
    assert hw_model.evaluate(layer, back, device, 16) == hw_model.evaluate(layer, mapping, device, 16)
    assert back["spatial_x"] and back["spatial_y"]


@pytest.mark.parametrize("seed", range(40))
def test_a_row_reads_back_on_its_own_device(seed):
    """Random loops on both axes of random arrays; the row becomes loops that fit both axes again."""
    rng = random.Random(seed)
    x, y = rng.randint(2, 16), rng.randint(2, 16)
    device = dataclasses.replace(hw_model.load_device("simple256"), array=(x, y))
    loops = {"spatial_x": [], "spatial_y": []}
    for slot, room in (("spatial_x", x), ("spatial_y", y)):
        for dim in rng.sample("NGKCPQRS", 4):
            loops[slot].append([dim, rng.randint(1, room)])
            room //= loops[slot][-1][1]
    mapping = hw_model.Mapping.from_dict(loops).on(device)
    layer = hw_model.Layer(**covered(mapping))
    back = import_mapping(export_timeloop(layer, mapping, device, 16)["map.yaml"], device)
    assert hw_model.evaluate(layer, back, device, 16) == hw_model.evaluate(layer, mapping, device, 16)


def covered(mapping):
    sizes = {}
    for _, pairs in mapping.loops:
        for dim, n in pairs:
            sizes[dim] = sizes.get(dim, 1) * n
    return sizes


def test_a_row_that_fits_nowhere_stays_and_is_invalid():
    device = hw_model.load_device("simple256")  # 16 x 16
    text = "mapping: [{target: glb, type: spatial, factors: K=17 C=2, permutation: KC, split: 8}]"
    back = import_mapping(text, device)
    assert back["spatial_x"] == (("K", 17), ("C", 2)) and not back["spatial_y"]
    with pytest.raises(hw_model.InvalidMapping, match="needs 34 PEs"):
        hw_model.evaluate(hw_model.Layer(K=17, C=2), back, device, 16)


def test_lanes_and_capacities_are_where_timeloop_looks():
    device, layer = hw_model.load_device("simba_like"), hw_model.Layer(K=64, C=40, P=4)
    mapping = {"dram": [["P", 4]], "spatial_x": [["K", 4]], "spatial_y": [["K", 4]], "buffer": [["K", 4]],
               "lanes": [["C", 40]]}  # fmt: skip
    texts = export_timeloop(layer, mapping, device, 4)
    assert rejections(texts) == []
    chip = yaml.safe_load(texts["arch.yaml"])["architecture"]["subtree"][0]["subtree"][0]
    assert chip["local"][0]["attributes"]["entries"] == 524288 // 4
    parts = {part["name"]: part["attributes"] for part in chip["subtree"][0]["local"]}
    assert parts["buffer_O"]["entries"] == 24576 // 4 and parts["mac[0..63]"]["meshX"] == 16 * 64  # one row
    for change, reason in ((("entries: 131072", "entries: 15"), "glb"), (("meshX: 1024", "meshX: 16"), "wreg: 40")):
        broken = {**texts, "arch.yaml": texts["arch.yaml"].replace(*change)}
        assert reason in " ".join(rejections(broken))


def test_energies():
    device = hw_model.load_device("simba_like")
    text = export_timeloop(hw_model.Layer(), {}, device, 4)["ert.yaml"]
    table = yaml.safe_load(text)["ERT"]
    assert table["version"] == 0.3
    energies = {item["name"]: {a["name"]: a["energy"] for a in item["actions"]} for item in table["tables"]}
    assert set(energies) == {f"system.{name}" for name in
                             ("dram", "glb", "buffer_W", "buffer_I", "buffer_O", "wreg", "mac", "wire")}  # fmt: skip
    assert energies["system.dram"] == {"read": 32.0, "write": 32.0}
    assert energies["system.buffer_I"] == pytest.approx({"read": 0.0724376, "write": 0.0724376})
    assert energies["system.mac"] == pytest.approx({"compute": 0.589 / 64 + 0.019 / 4})
    assert energies["system.wire"] == pytest.approx({"transfer_random": 4 * 4 * 0.0138047})


def test_a_shared_buffer_has_the_largest_energy():
    fields = yaml.safe_load((Path(hw_model.__file__).parent / "devices/simple256.yaml").read_text())
    fields["levels"][1]["read_energy_pj_per_bit"] = {"W": 1.0, "I": 3.0, "O": 2.0}
    text = export_timeloop(hw_model.Layer(), {}, hw_model.load_device(fields), 8)["ert.yaml"]
    assert yaml.safe_load(text)["ERT"]["tables"][1]["actions"][0] == {"name": "read", "energy": 24.0}


@pytest.mark.parametrize("name", hw_model.device_names())
def test_constraints_hold_for_what_is_exported(name):
    """A mapping of the device keeps to them, and they leave nothing that a mapping here could not say."""
    device = hw_model.load_device(name)
    texts = export_timeloop(hw_model.Layer(K=2), {"dram": [["K", 2]]}, device, 8)
    targets = yaml.safe_load(texts["constraints.yaml"])["architecture_constraints"]["targets"]
    directives = {(item["target"], item["type"]): item for item in yaml.safe_load(texts["map.yaml"])["mapping"]}
    for target in targets:
        found = directives[target["target"], target["type"]]
        assert set(target.get("keep", [])) <= set(found.get("keep", []))
        assert set(target.get("bypass", [])) <= set(found.get("bypass", []))
        assert set(target.get("factors", "").split()) <= set(found.get("factors", "").split())
    import_mapping(yaml.safe_dump({"mapping": targets}), device)  # as a mapping that keeps all it may
    fixed = {(item["target"], item["type"]) for item in targets}
    for level in device.levels:
        names = [level.name] if len(level.partitions) < 2 else [f"{level.name}_{t}" for t in level.holds]
        assert all((part, "datatype") in fixed for part in names)
        assert [part for part in names if (part, "temporal") in fixed] == names[:-1]


@pytest.mark.parametrize(("multicast", "reduction"), [(False, True), (True, False), (False, False)])
def test_a_network_that_does_not_share(multicast, reduction):
    device = dataclasses.replace(hw_model.load_device("simple256"), multicast=multicast, reduces=(reduction, reduction))
    layer, mapping = hw_model.Layer(K=4, C=2), {"spatial_x": [["K", 4]], "spatial_y": [["C", 2]]}
    texts = export_timeloop(layer, mapping, device, 16)
    alone = ([] if multicast else ["Weights", "Inputs"]) + ([] if reduction else ["Outputs"])
    for text, key in ((texts["map.yaml"], "mapping"), (texts["constraints.yaml"], "architecture_constraints")):
        data = yaml.safe_load(text)[key]
        items = data if key == "mapping" else data["targets"]
        assert [item["no_multicast_no_reduction"] for item in items if item["type"] == "spatial"] == [alone]
    back = import_mapping(texts["map.yaml"], device)
    assert hw_model.evaluate(layer, back, device, 16) == hw_model.evaluate(layer, mapping, device, 16)
    with pytest.raises(hw_model.InputError, match=r"no_multicast_no_reduction of .*, but of nothing on device simple"):
        import_mapping(texts["map.yaml"], hw_model.load_device("simple256"))


def test_a_tensor_kept_where_nothing_holds_it():
    text = "mapping: [{target: pe, type: bypass, keep: [Outputs], bypass: [Weights, Inputs]}]"
    with pytest.raises(hw_model.InputError, match="pe of device edge_tpu_like cannot keep Outputs"):
        import_mapping(text, hw_model.load_device("edge_tpu_like"))


def test_strides_and_dilations_of_both_axes():
    layer = hw_model.Layer(K=2, P=4, Q=3, R=3, S=2, stride_h=2, stride_w=3, dilation_h=4, dilation_w=5)
    mapping = {"dram": [["K", 2], ["P", 4], ["Q", 3], ["R", 3], ["S", 2]]}
    text = export_timeloop(layer, mapping, hw_model.load_device("simple256"), 16)["problem.yaml"]
    assert import_problem(text) == layer
    shape = yaml.safe_load(text)["problem"]["shape"]
    (inputs,) = (space for space in shape["data-spaces"] if space["name"] == "Inputs")
    assert inputs["projection"][3:] == [[["P", "Wstride"], ["R", "Wdilation"]], [["Q", "Hstride"], ["S", "Hdilation"]]]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("{shape: cnn-layer, instance: {M: 4, P: 3, R: 2, Wstride: 2, Hdilation: 3}}",
         {"K": 4, "P": 3, "R": 2, "stride_h": 2, "dilation_w": 3}),
        ("{instance: {K: 4, Stride: 2}}", {"K": 4, "stride": 2}),
        ("{shape: {coefficients: [{name: U, default: 3}], data-spaces: [{name: Inputs, projection: "
         "[[[P, U], [R]], [[Q, V], [S]]]}]}, instance: {P: 2, Q: 2, V: 5}}",
         {"P": 2, "Q": 2, "stride_h": 3, "stride_w": 5}),
    ],
)  # fmt: skip
def test_problems_by_hand(text, fields):
    assert import_problem(f"problem: {text}") == hw_model.Layer(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{instance: {K: 4, Z: 2}}", "unknown size in problem 'Z'"),
        ("{instance: {K: 4, W: 2}}", "unknown size in problem 'W'"),
        ("{instance: {Stride: 0}}", "not between 1"),
        ("[instance]", "expected 'problem:'"),
    ],
)
def test_bad_problem_files(text, message):
    with pytest.raises(hw_model.InputError, match=message):
        import_problem(f"problem: {text}")


@pytest.mark.parametrize("name", ["a\nmapping: 3", "b\r\narchitecture: {}", "c\u2028d: 1", "e\x85f: 1", "---\n- 1"])
def test_no_name_becomes_yaml(name):
    layer = hw_model.Layer(name=name, K=2)
    plain = export_timeloop(hw_model.Layer(K=2), {"dram": [["K", 2]]}, hw_model.load_device("eyeriss"), 8)
    for file, text in export_timeloop(layer, {"dram": [["K", 2]]}, hw_model.load_device("eyeriss"), 8).items():
        assert yaml.safe_load(text) == yaml.safe_load(plain[file])
        assert len(text.splitlines()) == len(plain[file].splitlines())


def test_notes_at_the_top():
    """Why a mapping is invalid, and where Timeloop's sizes are not the layer's."""
    device = hw_model.load_device("simple256")
    for text in export_timeloop(hw_model.Layer(K=5), {"spatial_x": [["K", 4]]}, device, 16).values():
        assert "# INVALID here: dimension K: the factors multiply to 4, the layer needs 5\n" in text
    layer = hw_model.Layer(K=5, P=4, R=3, pad_top=1, H=4)
    texts = export_timeloop(layer, {"dram": [["K", 6], ["P", 4], ["R", 3]]}, device, 16)
    assert not any("INVALID" in text for text in texts.values())
    assert "# the mapping covers K=6 (layer: 5); Timeloop charges the padding\n" in texts["problem.yaml"]
    assert "# of the layer's box of 6 inputs 4 are real and needed; Timeloop charges the box\n" in texts["problem.yaml"]
    texts = export_timeloop(hw_model.Layer(K=2), {"dram": [["K", 2]]}, hw_model.load_device("bitfusion"), 4)
    assert "# 4 MACs in 1 cycles of each unit at 4 bit" in texts["arch.yaml"]
