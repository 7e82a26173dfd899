"""Class folders on a disk -> image files with labels, for training and test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from instantnet.data.pictures import SUFFIXES
from instantnet.engine.errors import UserError, escaped
from instantnet.engine.machine import derived_seed


class Listing(NamedTuple):
    """Image files of one set, those of a class together, with their labels."""

    paths: list[str]
    labels: list[int]


class Folders(NamedTuple):
    """What lies in the class folders."""

    train: Listing
    test: Listing
    class_names: list[str]
    notes: list[str]


def list_folders(dataset: str, path: Path, num_classes: int | None, val_portion: float, remedy: str) -> Folders:
    """Training and test files of `image_folder` or `imagenet` in `path`; the arguments are those of `load_data`.

    Without a folder of test images the share `val_portion` of each class is drawn from the training images, the same
    ones in every run. remedy: how to get the data. Raises UserError: a folder is missing or empty, or the two do not
    match.
    """
    if not path.is_dir():
        raise UserError(f"no folder {path} for {dataset}: {remedy}")
    train_folder, test_folder = path / "train", path / "val"
    if dataset == "image_folder" and not test_folder.is_dir():
        test_folder = path / "test"
    classes = class_folders(train_folder, remedy)
    used = classes
    if dataset == "imagenet" and num_classes is not None and num_classes < len(classes):
        used = classes[:num_classes]
    check_num_classes(num_classes, len(used), f"{dataset} in {path}")
    if val_portion and not test_folder.is_dir():
        return _divided(image_files(train_folder, used), used, val_portion)
    if val_portion:
        raise UserError(
            f"setting val_portion = {val_portion:g}: {test_folder} holds the test images; it is for train/ alone"
        )
    if not test_folder.is_dir():
        raise UserError(f"no folder {test_folder}: --val_portion 0.2 takes test images from train/, or {remedy}")
    test_classes = class_folders(test_folder, remedy)
    if different := sorted({*classes} ^ {*test_classes} if used is classes else {*used} - {*test_classes}):
        names = escaped(", ".join(different[:5]))
        raise UserError(f"the class folders of {train_folder} and {test_folder} do not match: {names}")
    return Folders(image_files(train_folder, used), image_files(test_folder, used), used, [])


def check_num_classes(num_classes: int | None, actual: int | None, where: str) -> None:
    """Raise UserError where the setting is another number than the data set's."""
    if num_classes is not None and num_classes != actual:
        raise UserError(f"num_classes is {num_classes}, but {where} has {actual} classes")


def _divided(listing: Listing, classes: list[str], portion: float) -> Folders:
    """The share `portion` of each class, rounded, at least one image, for test; the rest for training."""
    train, test = Listing([], []), Listing([], [])
    for label, name in enumerate(classes):
        paths = [path for path, of in zip(*listing, strict=True) if of == label]
        count = max(1, round(portion * len(paths)))
        if count >= len(paths):
            raise UserError(
                f"setting val_portion = {portion:g}: of the {len(paths)} image(s) of class {escaped(name)} none is "
                "left to train"
            )
        # Of no setting: every run, stage and seed is tested on the same images, and trained on none of them.
        generator = torch.Generator().manual_seed(derived_seed("val_portion", label))
        chosen = set(torch.randperm(len(paths), generator=generator)[:count].tolist())
        for number, path in enumerate(paths):
            part = test if number in chosen else train
            part.paths.append(path)
            part.labels.append(label)
    note = f"no folder of test images: {len(test.paths)} of {len(listing.paths)} in train/ are for test (val_portion)"
    return Folders(train, test, classes, [note])


def class_folders(folder: Path, remedy: str) -> list[str]:
    """The classes in a folder: the names of its folders, sorted. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: {remedy}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"no class folders in {folder}: {remedy}")
    return names


def image_files(folder: Path, classes: list[str]) -> Listing:
    """The image files of the class folders, the classes in the order given. Raises UserError where one has none."""
    found = Listing([], [])
    for label, name in enumerate(classes):
        paths = sorted(_files_under(str(folder / name), set()))
        if not paths:
            raise UserError(f"no images in the class folder {escaped(str(folder / name))} ({' '.join(SUFFIXES)})")
        found.paths.extend(paths)
        found.labels.extend([label] * len(paths))
    return found


def _files_under(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Image files at any depth, through links too. seen: the folders read so far, each of them once: links may lead in
    circles."""
    state = os.stat(folder)
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files_under(entry.path, seen)
        elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            yield entry.path
