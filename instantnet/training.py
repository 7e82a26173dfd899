"""What stages 1 and 2 share, as their settings say: data, optimiser, learning rate, and the run that is recorded."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from instantnet.dataloader import DataSet, load_data
from instantnet.engine.checkpoint import find
from instantnet.engine.commands import stage_command
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import UserError
from instantnet.engine.log import RunLog, SilentLog
from instantnet.engine.machine import tune_cpu, tune_gpu, versions
from instantnet.engine.resume import resumes_after_failure
from instantnet.engine.run import Run, Stateful
from instantnet.engine.version import version_line
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import as_text, from_command_line
from instantnet.settings.stages import DataSettings, NetworkSettings, SearchSettings, ShapeSettings, TrainSettings

Either = TypeVar("Either", bound=NetworkSettings)


def prepared(C: Either, processes: Processes) -> tuple[Either, DataSet]:
    """(settings, data) of this run; the settings include the number of classes and whether it resumes."""
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    if processes.from_main(resumes_after_failure, C.save):
        C = C.replaced(resume=True)
    processes.from_main(refuse_finished, C)
    with processes.in_turn():
        data = load_data(**C.data_arguments(), device=processes.device)
    return C.replaced(num_classes=data.num_classes), data


OF_A_RUN = ("checkpoint.pt", "arch.pt", "weights.pt", "metrics.jsonl", "logs.txt")


def refuse_finished(C: NetworkSettings) -> None:
    """Raise `UserError` where the folder `save` holds a run, finished or not, that this one would destroy."""
    found = [name for name in OF_A_RUN if (Path(C.save) / name).is_file() and (Path(C.save) / name).stat().st_size]
    if found and not C.resume and not C.overwrite:
        raise UserError(
            f"setting save = {C.save!r}: the folder holds a run ({found[0]}); --resume continues it, --save OTHER "
            "leaves it alone, --overwrite replaces it"
        )


def new_run(
    C: NetworkSettings, parts: Mapping[str, Stateful], processes: Processes, command: str, script: str, steps: int
) -> Run:
    """The run of a stage, at its start or, with `C.resume`, at its checkpoint. steps: of an epoch."""
    # An interrupted and an uninterrupted run record the same.
    config = C.replaced(resume=False, overwrite=False).to_dict()
    run = Run(C.save, parts, config, processes, command, C.checkpoint_every, C.keep_checkpoints)
    if C.resume:
        path = find(C.save if C.resume is True else C.resume, "checkpoint.pt")
        run.load(path, f"checkpoint.pt of {script}", steps)
    return run


def announce(
    log: RunLog | SilentLog, C: NetworkSettings, run: Run, config_module: str, what: str, data: DataSet
) -> None:
    """The head of a run's log: version, what it does, its settings, and what was done to image files."""
    C = C.replaced(resume=False, overwrite=False)
    log.line(version_line(run.processes.device))
    log.line(what)
    source = f"({config_module}{C.preset and ', preset ' + C.preset}, command line):"
    log.settings(C.to_dict(), C.preset, f"{source}\n{C}", versions(), resumed=run.earlier.get("config"))
    for note in data.notes:
        log.line(f"images: {note}")
    if run.loaded:
        log.line(f"resumed from {run.loaded}, at {run.start}")


def make_optimizer(parameters: list[nn.Parameter], C: NetworkSettings) -> torch.optim.Optimizer:
    """The optimiser of the weights, at the first epoch's learning rate."""
    if C.opt == "adam":
        return torch.optim.Adam(parameters, lr=C.lr, betas=(C.betas[0], C.betas[1]), weight_decay=C.weight_decay)
    return torch.optim.SGD(parameters, lr=C.lr, momentum=C.momentum, weight_decay=C.weight_decay)


def learning_rate(C: NetworkSettings, epoch: int, done: float = 0.0) -> float:
    """The learning rate in an epoch (from 0), after the share `done` of its steps.

    It follows the schedule by epoch. In the first warmup_epochs it is multiplied by a ramp from 0 to 1 that rises with
    every step (Goyal et al. 2017).

    cosine: from lr to learning_rate_min over the epochs. linear: lr until decay_epoch, then to zero at nepochs.
    exponential: times lr_decay per epoch. multistep: times gamma at each milestone.
    """
    ramp = min(1.0, (epoch + done) / C.warmup_epochs) if C.warmup_epochs else 1.0
    return ramp * _scheduled(C, epoch)


def _scheduled(C: NetworkSettings, epoch: int) -> float:
    if C.lr_schedule == "cosine":
        return C.learning_rate_min + (C.lr - C.learning_rate_min) * (1 + math.cos(math.pi * epoch / C.nepochs)) / 2
    if C.lr_schedule == "linear":
        return C.lr * (1 - max(0, epoch - C.decay_epoch) / (C.nepochs - C.decay_epoch))
    if C.lr_schedule == "exponential":
        return C.lr * C.lr_decay**epoch
    return C.lr * C.gamma ** sum(epoch >= milestone for milestone in C.milestones)


def training_command(C: SearchSettings) -> str:
    """The command of stage 2 for this search: its presets, and every other setting that shapes data and network."""
    NEXT, NEXT_PRESETS = configuration(TrainSettings)
    presets = ",".join(name for name in C.preset.split(",") if name in NEXT_PRESETS)
    words = ["--preset", presets] if presets else []
    following = from_command_line(NEXT, NEXT_PRESETS, words, "")
    handed_on = C.group(DataSettings) | C.group(ShapeSettings)
    handed_on |= {"skip_broken": C.skip_broken, "num_bits_list": C.num_bits_list, "quantize_ends": C.quantize_ends}
    for name, value in handed_on.items():
        if value != getattr(following, name):
            words += [f"--{name}", as_text(value)]
    if C.save != following.load_path:
        words += ["--load_path", C.save]
    return shlex.join([*stage_command("train", "train.py"), *words])
