"""The published Eyeriss mappings: active PEs as the chip's paper says, and never better than what the mapper finds."""

import json

import pytest

import hw_model
from automapper.__main__ import main
from automapper.evolve import Evolution
from automapper.published import ALEXNET, NAME, is_published, published_mappings

CHIP_ACTIVE_PES = [154, 135, 156, 156, 156]  # JSSC 2017, table V


@pytest.mark.parametrize(("index", "batch"), [(i, n) for i in range(5) for n in (1, 4)])
def test_active_pes_of_the_chip(index, batch):
    layer = hw_model.Layer.from_dict({**ALEXNET[index].layer.to_dict(), "N": batch})
    (mapping,) = published_mappings(layer, hw_model.load_device("eyeriss"))
    cost = hw_model.evaluate(layer, mapping, "eyeriss", 16)
    folded = 140 if index == 1 else CHIP_ACTIVE_PES[index]  # 27 rows folded to 2 x 14
    assert cost.active_pes == folded


def test_other_layers_and_devices_have_none():
    eyeriss = hw_model.load_device("eyeriss")
    assert published_mappings(hw_model.Layer(K=384, C=256, P=13, Q=13, R=3, S=3, stride=2), eyeriss) == []
    assert published_mappings(hw_model.Layer(K=384, C=256, P=13, Q=13, R=3, S=3, dilation_w=2), eyeriss) == []
    assert published_mappings(hw_model.Layer(K=384, C=256, P=13, Q=13, R=3, S=3, stride_h=2), eyeriss) == []
    assert published_mappings(hw_model.Layer(G=256, P=13, Q=13, R=3, S=3), eyeriss) == []  # depth-wise
    assert published_mappings(ALEXNET[2].layer, hw_model.load_device("simple256")) == []


# torchvision's AlexNet: other channels than the chip ran, no groups
TORCHVISION = [
    (64, 3, 55, 11, 4), (192, 64, 27, 5, 1), (384, 192, 13, 3, 1), (256, 384, 13, 3, 1), (256, 256, 13, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize("index", range(5))
def test_adapted_to_other_channels_it_keeps_the_strips_and_filters_of_the_chip(index):
    K, C, P, R, stride = TORCHVISION[index]
    layer = hw_model.Layer(K=K, C=C, P=P, Q=P, R=R, S=R, stride=stride)
    adapted = published_mappings(layer, hw_model.load_device("eyeriss"))
    own = published_mappings(ALEXNET[index].layer, hw_model.load_device("eyeriss"))
    assert not is_published(layer) and is_published(ALEXNET[index].layer)
    assert own[0]["rf"] in [mapping["rf"] for mapping in adapted]
    for mapping in adapted:
        cost = hw_model.evaluate(layer, mapping, "eyeriss", 16)
        assert cost.active_pes == (140 if index == 1 else CHIP_ACTIVE_PES[index])
        assert cost.padded_macs <= layer.macs * 56 / 55 * 1.04  # strips and sets that do not divide, no more


def test_what_a_small_layer_has_less_of_is_cut():
    layer = hw_model.Layer(K=10, C=2, P=13, Q=13, R=3, S=3)
    for mapping in published_mappings(layer, hw_model.load_device("eyeriss")):
        cost = hw_model.evaluate(layer, mapping, "eyeriss", 16)
        assert cost.padded_macs == layer.macs


def test_in_the_report(tmp_path):
    layers = [{**one.layer.to_dict(), "name": f"CONV{i}"} for i, one in enumerate(ALEXNET, 1)]
    (tmp_path / "alexnet.yaml").write_text(json.dumps(layers))
    words = ["--network", str(tmp_path / "alexnet.yaml"), "--batch", "4", "--bits", "16,32", "--budget", "500"]
    main([*words, "--stages", "1", "--fuse", "off", "--baselines", "eyeriss_published", "--save", str(tmp_path)])
    at_16, at_32 = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    assert at_16["edp_js"] <= at_16["baselines"][NAME]["edp_js"]
    assert all(layer["edp_js"] <= layer["baselines"][NAME]["edp_js"] for layer in at_16["layers"])
    assert NAME not in at_32["baselines"]  # 32-bit words do not fit the chip's registers with it
    assert "eyeriss-published" in (tmp_path / "report.html").read_text()


def test_sums_over_the_layers_that_have_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Evolution, "gaps", lambda self, index: (0.0, 0.0))  # the sums are what is tested
    layers = [
        {"name": "conv", "K": 192, "C": 64, "P": 27, "Q": 27, "R": 5, "S": 5},
        {"name": "fc", "K": 10, "C": 192},
        {"name": "conv5", **ALEXNET[4].layer.to_dict()},
    ]
    (tmp_path / "layers.yaml").write_text(json.dumps(layers))
    words = ["--network", str(tmp_path / "layers.yaml"), "--bits", "8,32", "--budget", "1000", "--stages", "1"]
    main([*words, "--save", str(tmp_path)])
    at_8, at_32 = json.loads((tmp_path / "report.json").read_text())["bit_widths"]
    baseline, (conv, fc, conv5) = at_8["baselines"][NAME], at_8["layers"]
    assert (baseline["layers_covered"], baseline["layers"]) == (2, 3)
    assert NAME not in fc["baselines"]
    assert conv["baselines"][NAME]["adapted"] and not conv5["baselines"][NAME]["adapted"]
    covered = baseline["covered"]
    for name in ("energy_j", "latency_s"):
        theirs = sum(layer["baselines"][NAME][name] for layer in (conv, conv5))
        assert covered[name] == pytest.approx(theirs)
        assert covered["automapper"][name] == pytest.approx(conv[name] + conv5[name])
        assert baseline[name] == pytest.approx(theirs + fc[name])  # AutoMapper's where nothing is published
    for own, other in ((covered["automapper"], covered), (at_8, baseline)):
        ratio = own["edp_js"] / other["edp_js"]
        assert other["edp_improvement_percent"] == pytest.approx(100 * (1 - ratio)) and ratio <= 1
    assert NAME not in at_32["baselines"]
    text = capsys.readouterr().out
    assert "% (2 of 3 layers)" in text
    assert "gain over 2 of 3 layers" in text and "nothing is published for the filter and output size of fc" in text
    assert "adapted from AlexNet's layers to conv" in text
    assert "eyeriss-published at 32 bit: none: the chip's tiles are for words of up to 16 bit" in text
    page = (tmp_path / "report.html").read_text()
    assert "2 of 3 layers" in page and "eyeriss-published, adapted" in page


def test_a_device_unlike_eyeriss_is_named(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text("[{K: 4, C: 4}]")
    words = ["--network", str(tmp_path / "layers.yaml"), "--bits", "8", "--budget", "100", "--device", "simple256"]
    main([*words, "--save", str(tmp_path)])
    assert "eyeriss-published: none: needs Eyeriss' memories (dram, glb, rf) and 14 x 12 PEs" in capsys.readouterr().out
