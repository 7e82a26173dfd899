"""Cascade distillation training (CDT): which bit-widths run in a step, which of them teach which, with what loss.

    L_total = 1/N * sum_i scale_i * L_cas(i),   L_cas(i) = CE(Q_i, label) + beta * sum_{j teaches i} MSE(Q_i, SG(Q_j))

Q_i: logits [B, classes] at the i-th bit-width, SG: stop gradient. A model here is anything callable as
model(images, num_bits=b). Source: Fu et al., DAC 2021, equation 1; `teachers_of` and `teacher_loss` name the sources of
the other choices.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from instantnet.widths import Bits, width_order


def bit_widths_of_step(schedule: str, bit_widths: Sequence[Bits], rng: random.Random) -> list[Bits]:
    """The bit-widths that run in a step, in running order.

    `all`, `max_loss`, `high2low`: all, from high to low. `low2high`: all, from low to high. `sandwich` (Yu and Huang
    2019): the highest, 2 random ones in between and the lowest, from high to low.
    """
    ordered = sorted(bit_widths, key=width_order, reverse=True)
    if schedule == "sandwich":
        between = ordered[1:-1]
        return sorted(
            {ordered[0], ordered[-1], *rng.sample(between, min(2, len(between)))}, key=width_order, reverse=True
        )
    return ordered[::-1] if schedule == "low2high" else ordered


def released_bit_widths_of_step(
    schedule: str, bit_widths: Sequence[Bits], teachers: str, rng: random.Random
) -> list[Bits]:
    """The bit-widths of a step in the order of the authors' released code, where it differs from `bit_widths_of_step`.

    Under `all` and `max_loss` they rise, after the highest where that is the teacher of all; `sandwich` draws its two
    after the ends, and may draw one twice.
    """
    rising = sorted(bit_widths, key=width_order)
    if schedule == "sandwich":
        between = rising[1:-1]
        return [*dict.fromkeys((rising[-1], rising[0])), *(rng.choice(between) for _ in range(2) if between)]
    if schedule in ("all", "max_loss") and teachers in ("highest", "none"):
        return [rising[-1], *rising[:-1]] if teachers == "highest" else rising
    return bit_widths_of_step(schedule, bit_widths, rng)


def teachers_of(bits: Bits, running: Sequence[Bits], teachers: str) -> list[Bits]:
    """Which of the bit-widths that run in the step teach `bits`.

    `cascade`: all higher ones (CDT). `highest`: the highest only (SP-Nets, Guerra et al. 2020). `next`: the next higher
    one (Any-Precision DNN, Yu et al.). `none` (AdaBits, Jin et al. 2020).
    """
    higher = sorted((b for b in running if width_order(b) > width_order(bits)), key=width_order)
    return {"cascade": higher, "highest": higher[-1:], "next": higher[:1], "none": []}[teachers]


def teacher_loss(logits: Tensor, teacher: Tensor, distill_loss: str = "mse", temperature: float = 1.0) -> Tensor:
    """The distance of logits [B, classes] from one teacher's, into which no gradient flows; a scalar.

    `mse`: squared error, mean over batch and classes (CDT). `kl`: T^2 * KL(teacher || student) of softmax(logits / T),
    mean over the batch (Hinton et al. 2015); T^2 keeps the size of the gradient. `soft`: the same plus the teacher's
    entropy, T^2 * -sum softmax(teacher / T) * log_softmax(student / T) (Any-Precision DNN, Yu et al., at T = 1).
    """
    teacher = teacher.detach()
    if distill_loss == "mse":
        return F.mse_loss(logits, teacher)
    student = F.log_softmax(logits / temperature, dim=1)
    if distill_loss == "kl":
        target = F.log_softmax(teacher / temperature, dim=1)
        return temperature**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)
    return temperature**2 * -(F.softmax(teacher / temperature, dim=1) * student).sum(dim=1).mean()


def cascade_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Sequence[Tensor],
    distill_weight: float | Tensor,
    label_smoothing: float = 0.0,
    distill_loss: str = "mse",
    distill_temperature: float = 1.0,
    distill_reduction: str = "sum",
) -> Tensor:
    """L_cas of one bit-width: cross-entropy plus distill_weight times the sum, or mean, of its `teacher_loss`es.

    Under `soft` a bit-width that has teachers gets no cross-entropy with the labels. logits, teacher_logits:
    [B, classes]; labels [B]; distill_weight: a number, or a tensor [] of the logits' type and device. label_smoothing:
    share of each label that is spread evenly over all classes (Szegedy et al. 2016).
    """
    weight = distill_weight / len(teacher_logits) if distill_reduction == "mean" and teacher_logits else distill_weight
    terms = [weight * teacher_loss(logits, teacher, distill_loss, distill_temperature) for teacher in teacher_logits]
    if distill_loss != "soft" or not terms:
        terms.insert(0, F.cross_entropy(logits, labels, label_smoothing=label_smoothing))
    return sum(terms[1:], terms[0])


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Cascade:
    """The choices of a run; names and legal values as in the settings. loss_scale: bit-width -> weight of its loss.

    pass_order `released`: `released_bit_widths_of_step`. schedule_rules `released`: `sandwich`, `high2low` and
    `low2high` learn from labels alone and update once per bit-width; `max_loss` picks by cross-entropy, without what
    the teachers add.

    Where several processes share a batch, mean(x) is the mean over them. last_backward(loss) wraps the last loss before
    an update(), so that its backward exchanges the gradients.
    """

    bit_widths: tuple[Bits, ...]
    loss_scale: dict[Bits, float]
    teachers: str = "cascade"
    distill_weight: float = 1.0
    bit_schedule: str = "all"
    loss_reduction: str = "mean"
    label_smoothing: float = 0.0
    distill_loss: str = "mse"
    distill_temperature: float = 1.0
    distill_reduction: str = "sum"
    distill_warmup: int = 0
    pass_order: str = "descending"
    schedule_rules: str = "cascade"
    mean: Callable[[Tensor], Tensor] = _as_it_is
    last_backward: Callable[[Tensor], Tensor] = _as_it_is

    def running(self, rng: random.Random) -> tuple[Bits, ...]:
        """The bit-widths of the next step, in running order; rng draws the random ones of `sandwich`."""
        if self.pass_order == "released":
            return tuple(released_bit_widths_of_step(self.bit_schedule, self.bit_widths, self.teachers, rng))
        return tuple(bit_widths_of_step(self.bit_schedule, self.bit_widths, rng))

    @property
    def updates_per_bit_width(self) -> bool:
        """Whether a step updates the weights after every bit-width, not once."""
        once_more = ("sandwich",) if self.schedule_rules == "released" else ()
        return self.bit_schedule in ("high2low", "low2high", *once_more)

    @property
    def distils(self) -> bool:
        """Whether teachers take part at all."""
        return bool(self.distill_weight) and not (self.schedule_rules == "released" and self.updates_per_bit_width)

    def distill_weight_at(self, epoch: int, done: float) -> float:
        """beta in an epoch (from 0), after the share `done` of its steps.

        In the first distill_warmup epochs it rises from 0 to distill_weight with every step.
        """
        ramp = min(1.0, (epoch + done) / self.distill_warmup) if self.distill_warmup else 1.0
        return ramp * self.distill_weight

    def step(
        self,
        model: Callable[..., Tensor],
        images: Tensor,
        labels: Tensor,
        update: Callable[[], None],
        running: Sequence[Bits],
        frozen_statistics: Callable[[], AbstractContextManager] = nullcontext,
        weight: float = 1.0,
        distill_weight: float | Tensor | None = None,
    ) -> dict[Bits, Tensor]:
        """Train on one batch; returns bit-width -> L_cas of the images given, detached.

        images [B, C, H, W], labels [B]. update() applies the accumulated gradients and clears them: it is called once,
        or once per bit-width where `updates_per_bit_width`. running: as `self.running` gave them. Teachers are the
        same step's logits. Under `low2high` they have not run yet, so an extra pass without gradients makes
        them first, inside frozen_statistics(). weight: of this process's images in the mean over the processes.
        distill_weight: beta of this step, a number or a tensor [] of the logits' type and device; None: that of the
        settings.
        """
        beta = self.distill_weight if distill_weight is None else distill_weight
        of_loss = self.label_smoothing, self.distill_loss, self.distill_temperature, self.distill_reduction
        per_bit_width = self.updates_per_bit_width
        summed = 1 if per_bit_width or self.bit_schedule == "max_loss" else len(running)  # losses behind one update()
        share = 1 / summed if self.loss_reduction == "mean" else 1.0
        logits_of: dict[Bits, Tensor] = {}
        if self.bit_schedule == "low2high" and self.distils:
            with torch.no_grad(), frozen_statistics():
                taught_by = {t for bits in running for t in teachers_of(bits, running, self.teachers)}
                logits_of = {bits: model(images, num_bits=bits) for bits in sorted(taught_by, key=width_order)}
        losses: dict[Bits, Tensor] = {}
        largest = None  # (loss, the same scaled and with its graph)
        for bits in running:
            logits = model(images, num_bits=bits)
            teachers = teachers_of(bits, running, self.teachers) if self.distils else []
            taught = [logits_of[t] for t in teachers]
            loss = cascade_loss(logits, labels, taught, beta, *of_loss)
            logits_of.setdefault(bits, logits.detach())
            losses[bits] = loss.detach()
            scaled = self.loss_scale[bits] * share * weight * loss
            if self.bit_schedule == "max_loss":
                # Only the largest loss keeps its graph: at most two are alive at a time.
                of_labels = self.schedule_rules == "released"
                size = F.cross_entropy(logits.detach(), labels) if of_labels else losses[bits]
                size = self.mean(weight * size)
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
