"""Cascade distillation training (CDT): which bit-widths run in a step, which of them teach which, with what loss.

    L_total = 1/N * sum_i scale_i * L_cas(i),   L_cas(i) = CE(Q_i, label) + beta * sum_{j teaches i} MSE(Q_i, SG(Q_j))

Q_i: logits [B, classes] at the i-th bit-width, SG: stop gradient. A model here is anything callable as
model(images, num_bits=b). Source: Fu et al., DAC 2021, equation 1; `teachers_of` names the other choices' sources.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def bit_widths_of_step(schedule: str, bit_widths: Sequence[int], rng: random.Random) -> list[int]:
    """The bit-widths that run in a step, in running order.

    `all`, `max_loss`, `high2low`: all, from high to low. `low2high`: all, from low to high. `sandwich` (Yu and Huang
    2019): the highest, 2 random ones in between and the lowest, from high to low.
    """
    ordered = sorted(bit_widths, reverse=True)
    if schedule == "sandwich":
        between = ordered[1:-1]
        return sorted({ordered[0], ordered[-1], *rng.sample(between, min(2, len(between)))}, reverse=True)
    return ordered[::-1] if schedule == "low2high" else ordered


def teachers_of(bits: int, running: Sequence[int], teachers: str) -> list[int]:
    """Which of the bit-widths that run in the step teach `bits`.

    `cascade`: all higher ones (CDT). `highest`: the highest only (SP-Nets, Guerra et al. 2020). `next`: the next higher
    one (Any-Precision DNN, Yu et al.). `none` (AdaBits, Jin et al. 2020).
    """
    higher = sorted(b for b in running if b > bits)
    return {"cascade": higher, "highest": higher[-1:], "next": higher[:1], "none": []}[teachers]


def cascade_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Sequence[Tensor],
    distill_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """L_cas of one bit-width: cross-entropy plus distill_weight times each teacher's MSE, means over batch and classes.

    logits, teacher_logits: [B, classes]; labels [B]. No gradient flows into the teachers. label_smoothing: share of
    each label that is spread evenly over all classes (Szegedy et al. 2016).
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    for teacher in teacher_logits:
        loss = loss + distill_weight * F.mse_loss(logits, teacher.detach())
    return loss


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Cascade:
    """The choices of a run; names and legal values as in the settings. loss_scale: bit-width -> weight of its loss.

    Where several processes share a batch, mean(x) is the mean over them. last_backward(loss) wraps the last loss before
    an update(), so that its backward exchanges the gradients.
    """

    bit_widths: tuple[int, ...]
    loss_scale: dict[int, float]
    teachers: str = "cascade"
    distill_weight: float = 1.0
    bit_schedule: str = "all"
    loss_reduction: str = "mean"
    label_smoothing: float = 0.0
    mean: Callable[[Tensor], Tensor] = _as_it_is
    last_backward: Callable[[Tensor], Tensor] = _as_it_is

    def running(self, rng: random.Random) -> tuple[int, ...]:
        """The bit-widths of the next step, in running order; rng draws the random ones of `sandwich`."""
        return tuple(bit_widths_of_step(self.bit_schedule, self.bit_widths, rng))

    def step(
        self,
        model: Callable[..., Tensor],
        images: Tensor,
        labels: Tensor,
        update: Callable[[], None],
        running: Sequence[int],
        frozen_statistics: Callable[[], AbstractContextManager] = nullcontext,
        weight: float = 1.0,
    ) -> dict[int, Tensor]:
        """Train on one batch; returns bit-width -> L_cas of the images given, detached.

        images [B, C, H, W], labels [B]. update() applies the accumulated gradients and clears them: it is called once,
        or once per bit-width under `high2low` and `low2high`. running: as `self.running` gave them. Teachers are the
        same step's logits. Under `low2high` they have not run yet, so an extra pass without gradients makes
        them first, inside frozen_statistics(). weight: of this process's images in the mean over the processes.
        """
        per_bit_width = self.bit_schedule in ("high2low", "low2high")
        summed = len(running) if self.bit_schedule in ("all", "sandwich") else 1  # losses behind one update()
        share = 1 / summed if self.loss_reduction == "mean" else 1.0
        logits_of: dict[int, Tensor] = {}
        if self.bit_schedule == "low2high" and self.distill_weight:
            with torch.no_grad(), frozen_statistics():
                taught_by = {t for bits in running for t in teachers_of(bits, running, self.teachers)}
                logits_of = {bits: model(images, num_bits=bits) for bits in sorted(taught_by)}
        losses: dict[int, Tensor] = {}
        largest = None  # (loss, the same scaled and with its graph)
        for bits in running:
            logits = model(images, num_bits=bits)
            teachers = teachers_of(bits, running, self.teachers) if self.distill_weight else []
            taught = [logits_of[t] for t in teachers]
            loss = cascade_loss(logits, labels, taught, self.distill_weight, self.label_smoothing)
            logits_of.setdefault(bits, logits.detach())
            losses[bits] = loss.detach()
            scaled = self.loss_scale[bits] * share * weight * loss
            if self.bit_schedule == "max_loss":
                # Only the largest loss keeps its graph: at most two are alive at a time.
                size = self.mean(weight * losses[bits])
                if largest is None or size > largest[0]:
                    largest = size, scaled
                continue
            if per_bit_width or bits == running[-1]:
                scaled = self.last_backward(scaled)
            scaled.backward()
            if per_bit_width:
                update()
        if largest is not None:
            self.last_backward(largest[1]).backward()
        if not per_bit_width:
            update()
        return losses
