"""What stages 1 and 2 share, as their settings say: data, optimiser, learning rate, and the run that is recorded."""

import math
import shlex
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from instantnet.data.cache import image_cache
from instantnet.dataloader import Batches, DataSet, load_data
from instantnet.distill import Cascade
from instantnet.engine.checkpoint import find, restore
from instantnet.engine.commands import stage_command
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import UserError
from instantnet.engine.log import RunLog, SilentLog
from instantnet.engine.loop import updater
from instantnet.engine.machine import derived_seed, tune_cpu, tune_gpu, versions
from instantnet.engine.resume import load_newest, resumes_after_failure
from instantnet.engine.run import Run, Stateful
from instantnet.engine.version import version_line
from instantnet.formats import WRITTEN_BY, check_same, run_settings
from instantnet.settings.configuration import configuration
from instantnet.settings.groups import DataSettings, ShapeSettings
from instantnet.settings.schema import as_text, from_command_line
from instantnet.settings.stages import NetworkSettings, SearchSettings, TrainSettings

Either = TypeVar("Either", bound=NetworkSettings)


def prepared(
    C: Either, processes: Processes, kind: str, parts_of: Callable[[Either], Mapping[str, Stateful]]
) -> tuple[Either, DataSet]:
    """The settings of this run, the number of classes and whether it goes on included, and its data.

    A checkpoint to go on from is checked before the data is read. kind: of the run, as `formats` names it; parts_of:
    what such a run resumes.
    """
    if C.cuda_graph and (processes.device.type == "cpu" or not processes.alone):
        raise UserError("setting cuda_graph = true: it is for one process with a GPU")
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32, C.tune_convolutions)
    if processes.from_main(resumes_after_failure, C.save):
        C = C.replaced(resume=True)
    processes.from_main(refuse_finished, C)
    if C.resume:
        processes.from_main(check_resumable, C, kind, parts_of)
    else:
        with torch.device("meta"):  # a network that cannot be is known before data is read
            parts_of(C.replaced(num_classes=C.num_classes or 1))
    with processes.in_turn(), image_cache(C.image_cache):
        data = load_data(**C.data_arguments(), device=processes.device)
    if C.normalisation == "released":
        data = data.as_released()
    return C.replaced(num_classes=data.num_classes), data


def batches_of(C: TrainSettings, data: DataSet, processes: Processes) -> tuple[Batches, Batches, Batches]:
    """Stage 2: images to train on, to test on, and the first as they are, in batches of this process's share."""
    indices = data.first_of_each_class(C.images_per_class)
    train_batches = data.batches(
        "train",
        indices,
        batch_size=C.batch_size,
        shuffle=C.shuffle,
        drop_last=C.drop_last,
        augment=True,
        seed=derived_seed(C.seed, "train"),
        **processes.shard,
    )
    at_once = {"batch_size": 4 * C.batch_size, **processes.shard}
    as_they_are = data.batches("train", indices, shuffle=False, augment=False, **at_once)
    return train_batches, data.batches("test", **at_once), as_they_are


def check_resumable(C: Either, kind: str, parts_of: Callable[[Either], Mapping[str, Stateful]]) -> None:
    """Raise `UserError` unless this run can go on from its checkpoint, as far as that can be known without the data.

    parts_of(C): new parts of the run. Here they are made on the meta device, which has shapes and no memory, and the
    checkpoint is put into them.
    """
    path = checkpoint_of(C)

    def fits(content: dict[str, Any]) -> None:
        before = run_settings(content, kind, path)
        check_same(before, C, path)
        if content["epoch"] > before.nepochs:
            raise UserError(f"{path}: it is at epoch {content['epoch']} of {before.nepochs}")
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # that nothing is copied is the point
            for name, part in parts_of(C.replaced(num_classes=before.num_classes)).items():
                if name not in content:
                    raise UserError(f"{path}: expected {WRITTEN_BY[kind]}, but it has no {name!r}")
                restore(part, content[name], name, path)

    load_newest(path, ["model"], WRITTEN_BY[kind], check=fits)


def checkpoint_of(C: NetworkSettings) -> Path:
    """The checkpoint that `C.resume` names."""
    return find(C.save if C.resume is True else str(C.resume), "checkpoint.pt")


OF_A_RUN = ("checkpoint.pt", "arch.pt", "weights.pt", "metrics.jsonl", "logs.txt")


