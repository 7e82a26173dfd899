"""A width per tensor, from the command line to the report."""

import json

import pytest

import automapper
from automapper.__main__ import main
from hw_model import Layer, evaluate
from hw_model.widths import in_words, is_wider, width_order, widths_of
from instantnet.engine.errors import UserError

LAYERS = [Layer(name="conv", K=8, C=4, P=6, Q=6, R=3, S=3, H=6, W=6, pad_top=1, pad_left=1), Layer(name="fc", K=5, C=8)]


@pytest.fixture(scope="module")
def report():
    return automapper.map_network(
        LAYERS, "eyeriss", [8, "w8a4", 4, "w4a8", "w4a4"], budget=300, workers=1, stages=2
    ).to_dict()


def test_sorted_by_activation_then_weight(report):
    assert [row["bits"] for row in report["bit_widths"]] == [4, "w8a4", "w4a8", 8]


def test_a_report_holds_the_cost_at_these_widths(report):
    for row in report["bit_widths"]:
        for layer in row["layers"]:
            assert layer["bits"] == row["bits"]
            cost = evaluate(layer["dims"], layer["mapping"], "eyeriss", layer["bits"])
            assert cost.energy_j == layer["energy_j"] and cost.latency_s == layer["latency_s"]
    json.dumps(report)


def test_no_wider_words_are_cheaper(report):
    """In the sums over the network, where one width is at least another in every tensor."""
    rows = report["bit_widths"]
    for narrow in rows:
        for wide in rows:
            if is_wider(wide["bits"], narrow["bits"]):
                assert narrow["edp_js"] <= wide["edp_js"]


def test_the_command_takes_and_shows_them(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text("- {name: fc, K: 6, C: 4}\n")
    main([str(tmp_path / "layers.yaml"), "--bits", "w4a8,4", "--budget", "50", "--save", str(tmp_path / "out")])
    assert "w4a8" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out/mappings").iterdir()) == ["4bit", "w4a8bit"]
    case = json.loads((tmp_path / "out/mappings/w4a8bit/000.fc.json").read_text())
    assert case["bits"] == "w4a8"
    assert "w4a8" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("bits", ["w4", "w0a8", "w4a64", "abc", "33"])
def test_anything_else_is_refused(bits, tmp_path):
    (tmp_path / "layers.yaml").write_text("- {K: 6}\n")
    with pytest.raises(UserError, match=r"setting bits = .*w4a8"):
        main([str(tmp_path / "layers.yaml"), "--bits", bits, "--save", str(tmp_path / "out")])


def test_order_and_words():
    assert sorted([8, "w4a8", 4, "w8a4"], key=width_order) == [4, "w8a4", "w4a8", 8]
    assert is_wider(8, "w4a8") and not is_wider("w4a8", "w8a4") and not is_wider(8, 8)
    assert in_words(8) == "8 bit" and in_words("w4a8") == "w4a8"
    assert widths_of("w8a8").spec == 8 and widths_of({"W": 4, "I": 8, "O": 8}).spec == "w4a8"
