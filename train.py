"""Stage 2, CDT: train the searched network from scratch, one set of weights for every bit-width -> weights.pt

Every higher precision teaches every lower one in the same step. `--network` trains a network that the paper compares
with instead. Settings: config_train.py. Next stage: automapper.
"""

import gc
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from instantnet.dataloader import Batches, DataSet, load_data
from instantnet.distill import Cascade
from instantnet.engine.average import averaged_model
from instantnet.engine.checkpoint import find, load_checkpoint, load_optimizer, load_weights, save_checkpoint
from instantnet.engine.commands import resume_command, stage_command
from instantnet.engine.distributed import Processes, joined
from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.log import per_bits
from instantnet.engine.loop import Mean, accuracy, finite_losses, finite_weights, learning_rate, make_optimizer, updater
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
from instantnet.model_infer import profile
from instantnet.networks import build_network
from instantnet.quantize import Precision, SwitchableNetwork, recalibrate
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import as_text, from_command_line
from instantnet.settings.stages import TrainSettings


def main(argv: list[str] | None = None) -> None:
    C = from_command_line(*configuration("config_train"), argv, __doc__)
    with joined(C.device) as processes:
        if C.eval_only:
            return evaluate(C, processes)
        train(C, processes, resume_command("train", "train.py", argv, C.resume is True))


