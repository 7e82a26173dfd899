"""Reading data sets: training and test images, class names, statistics.

A set that fits is held as uint8 on the compute device (`MemoryImages`); a larger one is decoded file by file in worker
processes (`StreamedImages`). Both have `read`. What a user can fix (no such folder, a damaged file) is a UserError
that says how.

Shapes: n images of a set, B of a batch, H x W pixels. Images are RGB: grey ones are replicated, alpha is dropped.
"""

import difflib
import functools
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from instantnet.engine.errors import UserError
from instantnet.engine.machine import derived_seed

DATA_SETS = ("cifar10", "cifar100", "digits", "image_folder", "imagenet", "random")
FIXED_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
STATISTICS_SAMPLE = 10_000  # images of a streamed folder that its statistics are measured on
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as published with the reference models
CHUNK_BYTES = 4 << 20  # what a decoding worker passes on at a time: small, because containers have little shared memory
FOLDERS_HELP = "it needs train/<class>/ and val/<class>/ with image files"
CIFAR_HELP = "unpack the python version from https://www.cs.toronto.edu/~kriz/cifar.html there"
HELP = {  # how to get the data
    "cifar10": f"{CIFAR_HELP}; or try --preset digits",
    "cifar100": f"{CIFAR_HELP}; or try --preset digits",
    "image_folder": f"{FOLDERS_HELP} (or test/<class>/); or try --preset digits",
    "imagenet": f"{FOLDERS_HELP} (https://image-net.org, validation images sorted by class); or try --preset digits",
}

Channels = tuple[float, float, float]  # a number for red, green, blue
Size = tuple[int, int]  # height, width in pixels
Request = tuple[Tensor, list[int] | None]  # indices [B] of a batch; one seed per image, None for the plain view


class Workers(NamedTuple):
    """Processes that decode images, and how many batches ahead each of them works."""

    processes: int
    prefetch: int


class MemoryImages:
    """Images [n, 3, H, W] uint8 and labels [n] int64, both on the compute device."""

    augments = False  # the batches crop and flip

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images [B, 3, H, W] and labels [B] for every request, on the device."""
        for indices, _ in requests:
            indices = indices.to(self.labels.device, non_blocking=True)
            yield self.images[indices], self.labels[indices]


class StreamedImages(torch.utils.data.Dataset):
    """Image files, decoded when a batch asks for them, by `workers` (0 of them: in this process).

    `view` turns a PIL picture into an RGB picture of `size` (H, W). `random_view`, unless None, replaces it in
    augmented batches; it draws from torch's CPU generator, seeded per image, so that it does not matter which worker
    runs it.
    """

    def __init__(self, paths: list[str], labels: list[int], size: Size, view, random_view, workers: Workers, device):
        # Arrays, not lists: reading a list's items writes their reference counts, and so copies the list's memory
        # pages into every forked worker.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels, self.size = torch.tensor(labels), size
        self.view, self.random_view, self.augments = view, random_view, random_view is not None
        self.workers, self.device = workers, torch.device(device)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, items: list[tuple[int, int | None]]) -> tuple[Tensor, Tensor] | UserError:
        """Decode a batch of (index, seed). An error is returned: raised in a worker, it would arrive as a traceback."""
        if not items:  # the last batch may be smaller than the number of processes
            return torch.empty(0, 3, *self.size, dtype=torch.uint8), self.labels[:0]
        try:
            pixels = np.stack([self._decode(os.fsdecode(self.paths[index]), seed) for index, seed in items])
        except UserError as error:
            return error
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), self.labels[[index for index, _ in items]]

    def _decode(self, path: str, seed: int | None) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(path) as file:
                picture = _rgb(file)
        except Exception as error:  # decoders raise a dozen kinds of error for a damaged file
            raise UserError(f"cannot read the image {path}: {error}") from error
        if seed is None or self.random_view is None:
            return np.asarray(self.view(picture))
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        try:
            return np.asarray(self.random_view(picture))
        finally:
            torch.set_rng_state(state)

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images [B, 3, H, W] and labels [B] for every request, on the device.

        Raises UserError for a file that cannot be decoded.
        """
        loader = torch.utils.data.DataLoader(
            self,
            batch_sampler=(list(zip(i.tolist(), seeds or repeat(None, len(i)), strict=True)) for i, seeds in requests),
            num_workers=(workers := min(self.workers.processes, os.cpu_count() or 1)),  # more only make torch warn
            prefetch_factor=self.workers.prefetch if workers else None,
            collate_fn=_as_is,
            worker_init_fn=_leave_signals_to_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # otherwise it draws the workers' base seed from the global generator
        )
        with _signals_held_back():
            batches = iter(loader)  # starts the workers
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)


def _rgb(picture):
    """An RGB picture of 8 bits from any PIL picture; PIL itself would clip grey values of 16 bits at 255."""
    if picture.mode.startswith("I") or picture.mode == "F":
        from PIL import Image

        grey = np.asarray(picture, dtype=np.float64)
        # PIL opens 16-bit files as "I;16" or, depending on its release, as "I".
        scale = 1.0 if picture.mode in ("I", "F") and grey.max(initial=0) <= 255 else 255 / 65535
        picture = Image.fromarray(np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8))
    return picture.convert("RGB")


