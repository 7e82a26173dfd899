"""Bad input: one clear line each, from Python and from the command; readers fuzzed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hw_model
from hw_model.__main__ import main
from hw_model.cases import parse_cases, result, results_json
from hw_model.device import DEVICE_FOLDER
from hw_model.layer import COUNT_LIMIT
from hw_model.timeloop import import_mapping, import_problem
from hw_model.yaml_lines import read_yaml

ROOT = Path(__file__).parent.parent.parent
EYERISS = (DEVICE_FOLDER / "eyeriss.yaml").read_text()
CASE = {
    "layer": {"N": 1, "G": 1, "K": 128, "C": 128, "P": 28, "Q": 28, "R": 3, "S": 3, "stride": 1},
    "device": "eyeriss",
    "bits": 16,
    "mapping": {
        "dram": [["K", 16], ["C", 64]], "glb": [["P", 7], ["Q", 28]], "spatial_y": [["R", 3], ["C", 2]],
        "spatial_x": [["P", 4], ["K", 2]], "rf": [["K", 4], ["S", 3]],
    },
}  # fmt: skip


def changed(**fields):
    return {**CASE, **fields}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on a case in this process: (exit status, standard output, standard error)."""

    def run_case(case, *options):
        path = tmp_path / "case.json"
        path.write_text(case if isinstance(case, str) else json.dumps(case))
        status = main([str(path), *options])
        return (status, *capsys.readouterr())

    return run_case


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"K": 0}, "layer: K: 0 is not between 1 and"),
        ({"K": -3}, "layer: K: -3 is not between 1 and"),
        ({"K": 2.0}, "layer: K: 2.0 is not an integer"),
        ({"K": True}, "layer: K: True is not an integer"),
        ({"K": "4"}, "layer: K: '4' is not an integer"),
        ({"stride": 0}, "layer: stride: 0"),
        ({"X": 3}, r"unknown layer field 'X'.*one of: name, N, G"),
        ({"k": 3}, "did you mean 'K'"),
        ({"name": 3}, "layer: name: 3 is not a string"),
        ({"K": 2**31}, "layer: K: 2147483648"),
        ({"K": 2**30, "C": 2**24}, r"MACs are more than 2\*\*53"),
        ({"P": 2**30, "stride": 2**30}, r"input words are more than 2\*\*53"),
    ],
)
def test_bad_layers(fields, message):
    with pytest.raises(hw_model.InputError, match=message):
        hw_model.Layer.from_dict(fields)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([["K", 4]], "mapping: expected an object"),
        ({"gbl": [["K", 128]]}, "unknown level of device eyeriss 'gbl', did you mean 'glb'"),
        ({"dram": [["X", 4]]}, "unknown dimension in dram: 'X'"),
        ({"dram": [["K", 0]]}, "mapping: dram: K: factor 0 is not between 1"),
        ({"dram": [["K", -2]]}, "mapping: dram: K: factor -2"),
        ({"dram": [["K", 1.5]]}, "mapping: dram: K: factor 1.5 is not an integer"),
        ({"dram": [["K"]]}, r"mapping: dram: expected pairs like \[\"K\", 4\], got \['K'\]"),
        ({"dram": "K4"}, "mapping: 'dram': expected a list"),
        ({"dram": [[["K"], 4]]}, "unknown dimension"),
        ({"bypass": {"glb": ["X"]}}, "unknown tensor in bypass of glb: 'X'"),
        ({"bypass": {"glb": "W"}}, "bypass: glb: expected a list"),
        ({"bypass": {"l2": ["W"]}}, "unknown bypassed level of device eyeriss 'l2'"),
        ({"bypass": {"dram": ["W"]}}, "dram is the outermost level, no tensor can bypass it"),
        ({"bypass": ["glb"]}, "bypass: expected an object"),
    ],
)
def test_bad_mappings(mapping, message):
    with pytest.raises(hw_model.InputError, match=message) as caught:
        hw_model.evaluate(CASE["layer"], mapping, "eyeriss", 16)
    assert not isinstance(caught.value, hw_model.InvalidMapping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dram": [["K", 15], ["C", 64]]}, "dimension K: the factors multiply to 120, the layer needs 128"),
        ({"spatial_x": [["P", 4], ["K", 4]]}, "array: spatial_x (P4 K4) needs 16 PEs, the array has 14"),
        ({"spatial_y": [["R", 3], ["C", 5]]}, "array: spatial_y (R3 C5) needs 15 PEs, the array has 12"),
        ({"rf": [["K", 32], ["S", 3]]}, "rf: O needs 512 bits, there are 384"),
        ({"rf": [["C", 8], ["S", 3]]}, "rf: I needs 384 bits, there are 192"),
        ({"rf": [["C", 32], ["K", 8]]}, "rf: W needs 4096 bits, there are 3584"),
        ({"glb": [["P", 7], ["Q", 28], ["K", 8]]}, "glb: I+O needs 831616 bits (I 28800, O 802816), there are 819200"),
        ({"dram": [["K", 2**31 - 1], ["C", 2**31 - 1]]}, "counts beyond 2**53 are refused"),
    ],
)
def test_reasons_of_invalid_mappings(change, reason):
    with pytest.raises(hw_model.InvalidMapping) as caught:
        hw_model.evaluate(CASE["layer"], {**CASE["mapping"], **change}, "eyeriss", 16)
    assert any(reason in found for found in caught.value.reasons), caught.value.reasons
    assert isinstance(caught.value, hw_model.InputError)


