"""Stages 1 and 2 as torchrun starts them, or by hand, on two processes: what they print and save, and how they end."""

import json
import re
from pathlib import Path
from signal import SIGKILL

import interrupted
import pytest
import torch
from process_groups import by_hand, of_srun, of_torchrun, torchrun
from tiny_runs import TINY_NETWORK, load, run_here, same_tensors

from instantnet import train, train_search
from instantnet.engine.checkpoint import save_checkpoint

DIGITS = ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--batch_size", "64"]
# No quantizer, whose rounding makes much of the last digit of a sum; and the arithmetic of --sync_bn.
FLOAT = ["--num_bits_list", "32", "--compiled_layers", "no"]
SHORT = ["--nepochs", "2", "--max_steps", "6", "--checkpoint_every", "2"]


@pytest.fixture(scope="module")
def arch(tmp_path_factory):
    path = tmp_path_factory.mktemp("arch") / "arch.pt"
    save_checkpoint(path, {"ops": ["k3_e3", "k5_e1_g2"]})
    return ["--load_path", str(path)]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def alone(stage, *words) -> None:
    assert run_here(stage, *words) == 0


@pytest.fixture
def two(tmp_path_factory):
    """two(stage, *words) -> what both processes printed and returned; interrupt: see interrupted.py; environments: of
    the processes."""
    return lambda stage, *words, **options: in_two(tmp_path_factory.mktemp("two"), stage, *words, **options)


def in_two(folder, stage, *words, interrupt=(), environments=None):
    script, words = Path(stage.__file__).name, list(map(str, words))
    if interrupt:
        return by_hand(lambda: interrupted.main(*interrupt, script, *words), folder, environments)
    return by_hand(lambda: run_here(stage, *words), folder, environments)


# --- the same as one process


def test_training_equals_that_of_one_process(arch, tmp_path, two):
    """Two epochs with a last batch of 29 images, recalibration and all."""
    words = [*DIGITS, *FLOAT, *arch, "--nepochs", "2", "--lr", "0.02"]
    alone(train, *words, "--save", tmp_path / "one")
    results = two(train, *words, "--sync_bn", "--save", tmp_path / "two")
    assert [result.status for result in results] == [0, 0], results[0].err
    out, quiet_out = (result.out for result in results)
    assert out.count("train on digits") == out.count("epoch   2/2") == out.count("wrote") == 1
    assert "2 processes with cpu" in out and quiet_out == ""
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1.5)  # five images of 360
    one, two = (load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1.5)
    assert not any("Warning" in result.err for result in results)
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-2, atol=1e-2, msg=name)


def assert_the_same_search(tmp_path):
    """That in `two` as that in `one`."""
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["alpha_loss"] == pytest.approx(one["alpha_loss"], rel=1e-4)
    one, two = (load(tmp_path / name / "arch.pt") for name in ("one", "two"))
    torch.testing.assert_close(two["alpha"], one["alpha"], rtol=1e-3, atol=1e-5)
    assert two["ops"] == one["ops"]


def test_search_equals_that_of_one_process(tmp_path, two):
    words = [*DIGITS, *FLOAT, "--nepochs", "2", "--max_steps", "2"]
    alone(train_search, *words, "--save", tmp_path / "one")
    results = two(train_search, *words, "--sync_bn", "--save", tmp_path / "two")
    assert [result.status for result in results] == [0, 0], results[0].err
    assert results[0].out.count("search on digits") == 1 and results[1].out == ""
    assert_the_same_search(tmp_path)


@pytest.mark.full
def test_search_by_torchrun_equals_that_of_one_process(tmp_path):
    words = [*DIGITS, *FLOAT, "--nepochs", "2", "--max_steps", "2"]
    alone(train_search, *words, "--save", tmp_path / "one")
    result = torchrun("train_search.py", *words, "--sync_bn", "--save", str(tmp_path / "two"))
    assert result.status == 0, result.err
    assert result.out.count("search on digits") == 1
    assert re.search(r"^next: .*torch.distributed.run --nproc-per-node 2 train.py --preset digits", result.out, re.M)
    assert_the_same_search(tmp_path)


def test_srun_starts_both_stages(tmp_path, two):
    """With SLURM's variables set by hand; the command that comes next is one of srun too."""
    words = [*DIGITS, "--nepochs", "1", "--max_steps", "2"]
    searched = two(train_search, *words, "--save", tmp_path / "search", environments=of_srun())
    trained = two(train, *words, "--load_path", tmp_path / "search", "--save", tmp_path, environments=of_srun())
    for told, quiet in (searched, trained):
        assert [told.status, quiet.status] == [0, 0], told.err
        assert "2 processes with cpu" in told.out and quiet.out == ""
    assert re.search(r"^next: srun .*python\S* train.py --preset digits", searched[0].out, re.M)
    assert set(load(tmp_path / "weights.pt")["accuracy"]) == {4, 8, 32}


# --- how they end


