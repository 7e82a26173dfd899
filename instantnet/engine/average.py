"""Exponential moving average of a network's weights, kept in addition to the network that trains."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` in `.module`; each `.update_parameters(model)` moves it by new = d * old + (1 - d) * model.

    d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the first, random weights are soon forgotten (as
    TensorFlow's ExponentialMovingAverage does). BN statistics and activation ranges are averaged with the weights they
    belong to. `model` itself never sees the average.
    """

    def average(kept: Tensors, newest: Tensors, updates: Tensor | int) -> None:
        n = float(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(kept, newest, updates)

    with torch.no_grad():
        return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
