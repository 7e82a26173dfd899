"""Pieces of a training loop: updates, checks, accuracy, running means."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from instantnet.engine.checkpoint import all_finite
from instantnet.engine.errors import Diverged
from instantnet.widths import Bits, in_words, width_order, widths_of


def updater(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], grad_clip: float) -> Callable[[], None]:
    """A function that clips the accumulated gradients to norm `grad_clip` (0 = not), steps, and clears them."""

    def update() -> None:
        if grad_clip:
            nn.utils.clip_grad_norm_(parameters, grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """In this context passes compute no gradient of `parameters`, and keep nothing that only they would need."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def finite_losses(losses: dict[Bits, Tensor], epoch: int, step: int, last_good: str) -> dict[Bits, float]:
    """The losses as numbers; `Diverged` where one is NaN or infinite, naming epoch, step, bit-width and the last good
    checkpoint."""
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    for bits, value in values.items():
        if not math.isfinite(value):
            what = f"the loss became {value} in epoch {epoch + 1}, step {step + 1}, at {in_words(bits)}"
            raise Diverged(what, _advice(last_good))
    return values


def finite_weights(weights: dict[str, Tensor], when: str, last_good: str) -> None:
    """`Diverged` where a weight or a running statistic is NaN or infinite: the last step or a recalibration can cause
    that without a loss to show it. when: as in "by the end of epoch 3"."""
    if not all_finite(weights):
        raise Diverged(f"weights or running statistics became NaN or infinite {when}", _advice(last_good))


def _advice(last_good: str) -> str:
    return f"last good checkpoint: {last_good}; a lower lr often helps"


@torch.no_grad()
def accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    bit_widths: Iterable[Bits],
    max_steps: int = 0,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[Bits, float]:
    """Bit-width -> percent of images whose largest logit is their label's; the model is in evaluation meanwhile.

    batches yields (images [B, C, H, W], labels [B]); max_steps: only the first of them, 0 = all. total: sums counts
    over the processes, where each has a share of every batch. Raises `Diverged` where a logit is NaN or infinite.
    """
    model.eval()
    bit_widths = list(bit_widths)
    correct: dict[Bits, Any] = dict.fromkeys(bit_widths, 0)
    finite: dict[Bits, Any] = dict.fromkeys(bit_widths, True)
    count = 0
    for images, labels in islice(batches, max_steps or None):
        if not len(labels):
            continue  # the whole of a small last batch is on other processes
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
            raise Diverged(
                f"the network's outputs at {in_words(bits)} are NaN or infinite: its training has diverged, or its "
                "batches held images so alike that batch norm divided by almost nothing"
            )
    return {bits: 100 * right / max(count, 1) for bits, right in zip(bit_widths, others, strict=False)}


class Mean:
    """Running mean of a dictionary of numbers."""

    def __init__(self) -> None:
        self.sums: dict[Bits, float] = {}
        self.counts: dict[Bits, int] = {}

    def add(self, values: dict[Bits, float]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def value(self) -> dict[Bits, float]:
        return {key: self.sums[key] / self.counts[key] for key in sorted(self.sums, key=width_order)}

    def clear(self) -> None:
        self.sums, self.counts = {}, {}

    def state_dict(self) -> dict[Bits, list[float]]:
        """Of every key [sum, count]."""
        return {key: [self.sums[key], self.counts[key]] for key in self.sums}

    def load_state_dict(self, state: dict[Bits, list[float]]) -> None:
        """Restore a `state_dict()`. Raises ValueError where it is not one."""
        try:
            if not all(type(number) in (int, float) for pair in state.values() for number in pair):
                raise TypeError("not numbers")
            self.sums = {widths_of(key).bits: float(total) for key, (total, _) in state.items()}
            self.counts = {widths_of(key).bits: int(count) for key, (_, count) in state.items()}
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not running means: {error}") from error
