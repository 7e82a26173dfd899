"""Stop and resume, both stages: whatever ends a run, and wherever, the resumed one gives the undisturbed result."""

import contextlib
import itertools
import json
import os
import random
import resource
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_runs import ONE_LAYER, ROOT, SHORT_SEARCH, SHORT_TRAINING, contents, load, run_here, same_tensors

from instantnet import recalibration, searching, train, train_search
from instantnet.engine import log as log_file
from instantnet.engine import run as run_module
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import Stopped, UserError
from instantnet.engine.folders import owned
from instantnet.engine.log import RunLog, SilentLog
from instantnet.engine.resume import Checkpoints, Position
from instantnet.engine.stopping import StopRequest


def epochs(folder):
    """metrics.jsonl but for the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


def events(folder):
    """(tag, step) of every TensorBoard scalar, over all event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            at += 12 + length + 4
        assert at == len(content), "the file ends with a whole record"
    return found


SEARCH = ["--preset", "digits", *ONE_LAYER, *SHORT_SEARCH]
TRAIN = ["--preset", "digits", *ONE_LAYER, *SHORT_TRAINING]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    assert run_here(train_search, *SEARCH, "--save", folder) == 0
    return folder


@pytest.fixture(scope="module")
def trained(searched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    assert run_here(train, *TRAIN, "--load_path", searched, "--save", folder) == 0
    return folder


@pytest.fixture(params=["search", "train"])
def stage(request, searched):
    """A stage on a network of one layer: its module, main(words) -> status, the words of a run, its undisturbed
    folder."""
    if request.param == "search":
        module, words, undisturbed, result = train_search, SEARCH, searched, "arch.pt"
    else:
        module, undisturbed, result = train, request.getfixturevalue("trained"), "weights.pt"
        words = [*TRAIN, "--load_path", str(searched)]
    return SimpleNamespace(
        module=module,
        script=f"{module.__name__}.py",
        main=lambda *more: run_here(module, *words, *more),
        words=words,
        result=result,
        undisturbed=undisturbed,
    )


def assert_as_undisturbed(stage, folder):
    for name in (stage.result, "checkpoint.pt"):
        assert same_tensors(load(folder / name), load(stage.undisturbed / name))
    assert epochs(folder) == epochs(stage.undisturbed)
    assert sorted(events(folder)) == sorted(events(stage.undisturbed))
    log = (folder / "logs.txt").read_text()
    assert [log.count(f"epoch {number:3}/3") for number in (1, 2, 3)] == [1, 1, 1]
    assert not list(folder.glob(".*.partial"))


def at_call(monkeypatch, module, name, count, do):
    """Let the `count`-th call of module.name run do() before it, wherever the stage has `name` from."""
    module = next(each for each in (run_module, module, searching, recalibration) if hasattr(each, name))
    function, calls = getattr(module, name), []

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            do()
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, call)


def send(*signals):
    for number in signals:
        os.kill(os.getpid(), number)


# --- Ctrl-C and SIGTERM


@pytest.mark.parametrize(
    "number, name, count, position",
    [
        (signal.SIGINT, "finite_losses", {"search": 1, "train": 1}, (0, 1)),
        (signal.SIGTERM, "finite_losses", {"search": 5, "train": 3}, (1, 1)),
        (signal.SIGTERM, "accuracy", {"search": 2, "train": 2}, (1, 2)),
        (signal.SIGINT, "recalibrate", {"train": 2}, (3, 0)),
    ],
    ids=["in the first step", "in the second epoch", "in a validation", "in the recalibration"],
)
def test_a_signal_saves_and_prints_the_command_that_continues(
    stage, tmp_path, monkeypatch, capfd, number, name, count, position
):
    kind = stage.module.__name__.removeprefix("train_")
    if kind not in count:
        pytest.skip("there is none in the search")
    folder = tmp_path / "a folder"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        at_call(patch, stage.module, name, count[kind], lambda: send(number))
        assert stage.main("--save", folder) == 128 + number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    checkpoint = load(folder / "checkpoint.pt")
    assert (checkpoint["epoch"], checkpoint["step"]) == position
    assert not (folder / "weights.pt").exists()
    out, err = capfd.readouterr()
    assert "finishing the step" in err and f"stopped by {number.name}" in err and "Traceback" not in err
    (command,) = [line.removeprefix("to resume: ") for line in out.splitlines() if line.startswith("to resume: ")]
    python, *words = shlex.split(command)
    assert shutil.which(python) is not None
    assert words == [stage.script, *stage.words, "--save", str(folder), "--resume"]
    assert run_here(stage.module, *words[1:]) == 0
    assert_as_undisturbed(stage, folder)


