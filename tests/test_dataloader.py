"""Data sets to batches: what a batch holds, that it is repeatable, and what cannot be batched."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from instantnet import dataloader
from instantnet.data import examination
from instantnet.data.cache import image_cache
from instantnet.dataloader import crop_and_flip, load_data, split_indices
from instantnet.engine.errors import UserError


@pytest.fixture(scope="module")
def noise():
    return load_data("random", "", 6, 5, 4, random_images=(50, 21), crop_padding=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Noise: 7 training and 4 test images for each of 3 classes."""
    root, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for subset, count in (("train", 7), ("val", 4)):
        for name in ("ape", "bee", "cat"):
            folder = root / subset / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


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


# --- batches -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("on", [{"shuffle": True}, {"augment": True}])
def test_a_last_training_batch_of_one_image_is_dropped(noise, on):
    """49 = 6 x 8 + 1."""
    off = {"shuffle": False, "augment": False}
    for indices, sizes in ((range(49), [8] * 6), (range(50), [8] * 6 + [2]), (range(48), [8] * 6)):
        batches = noise.batches("train", indices, batch_size=8, **off | on)
        assert [len(labels) for _, labels in batches] == sizes
        assert (len(batches), batches.num_images) == (len(sizes), sum(sizes))
    assert noise.batches("train", range(3), batch_size=1, **off | on).num_images == 3  # as asked for
    with pytest.raises(UserError, match="1 images of the train set"):
        noise.batches("train", [0], batch_size=8, **off | on)


