"""A device file with lists in place of numbers, and a network on every device that these make."""

import json

import numpy as np
import pytest
import yaml

import automapper
import hw_model
from automapper.__main__ import main
from automapper.device_grid import MOST_DEVICES, read_grid
from automapper.device_sweep import pareto_front
from automapper.warm_start import begin_with
from hw_model import InputError, Layer, load_device
from instantnet.engine.errors import UserError, exit_status

LAYERS = [Layer(name="conv", K=8, C=3, P=6, Q=6, R=3, S=3), Layer(name="fc", K=10, C=32)]
GRID = {
    "extends": "eyeriss",
    "name": "grid",
    "array": {"x": [4, 14], "y": 12},
    "levels": {
        "dram": {"read_bandwidth_bits_per_cycle": [28.8, None]},
        "glb": {"size_bits": [8192, 819200], "read_energy_pj_per_bit": [0.1, 0.4]},
    },
    "together": [["levels.glb.size_bits", "levels.glb.read_energy_pj_per_bit"]],
}


@pytest.fixture(scope="module")
def found():
    return automapper.sweep(LAYERS, GRID, [4, 8], budget=60, workers=1)


def test_a_grid_has_every_combination():
    grid = read_grid(GRID)
    assert len(grid) == 8 and len({one.device.name for one in grid}) == 8
    eyeriss = load_device("eyeriss")
    seen = set()
    for one in grid:
        device, values = one.device, one.values
        glb = device.level("glb")
        assert device.array == (values["array.x"], 12) and device.clock_mhz == eyeriss.clock_mhz
        assert glb.partitions[0][1] == values["levels.glb.size_bits"]
        assert glb.read_energy_pj_per_bit["I"] == values["levels.glb.read_energy_pj_per_bit"]
        wide = values["levels.dram.read_bandwidth_bits_per_cycle"]
        assert device.level("dram").read_bandwidth_bits_per_cycle == (np.inf if wide is None else wide)
        assert values["levels.glb.read_energy_pj_per_bit"] == {8192: 0.1, 819200: 0.4}[values["levels.glb.size_bits"]]
        assert one.on_chip_bytes == (values["levels.glb.size_bits"] + (3584 + 192 + 384) * device.pes) / 8
        seen.add(tuple(values.values()))
    assert len(seen) == 8


def test_every_number_of_a_sweep_is_a_sum_over_layers(found):
    """Of mappings no worse than a search of the same layer on the same device finds without baselines."""
    assert len(found["devices"]) == found["of"] == 8 and not found["interrupted"]
    grid = read_grid(GRID)
    for one, device in zip(found["devices"], grid, strict=True):
        assert one["values"] == device.values and one["on_chip_bytes"] == device.on_chip_bytes
        four, eight = one["bit_widths"]["4"], one["bit_widths"]["8"]
        assert four["energy_j"] < eight["energy_j"] and four["edp_js"] == four["energy_j"] * four["latency_s"]
    best = automapper.map_network(LAYERS, "eyeriss", 8, budget=60, workers=1, stages=1, baselines=[])
    (row,) = best.to_dict()["bit_widths"]
    same = {"extends": "eyeriss", "clock_mhz": [200]}
    (alone,) = automapper.sweep(LAYERS, same, 8, budget=2000, workers=1)["devices"]
    assert alone["bit_widths"]["8"]["edp_js"] == pytest.approx(row["multi_cycle"]["edp_js"], rel=0.05)


def test_the_front_is_of_energy_latency_and_bytes(found):
    for bits in ("4", "8"):
        points = [
            (one["bit_widths"][bits]["energy_j"], one["bit_widths"][bits]["latency_s"], one["on_chip_bytes"])
            for one in found["devices"]
        ]
        for one, point in zip(found["devices"], points, strict=True):
            beaten = any(all(a <= b for a, b in zip(other, point, strict=True)) and other != point for other in points)
            assert one["bit_widths"][bits]["on_front"] is not beaten
    assert pareto_front(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 4], [0, 9, 9.0]])).tolist() == [True, True, False, True]


def test_workers_do_not_change_the_result(found):
    again = automapper.sweep(LAYERS, GRID, [4, 8], budget=60, workers=2)
    assert again["devices"] == found["devices"]


@pytest.mark.full
def test_processes_do_not_change_the_result(found):
    again = automapper.sweep(LAYERS, GRID, [4, 8], budget=60, workers=2, backend="loky")
    assert again["devices"] == found["devices"]


