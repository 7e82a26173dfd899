"""`--jobs`: processes side by side over one results folder, with the images decoded once for all of them."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from process_groups import STARTS, forked_script
from tiny_runs import ROOT

from experiments import jobs, slots, stages
from experiments.command import store_of
from experiments.jobs import Ended, together
from experiments.options import Worker, parse
from experiments.runs import Run
from experiments.scales import CIFAR_GPU, SMOKE
from experiments.shards import TimeLimit, work_through
from experiments.store import Store
from instantnet.data import examination
from instantnet.engine.errors import UserError, exit_status

PYTHON = [sys.executable, "-c"]


# --- processes


def test_one_that_fails_leaves_the_others_alone_and_is_named(tmp_path):
    kills_itself = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    writes = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('done')"
    ended = together(
        [[*PYTHON, "raise SystemExit(3)"], [*PYTHON, kills_itself], [*PYTHON, writes, str(tmp_path / "file")]],
        os.environ,
    )
    assert ended == Ended([3, -signal.SIGKILL, 0], 0)
    assert ended.failures() == ["worker 1 of 3 ended with status 3", "worker 2 of 3 killed by SIGKILL"]
    assert (tmp_path / "file").read_text() == "done"


WAITS = """
import pathlib, signal, sys
def note(number, frame):
    path.with_suffix(".told").write_text(signal.Signals(number).name)
    sys.exit(128 + number)
path = pathlib.Path(sys.argv[1])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
path.touch()
while True:
    signal.pause()
"""
STOPS_ITS_PARENT = """
import os, pathlib, sys, time
while len(list(pathlib.Path(sys.argv[1]).glob("*.up"))) < 2:
    time.sleep(0.01)
os.kill(os.getppid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_to_all_and_they_are_waited_for(number, tmp_path):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    waiting = [[*PYTHON, WAITS, str(tmp_path / f"{index}.up")] for index in range(2)]
    ended = together([*waiting, [*PYTHON, STOPS_ITS_PARENT, str(tmp_path), str(int(number))]], os.environ)
    assert ended.stopped == number and ended.statuses[:2] == [128 + number] * 2
    assert ended.failures() == [], "they were asked to"
    assert [path.read_text() for path in sorted(tmp_path.glob("*.told"))] == [number.name] * 2
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_worker_ends_when_its_parent_is_gone():
    script = "import signal; from experiments.jobs import end_with_parent; end_with_parent(); signal.pause()"
    worker = subprocess.Popen([*PYTHON, script], cwd=ROOT, stdin=subprocess.PIPE)
    worker.stdin.close()
    assert worker.wait() == -signal.SIGTERM


def test_a_worker_is_told_who_it_is():
    worker = Worker(2, 16, 1234.5678901234567)
    assert Worker.parse(str(worker)) == worker


def test_the_minutes_of_all_workers_began_with_the_command():
    assert TimeLimit(1.0, begun=1e12).allows(0) and not TimeLimit(1.0, begun=-1e12).allows(0)


def test_a_run_that_ended_another_worker_is_left_alone_and_so_is_what_needs_it(tmp_path, monkeypatch):
    """However soon the other one ended there, and even where it was killed; another command does it again."""
    stages_begun = []

    def stage(words):
        stages_begun.append(words[words.index("--save") + 1].rpartition("/")[2])
        if stages_begun[-1] == "bad":
            raise MemoryError

    for name in ("search", "train"):
        monkeypatch.setitem(stages.STAGES, name, stage)
        monkeypatch.setitem(stages.RESULT_OF, name, lambda folder: {})
    monkeypatch.setattr("experiments.store.settings_of", lambda folder, stage: {})
    bad = Run("search", "bad")
    runs = [bad, Run("train", "good"), Run("train", "needs_it", settings={"load_path": bad}), Run("train", "last")]

    def worker(command):
        store = Store("smoke", tmp_path / "results", tmp_path / "work")
        store.command = command
        return [each.run.name for each in work_through(store, SMOKE, runs, TimeLimit(None), waits=False)]

    with pytest.raises(MemoryError):
        worker("this")
    assert worker("this") == ["good", "last"] and stages_begun == ["bad", "good", "last"]
    with pytest.raises(MemoryError):
        worker("another")


def runs_stored(folder):
    entries = map(json.loads, (folder / "smoke.jsonl").read_text().splitlines())
    return {entry["name"]: entry for entry in entries if "name" in entry}


@pytest.mark.parametrize(
    "only, count, again",
    [("*mobilenet*/[cn]*", 3, []), pytest.param("*mobilenet*", 6, ["--jobs", "2"], marks=pytest.mark.full)],
)
def test_two_workers_do_every_run_once_and_one_that_cannot_be_done_is_named(tmp_path, only, count, again):
    """count: of the runs that are asked for; again: how the command is given a second time."""
    words = ["-m", "experiments", "cdt", "--smoke", "--only", only]
    words += ["--out", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    in_the_way = tmp_path / "work" / "smoke" / "train" / "mobilenet_v2" / "2-32" / "none"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("")
    first = forked_script(*words, "--jobs", "2")
    assert first.status == 1, first.err
    assert "of 2 fails, at train/mobilenet_v2/2-32/none/seed1:" in first.err and "of 2 ended with status 2" in first.err
    names = [line.split()[1].rstrip(":") for line in first.out.splitlines() if line.startswith("[")]
    stored = runs_stored(tmp_path / "results")
    assert sorted(names) == sorted(stored) and len(stored) == count - 1
    assert f"1 of the {count} runs are left" in first.out and first.out.count("| teachers |") == 1
    origins = [json.loads(line)["content"] for line in (tmp_path / "results" / "smoke.jsonl").read_text().splitlines()
               if '"threads"' in line]  # fmt: skip
    assert [origin["threads"] for origin in origins] == [1]
    in_the_way.unlink()
    second = forked_script(*words, *again)
    assert second.status == 0, second.err
    lines = [line for line in second.out.splitlines() if line.startswith("[")]
    assert len(lines) == count and sum("(stored)" in line for line in lines) == count - 1
    (new,) = [line for line in lines if "(stored)" not in line]
    assert f"{count}] train/mobilenet_v2/2-32/none/seed1: " in new and (not again or lines[-1] == new)


@pytest.mark.parametrize("start", STARTS)
def test_a_command_without_time_starts_no_run(tmp_path, start):
    words = ["-m", "experiments", "cdt", "--smoke", "--only", "*mobilenet*none*", "--jobs", "1", "--minutes", "0.001"]
    result = start(*words, "--out", str(tmp_path / "results"), "--work", str(tmp_path / "work"))
    assert result.status == 0 and "1 of the 1 runs are left" in result.out
    assert not (tmp_path / "results" / "smoke.jsonl").exists()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "99999"])
