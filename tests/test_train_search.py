"""Stage 1 as a user runs it: what it writes and prints, that it repeats and resumes, and what it says to bad input."""

import json
import os
import random
import re
import shutil

import pytest
import torch
from tiny_runs import TINY_NETWORK, TINY_SEARCH, contents, load, run_here, run_script, same_tensors

from config_search import C as SEARCH_C
from config_train import C as TRAIN_C
from instantnet import searching, train_search, training
from instantnet.engine import run as run_module
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision
from instantnet.settings.presets import SEARCH as SEARCH_PRESETS
from instantnet.settings.presets import TRAIN as TRAIN_PRESETS
from instantnet.settings.schema import from_command_line

QUICK = ["--preset", "smoke", *TINY_NETWORK, "--image_height", "8", "--image_width", "8", "--device", "cpu"]


def search(*words: str) -> int:
    return run_here(train_search, *words)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- a run in a fork of this process, see conftest.py


def test_it_ends_well_and_says_where_its_output_is(search_run):
    assert search_run.status == 0, search_run.err
    assert "Traceback" not in search_run.err
    assert f"wrote {search_run.folder}/arch.pt" in search_run.out
    assert re.search(r"^next: .*python train.py --preset digits", search_run.out, re.MULTILINE)


def test_the_files_are_there(search_run):
    names = set(os.listdir(search_run.folder))
    assert {"arch.pt", "checkpoint.pt", "logs.txt", "metrics.jsonl", "settings.json"} <= names
    events = [name for name in names if name.startswith("events.out.tfevents")]
    assert len(events) == 1
    assert names == {"arch.pt", "checkpoint.pt", "logs.txt", "metrics.jsonl", "settings.json", *events}
    content = (search_run.folder / events[0]).read_bytes()
    for tag in (b"accuracy/4_bits", b"accuracy/32_bits", b"loss/8_bits", b"alpha_loss/4_bits", b"flops", b"lr"):
        assert tag in content


def test_metrics_per_epoch_and_bit_width(search_run):
    epochs = lines(search_run.folder)
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    for number, line in enumerate(epochs):
        assert set(line["loss"]) == set(line["accuracy"]) == {"4", "8", "32"}
        assert all(0 <= value <= 100 for value in line["accuracy"].values())
        assert set(line["alpha_loss"]) == {"4"}, "alpha learns from the lowest bit-width"
        assert line["temperature"] == pytest.approx(3.0 * 0.8**number)
        assert {"flops", "flops_weight", "lr", "images_per_s"} <= set(line)
    log = (search_run.folder / "logs.txt").read_text()
    assert "epoch   1/3" in log and "epoch   3/3" in log and "4b" in log and "32b" in log


def test_settings_are_saved_printed_and_in_the_files(search_run):
    saved = json.loads((search_run.folder / "settings.json").read_text())["settings"]
    assert (saved["dataset"], saved["nepochs"], saved["num_classes"]) == ("digits", 3, 10)
    for name in ("arch.pt", "checkpoint.pt"):
        assert load(search_run.folder / name)["config"] == saved
    assert "num_bits_list" in search_run.out and "torch" in search_run.out


def test_arch_pt(search_run):
    """Its content as the design states it, and true."""
    arch = load(search_run.folder / "arch.pt")
    assert set(arch) == {"format", "kind", "network", "quantizer", "bits", "data", "version", "commit"} | {
        "ops",
        "alpha",
        "flops",
        "accuracy",
        "epoch",
        "config",
    }
    assert len(arch["ops"]) == 2 and set(arch["ops"]) <= set(OPERATIONS)
    assert arch["alpha"].shape == (2, 9)
    assert arch["ops"] == [list(OPERATIONS)[i] for i in arch["alpha"].argmax(-1)]
    assert not arch["alpha"].eq(1e-3).any(), "alpha has moved"
    assert sorted(arch["accuracy"]) == [4, 8, 32]
    assert arch["accuracy"] == {int(b): v for b, v in lines(search_run.folder)[arch["epoch"]]["accuracy"].items()}
    supernet = Supernet(Geometry.from_settings(arch["config"]), Precision([4]))
    with torch.no_grad():
        supernet.alpha.copy_(arch["alpha"])
    assert supernet.derived_flops() == arch["flops"]


