"""Statistics of a training batch over the parts that all processes have of it: batch norms' and activation ranges'.

Put into a network from outside: `model = synchronised(model, processes)`. What it replaces are strategies that modules
carry as attributes: `normalise` of a batch norm, `measure` of a quantizer that takes its range from the batch, `agree`
of one that begins with what the first batch shows.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from instantnet.engine.distributed import Processes

Model = TypeVar("Model", bound=nn.Module)
Measure = Callable[[Tensor, int | None], tuple[Tensor, Tensor]]


def synchronised(model: Model, processes: Processes, wanted: bool = True) -> Model:
    """`model`, which normalises and quantizes by the batch of all processes; changed in place. One process: as it is.
    Not `wanted` (the setting sync_bn): its learned steps begin the same in all processes, the rest is as it was."""
    module: Any
    if processes.alone:
        return model
    for module in model.modules():
        if hasattr(module, "agree"):
            module.agree = mean_of_all
    if not wanted:
        return model
    for module in model.modules():
        if hasattr(module, "normalise"):
            module.normalise = batch_norm
        elif getattr(module, "of_batch", False):
            module.measure = RangeOfAll(module.measure)
    return model


def mean_of_all(measured: Tensor) -> Tensor:
    """The mean of the processes' tensors."""
    total = measured.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class RangeOfAll:
    """`measure`, then the least low and the greatest high of all processes."""

    def __init__(self, measure: Measure):
        self.measure = measure

    def __call__(self, x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
        low, high = self.measure(x, axis)
        bounds = torch.stack([-low, high])
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        return -bounds[0], bounds[1]


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, record: bool) -> Tensor:
    """x [B, C, H, W] normalised as `norm` would the batch of all processes; record: its running statistics too."""
    y, mean, variance, count = _BatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
    if record:
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return y


class _BatchNorm(torch.autograd.Function):
    """Returns y, and mean [C], variance [C] (population) and number of elements per channel [1] over all processes."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        ctx.dtype = x.dtype
        x = x.to(weight.dtype)  # under autocast it comes in bfloat16
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        own = torch.cat([mean, variance, mean.new_tensor([x.numel() / x.shape[1]])])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        means, variances, counts = torch.stack(parts).split([len(mean), len(mean), 1], dim=1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        inverse_std = (variance + eps).rsqrt()
        normalised = (x - _per_channel(mean)).mul_(_per_channel(inverse_std))
        ctx.save_for_backward(normalised, weight, inverse_std, count)
        ctx.mark_non_differentiable(mean, variance, count)
        y = normalised * _per_channel(weight) + _per_channel(bias)
        return y.to(ctx.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        normalised, weight, inverse_std, count = ctx.saved_tensors
        gradient = gradient.to(weight.dtype)
        to_bias = gradient.sum((0, 2, 3))
        to_weight = (gradient * normalised).sum((0, 2, 3))
        over_all = torch.cat([to_bias, to_weight])
        dist.all_reduce(over_all)  # the mean and the variance of every process depend on each one's images
        from_mean, from_variance = (over_all / count).chunk(2)
        to_x = gradient - _per_channel(from_mean) - normalised * _per_channel(from_variance)
        # Those of weight and bias stay this process's own: they are summed with all other gradients.
        return to_x.mul_(_per_channel(weight * inverse_std)).to(ctx.dtype), to_weight, to_bias, None


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
