"""Files between stages: round trips, files that are not what they should be, and writes that fail."""

import os
import pickle
import random
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from tiny_runs import ROOT
from torch import nn

import instantnet.engine.checkpoint
from instantnet.engine.checkpoint import FORMAT, find, load_checkpoint, load_weights, save_checkpoint
from instantnet.engine.errors import UserError, exit_status
from instantnet.model_infer import DerivedNetwork
from instantnet.quantize import Precision

WHAT = "weights.pt of train.py"


def content():
    return {
        "model": {"weight": torch.randn(2, 3), "flag": torch.tensor([True])},
        "ops": ["k3_e1", "skip"],
        "accuracy": {4: 91.5, 8: 93.25},
        "config": {"lr": 0.1, "bits": [4, 8], "pretrain": None, "flip": False, "name": "digits"},
        "epoch": 3,
    }


def complaint(path, needs=("model",)) -> str:
    with pytest.raises(UserError) as error:
        load_checkpoint(path, needs, WHAT)
    assert str(path) in str(error.value)
    return str(error.value)


def test_round_trip(tmp_path):
    saved = content()
    save_checkpoint(tmp_path / "new" / "folder" / "weights.pt", saved)
    path = tmp_path / "new" / "folder" / "weights.pt"
    raw = torch.load(path, weights_only=True)
    assert raw["format"] == FORMAT
    loaded = load_checkpoint(path, ["model", "ops"], WHAT)
    assert torch.equal(loaded["model"]["weight"], saved["model"]["weight"])
    assert {k: v for k, v in loaded.items() if k not in ("model", "format")} == {
        k: v for k, v in saved.items() if k != "model"
    }
    assert os.listdir(path.parent) == ["weights.pt"], "no temporary file is left"
    assert os.stat(path).st_mode & 0o444 == 0o444, "others may read it, as any file one writes"


def test_of_a_whole_network(tmp_path, geometry, random_ops):
    ops = random_ops(geometry, 3)
    first, second = (DerivedNetwork(ops, geometry, Precision([4, 8])) for _ in range(2))
    for bits in (4, 8):
        first(torch.randn(4, 3, 8, 8), num_bits=bits)
    save_checkpoint(tmp_path / "weights.pt", {"model": first.state_dict()})
    load_weights(second, load_checkpoint(tmp_path / "weights.pt", ["model"], WHAT)["model"], "x")
    x = torch.randn(2, 3, 8, 8)
    for bits in (4, 8):
        assert torch.equal(first.eval()(x, num_bits=bits), second.eval()(x, num_bits=bits))


# --- files that are not what they should be


def test_missing(tmp_path):
    assert "no such file" in complaint(tmp_path / "weights.pt")
    assert "not a regular file" in complaint(tmp_path), "a folder is no checkpoint"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.95, 0.999])
def test_truncated(tmp_path, share):
    path = tmp_path / "weights.pt"
    save_checkpoint(path, content())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "not a readable checkpoint" in complaint(path) and WHAT in complaint(path)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"hello",
        b"\x00" * 5000,
        b"PK\x03\x04" + b"\xff" * 500,
        b"\x80\x02}q\x00.",
        random.Random(0).randbytes(4096),
        b"{}",
        b"\x89PNG",
    ],
)
def test_garbage(tmp_path, garbage):
    path = tmp_path / "weights.pt"
    path.write_bytes(garbage)
    message = complaint(path)
    assert "not a" in message and "checkpoint" in message


