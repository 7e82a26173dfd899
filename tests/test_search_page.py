"""docs/search.md from top to bottom: every command in its order, on a tiny network and for a moment."""

import json

from test_page_commands import QUICK, TINY, blocks, words_of
from tiny_runs import ROOT, TINY_NETWORK, load, run_here

import automapper.__main__ as mapper
from automapper.candidates import GEOMETRY
from instantnet import table, train, train_search

SIZES = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0][2:] in GEOMETRY for word in pair]
STAGES = {
    "instantnet table": (table, [*SIZES, "--budget", "1", "--workers", "1"]),
    "python train_search.py": (train_search, [*TINY, "--efficiency_budget", "1"]),
    "python train.py": (train, TINY),
    "python -m": (mapper, QUICK),
}


def test_from_a_device_file_to_a_network_on_it(tmp_path, monkeypatch, capsys):
    assert TINY_NETWORK[0] == "--num_layer_list"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = blocks(ROOT / "docs/search.md")
    (device,) = [block.text for block in page if block.text.startswith("# my_chip.yaml")]
    (tmp_path / "my_chip.yaml").write_text(device)
    commands = [line for block in page if block.language == "sh" for line in block.text.splitlines()]
    ran = []
    assert "--fuse strips" in commands[5] and commands[6].startswith("python train_search.py")
    for line in [*commands[:4], *commands[5:7]]:
        words = words_of(line)
        stage, smaller = STAGES[" ".join(words[:2])]
        given = words[3:] if stage is mapper else words[2:]
        assert run_here(stage, *given, *smaller) == 0, capsys.readouterr().err
        ran.append(stage)
    assert ran == [table, train_search, train, mapper, table, train_search]
    assert json.loads((tmp_path / "my_chip.json").read_text())["device"] == "my_chip.yaml"
    text = capsys.readouterr().out
    assert "EDP on my_chip.yaml at 4 bit: networks of this space have " in text
    found = load(tmp_path / "ckpt/chip/search/arch.pt")["efficiency"]
    assert (found["metric"], found["device"], set(found["bits"])) == ("edp", "my_chip.yaml", {4})
    fused = load(tmp_path / "ckpt/fused/search/arch.pt")["efficiency"]
    assert (fused["device"], fused["fuse"]) == ("eyeriss", "strips") and "fuse" not in found
    assert "EDP on eyeriss at 4 bit, layers fused within each operation: networks" in text
    report = json.loads((tmp_path / "ckpt/chip/map/report.json").read_text())
    assert report["device_name"] == "my_chip" and report["bit_widths"][0]["bits"] == 4
