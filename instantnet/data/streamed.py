"""Images decoded file by file, by worker processes, when a batch asks for them.

Shapes: n images of a set, B of a batch, H x W pixels.
"""

import copy
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instantnet.data.pictures import Unreadable, read_picture
from instantnet.engine.errors import UserError, escaped, user_error

Size = tuple[int, int]  # height, width in pixels
Request = tuple[Tensor, list[int] | None]  # indices [B] of a batch; one seed per image, None for the plain view


class Workers(NamedTuple):
    """Processes that decode images, and how many batches ahead each of them works."""

    processes: int
    prefetch: int


class StreamedImages(torch.utils.data.Dataset):
    """Image files, decoded when a batch asks for them, by `workers` (0 of them: in this process).

    `view` makes an RGB picture of `size` (H, W) out of a PIL picture. `random_view`, unless None, replaces it in
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

    def only(self, chosen: Tensor) -> "StreamedImages":
        """Those of `chosen` [n], bool."""
        rest = copy.copy(self)
        rest.paths, rest.labels = self.paths[chosen.numpy()], self.labels[chosen]
        return rest

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
        try:
            picture, _ = read_picture(path)
        except Unreadable as error:  # it was whole when all files were examined
            raise UserError(f"cannot read the image {escaped(path)}: {error}") from error
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
        wanted = (list(zip(i.tolist(), seeds or repeat(None, len(i)), strict=True)) for i, seeds in requests)
        for batch in loaded(self, wanted, self.workers, self.device):
            if isinstance(batch, UserError):
                raise batch
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)


def loaded(
    data_set: torch.utils.data.Dataset, requests: Iterable[list], workers: Workers, device: torch.device
) -> Iterator[Any]:
    """Yield `data_set.__getitems__(request)` of every request, in order, computed by the workers ahead.

    Raises UserError where a worker is killed.
    """
    loader = torch.utils.data.DataLoader(
        data_set,
        batch_sampler=requests,
        num_workers=(processes := min(workers.processes, os.cpu_count() or 1)),  # more only make torch warn
        prefetch_factor=workers.prefetch if processes else None,
        collate_fn=_as_is,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it takes the base seed of the workers from the global generator
    )
    with _signals_held_back():
        batches = iter(loader)  # starts the workers
    try:
        yield from batches
    except RuntimeError as error:
        raise user_error(error) or error from error


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
    """What stops a run is often sent to its whole process group: the parent finishes its step, with its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_at_sigterm_of, args=(os.getppid(),), daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_at_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
