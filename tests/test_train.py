"""Stage 2 as a user runs it: what it writes and prints, that it repeats and resumes, and what it says to bad input."""

import json
import os
import random
import re
import shlex
import shutil

import pytest
import torch
from tiny_runs import (
    SHORT_TRAINING,
    TINY_NETWORK,
    TINY_SEARCH,
    contents,
    load,
    run_here,
    run_script,
    same_tensors,
)

from instantnet import recalibration, train, train_search, training
from instantnet.engine import run as run_module
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.loop import accuracy
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import Precision

QUICK = ["--preset", "smoke", *TINY_NETWORK, "--image_height", "8", "--image_width", "8", "--device", "cpu"]


def run(*words: str) -> int:
    return run_here(train, *words)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def percentages(text):
    """{bits: accuracy} out of `accuracy ...%:  4b 91.67  8b 97.22`."""
    (line,) = re.findall(r"^accuracy.*%: +(.*)$", text, re.MULTILINE)
    return {int(bits): float(value) for bits, value in re.findall(r"(\d+)b ([\d.]+)", line)}


@pytest.fixture(scope="module")
def same_run(search_run):
    """The settings of `train_run`, to run again in this process."""
    words = ["--preset", "digits", *TINY_NETWORK, "--load_path", search_run.folder, "--device", "cpu"]
    return [*words, "--nepochs", 3, "--max_steps", 2, "--batch_size", 32]


@pytest.fixture
def arch(tmp_path):
    """An arch.pt for the tiny network."""
    save_checkpoint(tmp_path / "arch.pt", {"ops": ["k3_e3", "k5_e1_g2"]})
    return tmp_path / "arch.pt"


# --- the command that the search printed, in a fork of this process, see conftest.py


def test_the_printed_command_runs(train_run):
    assert train_run.status == 0, train_run.err
    assert "Traceback" not in train_run.err
    assert f"wrote {train_run.folder}/weights.pt" in train_run.out
    (command,) = re.findall(r"^next: (.*)$", train_run.out, re.MULTILINE)
    assert shlex.split(command)[1:] == ["-m", "automapper", f"{train_run.folder}/weights.pt", "--device", "eyeriss"]


@pytest.mark.full
def test_the_scripts_in_processes_of_their_own_do_the_same(search_run, train_run, tmp_path):
    searched = run_script("train_search.py", *TINY_SEARCH, "--save", str(tmp_path / "search"))
    assert searched.status == 0, searched.err
    (command,) = re.findall(r"^next: (.*)$", searched.out, re.MULTILINE)
    words = [*shlex.split(command)[1:], *SHORT_TRAINING, "--save", str(tmp_path / "a run")]
    trained = run_script(*words)
    assert trained.status == 0 and f"wrote {tmp_path}/a run/weights.pt" in trained.out, trained.err
    assert "Traceback" not in searched.err + trained.err
    assert same_tensors(load(tmp_path / "search" / "arch.pt"), load(search_run.folder / "arch.pt"))
    assert same_tensors(load(tmp_path / "a run" / "weights.pt"), load(train_run.folder / "weights.pt"))


def test_the_files_are_there(train_run):
    names = set(os.listdir(train_run.folder))
    events = [name for name in names if name.startswith("events.out.tfevents")]
    assert names == {
        "weights.pt",
        "checkpoint.pt",
        "logs.txt",
        "metrics.jsonl",
        "settings.json",
        "result.json",
        *events,
    }
    content = (train_run.folder / events[0]).read_bytes()
    for tag in (b"accuracy/4_bits", b"loss/8_bits", b"lr"):
        assert tag in content


