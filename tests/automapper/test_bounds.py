"""Layers, devices and objectives at the edge of what is legal: they work, or are one line of error."""

import json
import re

import pytest
from tiny_runs import ROOT

import automapper.__main__ as mapper
from instantnet.engine.errors import exit_status


def mapped(tmp_path, layers: str, *words: str) -> int:
    (tmp_path / "layers.yaml").write_text(layers)
    words = (str(tmp_path / "layers.yaml"), "--bits", "8", "--budget", "100", "--save", str(tmp_path / "map"), *words)
    return exit_status(lambda: mapper.main(words))


@pytest.mark.parametrize("dim", ["K", "C", "P", "N", "G"])
def test_the_largest_size_is_mapped(tmp_path, dim):
    assert mapped(tmp_path, f"- {{{dim}: 2147483647}}\n") == 0


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        ("- {R: 2147483647}\n", "2,147,483,647"),
        ("- {K: 2}\n" * 1001, "1,001 layers"),
        (f"- {{name: {'x' * 2000}}}", "2,000"),
    ],
)
def test_beyond_the_limits_is_one_line(tmp_path, capsys, layers, part):
    assert mapped(tmp_path, layers) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1


@pytest.mark.parametrize("energy", ["0", "1.0e-320"])
def test_a_device_without_energies(tmp_path, energy):
    text = (ROOT / "hw_model/devices/eyeriss.yaml").read_text()
    (tmp_path / "free.yaml").write_text(re.sub(r"(energy\w*: )[0-9.e+-]+", rf"\g<1>{energy}", text))
    assert mapped(tmp_path, "- {K: 64, C: 16}\n", "--device", str(tmp_path / "free.yaml")) == 0


@pytest.mark.parametrize(("objective", "status"), [("energy=8,latency=8", 0), ("energy=50,latency=50", 2)])
def test_objectives_of_large_weights(tmp_path, capsys, objective, status):
    assert mapped(tmp_path, "- {K: 64, C: 16}\n", "--objective", objective) == status
    assert capsys.readouterr().err.count("\n") == (1 if status else 0)


def test_names_reach_terminal_and_files_escaped(tmp_path, capsys):
    name = "\\e[31mred\\u202e" + "y" * 300
    assert mapped(tmp_path, f'- {{name: "{name}", K: 4}}\n') == 0
    files = [path for path in (tmp_path / "map").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    written = [path.read_text() for path in files]
    assert not any(code in text for code in "\x1b\u202e" for text in [capsys.readouterr().out, *written])
    report = json.loads((tmp_path / "map" / "report.json").read_text())
    assert report["bit_widths"][0]["layers"][0]["name"].startswith("\\x1b[31mred\\u202e")