def test_as_a_user_runs_it(found, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    (tmp_path / "layers.yaml").write_text("- {name: conv, K: 8, C: 3, P: 6, Q: 6, R: 3, S: 3}\n- {K: 10, C: 32}\n")
    words = [tmp_path / "layers.yaml", "--sweep", tmp_path / "grid.yaml", "--bits", "4,8", "--budget", 60]
    main([*map(str, words), "--workers", "1", "--save", str(tmp_path / "out")])
    written = json.loads((tmp_path / "out/sweep.json").read_text())
    rows = [[one["bit_widths"] for one in sweep["devices"]] for sweep in (written, found)]
    assert rows[0] == rows[1]
    text = capsys.readouterr().out
    front = sum(one["bit_widths"]["4"]["on_front"] for one in written["devices"])
    assert f"4 bit: {front} of 8 devices are beaten by none" in text and "wrote " in text
    page = (tmp_path / "out/sweep.html").read_text()
    assert page.count("<svg") == 4 and "levels.glb.size_bits 8192" in page


def test_a_device_that_does_not_run_the_network_is_named():
    grid = {"extends": "eyeriss", "levels": {"rf": {"size_bits": {"W": 3584, "I": 192, "O": [8, 384]}}}}
    found = automapper.sweep(LAYERS, grid, 8, budget=30, workers=1)
    first, second = found["devices"]
    assert first["error"].startswith("layer conv at 8 bit: rf: O needs") and not first["bit_widths"]
    assert second["bit_widths"]["8"]["on_front"]
    grid["levels"]["rf"]["size_bits"]["O"] = [8]
    with pytest.raises(UserError, match=r"^setting sweep: no device of 1 runs layers; layer conv at 8 bit: rf: O"):
        automapper.sweep(LAYERS, grid, 8, budget=30, workers=1)


def test_interrupted_it_has_the_devices_done(monkeypatch):
    done = []

    def parallel(function, work, *rest):
        if done:
            raise KeyboardInterrupt
        done.append(len(work))
        return [function(*arguments) for arguments in work]

    monkeypatch.setattr("automapper.device_sweep.run_parallel", parallel)
    monkeypatch.setattr("automapper.device_sweep.CHAIN", 2)
    found = automapper.sweep(LAYERS, GRID, 8, budget=10, workers=1)
    assert found["interrupted"] and done == [1] and len(found["devices"]) == 2 and found["of"] == 8


def test_a_device_begins_with_the_mappings_of_those_before_it(monkeypatch):
    seen = []

    def begin(units, known):
        (unit,) = units
        before = known.get(unit.searches[0].problem.layer, ())
        seen.append((unit.device.name, len(before), begin_with(units, known)))

    monkeypatch.setattr("automapper.device_sweep.begin_with", begin)
    monkeypatch.setattr("automapper.device_sweep.CHAIN", 3)
    automapper.sweep(LAYERS[:1], {"extends": "eyeriss", "clock_mhz": [100, 200, 300, 400]}, 8, budget=30, workers=1)
    assert [(known > 0, begun) for _, known, begun in seen] == [(False, 0), (True, 1), (True, 1), (False, 0)]


def with_changes(**fields):
    return {**GRID, **fields}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"extends": "eyeriss"}, "no field has a list of numbers"),
        (with_changes(array={"x": [0, 4]}), "grid with .*array.x = 0.*: device: array.x: expected a whole number"),
        (with_changes(array={"x": list(range(1, 200)), "y": list(range(1, 200))}), f"at most {MOST_DEVICES}"),
        (with_changes(together=[["levels.glb.size"]]), "list in device: together:.*did you mean"),
        (with_changes(together="all"), "together: expected a list of lists"),
        (with_changes(together=[["array.x"], ["array.x"]]), "a field is named twice"),
        (with_changes(array={"x": [4, 8, 14]}, together=[["array.x", "levels.glb.size_bits"]]), "have 3, 2 values"),
    ],
)
def test_a_grid_that_is_none_is_an_error(content, part):
    with pytest.raises(InputError, match=part.replace("10000", "10,000").replace("grid with", "device with")):
        read_grid(content)


BAD = {
    "--sweep none.yaml": "No such file",
    "--sweep {grid} --device eyeriss": "give one of them",
    "--sweep {grid} --pareto": "setting pareto: not with sweep = ",
    "--sweep {grid} --within weight_stationary": "setting within: not with sweep = ",
    "--sweep {grid} --engine random": "setting engine = random",
    "--sweep {grid} --budget 30s": "setting budget = '30s': of a sweep, a number of mappings",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_status_2(words, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    (tmp_path / "layers.yaml").write_text("- {K: 10, C: 32}\n")
    argv = words.format(grid=tmp_path / "grid.yaml").split()
    assert exit_status(lambda: main([str(tmp_path / "layers.yaml"), *argv, "--save", str(tmp_path / "out")])) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert BAD[words] in line


def test_an_evaluated_device_is_the_one_of_its_values():
    """Its numbers are those of hw_model on a file with these values."""
    one = read_grid(GRID)[-1]
    content = {key: value for key, value in GRID.items() if key != "together"} | {
        "array": {"x": 14, "y": 12},
        "levels": {"dram": {"read_bandwidth_bits_per_cycle": None},
                   "glb": {"size_bits": 819200, "read_energy_pj_per_bit": 0.4}},
    }  # fmt: skip
    mapping = {"dram": [["K", 8], ["P", 6], ["C", 3]], "glb": [["Q", 6]], "rf": [["R", 3], ["S", 3]]}
    costs = [hw_model.evaluate(LAYERS[0], mapping, device, 8) for device in (one.device, load_device(content))]
    assert costs[0].to_dict() == costs[1].to_dict()
