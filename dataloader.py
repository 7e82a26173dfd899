"""Data sets to batches: `load_data` gives a `DataSet`, its `batches` give (images, labels) on the compute device.

A set that fits lives as uint8 on the device and is cropped, flipped and normalised there by the batch; a larger one
streams through worker processes. Everything random is a pure function of (seed, epoch, step): nothing reads or moves
the global random state, a run resumes at any step exactly, and neither the number of workers nor the number of
processes changes what a batch holds.

Shapes: n images of a set, B of a batch, H x W pixels. Images are RGB: grey ones are replicated, alpha is dropped.
"""

import difflib
import functools
import hashlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError

DATA_SETS = ("cifar10", "cifar100", "digits", "image_folder", "imagenet", "random")
FIXED_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
MEMORY_LIMIT_BYTES = 2 << 30  # an image folder up to this size as uint8 is decoded once and kept
STATISTICS_SAMPLE = 10_000  # images of a streamed folder whose statistics stand for the whole
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as published with the reference models
CHUNK_BYTES = 4 << 20  # what a decoding worker hands over at a time: small, as containers have little shared memory
FOLDERS_HELP = "it needs train/<class>/ and val/<class>/ with image files"
CIFAR_HELP = "unpack the python version from https://www.cs.toronto.edu/~kriz/cifar.html there"
HELP = {  # how to get the data
    "cifar10": f"{CIFAR_HELP}; or try --preset digits",
    "cifar100": f"{CIFAR_HELP}; or try --preset digits",
    "image_folder": f"{FOLDERS_HELP} (or test/<class>/); or try --preset digits",
    "imagenet": f"{FOLDERS_HELP} (https://image-net.org, validation images sorted by class); or try --preset digits",
}

Size = tuple[int, int]  # height, width in pixels
Request = tuple[Tensor, list[int] | None]  # indices [B] of a batch; one seed per image, None for the plain view


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
    """Image files, decoded when a batch asks for them, in `num_workers` processes (0: in this one).

    `view` makes an RGB picture of `size` (H, W) out of a PIL picture. `random_view`, unless None, replaces it in
    augmented batches; it draws from torch's CPU generator, seeded per image, so that it does not matter which worker
    runs it.
    """

    def __init__(self, paths: list[str], labels: list[int], size: Size, view, random_view, num_workers: int, device):
        # Arrays, not lists: reading a list's items writes their reference counts, and so copies the list's memory
        # pages into every forked worker.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels, self.size = torch.tensor(labels), size
        self.view, self.random_view, self.augments = view, random_view, random_view is not None
        self.num_workers, self.device = num_workers, torch.device(device)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, items: list[tuple[int, int | None]]) -> tuple[Tensor, Tensor] | UserError:
        """Decode a batch of (index, seed). An error is returned: raised in a worker, it would arrive as a traceback."""
        if not items:  # the share of a process in a last batch smaller than the number of processes
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
                picture = file.convert("RGB")
        except Exception as error:  # the decoders raise a dozen kinds for a damaged file
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
            batch_sampler=(list(zip(i.tolist(), seeds or [None] * len(i), strict=True)) for i, seeds in requests),
            num_workers=self.num_workers,
            collate_fn=_as_is,
            worker_init_fn=_leave_interrupts_to_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it takes the base seed of the workers from the global generator
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)


