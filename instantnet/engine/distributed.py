"""The processes of a run: one, or several that share every batch, each on a device of its own.

Several are started by torchrun or SLURM's srun, or by hand (`instantnet/engine/place.py`). NCCL connects GPUs, gloo
CPUs.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from instantnet.engine.errors import Stopped, UserError
from instantnet.engine.failure import Failures
from instantnet.engine.machine import select_device
from instantnet.engine.place import Place, place_from_environment
from instantnet.widths import Bits

START_TIMEOUT = timedelta(minutes=5)  # for all processes to be there
WAIT_TIMEOUT = timedelta(hours=24)  # for the process that downloads the data; one that dies breaks its connection
STEP_TIMEOUT = timedelta(minutes=10)  # for one exchange: a process that hangs is given up after it

Result = TypeVar("Result")


def device_of(place: Place | None, name: str) -> torch.device:
    """The device that the setting `device` means to this process: of several, each has the GPU of its LOCAL_RANK.

    Raises `UserError` where it is not there.
    """
    device = select_device(name)
    if place is None or device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(
            f"setting device = {name!r}: {place.world_size} processes cannot share one GPU; legal: auto, cpu, cuda"
        )
    gpus = torch.cuda.device_count()
    if place.local_rank >= gpus:
        raise UserError(
            f"LOCAL_RANK = {place.local_rank}, but this machine has {gpus} GPU(s): start at most {gpus} process(es) "
            f"on it (torchrun --nproc-per-node {gpus}), or take --device cpu"
        )
    return torch.device("cuda", place.local_rank)


class Processes:
    """The processes of this run as one of them sees them. One that is alone gets back whatever it hands to a method.

    rank: 0 .. world_size - 1; device: what this one computes on. All of them must call every method in the same order.
    """

    def __init__(self, device: torch.device, place: Place | None = None, store: dist.Store | None = None):
        self.device = device
        self.rank = place.rank if place else 0
        self.world_size = place.world_size if place else 1
        self._local_rank = place.local_rank if place else 0
        self._store = store  # None: alone

    def __str__(self) -> str:
        return str(self.device) if self.alone else f"{self.world_size} processes with {self.device.type}"

    @property
    def alone(self) -> bool:
        return self._store is None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, logs and saves."""
        return self.rank == 0

    @property
    def shard(self) -> dict[str, Any]:
        """This process's share of every batch, as arguments of `DataSet.batches`."""
        return {"rank": self.rank, "world_size": self.world_size}

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors (of one shape), the same bits on each."""
        if self.alone:
            return tensor
        summed = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of the processes' tensors, the same bits on each."""
        return tensor if self.alone else self.total(tensor) / self.world_size

    def mean_losses(self, losses: dict[Bits, Tensor], weight: float) -> dict[Bits, Tensor]:
        """Bit-width -> loss over the batch of all processes; weight: this process's, from `Batches.weight`."""
        if self.alone:
            return losses
        return dict(zip(losses, self.mean(weight * torch.stack(list(losses.values()))).unbind(), strict=True))

    def largest(self, number: int) -> int:
        """The largest of the processes' integers."""
        if self.alone:
            return number
        tensor = torch.tensor(number, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def from_main(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """What `function` returns on the main process, the only one that calls it: plain data and tensors."""
        result: list[Any] = [function(*arguments, **options) if self.is_main else None]
        if not self.alone:
            dist.broadcast_object_list(result, src=0, device=self.device)
        return result[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The main process goes first, then the first one of every other machine, then the rest: what they look for
        may be a download away, and one machine's processes, or all, may share the folder that it goes to."""
        if self._store is None:
            yield
            return
        if not self.is_main:
            self._store.wait(["ready"], WAIT_TIMEOUT)
        on_this_machine = f"ready on {socket.gethostname()}"
        if self._local_rank:
            self._store.wait([on_this_machine], WAIT_TIMEOUT)
        yield
        if self.is_main:
            self._store.set("ready", "")
        if not self._local_rank:
            self._store.set(on_this_machine, "")

    def gradient_exchange(self, parameters: Iterable[nn.Parameter]) -> Callable[[Tensor], Tensor]:
        """A function for the loss whose backward is the last one before an optimizer step: it returns the loss as it
        is, and makes that backward replace the gradients accumulated so far by their mean over the processes.

        One all-reduce of them all, whatever the number of passes behind it (and one of a map of the parameters in use:
        those that no process used keep no gradient, as in a process alone). Parameters start as the main process has
        them.
        """
        if self.alone:
            return _unchanged
        return nn.parallel.DistributedDataParallel(
            _LastLoss(parameters),
            broadcast_buffers=False,
            find_unused_parameters=True,
            bucket_cap_mb=1 << 20,  # one bucket, so one all-reduce
        )

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Replace running statistics (batch norms', activation ranges') by their mean over the processes.

        They are linear in the batches' statistics, so it does not matter how often this is done.
        """
        if self.alone:
            return
        saved = model.state_dict().keys()
        buffers = [b for name, b in model.named_buffers() if name in saved and b.is_floating_point()]
        if buffers:
            averaged = self.mean(torch.cat([buffer.flatten() for buffer in buffers]))
            for buffer, values in zip(buffers, averaged.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))


class _LastLoss(nn.Module):
    """What DistributedDataParallel wraps: it needs the parameters, and to see the graph of the last backward. The
    passes before that run on the bare model, and their gradients accumulate as in `no_sync()`."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.held = nn.ParameterList(parameters)
        # Where all others are used, as at one bit-width, torch would warn that looking for unused ones was in vain.
        self.never_used = nn.Parameter(torch.zeros(1).to(self.held[0]))

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _unchanged(loss: Tensor) -> Tensor:
    return loss


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes of this run, connected; device: the setting.

    When one fails, all end: each machine shows the line of the first failure. Raises `UserError` where the environment
    is half set, the device is not there, or the others do not come.
    """
    place = place_from_environment()
    own = device_of(place, device)
    if place is None:
        yield Processes(own)
        return
    try:
        store, _, _ = next(dist.rendezvous(place.url, place.rank, place.world_size, timeout=START_TIMEOUT))
        store = dist.PrefixStore(f"attempt {_attempt()}", store)  # torchrun's may outlive the processes it restarts
        if own.type == "cuda":
            torch.cuda.set_device(own)
        dist.init_process_group(
            "nccl" if own.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=STEP_TIMEOUT,
            device_id=own if own.type == "cuda" else None,
        )
        failures = Failures(dist.PrefixStore("failures", store), place.rank, place.local_rank)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process {place.rank} of {place.world_size} could not connect to the others through "
            f"{place.meeting_point}: {reason}"
        ) from error
    try:
        yield Processes(own, place, dist.PrefixStore("run", store))
        dist.barrier()  # the main process holds the store: it ends last
    except Stopped as stop:
        if not stop.together:
            failures.end(stop)
        if place.rank:
            raise SystemExit(stop.status) from None  # the main process says it
        raise
    except BaseException as error:
        failures.end(error)
    dist.destroy_process_group()


def launch() -> str | None:
    """A name of the torchrun that started this process, the same for those that it starts after a failure."""
    if not dist.is_torchelastic_launched():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name != "none":  # --rdzv-id
        return name
    agent = os.getppid()
    try:
        started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]  # clock ticks after boot
    except OSError:
        started = ""
    return f"{socket.gethostname()} {agent} {started}"


def was_restarted() -> bool:
    """Whether torchrun started this process in place of one that failed."""
    return _attempt() > 0


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