def test_metrics_per_epoch_and_bit_width(train_run):
    epochs = lines(train_run.folder)
    final = json.loads((train_run.folder / "result.json").read_text())
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    for line in epochs:
        assert set(line["loss"]) == set(line["accuracy"]) == {"4", "8", "32"}
        assert all(value > 0 for value in line["loss"].values())
        assert {"lr", "images_per_s"} <= set(line)
    assert set(final["accuracy"]) == {"4", "8", "32"}
    assert final["flops"] > 0 and final["parameters"] > 0
    log = (train_run.folder / "logs.txt").read_text()
    assert "epoch   1/3" in log and "epoch   3/3" in log and "MFLOPs" in log


def test_weights_pt(train_run, search_run):
    """Its content as the design states it; the network it holds has the accuracy it states."""
    from instantnet.dataloader import load_data

    weights = load(train_run.folder / "weights.pt")
    described = {"format", "kind", "network", "quantizer", "bits", "data", "version", "commit"}
    assert set(weights) == {"model", "arch", "accuracy", "config"} | described
    assert weights["bits"] == [4, 8, 32]
    assert weights["arch"]["ops"] == load(search_run.folder / "arch.pt")["ops"]
    geometry = Geometry.from_settings(weights["config"])
    model = DerivedNetwork(weights["arch"]["ops"], geometry, Precision(weights["bits"]))
    model.load_state_dict(weights["model"])
    result = json.loads((train_run.folder / "result.json").read_text())
    assert weights["arch"]["flops"] == model.flops() == result["flops"]
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    data = load_data("digits", "", 8, 8, 10)
    measured = accuracy(model, list(data.batches("test", batch_size=128))[:2], [4, 8, 32])
    assert weights["accuracy"] == pytest.approx(measured)
    assert percentages(train_run.out) == pytest.approx(measured, abs=0.006)


def test_settings_are_saved(train_run):
    saved = json.loads((train_run.folder / "settings.json").read_text())["settings"]
    assert load(train_run.folder / "weights.pt")["config"] == saved
    assert (saved["dataset"], saved["num_classes"], saved["nepochs"]) == ("digits", 10, 3)


def test_two_runs_with_one_seed_agree_bit_for_bit(train_run, same_run, tmp_path):
    torch.manual_seed(99)
    random.seed(99)
    assert run(*same_run, "--save", tmp_path) == 0
    for name in ("weights.pt", "checkpoint.pt"):
        assert same_tensors(load(train_run.folder / name), load(tmp_path / name))


@pytest.mark.parametrize(
    "name, call, epochs_done", [("finite_losses", 4, 1), ("accuracy", 3, 2), ("recalibrate", 2, 3)]
)
def test_resume_equals_the_undisturbed_run(train_run, same_run, tmp_path, monkeypatch, name, call, epochs_done):
    """Interrupted within an epoch, at its validation, and while recalibrating after the last."""
    calls = []
    module = {"finite_losses": run_module, "recalibrate": recalibration}.get(name, train)
    function = getattr(module, name)

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        assert run(*same_run, "--save", tmp_path) == 130
    assert load(tmp_path / "checkpoint.pt")["epoch"] == epochs_done
    assert not (tmp_path / "weights.pt").exists()
    torch.manual_seed(123)
    assert run(*same_run, "--save", tmp_path, "--resume") == 0
    for file in ("weights.pt", "checkpoint.pt"):
        assert same_tensors(load(train_run.folder / file), load(tmp_path / file))
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1, 2]


# --- evaluation only


def test_eval_only_prints_the_accuracy_and_writes_nothing(train_run, capsys):
    """With the settings of the weights: the ones of the network need not be said again."""
    before = contents(train_run.folder)
    capsys.readouterr()
    assert run("--eval_only", "--save", train_run.folder, "--device", "cpu") == 0
    everything = percentages(capsys.readouterr().out)
    assert sorted(everything) == [4, 8, 32]
    assert contents(train_run.folder) == before
    # On as many images as the run itself tested, it is the stated accuracy.
    words = ["--eval_only", "--pretrain", train_run.folder / "weights.pt", "--max_steps", 2, "--batch_size", 32]
    assert run(*words, "--device", "cpu") == 0
    assert percentages(capsys.readouterr().out) == pytest.approx(
        load(train_run.folder / "weights.pt")["accuracy"], abs=6e-3
    )