def test_a_number_of_processes_that_cannot_be_is_refused(text, capsys):
    assert exit_status(lambda: parse(["cdt", "--jobs", text])) == 2
    assert f"{text!r} is no number of processes" in capsys.readouterr().err


# --- images


@pytest.fixture
def images(tmp_path):
    """A folder as of CIFAR-10, with three images of a class to train on and two to test."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for label in range(10):
            (tmp_path / "cifar" / part / str(label)).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                picture.save(tmp_path / "cifar" / part / str(label) / f"{number}.jpg", quality=75)
    return tmp_path / "cifar"


def tiny(**settings):
    """The scale with slots of a few small images for a CPU: A reads 3 and 2 of each class, B 2 and 1."""
    a, b, *_ = CIFAR_GPU.slots
    rows = {"networks": ("mobilenet_v2",), "rows": ("none", "cascade"), "seeds": 2, "epochs": 1}
    parts = replace(a, images_per_class=(3, 2), **rows), replace(b, images_per_class=(2, 1), **rows)
    small = {
        "device": "cpu",
        "cuda_graph": False,
        "image_height": 16,
        "image_width": 16,
        "batch_size": 16,
        "num_threads": 1,
    }
    networks = {"mobilenet_v2": {"width_mult": 0.125}}
    return replace(CIFAR_GPU, slots=parts, networks=networks, settings={**small, **settings})


@pytest.mark.parametrize("rows", [("none",), pytest.param(("none", "cascade"), marks=pytest.mark.full)])
def test_images_are_decoded_by_the_parent_alone_with_the_same_result(images, tmp_path, monkeypatch, rows):
    scale = tiny()
    scale = replace(scale, slots=tuple(replace(slot, rows=rows) for slot in scale.slots))
    planned = slots.runs(scale, (1,))
    words = ["cdt", "--scale", "cifar_gpu", "--data", str(images)]
    folders = ["--out", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    store = store_of(parse([*words, *folders]), scale, planned)
    expected = store.perform(planned[1])["result"]  # before the cache is filled: it decodes, and fills it

    folders = ["--out", str(tmp_path / "results2"), "--work", str(tmp_path / "work2")]
    store = store_of(parse([*words, *folders]), scale, planned)
    jobs.decode_once(store, planned)
    assert len(list(store.image_cache.glob("*.pt"))) == 2, "a file for each slot's images"
    monkeypatch.setattr(examination, "read_picture", lambda *_, **__: pytest.fail("it decodes again"))
    kept = [store.perform(run) for run in planned]
    assert kept[1]["result"] == expected and len(kept) == 2 * len(rows)
    assert str(tmp_path) not in json.dumps(kept), "no path of this machine"
    assert [run["settings"]["loss_reduction"] for run in kept] == ["sum"] * len(kept)


def test_only_the_images_of_the_runs_asked_for_are_linked(images, tmp_path):
    scale = tiny()
    words = [
        "cdt",
        "--scale",
        "cifar_gpu",
        "--data",
        str(images),
        "--out",
        str(tmp_path / "r"),
        "--work",
        str(tmp_path),
    ]
    store = store_of(parse(words), scale, [run for run in slots.runs(scale, (1,)) if "/B/" in run.name])
    assert sorted(os.listdir(tmp_path / "images")) == ["cifar_2_1"]
    folder = Path(store.here("{data}_2_1"))
    assert len(list(folder.rglob("*.jpg"))) == 30


def test_images_are_asked_for_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="--data"):
        jobs.decode_once(Store("cifar_gpu", tmp_path, tmp_path), slots.runs(CIFAR_GPU, (1,)))