def test_a_device_may_forbid_bypass():
    fields = yaml.safe_load(EYERISS)
    fields["levels"][1]["may_bypass"] = ["I"]
    mapping = {**CASE["mapping"], "bypass": {"glb": ["O", "W"]}}
    with pytest.raises(hw_model.InvalidMapping) as caught:
        hw_model.evaluate(CASE["layer"], mapping, fields, 16)
    assert caught.value.reasons == ["glb: O cannot bypass this level on device eyeriss"]
    assert hw_model.evaluate(CASE["layer"], {**CASE["mapping"], "bypass": {"glb": ["I", "W"]}}, fields, 16).cycles


@pytest.mark.parametrize("bits", [0, 33, -1, 8.0, "8", None, True])
def test_bad_bits(bits):
    with pytest.raises(hw_model.InputError, match="bits: expected an integer from 1 to 32"):
        hw_model.evaluate(CASE["layer"], CASE["mapping"], "eyeriss", bits)


def test_largest_counters_are_exact():
    """Just below 2**53 MACs every counter is what Python's integers say; one factor more is refused."""
    layer = hw_model.Layer(K=2**27, C=2**26 - 1)
    cost = hw_model.evaluate(layer, {"dram": [["K", 2**27], ["C", 2**26 - 1]]}, "simple256", 16)
    macs = 2**27 * (2**26 - 1)
    assert COUNT_LIMIT * 0.99 < macs < COUNT_LIMIT
    assert cost.levels["rf"]["W"].reads == cost.padded_macs == macs
    assert cost.levels["dram"]["W"].reads == macs
    assert cost.cycles == macs
    with pytest.raises(hw_model.InvalidMapping, match="overflow"):
        hw_model.evaluate(layer, {"dram": [["K", 2**27], ["C", 2**26 - 1], ["N", 3]]}, "simple256", 16)
    fields = yaml.safe_load(EYERISS)
    fields["levels"][0]["read_bandwidth_bits_per_cycle"] = 1e-12
    with pytest.raises(hw_model.InvalidMapping, match=r"bandwidths of device eyeriss give more than 2\*\*53 cycles"):
        hw_model.evaluate(CASE["layer"], CASE["mapping"], fields, 16)
    strided = hw_model.Layer(P=2**20, stride=2**20)
    with pytest.raises(hw_model.InvalidMapping, match="overflow: dram: I would move"):
        hw_model.evaluate(strided, {"dram": [["P", 2**20], ["Q", 2**20]]}, "simple256", 16)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz: 200", "clock_mhz: -1", r"line 7: clock_mhz: expected a number above 0, got -1"),
        ("clock_mhz: 200", "clock_mhz: 2e8", r"expected a number above 0, got '2e8' \(text to YAML"),
        ("clock_mhz: 200", "clock_mhz: .nan", "line 7: clock_mhz: expected a finite number"),
        ("clock_mhz: 200", "clock_mhz: 1.0e+400", "expected a finite number"),
        ("clock_mhz: 200", "clock: 200", "line 7: clock: unknown field 'clock', did you mean 'clock_mhz'"),
        ("clock_mhz: 200", "", "missing field 'clock_mhz'"),
        ("clock_mhz: 200", "clock_mhz: 200\nclock_mhz: 300", "line 8: field 'clock_mhz' is given twice"),
        ("  - name: dram", "  - name: ddr", r"line 11: levels\[0\].name: a device needs a DRAM"),
        ("array: {x: 14, y: 12,", "array: {x: 0, y: 12,", r"line 8: array.x: expected a whole number from 1"),
        (
            "array: {x: 14, y: 12, x_dims: [N, G, K, P, Q], reduce: y}",
            "array: 168",
            "line 8: array: expected the PE array",
        ),
        ("holds: [I, O]", "holds: [I, P]", r"line 18: levels\[1\].holds\[1\]: expected"),
        ("size_bits: 819200 ", "size_bits: 0 ", r"line 19: levels\[1\].size_bits: expected a whole number of bits, 1"),
        ("size_bits: 819200 ", "size_bits: {W: 3} ", "expected each of I, O once"),
        ("size_bits: 819200 ", "size: 819200 ", "did you mean 'size_bits'"),
        ("scope: pe", "scope: core", "expected chip .* or pe"),
        ("  - name: rf", "  - name: glb", "level 'glb' is there already"),
        ("  - name: rf", "  - name: bypass", "expected a name in lower case"),
        ("rate: fixed", "rate: fluid", "expected fixed or fused"),
        ("psum_bits: 16", "psum_bits: 65", "psum_bits: expected a whole number of bits from 1 to 64, got 65"),
        ("clock_mhz: 200", "clock_mhz: &c 200\ntechnology: *c", "anchors and aliases"),
        ("clock_mhz: 200", "clock_mhz: [200", "line"),
        ("energy_pj_per_bit: 0.13671875", "hops: 3", "expected either energy_pj_per_bit, or energy_pj_per_bit_hop"),
    ],
)
def test_bad_device_files(old, new, message, tmp_path):
    assert old in EYERISS
    path = tmp_path / "mine.yaml"
    path.write_text(EYERISS.replace(old, new, 1))
    with pytest.raises(hw_model.InputError, match=message) as caught:
        hw_model.load_device(path)
    assert str(caught.value).startswith(f"{path}, line ") and "\n" not in str(caught.value)


