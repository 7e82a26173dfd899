"""The supernet: every layer runs all candidate operations and mixes them by weights drawn from alpha."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from instantnet.operations import OPERATIONS, Backbone, Geometry
from instantnet.quantize import Precision


class MixedOp(nn.Module):
    """All candidates of one layer; output = sum over them of weight * operation(x)."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision):
        super().__init__()
        self.candidates = nn.ModuleList(build(c_in, c_out, stride, precision) for build in OPERATIONS.values())

    def forward(self, x: Tensor, op_weights: Tensor, paths: Sequence[int] | None = None) -> Tensor:
        """x [B, C_in, H, W]; op_weights [operations]; paths: the candidates that run, None = all."""
        weights = op_weights.unbind()
        running = range(len(weights)) if paths is None else paths
        return sum(weights[i] * self.candidates[i](x) for i in running)


class Supernet(Backbone):
    """The network of all candidates. alpha [layers, operations] holds the architecture's logits.

    A pass mixes by `op_weights` [layers, operations], as `sample` last drew them: one draw serves every bit-width of a
    step. None = noise-free, softmax(alpha / temperature). `noise_per_forward` (released code): each pass draws anew.
    skip_flops "released": count a strided skip at stride 1, as the released code does. sample_paths: only so many
    candidates of a layer run, drawn by `path_weights`; 0 = all.
    """

    def __init__(
        self,
        geometry: Geometry,
        precision: Precision,
        sample_func: str = "gumbel_softmax",
        skip_flops: str = "exact",
        sample_paths: int = 0,
    ):
        super().__init__(geometry, precision, [MixedOp(*shape, precision) for shape in geometry.layers()])
        self.alpha = nn.Parameter(torch.full((geometry.num_layers, len(OPERATIONS)), 1e-3))
        self.sample_func = sample_func
        self.sample_paths = 0 if sample_paths >= len(OPERATIONS) else sample_paths
        self.noise_per_forward = False
        self.temperature = 1.0
        self.generator = torch.Generator()  # of the Gumbel noise; on the CPU, so that every device draws the same
        self.op_weights: Tensor | None = None
        self._drawn: tuple[Tensor, Tensor | None] | None = None  # what `_mixed` gave for the op_weights drawn last
        self._paths: tuple[Tensor | None, list[list[int] | None]] = None, []  # op_weights, and which of them are not 0
        self.flops_table: Tensor
        self.register_buffer("flops_table", self._flops_of_candidates(skip_flops), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        op_weights, _ = self._weights_of_pass()
        paths = self._paths_of(op_weights)
        x = self.stem(x)
        for cell, weights, running in zip(self.cells, op_weights.unbind(), paths, strict=True):
            x = cell(x, weights, running)
        return self.classifier(torch.mean(self.header(x), dim=(2, 3)))

    def layers(self) -> list[MixedOp]:
        """The searched layers."""
        return [cell for cell in self.cells if isinstance(cell, MixedOp)]

    def regions(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one: layers of equal shape share a graph, the whole network's would
        take an hour. Where only some candidates run, each candidate: which ones run must not be part of a graph."""
        layers = [op for cell in self.layers() for op in cell.candidates] if self.sample_paths else list(self.cells)
        return [self.stem, *layers, self.header]

    @contextmanager
    def mixing_by(self, op_weights: Tensor) -> Iterator[None]:
        """Within it passes mix by `op_weights` [layers, operations] instead of those drawn."""
        before, self.op_weights = self.op_weights, op_weights
        try:
            yield
        finally:
            self.op_weights = before

    def drawn(self) -> Tensor:
        """The op_weights that `sample` drew last."""
        assert self.op_weights is not None, "sample() comes first"
        return self.op_weights

    def sample(self) -> None:
        """Draw op_weights: softmax((alpha + Gumbel noise) / temperature) per layer, differentiable in alpha; where
        sample_func is "softmax" without the noise."""
        logits: Tensor = self.alpha
        if self.sample_func == "gumbel_softmax":
            uniform = torch.rand(logits.shape, generator=self.generator).clamp_(1e-20, 1 - 1e-7)
            logits = logits - torch.log(-torch.log(uniform)).to(logits.device, non_blocking=True)
        self._drawn = self._mixed(logits)
        self.op_weights = self._drawn[0]

    def expected_flops(self) -> Tensor:
        """L_eff: FLOPs for one image, every candidate counted by its weight; a scalar, differentiable in alpha.

        Where only some candidates run, all are counted still, by the weights they would have: that costs nothing.
        """
        return self.ends_flops() + (self.counted_weights() * self.flops_table).sum()

    def counted_weights(self) -> Tensor:
        """[layers, operations]: by which L_eff counts the candidates, differentiable in alpha."""
        op_weights, probabilities = self._weights_of_pass()
        return op_weights if probabilities is None else probabilities

    def derived_ops(self) -> list[str]:
        """The most probable operation of every layer."""
        return [list(OPERATIONS)[i] for i in self.alpha.argmax(dim=-1).tolist()]

    def derived_flops(self, ops: Sequence[str] | None = None) -> int:
        """FLOPs for one image of the network of these operations, or of `derived_ops`."""
        chosen = [list(OPERATIONS).index(op) for op in ops or self.derived_ops()]
        return self.ends_flops() + int(self.flops_table[torch.arange(len(chosen)), chosen].sum())

    def flops_range(self) -> tuple[int, int]:
        """FLOPs for one image of the smallest and of the largest network of the search space."""
        low, high = self.flops_table.aminmax(dim=1)
        return self.ends_flops() + int(low.sum()), self.ends_flops() + int(high.sum())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but alpha."""
        return [parameter for parameter in self.parameters() if parameter is not self.alpha]

    def _weights_of_pass(self) -> tuple[Tensor, Tensor | None]:
        if self.noise_per_forward:
            self.sample()
        if self.op_weights is None:
            return self._mixed(self.alpha)
        if self._drawn is not None and self._drawn[0] is self.op_weights:
            return self._drawn
        return self.op_weights, None

    def _mixed(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """(op_weights, None), or where only some candidates run (op_weights, the weights with all of them)."""
        weights = torch.softmax(logits / self.temperature, dim=-1)
        return (path_weights(weights, self.sample_paths), weights) if self.sample_paths else (weights, None)

    def _paths_of(self, op_weights: Tensor) -> list[list[int] | None]:
        """Per layer the candidates that run; read from the device once per draw."""
        if not self.sample_paths:
            return [None] * len(op_weights)
        if self._paths[0] is not op_weights:
            rows = (op_weights.detach() != 0).tolist()
            self._paths = op_weights, [[i for i, runs in enumerate(row) if runs] for row in rows]
        return self._paths[1]

    def _flops_of_candidates(self, skip_flops: str) -> Tensor:
        """[layers, operations], float64: counts stay exact."""
        name = "flops_as_released" if skip_flops == "released" else "flops"
        sizes = list(self.geometry.layer_sizes())[:-1]

        def flops(op: nn.Module, size: tuple[int, int]) -> int:
            count: Any = getattr(op, name, None) or op.flops
            return count(*size)

        cells = zip(self.layers(), sizes, strict=True)
        rows = [[flops(op, size) for op in cell.candidates] for cell, size in cells]
        return torch.tensor(rows, dtype=torch.float64)


def path_weights(weights: Tensor, paths: int) -> Tensor:
    """op_weights of which all but the `paths` largest of every layer are 0; weights [layers, operations], softmax.

    Of a Gumbel-softmax the largest are a sample without replacement from softmax(alpha) (Gumbel top-k, Kool et al.
    2019). One path runs with weight 1, its gradient is that of its soft weight (straight-through Gumbel-softmax, Jang
    et al. 2017, evaluating the sampled path only as GDAS, Dong and Yang 2019). Several share the weight 1 as their soft
    weights stand to each other, with the exact gradient of that (two paths: the rule of ProxylessNAS, Cai et al. 2019).
    """
    chosen = torch.zeros_like(weights).scatter_(1, weights.topk(paths, dim=1).indices, 1.0)
    if paths == 1:
        return chosen * (1 + (weights - weights.detach()))
    kept = weights * chosen
    return kept / kept.sum(dim=1, keepdim=True)


def one_hot(ops: Sequence[str]) -> Tensor:
    """op_weights [layers, operations] of a supernet that runs exactly `ops`."""
    names = list(OPERATIONS)
    return torch.nn.functional.one_hot(torch.tensor([names.index(op) for op in ops]), len(names)).float()