class Trap:
    """Unpickled, it would write a file: what `weights_only` keeps from happening."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_code_in_a_checkpoint_does_not_run(tmp_path, write):
    path, target = tmp_path / "weights.pt", tmp_path / "owned"
    write({"format": FORMAT, "model": Trap(target)}, path)
    with warnings.catch_warnings(action="error"):  # no line on standard error but the message
        complaint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "other, part",
    [
        ([1, 2], "not a checkpoint"),
        (torch.zeros(3), "not a checkpoint"),
        ({"state_dict": {}}, "not a checkpoint"),
        ({"format": FORMAT + 1, "model": {}}, f"format {FORMAT + 1}"),
        ({"format": "1", "model": {}}, "format '1'"),
        ({"format": None, "model": {}}, "format None"),
        ({"format": torch.ones(2), "model": {}}, "format"),
        ({"format": FORMAT, "ops": []}, "no 'model'"),
        ({"format": FORMAT, "model": "text"}, "'model' is not of type dict"),
    ],
)
def test_another_kind_of_file(tmp_path, other, part):
    path = tmp_path / "weights.pt"
    torch.save(other, path)
    assert part in complaint(path)


def test_the_error_is_one_line_and_status_2(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"\n\nnot\n\na\ncheckpoint")
    assert exit_status(lambda: load_checkpoint(path, [], WHAT)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_exit_status(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 3) == 3
    assert exit_status(interrupted) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_status_of_ctrl_c_within_text_that_is_executed(tmp_path):
    """`python -m` would end by the signal, though the interrupt was caught: a namedtuple is such a text."""
    (tmp_path / "command.py").write_text(
        "import sys; from instantnet.engine.errors import exit_status; "
        "sys.exit(exit_status(lambda: exec('raise KeyboardInterrupt')))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-m", "command"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("lines", [1, 10_000])  # found out at the end, or in the middle
def test_a_reader_that_has_gone_is_no_error(lines):
    program = (
        "import sys; from instantnet.engine.errors import exit_status; "
        f"sys.exit(exit_status(lambda: print('x\\n' * {lines})))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert process.returncode == 128 + signal.SIGPIPE and process.stderr == b""


# --- weights of another architecture


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda w: w.pop("0.weight"), "has no '0.weight'"),
        (lambda w: w.update(extra=torch.zeros(1)), "has an extra 'extra'"),
        (lambda w: w.update({"0.weight": torch.zeros(4, 2)}), "'0.weight' is [4, 2], here [3, 2]"),
        (lambda w: w.update({"1.bias": "text"}), "'1.bias'"),
        (lambda w: w.update({"1.bias": None}), "'1.bias'"),
    ],
)
def test_weights_of_another_architecture(change, part):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: torch.randn_like(tensor) for name, tensor in before.items()}
    change(weights)
    with pytest.raises(UserError, match=r"some/weights\.pt: weights of another architecture") as error:
        load_weights(model, weights, "some/weights.pt")
    assert part in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), "nothing was copied"


@pytest.mark.parametrize("weights", [None, [], "text", torch.zeros(2)])
def test_weights_that_are_no_dictionary(weights):
    with pytest.raises(UserError, match=r"weights\.pt"):
        load_weights(nn.Linear(2, 3), weights, "weights.pt")


def test_find(tmp_path):
    assert find(tmp_path, "arch.pt") == tmp_path / "arch.pt"
    assert find(str(tmp_path / "other.pt"), "arch.pt") == tmp_path / "other.pt"


# --- writes that fail


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    "where, error",
    [
        ("torch.save", OSError(28, "No space left on device")),
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file")),
        ("os.fsync", OSError(5, "Input/output error")),
        ("os.replace", PermissionError(13, "Permission denied")),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, where, error):
    path = tmp_path / "weights.pt"
    save_checkpoint(path, content())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(where, failing(error))
        with pytest.raises(UserError, match="cannot write") as caught:
            save_checkpoint(path, content())
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["weights.pt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    save_checkpoint(path, content())
    before = path.read_bytes()

    def half(content, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(instantnet.engine.checkpoint.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, content())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["weights.pt"]


def test_synced_before_it_is_renamed(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: order.append("fsync") or fsync(f))
    monkeypatch.setattr(os, "replace", lambda *a: order.append("replace") or replace(*a))
    save_checkpoint(tmp_path / "weights.pt", content())
    assert order == ["fsync", "replace"]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "weights.pt", content())
    (tmp_path / "weights.pt").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint(tmp_path / "weights.pt", content())
    assert sorted(os.listdir(tmp_path)) == ["file", "weights.pt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint(folder / "weights.pt", content())
    folder.chmod(0o700)
