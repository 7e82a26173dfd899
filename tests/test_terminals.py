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

from instantnet.engine.checkpoint import save_checkpoint

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


@pytest.fixture
def here(tmp_path):
    """A folder with images, an architecture and a layer, whose names no ASCII terminal can show."""
    here = tmp_path / NAME
    for part, count in (("train", 12), ("test", 4)):
        for name in (f"{NAME} 1", "plain"):
            (here / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                colour = (number * 9, 100 if name == "plain" else 200, 30)
                Image.new("RGB", (8, 8), colour).save(here / "images" / part / name / f"{NAME}{number}.png")
    (here / "search").mkdir()
    save_checkpoint(here / "search" / "arch.pt", {"ops": ["k3_e1", "k3_e1"]})
    (here / "layers.yaml").write_text(f"- {{name: '{NAME}', K: 16, C: 8}}\n", encoding="utf-8")
    (here / "case.json").write_text(json.dumps(CASE, ensure_ascii=False), encoding="utf-8")
    return here


SAMPLE = ("map", "cost")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SAMPLE else pytest.mark.full) for n in COMMANDS])
def test_a_terminal_that_is_not_of_utf_8(here, name):
    size = ["--image_height", "8", "--image_width", "8", "--num_workers", "0"]
    trains = ["--dataset", "image_folder", "--dataset_path", here / "images", *size, *TRAINS]
    fast = ["--bits", "8", "--budget", "20", "--stages", "1"]
    words, said = {
        "search": ([*trains, "--save", here / "out"], "K\\udcc3\\udca4se"),  # as Python reads such a terminal's words
        "train": ([*trains, "--load_path", here / "search", "--save", here / "out"], "\\udce2"),
        "map": ([here / "layers.yaml", *fast, "--save", here / "out"], "\\udce2"),
        "cost": ([here / "case.json"], "K\\xe4se"),
        "experiments": (["--out", here / "results"], "smoke"),
    }[name]
    assert said in run(here, *COMMANDS[name], *words)[0]
    product = {"search": "arch.pt", "train": "weights.pt", "map": "report.html"}.get(name)
    assert product is None or (here / "out" / product).is_file()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (n == "experiments")) for n in COMMANDS])
def test_a_mistake_in_such_a_terminal_is_one_line(here, name):
    wrong = [here / "none.json"] if name == "cost" else [f"--{NAME}", "1"]
    assert run(here, *COMMANDS[name], *wrong, status=2)[1].count("\n") == 1


@pytest.mark.full
def test_an_experiment_in_such_a_terminal(tmp_path):
    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", tmp_path / NAME, "--work", tmp_path / f"{NAME} w"]
    assert "[1/1]" in run(tmp_path, *COMMANDS["experiments"], *words)[0]


# --- Ctrl-C while modules load


@pytest.mark.sample(5)
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
    unready = process.returncode == -signal.SIGINT and not errors  # no handler of Python's was there yet
    if unready or ("Traceback" in errors and "__main__.py" not in errors):
        pytest.skip("a busy machine: Python itself was still starting, and had not come to the command's first line")
    assert "Traceback" not in errors and "Error" not in errors, errors
    assert process.returncode in ((130, 0) if name in ("cost", "map") else (130,)), errors
