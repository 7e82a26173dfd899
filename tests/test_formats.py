"""arch.pt, weights.pt and checkpoint.pt: what they hold, files of the format before, and files from strangers."""

import copy
import io
import pickle
import random
import resource
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from damage import damaged, damaged_bytes
from tiny_runs import ROOT, load, run_here, same_tensors

import instantnet
from automapper.layers import load_network
from instantnet import train, train_search
from instantnet.engine import untrusted
from instantnet.engine.checkpoint import load_checkpoint
from instantnet.engine.errors import UserError
from instantnet.formats import TRAINING_RUN, read_architecture, read_supernet, read_weights, run_settings
from instantnet.settings.ranges import MOST_CLASSES

OLD = ROOT / "tests" / "data" / "format1"
SAMPLE, CASES = 25, 300  # damaged files of each kind


def read_run(path: Path):
    """As a run that resumes reads its checkpoint, without a network to compare with."""
    return run_settings(load_checkpoint(path, ["model", "config"], "checkpoint.pt"), TRAINING_RUN, path)


READERS = {
    "arch.pt": [read_architecture, lambda path: load_network(str(path), 1)],
    "weights.pt": [read_weights, lambda path: load_network(str(path), 1)],
    "checkpoint.pt": [read_run, read_supernet],
}


def complaint(read, path: Path) -> str:
    """The message of a reader that refuses `path`; "" where it reads it. Anything but a UserError is the test's end."""
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path.parent) in str(error)
        return str(error)
    return ""


@pytest.fixture(scope="module")
def new(train_run, search_run) -> dict[str, Path]:
    """A file of every kind, of today's format."""
    return {
        "arch.pt": search_run.folder / "arch.pt",
        "weights.pt": train_run.folder / "weights.pt",
        "checkpoint.pt": train_run.folder / "checkpoint.pt",
        "search": search_run.folder / "checkpoint.pt",
    }


# --- format 2, and 1


@pytest.mark.parametrize("name", ["arch.pt", "weights.pt", "checkpoint.pt", "search"])
def test_every_file_says_what_it_is(new, name):
    content = load(new[name])
    assert content["format"] == 2 and content["quantizer"] == "minmax" and content["bits"] == [4, 8, 32]
    assert content["version"] == instantnet.__version__ and content["commit"]
    assert content["network"]["settings"]["num_classes"] == 10
    assert content["data"]["class_names"] == [str(digit) for digit in range(10)]
    assert (content["data"]["height"], content["data"]["width"], content["data"]["name"]) == (8, 8, "digits")
    assert content["network"].get("ops") == (None if name == "search" else load(new["arch.pt"])["ops"])


def test_files_of_format_1_are_read():
    arch, weights = read_architecture(OLD), read_weights(OLD)
    assert arch.arch == weights.arch and weights.bits == (4, 8, 32) and weights.data is None
    assert read_run(OLD / "checkpoint.pt").num_bits_list == [4, 8, 32]
    assert load_network(str(OLD), 1).accuracy == weights.accuracy
    net = instantnet.load(OLD)
    assert net(torch.randn(2, 3, 8, 8), bits=4).shape == (2, 10)


