"""The commands on a terminal that is not of UTF-8, and stopped by Ctrl-C while they load their modules."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from tiny_runs import ROOT, TINY_NETWORK

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "Käse \N{GREEK SMALL LETTER ALPHA} \N{SNOWMAN}"
TRAINS = [*TINY_NETWORK, "--device", "cpu", "--nepochs", "1", "--max_steps", "2", "--batch_size", "4"]
MAPPING = {"dram": [["K", 16], ["C", 8]]}
CASE = {"layer": {"name": NAME, "K": 16, "C": 8}, "device": "eyeriss", "bits": 8, "mapping": MAPPING}
COMMANDS = {
    "search": ["-m", "instantnet", "search"],
    "train": ["-m", "instantnet", "train"],
    "map": ["-m", "instantnet", "map"],
    "cost": ["-m", "instantnet", "cost"],
    "experiments": ["-m", "experiments"],
}


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(folder, *words, status=0):
    """The command's output, which is ASCII, in `folder`; names of files are UTF-8 all the same."""
    command = [sys.executable, *map(os.fsencode, map(str, words))]
    result = subprocess.run(command, cwd=folder, env=environment(**ASCII), capture_output=True, timeout=600)
    assert result.returncode == status, result.stderr.decode()
    assert b"Traceback" not in result.stderr and (result.stdout + result.stderr).isascii()
    return result.stdout.decode(), result.stderr.decode()


def test_a_terminal_that_is_not_of_utf_8(tmp_path):
    """Every command, on folders, classes and layers whose names no ASCII terminal can show."""
    here = tmp_path / NAME
    for part, count in (("train", 12), ("test", 4)):
        for name in (f"{NAME} 1", "plain"):
            (here / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                colour = (number * 9, 100 if name == "plain" else 200, 30)
                Image.new("RGB", (8, 8), colour).save(here / "images" / part / name / f"{NAME}{number}.png")
    size = ["--image_height", "8", "--image_width", "8", "--num_workers", "0"]
    trains = ["--dataset", "image_folder", "--dataset_path", here / "images", *size, *TRAINS]
    out, _ = run(here, *COMMANDS["search"], *trains, "--save", here / "search")
    assert "wrote" in out and "K\\udcc3\\udca4se" in out  # as Python reads the words of such a terminal
    out, _ = run(here, *COMMANDS["train"], *trains, "--load_path", here / "search", "--save", here / "train")
    assert "\\udce2" in out and (here / "train" / "weights.pt").is_file()
    (here / "layers.yaml").write_text(f"- {{name: '{NAME}', K: 16, C: 8}}\n", encoding="utf-8")
    fast = ["--bits", "8", "--budget", "20", "--stages", "1", "--save", here / "map"]
    out, _ = run(here, *COMMANDS["map"], here / "layers.yaml", *fast)
    assert "\\udce2" in out and (here / "map" / "report.html").is_file()
    (here / "case.json").write_text(json.dumps(CASE, ensure_ascii=False), encoding="utf-8")
    assert "K\\xe4se" in run(here, *COMMANDS["cost"], here / "case.json")[0]
    assert "smoke" in run(here, *COMMANDS["experiments"], "--out", here / "results")[0]
    for name in COMMANDS:
        wrong = [here / "none.json"] if name == "cost" else [f"--{NAME}", "1"]
        assert run(here, *COMMANDS[name], *wrong, status=2)[1].count("\n") == 1


def test_an_experiment_in_such_a_terminal(tmp_path):
    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", tmp_path / NAME, "--work", tmp_path / f"{NAME} w"]
    assert "[1/1]" in run(tmp_path, *COMMANDS["experiments"], *words)[0]


# --- Ctrl-C while modules load


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5])
def test_ctrl_c_while_a_command_loads(name, seconds, tmp_path):
    """Wherever the signal finds it: one line and status 130; or it was done. The mapper ends with the best so far."""
    words = {
        "search": ["--preset", "digits", *TRAINS, "--nepochs", "1000", "--save", tmp_path / "out"],
        "train": ["--preset", "digits", "--network", "resnet38", "--device", "cpu", "--save", tmp_path / "out"],
        "map": ["--network", "alexnet", "--budget", "60s", "--save", tmp_path / "out"],
        "cost": [tmp_path / "case.json"],
        "experiments": ["cdt", "--smoke", "--out", tmp_path / "results", "--work", tmp_path / "work"],
    }[name]
    (tmp_path / "case.json").write_text(json.dumps([CASE]))
    command = [sys.executable, *COMMANDS[name], *map(str, words)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        errors = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    unready = process.returncode == -signal.SIGINT and not errors  # Python had no handler of its own yet
    if unready or ("Traceback" in errors and "__main__.py" not in errors):
        pytest.skip("a busy machine: Python itself was still starting, and had not come to the command's first line")
    assert "Traceback" not in errors and "Error" not in errors, errors
    assert process.returncode in ((130, 0) if name in ("cost", "map") else (130,)), errors
