"""Which process of a run this one is, as torchrun or SLURM's srun say it in the environment.

torchrun, or a user by hand, sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and LOCAL_RANK where a machine runs more
than one process. srun sets SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID and the list of nodes. torchrun's names come
first.
"""

import os
import re
from dataclasses import dataclass

from instantnet.engine.errors import UserError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NODES = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
FIRST_PORT, PORTS = 12000, 20000  # below those that Linux hands out by itself


@dataclass(frozen=True)
class Place:
    """rank: of `world_size` processes; local_rank: among those of its machine; url: where torch's rendezvous is."""

    rank: int
    world_size: int
    local_rank: int
    url: str = "env://"  # MASTER_ADDR and MASTER_PORT

    @property
    def meeting_point(self) -> str:
        """HOST:PORT."""
        if self.url == "env://":
            return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        return self.url.removeprefix("tcp://")


def place_from_environment() -> Place | None:
    """None = this process is alone. Raises `UserError` where the variables are half set, or are no such numbers."""
    given = [name for name in NEEDED if os.environ.get(name)]
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return _place_from_slurm() if started_by_srun() else None
    missing = [name for name in NEEDED if name not in given]
    if missing:
        raise UserError(
            f"environment variable {' and '.join(missing)} not set, but {' and '.join(given)}: several processes need "
            f"{', '.join(NEEDED)} (torchrun sets them), a single one needs none of them"
        )
    _integer("MASTER_PORT")
    return Place(*_ranks("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def started_by_srun() -> bool:
    """Whether SLURM's srun started this process with others, and not torchrun.

    In the script of sbatch and in a shell of salloc the same variables tell of the tasks that a job may start: there is
    a job, but no step of it.
    """
    given = os.environ.get
    in_step = bool(given("SLURM_STEP_ID")) or not given("SLURM_JOB_ID")
    return bool(given("SLURM_PROCID")) and given("SLURM_NTASKS", "1") != "1" and in_step and not given("RANK")


def _place_from_slurm() -> Place:
    nodes = next((os.environ[name] for name in NODES if os.environ.get(name)), "")
    host = os.environ.get("MASTER_ADDR") or first_host(nodes)
    if not host:
        raise UserError(
            f"environment variable SLURM_NTASKS = {os.environ['SLURM_NTASKS']}, but neither {' nor '.join(NODES)} "
            "names a node; to start a single process, unset SLURM_PROCID"
        )
    # Steps that run at once need ports of their own: any number does that all processes of a step agree on.
    step = _integer("SLURM_JOB_ID") + 31 * _integer("SLURM_STEP_ID")
    port = _integer("MASTER_PORT") or FIRST_PORT + step % PORTS
    return Place(*_ranks("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"), url=f"tcp://{host}:{port}")


def first_host(nodes: str) -> str:
    """The first name in a list of nodes as SLURM writes it: `gpu03` of `gpu[03-05,09],cpu1`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0].strip()) if first else ""


def _ranks(rank_name: str, size_name: str, local_name: str) -> tuple[int, int, int]:
    rank, world_size, local_rank = (_integer(name) for name in (rank_name, size_name, local_name))
    if world_size < 1 or not 0 <= rank < world_size:
        raise UserError(
            f"environment variables {rank_name} = {rank}, {size_name} = {world_size}: {rank_name} counts from 0 below "
            "it"
        )
    return rank, world_size, local_rank


def _integer(name: str) -> int:
    text = os.environ.get(name) or "0"  # the local rank is optional: one process per machine
    if not text.isascii() or not text.isdigit():
        raise UserError(f"environment variable {name} = {text!r}: must be an integer of at least 0")
    return int(text)
