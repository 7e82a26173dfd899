"""Reading data sets: training and test images, class names, statistics.

A set that fits is held as uint8 on the compute device (`MemoryImages`); a larger one is decoded file by file in worker
processes (`StreamedImages`). Both have `read`. What a user can fix (no such folder, a damaged file) is a UserError
that says how.

Shapes: n images of a set, B of a batch, H x W pixels. Images are RGB; docs/data.md says how others become so.
"""

import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from instantnet.data.cache import cache_file, cached, keep_decoded
from instantnet.data.cifar import missing_cifar
from instantnet.data.examination import CHUNK_BYTES, examined
from instantnet.data.folders import check_num_classes, class_folders, image_files, list_folders
from instantnet.data.own import OwnImages, own_sets
from instantnet.data.pictures import upright_on_white
from instantnet.data.streamed import Request, Size, StreamedImages, Workers
from instantnet.engine.errors import UserError
from instantnet.engine.machine import derived_seed
from instantnet.engine.user_code import names_a_function

DATA_SETS = ("cifar10", "cifar100", "digits", "image_folder", "imagenet", "random")
FIXED_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
STATISTICS_SAMPLE = 10_000  # images of a streamed folder that its statistics are measured on
RELEASED_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the authors' train.py
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as published with the reference models
FOLDERS_HELP = "it needs train/<class>/ and val/<class>/ with image files"
CIFAR_HELP = "unpack the python version from https://www.cs.toronto.edu/~kriz/cifar.html there"
HELP = {  # how to get the data
    "cifar10": f"{CIFAR_HELP}; or try --preset digits",
    "cifar100": f"{CIFAR_HELP}; or try --preset digits",
    "image_folder": f"{FOLDERS_HELP} (or test/<class>/); or try --preset digits",
    "imagenet": f"{FOLDERS_HELP} (https://image-net.org, validation images sorted by class); or try --preset digits",
}

Channels = tuple[float, float, float]  # a number for red, green, blue


