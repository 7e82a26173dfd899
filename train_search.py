"""Stage 1, SP-NAS: search the architecture of a switchable-precision network -> arch.pt

A supernet's weights train at all bit-widths by CDT, its architecture parameters alpha at the lowest bit-width only, on
held-out images. Settings: config_search.py. Next stage: train.py.
"""

import random
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from instantnet.settings.configuration import check_words
from instantnet.settings.stages import SearchSettings

if __name__ == "__main__":
    check_words(SearchSettings, __doc__)  # a mistake is answered at once: torch takes seconds to load

import torch
from torch import Tensor

from instantnet.architect import Architect, next_flops_weight
from instantnet.dataloader import Batches, DataSet, endless, split_indices
from instantnet.distill import Cascade
from instantnet.efficiency import counted_value, efficiency_of, in_words, numbers
from instantnet.engine.checkpoint import load_weights
from instantnet.engine.commands import resume_command
from instantnet.engine.distributed import Processes, joined
from instantnet.engine.errors import exit_status
from instantnet.engine.loop import Mean, frozen
from instantnet.engine.machine import derived_seed, seed_everything
from instantnet.engine.run import Attribute
from instantnet.engine.synchronised import synchronised
from instantnet.formats import ARCHITECTURE, SEARCH_RUN, header, read_supernet
from instantnet.kernels import with_kernels
from instantnet.model_search import Supernet
from instantnet.quantizers import learned_by_quantizers
from instantnet.searching import bit_widths_named, build_supernet, new_architect, validate
from instantnet.selection import Best, architecture, report
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import from_command_line
from instantnet.strategies import autocasted, compiled, placed, recorded
from instantnet.training import (
    announce,
    learning_rate,
    make_optimizer,
    make_updater,
    new_run,
    prepared,
    set_learning_rate,
    training_command,
)
from instantnet.widths import Bits


def main(argv: list[str] | None = None) -> None:
    C = from_command_line(*configuration(SearchSettings), argv, __doc__)
    with joined(C.device) as processes:
        search(C, processes, resume_command("search", "train_search.py", argv, C.resume is True))


def search(C: SearchSettings, processes: Processes, command: str) -> None:
    """Search, save and report. Every process does the same on its share of a batch.

    command: the shell command that resumes this run.
    """
    pretrained = processes.from_main(read_supernet, C.pretrain) if C.pretrain else None
    C, data = prepared(C, processes, SEARCH_RUN, new_parts)
    next_stage = training_command(C)  # now: a mistake in config_train.py should not wait for the end of the search
    weight_batches, alpha_batches, held_out = batches_of(C, data, processes)
    steps = min(len(weight_batches), C.max_steps or len(weight_batches))

    supernet = new_supernet(C, processes, pretrained)
    precision, weights = supernet.precision, supernet.weight_parameters()
    in_training = autocasted(compiled(supernet, C.compile), C.mixed_precision, processes.device)
    optimizer = make_optimizer(weights, C, learned_by_quantizers(supernet))
    efficiency = efficiency_of(C, supernet, processes.from_main)
    reachable = efficiency.lines(C)
    architect = new_architect(C, supernet, in_training, processes.mean, efficiency.loss)
    bit_widths = bit_widths_named(C.weight_bits, precision)
    last_backward = processes.gradient_exchange(weights)
    cascade = Cascade(bit_widths, **C.cascade_arguments(), mean=processes.mean, last_backward=last_backward)
    update = make_updater(optimizer, weights, C, cascade)

    def one_step(
        images: Tensor, labels: Tensor, op_weights: Tensor, running: Sequence[Bits], weight: float, beta: float
    ) -> dict[Bits, Tensor]:
        with supernet.mixing_by(op_weights):
            return cascade.step(in_training, images, labels, update, running, precision.frozen_statistics, weight, beta)

    alpha_statistics = precision.frozen_statistics if C.alpha_pass == "frozen" else nullcontext
    train_on = recorded(one_step, C.cuda_graph, optimizer)
    parts = parts_of(C, supernet, optimizer, architect)
    best, loss, alpha_loss = parts["best"], parts["loss"], parts["alpha_loss"]
    best.header = lambda ops: header(ARCHITECTURE, {"ops": ops}, C, data)
    run = new_run(C, parts, processes, command, header(SEARCH_RUN, {"network": "supernet"}, C, data), steps)

    with run.recorded(weight_batches, steps, C.nepochs) as log:
        best.save_again(run)
        halves = f"{len(weight_batches.indices)} images for weights, {len(alpha_batches.indices)} for alpha"
        announce(log, C, run, "config_search.py", f"search on {data.name}: {halves} ({processes})", data)
        for line in reachable:
            log.line(line)
        for epoch in run.epochs():
            supernet.temperature = C.temp_init * C.temp_decay**epoch
            held_out_images = endless(alpha_batches, epoch, run.first_step(epoch))
            supernet.train()
            for step, (images, labels) in run.steps(epoch):
                set_learning_rate(optimizer, learning_rate(C, epoch, (step + 1) / steps))
                noise = derived_seed(C.seed, "gumbel", epoch, step)  # one sample of it for the whole step
                supernet.generator.manual_seed(noise)
                supernet.sample()
                others, their_labels, share = next(held_out_images)
                with frozen(weights):
                    cross_entropy = architect.step(others, their_labels, alpha_statistics, share)

                supernet.generator.manual_seed(noise)
                with frozen([supernet.alpha]):
                    supernet.sample()
                    weight = weight_batches.weight(step)
                    rng = random.Random(derived_seed(C.seed, "sandwich", epoch, step))
                    beta = cascade.distill_weight_at(epoch, (step + 1) / steps)
                    running = cascade.running(rng)
                    losses = train_on(images, labels, supernet.drawn(), running, weight, beta)

                run.note(loss, processes.mean_losses(losses, weight))
                run.note(alpha_loss, processes.mean_losses({architect.bits: cross_entropy}, share))

            ops, flops_weight = architecture(supernet, efficiency, C), architect.flops_weight
            derived, unbound = efficiency.derived(ops), efficiency.derived(supernet.derived_ops())
            metrics = {
                "loss": loss.value(),
                "alpha_loss": alpha_loss.value(),
                **numbers(derived),
                "flops_weight": flops_weight,
                "temperature": supernet.temperature,
                "lr": optimizer.param_groups[0]["lr"],
                "images_per_s": run.images_per_s,
            }
            if (epoch + 1) % C.eval_epoch == 0 or epoch + 1 == C.nepochs:
                processes.average_statistics(supernet)
                unseen = run.unless_stopped(held_out)
                metrics["accuracy"] = validate(supernet, unseen, bit_widths, C, epoch, processes.total)
                best.consider(supernet.alpha, ops, derived, metrics["accuracy"], epoch, run)
            if epoch >= C.flops_from:
                architect.flops_weight = next_flops_weight(flops_weight, counted_value(unbound), *C.window())
            log.epoch(epoch, metrics, C.nepochs, f"{in_words(derived, unbound)}, lambda {flops_weight:.1e}")
            loss.clear()
            alpha_loss.clear()
        report(best.found, C, log)
        log.line(f"\nwrote {C.save}/arch.pt\nnext: {next_stage}")