def test_eval_only_of_some_bit_widths(train_run, capsys):
    assert run("--eval_only", "--save", train_run.folder, "--num_bits_list", "4,32", "--device", "cpu") == 0
    assert sorted(percentages(capsys.readouterr().out)) == [4, 32]
    assert run("--eval_only", "--save", train_run.folder, "--num_bits_list", "4,6", "--device", "cpu") == 2
    err = capsys.readouterr().err
    assert "no bit-width 6" in err and err.count("\n") == 1


# --- recalibration


def spy_on_recalibration(monkeypatch):
    calls = []
    function = recalibration.recalibrate

    def watched(model, bits, batches, reset, images_in):
        batches = list(batches)
        calls.append((bits, len(batches), reset))
        assert [images_in(step) for step in range(len(batches))] == [len(images) for images, _ in batches]
        function(model, bits, batches, reset, images_in)

    monkeypatch.setattr(recalibration, "recalibrate", watched)
    return calls


def test_each_bit_width_is_recalibrated_over_the_training_set(arch, monkeypatch, tmp_path):
    calls = spy_on_recalibration(monkeypatch)
    words = ["--load_path", arch, "--save", tmp_path / "out", "--max_steps", 0, "--batch_size", 20]
    assert run(*QUICK, *words) == 0
    assert calls == [(4, 4, "own"), (8, 4, "own"), (32, 4, "own")], "64 images in batches of 20"


def test_without_recalibration_the_weights_are_as_trained(arch, monkeypatch, tmp_path):
    calls = spy_on_recalibration(monkeypatch)
    assert run(*QUICK, "--load_path", arch, "--save", tmp_path / "out", "--update_bn", "no") == 0
    assert calls == []
    weights, checkpoint = (load(tmp_path / "out" / name)["model"] for name in ("weights.pt", "checkpoint.pt"))
    assert same_tensors(weights, checkpoint)


