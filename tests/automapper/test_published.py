"""The published Eyeriss mappings: active PEs as the chip's paper says, and never better than what the mapper finds."""

import json

import pytest

import hw_model
from automapper.__main__ import main
from automapper.published import ALEXNET, NAME, published_mapping

CHIP_ACTIVE_PES = [154, 135, 156, 156, 156]  # JSSC 2017, table V


@pytest.mark.parametrize(("index", "batch"), [(i, n) for i in range(5) for n in (1, 4)])
def test_active_pes_of_the_chip(index, batch):
    layer = hw_model.Layer.from_dict({**ALEXNET[index].layer.to_dict(), "N": batch})
    cost = hw_model.evaluate(layer, published_mapping(layer, hw_model.load_device("eyeriss")), "eyeriss", 16)
    folded = 140 if index == 1 else CHIP_ACTIVE_PES[index]  # 27 rows folded to 2 x 14
    assert cost.active_pes == folded


def test_other_layers_and_devices_have_none():
    layer = ALEXNET[2].layer
    assert published_mapping(hw_model.Layer(K=384, C=256, P=13, Q=13, R=3, S=3, stride=2), "eyeriss") is None
    assert published_mapping(layer, hw_model.load_device("simple256")) is None


def test_in_the_report(tmp_path):
    layers = [{**one.layer.to_dict(), "name": f"CONV{i}"} for i, one in enumerate(ALEXNET, 1)]
    (tmp_path / "alexnet.yaml").write_text(json.dumps(layers))
    words = ["--network", str(tmp_path / "alexnet.yaml"), "--batch", "4", "--bits", "16,32", "--budget", "2000"]
    main([*words, "--stages", "1", "--save", str(tmp_path)])
    at_16, at_32 = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    assert at_16["edp_js"] <= at_16["baselines"][NAME]["edp_js"]
    assert all(layer["edp_js"] <= layer["baselines"][NAME]["edp_js"] for layer in at_16["layers"])
    assert NAME not in at_32["baselines"]  # 32-bit words do not fit the chip's registers with it
    assert "eyeriss-published" in (tmp_path / "report.html").read_text()