def test_two_runs_with_one_seed_agree_bit_for_bit(search_run, tmp_path):
    """In another process, with other random state before it."""
    torch.manual_seed(99)
    random.seed(99)
    assert search(*TINY_SEARCH, "--save", tmp_path) == 0
    for name in ("arch.pt", "checkpoint.pt"):
        assert same_tensors(load(search_run.folder / name), load(tmp_path / name))
    first, second = lines(search_run.folder), lines(tmp_path)
    for line in first + second:
        del line["images_per_s"]
    assert first == second


def test_another_seed_gives_another_result(search_run, tmp_path):
    assert search(*TINY_SEARCH, "--save", tmp_path, "--seed", "1") == 0
    assert not same_tensors(load(search_run.folder / "checkpoint.pt"), load(tmp_path / "checkpoint.pt"))


def interrupted_at(count, function):
    """`function`, but its `count`-th call is Ctrl-C."""
    calls = []

    def call(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


@pytest.mark.parametrize(
    "name, call, epochs_done",
    [("finite_losses", 7, 1), ("next_flops_weight", 3, 2)],
    ids=["within the second epoch", "after arch.pt and before checkpoint.pt of the third"],
)
def test_resume_equals_the_undisturbed_run(search_run, tmp_path, monkeypatch, name, call, epochs_done):
    run = [*TINY_SEARCH, "--save", tmp_path]
    module = run_module if name == "finite_losses" else train_search
    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted_at(call, getattr(module, name)))
        assert search(*run) == 130
    assert load(tmp_path / "checkpoint.pt")["epoch"] == epochs_done
    torch.manual_seed(123)
    assert search(*run, "--resume") == 0
    for file in ("arch.pt", "checkpoint.pt"):
        assert same_tensors(load(search_run.folder / file), load(tmp_path / file))
    epochs = [line["epoch"] for line in lines(tmp_path)]
    assert sorted(set(epochs)) == [0, 1, 2]
    assert len([file for file in os.listdir(tmp_path) if file.startswith("events")]) == 2


