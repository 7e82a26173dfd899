"""Stage 1, SP-NAS: search the architecture of a switchable-precision network -> arch.pt

A supernet's weights train at all bit-widths by CDT, its architecture parameters alpha at the lowest bit-width only, on
held-out images. Settings: config_search.py. Next stage: train.py.
"""

import gc
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

import torch

from instantnet.architect import Architect, next_flops_weight
from instantnet.dataloader import Batches, DataSet, load_data, split_indices
from instantnet.distill import Cascade
from instantnet.engine.checkpoint import find, load_checkpoint, load_optimizer, load_weights, save_checkpoint
from instantnet.engine.commands import resume_command, stage_command
from instantnet.engine.distributed import Processes, joined
from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.log import RunLog, per_bits
from instantnet.engine.loop import (
    Mean,
    accuracy,
    finite_losses,
    finite_weights,
    frozen,
    learning_rate,
    make_optimizer,
    updater,
)
from instantnet.engine.machine import (
    autocasted,
    compiled,
    derived_seed,
    placed,
    seed_everything,
    tune_cpu,
    tune_gpu,
    versions,
)
from instantnet.engine.resume import Position, goes_on, load_newest, recorded
from instantnet.engine.synchronised import synchronised
from instantnet.engine.version import version_line
from instantnet.kernels import with_kernels
from instantnet.model_search import Supernet
from instantnet.operations import Geometry
from instantnet.quantize import Precision
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import as_text, from_command_line
from instantnet.settings.stages import SearchSettings


def main(argv: list[str] | None = None) -> None:
    C = from_command_line(*configuration("config_search"), argv, __doc__)
    with joined(C.device) as processes:
        search(C, processes, resume_command("search", "train_search.py", argv, C.resume is True))


