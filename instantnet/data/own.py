"""`--dataset path/to/file.py:function`: a training and a test set that a function of the user's returns.

Shapes: n images of a set, B of a batch, H x W pixels.
"""

import numbers
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instantnet.data.pictures import on_white
from instantnet.data.streamed import Request, Size, Workers, loaded
from instantnet.engine.errors import UserError
from instantnet.engine.user_code import blamed_on, called, described

CHUNK = 64  # images that a worker reads at a time
WANTED = "an image is a PIL picture, uint8 [H, W], [H, W, 3] (array) or [3, H, W] (tensor), or a float tensor in 0..1"


class OwnImages(torch.utils.data.Dataset):
    """A torch Dataset whose items are (image, label), read when a batch asks for them.

    `labels` [n] int64 are known once `read_all` has read every item.
    """

    augments = False  # the batches crop and flip

    def __init__(self, items: Any, name: str, size: Size, workers: Workers, device: torch.device):
        self.items, self.name, self.size, self.workers, self.device = items, name, size, workers, device
        self.labels = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | UserError:
        """uint8 images [B, 3, H, W] and labels [B]. An error is returned: a worker's would arrive as a traceback."""
        pixels, labels = np.empty((len(indices), *self.size, 3), dtype=np.uint8), []
        for number, index in enumerate(indices):
            try:
                image, label = self.items[index]
                pixels[number] = _pixels(image, self.size)
                labels.append(_number(label))
            except Exception as error:
                return UserError(f"setting dataset = {self.name!r}: item {index}: {described(error, self.name)}")
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64)

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images [B, 3, H, W] and labels [B] for every request, on the device.

        Raises UserError for an item that cannot be read.
        """
        for batch in loaded(self, (indices.tolist() for indices, _ in requests), self.workers, self.device):
            if isinstance(batch, UserError):
                raise batch
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)

    def read_all(self, keep: bool) -> Tensor | None:
        """Read every item, so that what is wrong shows before training: images [n, 3, H, W] uint8 where `keep`."""
        kept, labels = [], []
        for images, of in self.read((part, None) for part in torch.arange(len(self)).split(CHUNK)):
            labels.append(of.cpu())
            kept += [images] if keep else []
        self.labels = torch.cat(labels)
        return torch.cat(kept) if keep else None


def own_sets(
    name: str, size: Size, num_classes: int | None, workers: Workers, device: torch.device, memory_limit_bytes: int
) -> tuple[list[OwnImages], list[Tensor], list[str]]:
    """Training and test set of the function that `name` names, their images where they fit, and the class names.

    These are the training set's attribute `classes` where it has one, else numbers. Raises UserError: an error in the
    user's code, what it returns is not two sets of images with labels, `num_classes` too small.
    """
    returned = called("dataset", name)
    with blamed_on("dataset", name):
        if not isinstance(returned, Sequence) or len(returned) != 2:
            raise TypeError(f"returned {type(returned).__name__}, not a training and a test set")
        if not all(len(items) > 0 for items in returned):
            raise ValueError("one of the two sets is empty")
        classes = getattr(returned[0], "classes", None)
        classes = None if classes is None else [str(one) for one in classes]
    sets = [OwnImages(items, name, size, workers, device) for items in returned]
    keep = sum(map(len, sets)) * 3 * size[0] * size[1] <= memory_limit_bytes
    pixels = [images for images in (one.read_all(keep) for one in sets) if images is not None]
    most = max(int(one.labels.max()) for one in sets)
    if classes is None:
        classes = [str(label) for label in range(num_classes or most + 1)]
    if num_classes not in (None, len(classes)):
        raise UserError(f"num_classes is {num_classes}, but {name} has {len(classes)} classes")
    if most >= len(classes):
        raise UserError(f"setting dataset = {name!r}: a label is {most}, of {len(classes)} classes counted from 0")
    return sets, pixels, classes


def _pixels(image: Any, size: Size) -> np.ndarray:
    """RGB [H, W, 3] uint8 of `size`."""
    from PIL import Image

    if isinstance(image, Tensor):
        if image.is_floating_point():
            if not bool((image >= 0).all() & (image <= 1).all()):
                raise ValueError("a float image has values outside 0..1 (normalisation is done here)")
            image = (255 * image).round().to(torch.uint8)
        image = image.permute(1, 2, 0).cpu().numpy() if image.dim() == 3 else image.cpu().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
            raise TypeError(f"an image is {image.dtype} {list(image.shape)} (height first); {WANTED}")
        image = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image is {type(image).__name__}; {WANTED}")
    if image.mode.startswith("I") or image.mode == "F":
        raise TypeError(f"an image has PIL's mode {image.mode}, of more than 8 bits; {WANTED}")
    return np.asarray(on_white(image)[0].resize(size[::-1], Image.Resampling.BILINEAR))


def _number(label: Any) -> int:
    if isinstance(label, Tensor | np.ndarray) and label.size and not label.shape:
        label = label.item()
    if not isinstance(label, numbers.Integral) or not 0 <= int(label) < 1 << 31:
        raise TypeError(f"a label is {label!r}, not a whole number from 0 on"[:200])
    return int(label)