def test_a_run_resumes_from_format_1(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    settings = load(OLD / "checkpoint.pt")["config"]
    words = ["--preset", "digits", "--device", "cpu", "--load_path", OLD, "--save", tmp_path / "run", "--resume"]
    for name in ("num_layer_list", "num_channel_list", "stride_list", "num_bits_list"):
        words += [f"--{name}", ",".join(map(str, settings[name]))]
    for name in ("stem_channel", "header_channel", "batch_size", "max_steps"):
        words += [f"--{name}", settings[name]]
    assert run_here(train, *words, "--nepochs", 3) == 0
    assert load(tmp_path / "run" / "checkpoint.pt")["format"] == 2


# --- samples of what crashed, hung or ate memory


def changed(path: Path, *changes) -> dict:
    content = load(path)
    for change in changes:
        change(content)
    return content


def first(tensors: dict) -> str:
    return next(iter(tensors))


RESUMED = {
    "state[10] = [True]": (lambda c: c["optimizer"]["state"].update({10: [True]}), "optimiser"),
    "a momentum buffer's shape": (
        lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.ones(3)), "momentum_buffer 0 is [3]"),
    "weight_decay": (lambda c: c["optimizer"]["param_groups"][0].update(weight_decay="../../x"), "weight_decay"),
    "a stranger's parameter": (lambda c: c["optimizer"]["state"].update({10**6: {}}), "of no parameter"),
    "params": (lambda c: c["optimizer"]["param_groups"][0].update(params=[0, 0]), "optimiser"),
    "itself": (lambda c: c["config"].update(itself=c), "in itself"),
    "a tensor in config": (lambda c: c["config"].update(lr=torch.ones(1)), "lr"),
    "config = ones(3)": (lambda c: c.update(config=torch.ones(3)), "'config' is not of type dict"),
    "a bytes key": (lambda c: c["config"].update({b"x": 1}), "not a readable checkpoint"),
    "sparse": (lambda c: c["model"].update({first(c["model"]): torch.eye(3).to_sparse()}), "not a readable checkpoint"),
    "meta": (lambda c: c["model"].update({first(c["model"]): torch.ones(3, device="meta")}), "not a readable"),
    "integers for weights": (
        lambda c: c["model"].update({first(c["model"]): c["model"][first(c["model"])].long()}), "int64"),
    "image_height": (lambda c: c["config"].update(image_height=8_000_000), "image_height"),
    "loss": (lambda c: c.update(loss={4: [True, "x"]}), "loss"),
    "epoch": (lambda c: c.update(epoch=True), "epoch"),
    "log_sizes": (lambda c: c["log_sizes"].update({"logs.txt": -1}), "log_sizes"),
    "kind": (lambda c: c.update(kind="search run"), "search run"),
    "quantizer": (lambda c: c.update(quantizer="lsq"), "lsq"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_that_cannot_be_resumed_is_known_before_data_is_read(
    new, train_run, search_run, tmp_path, capsys, monkeypatch, name
):
    change, part = RESUMED[name]
    torch.save(changed(new["checkpoint.pt"], change), tmp_path / "checkpoint.pt")
    monkeypatch.setattr("instantnet.training.load_data", lambda **_: pytest.fail("the data was read"))
    assert run_here(train, *train_run.words, "--save", tmp_path, "--resume") == 2
    err = capsys.readouterr().err
    assert "checkpoint.pt" in err and part in err and err.count("\n") == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "change", [{"accuracy": {}}, {"accuracy": "x"}, {"ops": [["skip"], 5]}, {"alpha": torch.ones(1)}, {"epoch": "x"}]
)
def test_a_search_with_a_damaged_best_cannot_be_resumed(new, tmp_path, capsys, change):
    torch.save(changed(new["search"], lambda c: c["best"].update(change)), tmp_path / "checkpoint.pt")
    config = load(new["search"])["config"]
    words = ["--preset", "digits", "--device", "cpu", "--save", tmp_path, "--resume"]
    for name in ("num_layer_list", "num_channel_list", "stride_list", "num_bits_list"):
        words += [f"--{name}", ",".join(map(str, config[name]))]
    words += ["--stem_channel", config["stem_channel"], "--header_channel", config["header_channel"]]
    assert run_here(train_search, *words) == 2
    err = capsys.readouterr().err
    assert "'best'" in err and err.count("\n") == 1


WEIGHTS = {
    "bits = [[4, 8]]": (lambda c: c.update(bits=[[4, 8]]), "bit-width [4, 8]"),
    "bits = [4, 8000000]": (lambda c: c.update(bits=[4, 8_000_000]), "8000000"),
    "bits of text": (lambda c: c.update(bits=["w4a", 8]), "as in w4a8"),
    "config = ones(3)": (lambda c: c.update(config=torch.ones(3)), "config"),
    "classes": (lambda c: c["data"]["class_names"].pop(), "9 class names for 10 classes"),
    "std": (lambda c: c["data"].update(std=[0.0, 1.0, 1.0]), "std"),
    "other operations": (lambda c: c["network"].update(ops=["skip", "skip"]), "other operations"),
    "a hundred million classes": (lambda c: c["network"]["settings"].update(num_classes=100_000_000), "num_classes"),
    "accuracy": (lambda c: c["accuracy"].update({4: 1e9}), "accuracy"),
    "layers": (lambda c: c["network"]["settings"].update(num_layer_list=[10**9, 1]), "num_layer_list"),
    "an endless view": (
        lambda c: c["model"].update({first(c["model"]): torch.ones(1).expand(10**12)}), "larger than the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_from_strangers(new, tmp_path, name):
    change, part = WEIGHTS[name]
    torch.save(changed(new["weights.pt"], change), tmp_path / "weights.pt")
    for read in (read_weights, instantnet.load, lambda path: load_network(str(path), 1)):
        assert part in complaint(read, tmp_path / "weights.pt")


def test_shapes_are_read_without_memory(new, tmp_path):
    """A small arch.pt that states a large network: it is one to map, and costs no memory."""

    def large(content):
        for sizes in (content["config"], content["network"]["settings"]):
            sizes.update(num_classes=100_000, header_channel=65_536)
        content["data"]["class_names"] = [str(name) for name in range(100_000)]

    torch.save(changed(new["arch.pt"], large), tmp_path / "arch.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network = load_network(str(tmp_path), 1)
    assert network.layers[-1].layer.words("W") == 100_000 * 65_536
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the weights would be 26 GB


# --- the container


def rewritten(path: Path, source: Path, compression: int, change=lambda name, data: data) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))


def test_a_zip_bomb_is_refused(new, tmp_path):
    path = tmp_path / "weights.pt"
    rewritten(path, new["weights.pt"], zipfile.ZIP_DEFLATED, lambda name, data: data + bytes(10**6))
    assert "compressed" in complaint(read_weights, path)
    rewritten(path, new["weights.pt"], zipfile.ZIP_STORED)
    assert complaint(read_weights, path) == ""


def test_a_key_whose_hash_takes_for_ever_is_refused(tmp_path):
    key: tuple = ()
    for _ in range(60):
        key = (key, key)
    torch.save({"format": 2, "key": [key]}, tmp_path / "weights.pt")
    assert "one tuple in two places" in complaint(read_weights, tmp_path / "weights.pt")


def test_functions_that_allocate_are_not_called(tmp_path):
    class Allocates:
        def __reduce__(self):
            return bytearray, (10**11,)

    torch.save({"format": 2, "x": Allocates()}, tmp_path / "weights.pt")
    assert "bytearray" in complaint(read_weights, tmp_path / "weights.pt")


def test_what_is_no_regular_file(tmp_path):
    (tmp_path / "to_zero.pt").symlink_to("/dev/zero")
    assert "not a regular file" in complaint(read_weights, tmp_path / "to_zero.pt")
    import os

    os.mkfifo(tmp_path / "fifo.pt")
    assert "not a regular file" in complaint(read_weights, tmp_path / "fifo.pt")
    with open(tmp_path / "sparse.pt", "wb") as file:
        file.truncate(10**9)
    assert "not a readable checkpoint" in complaint(read_weights, tmp_path / "sparse.pt")


def test_a_large_file_is_mapped_and_reads_the_same(new, tmp_path, monkeypatch):
    small = load_checkpoint(new["weights.pt"], [], "x")
    monkeypatch.setattr("instantnet.engine.untrusted.MAPPED_BYTES", 0)
    assert same_tensors(load_checkpoint(new["weights.pt"], [], "x"), small)


# --- small files that take long


def nested(depth, keys):
    """Dictionaries of one dictionary under each key, so deep: a short pickle, and keys ** depth values."""
    content = {"a": torch.ones(1)}
    for _ in range(depth):
        content = dict.fromkeys(keys, content)
    return content


def in_itself():
    content = {}
    content["a"] = content
    return content


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        in_itself(),
        nested(26, "ab"),
        nested(11, "abcdef"),
        {"a": [0] * 950_000},
        {"a": [str(i) for i in range(400_000)]},
    ],
    ids=["in itself", "deep", "wide", "numbers", "texts"],
)
def test_a_file_that_would_take_long_is_refused(content, zipped, tmp_path, monkeypatch):
    """The values that are looked at are counted."""
    seen = []
    monkeypatch.setattr(untrusted, "_why_not", lambda value, known=untrusted._why_not: seen.append(1) or known(value))
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(untrusted.Unreadable, match=r"more values than are read|nested too deeply"):
        untrusted.read_tensors(tmp_path / "a.pt")
    assert len(seen) < 150_000