def test_devices_by_name_path_and_content(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(EYERISS)
    by_name = hw_model.load_device("eyeriss")
    assert by_name == hw_model.load_device(path) == hw_model.load_device(str(path)) == hw_model.load_device(by_name)
    assert by_name == hw_model.load_device(yaml.safe_load(EYERISS)) == hw_model.load_device(EYERISS)
    for source, message in (
        ("eyeris", "unknown device 'eyeris', did you mean 'eyeriss'"),
        ("missing/file.yaml", "No such file"),
        (str(tmp_path), "unknown device|Is a directory"),
        (3, "expected a name, a path or an object"),
        ("name: x\nclock_mhz: 3", "without memories"),
        ({}, "without memories"),
        ({"levels": []}, "levels: expected 1 to 8 memory levels|missing field"),
    ):
        with pytest.raises(hw_model.InputError, match=message):
            hw_model.load_device(source)


def test_a_device_beside_the_case_or_without_a_suffix(run, tmp_path, monkeypatch):
    (tmp_path / "eyeriss").mkdir()  # a folder of a device's name is not that device
    (tmp_path / "mine").write_text(EYERISS)
    status, _, err = run(CASE)
    assert (status, err) == (0, "")
    assert run(changed(device="mine"))[0] == 0
    monkeypatch.chdir(tmp_path)
    assert hw_model.load_device("mine") == hw_model.load_device("eyeriss")


def test_command(run, tmp_path):
    status, out, err = run(CASE, "--json")
    assert status == 0 and err == ""
    found = json.loads(out)
    cost = hw_model.evaluate(CASE["layer"], CASE["mapping"], "eyeriss", 16)
    assert found == json.loads(json.dumps(cost.to_dict()))
    assert found["valid"] is True and set(found["levels"]["glb"]["O"]) == {
        "reads", "fills", "updates", "drains", "energy_j",
    }  # fmt: skip
    bad = changed(mapping={"dram": [["K", 4]]})
    status, out, _ = run([CASE, bad, changed(device=yaml.safe_load(EYERISS), bits=8)], "--json")
    assert status == 1
    results = json.loads(out)
    assert [item["valid"] for item in results] == [True, False, True]
    assert results[0] == found and any("dimension C" in reason for reason in results[1]["reasons"])
    status, out, _ = run(bad)
    assert status == 1 and "invalid:" in out
    status, out, _ = run(CASE, "--timeloop", str(tmp_path / "tl"))
    assert status == 0 and "for k2 in 0..15:" in out and "k = 8*k2 + 4*k1 + k0" in out and "utilisation" in out
    assert {path.name for path in (tmp_path / "tl").iterdir()} == {
        "arch.yaml", "problem.yaml", "map.yaml", "ert.yaml", "constraints.yaml",
    }  # fmt: skip
    _, out, _ = run(changed(mapping="tl/map.yaml"), "--json")
    assert json.loads(out)["energy_j"] == found["energy_j"]


def test_command_as_a_process(tmp_path):
    (tmp_path / "case.json").write_text(json.dumps(CASE))
    command = [sys.executable, "-m", "hw_model", str(tmp_path / "case.json"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["valid"] is True and done.stderr == ""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("{", "case.json, line 1"),
        ("[]x", "case.json, line 1"),
        ('{"layer": 1, "layer": 2}', "given twice"),
        ("3", "case.json: expected an object with layer, device, bits, mapping, got 3"),
        ({"layer": {}}, "missing field 'device'"),
        (changed(bitz=3), "unknown field 'bitz', did you mean 'bits'"),
        (changed(bits=40), "bits: expected an integer from 1 to 32, got 40"),
        ([CASE, changed(device="nowhere")], "case.json, case 1: unknown device 'nowhere'"),
        (changed(mapping={"l3": []}), "unknown level of device eyeriss 'l3'"),
        ('{"bits": 1e999}', "missing field 'layer'"),
        (json.dumps(CASE).replace('"K": 128', '"K": ' + "9" * 5000), "case.json"),
        ("[" * 100_000, "nested too deeply"),
        (changed(mapping={"dram": [["K", 10**9]] * 500}), "mapping: the factors of K multiply to more than 2**53"),
        (changed(mapping={"dram": [["K", 2]] * 40_000}), "mapping: the factors of K multiply to more than 2**53"),
    ],
)
def test_command_with_bad_input(case, message, run):
    status, out, err = run(case, "--json")
    assert status == 2 and out == ""
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {K: " + "1:" * 300_000 + "1}", "is not a number that can be read"),  # to base 60
        ("- {K: 1, " + ", ".join(f"a{i}: 1" for i in range(80_000)) + "}", "line 1: more values than are read"),
        ("[" + "1, " * 200_000 + "1]", "line 1: more values than are read"),
        ("[" * 400_000, "line 1: nested too deeply"),
        ("{a: " * 200_000, "line 1: nested too deeply"),
        ("- " * 400_000, "line 1: nested too deeply"),
    ],
    ids=["base 60", "keys", "values", "lists", "mappings", "entries"],
)
def test_yaml_that_would_take_long_is_refused(text, message):
    with pytest.raises(hw_model.InputError, match=re.escape(message)):
        read_yaml(text, "file.yaml")