def test_resuming_a_finished_run_changes_nothing_found(search_run, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(search_run.folder, folder)
    assert search(*TINY_SEARCH, "--save", folder, "--resume") == 0
    assert f"wrote {folder}/arch.pt" in capsys.readouterr().out
    for name in ("arch.pt", "checkpoint.pt"):
        assert same_tensors(load(search_run.folder / name), load(folder / name))


# --- who learns from what


@pytest.fixture
def passes(monkeypatch):
    """Every forward pass of the supernet: bit-width, whether it records statistics, its weights of the operations."""
    seen = []
    forward = Supernet._weights_of_pass

    def watched(self):
        weights, soft = forward(self)
        if self.training:
            seen.append((self.precision.bits, self.precision.track_statistics, weights.detach().clone()))
        return weights, soft

    monkeypatch.setattr(Supernet, "_weights_of_pass", watched)
    monkeypatch.setattr(Supernet, "expected_flops", lambda self: (self.alpha * 0).sum())
    return seen


@pytest.mark.parametrize(
    "preset, weights, alpha",
    [("sp_nas", [32, 8, 4], 4), ("fp_nas", [32], 32), ("lp_nas", [4], 4)],
)
def test_search_baselines(tmp_path, passes, preset, weights, alpha):
    assert search(*QUICK, "--preset", f"smoke,{preset}", "--save", tmp_path) == 0
    assert [(bits, records) for bits, records, _ in passes] == [(alpha, False)] + [(bits, True) for bits in weights]
    arch, (line,) = load(tmp_path / "arch.pt"), lines(tmp_path)
    assert sorted(arch["accuracy"]) == sorted(weights)
    assert list(line["alpha_loss"]) == [str(alpha)]


@pytest.mark.parametrize("noise, distinct", [("per_step", 1), ("per_forward", 3)])
def test_gumbel_samples_of_a_step(tmp_path, passes, noise, distinct):
    assert search(*QUICK, "--max_steps", 2, "--gumbel_noise", noise, "--save", tmp_path) == 0
    assert len(passes) == 8
    for step in (0, 4):
        of_weights = [tuple(w.flatten().tolist()) for _, _, w in passes[step + 1 : step + 4]]
        assert len(set(of_weights)) == distinct
    assert not torch.equal(passes[1][2], passes[5][2]), "each step draws anew"


def test_weights_and_alpha_learn_from_different_images(tmp_path, monkeypatch):
    from instantnet import dataloader

    halves = []
    split = dataloader.split_indices
    monkeypatch.setattr(train_search, "split_indices", lambda *a, **k: halves.append(split(*a, **k)) or halves[-1])
    for choice in ("random", "index"):
        assert search(*QUICK, "--split", choice, "--save", tmp_path / choice) == 0
    for weights, alpha in halves:
        assert sorted([*weights.tolist(), *alpha.tolist()]) == list(range(64))
    assert halves[1][0].tolist() == list(range(32)), "released: the first half and the second"
    assert halves[0][0].tolist() != list(range(32))


# --- which architecture is kept


def run_with(monkeypatch, folder, *words, flops, accuracies):
    """A search whose epochs find `flops` and validate to `accuracies` at 4 bit (and something else at the others)."""
    accuracies = iter(accuracies)
    flops = iter([value for value in flops for _ in ("within the window", "layer by layer")])
    monkeypatch.setattr(Supernet, "derived_flops", lambda self, ops: next(flops))
    monkeypatch.setattr(
        train_search, "validate", lambda *_: {4: float(next(accuracies)), 8: 50.0, 32: 100 * random.random()}
    )
    assert search(*QUICK, *words, "--flops_min", 100, "--flops_max", 200, "--save", folder) == 0
    return load(folder / "arch.pt")


def test_the_best_inside_the_window_is_kept(tmp_path, monkeypatch):
    """Epoch 1 has more accuracy but too many FLOPs; epoch 3 the highest lowest-bit accuracy of those inside."""
    flops, accuracies = [150, 900, 200, 100, 130], [10, 99, 30, 40, 40]
    arch = run_with(monkeypatch, tmp_path, "--nepochs", 5, flops=flops, accuracies=accuracies)
    assert (arch["epoch"], arch["flops"], arch["accuracy"][4]) == (3, 100, 40)


def test_the_last_is_kept_where_asked(tmp_path, monkeypatch):
    arch = run_with(
        monkeypatch, tmp_path, "--nepochs", 3, "--arch_choice", "last", flops=[150, 150, 900], accuracies=[90, 50, 1]
    )
    assert arch["epoch"] == 2


def test_where_none_is_inside_the_nearest_is_kept_and_said(tmp_path, monkeypatch, capsys):
    arch = run_with(monkeypatch, tmp_path, "--nepochs", 3, flops=[900, 250, 10], accuracies=[99, 20, 50])
    assert arch["epoch"] == 1
    assert "no epoch's architecture was inside" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))])
def test_every_epoch_ends_inside_a_window_of_a_tenth(tmp_path, seed):
    """Layer by layer the most probable operations jump over it; together within the window they do not."""
    words = ["--preset", "smoke", "--seed", seed, "--nepochs", 4, "--image_height", 8, "--image_width", 8]
    words += ["--num_layer_list", "2,2", "--num_channel_list", "8,12", "--stride_list", "1,2", "--header_channel", 16]
    words += ["--flops_min", 250e3, "--flops_max", 275e3, "--arch_learning_rate", 1, "--device", "cpu"]
    words += ["--num_bits_list", 4]
    assert search(*words, "--save", tmp_path / "window") == 0
    assert all(250e3 <= row["flops"] <= 275e3 for row in lines(tmp_path / "window"))
    arch = load(tmp_path / "window/arch.pt")
    geometry = Geometry.from_settings(arch["config"] | {"num_classes": 10}, num_classes=10)
    assert Supernet(geometry, Precision([4, 8, 32])).derived_flops(arch["ops"]) == arch["flops"]
    assert search(*words, "--derivation", "argmax", "--save", tmp_path / "argmax") == 0
    assert not all(250e3 <= row["flops"] <= 275e3 for row in lines(tmp_path / "argmax"))