def batches_of(C: SearchSettings, data: DataSet, processes: Processes) -> tuple[Batches, Batches, Batches]:
    """(images for the weights, images for alpha, images for validation), in batches of this process's share."""
    halves = len(data.train), C.train_portion, derived_seed(C.seed, "split")
    for_weights, for_alpha = split_indices(*halves, shuffled=C.split == "random")
    batches: dict[str, Any] = {
        "batch_size": C.batch_size,
        "drop_last": C.drop_last,
        "shuffle": C.shuffle,
        "augment": True,
    }
    batches |= processes.shard
    weight_batches = data.batches("train", for_weights, seed=derived_seed(C.seed, "weights"), **batches)
    alpha_batches = data.batches("train", for_alpha, seed=derived_seed(C.seed, "alpha"), **batches)
    subset, indices = ("test", None) if C.validation == "released" else ("train", for_alpha)
    as_they_are: dict[str, Any] = {
        "batch_size": 4 * C.batch_size,
        "shuffle": False,
        "augment": False,
        **processes.shard,
    }
    return weight_batches, alpha_batches, data.batches(subset, indices, **as_they_are)


def parts_of(
    C: SearchSettings, supernet: Supernet, optimizer: torch.optim.Optimizer, architect: Architect
) -> dict[str, Any]:
    """What a run resumes: name -> `Stateful`."""
    return {
        "model": supernet,
        "optimizer": optimizer,
        "arch_optimizer": architect.optimizer,
        "flops_weight": Attribute(architect, "flops_weight"),
        "best": Best(C),
        "loss": Mean(),
        "alpha_loss": Mean(),
    }


def new_parts(C: SearchSettings) -> dict[str, Any]:
    """The parts of a run that has not begun."""
    supernet = build_supernet(C)
    optimizer = make_optimizer(supernet.weight_parameters(), C, learned_by_quantizers(supernet))
    return parts_of(C, supernet, optimizer, new_architect(C, supernet, supernet))


def new_supernet(C: SearchSettings, processes: Processes, pretrained: dict[str, Any] | None) -> Supernet:
    """A supernet with random weights, or those `pretrained`, on its device."""
    seed_everything(C.seed)
    supernet = build_supernet(C)
    supernet = placed(supernet, processes.device, C.channels_last)
    supernet = synchronised(with_kernels(supernet, **C.kernel_arguments()), processes, C.sync_bn)
    supernet.noise_per_forward = C.gumbel_noise == "per_forward"
    if pretrained is not None:
        load_weights(supernet, pretrained, str(C.pretrain))
    return supernet


if __name__ == "__main__":
    sys.exit(exit_status(main))
