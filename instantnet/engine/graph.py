"""A training step as one CUDA graph: recorded once, then replayed by a single launch.

A step of switchable precision starts thousands of small kernels, and a GPU that waits for them idles. `StepGraph` is
put around a step from outside; the step itself knows nothing of it.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Outputs = Any
"""A tensor, or a dictionary or tuple of them."""

WARM_UP = 2
"""Calls that run as they come before one is recorded: what a first step makes (momentum, running ranges, workspaces of
libraries) must be there, because a graph repeats what it recorded."""


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Outputs


class StepGraph:
    """`step(*arguments)` by CUDA graphs: the same computation, its launches recorded.

    Tensors among the arguments are copied into the graph's own, floats into tensors [] (float32). Everything else is a
    constant of a graph, so that each combination of shapes and of other arguments (they must be hashable) has one. The
    step must not read from the device, nor depend on anything else that changes on the host. Outputs are copies.

    optimizer: whose step is inside, if one is. Its learning rates stay numbers in its groups; a graph reads them
    from tensors, which every call fills.
    """

    def __init__(self, step: Callable[..., Outputs], optimizer: torch.optim.Optimizer | None = None):
        self.step = step
        self._rates = _DeviceRates(optimizer)
        self._calls: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, _Recorded] = {}
        self._memory: Any = None  # one pool for all graphs: no two of them run at a time

    def __call__(self, *arguments: Any) -> Outputs:
        key = tuple(map(_constant, arguments))
        inputs = [a for a in arguments if isinstance(a, Tensor | float)]
        recorded = self._recorded.get(key)
        if recorded is None:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM_UP:
                with self._rates.used():
                    return self.step(*arguments)
            recorded = self._recorded[key] = self._record(arguments)
        for own, given in zip(recorded.inputs, inputs, strict=True):
            _ = own.copy_(given, non_blocking=True) if isinstance(given, Tensor) else own.fill_(given)
        self._rates.fill()
        recorded.graph.replay()
        return _copied(recorded.outputs)

    def _record(self, arguments: Sequence[Any]) -> _Recorded:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        own = [_own(a, device) for a in arguments]
        graph = torch.cuda.CUDAGraph()
        self._memory = self._memory or torch.cuda.graph_pool_handle()
        with self._rates.used(), torch.cuda.graph(graph, pool=self._memory):
            outputs = self.step(*own)
        return _Recorded(graph, [a for a in own if isinstance(a, Tensor)], outputs)


class _DeviceRates:
    """An optimizer's learning rates as tensors on its device, while its step runs for a graph."""

    def __init__(self, optimizer: torch.optim.Optimizer | None):
        self.groups = optimizer.param_groups if optimizer else []
        self.optimizer = optimizer
        self.rates: list[Tensor] = []

    def fill(self) -> None:
        """Take over the rates that the groups hold."""
        for rate, group in zip(self.rates, self.groups, strict=True):
            rate.fill_(group["lr"])

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it the optimizer reads its rates from the tensors, by kernels that take them so."""
        if self.optimizer is None:
            yield
            return
        if not self.rates:
            self.rates = [torch.tensor(0.0, device=group["params"][0].device) for group in self.groups]
        self.fill()
        for group in self.groups:
            for parameter in group["params"]:
                self._complete(self.optimizer.state[parameter], group, parameter)
        before = [{name: value for name, value in group.items() if name != "params"} for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group |= {"lr": rate, "fused": True, "foreach": False}
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(self.groups, before, strict=True):
                group |= values

    @staticmethod
    def _complete(state: dict[str, Any], group: dict[str, Any], parameter: Tensor) -> None:
        """What the fused kernels need of a parameter's state."""
        if group.get("momentum") and "momentum_buffer" not in state:
            # SGD takes a parameter's first gradient for its momentum: the same as beginning with zero. Fused it wants
            # all buffers or none, but a step may run only some of the bit-widths.
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if isinstance(state.get("step"), Tensor):  # Adam's count of steps, which a checkpoint holds on the CPU
            state["step"] = state["step"].to(parameter.device)


def _constant(argument: Any) -> Hashable:
    """What must be equal for two calls to share a graph."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype
    return float if isinstance(argument, float) else argument


def _own(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, Tensor):
        return argument.detach().clone()
    return torch.full((), argument, device=device) if isinstance(argument, float) else argument


def _copied(outputs: Outputs) -> Outputs:
    if isinstance(outputs, dict):
        return {name: _copied(value) for name, value in outputs.items()}
    if isinstance(outputs, tuple):
        return tuple(map(_copied, outputs))
    return outputs.clone()


class LossGraph:
    """A scalar loss and its gradient by a `StepGraph`: loss(images, labels, x), differentiable in x alone."""

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor]):
        def value_and_gradient(images: Tensor, labels: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            value = loss(images, labels, x)
            (gradient,) = torch.autograd.grad(value, [x])
            return value.detach(), gradient

        self._graph = StepGraph(value_and_gradient)

    def __call__(self, images: Tensor, labels: Tensor, x: Tensor) -> Tensor:
        value, gradient = self._graph(images, labels, x.detach())
        return _Known.apply(x, value, gradient)


class _Known(torch.autograd.Function):
    """`value`, whose gradient by x is known already."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, of_value: Tensor):
        (gradient,) = ctx.saved_tensors
        return of_value * gradient, None, None
