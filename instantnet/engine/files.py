"""Files that are replaced as a whole, and never written through a link that somebody laid."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from instantnet.engine.errors import UserError

PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}\.partial")


@contextmanager
def replacing(path: Path | str, keep_as: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once the block has ended well.

    `path` holds either the old file or the whole new one, whatever happens meanwhile. keep_as: another name that the
    old file, if there is one, keeps. Raises `UserError` where the folder cannot be written; the old file is then as it
    was.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = _temporary_file(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_as and path.exists():
            _second_name(path, keep_as)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError | RuntimeError):  # torch reports a full disk as RuntimeError
            raise UserError(
                f"cannot write {path}: {_reason(error, path.parent)}; the last good one, if any, is intact"
            ) from error
        raise


def _temporary_file(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path` under a name that nobody can foresee, with the rights of any new file."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    umask = os.umask(0)
    os.umask(umask)
    os.fchmod(descriptor, 0o666 & ~umask)
    return Path(name), os.fdopen(descriptor, "wb")


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < 1 << 20:
            return os.strerror(errno.ENOSPC)
    return str(error).splitlines()[0]


def _second_name(path: Path, name: Path) -> None:
    """Let `name` be the file `path` too, whatever it was before: a link where the file system has them, else a copy."""
    temporary, file = _temporary_file(name)
    file.close()
    temporary.unlink()
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copy2(path, temporary)
    os.replace(temporary, name)
    temporary.unlink(missing_ok=True)  # still there where both were links of one file


def remove_partial_files(folder: Path) -> None:
    """Remove what killed runs have left half written in `folder`. Only for the process that owns the folder."""
    for entry in os.scandir(folder):
        if PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                os.unlink(entry.path)


def open_to_append(path: Path) -> TextIO:
    """`path`, line by line, new where it is not there. Raises `UserError` where it is a link, or no file."""
    check_appendable(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="surrogateescape")


def check_appendable(path: Path) -> None:
    """Raise `UserError` where `path` is a link, or is there and is no file."""
    refuse_link(path)
    if path.exists() and not path.is_file():  # of a FIFO one would wait for a reader
        raise UserError(f"{path} is not a regular file: remove it, or name another folder")


def refuse_link(path: Path) -> None:
    """Raise `UserError` where `path` is a symbolic link."""
    if path.is_symlink():
        raise UserError(f"{path} is a link: files are never written through one; remove it, or name another folder")
