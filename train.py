"""Stage 2, CDT: train the searched network from scratch, one set of weights for every bit-width -> weights.pt

Every higher precision teaches every lower one in the same step. `--network` trains another network instead: one of the
paper's comparison, of torchvision or timm, or your own. Settings: config_train.py. Next stage: automapper.
"""

import random
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from instantnet.settings.configuration import check_words
from instantnet.settings.stages import TrainSettings

if __name__ == "__main__":
    check_words(TrainSettings, __doc__)  # a mistake is answered at once: torch takes seconds to load

import torch
from torch import Tensor

from instantnet.dataloader import Batches
from instantnet.distill import Cascade
from instantnet.engine.average import averaged_model
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.commands import resume_command, stage_command
from instantnet.engine.distributed import Processes, joined
from instantnet.engine.errors import exit_status
from instantnet.engine.log import per_bits
from instantnet.engine.loop import Mean, accuracy, finite_weights
from instantnet.engine.machine import derived_seed, seed_everything
from instantnet.engine.synchronised import synchronised
from instantnet.engine.user_code import names_a_function
from instantnet.evaluation import evaluate, tested
from instantnet.formats import TRAINING_RUN, WEIGHTS, architecture, header
from instantnet.kernels import with_kernels
from instantnet.networks.build import build, described, sizes_of
from instantnet.pretrained import Pretrained, begin, read_pretrained
from instantnet.quantize import Precision, SwitchableNetwork
from instantnet.quantizers import learned_by_quantizers
from instantnet.recalibration import recalibrated
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import from_command_line
from instantnet.strategies import autocasted, compiled, placed, recorded
from instantnet.training import (
    announce,
    batches_of,
    learning_rate,
    make_optimizer,
    make_updater,
    new_run,
    prepared,
    set_learning_rate,
)
from instantnet.widths import Bits


def main(argv: list[str] | None = None) -> None:
    C = from_command_line(*configuration(TrainSettings), argv, __doc__)
    with joined(C.device) as processes:
        if C.eval_only:
            return evaluate(C, processes)
        train(C, processes, resume_command("train", "train.py", argv, C.resume is True))


