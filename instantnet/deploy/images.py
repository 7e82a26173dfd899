"""The images that an exported network is compared on: test images of its data set, or random ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from instantnet.engine.errors import UserError
from instantnet.engine.user_code import names_a_function
from instantnet.evaluation import images_for
from instantnet.formats import NetworkFile
from instantnet.settings.stages import TrainSettings

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


@dataclass(frozen=True)
class Images:
    """pixels [n, 3, H, W] float32, normalised; labels [n], None of random ones; source: in words."""

    pixels: np.ndarray
    labels: np.ndarray | None
    source: str


def random_images(count: int, shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> Images:
    """Squares of random colours, 4 by 4 of them, the same ones every time, normalised.

    Not noise: a network averages it out, and with logits that are all alike any rounding decides the class.
    """
    channels, height, width = shape
    colours = np.random.default_rng(0).random((count, channels, 4, 4), dtype=np.float32)
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    pixels = colours[:, :, rows][..., columns]
    low, scale = (np.asarray(part, np.float32).reshape(-1, 1, 1) for part in (mean, std))
    return Images((pixels - low) / scale, None, "random images")


def images_of_test(file: NetworkFile, count: int, dataset_path: str | None) -> Images | None:
    """The first `count` test images of the network's data set; None where they are not on this machine.

    dataset_path: where they lie, in place of what the file says; then that they are not there is a UserError.
    """
    C = file.settings
    if not isinstance(C, TrainSettings) or file.data is None or names_a_function(C.dataset):
        return None
    if dataset_path is not None:
        C = C.replaced(dataset_path=dataset_path)
    folder = Path(C.dataset_path).expanduser()
    if C.dataset in CIFAR_FOLDERS and not (folder / CIFAR_FOLDERS[C.dataset]).is_dir():  # or it would be downloaded
        if dataset_path is None:
            return None
        raise UserError(f"--dataset_path {folder}: no {CIFAR_FOLDERS[C.dataset]} there")
    try:
        data = images_for(C, file, torch.device("cpu"))
    except UserError:
        if dataset_path is None:
            return None
        raise
    pixels, labels, found = [], [], 0
    for batch, of_batch in data.batches("test", batch_size=min(count, 100)):
        pixels.append(batch)
        labels.append(of_batch)
        found += len(batch)
        if found >= count:
            break
    source = "random images" if C.dataset == "random" else f"test images of {C.dataset}"
    known = None if C.dataset == "random" else torch.cat(labels)[:count].numpy()
    return Images(torch.cat(pixels)[:count].numpy(), known, source)