@pytest.fixture(scope="module")
def undisturbed(arch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    results = in_two(tmp_path_factory.mktemp("says"), train, *DIGITS, *arch, *SHORT, "--save", folder)
    assert [result.status for result in results] == [0, 0], results[0].err
    return folder


def assert_the_same_run(expected, got):
    for name in ("weights.pt", "checkpoint.pt"):
        first, second = (load(folder / name) for folder in (expected, got))
        first.pop("launch", None), second.pop("launch", None)
        assert same_tensors(first, second)


@pytest.mark.full
def test_torchrun_restarts_a_killed_run_from_its_last_checkpoint(undisturbed, arch, tmp_path):
    """Killed at the 4th step of an epoch, two processes go on from its 2nd: to the same weights, bit for bit."""
    words = ["tests/interrupted.py", "1", "SIGKILL", "3", "train.py", *DIGITS, *arch, *SHORT, "--save", str(tmp_path)]
    result = torchrun(*words, options=("--max-restarts", "1"))
    assert result.status == 0, result.err
    assert re.findall("resumed from .*", result.out) == [f"resumed from {tmp_path}/checkpoint.pt, at epoch 1, step 2"]
    assert_the_same_run(undisturbed, tmp_path)


def test_a_killed_run_that_is_started_again_goes_on_from_its_last_checkpoint(undisturbed, arch, tmp_path, two):
    """As torchrun starts it again: with its number of restarts, and without --resume."""
    words = [*DIGITS, *arch, *SHORT, "--save", tmp_path]
    told, killed = two(train, *words, interrupt=("1", "SIGKILL", "3"), environments=of_torchrun(0))
    assert [told.status, killed.status] == [2, -SIGKILL], told.err
    told, quiet = two(train, *words, environments=of_torchrun(1))
    assert [told.status, quiet.status] == [0, 0], told.err
    assert re.findall("resumed from .*", told.out) == [f"resumed from {tmp_path}/checkpoint.pt, at epoch 1, step 2"]
    assert_the_same_run(undisturbed, tmp_path)


def test_a_restart_does_not_go_on_from_another_run(undisturbed, arch, tmp_path, monkeypatch):
    """Killed before it had a checkpoint of its own, in a folder with the one of an earlier run."""
    from instantnet.engine.resume import resumes_after_failure

    assert not resumes_after_failure(str(undisturbed))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not resumes_after_failure(str(undisturbed))
    assert not resumes_after_failure(str(tmp_path))
    save_checkpoint(tmp_path / "checkpoint.pt", {"launch": "another"})
    assert resumes_after_failure(str(tmp_path))


def test_a_signal_to_one_process_stops_both_after_the_same_step(undisturbed, arch, tmp_path, two):
    words = [*DIGITS, *arch, *SHORT, "--save", tmp_path]
    told, quiet = two(train, *words, interrupt=("1", "SIGTERM", "4"))
    assert [told.status, quiet.status] == [143, 143]
    assert f"stopped by SIGTERM; {tmp_path}/checkpoint.pt is at epoch 1, step 5" in told.out
    assert told.err.endswith("stopped by SIGTERM\n") and "Traceback" not in told.err + quiet.err
    assert quiet.out == "" and "stopped" not in quiet.err
    told, quiet = two(train, *words, "--resume")
    assert [told.status, quiet.status] == [0, 0], told.err
    assert "at epoch 1, step 5" in told.out and quiet.out == ""
    one, other = (load(folder / "weights.pt")["model"] for folder in (undisturbed, tmp_path))
    for name, tensor in one.items():  # running statistics were averaged once more
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_a_killed_process_ends_the_other_one(arch, tmp_path, two):
    words = [*DIGITS, *arch, *SHORT, "--save", tmp_path]
    told, killed = two(train, *words, interrupt=("1", "SIGKILL", "3"))
    assert [told.status, killed.status] == [2, -SIGKILL]
    assert "error: another process of this run has ended without a word" in told.err and "Traceback" not in told.err
    assert load(tmp_path / "checkpoint.pt")["step"] == 2


@pytest.mark.parametrize("by_torchrun", [False, pytest.param(True, marks=pytest.mark.full)])
def test_what_a_user_can_mend_is_told_once(tmp_path, two, by_torchrun):
    words = [*DIGITS, "--load_path", str(tmp_path / "nowhere"), "--save", str(tmp_path / "out")]
    results = [torchrun("train.py", *words)] if by_torchrun else two(train, *words, environments=of_torchrun())
    assert all(result.status != 0 for result in results)
    errors = "".join(result.err for result in results)
    assert errors.count("error: ") == 1
    assert f"error: {tmp_path}/nowhere: no such file; expected arch.pt of train_search.py" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", [train, train_search])
def test_half_set_environment_is_one_line(stage, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_here(stage, *DIGITS, "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: environment variable MASTER_ADDR and MASTER_PORT not set") and err.count("\n") == 1