class MemoryImages:
    """Images [n, 3, H, W] uint8 and labels [n] int64, both on the compute device."""

    augments = False  # the batches crop and flip

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "MemoryImages":
        """The same on `device`."""
        return MemoryImages(self.images.to(device), self.labels.to(device))

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images [B, 3, H, W] and labels [B] for every request, on the device."""
        for indices, _ in requests:
            indices = indices.to(self.labels.device, non_blocking=True)
            yield self.images[indices], self.labels[indices]


ImageSet = MemoryImages | StreamedImages | OwnImages


class ImageSets(NamedTuple):
    """A data set. notes: lines for the log, on what was done to files."""

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    notes: list[str]


def open_image_sets(
    dataset: str,
    path: Path,
    size: Size,
    num_classes: int | None,
    *,
    flip: bool,
    num_workers: int,
    prefetch: int,
    device: torch.device,
    memory_limit_bytes: int,
    random_images: tuple[int, int],
    val_portion: float,
    skip_broken: bool,
) -> ImageSets:
    """Return the training set, the test set and the class names; the arguments are those of `dataloader.load_data`.

    Raises UserError: unknown data set, missing or incomplete data, unreadable images, `num_classes` other than the data
    set's.
    """
    if dataset not in DATA_SETS and not names_a_function(dataset):
        close = difflib.get_close_matches(dataset, DATA_SETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(
            f"unknown dataset {dataset!r}{hint}: legal are {', '.join(DATA_SETS)}, or path/to/file.py:function"
        )
    check_num_classes(num_classes, FIXED_CLASSES.get(dataset, num_classes), dataset)
    if val_portion and dataset not in ("image_folder", "imagenet"):
        raise UserError(f"setting val_portion = {val_portion:g}: {dataset} has test images; it is for train/ alone")
    notes: list[str] = []
    train: ImageSet
    test: ImageSet
    try:
        if dataset == "digits":
            train, test, class_names = _load_digits(size)
        elif dataset in ("cifar10", "cifar100"):
            train, test, class_names = _load_cifar(dataset, path, size)
        elif names_a_function(dataset):
            own = dataset, size, num_classes, Workers(num_workers, prefetch), device, memory_limit_bytes
            sets, pixels, class_names = own_sets(*own)
            train, test = (
                [MemoryImages(*one) for one in zip(pixels, (s.labels for s in sets), strict=True)] if pixels else sets
            )
        elif dataset == "random":
            train, test, class_names = _random_images(random_images, size, num_classes or 10)
        else:
            folders = list_folders(dataset, path, num_classes, val_portion, HELP[dataset])
            (view, random_view), class_names = _views(dataset, size, flip), folders.class_names
            workers = Workers(num_workers, prefetch)
            streamed = [
                StreamedImages(*listing, size, view, random_view, workers, device)
                for listing in (folders.train, folders.test)
            ]
            limit = memory_limit_bytes if dataset == "image_folder" else 0
            (train, test), notes = _from_files(streamed, path, limit, skip_broken, class_names)
            notes = folders.notes + notes
    except OSError as error:
        raise UserError(f"cannot read {dataset} in {path}: {error}") from error
    if isinstance(train, MemoryImages) and isinstance(test, MemoryImages):
        train, test = train.to(device), test.to(device)
    return ImageSets(train, test, class_names, notes)


def open_test_folder(
    dataset: str, path: Path, size: Size, known: Sequence[str], workers: Workers, device: torch.device,
    memory_limit_bytes: int, skip_broken: bool,
) -> tuple[ImageSet, list[str], list[str]]:  # fmt: skip
    """The test images of `image_folder` or `imagenet` alone, their class names and notes for the log.

    known: the classes of the network that is tested; of imagenet's folders only these are read. Raises UserError as
    `open_image_sets` does.
    """
    folder = path / "val" if dataset == "imagenet" or (path / "val").is_dir() else path / "test"
    classes = class_folders(folder, HELP[dataset])
    if dataset == "imagenet" and len(known) < len(classes):
        classes = [name for name in classes if name in set(known)]
    view, _ = _views(dataset, size, flip=False)
    streamed = StreamedImages(*image_files(folder, classes), size, view, None, workers, device)
    limit = memory_limit_bytes if dataset == "image_folder" else 0
    (images,), notes = _from_files([streamed], path, limit, skip_broken, classes)
    return (images.to(device) if isinstance(images, MemoryImages) else images), classes, notes


def _from_files(
    sets: Sequence[StreamedImages], path: Path, memory_limit_bytes: int, skip_broken: bool, class_names: Sequence[str]
) -> tuple[list[ImageSet], list[str]]:
    """The sets, examined, in memory where they fit into the limit together; and notes for the log."""
    keep = sum(len(images) * 3 * images.size[0] * images.size[1] for images in sets) <= memory_limit_bytes
    file = cache_file(sets) if keep else None
    if file is not None and (found := cached(file)) is not None:
        pixels, notes = found
        return [MemoryImages(part, images.labels) for part, images in zip(pixels, sets, strict=True)], notes
    streamed, pixels, notes = examined(sets, path, keep, skip_broken, class_names)
    if not keep:
        return list(streamed), notes
    if file is not None and all(len(after) == len(before) for after, before in zip(streamed, sets, strict=True)):
        keep_decoded(file, pixels, notes)
    return [MemoryImages(part, images.labels) for part, images in zip(pixels, streamed, strict=True)], notes


def plain_view(picture: Any, dataset: str, size: Size) -> Any:
    """A PIL picture as a test image of the data set is made of it, upright, on white, RGB, of `size` (H, W)."""
    return _views(dataset, size, flip=False)[0](upright_on_white(picture))


def statistics(dataset: str, train: ImageSet) -> tuple[Channels, Channels]:
    """Return mean and population standard deviation per channel, of pixels scaled to 0..1.

    ImageNet's are the published ones. Others come from the histogram of the training images, or, for a streamed set,
    of `STATISTICS_SAMPLE` images, always the same ones.
    """
    if dataset == "imagenet":
        return IMAGENET_STATISTICS
    if isinstance(train, MemoryImages):
        chunks = train.images.split(4096)
    else:
        generator = torch.Generator().manual_seed(derived_seed("statistics"))
        sample = torch.randperm(len(train), generator=generator)[:STATISTICS_SAMPLE]
        chunks = _read_plain(train, sample)
    histogram = torch.zeros(3, 256, dtype=torch.float64)
    for images in chunks:
        for channel in range(3):
            histogram[channel] += torch.bincount(images[:, channel].flatten(), minlength=256).cpu()
    values, weights = torch.arange(256, dtype=torch.float64) / 255, histogram / histogram.sum(1, keepdim=True)
    mean = (weights * values).sum(1)
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    std[std == 0] = 1.0  # a constant channel is centred and left at that
    return tuple(mean.tolist()), tuple(std.tolist())


def _resized(images: Tensor, size: Size) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    # In float: on bytes torch's kernel fails at a size of one pixel.
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()


def _load_digits(size: Size) -> tuple[MemoryImages, MemoryImages, list[str]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)  # [n, 8, 8], from 0..16
    images = _resized(grey.unsqueeze(1).repeat(1, 3, 1, 1), size)
    labels = torch.from_numpy(digits.target).long()
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=0)
    train, test = (MemoryImages(images[part], labels[part]) for part in parts)
    return train, test, [str(name) for name in digits.target_names]


def _load_cifar(dataset: str, path: Path, size: Size) -> tuple[MemoryImages, MemoryImages, list[str]]:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        parts = [source(str(path), train=train, download=False) for train in (True, False)]
    except RuntimeError:
        missing_cifar(dataset, path)
        parts = _download_cifar(source, dataset, path)
    images = [_resized(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), size) for part in parts]
    train, test = (MemoryImages(x, torch.tensor(part.targets)) for x, part in zip(images, parts, strict=True))
    return train, test, list(parts[0].classes)


def _download_cifar(source, dataset: str, path: Path) -> list:
    try:
        return [source(str(path), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"no {dataset} in {path}, and no download ({error}): {HELP[dataset]}") from error


def _random_images(counts: tuple[int, int], size: Size, num_classes: int):
    generator = torch.Generator().manual_seed(derived_seed("random images"))
    train, test = (
        MemoryImages(
            torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=generator),
            torch.randint(num_classes, (count,), generator=generator),
        )
        for count in counts
    )
    return train, test, [str(label) for label in range(num_classes)]


def _centre(picture, longest: int):
    """The middle of a strip more than `longest` times as long as wide: resized as a whole it would fill the memory."""
    width, height = picture.size
    limit = longest * min(width, height)
    if max(width, height) <= limit:
        return picture
    left, top = max(0, width - limit) // 2, max(0, height - limit) // 2
    return picture.crop((left, top, left + min(width, limit), top + min(height, limit)))


def _squeezed(picture, size: Size):
    from PIL import Image

    return picture.resize(size[::-1], Image.Resampling.BILINEAR)  # averages when it shrinks; a copy at the same size


def _views(dataset: str, size: Size, flip: bool):
    """(view, random view or None): what makes a picture of `size` out of another, in validation and in training."""
    if dataset != "imagenet":
        return functools.partial(_squeezed, size=size), None
    from torchvision.transforms import v2

    # The usual 256 : 224 between resize and crop.
    longest = 8 * max(size) // min(size)
    centre = functools.partial(_centre, longest=longest)
    view = v2.Compose([centre, v2.Resize(round(max(size) * 256 / 224)), v2.CenterCrop(size)])
    return view, v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(0.5 if flip else 0.0)])


def _read_plain(streamed: StreamedImages | OwnImages, indices: Tensor) -> Iterator[Tensor]:
    """Yield the images `indices` in order, uint8 [B, 3, H, W], in chunks of any size."""
    chunk = max(1, min(256, CHUNK_BYTES // (3 * streamed.size[0] * streamed.size[1])))
    return (images for images, _ in streamed.read((part, None) for part in indices.split(chunk)))
