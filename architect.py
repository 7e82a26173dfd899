"""The architecture step of SP-NAS: alpha descends on held-out data, at one bit-width only.

    min_alpha  L_val(Q_b(w), alpha) + lambda * L_eff(alpha)

First order: the weights are treated as constants. Source: Fu et al., DAC 2021, equation 2, where b is the lowest
bit-width.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantnet.widths import Bits


class Architect:
    """Updates alpha by Adam.

    model: callable as model(images, num_bits=b), differentiable in alpha. bits: the bit-width that alpha is updated at.
    efficiency: L_eff, a scalar differentiable in alpha. flops_weight: lambda, per FLOP where L_eff counts these.
    alpha_step: "joint" = one Adam step on the sum; "separate" (released code) = one on the cross-entropy, then one on
    the efficiency term. mean: of a tensor over the processes that share a batch.

    loss: (images, labels) -> their cross-entropy; another function of that signature may take its place from outside.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        alpha: nn.Parameter,
        bits: Bits,
        efficiency: Callable[[], Tensor],
        learning_rate: float,
        betas: Sequence[float],
        flops_weight: float,
        alpha_step: str,
        mean: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ):
        self.model = model
        self.alpha = alpha
        self.bits = bits
        self.efficiency = efficiency
        self.flops_weight = flops_weight
        self.alpha_step = alpha_step
        self.mean = mean
        self.loss: Callable[[Tensor, Tensor], Tensor] = self.cross_entropy
        self.optimizer = torch.optim.Adam([alpha], lr=learning_rate, betas=(betas[0], betas[1]))

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        frozen_statistics: Callable[[], AbstractContextManager] = nullcontext,
        weight: float = 1.0,
    ) -> Tensor:
        """One update on held-out images [B, C, H, W], labels [B]; returns their cross-entropy, detached.

        weight: of this process's images in the mean over the processes. Nothing but alpha changes: weights receive no
        gradient, and the pass runs inside frozen_statistics().
        """
        with frozen_statistics():
            cross_entropy = self.loss(images, labels)
        shared = weight * cross_entropy
        if self.alpha_step == "joint":
            loss = shared + self.flops_weight * self.efficiency() if self.flops_weight else shared
            self._descend(loss)
        else:
            self._descend(shared)
            if self.flops_weight:
                self._descend(self.flops_weight * self.efficiency())
        return cross_entropy.detach()

    def cross_entropy(self, images: Tensor, labels: Tensor) -> Tensor:
        """Of images [B, C, H, W] and labels [B] at the bit-width of alpha: a scalar, differentiable in alpha."""
        return F.cross_entropy(self.model(images, num_bits=self.bits), labels)

    def _descend(self, loss: Tensor) -> None:
        # The two terms may share the graph of one Gumbel sample, so it outlives the first.
        (gradient,) = torch.autograd.grad(loss, [self.alpha], retain_graph=self.alpha_step == "separate")
        self.alpha.grad = self.mean(gradient).to(self.alpha.dtype)
        self.optimizer.step()
        self.alpha.grad = None


def next_flops_weight(flops_weight: float, flops: float, flops_min: float, flops_max: float) -> float:
    """lambda for the next epoch: halved where the derived network is below flops_min, doubled above flops_max; or where
    its energy, latency or EDP leaves the window of that."""
    if flops < flops_min:
        return flops_weight / 2
    return flops_weight * 2 if flops > flops_max else flops_weight
