"""Data sets to batches: what a batch holds, that it is repeatable, and what bad data is answered with."""

import os
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import dataloader
from dataloader import crop_and_flip, load_data, split_indices
from runtime.errors import UserError

CLASSES = ("ape", "bee", "cat")


def write_folders(root, *, height=6, width=5, train=7, test=4, classes=CLASSES, test_name="val"):
    """Write PNG noise; pixel [0, 0] of the red channel is the class, so that labels can be checked from the pixels."""
    noise = np.random.default_rng(0)
    for subset, count in (("train", train), (test_name, test)):
        for label, name in enumerate(classes):
            folder = root / subset / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
                pixels[0, 0, 0] = label
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", "", 8, 8, 10)


@pytest.fixture(scope="module")
def noise():
    return load_data("random", "", 6, 5, 4, random_images=(50, 21), crop_padding=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("images"))


def all_of(batches, start=0):
    return list(batches.iterate_from(start))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for pair in zip(a, b, strict=True) for x, y in zip(*pair, strict=True)
    )


def pixels_of(data, images):
    """Undo the normalisation: uint8 [B, 3, H, W]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    scaled = (images * std + mean) * 255
    assert (scaled - scaled.round()).abs().max() < 1e-3
    return scaled.round().to(torch.uint8)


# --- data sets ---------------------------------------------------------------------------------------------------


def test_digits_counts_and_classes(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.num_classes == 10 and digits.in_memory
    assert digits.class_names == [str(digit) for digit in range(10)]
    for part in (digits.train, digits.test):
        share = torch.bincount(part.labels, minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01  # stratified; the whole set is this even


def test_digits_are_the_whole_of_scikit_learns(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = sorted(
        (*np.rint(x.ravel() * 255 / 16).astype(int), y) for x, y in zip(source.images, source.target, strict=True)
    )
    got = sorted(
        (*x[0].flatten().tolist(), y)
        for part in (digits.train, digits.test)
        for x, y in zip(part.images, part.labels.tolist(), strict=True)
    )
    assert [tuple(map(int, row)) for row in expected] == got
    assert torch.equal(digits.train.images[:, 0], digits.train.images[:, 2])  # grey, replicated


def test_digits_are_resized():
    data = load_data("digits", "", 16, 12, 10)
    assert data.train.images.shape == (1437, 3, 16, 12)
    assert data.train.images.dtype == torch.uint8


def test_digits_test_set_is_always_the_same(digits):
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(load_data("digits", "", 8, 8, 10).test.images, digits.test.images)


def test_random_images_have_the_size_asked_for(noise):
    assert noise.train.images.shape == (50, 3, 6, 5) and noise.test.images.shape == (21, 3, 6, 5)
    assert noise.num_classes == 4 and set(noise.train.labels.tolist()) == {0, 1, 2, 3}
    again = load_data("random", "", 6, 5, 4, random_images=(50, 21))
    assert torch.equal(noise.train.images, again.train.images)


def fake_cifar(pixels, targets):
    def source(root, train, download):
        assert download
        part = slice(0, 4) if train else slice(4, 6)
        return SimpleNamespace(data=pixels[part], targets=targets[part], classes=[f"class {i}" for i in range(10)])

    return source


def test_cifar_pixels_and_labels(monkeypatch, tmp_path):
    from torchvision import datasets

    pixels = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(datasets, "CIFAR10", fake_cifar(pixels, [3, 1, 4, 1, 5, 9]))
    data = load_data("cifar10", tmp_path, 32, 32, 10)
    assert data.train.labels.tolist() == [3, 1, 4, 1] and data.test.labels.tolist() == [5, 9]
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), pixels[4:])
    assert load_data("cifar10", tmp_path, 16, 16, 10).train.images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_image_folder_pixels_and_labels(tmp_path, test_name):
    data = load_data("image_folder", write_folders(tmp_path, test_name=test_name), 6, 5, 3)
    assert data.in_memory and data.class_names == list(CLASSES)
    assert (len(data.train), len(data.test)) == (21, 12)
    for part in (data.train, data.test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert torch.bincount(part.labels).tolist() == [len(part) // 3] * 3
    with Image.open(tmp_path / "train" / "bee" / "000.png") as file:
        assert np.array_equal(data.train.images[7].permute(1, 2, 0).numpy(), np.asarray(file))


def test_image_folder_reads_grey_and_transparent_images_and_resizes(tmp_path):
    write_folders(tmp_path, classes=("a",), train=1, test=1)
    Image.new("L", (30, 20), 77).save(tmp_path / "train" / "a" / "grey.jpeg")
    Image.new("RGBA", (9, 9), (10, 20, 30, 40)).save(tmp_path / "train" / "a" / "transparent.PNG")
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    images = load_data("image_folder", tmp_path, 4, 8, 1).train.images
    assert images.shape == (3, 3, 4, 8)
    assert (images[1] == 77).all()
    assert images[2, :, 0, 0].tolist() == [10, 20, 30]


def test_streamed_folder_equals_decoded_folder(folders):
    decoded = load_data("image_folder", folders, 6, 5, 3)
    streamed = load_data("image_folder", folders, 6, 5, 3, memory_limit_bytes=0)
    assert decoded.in_memory and not streamed.in_memory
    assert (streamed.mean, streamed.std) == (decoded.mean, decoded.std)  # the sample holds all 21 images
    for subset in ("test", "train"):  # train: augmented alike, too
        batches = [data.batches(subset, batch_size=5, seed=3) for data in (streamed, decoded)]
        assert same(*map(all_of, batches))


def test_workers_do_not_change_the_images(folders):
    for limit in (0, 1 << 20):
        one, two = (
            load_data("image_folder", folders, 9, 9, 3, num_workers=workers, memory_limit_bytes=limit)
            for workers in (0, 2)
        )
        assert one.mean == two.mean
        assert same(all_of(one.batches(batch_size=4)), all_of(two.batches(batch_size=4)))


def test_imagenet_streams_with_its_published_statistics(folders):
    data = load_data("imagenet", folders, 8, 8, 3)
    assert not data.in_memory
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)
    [(images, labels)] = all_of(data.batches("test", batch_size=12))
    assert images.shape == (12, 3, 8, 8) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    from torchvision.transforms import v2

    with Image.open(folders / "val" / "bee" / "001.png") as file:
        expected = v2.CenterCrop(8)(v2.Resize(9)(file.convert("RGB")))
    assert np.array_equal(pixels_of(data, images)[5].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_imagenet_subset_is_the_first_classes(folders):
    data = load_data("imagenet", folders, 8, 8, 2)
    assert data.class_names == ["ape", "bee"]
    assert (len(data.train), len(data.test)) == (14, 8)


def test_imagenet_augmentation_depends_on_seed_and_epoch_only(folders):
    alone, helped = (load_data("imagenet", folders, 8, 8, 3, num_workers=workers) for workers in (0, 2))
    batches = alone.batches(batch_size=8, seed=1)
    first = all_of(batches)
    assert same(first, all_of(helped.batches(batch_size=8, seed=1)))
    assert same(first[1:], all_of(batches, 1))
    plain = alone.batches(batch_size=8, augment=False, shuffle=False)
    epochs = []
    for epoch in range(2):
        augmented = alone.batches(batch_size=8, shuffle=False)
        augmented.set_epoch(epoch)
        epochs.append(all_of(augmented))
    assert not same(*epochs) and not same(epochs[0], all_of(plain))


# --- statistics --------------------------------------------------------------------------------------------------


def test_statistics_are_exact(noise):
    pixels = noise.train.images.double() / 255
    assert noise.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert noise.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["digits", "random"])
def test_training_set_is_normalised(name):
    data = load_data(name, "", 8, 8, 10)
    images = torch.cat([x for x, _ in data.batches(batch_size=100, augment=False)]).double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    for subset in ("train", "val"):
        (tmp_path / subset / "a").mkdir(parents=True)
        Image.new("RGB", (4, 4), (0, 9, 255)).save(tmp_path / subset / "a" / "0.png")
    data = load_data("image_folder", tmp_path, 4, 4, 1)
    [(images, _)] = all_of(data.batches("test", batch_size=1))
    assert torch.isfinite(images).all() and images.abs().max() < 1e-6


def test_statistics_of_a_streamed_folder_come_from_a_fixed_sample(folders, monkeypatch):
    monkeypatch.setattr(dataloader, "STATISTICS_SAMPLE", 5)
    torch.manual_seed(5)
    one = load_data("image_folder", folders, 6, 5, 3, memory_limit_bytes=0)
    torch.manual_seed(6)
    two = load_data("image_folder", folders, 6, 5, 3, memory_limit_bytes=0)
    assert one.mean == two.mean
    assert one.mean != load_data("image_folder", folders, 6, 5, 3).mean


# --- batches -----------------------------------------------------------------------------------------------------


def test_batches_hold_every_image_once_with_its_label(noise):
    batches = noise.batches(batch_size=8, augment=False)
    got = [(x.tolist(), y) for images, labels in batches for x, y in zip(pixels_of(noise, images), labels, strict=True)]
    expected = list(zip(noise.train.images.tolist(), noise.train.labels, strict=True))
    assert sorted(got) == sorted(expected) and got != expected
    assert [len(labels) for _, labels in batches] == [8] * 6 + [2]
    assert (len(batches), batches.num_images) == (7, 50)


def test_types(noise):
    images, labels = next(iter(noise.batches(batch_size=8)))
    assert (images.shape, images.dtype) == ((8, 3, 6, 5), torch.float32)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)


def test_drop_last(noise):
    batches = noise.batches(batch_size=8, drop_last=True)
    assert [len(labels) for _, labels in batches] == [8] * 6
    assert (len(batches), batches.num_images) == (6, 48)


def test_test_batches_are_plain_and_in_order(noise):
    images = torch.cat([x for x, _ in noise.batches("test", batch_size=8)])
    assert torch.equal(pixels_of(noise, images), noise.test.images)


def test_indices_choose_the_images(noise):
    [(images, labels)] = all_of(noise.batches("train", [7, 3, 3], batch_size=9, shuffle=False, augment=False))
    assert torch.equal(pixels_of(noise, images), noise.train.images[[7, 3, 3]])
    assert torch.equal(labels, noise.train.labels[[7, 3, 3]])
    with pytest.raises(IndexError, match="outside"):
        noise.batches("train", [50], batch_size=1)


def test_batches_depend_on_seed_and_epoch(noise):
    batches = noise.batches(batch_size=8, seed=1)
    first = all_of(batches)
    assert same(first, all_of(batches)) and same(first, all_of(noise.batches(batch_size=8, seed=1)))
    assert not same(first, all_of(noise.batches(batch_size=8, seed=2)))
    batches.set_epoch(1)
    assert not torch.equal(torch.cat([y for _, y in batches]), torch.cat([y for _, y in first]))
    batches.set_epoch(0)
    assert same(first, all_of(batches))


def test_augmentation_changes_with_epoch_and_step(noise):
    batches = noise.batches("train", [0] * 16, batch_size=8, shuffle=False)
    one, two = (x for x, _ in batches)
    assert not torch.equal(one, two)
    batches.set_epoch(1)
    assert not torch.equal(next(iter(batches))[0], one)


def test_an_epoch_resumes_at_any_step(noise):
    batches = noise.batches(batch_size=8, seed=1)
    batches.set_epoch(3)
    whole = all_of(batches)
    for step in range(len(batches) + 1):
        fresh = noise.batches(batch_size=8, seed=1)
        fresh.set_epoch(3)
        assert same(all_of(fresh, step), whole[step:])
    for step in (-1, len(batches) + 1):
        with pytest.raises(ValueError, match="step"):
            batches.iterate_from(step)


def test_a_pass_keeps_its_epoch(noise):
    batches = noise.batches(batch_size=8)
    whole, running = all_of(batches), iter(batches)
    batches.set_epoch(1)
    assert same(list(running), whole)


@pytest.mark.parametrize("name", ["random", "imagenet"])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_union_over_processes_is_the_batch_of_one(noise, folders, name, world_size):
    data = noise if name == "random" else load_data(name, folders, 8, 8, 3)
    whole = all_of(data.batches(batch_size=8, seed=4))
    parts = [all_of(data.batches(batch_size=8, seed=4, rank=r, world_size=world_size)) for r in range(world_size)]
    sizes = [[len(labels) for _, labels in part] for part in parts]
    assert all(max(step) - min(step) <= 1 for step in zip(*sizes, strict=True))
    joined = [tuple(map(torch.cat, zip(*step, strict=True))) for step in zip(*parts, strict=True)]
    assert same(joined, whole)


@pytest.mark.parametrize("name", ["random", "imagenet"])
def test_the_global_random_state_is_left_alone(folders, name):
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    data = load_data(name, folders, 8, 8, 3)
    for _ in data.batches(batch_size=8):
        pass
    split_indices(10, 0.5, 0)
    assert states() == before


def test_crop_and_flip_against_a_loop(noise):
    images, padding = noise.train.images[:25], 2
    top, left = torch.arange(25) // 5, torch.arange(25) % 5  # every offset
    flipped = torch.arange(25) % 3 == 0
    got = crop_and_flip(images, top, left, flipped, padding)
    for image, y, x, flip, result in zip(images, top.tolist(), left.tolist(), flipped, got, strict=True):
        padded = torch.zeros(3, 6 + 2 * padding, 5 + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + 6, padding : padding + 5] = image
        expected = padded[:, y : y + 6, x : x + 5]
        assert torch.equal(result, expected.flip(2) if flip else expected)
    assert torch.equal(crop_and_flip(images, top, left, None, 0), images)


def test_augmentation_draws_every_crop_and_both_sides(noise):
    """2,000 copies of one image: 25 crops times 2 sides, each seen, none anything else."""
    [(images, _)] = all_of(noise.batches("train", [0] * 2000, batch_size=2000))
    every = noise.train.images[:1].expand(50, 3, 6, 5)
    offset, flipped = torch.arange(50) // 2, torch.arange(50) % 2 == 1
    legal = crop_and_flip(every, offset // 5, offset % 5, flipped, 2).flatten(1)
    matches = (pixels_of(noise, images).flatten(1)[:, None] == legal[None]).all(2)
    assert (matches.sum(1) == 1).all()
    counts = matches.sum(0)  # 40 expected, standard deviation 6.3
    assert counts.min() > 10 and counts.max() < 80


def test_flip_and_padding_can_be_off():
    data = load_data("random", "", 6, 5, 4, crop_padding=0, flip=False)
    images = torch.cat([x for x, _ in data.batches(batch_size=16, shuffle=False)])
    assert torch.equal(pixels_of(data, images), data.train.images)


# --- split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "portion", "count"), [(10, 0.5, 5), (11, 0.5, 5), (1437, 0.8, 1149)])
def test_split_is_disjoint_and_complete(n, portion, count):
    weights, alpha = split_indices(n, portion, seed=2)
    assert len(weights) == count
    assert sorted(torch.cat([weights, alpha]).tolist()) == list(range(n))


def test_split_depends_on_the_seed():
    assert torch.equal(split_indices(100, 0.5, 2)[0], split_indices(100, 0.5, 2)[0])
    assert not torch.equal(split_indices(100, 0.5, 2)[0], split_indices(100, 0.5, 3)[0])
    assert split_indices(100, 0.5, 2)[0].tolist() != sorted(split_indices(100, 0.5, 2)[0].tolist())


def test_split_by_index():
    first, second = split_indices(5, 0.5, seed=2, shuffled=False)
    assert (first.tolist(), second.tolist()) == ([0, 1], [2, 3, 4])


@pytest.mark.parametrize("portion", [0.0, 1.0, 0.05, -1.0])
def test_split_with_an_empty_part(portion):
    with pytest.raises(UserError, match=f"train_portion {portion}"):
        split_indices(10, portion, 0)


# --- bad input ---------------------------------------------------------------------------------------------------


def refused(*words, dataset="image_folder", path="", size=(6, 5), num_classes=3, **settings):
    """Load, and check that the refusal is one line with all the words."""
    with pytest.raises(UserError) as caught:
        load_data(dataset, path, *size, num_classes, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_unknown_data_set():
    refused("'cifar'", "cifar100", "image_folder", "digits", "did you mean 'cifar10", dataset="cifar")
    refused("'nothing like it'", "imagenet", dataset="nothing like it")


@pytest.mark.parametrize("dataset", ["image_folder", "imagenet"])
def test_missing_path(tmp_path, dataset):
    refused(tmp_path / "nowhere", "train/<class>/", "--preset digits", dataset=dataset, path=tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["train", "val"])
@pytest.mark.parametrize("dataset", ["image_folder", "imagenet"])
def test_missing_subset(tmp_path, dataset, missing):
    (write_folders(tmp_path) / missing).rename(tmp_path / "elsewhere")
    expected = "test" if (dataset, missing) == ("image_folder", "val") else missing
    refused("no folder", tmp_path / expected, "--preset digits", dataset=dataset, path=tmp_path)


@pytest.mark.parametrize("subset", ["train", "val"])
def test_folder_without_classes(tmp_path, subset):
    write_folders(tmp_path)
    (tmp_path / subset).rename(tmp_path / "elsewhere")
    (tmp_path / subset).mkdir()
    (tmp_path / subset / "image.png").write_bytes(b"")
    (tmp_path / subset / ".hidden").mkdir()
    refused("no class folders", tmp_path / subset, path=tmp_path)


@pytest.mark.parametrize("subset", ["train", "val"])
def test_class_without_images(tmp_path, subset):
    write_folders(tmp_path)
    for file in (tmp_path / subset / "bee").iterdir():
        file.rename(file.with_suffix(".txt"))
    refused("no images", tmp_path / subset / "bee", ".png", path=tmp_path)


@pytest.mark.parametrize("dataset", ["image_folder", "imagenet"])
def test_classes_that_do_not_match(tmp_path, dataset):
    write_folders(tmp_path)
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "wasp")
    refused("do not match", "bee", "wasp", dataset=dataset, path=tmp_path)


@pytest.mark.parametrize(
    ("dataset", "asked", "actual"),
    [
        ("image_folder", 4, 3),
        ("image_folder", 2, 3),
        ("imagenet", 4, 3),
        ("digits", 9, 10),
        ("cifar10", 100, 10),
        ("cifar100", 10, 100),
    ],
)
def test_wrong_num_classes(folders, dataset, asked, actual):
    refused(
        f"num_classes is {asked}",
        f"{dataset}",
        f"has {actual} classes",
        dataset=dataset,
        path=folders,
        num_classes=asked,
    )


@pytest.mark.parametrize("size", [(0, 5), (6, -1)])
def test_impossible_size(size):
    refused("image_height" if size[0] < 1 else "image_width", "at least 1", dataset="random", size=size)


@pytest.mark.parametrize(("name", "value"), [("num_classes", 0), ("num_workers", -1), ("crop_padding", -1)])
def test_impossible_number(name, value):
    refused(name, f"not {value}", dataset="random", **{name: value})


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_failed_download(monkeypatch, tmp_path, dataset, error):
    from torchvision import datasets

    def fail(root, train, download):
        raise error

    monkeypatch.setattr(datasets, dataset.upper(), fail)
    words = (dataset, tmp_path, str(error), "kriz/cifar.html", "--preset digits")
    refused(*words, dataset=dataset, path=tmp_path, num_classes=int(dataset.removeprefix("cifar")))


def damage(root, kind):
    file = root / "train" / "cat" / "003.png"
    file.write_bytes({"empty": b"", "text": b"not an image", "cut": file.read_bytes()[:60]}[kind])
    return file


@pytest.mark.parametrize("kind", ["empty", "text", "cut"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image(tmp_path, kind, num_workers):
    file = damage(write_folders(tmp_path), kind)
    refused("cannot read the image", file, path=tmp_path, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_while_streaming(tmp_path, num_workers):
    file = damage(write_folders(tmp_path), "cut")
    data = load_data("imagenet", tmp_path, 8, 8, 3, num_workers=num_workers)
    with pytest.raises(UserError, match=re.escape(str(file))) as caught:
        all_of(data.batches(batch_size=4))
    assert "\n" not in str(caught.value)


def test_batches_that_cannot_be(noise):
    assert len(noise.batches(batch_size=50, drop_last=True)) == 1
    with pytest.raises(UserError, match=r"50 images of the train set .* smaller than 51"):
        noise.batches(batch_size=51, drop_last=True)
    with pytest.raises(UserError, match="0 images"):
        noise.batches("train", [], batch_size=1)
    with pytest.raises(UserError, match=r"batch_size must be at least 1 .* 0 for"):
        noise.batches(batch_size=0)
    with pytest.raises(UserError, match="3 for 4 process"):
        noise.batches(batch_size=3, world_size=4)
    with pytest.raises(ValueError, match="rank"):
        noise.batches(batch_size=8, rank=2, world_size=2)


def test_import_is_light():
    """Loading noise must not pay for torchvision or scikit-learn."""
    code = "import sys, dataloader; dataloader.load_data('random', '', 4, 4, 2); "
    code += "print({'torchvision', 'sklearn'} & {*sys.modules})"
    root = os.path.dirname(dataloader.__file__)
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