def search(C: SearchSettings, processes: Processes, command: str) -> None:
    """Search, save and tell; command: what continues this run. Every process does the same on its share of a batch."""
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    if processes.from_main(goes_on, C.save):
        C = C.replaced(resume=True)
    with processes.in_turn():
        data = load_data(**C.data_arguments(), device=processes.device)
    C = C.replaced(num_classes=data.num_classes)
    next_stage = next_command(C)  # now: a mistake in config_train.py should not wait for the end of the search
    for_weights, for_alpha = split_indices(
        len(data.train), C.train_portion, derived_seed(C.seed, "split"), shuffled=C.split == "random"
    )
    weight_batches, alpha_batches, held_out = batches_of(C, data, for_weights, for_alpha, processes)
    steps = min(len(weight_batches), C.max_steps or len(weight_batches))

    supernet = new_supernet(C, processes)
    precision = supernet.precision
    in_training = autocasted(compiled(supernet, C.compile), C.mixed_precision, processes.device)
    weights = supernet.weight_parameters()
    optimizer = make_optimizer(weights, C)
    update = updater(optimizer, weights, C.grad_clip)
    architect = Architect(
        model=in_training,
        alpha=supernet.alpha,
        bits=bit_widths_named(C.alpha_bits, precision)[0],
        expected_flops=supernet.expected_flops,
        learning_rate=C.arch_learning_rate,
        betas=C.betas,
        flops_weight=C.flops_weight,
        alpha_step=C.alpha_step,
        mean=processes.mean,
    )
    bit_widths = bit_widths_named(C.weight_bits, precision)
    exchange = {"mean": processes.mean, "last_backward": processes.gradient_exchange(weights)}
    cascade = Cascade(bit_widths, **C.cascade_arguments(), **exchange)
    best, loss, alpha_loss = None, Mean(), Mean()
    start, loaded, saved = Position(), None, {}
    if C.resume:
        needs = ["model", "optimizer", "arch_optimizer", "flops_weight", "best", "loss", "alpha_loss"]
        loaded, saved = processes.from_main(load_newest, C, needs, "checkpoint.pt of train_search.py", steps)
        start, best = Position(saved["epoch"], saved["step"]), saved["best"]
        load_weights(supernet, saved["model"], loaded)
        load_optimizer(optimizer, saved["optimizer"], loaded)
        load_optimizer(architect.optimizer, saved["arch_optimizer"], loaded)
        architect.flops_weight = saved["flops_weight"]
        loss.load(saved["loss"], loaded)
        alpha_loss.load(saved["alpha_loss"], loaded)
        if best and processes.is_main:
            save_checkpoint(f"{C.save}/arch.pt", best)
        if not best and start.epoch >= C.nepochs:
            raise UserError(f"{loaded} has no architecture yet: resume with nepochs above {start.epoch}")
        C = C.replaced(resume=False)  # what is recorded is the same for the run that was never interrupted

    def state() -> dict:
        """What checkpoint.pt holds beside the position."""
        processes.average_statistics(supernet)
        return {
            "model": supernet.state_dict(),
            "optimizer": optimizer.state_dict(),
            "arch_optimizer": architect.optimizer.state_dict(),
            "flops_weight": architect.flops_weight,
            "best": best,
            "loss": loss.state(),
            "alpha_loss": alpha_loss.state(),
            "config": C.to_dict(),
        }

    images_per_epoch = min(steps * C.batch_size, weight_batches.num_images)
    recording = recorded(C, processes, state, start, loaded, saved.get("log_sizes"), command, images_per_epoch)
    with recording as (log, checkpoints, progress):
        split = f"{len(for_weights)} images for weights, {len(for_alpha)} for alpha"
        log.line(version_line(processes.device))
        log.line(f"search on {data.name}: {split} ({processes})")
        log.settings(C, "config_search.py", versions(), resumed=saved.get("config"))
        if loaded:
            log.line(f"resumed from {loaded}, at {start}")
        gc.freeze()  # what is built stays: collections in the loop need not walk thousands of modules
        for epoch in range(start.epoch, C.nepochs):
            begin = time.perf_counter()
            first = checkpoints.first_step(epoch)
            supernet.temperature = C.temp_init * C.temp_decay**epoch
            weight_batches.set_epoch(epoch)
            held_out_images = endless(alpha_batches, epoch, first)
            supernet.train()
            for step, (images, labels) in enumerate(islice(weight_batches.iterate_from(first), steps - first), first):
                optimizer.param_groups[0]["lr"] = learning_rate(C, epoch, (step + 1) / steps)
                noise = derived_seed(C.seed, "gumbel", epoch, step)  # one sample of it for the whole step
                supernet.generator.manual_seed(noise)
                supernet.sample()
                others, their_labels, share = next(held_out_images)
                with frozen(weights):
                    cross_entropy = architect.step(others, their_labels, precision.frozen_statistics, share)

                supernet.generator.manual_seed(noise)
                with frozen([supernet.alpha]):
                    supernet.sample()
                    weight = weight_batches.weight(step)
                    losses = cascade.step(
                        in_training,
                        images,
                        labels,
                        update,
                        random.Random(derived_seed(C.seed, "sandwich", epoch, step)),
                        precision.frozen_statistics,
                        weight,
                    )

                losses = finite_losses(processes.mean_losses(losses, weight), epoch, step, checkpoints.last_good)
                held_out_loss = processes.mean_losses({architect.bits: cross_entropy}, share)
                alpha_loss.add(finite_losses(held_out_loss, epoch, step, checkpoints.last_good))
                loss.add(losses)
                progress.step(weight_batches.images_in(step), epoch, C.nepochs, losses)
                checkpoints.after_step(epoch, step, steps)
            finite_weights(supernet.state_dict(), f"by the end of epoch {epoch + 1}", checkpoints.last_good)

            flops, flops_weight = supernet.derived_flops(), architect.flops_weight
            metrics = {
                "loss": loss.value(),
                "alpha_loss": alpha_loss.value(),
                "flops": flops,
                "flops_weight": flops_weight,
                "temperature": supernet.temperature,
                "lr": optimizer.param_groups[0]["lr"],
                "images_per_s": max(0, images_per_epoch - first * C.batch_size) / (time.perf_counter() - begin),
            }
            text = f"epoch {epoch + 1:3}/{C.nepochs}  loss {per_bits(loss.value(), '.3f')}"
            if (epoch + 1) % C.eval_epoch == 0 or epoch + 1 == C.nepochs:
                processes.average_statistics(supernet)
                unseen = checkpoints.unless_stopped(held_out)
                metrics["accuracy"] = validate(supernet, unseen, bit_widths, C, epoch, processes.total)
                text += f"  | accuracy % {per_bits(metrics['accuracy'], '.1f')}"
                candidate = {
                    "ops": supernet.derived_ops(),
                    "alpha": supernet.alpha.detach().cpu().clone(),
                    "flops": flops,
                    "accuracy": metrics["accuracy"],
                    "epoch": epoch,
                    "config": C.to_dict(),
                }
                if best is None or C.arch_choice == "last" or rank(candidate, C) > rank(best, C):
                    best = candidate
                    if processes.is_main:
                        save_checkpoint(f"{C.save}/arch.pt", best)
            architect.flops_weight = next_flops_weight(flops_weight, flops, C.flops_min, C.flops_max)
            log.line(
                f"{text}  | {flops / 1e6:.2f} MFLOPs, lambda {flops_weight:.1e}, {metrics['images_per_s']:.0f} img/s"
            )
            log.epoch(epoch, metrics)
            loss.clear()
            alpha_loss.clear()
            checkpoints.after_epoch(epoch)
        report(best, C, log)
        log.line(f"\nwrote {C.save}/arch.pt\nnext: {next_stage}")


def batches_of(
    C: SearchSettings, data: DataSet, for_weights: Sequence[int], for_alpha: Sequence[int], processes: Processes
) -> tuple[Batches, Batches, Batches]:
    """The training images that train the weights, those that train alpha, and what the supernet is validated on, in
    batches of which this process gets its share."""
    batches = {"batch_size": C.batch_size, "drop_last": C.drop_last, "shuffle": C.shuffle, "augment": True}
    batches |= processes.shard
    weight_batches = data.batches("train", for_weights, seed=derived_seed(C.seed, "weights"), **batches)
    alpha_batches = data.batches("train", for_alpha, seed=derived_seed(C.seed, "alpha"), **batches)
    held_out = ("test",) if C.validation == "released" else ("train", for_alpha)
    as_they_are = {"batch_size": 4 * C.batch_size, "shuffle": False, "augment": False, **processes.shard}
    return weight_batches, alpha_batches, data.batches(*held_out, **as_they_are)