def test_command_without_a_file(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def without_cache_folder(folder, code):
    """What `code` prints where numba finds no place for its cache: in none of its candidate folders."""
    package = folder / "hw_model"
    subprocess.run(["cp", "-r", str(ROOT / "hw_model"), str(package)], check=True)
    subprocess.run(["rm", "-rf", str(package / "__pycache__")], check=True)
    for place in (folder, package):
        (place / "__pycache__").write_text("a file where the cache would be")
    home = "/proc"  # not even root can write there
    environment = {"PATH": "/usr/bin:/bin", "HOME": home, "XDG_CACHE_HOME": home, "NUMBA_CACHE_DIR": home + "/cache",
                   "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    (folder / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


DOUBLE = """
from hw_model.disk_cache import cached
@cached
def double(x): return 2 * x
print(double(21)); print("from disk" if double.stats.cache_hits else "compiled")
"""


def test_cache_folder_that_cannot_be_used(tmp_path):
    assert without_cache_folder(tmp_path, DOUBLE) == "42\ncompiled\n"


@pytest.mark.full
def test_cost_without_a_cache_folder(tmp_path):
    """The whole cost function, whose compilation takes most of a minute."""
    code = "import hw_model; print(hw_model.evaluate(hw_model.Layer(K=2), {'dram': [['K', 2]]}, 'eyeriss', 8).macs)"
    assert without_cache_folder(tmp_path, code) == "2\n"


@pytest.mark.parametrize("suffix", ["nbc", pytest.param("nbi", marks=pytest.mark.full)])
def test_damaged_cache_is_compiled_anew(tmp_path, suffix):
    """Half of each file is there, as after a power failure; what takes its place is whole."""
    script = tmp_path / "script.py"
    script.write_text(DOUBLE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def said() -> str:
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
        assert done.stdout.startswith("42\n"), done.stderr
        return done.stdout.split("\n")[1]

    assert [said(), said()] == ["compiled", "from disk"]
    (file,) = (tmp_path / "cache").glob(f"*/*.{suffix}")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert [said(), said()] == ["compiled", "from disk"]


def test_import_is_light():
    code = "import hw_model, sys; assert not {'numba', 'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["W", "K", "dram"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(JSON, st.sampled_from(["layer", "device", "bits", "mapping", None]))
def test_fuzz_case_values(value, field):
    """Whatever stands in a field, the answer is a result or an InputError of one line."""
    text = json.dumps(value if field is None else changed(**{field: value}))
    _answer(lambda: results_json(parse_cases(text)))


@FUZZ
@given(st.text(max_size=200) | st.text(alphabet='{}[]":,0123456789.eE-+KCGdram \n', max_size=80))
def test_fuzz_case_text(text):
    _answer(lambda: results_json(parse_cases(text)))


@FUZZ
@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>#'\"\n 0123456789.xyKCdram=", max_size=120))
def test_fuzz_yaml_text(text):
    device = hw_model.load_device("eyeriss168")
    for reader in (_read_device, lambda t: import_mapping(t, device), import_problem):
        _answer(lambda reader=reader: reader(text))


@FUZZ
@given(st.data())
def test_fuzz_device_file(data):
    """The real file with lines dropped, repeated, swapped, cut or overwritten."""
    lines = EYERISS.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        what = data.draw(st.sampled_from(["drop", "repeat", "value", "indent", "cut"]))
        if what == "drop":
            lines[at] = ""
        elif what == "repeat":
            lines.insert(at, lines[at])
        elif what == "indent":
            lines[at] = " " + lines[at]
        elif what == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, 40))]
        else:
            value = data.draw(JSON)
            lines[at] = lines[at].split(":")[0] + ": " + json.dumps(value)
    _answer(lambda: _read_device("\n".join(lines)))


@FUZZ
@given(st.dictionaries(st.sampled_from([*yaml.safe_load(EYERISS)]), JSON, min_size=1, max_size=2), st.integers(1, 32))
def test_fuzz_inline_device(fields, bits):
    case = changed(device={**yaml.safe_load(EYERISS), **fields}, bits=bits)
    _answer(lambda: result(parse_cases(json.dumps(case))))


def _read_device(text):
    from hw_model.device import _build

    data, lines = read_yaml(text, "fuzz.yaml")
    return _build(data, "fuzz.yaml", lines)


def _answer(question):
    try:
        question()
    except hw_model.InputError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 1000