def train(C: TrainSettings, processes: Processes, command: str) -> None:
    """Train, save and tell; command: what continues this run. Every process does the same on its share of a batch."""
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    if processes.from_main(goes_on, C.save):
        C = C.replaced(resume=True)
    arch, source = processes.from_main(architecture, C)
    with processes.in_turn():
        data = load_data(**C.data_arguments(), device=processes.device)
    C = C.replaced(num_classes=data.num_classes)
    train_batches, test_batches = batches_of(C, data, processes)
    steps = min(len(train_batches), C.max_steps or len(train_batches))

    model = new_network(C, arch, source, processes)
    precision = model.precision
    parameters = list(model.parameters())
    in_training = autocasted(compiled(model, C.compile), C.mixed_precision, processes.device)
    optimizer = make_optimizer(parameters, C)
    update = updater(optimizer, parameters, C.grad_clip)
    exchange = {"mean": processes.mean, "last_backward": processes.gradient_exchange(parameters)}
    cascade = Cascade(precision.bit_widths, **C.cascade_arguments(), **exchange)
    average = averaged_model(model, C.ema) if C.ema else None
    result_of = average.module if average else model  # the network that is validated and saved
    loss = Mean()
    start, loaded, saved = Position(), None, {}
    if C.resume:
        needs = ["model", "optimizer", "loss"]
        loaded, saved = processes.from_main(load_newest, C, needs, "checkpoint.pt of train.py", steps)
        start = Position(saved["epoch"], saved["step"])
        load_weights(model, saved["model"], loaded)
        load_optimizer(optimizer, saved["optimizer"], loaded)
        loss.load(saved["loss"], loaded)
        if average:
            if not isinstance(saved.get("average"), dict):
                raise UserError(f"{loaded}: has no average of the weights; resume with --ema 0, as it was trained")
            load_weights(average, saved["average"], loaded)
        C = C.replaced(resume=False)  # what is recorded is the same for the run that was never interrupted

    def state() -> dict:
        """What checkpoint.pt holds beside the position."""
        processes.average_statistics(model)
        if average:
            processes.average_statistics(average)
        return {
            "model": model.state_dict(),
            "average": average.state_dict() if average else None,
            "optimizer": optimizer.state_dict(),
            "loss": loss.state(),
            "config": C.to_dict(),
        }

    def measured(bit_widths: Sequence[int]) -> dict[int, float]:
        processes.average_statistics(result_of)
        batches = checkpoints.unless_stopped(test_batches)
        return accuracy(result_of, batches, bit_widths, C.max_steps, processes.total)

    def epoch_again() -> Iterator[tuple[Tensor, Tensor]]:
        return checkpoints.unless_stopped(islice(train_batches, steps))

    images_per_epoch = min(steps * C.batch_size, train_batches.num_images)
    recording = recorded(C, processes, state, start, loaded, saved.get("log_sizes"), command, images_per_epoch)
    with recording as (log, checkpoints, progress):
        flops, size = profile(model)
        log.line(version_line(processes.device))
        log.line(f"train on {data.name}: {len(data.train)} images, {len(data.test)} to test, on {processes}")
        log.settings(C, "config_train.py", versions(), resumed=saved.get("config"))
        ops = f"\n  {' '.join(arch['ops'])}" if "ops" in arch else ""
        log.line(f"network of {source}: {flops / 1e6:.2f} MFLOPs, {size / 1e6:.3f} M parameters{ops}")
        if loaded:
            log.line(f"resumed from {loaded}, at {start}")
        gc.freeze()  # what is built stays: collections in the loop need not walk thousands of modules
        for epoch in range(start.epoch, C.nepochs):
            begin = time.perf_counter()
            first = checkpoints.first_step(epoch)
            train_batches.set_epoch(epoch)
            model.train()
            for step, (images, labels) in enumerate(islice(train_batches.iterate_from(first), steps - first), first):
                optimizer.param_groups[0]["lr"] = learning_rate(C, epoch, (step + 1) / steps)
                rng = random.Random(derived_seed(C.seed, "sandwich", epoch, step))
                weight = train_batches.weight(step)
                losses = cascade.step(in_training, images, labels, update, rng, precision.frozen_statistics, weight)
                losses = processes.mean_losses(losses, weight)
                losses = finite_losses(losses, epoch, step, checkpoints.last_good)
                if average:
                    average.update_parameters(model)
                loss.add(losses)
                progress.step(train_batches.images_in(step), epoch, C.nepochs, losses)
                checkpoints.after_step(epoch, step, steps)
            finite_weights(model.state_dict(), f"by the end of epoch {epoch + 1}", checkpoints.last_good)

            metrics = {
                "loss": loss.value(),
                "lr": optimizer.param_groups[0]["lr"],
                "images_per_s": max(0, images_per_epoch - first * C.batch_size) / (time.perf_counter() - begin),
            }
            text = f"epoch {epoch + 1:3}/{C.nepochs}  loss {per_bits(loss.value(), '.3f')}"
            if (epoch + 1) % C.eval_epoch == 0 or epoch + 1 == C.nepochs:
                metrics["accuracy"] = measured(precision.bit_widths)
                text += f"  | accuracy % {per_bits(metrics['accuracy'], '.2f')}"
            log.line(f"{text}  | {metrics['images_per_s']:.0f} img/s")
            log.epoch(epoch, metrics)
            loss.clear()
            checkpoints.after_epoch(epoch)

        train_batches.set_epoch(C.nepochs)
        as_released = None
        if C.update_bn:
            processes.average_statistics(result_of)
            as_released = recalibrated(result_of, epoch_again, measured, C)
            if as_released:
                log.line(
                    f"\naccuracy %, each bit-width recalibrated alone, as released:  {per_bits(as_released, '.2f')}"
                )
        processes.average_statistics(result_of)
        finite_weights(result_of.state_dict(), "in the recalibration", checkpoints.last_good)
        final = measured(precision.bit_widths)
        content = {
            "model": result_of.state_dict(),
            "arch": {**arch, "flops": flops},
            "bits": list(precision.bit_widths),
            "accuracy": final,
            "config": C.to_dict(),
        }
        if processes.is_main:
            save_checkpoint(f"{C.save}/weights.pt", content)
        log.result({"accuracy": as_released or final, "flops": flops, "parameters": size})
        log.line(f"\naccuracy of weights.pt on {tested(data, C)} test images, %:  {per_bits(final, '.2f')}")
        following = [*stage_command("map", "-m", "automapper", parallel=False), f"{C.save}/weights.pt"]
        log.line(f"wrote {C.save}/weights.pt\nnext: {shlex.join([*following, '--device', 'eyeriss'])}")


def batches_of(C: TrainSettings, data: DataSet, processes: Processes) -> tuple[Batches, Batches]:
    """Training and test images in batches, of which this process gets its share."""
    train_batches = data.batches(
        "train",
        batch_size=C.batch_size,
        shuffle=C.shuffle,
        drop_last=C.drop_last,
        augment=True,
        seed=derived_seed(C.seed, "train"),
        **processes.shard,
    )
    return train_batches, data.batches("test", batch_size=4 * C.batch_size, **processes.shard)


def new_network(C: TrainSettings, arch: dict, source: object, processes: Processes) -> SwitchableNetwork:
    """The network of `arch`, which comes from `source`, with random weights or those of `C.pretrain`, on its device."""
    seed_everything(C.seed)
    precision = Precision(**C.precision_arguments())
    model = placed(build(arch, C.to_dict(), precision, source), processes.device, C.channels_last)
    model = synchronised(with_kernels(model, **C.kernel_arguments()), processes, C.sync_bn)
    if C.pretrain:
        path = find(C.pretrain, "weights.pt")
        content = processes.from_main(load_checkpoint, path, ["model", "bits"], "weights.pt of train.py")
        if content["bits"] != list(precision.bit_widths):
            raise UserError(
                f"{path} has the bit-widths {content['bits']}, num_bits_list has {list(precision.bit_widths)}"
            )
        load_weights(model, content["model"], path)
    return model