def new_supernet(C: SearchSettings, processes: Processes) -> Supernet:
    """A supernet with random weights, or those of `C.pretrain`, on its device."""
    seed_everything(C.seed)
    precision = Precision(**C.precision_arguments())
    supernet = Supernet(Geometry.from_settings(C.to_dict()), precision, C.sample_func, C.skip_flops, C.sample_paths)
    supernet = placed(supernet, processes.device, C.channels_last)
    supernet = synchronised(with_kernels(supernet, **C.kernel_arguments()), processes, C.sync_bn)
    supernet.noise_per_forward = C.gumbel_noise == "per_forward"
    if C.pretrain:
        path = find(C.pretrain, "checkpoint.pt")
        content = processes.from_main(load_checkpoint, path, ["model"], "checkpoint.pt of train_search.py")
        load_weights(supernet, content["model"], path)
    return supernet


def bit_widths_named(name: str, precision: Precision) -> tuple[int, ...]:
    """`all`, `highest` or `lowest` of the network's bit-widths."""
    widths = precision.bit_widths
    return {"all": widths, "highest": widths[-1:], "lowest": widths[:1]}[name]


def endless(batches: Batches, epoch: int, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """The alpha half in ever new order, from a step of an epoch on: it may be smaller than the weights' half. Images,
    labels, and their weight among the processes'."""
    first_lap, position = divmod(first_step, len(batches))
    for lap in count(first_lap):
        batches.set_epoch(epoch * 1000 + lap)
        for step, (images, labels) in enumerate(batches.iterate_from(position), position):
            yield images, labels, batches.weight(step)
        position = 0


def validate(
    supernet: Supernet,
    held_out: Iterable[tuple[torch.Tensor, torch.Tensor]],
    bit_widths: tuple[int, ...],
    C: SearchSettings,
    epoch: int,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda counts: counts,
) -> dict[int, float]:
    """Accuracy of the supernet per bit-width that its weights train at, without Gumbel noise.

    As released: fresh noise in every pass, and each bit-width's figure the mean over it and those before it.
    """
    supernet.generator.manual_seed(derived_seed(C.seed, "validation", epoch))
    supernet.noise_per_forward = C.validation == "released"
    supernet.op_weights = None
    result = accuracy(supernet, held_out, bit_widths, C.max_steps, total)
    supernet.noise_per_forward = C.gumbel_noise == "per_forward"
    if C.validation == "released":
        values = list(result.values())
        result = {bits: sum(values[: i + 1]) / (i + 1) for i, bits in enumerate(result)}
    return result


def rank(candidate: dict, C: SearchSettings) -> tuple[float, float]:
    """Larger is better: inside the FLOPs window, or nearest to it; then the accuracy at alpha's bit-width."""
    flops, accuracies = candidate["flops"], candidate["accuracy"]
    bits = (min if C.alpha_bits == "lowest" else max)(accuracies)
    return -max(C.flops_min - flops, flops - C.flops_max, 0), accuracies[bits]


def report(best: dict, C: SearchSettings, log: RunLog) -> None:
    """What was found."""
    accuracies = per_bits(best["accuracy"], ".2f")
    log.line(f"\narchitecture of epoch {best['epoch'] + 1}: {best['flops'] / 1e6:.2f} MFLOPs, supernet {accuracies} %")
    if rank(best, C)[0] < 0:
        window = f"{C.flops_min / 1e6:g} to {C.flops_max / 1e6:g} MFLOPs"
        log.line(f"no epoch's architecture was inside {window}; this one is the nearest")
    ops = iter(best["ops"])
    for stage, (layers, channels) in enumerate(zip(C.num_layer_list, C.num_channel_list, strict=True)):
        log.line(f"  stage {stage + 1}, {channels:3} channels: {'  '.join(islice(ops, layers))}")


def next_command(C: SearchSettings) -> str:
    """The command of stage 2 for what this search found: its presets, and whatever else shapes data and network."""
    NEXT, NEXT_PRESETS = configuration("config_train")
    presets = ",".join(name for name in C.preset.split(",") if name in NEXT_PRESETS)
    words = ["--preset", presets] if presets else []
    following = from_command_line(NEXT, NEXT_PRESETS, words, "")
    data = ["dataset", "dataset_path", "image_height", "image_width", "crop_padding", "flip"]
    shape = ["num_layer_list", "num_channel_list", "stride_list", "stem_channel", "stem_stride", "header_channel"]
    for name in [*data, *shape, "num_bits_list", "quantize_ends"]:
        if getattr(C, name) != getattr(following, name):
            words += [f"--{name}", as_text(getattr(C, name))]
    if C.save != following.load_path:
        words += ["--load_path", C.save]
    return shlex.join([*stage_command("train", "train.py"), *words])


if __name__ == "__main__":
    sys.exit(exit_status(main))
