"""Exponential moving average of a network's weights, kept in addition to the network that trains."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` in `.module`; each `.update_parameters(model)` moves it by new = d * old + (1 - d) * model.

    d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the first, random weights are soon forgotten (as
    TensorFlow's ExponentialMovingAverage does). BN statistics and activation ranges are averaged with the weights they
    belong to. `model` itself never sees the average.
    """
    with torch.no_grad():
        return _Average(model, decay)


class _Average(AveragedModel):
    """torch's own update sends the number of updates to the GPU and reads it back, so that every step would wait."""

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        kept = [*self.module.parameters(), *self.module.buffers()]
        newest = [*model.parameters(), *model.buffers()]
        n = int(self.n_averaged)  # on the CPU, wherever the network is
        if n == 0:
            for tensor, new in zip(kept, newest, strict=True):
                tensor.copy_(new)
        else:
            average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))
            for dtype in {tensor.dtype for tensor in kept}:
                chosen = [i for i, tensor in enumerate(kept) if tensor.dtype == dtype]
                average([kept[i] for i in chosen], [newest[i] for i in chosen], n)
        self.n_averaged += 1