def _as_is(batch):
    return batch


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process forked meanwhile starts with SIGINT and SIGTERM blocked; here they arrive after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_parent(_worker: int) -> None:
    """Ignore the signals that stop a run. They often go to the whole process group, but the parent needs its workers to
    finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_at_sigterm_of, args=(os.getppid(),), daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_at_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


ImageSet = MemoryImages | StreamedImages


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
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Return the training set, the test set and the class names; the arguments are those of `dataloader.load_data`.

    Raises UserError: unknown data set, missing or incomplete data, an unreadable image, `num_classes` other than the
    data set's.
    """
    if dataset not in DATA_SETS:
        close = difflib.get_close_matches(dataset, DATA_SETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"unknown dataset {dataset!r}{hint}: legal are {', '.join(DATA_SETS)}")
    _check_num_classes(num_classes, FIXED_CLASSES.get(dataset, num_classes), dataset)
    try:
        if dataset == "digits":
            train, test, class_names = _load_digits(size)
        elif dataset in ("cifar10", "cifar100"):
            train, test, class_names = _load_cifar(dataset, path, size)
        elif dataset == "random":
            train, test, class_names = _random_images(random_images, size, num_classes or 10)
        else:
            workers = Workers(num_workers, prefetch)
            train, test, class_names = _scan_folders(dataset, path, size, num_classes, flip, workers, device)
            size_bytes = (len(train) + len(test)) * 3 * size[0] * size[1]
            if dataset == "image_folder" and size_bytes <= memory_limit_bytes:
                train, test = _decode_all(train), _decode_all(test)
    except OSError as error:
        raise UserError(f"cannot read {dataset} in {path}: {error}") from error
    if isinstance(train, MemoryImages):
        train, test = (MemoryImages(part.images.to(device), part.labels.to(device)) for part in (train, test))
    return train, test, class_names


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


def _check_num_classes(num_classes: int | None, actual: int | None, where: str) -> None:
    if num_classes is not None and num_classes != actual:
        raise UserError(f"num_classes is {num_classes}, but {where} has {actual} classes")


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
        parts = [source(str(path), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"no {dataset} in {path}, and no download ({error}): {HELP[dataset]}") from error
    images = [_resized(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), size) for part in parts]
    train, test = (MemoryImages(x, torch.tensor(part.targets)) for x, part in zip(images, parts, strict=True))
    return train, test, list(parts[0].classes)


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


def _squeezed(picture, size: Size):
    from PIL import Image

    return picture.resize(size[::-1], Image.Resampling.BILINEAR)  # averages when it shrinks; a copy at the same size


def _scan_folders(dataset, path: Path, size, num_classes: int | None, flip: bool, workers: Workers, device):
    """Return the streamed training and test sets and the class names."""
    if not path.is_dir():
        raise UserError(f"no folder {path} for {dataset}: {HELP[dataset]}")
    test_folder = path / "val"
    if dataset == "image_folder" and not test_folder.is_dir():
        test_folder = path / "test"
    folders = [path / "train", test_folder]
    classes, test_classes = (_class_folders(folder, HELP[dataset]) for folder in folders)
    if dataset == "imagenet" and num_classes is not None and num_classes < len(classes):
        classes = classes[:num_classes]
        test_classes = [name for name in test_classes if name in set(classes)]
    _check_num_classes(num_classes, len(classes), f"{dataset} in {path}")
    if different := sorted(set(classes) ^ set(test_classes)):
        raise UserError(f"the class folders of {folders[0]} and {folders[1]} do not match: {', '.join(different[:5])}")

    view, random_view = functools.partial(_squeezed, size=size), None
    if dataset == "imagenet":
        from torchvision.transforms import v2

        # The usual 256 : 224 between resize and crop.
        view = v2.Compose([v2.Resize(round(max(size) * 256 / 224)), v2.CenterCrop(size)])
        random_view = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(0.5 if flip else 0.0)])
    listings = [_image_files(folder, classes) for folder in folders]
    train, test = (StreamedImages(*files, size, view, random_view, workers, device) for files in listings)
    return train, test, classes


def _class_folders(folder: Path, remedy: str) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: {remedy}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"no class folders in {folder}: {remedy}")
    return names


def _image_files(folder: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = [
            os.path.join(where, file)
            for where, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")
        ]
        if not files:
            raise UserError(f"no images in the class folder {folder / name} (legal are {' '.join(IMAGE_SUFFIXES)})")
        paths += sorted(files)
        labels += [label] * len(files)
    return paths, labels


def _read_plain(streamed: StreamedImages, indices: Tensor) -> Iterator[Tensor]:
    """Yield the images `indices` in order, uint8 [B, 3, H, W], in chunks of any size."""
    chunk = max(1, min(256, CHUNK_BYTES // (3 * streamed.size[0] * streamed.size[1])))
    return (images for images, _ in streamed.read((part, None) for part in indices.split(chunk)))


def _decode_all(streamed: StreamedImages) -> MemoryImages:
    images, done = torch.empty(len(streamed), 3, *streamed.size, dtype=torch.uint8, device=streamed.device), 0
    for chunk in _read_plain(streamed, torch.arange(len(streamed))):
        images[done : done + len(chunk)] = chunk
        done += len(chunk)
    return MemoryImages(images, streamed.labels)
