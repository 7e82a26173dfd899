"""Pieces of a training loop that stages 1 and 2 share: optimiser, learning rate, accuracy, averages."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from instantnet.engine.checkpoint import all_finite
from instantnet.engine.errors import Diverged, UserError
from instantnet.settings.stages import NetworkSettings


def make_optimizer(parameters: list[nn.Parameter], C: NetworkSettings) -> torch.optim.Optimizer:
    """The optimiser of the weights, at the first epoch's learning rate."""
    if C.opt == "adam":
        return torch.optim.Adam(parameters, lr=C.lr, betas=tuple(C.betas), weight_decay=C.weight_decay)
    return torch.optim.SGD(parameters, lr=C.lr, momentum=C.momentum, weight_decay=C.weight_decay)


def learning_rate(C: NetworkSettings, epoch: int, done: float = 0.0) -> float:
    """The learning rate in an epoch (from 0) of which the share `done` is behind the step: the schedule's of the epoch,
    in the first warmup_epochs times a ramp from 0 to 1 that rises with every step (Goyal et al. 2017).

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


def updater(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], grad_clip: float) -> Callable[[], None]:
    """update(): clip the accumulated gradients to norm `grad_clip` (0 = not), one optimizer step, clear them."""

    def update() -> None:
        if grad_clip:
            nn.utils.clip_grad_norm_(parameters, grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within it passes compute no gradient of `parameters`, and keep nothing that only those would need."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def finite_losses(losses: dict[int, Tensor], epoch: int, step: int, last_good: str) -> dict[int, float]:
    """The losses as numbers; `Diverged` where one is NaN or infinite, naming epoch, step, bit-width and the last good
    checkpoint."""
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    for bits, value in values.items():
        if not math.isfinite(value):
            what = f"the loss became {value} in epoch {epoch + 1}, step {step + 1}, at {bits} bit"
            raise Diverged(what, _advice(last_good))
    return values


def finite_weights(weights: dict[str, Tensor], when: str, last_good: str) -> None:
    """`Diverged` where a weight or a running statistic is NaN or infinite: a last step, or a recalibration, can do
    that with no loss to show it. when: as in "by the end of epoch 3"."""
    if not all_finite(weights):
        raise Diverged(f"weights or running statistics became NaN or infinite {when}", _advice(last_good))


def _advice(last_good: str) -> str:
    return f"last good checkpoint: {last_good}; a lower lr often helps"


@torch.no_grad()
def accuracy(
    model: Callable[..., Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    bit_widths: Iterable[int],
    max_steps: int = 0,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[int, float]:
    """Bit-width -> percent of images whose largest logit is their label's; the model is in evaluation meanwhile.

    batches yields (images [B, C, H, W], labels [B]); max_steps: only the first so many, 0 = all. total: sums counts
    over the processes, where each has a share of every batch. Raises `Diverged` where a logit is NaN or infinite.
    """
    model.eval()
    bit_widths = list(bit_widths)
    correct: dict[int, Tensor | int] = dict.fromkeys(bit_widths, 0)
    finite: dict[int, Tensor | bool] = dict.fromkeys(bit_widths, True)
    count = 0
    for images, labels in islice(batches, max_steps or None):
        if not len(labels):
            continue  # all of a small last batch is with other processes
        count += len(labels)
        for bits in bit_widths:
            logits = model(images, num_bits=bits)
            correct[bits] += (logits.argmax(dim=1) == labels).sum()
            finite[bits] &= logits.isfinite().all()
    model.train()
    counts = [count, *map(int, correct.values()), *(not good for good in finite.values())]
    count, *others = total(torch.tensor(counts)).tolist()
    for bits, wrong in zip(bit_widths, others[len(bit_widths) :], strict=True):
        if wrong:
            raise Diverged(f"the network's outputs at {bits} bit are NaN or infinite: its training has diverged")
    return {bits: 100 * right / max(count, 1) for bits, right in zip(bit_widths, others, strict=False)}


class Mean:
    """Running mean of a dictionary of numbers."""

    def __init__(self) -> None:
        self.sums: dict[int, float] = {}
        self.counts: dict[int, int] = {}

    def add(self, values: dict[int, float]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def value(self) -> dict[int, float]:
        return {key: self.sums[key] / self.counts[key] for key in sorted(self.sums)}

    def clear(self) -> None:
        self.sums, self.counts = {}, {}

    def state(self) -> dict[int, list[float]]:
        """Of every key [sum, count]: what `load` takes."""
        return {key: [self.sums[key], self.counts[key]] for key in self.sums}

    def load(self, state: dict[int, list[float]], path: Path | str) -> None:
        """Go on from a `state` read from `path`; `UserError` where it is not one."""
        try:
            self.sums = {int(key): float(total) for key, (total, _) in state.items()}
            self.counts = {int(key): int(count) for key, (_, count) in state.items()}
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: its running means cannot be read ({error})") from error