@pytest.mark.sample(2)
@pytest.mark.parametrize("window, reached", [((0, 1), False), ((1e9, 2e9), False), ((0, 2e9), True), (None, True)])
def test_a_window_that_no_candidate_reaches_is_said_before_the_first_step(tmp_path, capsys, window, reached):
    C = from_command_line(SEARCH_C, SEARCH_PRESETS, QUICK, "")
    geometry = Geometry.from_settings(C.to_dict(), num_classes=10)
    supernet = Supernet(geometry, Precision([4, 8, 32]))
    low, high = supernet.flops_range()
    for op, choose in ((min, torch.argmin), (max, torch.argmax)):
        supernet.alpha.data.zero_().scatter_(1, choose(supernet.flops_table, dim=1, keepdim=True), 1.0)
        assert supernet.derived_flops() == {min: low, max: high}[op]
    window = window or (high, high)
    assert search(*QUICK, "--flops_min", window[0], "--flops_max", window[1], "--save", tmp_path) == 0
    before, _ = capsys.readouterr().out.split("epoch   1/1")
    said = f"no candidate reaches the window flops_min = {window[0] / 1e6:g} to flops_max = {window[1] / 1e6:g} MFLOPs"
    assert (said in before) == (not reached)
    if not reached:
        assert f"the smallest has {low / 1e6:.4g}, the largest {high / 1e6:.4g}" in before


def test_lambda_follows_the_window_after_every_epoch(tmp_path, monkeypatch):
    """Not only after those that are validated."""
    words = ["--nepochs", 6, "--flops_weight", 8, "--eval_epoch", 3]
    run_with(monkeypatch, tmp_path, *words, flops=[90, 90, 150, 300, 100, 200], accuracies=range(6))
    assert [line["flops_weight"] for line in lines(tmp_path)] == [8, 4, 2, 2, 4, 4]
    assert ["accuracy" in line for line in lines(tmp_path)] == [(i + 1) % 3 == 0 for i in range(6)]


def test_validation(geometry, monkeypatch):
    """Noise-free by default; as released with fresh noise, each figure the mean of those so far."""
    from config_search import C

    supernet = Supernet(geometry, Precision([4, 8, 32]))
    supernet.sample()
    seen = []

    def accuracy(model, batches, bit_widths, max_steps, total):
        seen.append((model.noise_per_forward, model.op_weights))
        return {4: 10.0, 8: 20.0, 32: 60.0}

    monkeypatch.setattr(searching, "accuracy", accuracy)
    assert searching.validate(supernet, [], (4, 8, 32), C, 0) == {4: 10, 8: 20, 32: 60}
    released = C.replaced(validation="released", gumbel_noise="per_forward")
    assert searching.validate(supernet, [], (4, 8, 32), released, 0) == {4: 10, 8: 15, 32: 30}
    assert seen == [(False, None), (True, None)]
    assert supernet.noise_per_forward is True, "training goes on as it was"