def test_a_key_whose_hash_would_take_for_ever(tmp_path):
    """A tuple of one tuple twice, and so on, in the format before zip files."""
    torch.save({}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    beginning = io.BytesIO((tmp_path / "a.pt").read_bytes())
    for _ in range(3):
        pickle.load(beginning)
    pairs = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(45))
    content = b"\x80\x02}K\x01K\x01\x86q\x00" + pairs + b"K\x01s."
    (tmp_path / "a.pt").write_bytes(beginning.getvalue()[: beginning.tell()] + content + pickle.dumps([], 2))
    with pytest.raises(untrusted.Unreadable, match="one tuple in two places"):
        untrusted.read_tensors(tmp_path / "a.pt")


def test_names_of_as_many_classes_as_there_may_be_are_read(tmp_path):
    names = [f"class {i}" for i in range(MOST_CLASSES)]
    torch.save({"names": names, "weights": {str(i): torch.ones(1) for i in range(3000)}}, tmp_path / "a.pt")
    assert untrusted.read(tmp_path / "a.pt")["names"] == names


# --- any damage


@pytest.mark.parametrize("cases", [SAMPLE, pytest.param(CASES, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", ["arch.pt", "weights.pt", "checkpoint.pt"])
def test_any_change_is_read_or_refused_in_one_line(new, tmp_path, name, cases):
    content, data = load(new[name]), new[name].read_bytes()
    refused = 0
    for seed in range(cases):
        rng = random.Random(f"{name} {seed}")
        path = tmp_path / name
        if seed % 3:
            try:
                torch.save(damaged(content, rng)[0], path)
            except Exception:  # a stranger that cannot be saved
                continue
        else:
            path.write_bytes(damaged_bytes(data, rng))
        refused += sum(bool(complaint(read, path)) for read in READERS[name])
    assert refused > cases / 2


def test_the_damage_is_real():
    content = {"a": [1, 2], "b": OrderedDict(c=3)}
    before = copy.deepcopy(content)
    made = [damaged(content, random.Random(seed))[1] for seed in range(50)]
    assert content == before and len(set(made)) > 20
