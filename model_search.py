"""The supernet: every layer runs all candidate operations and mixes them by weights drawn from alpha."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fused_layers
from operations import OPERATIONS, Backbone, Geometry
from quantize import Precision


class MixedOp(nn.Module):
    """All candidates of one layer; output = sum over them of weight * operation(x)."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision):
        super().__init__()
        self.precision = precision
        self.candidates = nn.ModuleList(build(c_in, c_out, stride, precision) for build in OPERATIONS.values())

    def forward(self, x: Tensor, op_weights: Tensor) -> Tensor:
        """x [B, C_in, H, W]; op_weights [operations]."""
        if self.training and fused_layers.usable(x, self.precision):
            return fused_layers.mixture(self.candidates, x, op_weights)
        return sum(
            weight * candidate(x) for weight, candidate in zip(op_weights.unbind(), self.candidates, strict=True)
        )


class Supernet(Backbone):
    """The network of all candidates. alpha [layers, operations] holds the architecture's logits.

    A pass mixes by `op_weights` [layers, operations], as `sample` last drew them: one draw serves every bit-width of a
    step. None = noise-free, softmax(alpha / temperature). `noise_per_forward` (released code): each pass draws anew.
    skip_flops "released": count a strided skip at stride 1, as the released code does.
    """

    def __init__(
        self, geometry: Geometry, precision: Precision, sample_func: str = "gumbel_softmax", skip_flops: str = "exact"
    ):
        super().__init__(geometry, precision, [MixedOp(*shape, precision) for shape in geometry.layers()])
        self.alpha = nn.Parameter(torch.full((geometry.num_layers, len(OPERATIONS)), 1e-3))
        self.sample_func = sample_func
        self.noise_per_forward = False
        self.temperature = 1.0
        self.generator = torch.Generator()  # of the Gumbel noise; on the CPU, so that every device draws the same
        self.op_weights: Tensor | None = None
        self.register_buffer("flops_table", self._flops_of_candidates(skip_flops), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell, op_weights in zip(self.cells, self._weights_of_pass().unbind(), strict=True):
            x = cell(x, op_weights)
        return self.classifier(torch.mean(self.header(x), dim=(2, 3)))

    def sample(self) -> None:
        """Draw op_weights: softmax((alpha + Gumbel noise) / temperature) per layer, differentiable in alpha; where
        sample_func is "softmax" without the noise."""
        logits = self.alpha
        if self.sample_func == "gumbel_softmax":
            uniform = torch.rand(logits.shape, generator=self.generator).clamp_(1e-20, 1 - 1e-7)
            logits = logits - torch.log(-torch.log(uniform)).to(logits.device)
        self.op_weights = torch.softmax(logits / self.temperature, dim=-1)

    def expected_flops(self) -> Tensor:
        """L_eff: FLOPs for one image, every candidate counted by its weight; a scalar, differentiable in alpha."""
        return self.ends_flops() + (self._weights_of_pass() * self.flops_table).sum()

    def derived_ops(self) -> list[str]:
        """The most probable operation of every layer."""
        return [list(OPERATIONS)[i] for i in self.alpha.argmax(dim=-1).tolist()]

    def derived_flops(self) -> int:
        """FLOPs for one image of the network of `derived_ops`."""
        return self.ends_flops() + int(self.flops_table.gather(1, self.alpha.argmax(dim=-1, keepdim=True)).sum())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but alpha."""
        return [parameter for parameter in self.parameters() if parameter is not self.alpha]

    def _weights_of_pass(self) -> Tensor:
        if self.noise_per_forward:
            self.sample()
        return torch.softmax(self.alpha / self.temperature, dim=-1) if self.op_weights is None else self.op_weights

    def _flops_of_candidates(self, skip_flops: str) -> Tensor:
        """[layers, operations], float64: counts stay exact."""
        name = "flops_as_released" if skip_flops == "released" else "flops"
        sizes = list(self.geometry.layer_sizes())[:-1]
        rows = [
            [getattr(op, name, op.flops)(*size) for op in cell.candidates]
            for cell, size in zip(self.cells, sizes, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def one_hot(ops: Sequence[str]) -> Tensor:
    """op_weights [layers, operations] of a supernet that runs exactly `ops`."""
    names = list(OPERATIONS)
    return torch.nn.functional.one_hot(torch.tensor([names.index(op) for op in ops]), len(names)).float()