def test_a_second_signal_stops_at_once(stage, tmp_path, monkeypatch, capfd):
    at_call(monkeypatch, stage.module, "finite_losses", 5, lambda: send(signal.SIGINT, signal.SIGINT))
    assert stage.main("--save", tmp_path, "--checkpoint_every", 1) == 130
    assert "stopped by SIGINT" in capfd.readouterr().err
    done = load(tmp_path / "checkpoint.pt")
    assert (done["epoch"], done["step"]) == ((1, 0) if stage.module is train_search else (2, 0)), (
        "not the step it was in"
    )
    assert not list(tmp_path.glob(".*.partial"))


def test_a_stop_request_is_noted_once():
    with StopRequest() as stop:
        assert stop.signal is None
        send(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            send(signal.SIGINT)
    assert stopped.value.status == 130


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_a_signal_to_the_whole_process_group_leaves_the_workers_at_work(searched, tmp_path, number):
    """As a terminal's Ctrl-C, or a cluster's end of a job, sends it."""
    from PIL import Image

    for index in range(32):
        path = tmp_path / "images" / ("val" if index % 4 == 0 else "train") / f"class {index // 4 % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    words = [sys.executable, "train.py", *ONE_LAYER, "--preset", "digits", "--load_path", searched]
    words += ["--dataset", "image_folder", "--dataset_path", tmp_path / "images", "--num_workers", 2, "--device", "cpu"]
    words += ["--memory_limit_mb", 0, "--batch_size", 4, "--nepochs", 10000, "--save", tmp_path / "run"]
    log = tmp_path / "run" / "logs.txt"
    with subprocess.Popen(
        list(map(str, words)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        while process.poll() is None and not (log.exists() and "epoch   2/" in log.read_text()):
            time.sleep(0.05)
        try:
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=60)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, err
    assert "--resume" in out and "Traceback" not in err and "worker" not in err
    assert load(tmp_path / "run" / "checkpoint.pt")["epoch"] >= 1


# --- the middle of an epoch


def test_any_step_can_be_resumed_from(stage, tmp_path):
    """checkpoint_every 1 with all of them kept: from the start, within an epoch, and before its validation."""
    assert stage.main("--save", tmp_path / "run", "--checkpoint_every", 1, "--keep_checkpoints", 20) == 0
    names = [f"checkpoint_epoch{e:03}_step{s:05}.pt" for e in (1, 2, 3) for s in (1, 2)]
    names += [f"checkpoint_epoch{e:03}.pt" for e in range(3)]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint_*")) == sorted(names)
    for name in ["checkpoint_epoch000.pt", "checkpoint_epoch002_step00001.pt", "checkpoint_epoch003_step00002.pt"]:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "run", folder)
        assert stage.main("--save", folder, "--resume", folder / name) == 0
        assert_as_undisturbed(stage, folder)


def test_the_images_of_alpha_go_on_where_they_were():
    from instantnet.dataloader import endless, load_data

    batches = load_data("random", "", 4, 4).batches("train", range(20), batch_size=6, seed=1)  # 4 of a lap
    whole = list(islice(endless(batches, 3), 11))
    for first in range(10):
        resumed = next(endless(batches, 3, first))
        assert all(map(torch.equal, resumed[:2], whole[first][:2])) and resumed[2] == whole[first][2] == 1


@pytest.mark.parametrize("words", [["--validation", "released"], ["--opt", "adam", "--bit_schedule", "sandwich"]])
def test_search_with_other_settings_resumes_too(tmp_path, monkeypatch, words):
    words = [*SEARCH, *words, "--nepochs", "2"]
    run = lambda *more: run_here(train_search, *words, *more)  # noqa: E731
    assert run("--save", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        at_call(patch, train_search, "accuracy", 1, lambda: send(signal.SIGTERM))
        assert run("--save", tmp_path / "stopped") == 143
    assert run("--save", tmp_path / "stopped", "--resume") == 0
    assert epochs(tmp_path / "stopped") == epochs(tmp_path / "whole")
    for name in ("arch.pt", "checkpoint.pt"):
        assert same_tensors(load(tmp_path / "stopped" / name), load(tmp_path / "whole" / name))


def checkpoints(folder, every=0, keep=0):
    return Checkpoints(
        folder, lambda: {"model": {}}, SilentLog(), Processes(torch.device("cpu")), "command", every, keep
    )


@pytest.mark.parametrize("every", [1, 2, 4, 5])
def test_steps_between_checkpoints_are_counted_over_epochs(tmp_path, every):
    """Epochs of three steps: every second one is the 2nd of an epoch, then the 1st and the 3rd of the next."""
    saved = []
    with checkpoints(tmp_path, every) as kept:
        for epoch, step in itertools.product(range(4), range(3)):
            kept.after_step(epoch, step, steps=3)
            if kept.saved == (epoch, step + 1):
                saved.append(3 * epoch + step + 1)
    assert saved == [total for total in range(1, 13) if total % every == 0]


def test_fewer_older_checkpoints_than_may_be_kept_all_stay(tmp_path):
    with checkpoints(tmp_path, keep=3) as kept:
        for epoch in range(6):
            kept.after_epoch(epoch)
            older = {path.name for path in tmp_path.glob("checkpoint_*.pt")}
            assert older == {Position(done).file_name() for done in range(max(0, epoch - 2), epoch + 1)}


# --- SIGKILL


def killed_run(stage, words, patch=lambda: None) -> int | None:
    """The stage in a forked process in which `patch` was called; its status, None where it was killed."""
    pid = os.fork()
    if not pid:
        status = 70
        try:
            patch()
            status = stage.main(*words)
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def count_calls(killed_at=None) -> itertools.count:
    """Count every call of a function, and every return, in this thread; the one numbered `killed_at` kills."""
    events = itertools.count(1)

    def event(frame, kind, argument):
        if next(events) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(event)
    return events


@pytest.mark.parametrize("most", [2, pytest.param(5, marks=pytest.mark.full)])
def test_killed_at_random_moments(stage, most, tmp_path):
    """`tests/kill_and_resume.py` does it at full size."""
    words = ["--save", tmp_path, "--checkpoint_every", 1]
    for _ in range(2):  # the first run imports and loads
        calls = count_calls()
        assert stage.main(*words) == 0
        sys.setprofile(None)
        shutil.rmtree(tmp_path)
    moments = next(calls)
    rng, kills, status = random.Random(7), 0, None
    while status is None:
        resume = ["--resume"] if (tmp_path / "checkpoint.pt").exists() else []
        moment = rng.randrange(int(0.7 * moments)) if kills < most else None
        status = killed_run(stage, [*words, *resume], patch=lambda at=moment: count_calls(at))
        kills += status is None
    assert status == 0 and kills >= 2
    assert_as_undisturbed(stage, tmp_path)


def kill_at(name, count, half=False):
    """A patch: the `count`-th call of os.`name` kills the process; half: half of the file in the making is there."""
    function, calls = getattr(os, name), []

    def call(first, *rest):
        calls.append(1)
        if len(calls) == count:
            if half and os.readlink(f"/proc/self/fd/{first}").endswith(".partial"):
                os.ftruncate(first, os.fstat(first).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(first, *rest)

    setattr(os, name, call)


# A checkpoint takes a call of replace, one of link, and of fsync one for each log file too.
@pytest.mark.parametrize("name, half, at", [("fsync", True, 27), ("replace", False, 7), ("link", False, 7)])
def test_killed_while_writing(stage, tmp_path, name, half, at):
    """Every few writes; one is torn, or written and not renamed, or the old one not yet kept under its other name."""
    if stage.module is train_search and name != "replace":
        pytest.skip("the same code as in train.py, and slower")
    words = ["--save", tmp_path, "--checkpoint_every", 1, "--keep_checkpoints", 1]
    kills, status = 0, None
    while status is None:
        resume = ["--resume"] if (tmp_path / "checkpoint.pt").exists() else []
        status = killed_run(stage, [*words, *resume], patch=lambda: kill_at(name, at, half))
        kills += status is None
        assert kills < 20, "no progress between two kills"
    assert status == 0 and kills >= 1
    for path in tmp_path.glob("checkpoint_*"):
        load(path)
        path.unlink()
    assert_as_undisturbed(stage, tmp_path)


# --- a disk that is full


@pytest.mark.sample(2)
@pytest.mark.parametrize("what", ["checkpoint", "logs"])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(stage, tmp_path, monkeypatch, what):
    with monkeypatch.context() as patch:
        at_call(patch, stage.module, "finite_losses", 5, lambda: send(signal.SIGTERM))
        assert stage.main("--save", tmp_path) == 143
    before = (tmp_path / "checkpoint.pt").read_bytes()
    size = len(before) - 1000 if what == "checkpoint" else 100
    reader, writer = os.pipe()

    def limit():
        """No file may grow beyond `size` bytes from here on, as on a full disk; nor may pytest's for the output."""
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = open(writer, "w", buffering=1)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert killed_run(stage, ["--save", tmp_path, "--resume"], patch=limit) == 2
    os.close(writer)
    with open(reader) as pipe:
        err = pipe.read()
    assert "cannot write" in err and str(tmp_path) in err and "intact" in err and err.count("\n") == 1
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*.partial"))
    assert stage.main("--save", tmp_path, "--resume") == 0
    assert_as_undisturbed(stage, tmp_path)


@pytest.mark.parametrize("name", ["logs.txt", "metrics.jsonl"])
def test_a_log_that_cannot_be_written(stage, tmp_path, capfd, monkeypatch, name):
    opened = log_file.open_to_append
    monkeypatch.setattr(log_file, "open_to_append", lambda path: opened(path) if path.name != name else full_disk())
    assert stage.main("--save", tmp_path) == 2
    err = capfd.readouterr().err
    assert f"setting save = '{tmp_path}': cannot write there (No space left on device)" in err and err.count("\n") == 1


def full_disk():
    return open("/dev/full", "w", buffering=1)


@pytest.mark.parametrize("name", ["logs.txt", "metrics.jsonl", ".lock"])
def test_a_fifo_is_not_waited_for(stage, tmp_path, capsys, name):
    folder = tmp_path / "new"
    folder.mkdir()
    os.mkfifo(folder / name)
    assert stage.main("--save", folder) == 2
    err = capsys.readouterr().err
    assert name in err and err.count("\n") == 1
    assert stat.S_ISFIFO((folder / name).stat().st_mode)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("content", ["precious", "", '{"pid": 1, "host": "a", "since": "b"}'])
def test_a_lock_that_is_not_ours_is_left_alone(tmp_path, content):
    """A second name of another file; and a file with another content than an owner's."""
    folder, victim = tmp_path / "out", tmp_path / "victim"
    folder.mkdir()
    victim.write_text(content)
    os.link(victim, folder / ".lock")
    for alone in (False, True):
        if alone:
            (folder / ".lock").unlink()
            (folder / ".lock").write_text(content)
        ours = alone and content != "precious"
        refused = contextlib.nullcontext() if ours else pytest.raises(UserError, match="is no lock file")
        with refused, owned(folder, "folder"):
            pass
        assert (folder / ".lock").exists() != ours
    assert victim.read_text() == content


@pytest.mark.parametrize("name", ["logs.txt", "metrics.jsonl", ".lock"])
def test_nothing_is_written_through_a_link(stage, tmp_path, capsys, name):
    victim = tmp_path / "victim"
    victim.write_text("untouched\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(victim)
    assert stage.main("--save", tmp_path / "run", "--overwrite") == 2
    err = capsys.readouterr().err
    assert f"{name} is a link" in err and err.count("\n") == 1
    assert victim.read_text() == "untouched\n"


def test_events_that_cannot_be_written(tmp_path, monkeypatch):
    with RunLog(tmp_path) as log:
        monkeypatch.setattr(log._events, "_writer", open("/dev/full", "wb"))  # noqa: SIM115
        with pytest.raises(UserError, match=r"cannot write there \(No space left on device\)"):
            log.epoch(0, {"loss": {4: 1.0}, "images_per_s": 1.0}, 3)


# --- older checkpoints


def test_older_checkpoints_are_kept_and_pruned(stage, tmp_path):
    assert stage.main("--save", tmp_path, "--checkpoint_every", 1, "--keep_checkpoints", 2) == 0
    names = ["checkpoint_epoch003_step00001.pt", "checkpoint_epoch003_step00002.pt"]
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint.pt", *names]
    assert [(load(tmp_path / name)["epoch"], load(tmp_path / name)["step"]) for name in names] == [(2, 1), (2, 2)]
    assert stage.main("--save", tmp_path, "--resume", tmp_path / names[0], "--keep_checkpoints", 0) == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint.pt", "checkpoint_replaced.pt"]


def test_a_damaged_checkpoint_names_the_older_ones(stage, tmp_path, capsys):
    assert stage.main("--save", tmp_path, "--keep_checkpoints", 2) == 0
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:5000])
    before = contents(tmp_path)
    capsys.readouterr()
    assert stage.main("--save", tmp_path, "--resume") == 2
    err = capsys.readouterr().err
    assert "older ones beside it, newest first: checkpoint_epoch002.pt, checkpoint_epoch001.pt" in err
    assert err.count("\n") == 1 and contents(tmp_path) == before
    assert stage.main("--save", tmp_path, "--resume", tmp_path / "checkpoint_epoch002.pt") == 0
    assert_as_undisturbed(stage, tmp_path)


def test_a_folder_that_holds_a_run_is_refused(stage, tmp_path, capsys):
    """Finished or not: two mistaken starts would lose its logs, events and checkpoint."""
    shutil.copytree(stage.undisturbed, tmp_path / "run")
    for left in ("checkpoint.pt", "logs.txt"):
        before = contents(tmp_path / "run")
        assert stage.main("--save", tmp_path / "run", "--seed", 5) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and all(way in err for way in ("--resume", "--save OTHER", "--overwrite"))
        assert contents(tmp_path / "run") == before
        for path in (tmp_path / "run").iterdir():
            if path.name != "logs.txt":
                path.unlink()
        assert left in before


def test_a_folder_in_use_is_refused(stage, tmp_path, capsys):
    with owned(tmp_path / "run", "folder"):
        before = contents(tmp_path / "run")
        assert stage.main("--save", tmp_path / "run") == 2
        err = capsys.readouterr().err
        assert f"in use by process {os.getpid()} on " in err and ", since 20" in err and err.count("\n") == 1
        assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("resumes", [False, True])
def test_what_another_run_finished_meanwhile_is_left_alone(stage, tmp_path, capsys, monkeypatch, resumes):
    """Of two started at once the second checks the folder before the first writes, and has the lock after it."""
    folder, words = tmp_path / "run", ["--save", tmp_path / "run"]
    if resumes:
        assert stage.main(*words, "--nepochs", 2) == 0
        words.append("--resume")
    lock, before = run_module.owned, {}

    def later(path, named):
        monkeypatch.setattr(run_module, "owned", lock)
        assert stage.main(*words) == 0
        before.update(contents(folder))
        capsys.readouterr()
        return lock(path, named)

    monkeypatch.setattr(run_module, "owned", later)
    assert stage.main(*words) == 2
    err = capsys.readouterr().err
    assert ("another process went on" if resumes else "the folder holds a run") in err and err.count("\n") == 1
    assert before and contents(folder) == before


def test_the_network_is_checked_once_before_data_is_read(stage, tmp_path, monkeypatch):
    """On the meta device, which takes 0.4 s for a supernet of the paper's size."""
    new_parts, devices = stage.module.new_parts, []

    def counted(*arguments, **options):
        devices.append(torch.empty(0).device.type)
        return new_parts(*arguments, **options)

    monkeypatch.setattr(stage.module, "new_parts", counted)
    assert stage.main("--save", tmp_path, "--nepochs", 2) == 0 and devices == ["meta"]
    assert stage.main("--save", tmp_path, "--resume") == 0 and devices == ["meta"] * 2


def test_a_lock_ends_with_its_process_and_its_partial_files_are_cleaned(tmp_path):
    pid = os.fork()
    if not pid:
        with owned(tmp_path, "folder"):
            (tmp_path / ".checkpoint.pt.abcd1234.partial").write_text("half")
            (tmp_path / ".mine.partial").write_text("keep")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with owned(tmp_path, "folder"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.partial"]
    assert [path.name for path in tmp_path.iterdir()] == [".mine.partial"]


def test_a_new_run_sets_the_checkpoint_of_another_aside(stage, tmp_path):
    """So that --resume never goes on from the run before."""
    shutil.copytree(stage.undisturbed, tmp_path / "run")
    before = load(tmp_path / "run" / "checkpoint.pt")
    assert stage.main("--save", tmp_path / "run", "--seed", 5, "--overwrite") == 0
    assert same_tensors(load(tmp_path / "run" / "checkpoint_replaced.pt"), before)
    assert len(epochs(tmp_path / "run")) == 3 and len(set(events(tmp_path / "run"))) == len(events(tmp_path / "run"))


def test_positions():
    assert [str(Position()), str(Position(2)), str(Position(1, 120))] == ["the start", "epoch 2", "epoch 2, step 120"]
    assert Position(2).file_name() == "checkpoint_epoch002.pt"
    assert Position(2, 120).file_name() == "checkpoint_epoch003_step00120.pt"


# --- checkpoints that cannot be resumed from


@pytest.mark.parametrize(
    "change, part",
    [
        ({"step": None}, "'step'"),
        ({"loss": {4: 1.0}}, "running means"),
        ({"log_sizes": {"logs.txt": "all"}}, "log_sizes"),
        ({"step": 3}, "epoch 4, step 3"),
        ({"epoch": -1}, "epoch"),
    ],
    ids=str,
)
def test_other_content(stage, tmp_path, capsys, change, part):
    shutil.copytree(stage.undisturbed, tmp_path / "run")
    content = load(tmp_path / "run" / "checkpoint.pt") | change
    torch.save({name: value for name, value in content.items() if value is not None}, tmp_path / "run/checkpoint.pt")
    before = contents(tmp_path)
    assert stage.main("--save", tmp_path / "run", "--resume") == 2
    err = capsys.readouterr().err
    assert "checkpoint.pt" in err and part in err and err.count("\n") == 1
    assert contents(tmp_path) == before


# --- logs


@pytest.mark.parametrize("names", [["logs.txt"], ["metrics.jsonl"], ["logs.txt", "metrics.jsonl"]])
def test_logs_that_are_gone_are_said(tmp_path, capsys, names):
    with RunLog(tmp_path) as log:
        log.line("first")
        log.epoch(0, {"loss": {4: 1.0}, "images_per_s": 1.0}, 3)
        sizes = log.sizes()
    capsys.readouterr()
    for name in names:
        (tmp_path / name).unlink()
    with RunLog(tmp_path, sizes):
        pass
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {name} is gone, {sizes[name]:,} bytes that the checkpoint counts on" for name in names]


def test_logs_are_cut_back_to_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        log.line("first")
        log.epoch(0, {"loss": {4: 1.0}, "images_per_s": 1.0}, 3)
        sizes = log.sizes()
        log.line("second")
        log.epoch(1, {"loss": {4: 0.5}, "images_per_s": 1.0}, 3)
    (tmp_path / "metrics.jsonl").open("a").write('{"epoch": 2, "lo')
    with RunLog(tmp_path, sizes) as log:
        log.line("third")
        log.epoch(1, {"loss": {4: 0.25}, "images_per_s": 1.0}, 3)
    assert [line["loss"]["4"] for line in epochs(tmp_path)] == [1.0, 0.25]
    assert [line.split()[-1] for line in (tmp_path / "logs.txt").read_text().splitlines()] == [
        "first",
        "img/s",
        "third",
        "img/s",
    ]
    assert events(tmp_path) == [(tag, epoch) for epoch in (0, 1) for tag in ("loss/4_bits", "images_per_s")]
    third = {"logs.txt": 10**6, "metrics.jsonl": 10**6}  # of a disk that lost the end of the files
    (tmp_path / "metrics.jsonl").open("a").write('{"epoch": 2, "lo')
    RunLog(tmp_path, third).close()
    assert len(epochs(tmp_path)) == 2 and not events(tmp_path)
    RunLog(tmp_path).close()
    assert not epochs(tmp_path) and (tmp_path / "logs.txt").read_text() == ""
