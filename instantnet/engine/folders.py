"""A folder that a run writes into: checked before the work begins, and owned by one process at a time."""

import fcntl
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instantnet.engine.errors import UserError
from instantnet.engine.files import refuse_link, remove_partial_files

LOCK, LARGEST_LOCK = ".lock", 1000  # name, bytes
_held: set[int] = set()


def writable_folder(path: Path | str, named: str) -> Path:
    """The folder, created if needed. named: the option or setting it comes from, for the message.

    Raises UserError where nothing can be written in it.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        raise UserError(f"{named}: cannot write there ({getattr(error, 'strerror', None) or error})") from error


@contextmanager
def owned(path: Path | str, named: str) -> Iterator[Path]:
    """The folder, made if it is not there, as this process's own; what killed owners left half written is removed.

    The owner holds a lock (flock) on the file .lock in it, which the system releases when the process ends, however it
    ends. Raises UserError where another process has the folder, naming it, or where nothing can be written there.
    """
    folder = writable_folder(path, named)
    descriptor = _locked(folder / LOCK, named)
    try:
        _held.add(descriptor)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        remove_partial_files(folder)
        yield folder
    finally:
        with suppress(OSError):
            os.unlink(folder / LOCK)
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(path: Path, named: str) -> int:
    """A descriptor of the file `path`, made if it is not there, that holds the lock on it."""
    refuse_link(path)
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"{named}: cannot write there ({error.strerror})") from error
        if not _is_lock(descriptor):
            os.close(descriptor)
            raise UserError(f"{path} is no lock file of a run: remove it, or name another folder")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor) or "another process"
            os.close(descriptor)
            raise UserError(f"{named}: in use by {owner}") from None
        except OSError:
            return descriptor  # a file system without locks: nobody can be kept out
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the owner before removed the file between the two calls: lock the new one


def _is_lock(descriptor: int) -> bool:
    """Whether a file is a lock of this project: a regular one without another name, empty or with an owner in it."""
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        return False
    return state.st_size == 0 or (state.st_size < LARGEST_LOCK and _owner(descriptor) is not None)


def _owner(descriptor: int) -> str | None:
    """`process 123 on host, since ..` of the process that holds a lock; None where it does not say."""
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]}, since {str(owner['since'])[:30]}"
    except (ValueError, TypeError, KeyError):
        return None


def _let_go() -> None:
    """In a forked child, which would hold the locks of a parent that is gone."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