def recalibrated(
    model: SwitchableNetwork,
    batches: Callable[[], Iterable],
    measured: Callable[[Sequence[int]], dict[int, float]],
    C: TrainSettings,
) -> dict[int, float] | None:
    """Recalibrate every bit-width of `model` on `batches()`, its own statistics only; returns None.

    As released (`C.recalibration` = all) each bit-width's recalibration undoes the others': then the model is left as
    trained, and returned is what `measured([bits])` says of each bit-width after its own.
    """
    if C.recalibration == "own":
        for bits in model.precision.bit_widths:
            recalibrate(model, bits, batches(), reset="own")
        return None
    as_trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result: dict[int, float] = {}
    for bits in model.precision.bit_widths:
        recalibrate(model, bits, batches(), reset="all")
        result |= measured([bits])
    model.load_state_dict(as_trained)
    return result


def tested(data: DataSet, C: TrainSettings) -> int:
    """Test images that an accuracy is over."""
    return min(len(data.test), 4 * C.batch_size * C.max_steps or len(data.test))


def check_shape(searched: dict | None, C: TrainSettings, path: object) -> None:
    """`UserError` where this run, without having been told, shapes the network unlike the search of `path`."""
    shape = ["num_layer_list", "num_channel_list", "stride_list", "stem_channel", "stem_stride", "header_channel"]
    for name in shape if isinstance(searched, dict) else []:
        before, now = searched.get(name, getattr(C, name)), getattr(C, name)
        if name not in C.given and before != now:
            raise UserError(
                f"{path} was searched with {name} = {as_text(before)}, this run has {as_text(now)}: name the --preset "
                f"of the search, or mean it with --{name}"
            )


def architecture(C: TrainSettings) -> tuple[dict, str]:
    """What `networks.build_network` makes a network of, and what messages call it: arch.pt, or a network by name."""
    if C.network != "derived":
        return {"network": C.network}, f"network = {C.network}"
    path = find(C.load_path, "arch.pt")
    arch = load_checkpoint(path, ["ops"], "arch.pt of train_search.py")
    check_shape(arch.get("config"), C, path)
    return {"ops": list(arch["ops"])}, str(path)


def build(arch: dict, settings: dict, precision: Precision, source: object) -> SwitchableNetwork:
    """The network of an architecture that comes from `source`; `UserError` where they do not fit."""
    try:
        return build_network(arch, settings, precision)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: {error}") from error


def evaluate(C: TrainSettings, processes: Processes) -> None:
    """Print the accuracy of a weights.pt per bit-width: its own settings, but for those named on the command line."""
    path = find(C.pretrain or C.save, "weights.pt")
    needs = ["model", "arch", "bits", "config"]
    checkpoint = processes.from_main(load_checkpoint, path, needs, "weights.pt of train.py")
    machine = {"dataset_path", "device", "num_workers", "prefetch", "memory_limit_mb", "batch_size", "max_steps"}
    own = {name: value for name, value in checkpoint["config"].items() if name not in C.named | machine}
    wanted = C.num_bits_list if "num_bits_list" in C.named else checkpoint["bits"]
    C = C.replaced(**own)
    missing = [bits for bits in wanted if bits not in checkpoint["bits"]]
    if missing:
        raise UserError(f"setting num_bits_list: {path} has no bit-width {missing[0]}, only {checkpoint['bits']}")
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    precision = Precision(**C.precision_arguments() | {"bit_widths": checkpoint["bits"]})
    with processes.in_turn():
        data = load_data(**C.data_arguments(), device=processes.device)
    model = build(checkpoint["arch"], C.replaced(num_classes=data.num_classes).to_dict(), precision, path)
    load_weights(model, checkpoint["model"], path)
    model = placed(model, processes.device, C.channels_last)
    batches = data.batches("test", batch_size=4 * C.batch_size, **processes.shard)
    result = accuracy(model, batches, wanted, C.max_steps, processes.total)
    if processes.is_main:
        print(f"{path} on {tested(data, C)} test images of {data.name}\naccuracy %:  {per_bits(result, '.2f')}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