def train(C: TrainSettings, processes: Processes, command: str) -> None:
    """Train, save and report. Every process does the same on its share of a batch.

    command: the shell command that resumes this run.
    """
    arch, source = processes.from_main(architecture, C)
    new_model = partial(built, arch=arch, source=source)
    pretrained = processes.from_main(read_pretrained, C, new_model) if C.pretrain else None
    C, data = prepared(C, processes, TRAINING_RUN, partial(new_parts, arch=arch, source=source))
    train_batches, test_batches, as_they_are = batches_of(C, data, processes)
    steps = min(len(train_batches), C.max_steps or len(train_batches))

    model, new_head = new_network(C, new_model, processes, pretrained)
    flops, size = sizes_of(model, C.to_dict(), source)
    precision, parameters = model.precision, list(model.parameters())
    in_training = autocasted(compiled(model, C.compile), C.mixed_precision, processes.device)
    optimizer = make_optimizer(parameters, C, learned_by_quantizers(model))
    last_backward = processes.gradient_exchange(parameters)
    cascade = Cascade(precision.bit_widths, **C.cascade_arguments(), mean=processes.mean, last_backward=last_backward)
    update = make_updater(optimizer, parameters, C, cascade)

    def one_step(
        images: Tensor, labels: Tensor, running: Sequence[Bits], weight: float, beta: float
    ) -> dict[Bits, Tensor]:
        return cascade.step(in_training, images, labels, update, running, precision.frozen_statistics, weight, beta)

    train_on = recorded(one_step, C.cuda_graph, optimizer)
    parts = parts_of(C, model, optimizer)
    loss, average = parts["loss"], parts.get("average")
    # The network that is validated and saved.
    result_of: SwitchableNetwork = average.module if average else model
    run = new_run(C, parts, processes, command, header(TRAINING_RUN, arch, C, data), steps)

    def measured(bit_widths: Sequence[Bits], batches: Batches = test_batches) -> dict[Bits, float]:
        processes.average_statistics(result_of)
        return accuracy(result_of, run.unless_stopped(batches), bit_widths, C.max_steps, processes.total)

    with run.recorded(train_batches, steps, C.nepochs) as log:
        sizes = f"{len(train_batches.indices)} images, {len(data.test)} to test"
        announce(log, C, run, "config_train.py", f"train on {data.name}: {sizes}, on {processes}", data)
        log.line(described(source, arch, flops, size))
        if pretrained:
            begin(model, result_of, pretrained, new_head, run)
        for epoch in run.epochs():
            model.train()
            for step, (images, labels) in run.steps(epoch):
                set_learning_rate(optimizer, learning_rate(C, epoch, (step + 1) / steps))
                rng = random.Random(derived_seed(C.seed, "sandwich", epoch, step))
                weight = train_batches.weight(step)
                beta = cascade.distill_weight_at(epoch, (step + 1) / steps)
                losses = train_on(images, labels, cascade.running(rng), weight, beta)
                run.note(loss, processes.mean_losses(losses, weight))
                if average:
                    average.update_parameters(model)

            metrics = {"loss": loss.value(), "lr": optimizer.param_groups[0]["lr"], "images_per_s": run.images_per_s}
            if (epoch + 1) % C.eval_epoch == 0 or epoch + 1 == C.nepochs:
                metrics["accuracy"] = measured(precision.bit_widths)
            log.epoch(epoch, metrics, C.nepochs)
            loss.clear()

        as_released = None
        if C.update_bn:
            processes.average_statistics(result_of)
            # As released, the last batch takes part here even where training drops it.
            images_of = train_batches if C.recalibration == "own" else train_batches.with_last_batch()
            again = partial(run.epoch_again, C.nepochs, images_of, C.max_steps)
            as_released = recalibrated(result_of, again, images_of.images_in, measured, C)
            if as_released:
                shown = per_bits(as_released, ".2f")
                log.line(f"\naccuracy %, each bit-width recalibrated alone, as released:  {shown}")
        processes.average_statistics(result_of)
        finite_weights(result_of.state_dict(), "in the recalibration", run.last_good)
        final = measured(precision.bit_widths)
        content = header(WEIGHTS, arch, C, data) | {
            "model": result_of.state_dict(),
            "arch": {**arch, "flops": flops},
            "accuracy": final,
            "config": run.config,
        }
        if processes.is_main:
            save_checkpoint(f"{C.save}/weights.pt", content)
        on_training = {"train_accuracy": measured(precision.bit_widths, as_they_are)} if C.train_accuracy else {}
        log.result({"accuracy": as_released or final, **on_training, "flops": flops, "parameters": size})
        log.line(f"\naccuracy of weights.pt on {tested(data, C)} test images, %:  {per_bits(final, '.2f')}")
        if on_training:
            log.line(f"on training images, %:  {per_bits(on_training['train_accuracy'], '.2f')}")
        following = [*stage_command("map", "-m", "automapper", parallel=False), f"{C.save}/weights.pt"]
        following += ["--network", C.network] if names_a_function(C.network) else []
        log.line(f"wrote {C.save}/weights.pt\nnext: {shlex.join([*following, '--device', 'eyeriss'])}")


def parts_of(C: TrainSettings, model: SwitchableNetwork, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a run resumes: name -> `Stateful`."""
    parts = {"model": model, "optimizer": optimizer, "loss": Mean()}
    return parts | {"average": averaged_model(model, C.ema)} if C.ema else parts


def built(C: TrainSettings, arch: dict, source: object) -> SwitchableNetwork:
    """The network of `arch`, which comes from `source`, with random weights."""
    return build(arch, C.to_dict(), Precision(**C.precision_arguments()), source)


def new_parts(C: TrainSettings, arch: dict, source: object) -> dict[str, Any]:
    """The parts of a run that has not begun."""
    model = built(C, arch, source)
    return parts_of(C, model, make_optimizer(list(model.parameters()), C, learned_by_quantizers(model)))


def new_network(
    C: TrainSettings,
    new_model: Callable[[TrainSettings], SwitchableNetwork],
    processes: Processes,
    pretrained: Pretrained | None,
) -> tuple[SwitchableNetwork, list[str]]:
    """`new_model(C)` on its device, with random weights or those `pretrained`; the names of what stays random then."""
    seed_everything(C.seed)
    model = placed(new_model(C), processes.device, C.channels_last)
    model = synchronised(with_kernels(model, **C.kernel_arguments()), processes, C.sync_bn)
    return model, pretrained.load_into(model) if pretrained else []


if __name__ == "__main__":
    sys.exit(exit_status(main))
