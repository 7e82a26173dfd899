"""A part of a folder of images, as links: the same images every time."""

import os
from pathlib import Path

from instantnet.engine.errors import UserError


def subset(source: Path, folder: Path, train: int, test: int) -> Path:
    """A folder with the first `train` and `test` images, by name, of every class of `source`/train and `source`/test.

    It is made in `folder` unless it is there. Raises UserError where `source` has no such images, or too few.
    """
    made = folder / f"{source.name}_{train}_{test}"
    for part, count in (("train", train), ("test", test)):
        classes = sorted(path for path in (source / part).glob("*") if path.is_dir())
        if not classes:
            raise UserError(f"--data {source}: no class folders in {source / part}; unpack CIFAR-10 as images there")
        for path in classes:
            names = sorted(os.listdir(path))[:count]
            if len(names) < count:
                raise UserError(
                    f"--data {source}: {path} has {len(names)} images, this scale takes {count} of each class"
                )
            target = made / part / path.name
            target.mkdir(parents=True, exist_ok=True)
            for name in sorted(set(names) - set(os.listdir(target))):
                try:
                    (target / name).symlink_to(path / name)
                except FileExistsError:
                    continue
    return made
