"""A device file that changes another."""

import dataclasses
import json

import pytest

import hw_model
from hw_model.__main__ import main


def test_fields_replace():
    base = hw_model.load_device("eyeriss")
    changed = hw_model.load_device({"extends": "eyeriss", "name": "mine", "psum_bits": 24, "array": {"x": 7}})
    assert changed == dataclasses.replace(base, name="mine", psum_bits=24, array=(7, 12))
    assert hw_model.load_device("eyeriss") == base
    lanes = hw_model.load_device({"extends": "simba_like", "array": {"x": 2, "y": 8}})
    assert (lanes.array, lanes.lanes) == ((2, 8), 64)


def test_levels_by_name():
    device = hw_model.load_device({"extends": "gemmini", "levels": {"scratchpad": {"size_bits": 2097152}}})
    assert device.level("scratchpad").partitions == ((("W", "I"), 2097152),)
    assert device.level("accumulator") == hw_model.load_device("gemmini").level("accumulator")
    bandwidth = {"read_bandwidth_bits_per_cycle": None}
    device = hw_model.load_device({"extends": "gemmini", "levels": {"dram": bandwidth}})
    assert device.levels[0].read_bandwidth_bits_per_cycle == float("inf")


def test_levels_as_a_list_replace_all():
    only = {"name": "dram", "holds": ["W", "I", "O"], "read_energy_pj_per_bit": 1, "write_energy_pj_per_bit": 1}
    assert hw_model.load_device({"extends": "eyeriss", "levels": [only]}).level_names == ("dram",)


def test_the_network_energy_is_given_in_one_way():
    per_bit = hw_model.load_device({"extends": "gemmini", "network": {"energy_pj_per_bit": 0.5}})
    assert per_bit.network_energy_pj_per_bit == 0.5
    hops = {"energy_pj_per_bit_hop": 0.5, "hops": 3, "multicast": False}
    per_hop = hw_model.load_device({"extends": "eyeriss", "network": hops})
    assert per_hop.network_energy_pj_per_bit == 1.5 and not per_hop.multicast and per_hop.spatial_reduction


def test_files_and_chains(tmp_path, monkeypatch):
    (tmp_path / "one.yaml").write_text("extends: gemmini\nname: one\narray: {x: 8, y: 8}\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\npsum_bits: 24\n")
    two = hw_model.load_device(tmp_path / "two.yaml")  # the path is that of the file that names it
    assert (two.name, two.array, two.psum_bits) == ("one", (8, 8), 24)
    monkeypatch.chdir(tmp_path)
    assert hw_model.load_device({"extends": "two.yaml"}) == two
    assert hw_model.load_device("extends: two.yaml\nclock_mhz: 500\n").clock_mhz == 500


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extends": "gemini"}, "unknown device in extends of device: 'gemini', did you mean 'gemmini'"),
        ({"extends": "none.yaml"}, "extends: 'none.yaml': no such file"),
        ({"extends": 3}, "extends: expected the name or the path of a device, got 3"),
        ({"extends": "gemmini", "levels": {"glb": {}}}, "unknown level of device gemmini in device: levels: 'glb'"),
        ({"extends": "gemmini", "levels": {"pe": 3}}, "device: levels.pe: expected an object of fields, got 3"),
        ({"extends": "gemmini", "colour": 3}, "unknown field 'colour'"),
        ({"extends": "gemmini", "levels": {"pe": {"size": 3}}}, "unknown field 'size', did you mean 'size_bits'"),
        ({"extends": "gemmini", "array": {"x": 0}}, "array.x: expected a whole number from 1 to 65536, got 0"),
        ({"extends": "gemmini", "array": 3}, "array: expected the PE array"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(hw_model.InputError) as error:
        hw_model.load_device(fields)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_devices_that_extend_each_other(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    (tmp_path / "self.yaml").write_text("extends: self.yaml\n")
    for name in ("a.yaml", "self.yaml"):
        with pytest.raises(hw_model.InputError, match="extends itself"):
            hw_model.load_device(tmp_path / name)


def test_a_case(tmp_path, capsys):
    """Also of a file beside the case."""
    (tmp_path / "mine.yaml").write_text("extends: gemmini\nname: mine\n")
    for base in ("gemmini", "mine.yaml"):
        device = {"extends": base, "array": {"x": 32, "y": 32}, "levels": {"scratchpad": {"size_bits": 4096}}}
        case = {"layer": {"K": 32, "C": 64}, "device": device, "bits": 8,
                "mapping": {"dram": [["C", 2]], "spatial_x": [["K", 32]], "spatial_y": [["C", 32]]}}  # fmt: skip
        (tmp_path / "case.json").write_text(json.dumps(case))
        assert main([str(tmp_path / "case.json"), "--json"]) == 1
        (reason,) = json.loads(capsys.readouterr().out)["reasons"]
        assert reason.startswith("scratchpad: W+I needs 8448 bits")
        case["device"]["levels"]["scratchpad"]["size_bits"] = 8448
        (tmp_path / "case.json").write_text(json.dumps(case))
        assert main([str(tmp_path / "case.json"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["active_pes"] == 1024
