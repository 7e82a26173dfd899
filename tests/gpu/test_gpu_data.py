"""Data on the GPU: images lie there as bytes, batches are made there, and are those of the CPU bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from instantnet.dataloader import load_data
from instantnet.engine.loop import accuracy

pytestmark = pytest.mark.gpu

BATCHES = {"batch_size": 24, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two classes, of several sizes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for subset, count in (("train", 30), ("val", 15)):
        for name in ("cat", "dog"):
            (folder / subset / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (10 + index % 3, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / subset / name / f"{index}.png")
    return folder


def assert_same_batches(device, subset, *words, **options):
    """From the start of an epoch, and from its second batch on."""
    here, there = (load_data(*words, **options, device=where).batches(subset, **BATCHES) for where in ("cpu", device))
    assert len(here) == len(there) > 1
    for first in (0, 1):
        for batches in (here, there):
            batches.set_epoch(5)
        pairs = zip(here.iterate_from(first), there.iterate_from(first), strict=True)
        for (images, labels), (own_images, own_labels) in pairs:
            assert {own_images.device.type, own_labels.device.type} == {device.type}
            assert torch.equal(own_images.cpu(), images) and torch.equal(own_labels.cpu(), labels)


@pytest.mark.parametrize("subset", ["train", "test"])
@pytest.mark.parametrize("flip", [True, False])
def test_batches_of_images_in_memory(device, subset, flip):
    assert_same_batches(device, subset, "digits", "", 8, 8, crop_padding=1, flip=flip)


def test_images_in_memory_are_bytes_on_the_device(device, folder):
    for words in (("digits", "", 8, 8), ("random", "", 8, 8), ("image_folder", folder, 8, 8)):
        data = load_data(*words, device=device, crop_padding=1)
        for images in (data.train, data.test):
            assert images.images.dtype == torch.uint8
            assert {images.images.device.type, images.labels.device.type} == {device.type}


@pytest.mark.parametrize("subset", ["train", "test"])
@pytest.mark.parametrize("options", [{"memory_limit_mb": 0, "num_workers": 2}, {"memory_limit_mb": 0}, {}], ids=str)
def test_batches_of_a_folder(device, folder, subset, options):
    """Streamed by worker processes, by this process, and held in memory."""
    words = "imagenet" if options.get("num_workers") == 2 else "image_folder", folder, 8, 8
    assert_same_batches(device, subset, *words, crop_padding=1, **options)


def test_accuracy_counts_on_the_device(device):
    """A last batch that is smaller; labels that are known."""
    batches = load_data("digits", "", 8, 8, device=device).batches("test", batch_size=100)
    labels = torch.cat([labels for _, labels in batches])

    class Constant(torch.nn.Module):
        def forward(self, images, num_bits):
            return torch.nn.functional.one_hot(torch.full((len(images),), num_bits, device=images.device), 10).float()

    share = {digit: 100 * float((labels == digit).double().mean()) for digit in (3, 8)}
    assert accuracy(Constant(), batches, [3, 8]) == pytest.approx(share)
