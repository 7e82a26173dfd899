"""Data sets to batches: `load_data` gives a `DataSet`, its `batches` give (images, labels) on the compute device.

Images in memory are cropped, flipped and normalised on the device by the batch; streamed ones are cropped and flipped
by the workers that decode them (instantnet/data). Everything random is a pure function of (seed, epoch, step): nothing
reads or moves the global random state, a run resumes at any step exactly, and neither the number of workers nor the
number of processes changes what a batch holds.

Shapes: n images of a set, B of a batch, H x W pixels.
"""

import os
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from instantnet.data.image_sets import RELEASED_STATISTICS, ImageSet, MemoryImages, Request, open_image_sets, statistics
from instantnet.engine.errors import UserError
from instantnet.engine.machine import derived_seed


class Batches:
    """One pass over (a part of) an image set per `iter`; made by `DataSet.batches`.

    Yields images [B, 3, H, W] float32, normalised, and labels [B] int64, both on the compute device. `num_images` is
    the number of images of one pass, over all processes; `drop_last` and a last training batch of one image make it
    smaller than that of the indices.

    Every process has its share of each batch. A last training batch with fewer than two images per process goes to all
    of them as a whole, because batch norm could not train on less.
    """

    def __init__(self, data, image_set, indices, batch_size, shuffle, augment, drop_last, seed, rank, world_size):
        self.data, self.image_set, self.indices = data, image_set, indices
        self.batch_size, self.shuffle, self.augment = batch_size, shuffle, augment
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0
        remainder = len(indices) % batch_size
        self._alone = int(remainder == 1 and (shuffle or augment))  # batch norm cannot train on it at a map of 1 x 1
        self.num_images = len(indices) - (remainder if drop_last else self._alone)
        self._for_training = shuffle or augment
        std = torch.tensor(data.std).view(3, 1, 1)
        self._scale = (1 / (255 * std)).to(data.device)
        self._shift = (-torch.tensor(data.mean).view(3, 1, 1) / std).to(data.device)

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.iterate_from(0)

    def with_last_batch(self) -> "Batches":
        """The same passes with the last batch, where drop_last left it out."""
        whole = copy(self)
        whole.num_images = len(self.indices) - self._alone
        return whole

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the passes that start from now on."""
        self.epoch = epoch

    def iterate_from(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches `step`, `step` + 1, ... of this epoch, bit-identical to those of an uninterrupted pass."""
        if not 0 <= step <= len(self):
            raise ValueError(f"step {step} is not in 0..{len(self)}")
        return self._iterate(self.epoch, step)

    def _iterate(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        steps = range(first_step, len(self))
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, "order"))
            order = order[torch.randperm(len(order), generator=generator)]
        in_worker = self.augment and self.image_set.augments

        def request(step: int) -> Request:
            start, share = step * self.batch_size, self._share(step)
            indices = order[start + share.start : start + share.stop]
            return indices, self._draw(epoch, step, 1 << 62, 1)[0, share].tolist() if in_worker else None

        for step, (images, labels) in zip(steps, self.image_set.read(map(request, steps)), strict=True):
            if self.augment and not in_worker:
                images = self._crop_and_flip(images, epoch, step)
            yield images.to(torch.float32).mul_(self._scale).add_(self._shift), labels

    def images_in(self, step: int) -> int:
        """The size of the batch of all processes."""
        return min(self.batch_size, self.num_images - step * self.batch_size)

    def weight(self, step: int) -> float:
        """This process's images relative to the processes' mean number: mean over processes of weight * (mean over
        own images) = mean over the batch of all processes."""
        share, count = self._share(step), self.images_in(step)
        return 1.0 if share == slice(0, count) else (share.stop - share.start) * self.world_size / count

    def _share(self, step: int) -> slice:
        """Return this process's part of the batch of all processes."""
        count = self.images_in(step)
        if self._for_training and count < 2 * self.world_size:
            return slice(0, count)
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def _draw(self, epoch: int, step: int, high: int, rows: int) -> Tensor:
        """Draw `rows` numbers in [0, high) for every image of the batch of all processes."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, step))
        return torch.randint(high, (rows, self.images_in(step)), generator=generator)

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
    pixels. `notes`: lines for the log, on what was done to image files.
    """

    name: str
    class_names: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: ImageSet
    test: ImageSet
    device: torch.device
    crop_padding: int
    flip: bool
    notes: list[str] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.train, MemoryImages)

    def as_released(self) -> "DataSet":
        """Normalised as in the authors' code, which has constants for CIFAR; other data sets as they are."""
        if self.name not in ("cifar10", "cifar100"):
            return self
        mean, std = RELEASED_STATISTICS
        return replace(self, mean=mean, std=std)

    def first_of_each_class(self, count: int) -> Tensor:
        """Indices int64 of the first `count` training images of every class, in their order; 0 = of all images."""
        labels = self.train.labels.cpu()
        if not count:
            return torch.arange(len(self.train))
        if len(labels) != len(self.train):
            raise UserError(f"setting images_per_class = {count}: the labels of {self.name} are not known beforehand")
        of_class = [(labels == label).nonzero().flatten() for label in range(self.num_classes)]
        for name, indices in zip(self.class_names, of_class, strict=True):
            if len(indices) < count:
                there = f"class {name} has {len(indices)} images for training in {self.name}"
                raise UserError(f"setting images_per_class = {count}: {there}")
        return torch.cat([indices[:count] for indices in of_class]).sort().values

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

        `shuffle` and `augment` default to on for "train" and off for "test". `batch_size` counts the images of all
        `world_size` processes. Process `rank` gets its part of each batch; parts differ by one image at most. (The last
        batch of a pass that is not for training may leave a process without an image: [0, 3, H, W].)

        A pass that shuffles or augments is for training. If its last batch would hold exactly one image, of a
        `batch_size` above 1, that image is dropped even without `drop_last`: batch norm cannot train on a single value
        per channel. With `shuffle` it is another image in every epoch. Other passes hold every image.

        Raises UserError if there is no full batch, or fewer than two images per process in a batch for training.
        """
        image_set = {"train": self.train, "test": self.test}[subset]
        count = len(image_set)
        indices = torch.arange(count) if indices is None else torch.as_tensor(indices, dtype=torch.int64).cpu()
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise IndexError(f"indices outside 0..{count - 1} of the {subset} set of {self.name}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        train = subset == "train"
        shuffle, augment = train if shuffle is None else shuffle, train if augment is None else augment
        if (shuffle or augment) and batch_size < 2 * world_size and world_size > 1:
            raise UserError(
                f"setting batch_size = {batch_size}: {world_size} processes share it, so it must be at least "
                f"{2 * world_size}: batch norm needs 2 images in each"
            )
        batches = Batches(self, image_set, indices, batch_size, shuffle, augment, drop_last, seed, rank, world_size)
        if not len(batches):
            raise UserError(
                f"{len(indices)} images of the {subset} set of {self.name} do not fill one batch: "
                f"choose a batch_size smaller than {batch_size}, or another split"
            )
        return batches


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
    memory_limit_mb: int = 2048,
    prefetch: int = 2,
    random_images: tuple[int, int] = (64, 32),
    val_portion: float = 0.0,
    skip_broken: bool = False,
) -> DataSet:
    """Load a data set; images become `image_height` x `image_width` pixels.

    * `digits`: scikit-learn's 1797 handwritten digits; a fixed, stratified fifth is the test set.
    * `cifar10`, `cifar100`: under `dataset_path`, downloaded there unless present. (Several processes: one must load
      first, as in `Processes.in_turn`.)
    * `imagenet`: `train/<class>/`, `val/<class>/`, always streamed; training images by random resized crop and flip
      (`crop_padding` plays no part), test images by resize and centre crop. If `num_classes` is smaller than the
      number of class folders, the first ones in sorted order.
    * `image_folder`: `train/<class>/`, and `val/<class>/` (if there is none, `test/<class>/`), squeezed to the size. Up
      to `memory_limit_mb` (2^20 bytes) as uint8 it is decoded once, by `num_workers` processes, else streamed. The
      statistics of a streamed folder are those of 10,000 training images, always the same ones.
    * `path/to/file.py:function`: what it returns, a training and a test torch Dataset (docs/data.md).
    * `random`: noise with noise for labels, `random_images` for training and for test: for smoke tests.

    Each worker decodes `prefetch` batches ahead of the step that needs them; for a GPU they wait in pinned memory and
    are copied while it computes.

    Image files are all read before this returns: broken ones end it with one message that names them all, or, with
    `skip_broken`, are left out and named in `notes`. docs/data.md says what is done to transparent, turned and deep
    ones. `val_portion`: of `train/` alone, the share of each class that is for test, always the same images.

    `num_classes` None: as many as the data set has (`random`: 10). Class folders are labelled in the sorted order of
    their names. Raises UserError: unknown data set, impossible number, missing or incomplete data, unreadable images,
    `num_classes` other than the data set's.
    """
    for name, value, least in (
        ("image_height", image_height, 1),
        ("image_width", image_width, 1),
        ("num_classes", 1 if num_classes is None else num_classes, 1),
        ("num_workers", num_workers, 0),
        ("crop_padding", crop_padding, 0),
        ("memory_limit_mb", memory_limit_mb, 0),
        ("prefetch", prefetch, 1),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")
    device = torch.device(device)
    if dataset != "imagenet":
        _check_crops(crop_padding, image_height, image_width)
    sets = open_image_sets(
        dataset,
        Path(dataset_path).expanduser(),
        (image_height, image_width),
        num_classes,
        flip=flip,
        num_workers=num_workers,
        device=device,
        memory_limit_bytes=memory_limit_mb << 20,
        prefetch=prefetch,
        random_images=random_images,
        val_portion=val_portion,
        skip_broken=skip_broken,
    )
    train, test, class_names, notes = sets
    mean, std = statistics(dataset, train)
    return DataSet(dataset, class_names, mean, std, train, test, device, crop_padding, flip, notes)


def _check_crops(padding: int, height: int, width: int) -> None:
    """Raise UserError where most random crops hold nothing but padding: batch norm divides by the deviation of what is
    then a batch of equal images, and training ends in NaN, whatever the learning rate."""

    def full(padding: int) -> float:
        return min(1, (2 * height - 1) / (2 * padding + 1)) * min(1, (2 * width - 1) / (2 * padding + 1))

    if full(padding) < 0.5:
        most = next(p for p in range(padding, -1, -1) if full(p) >= 0.5)
        raise UserError(
            f"setting crop_padding = {padding}: {100 * (1 - full(padding)):.0f} % of the random crops of {height} x "
            f"{width} pixels would hold nothing but padding; legal here: 0 to {most}"
        )


def split_indices(n: int, portion: float, seed: int, *, shuffled: bool = True) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 into floor(portion * n) indices (for the weights) and the rest (for alpha), int64.

    `shuffled=False` cuts by index, as the authors' released code does. Raises UserError if a part would be empty.
    """
    cut = int(portion * n)
    if not 0 < cut < n:
        raise UserError(f"train_portion {portion} of {n} images leaves the weights or alpha without any")
    generator = torch.Generator().manual_seed(derived_seed(seed, "split"))
    order = torch.randperm(n, generator=generator) if shuffled else torch.arange(n)
    return order[:cut], order[cut:]


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor | None, padding: int) -> Tensor:
    """Pad images [B, 3, H, W] with zeros, cut H x W at (top, left) [B] in 0..2*padding, mirror where flipped [B]."""
    if padding:
        height, width = images.shape[2:]
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, 3, y, x, H, W]
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    return images if flipped is None else torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def endless(batches: Batches, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Images, labels and this process's weight of the alpha half, from a step of an epoch on, without end.

    It is reshuffled whenever it is used up: it may be smaller than the weights' half.
    """
    first_lap, position = divmod(first_step, len(batches))
    for lap in count(first_lap):
        batches.set_epoch(epoch * 1000 + lap)
        for step, (images, labels) in enumerate(batches.iterate_from(position), position):
            yield images, labels, batches.weight(step)
        position = 0