# --- presets and settings


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "words",
    [
        ["--preset", "cifar10,smoke"],
        ["--preset", "image_folder,smoke"],
        ["--preset", "digits,released,smoke"],
        ["--preset", "smoke", "--quantize_ends"],
        ["--preset", "smoke", "--sample_func", "softmax", "--opt", "adam", "--channels_last", "no"],
        ["--preset", "smoke", "--bit_schedule", "low2high", "--alpha_step", "separate"],
        ["--preset", "smoke", "--num_bits_list", "32"],
        ["--preset", "smoke", "--num_bits_list", "8,4", "--loss_scale", "1,2", "--flops_weight", "0"],
    ],
    ids=" ".join,
)
def test_smoke(tmp_path, words):
    assert search(*QUICK[2:], *words, "--save", tmp_path) == 0
    assert load(tmp_path / "arch.pt")["ops"]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_of_the_images(shuffle, tmp_path, monkeypatch):
    """A new one every epoch; the same one where shuffling is off, as released."""
    seen = []
    step = train_search.Cascade.step

    def watched(self, model, images, labels, *rest):
        seen.append(images.clone())
        return step(self, model, images, labels, *rest)

    monkeypatch.setattr(train_search.Cascade, "step", watched)
    words = ["--nepochs", 2, "--max_steps", 1, "--batch_size", 16, "--flip", "no", "--crop_padding", 0]
    assert search(*QUICK, *words, "--shuffle", shuffle, "--save", tmp_path) == 0
    first, second = seen
    assert torch.equal(first, second) is not shuffle


def test_pretrain_starts_from_a_checkpoint(search_run, tmp_path):
    assert search(*TINY_SEARCH, "--save", tmp_path, "--pretrain", search_run.folder, "--nepochs", 1) == 0


