"""Where images are, how they are read: pixels, labels, statistics, and the answers to missing or damaged data."""

import hashlib
import os
import pickle
import re
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from instantnet.data import image_sets, streamed
from instantnet.data.examination import Findings
from instantnet.data.image_sets import MemoryImages, StreamedImages, open_image_sets, statistics
from instantnet.engine.errors import UserError, exit_status, one_line

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


def opened(dataset, path="", size=(6, 5), num_classes=3, **settings):
    """Return the training set, the test set and the class names."""
    defaults = {
        "flip": True,
        "num_workers": 0,
        "prefetch": 2,
        "device": torch.device("cpu"),
        "memory_limit_bytes": 1 << 20,
        "random_images": (50, 21),
        "val_portion": 0.0,
        "skip_broken": False,
    }
    return open_image_sets(dataset, Path(path), size, num_classes, **defaults | settings)[:3]


def plain(image_set):
    """Return all images and labels, in batches of 5, in order."""
    requests = [(indices, None) for indices in torch.arange(len(image_set)).split(5)]
    return tuple(map(torch.cat, zip(*image_set.read(requests), strict=True)))


@pytest.fixture(scope="module")
def digits():
    return opened("digits", size=(8, 8), num_classes=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("images"))


# --- data sets -----------------------------------------------------------------------------------------------------