def test_recalibration_changes_statistics_only(arch, tmp_path):
    assert run(*QUICK, "--load_path", arch, "--save", tmp_path / "out") == 0
    weights, checkpoint = (load(tmp_path / "out" / name)["model"] for name in ("weights.pt", "checkpoint.pt"))
    changed = {name for name in weights if not torch.equal(weights[name], checkpoint[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name or "input_quantizer" in name for name in changed)
    assert not any(name.startswith(("stem", "header", "classifier")) for name in changed)


def test_released_recalibration_leaves_the_trained_statistics_in_the_file(arch, monkeypatch, tmp_path):
    """Each bit-width's recalibration resets the others', so none of them is worth keeping."""
    calls = spy_on_recalibration(monkeypatch)
    assert run(*QUICK, "--preset", "smoke,released", "--load_path", arch, "--save", tmp_path / "out") == 0
    assert [reset for _, _, reset in calls] == ["all"] * 3
    weights, checkpoint = (load(tmp_path / "out" / name)["model"] for name in ("weights.pt", "checkpoint.pt"))
    assert same_tensors(weights, checkpoint)


# --- settings


@pytest.mark.parametrize(
    "words",
    [
        ["--preset", "cifar10,smoke"],
        ["--preset", "image_folder,smoke"],
        ["--preset", "digits,released,smoke"],
        ["--preset", "smoke", "--quantize_ends"],
        ["--preset", "smoke", "--num_bits_list", "8"],
        ["--preset", "smoke", "--num_bits_list", "32"],
        ["--preset", "smoke", "--num_bits_list", "32,2,5", "--loss_scale", "1,2,3"],
        ["--preset", "smoke", "--bit_schedule", "sandwich", "--teachers", "highest", "--opt", "adam"],
        ["--preset", "smoke", "--bit_schedule", "max_loss", "--teachers", "next"],
        ["--preset", "smoke", "--bit_schedule", "low2high", "--channels_last", "no", "--teachers", "none"],
        ["--preset", "smoke", "--bit_schedule", "high2low", "--lr_schedule", "linear", "--decay_epoch", "0"],
        ["--preset", "smoke", "--nepochs", "0"],
    ],
    ids=" ".join,
)
def test_smoke(arch, tmp_path, words):
    assert run(*QUICK[2:], "--load_path", arch, *words, "--save", tmp_path / "out") == 0
    weights = load(tmp_path / "out" / "weights.pt")
    assert sorted(weights["accuracy"]) == weights["bits"]


def test_the_loss_scale_belongs_to_the_bit_width_it_stands_beside(arch, monkeypatch, tmp_path):
    """Whatever the order of num_bits_list."""
    seen = []
    cascade = train.Cascade
    monkeypatch.setattr(train, "Cascade", lambda *given, **named: seen.append(cascade(*given, **named)) or seen[-1])
    words = ["--num_bits_list", "32,4,8", "--loss_scale", "3,1,2"]
    assert run(*QUICK, *words, "--load_path", arch, "--save", tmp_path / "out") == 0
    assert (seen[0].bit_widths, seen[0].loss_scale) == ((4, 8, 32), {32: 3.0, 4: 1.0, 8: 2.0})


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_of_the_images(shuffle, arch, tmp_path, monkeypatch):
    """A new one every epoch; the same one where shuffling is off, as released."""
    seen = []
    step = train.Cascade.step

    def watched(self, model, images, labels, *rest):
        seen.append(images.clone())
        return step(self, model, images, labels, *rest)

    monkeypatch.setattr(train.Cascade, "step", watched)
    words = ["--nepochs", 2, "--max_steps", 1, "--batch_size", 16, "--flip", "no", "--crop_padding", 0]
    assert run(*QUICK, *words, "--load_path", arch, "--shuffle", shuffle, "--save", tmp_path / "out") == 0
    first, second = seen
    assert torch.equal(first, second) is not shuffle


def test_pretrain_continues_from_weights(train_run, same_run, tmp_path):
    words = ["--pretrain", train_run.folder, "--nepochs", 0, "--update_bn", "no"]
    assert run(*same_run, *words, "--save", tmp_path) == 0
    first, second = load(train_run.folder / "weights.pt"), load(tmp_path / "weights.pt")
    assert same_tensors(first["model"], second["model"])
    assert first["accuracy"] == second["accuracy"]


def test_load_path_takes_the_folder_or_the_file(arch, tmp_path):
    for number, path in enumerate((arch, arch.parent)):
        assert run(*QUICK, "--load_path", path, "--save", tmp_path / str(number)) == 0
    assert same_tensors(load(tmp_path / "0" / "weights.pt"), load(tmp_path / "1" / "weights.pt"))


def test_gradients_are_clipped_by_default_and_not_as_released(geometry):
    from config_train import C
    from instantnet.engine.loop import updater
    from instantnet.training import make_optimizer

    for clip, norm in ((5.0, 5.0), (0.0, 100.0)):
        parameter = torch.nn.Parameter(torch.zeros(4))
        settings = C.replaced(lr=1.0, momentum=0.0, weight_decay=0.0)
        update = updater(make_optimizer([parameter], settings), [parameter], clip)
        parameter.grad = torch.full((4,), 50.0)
        update()
        assert parameter.norm().item() == pytest.approx(norm)
        assert parameter.grad is None


# --- the published sizes


FULL_SIZE = [("cifar100", 2, [4, 8, 12, 16, 32]), ("imagenet", 1, [4, 8, 12, 16, 32])]


@pytest.mark.parametrize(
    "preset, batch, bits", [("cifar100", 1, [4]), *(pytest.param(*each, marks=pytest.mark.full) for each in FULL_SIZE)]
)
def test_full_size_smoke(preset, batch, bits, tmp_path, capsys):
    """The paper's supernet and network: builds, one step, validation, then the stage after it."""
    words = ["--preset", f"{preset},smoke", "--batch_size", batch, "--device", "cpu", "--num_threads", 1]
    words += ["--num_bits_list", ",".join(map(str, bits))]
    assert run_here(train_search, *words, "--save", tmp_path / "search") == 0
    assert len(load(tmp_path / "search" / "arch.pt")["ops"]) == 22
    assert run(*words, "--load_path", tmp_path / "search", "--save", tmp_path / "train") == 0
    weights = load(tmp_path / "train" / "weights.pt")
    assert sorted(weights["accuracy"]) == bits


# --- bad input


def wrong_arch(folder, **change):
    save_checkpoint(folder / "wrong.pt", {"ops": ["k3_e3", "k5_e1_g2"]} | change)


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--nepoch", "3"], ["nepochs"]),
        (["--num_bits_list", "4,4"], ["num_bits_list", "twice"]),
        (["--loss_scale", "1,2"], ["loss_scale"]),
        (["--load_path", "{tmp}/nowhere"], ["{tmp}/nowhere", "no such file", "arch.pt of train_search.py"]),
        (["--load_path", "{tmp}/garbage.pt"], ["{tmp}/garbage.pt", "not a readable checkpoint"]),
        (["--load_path", "{run}/weights.pt"], ["{run}/weights.pt", "no 'ops'"]),
        (["--load_path", "{tmp}/unknown.pt"], ["{tmp}/unknown.pt", "'k9_e9'", "k3_e1"]),
        (["--load_path", "{tmp}/short.pt"], ["{tmp}/short.pt", "1 layers", "num_layer_list"]),
        (["--load_path", "{tmp}/odd.pt"], ["{tmp}/odd.pt"]),
        (["--load_path", "{tmp}/future.pt"], ["{tmp}/future.pt", "format 99"]),
        (["--num_layer_list", "1,2"], ["arch.pt", "2 layers", "needs 3"]),
        (["--dataset", "image_folder", "--dataset_path", "{tmp}/nowhere"], ["{tmp}/nowhere", "--preset digits"]),
        (["--dataset", "image_folder", "--dataset_path", "{tmp}/empty"], ["{tmp}/empty/train", "class"]),
        (["--dataset", "imagenet", "--dataset_path", "{tmp}/nowhere"], ["{tmp}/nowhere", "--preset digits"]),
        (["--pretrain", "{tmp}/nowhere.pt"], ["{tmp}/nowhere.pt"]),
        (["--pretrain", "{run}/weights.pt", "--num_channel_list", "4,8"], ["weights of another architecture"]),
        (["--resume", "--num_bits_list", "4,8"], ["checkpoint.pt", "[4, 8, 32]", "num_bits_list has [4, 8]"]),
        (["--resume", "--opt", "adam"], ["checkpoint.pt", "optimiser"]),
        (["--eval_only", "--pretrain", "{tmp}/garbage.pt"], ["{tmp}/garbage.pt", "not a readable checkpoint"]),
        (["--eval_only", "--pretrain", "{run}/checkpoint.pt"], ["{run}/checkpoint.pt", "no 'arch'"]),
        (["--eval_only", "--save", "{tmp}/nowhere"], ["{tmp}/nowhere", "weights.pt"]),
        (["--eval_only", "--quantize_ends"], ["weights.pt", "weights of another architecture"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_overwrites_nothing(train_run, same_run, tmp_path, capsys, words, parts):
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir(parents=True)
    save_checkpoint(tmp_path / "unknown.pt", {"ops": ["k3_e3", "k9_e9"]})
    save_checkpoint(tmp_path / "short.pt", {"ops": ["k3_e3"]})
    save_checkpoint(tmp_path / "odd.pt", {"ops": [["k3_e3"], 5]})
    torch.save({"format": 99, "ops": ["skip", "skip"]}, tmp_path / "future.pt")
    here = {"tmp": tmp_path, "run": train_run.folder}
    before = contents(train_run.folder) | contents(tmp_path)
    capsys.readouterr()
    assert run(*same_run, "--overwrite", "--save", train_run.folder, *[word.format(**here) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    for part in parts:
        assert part.format(**here) in captured.err
    assert contents(train_run.folder) | contents(tmp_path) == before


def test_eval_only_of_truncated_weights(train_run, tmp_path, capsys):
    whole = (train_run.folder / "weights.pt").read_bytes()
    (tmp_path / "weights.pt").write_bytes(whole[: len(whole) * 2 // 3])
    assert run("--eval_only", "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/weights.pt" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"config": ["text"]},
        {"config": {"nepochs": "many"}},
        {"config": {"no_such_setting": 1}},
        {"arch": {}},
        {"arch": {"ops": ["k9_e9", "skip"]}},
        {"arch": None},
        {"bits": "4"},
        {"bits": [4, 8]},
        {"model": {}},
    ],
    ids=str,
)
def test_eval_only_of_a_weights_file_with_other_content(train_run, tmp_path, capsys, change):
    """Checkpoints are untrusted input: whatever is in them, one line."""
    content = load(train_run.folder / "weights.pt") | change
    torch.save(content, tmp_path / "weights.pt")
    assert run("--eval_only", "--save", tmp_path, "--device", "cpu") == 2
    err = capsys.readouterr().err
    assert "weights.pt" in err or "setting" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [{"epoch": "last"}, {"optimizer": {}}, {"optimizer": None}, {"model": None}],
    ids=str,
)
def test_resuming_from_other_content(train_run, same_run, tmp_path, capsys, change):
    shutil.copytree(train_run.folder, tmp_path / "run")
    content = load(train_run.folder / "checkpoint.pt") | change
    torch.save(content, tmp_path / "run" / "checkpoint.pt")
    before = contents(tmp_path)
    assert run(*same_run, "--save", tmp_path / "run", "--resume") == 2
    err = capsys.readouterr().err
    assert "checkpoint.pt" in err and err.count("\n") == 1
    assert contents(tmp_path) == before


def test_bad_input_in_a_process_of_its_own(tmp_path):
    result = run_script("train.py", "--load_path", str(tmp_path / "nowhere"), "--save", str(tmp_path / "new"))
    assert result.status == 2
    assert result.err.count("\n") == 1 and "nowhere" in result.err
    assert result.out == "" and not (tmp_path / "new").exists()


def test_a_loss_that_is_not_finite_stops_the_run(same_run, tmp_path, capsys, monkeypatch):
    """After a good epoch: the message names epoch, step, bit-width and the checkpoint, and that one stays."""
    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda C, epoch, done: 1e30 if epoch else rate(C, epoch, done))
    assert run(*same_run, "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the loss became" in err and "epoch 2, step 2" in err and re.search(r"at (4|8|32) bit", err)
    assert f"{tmp_path}/checkpoint.pt (epoch 1)" in err
    checkpoint = load(tmp_path / "checkpoint.pt")
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in checkpoint["model"].values())
    assert not (tmp_path / "weights.pt").exists()


def test_weights_that_are_not_finite_are_not_saved(same_run, tmp_path, capsys, monkeypatch):
    """The last step of an epoch can ruin the weights without a loss to show it."""
    updater = training.updater

    def ruinous(optimizer, parameters, grad_clip):
        update, calls = updater(optimizer, parameters, grad_clip), []

        def ruin():
            calls.append(1)
            update()
            if len(calls) == 4:  # the second epoch's second and last step
                parameters[3].data.view(-1)[0] = float("nan")

        return ruin

    monkeypatch.setattr(training, "updater", ruinous)
    assert run(*same_run, "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert "became NaN" in err and "epoch 2" in err and f"{tmp_path}/checkpoint.pt (epoch 1)" in err
    assert err.count("\n") == 1
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


# --- what else must not go wrong unseen


def test_an_architecture_searched_at_another_shape_is_refused_unless_it_is_meant(search_run, tmp_path, capsys):
    words = ["--preset", "smoke", "--load_path", search_run.folder, "--save", tmp_path, "--device", "cpu"]
    shape = ["--num_layer_list", "1,1", "--num_channel_list", "4,6", "--stride_list", "2,2", "--stem_channel", "4"]
    size = ["--image_height", "8", "--image_width", "8"]
    assert run(*words, *shape, *size) == 2  # header_channel is the default's, the search's was 8
    err = capsys.readouterr().err
    assert "header_channel = 8" in err and "1504" in err and "--header_channel" in err and err.count("\n") == 1
    assert run(*words, *shape, *size, "--header_channel", "16") == 0
    assert load(tmp_path / "weights.pt")["config"]["header_channel"] == 16


def test_a_recalibration_that_overflows_writes_no_weights(arch, tmp_path, monkeypatch, capsys):
    def overflow(model, bits, batches, reset, images_in):
        next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean[0] = float("inf")

    monkeypatch.setattr(recalibration, "recalibrate", overflow)
    assert run(*QUICK, "--load_path", arch, "--save", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "NaN or infinite" in err and err.count("\n") == 1
    assert not (tmp_path / "out" / "weights.pt").exists()


def test_weights_that_are_not_finite_are_refused(train_run, tmp_path, capsys):
    content = load(train_run.folder / "weights.pt")
    content["model"]["stem.conv.weight"][0] = float("nan")
    save_checkpoint(tmp_path / "weights.pt", content)
    assert run("--eval_only", "--pretrain", tmp_path, "--device", "cpu") == 2
    assert "diverged" in capsys.readouterr().err


def test_eval_only_takes_the_network_of_the_weights_whatever_the_preset(train_run, capsys):
    assert run("--eval_only", "--pretrain", train_run.folder, "--preset", "digits", "--device", "cpu") == 0
    assert set(percentages(capsys.readouterr().out)) == {4, 8, 32}


def test_as_released_both_accuracies_are_told(arch, tmp_path, capsys):
    assert run(*QUICK, "--load_path", arch, "--save", tmp_path / "out", "--recalibration", "all") == 0
    out = capsys.readouterr().out
    assert "each bit-width recalibrated alone" in out and "accuracy of weights.pt" in out
    reported = json.loads((tmp_path / "out" / "result.json").read_text())["accuracy"]
    assert set(reported) == {"4", "8", "32"}


def test_resuming_with_other_settings_says_so(arch, tmp_path, capsys):
    words = [*QUICK, "--load_path", arch, "--save", tmp_path / "out"]
    assert run(*words) == 0
    capsys.readouterr()
    assert run(*words, "--resume", "--nepochs", "2", "--teachers", "none") == 0
    out = capsys.readouterr().out
    assert "teachers was 'cascade' before, and is 'none'" in out and "nepochs was 1" in out
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [0, 1]


def test_pretrain_of_other_bit_widths_calibrates_what_is_missing(train_run, same_run, tmp_path, capsys):
    words = ["--num_bits_list", "4,6", "--pretrain", train_run.folder, "--save", tmp_path]
    assert run(*same_run, *words, "--nepochs", 0, "--update_bn", "no") == 0
    assert "trained at [4, 8, 32] bit; 6 bit calibrated" in capsys.readouterr().out
    before, after = load(train_run.folder / "weights.pt"), load(tmp_path / "weights.pt")
    assert after["accuracy"][4] == before["accuracy"][4] and after["bits"] == [4, 6]