def refuse_finished(C: NetworkSettings) -> None:
    """Raise `UserError` where the folder `save` holds a run, finished or not, that this one would destroy."""
    found = [name for name in OF_A_RUN if (Path(C.save) / name).is_file() and (Path(C.save) / name).stat().st_size]
    if found and not C.resume and not C.overwrite:
        raise UserError(
            f"setting save = {C.save!r}: the folder holds a run ({found[0]}); --resume continues it, --save OTHER "
            "leaves it alone, --overwrite replaces it"
        )


def as_recorded(C: Either) -> Either:
    """The settings without how the run was started: what is recorded is the same however often it was interrupted."""
    return C.replaced(resume=False, overwrite=False)


def new_run(
    C: NetworkSettings,
    parts: Mapping[str, Stateful],
    processes: Processes,
    command: str,
    head: Mapping[str, Any],
    steps: int,
) -> Run:
    """The run of a stage, at its beginning or, with `C.resume`, where its checkpoint stands. head: what checkpoint.pt
    begins with (`formats.header`); steps: of an epoch."""
    run = Run(
        C.save,
        parts,
        as_recorded(C).to_dict(),
        processes,
        command,
        C.checkpoint_every,
        C.keep_checkpoints,
        head,
        C.check_every,
        partial(refuse_finished, C),
    )
    if C.resume:
        run.load(checkpoint_of(C), WRITTEN_BY[head["kind"]], steps)
    return run


def announce(
    log: RunLog | SilentLog, C: NetworkSettings, run: Run, config_module: str, what: str, data: DataSet
) -> None:
    """The head of a run's log: version, what it does, its settings, and what was done to image files."""
    C = as_recorded(C)
    log.line(version_line(run.processes.device))
    log.line(what)
    source = f"({config_module}{C.preset and ', preset ' + C.preset}, command line):"
    log.settings(C.to_dict(), C.preset, f"{source}\n{C}", versions(), resumed=run.earlier.get("config"))
    for note in data.notes:
        log.line(f"images: {note}")
    if run.loaded:
        log.line(f"resumed from {run.loaded}, at {run.start}")


def make_optimizer(
    parameters: list[nn.Parameter], C: NetworkSettings, undecayed: Collection[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimiser of the weights, at the first epoch's learning rate.

    undecayed: those of the parameters without weight decay, a group of their own if there are any.
    """
    apart = {id(parameter) for parameter in undecayed}
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in apart]}]
    if apart:
        groups.append({"params": [p for p in parameters if id(p) in apart], "weight_decay": 0.0})
    if C.opt == "adam":
        return torch.optim.Adam(groups, lr=C.lr, betas=(C.betas[0], C.betas[1]), weight_decay=C.weight_decay)
    return torch.optim.SGD(groups, lr=C.lr, momentum=C.momentum, weight_decay=C.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Train every parameter at this rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_updater(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], C: NetworkSettings, cascade: Cascade
) -> Callable[[], None]:
    """What ends a step of the cascade: clip the gradients, step the optimiser, clear them."""
    joint = len(cascade.bit_widths) > 1 and not cascade.updates_per_bit_width
    return updater(optimizer, parameters, 0.0 if C.clip_when == "released" and joint else C.grad_clip)


def learning_rate(C: NetworkSettings, epoch: int, done: float = 0.0) -> float:
    """The learning rate in an epoch (from 0), after the share `done` of its steps.

    It follows the schedule by epoch, with lr_ahead one epoch early. In the first warmup_epochs it is multiplied by a
    ramp from 0 to 1 that rises with every step (Goyal et al. 2017).

    cosine: from lr to learning_rate_min over the epochs. linear: lr until decay_epoch, then to zero at nepochs.
    exponential: times lr_decay per epoch. multistep: times gamma at each milestone.
    """
    ramp = min(1.0, (epoch + done) / C.warmup_epochs) if C.warmup_epochs else 1.0
    return ramp * _scheduled(C, epoch + C.lr_ahead)


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
    handed_on |= {
        "skip_broken": C.skip_broken,
        "num_bits_list": C.num_bits_list,
        "quantizer": C.quantizer,
        "quantize_ends": C.quantize_ends,
    }
    for name, value in handed_on.items():
        if value != getattr(following, name):
            words += [f"--{name}", as_text(value)]
    if C.save != following.load_path:
        words += ["--load_path", C.save]
    return shlex.join([*stage_command("train", "train.py"), *words])
