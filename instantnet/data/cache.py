"""`image_cache`: the images of a folder as one pass decoded them, for the runs that read the same files later.

A file of the cache belongs to the very files it was made of (names, sizes, times of change), to one image size, and to
one Pillow. Its pixels are mapped, so processes that hold them on the CPU share the memory. n images of a set, H x W
pixels.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instantnet.data.streamed import StreamedImages
from instantnet.engine.files import replacing
from instantnet.engine.folders import writable_folder

RULES = 1  # of what becomes of a file (pictures.py): another number where an image would be decoded otherwise


_folder: ContextVar[str | None] = ContextVar("image_cache", default=None)


@contextmanager
def image_cache(folder: str | os.PathLike | None) -> Iterator[None]:
    """Within it `load_data` keeps decoded images in `folder`, and takes them from there; None = it does not."""
    token = _folder.set(None if folder is None else os.path.expanduser(folder))
    try:
        yield
    finally:
        _folder.reset(token)


def cache_file(sets: Sequence[StreamedImages]) -> Path | None:
    """Where the decoded images of these files lie in the cache, None without one. Raises `UserError` where nothing can
    be written there."""
    import PIL

    folder = _folder.get()
    if folder is None:
        return None
    digest = hashlib.blake2b(f"{RULES} {PIL.__version__}".encode(), digest_size=12)
    for images in sets:
        digest.update(f"{len(images)} {images.size}".encode())
        for path in images.paths:
            size, changed = _state(path)
            digest.update(b"%s %d %d\0" % (os.path.abspath(path), size, changed))
    return writable_folder(folder, f"setting image_cache = {folder!r}") / f"{digest.hexdigest()}.pt"


def _state(path: bytes) -> tuple[int, int]:
    """Size and time of change of what a path leads to; a link that leads nowhere is reported when it is read."""
    try:
        state = os.stat(path)
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def cached(file: Path) -> tuple[list[Tensor], list[str]] | None:
    """The images [n, 3, H, W] uint8 of every set, and notes for the log; None where there is no such file, or it is
    damaged."""
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return content["pixels"], content["notes"]
    except Exception:  # torch's readers raise many kinds; all of them mean to decode again
        return None


def keep_decoded(file: Path, pixels: Sequence[Tensor], notes: Sequence[str]) -> None:
    """Put what `cached` will return into `file`, which holds all of it or is not there."""
    with replacing(file) as opened:
        torch.save({"pixels": [part.cpu() for part in pixels], "notes": list(notes)}, opened)