def test_digits_counts_and_classes(digits):
    train, test, class_names = digits
    assert isinstance(train, MemoryImages) and (len(train), len(test)) == (1437, 360)
    assert class_names == [str(digit) for digit in range(10)]
    for part in (train, test):
        share = torch.bincount(part.labels, minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01  # stratified; the whole set is this even


def test_digits_are_the_whole_of_scikit_learns(digits):
    from sklearn.datasets import load_digits

    train, test, _ = digits
    source = load_digits()
    expected = sorted(
        (*np.rint(x.ravel() * 255 / 16).astype(int), y) for x, y in zip(source.images, source.target, strict=True)
    )
    got = sorted(
        (*x[0].flatten().tolist(), y)
        for part in (train, test)
        for x, y in zip(part.images, part.labels.tolist(), strict=True)
    )
    assert [tuple(map(int, row)) for row in expected] == got
    assert torch.equal(train.images[:, 0], train.images[:, 2])  # grey, replicated


def test_digits_are_resized():
    train, _, _ = opened("digits", size=(16, 12), num_classes=10)
    assert train.images.shape == (1437, 3, 16, 12)
    assert train.images.dtype == torch.uint8


def test_digits_test_set_is_always_the_same(digits):
    torch.manual_seed(99)
    np.random.seed(99)
    _, test, _ = opened("digits", size=(8, 8), num_classes=10)
    assert torch.equal(test.images, digits[1].images)


def test_random_images_have_the_size_asked_for():
    train, test, class_names = opened("random", num_classes=4)
    assert train.images.shape == (50, 3, 6, 5) and test.images.shape == (21, 3, 6, 5)
    assert len(class_names) == 4 and set(train.labels.tolist()) == {0, 1, 2, 3}
    assert torch.equal(train.images, opened("random", num_classes=4)[0].images)


def fake_cifar(pixels, targets):
    def source(root, train, download):
        assert not download, "the files are there"
        part = slice(0, 4) if train else slice(4, 6)
        return SimpleNamespace(data=pixels[part], targets=targets[part], classes=[f"class {i}" for i in range(10)])

    return source


def test_cifar_pixels_and_labels(monkeypatch, tmp_path):
    from torchvision import datasets

    pixels = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(datasets, "CIFAR10", fake_cifar(pixels, [3, 1, 4, 1, 5, 9]))
    train, test, _ = opened("cifar10", tmp_path, (32, 32), 10)
    assert train.labels.tolist() == [3, 1, 4, 1] and test.labels.tolist() == [5, 9]
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), pixels[4:])
    assert opened("cifar10", tmp_path, (16, 16), 10)[0].images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_image_folder_pixels_and_labels(tmp_path, test_name):
    train, test, class_names = opened("image_folder", write_folders(tmp_path, test_name=test_name))
    assert isinstance(train, MemoryImages) and class_names == list(CLASSES)
    assert (len(train), len(test)) == (21, 12)
    for part in (train, test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert torch.bincount(part.labels).tolist() == [len(part) // 3] * 3
    with Image.open(tmp_path / "train" / "bee" / "000.png") as file:
        assert np.array_equal(train.images[7].permute(1, 2, 0).numpy(), np.asarray(file))


def test_image_folder_reads_grey_and_transparent_images_and_resizes(tmp_path):
    write_folders(tmp_path, classes=("a",), train=1, test=1)
    Image.new("L", (30, 20), 77).save(tmp_path / "train" / "a" / "grey.jpeg")
    Image.new("RGBA", (9, 9), (10, 20, 30, 40)).save(tmp_path / "train" / "a" / "transparent.PNG")
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    images = opened("image_folder", tmp_path, (4, 8), 1)[0].images
    assert images.shape == (3, 3, 4, 8)
    assert (images[1] == 77).all()
    assert images[2, :, 0, 0].tolist() == [217, 218, 220]  # alpha 40 of 255, on white


def test_streamed_folder_equals_decoded_folder(folders):
    streamed, decoded = (opened("image_folder", folders, memory_limit_bytes=limit) for limit in (0, 1 << 20))
    assert isinstance(streamed[0], StreamedImages) and isinstance(decoded[0], MemoryImages)
    assert statistics("image_folder", streamed[0]) == statistics("image_folder", decoded[0])  # of all 21 images
    for parts in zip(streamed[:2], decoded[:2], strict=True):
        (images, labels), (expected_images, expected_labels) = map(plain, parts)
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_workers_do_not_change_the_images(folders, limit):
    one, two = (
        opened("image_folder", folders, (9, 9), num_workers=workers, memory_limit_bytes=limit)[0] for workers in (0, 2)
    )
    assert statistics("image_folder", one) == statistics("image_folder", two)
    assert all(map(torch.equal, plain(one), plain(two)))


def test_imagenet_streams_with_its_published_statistics(folders):
    from torchvision.transforms import v2

    train, test, _ = opened("imagenet", folders, (8, 8))
    assert isinstance(train, StreamedImages)
    assert statistics("imagenet", train) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images, labels = plain(test)
    assert images.shape == (12, 3, 8, 8) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with Image.open(folders / "val" / "bee" / "001.png") as file:
        expected = v2.CenterCrop(8)(v2.Resize(9)(file.convert("RGB")))
    assert np.array_equal(images[5].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_imagenet_subset_is_the_first_classes(folders):
    train, test, class_names = opened("imagenet", folders, (8, 8), 2)
    assert class_names == ["ape", "bee"]
    assert (len(train), len(test)) == (14, 8)


# --- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_are_exact():
    train, _, _ = opened("random")
    pixels = train.images.double() / 255
    mean, std = statistics("random", train)
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_constant_channel_is_not_divided_by_zero():
    images = torch.tensor([0, 9, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    mean, std = statistics("image_folder", MemoryImages(images, torch.zeros(2, dtype=torch.int64)))
    assert mean == pytest.approx((0, 9 / 255, 1)) and std == (1, 1, 1)


def test_statistics_of_a_streamed_folder_come_from_a_fixed_sample(folders, monkeypatch):
    monkeypatch.setattr(image_sets, "STATISTICS_SAMPLE", 5)
    streamed, decoded = (opened("image_folder", folders, memory_limit_bytes=limit)[0] for limit in (0, 1 << 20))
    torch.manual_seed(5)
    sampled = statistics("image_folder", streamed)
    torch.manual_seed(6)
    assert statistics("image_folder", streamed) == sampled
    assert statistics("image_folder", decoded) != sampled


# --- bad input -----------------------------------------------------------------------------------------------------


def refused(*words, dataset="image_folder", **settings):
    """Open, and check that the refusal is one line with all the words."""
    with pytest.raises(UserError) as caught:
        opened(dataset, **settings)
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


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_failed_download(monkeypatch, tmp_path, dataset, error):
    from torchvision import datasets

    def fail(root, train, download):
        raise error if download else RuntimeError("Dataset not found or corrupted.")

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
    refused("1 of 33 images", "cannot be used", file.relative_to(tmp_path), path=tmp_path, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_while_streaming(tmp_path, num_workers):
    """One that is damaged after all were examined."""
    train, _, _ = opened("imagenet", write_folders(tmp_path), (8, 8), num_workers=num_workers)
    file = damage(tmp_path, "cut")
    with pytest.raises(UserError, match=re.escape(str(file))) as caught:
        plain(train)
    assert "\n" not in str(caught.value)


def test_grey_pictures_of_16_bits_keep_their_greys(tmp_path):
    write_folders(tmp_path, train=1, test=1)
    grey = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(grey).save(path)
    images, _ = plain(opened("image_folder", tmp_path)[0])
    assert torch.equal(images[0, 0], torch.from_numpy(np.rint(grey / 257).astype(np.uint8)))
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (8, 1), (16, 16)])
def test_digits_of_any_size(size):
    images, _ = plain(opened("digits", size=size, num_classes=10)[0])
    assert images.shape[1:] == (3, *size)
    grey = opened("digits", size=(8, 8), num_classes=10)[0]
    # The same picture, smaller or larger; the filter weighs its bright middle more than its rim.
    assert abs(images.float().mean() - plain(grey)[0].float().mean()) < 15


def test_no_more_workers_than_cores(folders, monkeypatch):
    monkeypatch.setattr(streamed.os, "cpu_count", lambda: 1)
    loaders = []
    original = torch.utils.data.DataLoader
    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda *a, **k: loaders.append(k) or original(*a, **k))
    plain(opened("image_folder", folders, num_workers=4, prefetch=3, memory_limit_bytes=0)[0])
    assert loaders and all(options["num_workers"] == 1 and options["prefetch_factor"] == 3 for options in loaders)


# --- all files are read before training


def both_ways(tmp_path, **settings):
    """The set in memory and the same streamed."""
    return [open_folders(tmp_path, memory_limit_bytes=limit, **settings) for limit in (1 << 20, 0)]


def open_folders(path, dataset="image_folder", **settings):
    defaults = {"flip": True, "num_workers": 0, "prefetch": 2, "device": torch.device("cpu"), "random_images": (2, 2)}
    defaults |= {"memory_limit_bytes": 1 << 20, "val_portion": 0.0, "skip_broken": False}
    return open_image_sets(dataset, path, (6, 5), None, **defaults | settings)


def damage_some(root):
    write_folders(root)
    damage(root, "cut")
    (root / "train" / "ape" / "000.png").write_bytes(b"")
    (root / "val" / "bee" / "001.png").unlink()
    os.mkfifo(root / "val" / "bee" / "001.png")
    return ["train/ape/000.png", "train/cat/003.png", "val/bee/001.png"]


def test_a_reason_longer_than_a_line_has_room_for_is_cut():
    findings = Findings(Path("/" + "folder" * 9))
    for number in range(36):
        findings.add(f"{findings.folder}/{number}.tif", "pixels are floating-point numbers and so on " * 5)
    with pytest.raises(UserError, match=r"--skip_broken\): 0.tif: pixels are floating-point .*\.\.; all are listed"):
        findings.check_broken()


def test_broken_files_are_named_before_files_of_another_depth(tmp_path):
    for subset in ("train", "val"):
        for name in ("ape", "bee"):
            (tmp_path / subset / name).mkdir(parents=True)
            for number in range(3):
                picture = np.full((6, 6), 4000, np.uint16)
                Image.fromarray(picture).save(tmp_path / subset / name / f"{number}.png")
    (tmp_path / "val" / "bee" / "1.png").write_bytes(b"x")
    refused("1 of 12 images", "val/bee/1.png: not an image", path=tmp_path, num_workers=0, num_classes=2)
    (tmp_path / "val" / "bee" / "1.png").unlink()
    refused("11 files", "state 16 bits", "no value above 4000", path=tmp_path, num_workers=0, num_classes=2)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("dataset", "limit"), [("image_folder", 0), ("image_folder", 1 << 20), ("imagenet", 0)])
def test_all_broken_files_are_named_at_once(tmp_path, dataset, limit, num_workers):
    names = damage_some(tmp_path)
    with pytest.raises(UserError) as caught:
        open_folders(tmp_path, dataset, memory_limit_bytes=limit, num_workers=num_workers)
    message = str(caught.value)
    assert message.startswith(f"3 of 33 images in {tmp_path} cannot be used") and "--skip_broken" in message
    listed = caught.value.details or message.split("--skip_broken): ")[1].split("; ")
    assert [line.split(": ")[0] for line in listed] == names
    assert "empty file" in str(listed) and "not a regular file" in str(listed)


def test_a_long_list_of_broken_files_goes_to_standard_output(tmp_path, capsys):
    for path in write_folders(tmp_path).rglob("*.png"):
        path.write_bytes(b"not an image")

    def load():
        open_folders(tmp_path)

    assert exit_status(load) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 33 and "train/ape/000.png: not an image (JPEG, " in out
    assert err.count("\n") == 1 and len(err) <= 300 and "33 of 33" in err and "standard output" in err


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skip_broken_goes_on_without_them_and_lists_them(tmp_path, num_workers):
    names = damage_some(tmp_path)
    for train, test, _, notes in both_ways(tmp_path, skip_broken=True, num_workers=num_workers):
        for part, count in ((train, 19), (test, 11)):
            images, labels = plain(part)
            assert len(part) == count and torch.equal(images[:, 0, 0, 0].long(), labels)
        assert notes[0] == "3 of 33 images are broken and left out (skip_broken):"
        assert [line.split(":")[0].strip() for line in notes[1:]] == names


def test_skip_broken_leaves_no_class_without_an_image(tmp_path):
    for path in (write_folders(tmp_path) / "val" / "bee").iterdir():
        path.write_bytes(b"")
    refused("all images of class bee in", tmp_path / "val" / "bee", path=tmp_path, skip_broken=True)


def test_one_note_for_each_kind_of_file(tmp_path):
    for path in (write_folders(tmp_path) / "train" / "cat").iterdir():
        Image.new("RGBA", (5, 6), (0, 0, 0, 9)).save(path)
    for *_, notes in both_ways(tmp_path):
        assert notes == ["7 of 33 images transparent: put on white (train/cat/000.png)"]


def test_12_bits_in_files_that_state_16(tmp_path):
    """Refused as a set: no value reaches half of what 16 bits hold. One bright file shows that they are 16."""
    for path in write_folders(tmp_path, train=2, test=1).rglob("*.png"):
        Image.fromarray(np.linspace(0, 4095, 30).astype(np.uint16).reshape(6, 5)).save(path)
    for limit in (0, 1 << 20):
        refused("9 files", "16 bits", "above 4095 (12 bits?)", "docs/data.md", path=tmp_path, memory_limit_bytes=limit)
    Image.fromarray(np.full((6, 5), 65535, dtype=np.uint16)).save(tmp_path / "val" / "bee" / "000.png")
    for train, *_ in both_ways(tmp_path):
        assert plain(train)[0].max() == 16


def test_links_that_lead_in_a_circle(tmp_path):
    write_folders(tmp_path)
    for name in ("x", "y"):
        (tmp_path / "train" / "bee" / name).symlink_to(tmp_path / "train")
    (tmp_path / "train" / "ape" / "more").symlink_to(tmp_path / "val" / "ape")  # in no circle
    assert torch.bincount(opened("image_folder", tmp_path)[0].labels).tolist() == [11, 11 + 7 + 7, 7]


def test_a_strip_is_not_resized_as_a_whole(tmp_path):
    """256 pixels wide it would be 51 million long."""
    write_folders(tmp_path, train=1, test=1)
    for path in (tmp_path / "val").rglob("*.png"):
        Image.new("RGB", (1, 200_000), "red").save(path)
    images, _ = plain(opened("imagenet", tmp_path, (224, 224))[1])
    assert (images[:, 0] == 255).all() and images[:, 1:].sum() == 0


# --- train/ alone


@pytest.fixture
def train_alone(tmp_path):
    for path in (write_folders(tmp_path, train=10) / "val").rglob("*.png"):
        path.unlink()
    shutil.rmtree(tmp_path / "val")
    return tmp_path


@pytest.mark.parametrize("dataset", ["image_folder", "imagenet"])
def test_train_alone_is_divided_by_val_portion(train_alone, dataset):
    train, test, class_names, notes = open_folders(train_alone, dataset, val_portion=0.25)
    assert (len(train), len(test), class_names) == (24, 6, list(CLASSES))
    assert torch.bincount(test.labels).tolist() == [2, 2, 2]
    assert notes == ["no folder of test images: 6 of 30 in train/ are for test (val_portion)"]
    streamed = open_folders(train_alone, val_portion=0.25, memory_limit_bytes=0)
    paths = {*streamed.train.paths.tolist()}, {*streamed.test.paths.tolist()}
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 30


def test_the_division_is_always_the_same(train_alone):
    torch.manual_seed(1)
    first = open_folders(train_alone, val_portion=0.2)
    torch.manual_seed(2)
    again = open_folders(train_alone, val_portion=0.2)
    assert torch.equal(first.test.images, again.test.images)
    assert first.test.images.flatten(1).tolist() != opened_first_of_each_class(first)


def opened_first_of_each_class(sets):
    """What an unshuffled division would take."""
    both = torch.cat([sets.train.images, sets.test.images]).flatten(1)
    return both[:2].tolist() + both[8:10].tolist() + both[16:18].tolist()


def test_train_alone_without_val_portion_names_it(train_alone):
    refused("no folder", "--val_portion 0.2", path=train_alone)


@pytest.mark.parametrize("portion", [0.99, 1.0])
def test_val_portion_that_leaves_nothing_to_train(train_alone, portion):
    refused(f"val_portion = {portion:g}", "10 image(s) of class ape", path=train_alone, val_portion=portion)


def test_val_portion_beside_test_images(folders):
    refused("val_portion = 0.2", folders / "val", path=folders, val_portion=0.2)
    refused("val_portion = 0.2", "digits", dataset="digits", num_classes=10, val_portion=0.2)


# --- CIFAR's files


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder of files that torchvision takes for CIFAR-10's, and no network."""
    from torchvision import datasets

    source = datasets.CIFAR10
    folder, files = tmp_path / source.base_folder, {}
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = np.random.default_rng(number).integers(0, 256, (2, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": [number, 9]})
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(source, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5["batches.meta"]})
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(folder, source.base_folder)
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5((tmp_path / "whole.tar.gz").read_bytes()).hexdigest())

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(datasets.utils, "_urlretrieve", no_network)
    monkeypatch.setattr(datasets.utils, "_get_redirect_url", no_network)
    return folder


def of_cifar(*words, path):
    refused(*words, dataset="cifar10", path=path, num_classes=10)


def test_cifar_from_its_files(cifar):
    train, test, class_names = opened("cifar10", cifar.parent, (32, 32), 10)
    assert (len(train), len(test), "".join(class_names)) == (10, 2, "abcdefghij")


def test_cifar_with_a_damaged_file(cifar):
    (cifar / "data_batch_3").write_bytes(b"damaged")
    of_cifar(cifar, "6 of 7 files", "data_batch_3: 7 bytes with MD5", "not", path=cifar.parent)


def test_cifar_with_a_missing_file(cifar):
    (cifar / "batches.meta").unlink()
    of_cifar(cifar, "6 of 7 files", "batches.meta: missing", path=cifar.parent)


def test_cifar_with_nothing_right_but_a_file_that_is_missing(cifar):
    """One line of 300 letters says what is missing, though it cannot say all."""
    for file in cifar.iterdir():
        file.write_bytes(b"damaged")
    (cifar / "data_batch_3").unlink()
    with pytest.raises(UserError) as caught:
        opened("cifar10", cifar.parent, (32, 32), 10)
    line = one_line(f"error: {caught.value}")
    assert "not data_batch_3: missing; batches.meta: 7 bytes" in line and "; and 5 others; delete the folder" in line


def test_a_file_in_the_place_of_cifars_folder(cifar):
    shutil.rmtree(cifar)
    cifar.write_bytes(b"")
    of_cifar("cifar-10-batches-py is a file, where the folder", path=cifar.parent)


def test_cifars_inner_folder_is_named(cifar):
    of_cifar("dataset_path", cifar, "name the one that cifar-10-batches-py/ lies in", path=cifar)


def test_cifar_with_a_damaged_archive(cifar):
    shutil.rmtree(cifar)
    (cifar.parent / "cifar-10-python.tar.gz").write_bytes((cifar.parent / "whole.tar.gz").read_bytes()[:100])
    of_cifar("cifar-10-python.tar.gz is damaged or incomplete: 100 bytes with MD5", path=cifar.parent)


def test_cifar_is_unpacked_from_a_whole_archive(cifar):
    (cifar.parent / "whole.tar.gz").rename(cifar.parent / "cifar-10-python.tar.gz")
    (cifar / "data_batch_3").write_bytes(b"damaged")
    assert len(opened("cifar10", cifar.parent, (32, 32), 10)[0]) == 10


def test_no_cifar_at_all(cifar):
    of_cifar("no cifar10 in", "no network", "kriz/cifar.html", path=cifar.parent / "elsewhere")
