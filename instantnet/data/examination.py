"""All image files of a data set, read once before training: which are broken, and what a user should know of the rest.

A set that is kept in memory is decoded by the same pass. Shapes: n images of a set, B of a batch, H x W pixels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instantnet.data.pictures import RESCALE, Seen, Unreadable, read_picture
from instantnet.data.streamed import StreamedImages, loaded
from instantnet.engine.errors import UserError, as_many_as_fit, escaped

CHUNK_BYTES = 4 << 20  # what a decoding worker hands over at a time: small, as containers have little shared memory
LINE_LENGTH = 280  # of an error that names files: those that do not fit are listed on standard output
HALF_OF_16_BITS = 1 << 15


@dataclass
class Findings:
    """What was found in the files of a folder."""

    folder: Path
    files: int = 0
    broken: dict[str, str] = field(default_factory=dict)  # file -> reason
    kinds: dict[str, list[str]] = field(default_factory=dict)  # kind -> files
    brightest: dict[str, int] = field(default_factory=dict)  # file that states 16 bits -> its largest value

    def add(self, path: str, seen: Seen | str) -> None:
        """What `read_picture` said of a file."""
        self.files += 1
        name = escaped(os.path.relpath(path, self.folder))
        if isinstance(seen, str):
            self.broken[name] = seen
            return
        for kind in seen.kinds:
            self.kinds.setdefault(kind, []).append(name)
        if seen.brightest is not None:
            self.brightest[name] = seen.brightest

    def check_depth(self) -> None:
        """Raise UserError where all 16-bit files are so dark that they hold numbers of fewer bits."""
        largest = max(self.brightest.values(), default=0)
        if 0 < largest < HALF_OF_16_BITS:
            raise UserError(
                f"{len(self.brightest)} files in {self.folder} state 16 bits, but hold no value above {largest} "
                f"({largest.bit_length()} bits?), as {next(iter(self.brightest))}: {RESCALE}"
            )

    def check_broken(self) -> None:
        """Raise UserError, all files in it, where one is broken."""
        if not self.broken:
            return
        files = [f"{name}: {reason}" for name, reason in self.broken.items()]
        head = (
            f"{len(files)} of {self.files} images in {self.folder} cannot be used "
            "(mend or remove them, or --skip_broken): "
        )
        if len(line := head + "; ".join(files)) <= LINE_LENGTH:
            raise UserError(line)
        room = LINE_LENGTH - 60 - len(head)
        first = "; ".join(files[: as_many_as_fit(files, room)]) or files[0][: max(40, room)] + ".."
        raise UserError(f"{head}{first}; all are listed on standard output", details=files)

    def notes(self) -> list[str]:
        """Lines for the log: one for each kind of file, and the files that are left out."""
        lines = [f"{len(names)} of {self.files} images {kind} ({names[0]})" for kind, names in self.kinds.items()]
        if self.broken:
            lines.append(f"{len(self.broken)} of {self.files} images are broken and left out (skip_broken):")
            lines += [f"  {name}: {reason}" for name, reason in self.broken.items()]
        return lines


class _Files(torch.utils.data.Dataset):
    """The files of a set as workers examine them; `keep`: also decode them."""

    def __init__(self, images: StreamedImages, keep: bool):
        self.images, self.keep = images, keep

    def __getitems__(self, indices: list[int]) -> tuple[Tensor | None, list[Seen | str]]:
        """Pixels [B, 3, H, W] uint8, 0 where a file is broken; and what was seen, or why it is broken."""
        pixels = np.zeros((len(indices), *self.images.size, 3), dtype=np.uint8) if self.keep else None
        seen: list[Seen | str] = []
        for number, index in enumerate(indices):
            try:
                picture, said = read_picture(os.fsdecode(self.images.paths[index]), quick=not self.keep)
                if pixels is not None:
                    pixels[number] = self.images.view(picture)
                seen.append(said)
            except Unreadable as error:
                seen.append(str(error))
        return None if pixels is None else torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), seen


def examined(
    sets: Sequence[StreamedImages], folder: Path, keep: bool, skip_broken: bool, class_names: Sequence[str]
) -> tuple[list[StreamedImages], list[Tensor], list[str]]:
    """The sets without broken files, their images [n, 3, H, W] uint8 where `keep`, and notes for the log.

    Raises UserError that names all broken files, unless `skip_broken`; then where a class is left without an image.
    Also where the files' depth cannot be what they state.
    """
    findings, whole, pixels = Findings(folder), [], []
    for images in sets:
        kept, seen = _read_all(images, keep)
        for path, said in zip(images.paths, seen, strict=True):
            findings.add(os.fsdecode(path), said)
        good = torch.tensor([not isinstance(said, str) for said in seen])
        whole.append(images if good.all() else images.only(good))
        if kept is not None:
            pixels.append(kept if good.all() else kept[good.to(kept.device)])
    if not skip_broken:
        findings.check_broken()
    findings.check_depth()
    for images, before in zip(whole, sets, strict=True):
        for label in sorted(set(before.labels.tolist()) - set(images.labels.tolist())):
            where = escaped(os.path.dirname(os.fsdecode(before.paths[int((before.labels == label).nonzero()[0])])))
            raise UserError(f"all images of class {escaped(class_names[label])} in {where} are broken")
    return whole, pixels, findings.notes()


def _read_all(images: StreamedImages, keep: bool) -> tuple[Tensor | None, list[Seen | str]]:
    bytes_of_one = 3 * images.size[0] * images.size[1] if keep else 1
    chunks = torch.arange(len(images)).split(max(1, min(64, CHUNK_BYTES // bytes_of_one)))
    kept = torch.empty(len(images), 3, *images.size, dtype=torch.uint8, device=images.device) if keep else None
    seen: list[Seen | str] = []
    for pixels, said in loaded(_Files(images, keep), [c.tolist() for c in chunks], images.workers, images.device):
        if kept is not None:
            kept[len(seen) : len(seen) + len(pixels)] = pixels
        seen += said
    return kept, seen