def test_a_last_batch_of_one_image_is_kept_where_nothing_trains(noise):
    for subset, indices in (("train", range(49)), ("test", range(17))):
        batches = noise.batches(subset, indices, batch_size=8, shuffle=False, augment=False)
        assert [len(labels) for _, labels in batches] == [8] * (len(indices) // 8) + [1]
        assert batches.num_images == len(indices)


def test_the_image_dropped_changes_with_the_epoch(noise):
    batches, seen = noise.batches("train", range(9), batch_size=4, augment=False), set()
    for epoch in range(20):
        batches.set_epoch(epoch)
        kept = torch.cat([pixels_of(noise, images) for images, _ in batches])
        matches = (kept[:, None] == noise.train.images[None, :9]).flatten(2).all(2).any(0)
        seen |= set((~matches).nonzero().flatten().tolist())
        assert matches.sum() == 8
    assert len(seen) > 3


@pytest.mark.parametrize("name", ["digits", "random"])
def test_training_set_is_normalised(name):
    data = load_data(name, "", 8, 8, 10)
    images = torch.cat([x for x, _ in data.batches(batch_size=100, augment=False)]).double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


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
@pytest.mark.parametrize("world_size, batch_size", [(2, 8), (2, 7), (3, 8), (8, 16)])
def test_the_union_over_processes_is_the_batch_of_one(noise, folders, name, world_size, batch_size):
    """Of 50 or 21 images, so with last batches of 2 (given to both or to all 8 whole), 1 (to none), 5 and 10."""
    data = noise if name == "random" else load_data(name, folders, 8, 8, 3)
    whole = all_of(data.batches(batch_size=batch_size, seed=4))
    ranks = [data.batches(batch_size=batch_size, seed=4, rank=r, world_size=world_size) for r in range(world_size)]
    parts = [all_of(rank) for rank in ranks]
    assert {len(part) for part in parts} == {len(whole)}
    for step, (together, *shares) in enumerate(zip(whole, *parts, strict=True)):
        sizes = [len(labels) for _, labels in shares]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 2
        if len(together[1]) < 2 * world_size:
            assert all(same([share], [together]) for share in shares)
        else:
            assert same([tuple(map(torch.cat, zip(*shares, strict=True)))], [together])
        # What the weights are for: the processes' means make the mean over all images.
        means = [images.double().mean() for images, _ in shares]
        mean = sum(rank.weight(step) * own for rank, own in zip(ranks, means, strict=True)) / world_size
        assert mean == pytest.approx(together[0].double().mean().item(), abs=1e-12)


@pytest.mark.parametrize("world_size", [2, 8])
def test_shares_of_a_pass_that_is_not_for_training(noise, world_size):
    """Every image once; some processes have none of the last 2."""
    whole = all_of(noise.batches("train", batch_size=16, shuffle=False, augment=False))
    parts = [
        all_of(noise.batches("train", batch_size=16, shuffle=False, augment=False, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    joined = [tuple(map(torch.cat, zip(*step, strict=True))) for step in zip(*parts, strict=True)]
    assert same(joined, whole)
    assert parts[0][-1][0].shape[1:] == (3, 6, 5)


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


# --- streamed images -----------------------------------------------------------------------------------------------


def test_streamed_batches_equal_batches_in_memory(folders):
    decoded = load_data("image_folder", folders, 6, 5, 3)
    streamed = load_data("image_folder", folders, 6, 5, 3, memory_limit_mb=0)
    assert decoded.in_memory and not streamed.in_memory
    assert (streamed.mean, streamed.std) == (decoded.mean, decoded.std)  # the sample holds all 21 images
    for subset in ("test", "train"):  # train: augmented alike, too
        batches = [data.batches(subset, batch_size=5, seed=3) for data in (streamed, decoded)]
        assert same(*map(all_of, batches))


@pytest.fixture
def own_folders(folders, tmp_path):
    """A copy that a test may change, behind links as the experiments lay them."""
    copy = tmp_path / "copy"
    shutil.copytree(folders, tmp_path / "originals")
    for file in sorted((tmp_path / "originals").rglob("*.png")):
        link = copy / file.relative_to(tmp_path / "originals")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return copy


@pytest.fixture
def decoded_files(monkeypatch):
    """Names of the files that were decoded since, in this process."""
    names, read = [], examination.read_picture

    def noted(path, quick=False):
        names.append(os.path.basename(path))
        return read(path, quick)

    monkeypatch.setattr(examination, "read_picture", noted)
    return names


def test_images_from_the_cache_give_the_same_batches_without_decoding(own_folders, tmp_path, decoded_files):
    plain = load_data("image_folder", own_folders, 9, 8, 3)
    decoded_files.clear()
    with image_cache(tmp_path / "cache"):
        first, second = (load_data("image_folder", own_folders, 9, 8, 3) for _ in range(2))
    assert len(decoded_files) == 33, "every image once, for both"
    for data in (first, second):
        assert data.in_memory and (data.mean, data.std, data.notes) == (plain.mean, plain.std, plain.notes)
        assert data.class_names == plain.class_names
        for subset in ("test", "train"):
            batches = [each.batches(subset, batch_size=5, seed=3) for each in (data, plain)]
            assert same(*map(all_of, batches))
    with image_cache(tmp_path / "cache"):
        other_size = load_data("image_folder", own_folders, 6, 5, 3)
    assert len(decoded_files) == 66 and other_size.train.images.shape[2:] == (6, 5)


def test_a_cache_of_changed_or_damaged_files_is_not_used(own_folders, tmp_path, decoded_files):
    def read(**settings):
        decoded_files.clear()
        with image_cache(tmp_path / "cache"):
            return load_data("image_folder", own_folders, 6, 5, 3, **settings)

    before = read().train.images.clone()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(read().train.images, before) and len(decoded_files) == 33
    assert torch.equal(read().train.images, before) and not decoded_files
    changed = tmp_path / "originals" / "train" / "ape" / "0.png"
    Image.fromarray(np.full((6, 5, 3), 7, np.uint8)).save(changed)
    os.utime(changed, ns=(1, 1))  # whatever the clock of the file system resolves
    assert read().train.images[0].unique().tolist() == [7] and len(decoded_files) == 33
    changed.unlink()
    for _ in range(2):  # a set with broken files is decoded each time: its labels are not those of the folder
        data = read(skip_broken=True)
        assert len(data.train) == 20 and len(decoded_files) == 33 and "broken" in data.notes[0]


def test_a_cache_that_cannot_be_written_is_named(folders, tmp_path):
    (tmp_path / "file").write_text("")
    complaint = r"setting image_cache = .*file.*cannot write there"
    with pytest.raises(UserError, match=complaint), image_cache(tmp_path / "file"):
        load_data("image_folder", folders, 6, 5, 3)


def test_workers_do_not_change_the_batches(folders):
    one, two = (
        load_data("image_folder", folders, 9, 9, 3, num_workers=workers, memory_limit_mb=0) for workers in (0, 2)
    )
    assert same(all_of(one.batches(batch_size=4)), all_of(two.batches(batch_size=4)))


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


# --- augmentation --------------------------------------------------------------------------------------------------


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


# --- split ---------------------------------------------------------------------------------------------------------


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


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_height", 0),
        ("image_width", -1),
        ("num_classes", 0),
        ("num_workers", -1),
        ("crop_padding", -1),
        ("prefetch", 0),
        ("memory_limit_mb", -1),
    ],
)
def test_impossible_number(name, value):
    settings = {"image_height": 6, "image_width": 5, "num_classes": 3}
    with pytest.raises(UserError, match=rf"^{name} must be at least [01], not {value}$"):
        load_data("random", "", **settings | {name: value})


def test_batches_that_cannot_be(noise):
    assert len(noise.batches(batch_size=50, drop_last=True)) == 1
    with pytest.raises(UserError, match=r"50 images of the train set .* smaller than 51"):
        noise.batches(batch_size=51, drop_last=True)
    with pytest.raises(UserError, match="0 images"):
        noise.batches("train", [], batch_size=1)
    with pytest.raises(UserError, match="batch_size must be at least 1, not 0"):
        noise.batches(batch_size=0)
    with pytest.raises(UserError, match="batch_size = 7: 4 processes share it, so it must be at least 8"):
        noise.batches(batch_size=7, world_size=4)
    with pytest.raises(ValueError, match="rank"):
        noise.batches(batch_size=8, rank=2, world_size=2)


def test_import_is_light():
    """Loading noise must not pay for torchvision or scikit-learn."""
    code = "import sys, dataloader; dataloader.load_data('random', '', 4, 4, 2); "
    code += "print({'torchvision', 'sklearn'} & {*sys.modules})"
    root = os.path.dirname(dataloader.__file__)
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(("size", "padding", "most"), [((1, 1), 4, 0), ((2, 2), 2, 1), ((1, 40), 1, 0), ((4, 4), 6, 4)])
def test_crops_that_are_mostly_padding(size, padding, most):
    """Batches of equal images make batch norm, and so training, end in NaN."""
    with pytest.raises(UserError, match=rf"crop_padding = {padding}: .* {size[0]} x {size[1]} pixels .* 0 to {most}$"):
        load_data("random", "", *size, crop_padding=padding)
    data = load_data("random", "", *size, crop_padding=most)
    data.train.images.fill_(255)
    data.train.images.data = data.train.images.repeat(20, 1, 1, 1)
    data.train.labels.data = data.train.labels.repeat(20)
    images = torch.cat([x for x, _ in data.batches(batch_size=64)])
    empty = (pixels_of(data, images) == 0).flatten(1).all(1).double().mean()
    assert len(images) == 64 * 20 and empty < 0.55


def test_large_padding_where_images_are_not_cropped_by_it(folders):
    assert len(load_data("imagenet", folders, 8, 8, crop_padding=50).train) == 21


def test_settings_of_files_reach_the_data_set(tmp_path, folders):
    shutil.copytree(folders, tmp_path / "images")
    shutil.rmtree(tmp_path / "images" / "val")
    (tmp_path / "images" / "train" / "ape" / "0.png").write_bytes(b"")
    data = load_data("image_folder", tmp_path / "images", 6, 5, crop_padding=0, val_portion=0.3, skip_broken=True)
    assert len(data.train) + len(data.test) == 20 and len(data.test) in (5, 6)
    assert data.notes[1:] == [
        "1 of 21 images are broken and left out (skip_broken):",
        "  train/ape/0.png: empty file",
    ]