def test_the_next_command_builds_the_same_network(tmp_path, capsys):
    """Whatever of data and network was given on the command line goes along with it."""
    import shlex

    words = [
        "--num_channel_list",
        "6,8",
        "--stem_stride",
        "2",
        "--quantize_ends",
        "--image_width",
        "10",
        "--skip_broken",
    ]
    folder = tmp_path / "a folder"
    assert search(*QUICK, *words, "--save", folder) == 0
    (command,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    next_words = shlex.split(command)[3:]
    C, arch = from_command_line(TRAIN_C, TRAIN_PRESETS, next_words, ""), load(folder / "arch.pt")
    assert C.load_path == str(folder)
    settings = {**C.to_dict(), "num_classes": 10}
    assert Geometry.from_settings(settings) == Geometry.from_settings(arch["config"])
    assert (C.dataset, C.num_bits_list, C.skip_broken) == ("random", [4, 8, 32], True)


# --- bad input


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--nepoch", "3"], ["nepochs"]),
        (["--num_bits_list", "4,1.5"], ["num_bits_list", "1.5"]),
        (["--flops_min", "2e9", "--flops_max", "1e9"], ["flops_min", "flops_max"]),
        (["--stride_list", "1,2,1"], ["stride_list"]),
        (["--device", "abacus"], ["device", "abacus", "cpu"]),
        (["--device", "meta"], ["device", "meta", "cpu"]),
        (["--dataset", "image_folder", "--dataset_path", "{tmp}/nowhere"], ["{tmp}/nowhere", "--preset digits"]),
        (["--num_classes", "7"], ["num_classes", "7", "10"]),
        (["--pretrain", "{tmp}/nowhere.pt"], ["{tmp}/nowhere.pt", "no such file"]),
        (["--pretrain", "{tmp}/garbage.pt"], ["{tmp}/garbage.pt", "not a readable checkpoint"]),
        (["--pretrain", "{run}/arch.pt"], ["{run}/arch.pt", "no 'model'"]),
        (["--resume", "--num_channel_list", "4,8"], ["checkpoint.pt", "weights of another architecture"]),
        (["--resume", "--opt", "adam"], ["checkpoint.pt", "optimiser"]),
        (["--batch_size", "100000"], ["batch_size", "100000"]),
        (["--train_portion", "1e-9"], ["train_portion"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_overwrites_nothing(search_run, tmp_path, capsys, words, parts):
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    here = {"tmp": tmp_path, "run": search_run.folder}
    before = contents(search_run.folder)
    given = [word.format(**here) for word in words] + ([] if "--resume" in words else ["--overwrite"])
    assert search(*TINY_SEARCH, "--save", search_run.folder, *given) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part.format(**here) in err
    assert contents(search_run.folder) == before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 100])
def test_a_damaged_checkpoint_is_not_resumed_from(search_run, tmp_path, capsys, damage):
    shutil.copytree(search_run.folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    before = contents(tmp_path)
    assert search(*TINY_SEARCH, "--save", tmp_path / "run", "--resume") == 2
    err = capsys.readouterr().err
    assert str(path) in err and err.count("\n") == 1
    assert contents(tmp_path) == before


def test_resume_without_a_checkpoint(tmp_path, capsys):
    assert search(*TINY_SEARCH, "--save", tmp_path / "new", "--resume") == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert search(*TINY_SEARCH, "--save", tmp_path / "file") == 2
    err = capsys.readouterr().err
    assert "save" in err and str(tmp_path / "file") in err and err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_bad_input_in_a_process_of_its_own(tmp_path):
    result = run_script("train_search.py", "--preset", "digits", "--temp_inti", "3", "--save", str(tmp_path / "new"))
    assert result.status == 2
    assert result.err.count("\n") == 1 and "'temp_init'" in result.err
    assert result.out == "" and not (tmp_path / "new").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys, monkeypatch):
    """After a good epoch: the message names epoch, step, bit-width and the checkpoint, and that one stays."""
    rate = train_search.learning_rate
    monkeypatch.setattr(train_search, "learning_rate", lambda C, epoch, done: 1e30 if epoch else rate(C, epoch, done))
    assert search(*TINY_SEARCH, "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the loss became" in err and "epoch 2, step 2" in err and " bit" in err
    assert f"{tmp_path}/checkpoint.pt (epoch 1)" in err
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1 and load(tmp_path / "arch.pt")["epoch"] == 0
    assert [line["epoch"] for line in lines(tmp_path)] == [0]


def test_no_good_checkpoint_yet(tmp_path, capsys):
    assert search(*TINY_SEARCH, "--save", tmp_path, "--lr", "1e30") == 2
    assert "last good checkpoint: none yet" in capsys.readouterr().err
    assert not (tmp_path / "arch.pt").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path, capsys, monkeypatch):
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
    assert search(*TINY_SEARCH, "--save", tmp_path) == 2
    err = capsys.readouterr().err
    assert "became NaN" in err and "epoch 2" in err and f"{tmp_path}/checkpoint.pt (epoch 1)" in err
    assert err.count("\n") == 1
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_a_mistake_in_the_next_stages_settings_is_found_before_the_search(tmp_path, monkeypatch, capsys):
    (tmp_path / "config_train.py").write_text("from instantnet.settings.stages import TrainSettings\n\nC = 3\n")
    monkeypatch.chdir(tmp_path)
    assert search("--preset", "digits,smoke", *TINY_NETWORK, "--save", tmp_path, "--device", "cpu") == 2
    assert "config_train.py: does not define C" in capsys.readouterr().err
    assert not (tmp_path / "arch.pt").exists() and not (tmp_path / "logs.txt").exists()


def test_resuming_restores_the_architecture(search_run, tmp_path):
    shutil.copytree(search_run.folder, tmp_path / "run")
    (tmp_path / "run" / "arch.pt").unlink()
    assert search(*TINY_SEARCH, "--save", tmp_path / "run", "--resume") == 0
    assert same_tensors(load(tmp_path / "run" / "arch.pt"), load(search_run.folder / "arch.pt"))


def test_alpha_and_weights_of_a_step_share_one_sample_of_the_noise(tmp_path, monkeypatch):
    drawn = []
    sample = train_search.Supernet.sample

    def recorded(self):
        state = self.generator.get_state()
        sample(self)
        drawn.append(state)

    monkeypatch.setattr(train_search.Supernet, "sample", recorded)
    words = [*TINY_SEARCH, "--preset", "digits", "--nepochs", "1", "--max_steps", "2", "--save", tmp_path]
    assert search(*words) == 0
    assert len(drawn) == 4 and torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])