class Batches:
    """One pass over (a part of) an image set per `iter`; made by `DataSet.batches`.

    Yields images [B, 3, H, W] float32, normalised, and labels [B] int64, both on the compute device. `num_images` is
    the number of images of one pass, over all processes.
    """

    def __init__(self, data, image_set, indices, batch_size, shuffle, augment, drop_last, seed, rank, world_size):
        self.data, self.image_set, self.indices = data, image_set, indices
        self.batch_size, self.shuffle, self.augment = batch_size, shuffle, augment
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0
        self.num_images = len(indices) // batch_size * batch_size if drop_last else len(indices)
        std = torch.tensor(data.std).view(3, 1, 1)
        self._scale = (1 / (255 * std)).to(data.device)
        self._shift = (-torch.tensor(data.mean).view(3, 1, 1) / std).to(data.device)

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.iterate_from(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the passes that start from now on."""
        self.epoch = epoch

    def iterate_from(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches `step`, `step` + 1, ... of this epoch, bit-identical to those of the undisturbed pass."""
        if not 0 <= step <= len(self):
            raise ValueError(f"step {step} is not in 0..{len(self)}")
        return self._iterate(self.epoch, step)

    def _iterate(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        steps = range(first_step, len(self))
        order = self.indices
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=_generator(self.seed, epoch, "order"))]
        in_worker = self.augment and self.image_set.augments

        def request(step: int) -> Request:
            start, share = step * self.batch_size, self._share(step)
            indices = order[start + share.start : start + share.stop]
            return indices, self._draw(epoch, step, 1 << 62, 1)[0, share].tolist() if in_worker else None

        for step, (images, labels) in zip(steps, self.image_set.read(map(request, steps)), strict=True):
            if self.augment and not in_worker:
                images = self._crop_and_flip(images, epoch, step)
            yield images.to(torch.float32).mul_(self._scale).add_(self._shift), labels

    def _images_in(self, step: int) -> int:
        """Return the size of the batch of all processes."""
        return min(self.batch_size, self.num_images - step * self.batch_size)

    def _share(self, step: int) -> slice:
        """Return this process's part of the batch of all processes."""
        count = self._images_in(step)
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def _draw(self, epoch: int, step: int, high: int, rows: int) -> Tensor:
        """Draw `rows` numbers in [0, high) for every image of the batch of all processes."""
        return torch.randint(high, (rows, self._images_in(step)), generator=_generator(self.seed, epoch, step))

    def _crop_and_flip(self, images: Tensor, epoch: int, step: int) -> Tensor:
        padding = self.data.crop_padding
        # Twice the range, so that one draw holds an offset and a coin.
        draw = self._draw(epoch, step, 2 * (2 * padding + 1), 2)[:, self._share(step)]
        top, left, flipped = draw[0] // 2, draw[1] // 2, draw[1] % 2
        top, left, flipped = torch.stack([top, left, flipped]).to(images.device, non_blocking=True)
        return crop_and_flip(images, top, left, flipped.bool() if self.data.flip else None, padding)


