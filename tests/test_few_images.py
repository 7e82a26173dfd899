"""Training on the first images of each class (`images_per_class`), and the accuracy on them (`train_accuracy`)."""

import json

import pytest
import torch
from tiny_runs import TINY_NETWORK, run_here

from instantnet import train
from instantnet.dataloader import load_data
from instantnet.engine.errors import UserError

WORDS = ["--preset", "digits", *TINY_NETWORK, "--network", "resnet38", "--width_mult", "0.125", "--nepochs", "1"]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", "", 8, 8)


@pytest.mark.parametrize("count", [1, 20])
def test_the_first_of_each_class_in_their_order(digits, count):
    chosen = digits.first_of_each_class(count)
    labels = digits.train.labels
    assert torch.equal(labels[chosen].bincount(), torch.full((10,), count))
    assert torch.equal(chosen, chosen.sort().values)
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        assert torch.equal(chosen[labels[chosen] == label], of_class[:count])


def test_all_by_default_and_no_more_than_there_are(digits):
    assert torch.equal(digits.first_of_each_class(0), torch.arange(len(digits.train)))
    with pytest.raises(UserError, match=r"images_per_class = 1000: class 0 has 14[0-9] images for training in digits"):
        digits.first_of_each_class(1000)


def test_the_accuracy_on_images_that_were_trained_on(tmp_path, capsys):
    """A network that learns 10 images by heart knows these, and hardly any other."""
    words = [*WORDS, "--images_per_class", "1", "--train_accuracy", "true", "--num_bits_list", "8,32"]
    words += [
        "--nepochs",
        "40",
        "--batch_size",
        "10",
        "--crop_padding",
        "0",
        "--eval_epoch",
        "40",
        "--teachers",
        "none",
    ]
    assert run_here(train, *words, "--save", tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["train_accuracy"]) == list(result["accuracy"]) == ["8", "32"]
    assert all(share % 10 == 0 for share in result["train_accuracy"].values()), "of ten images"
    assert min(result["train_accuracy"].values()) >= 80 > max(result["accuracy"].values())
    shown = capsys.readouterr().out
    assert "train on digits: 10 images, 360 to test" in shown and "on training images, %:  8b" in shown


def test_not_measured_unless_asked_for(tmp_path):
    assert run_here(train, *WORDS, "--max_steps", "1", "--save", tmp_path) == 0
    assert "train_accuracy" not in json.loads((tmp_path / "result.json").read_text())