@dataclass
class DataSet:
    """A training and a test set, ready to be batched.

    `mean` and `std`, one per channel, are of the training images scaled to 0..1 (std: population). `crop_padding` is in
    pixels.
    """

    name: str
    class_names: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: MemoryImages | StreamedImages
    test: MemoryImages | StreamedImages
    device: torch.device
    crop_padding: int = 4
    flip: bool = True

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.train, MemoryImages)

    def batches(
        self,
        subset: str = "train",
        indices: Tensor | Sequence[int] | None = None,
        *,
        batch_size: int,
        shuffle: bool | None = None,
        augment: bool | None = None,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Return the batches of `subset` ("train" or "test"), or of its images `indices`.

        `shuffle` and `augment` are by default on for "train", off for "test". `batch_size` counts the images of all
        `world_size` processes; the batch of process `rank` is its part of that batch, parts differing by one image at
        most. (The last batch of a pass without `drop_last` may leave a process without an image: [0, 3, H, W].)

        Raises UserError if there is not one batch, or not one image per process in a batch.
        """
        image_set = {"train": self.train, "test": self.test}[subset]
        count = len(image_set)
        indices = torch.arange(count) if indices is None else torch.as_tensor(indices, dtype=torch.int64).cpu()
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise IndexError(f"indices outside 0..{count - 1} of the {subset} set of {self.name}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        if batch_size < max(1, world_size):
            raise UserError(f"batch_size must be at least 1 per process: {batch_size} for {world_size} process(es)")
        if len(indices) < (batch_size if drop_last else 1):
            raise UserError(
                f"{len(indices)} images of the {subset} set of {self.name} do not fill one batch: "
                f"choose a batch_size smaller than {batch_size}, or another split"
            )
        train = subset == "train"
        shuffle, augment = train if shuffle is None else shuffle, train if augment is None else augment
        return Batches(self, image_set, indices, batch_size, shuffle, augment, drop_last, seed, rank, world_size)


def load_data(
    dataset: str,
    dataset_path: str | os.PathLike,
    image_height: int,
    image_width: int,
    num_classes: int | None = None,
    *,
    num_workers: int = 0,
    crop_padding: int = 4,
    flip: bool = True,
    device: str | torch.device = "cpu",
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    random_images: tuple[int, int] = (64, 32),
) -> DataSet:
    """Load a data set; images become `image_height` x `image_width` pixels.

    * `digits`: scikit-learn's 1797 handwritten digits; a fixed, stratified fifth is the test set.
    * `cifar10`, `cifar100`: under `dataset_path`, downloaded there unless present. (With several processes on one
      machine let one of them load first.)
    * `imagenet`: `train/<class>/`, `val/<class>/`, always streamed; training images by random resized crop and flip
      (`crop_padding` plays no part), test images by resize and centre crop. If `num_classes` is smaller than the
      number of class folders, the first ones in sorted order.
    * `image_folder`: `train/<class>/`, and `val/<class>/` (if there is none, `test/<class>/`), squeezed to the size. Up
      to `memory_limit_bytes` as uint8 it is decoded once, by `num_workers` processes, else streamed. The statistics of
      a streamed folder are those of 10,000 training images, always the same ones.
    * `random`: noise with noise for labels, `random_images` for training and for test: for smoke tests.

    `num_classes` None: as many as the data set has (`random`: 10). Class folders are labelled in the sorted order of
    their names. Raises UserError: unknown data set, impossible number, missing or incomplete data, an unreadable image,
    `num_classes` other than the data set's.
    """
    if dataset not in DATA_SETS:
        close = difflib.get_close_matches(dataset, DATA_SETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"unknown dataset {dataset!r}{hint}: legal are {', '.join(DATA_SETS)}")
    for name, value, least in (
        ("image_height", image_height, 1),
        ("image_width", image_width, 1),
        ("num_classes", 1 if num_classes is None else num_classes, 1),
        ("num_workers", num_workers, 0),
        ("crop_padding", crop_padding, 0),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")
    _check_num_classes(num_classes, FIXED_CLASSES.get(dataset, num_classes), dataset)

    path, size, device = Path(dataset_path).expanduser(), (image_height, image_width), torch.device(device)
    try:
        if dataset == "digits":
            train, test, class_names = _load_digits(size)
        elif dataset in ("cifar10", "cifar100"):
            train, test, class_names = _load_cifar(dataset, path, size)
        elif dataset == "random":
            train, test, class_names = _random_images(random_images, size, num_classes or 10)
        else:
            train, test, class_names = _scan_folders(dataset, path, size, num_classes, flip, num_workers, device)
            size_bytes = (len(train) + len(test)) * 3 * image_height * image_width
            if dataset == "image_folder" and size_bytes <= memory_limit_bytes:
                train, test = _decode_all(train), _decode_all(test)
    except OSError as error:
        raise UserError(f"cannot read {dataset} in {path}: {error}") from error

    mean, std = IMAGENET_STATISTICS if dataset == "imagenet" else _statistics(train)
    if isinstance(train, MemoryImages):
        train, test = (MemoryImages(part.images.to(device), part.labels.to(device)) for part in (train, test))
    return DataSet(dataset, class_names, mean, std, train, test, device, crop_padding, flip)


def split_indices(n: int, portion: float, seed: int, *, shuffled: bool = True) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 into floor(portion * n) indices (for the weights) and the rest (for alpha), int64.

    `shuffled=False` cuts by index, as the authors' released code does. Raises UserError if a part would be empty.
    """
    cut = int(portion * n)
    if not 0 < cut < n:
        raise UserError(f"train_portion {portion} of {n} images leaves the weights or alpha without any")
    order = torch.randperm(n, generator=_generator(seed, "split")) if shuffled else torch.arange(n)
    return order[:cut], order[cut:]


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor | None, padding: int) -> Tensor:
    """Pad images [B, 3, H, W] with zeros, cut H x W at (top, left) [B] in 0..2*padding, mirror where flipped [B]."""
    if padding:
        height, width = images.shape[2:]
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, 3, y, x, H, W]
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    return images if flipped is None else torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def _generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by all of `key`: the draws are then the same on every device."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _as_is(batch):
    return batch


def _leave_interrupts_to_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # else Ctrl-C prints one traceback per worker


def _check_num_classes(num_classes: int | None, actual: int | None, where: str) -> None:
    if num_classes is not None and num_classes != actual:
        raise UserError(f"num_classes is {num_classes}, but {where} has {actual} classes")


def _resized(images: Tensor, size: Size) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


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
    generator = _generator("random images")
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


def _scan_folders(dataset, path: Path, size, num_classes: int | None, flip: bool, num_workers: int, device):
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
    train, test = (StreamedImages(*files, size, view, random_view, num_workers, device) for files in listings)
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


def _statistics(image_set: MemoryImages | StreamedImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population standard deviation per channel, of pixels scaled to 0..1, from their histogram."""
    if isinstance(image_set, MemoryImages):
        chunks = image_set.images.split(4096)
    else:
        sample = torch.randperm(len(image_set), generator=_generator("statistics"))[:STATISTICS_SAMPLE]
        chunks = _read_plain(image_set, sample)
    histogram = torch.zeros(3, 256, dtype=torch.float64)
    for images in chunks:
        for channel in range(3):
            histogram[channel] += torch.bincount(images[:, channel].flatten(), minlength=256).cpu()
    values, weights = torch.arange(256, dtype=torch.float64) / 255, histogram / histogram.sum(1, keepdim=True)
    mean = (weights * values).sum(1)
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    std[std == 0] = 1.0  # a constant channel is centred and left at that
    return tuple(mean.tolist()), tuple(std.tolist())
