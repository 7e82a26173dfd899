"""The derived network: one operation per layer, chosen by the search."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from instantnet.operations import OPERATIONS, Backbone, Geometry, Operation
from instantnet.quantize import (
    BatchNorm2d,
    Precision,
    SwitchableBatchNorm2d,
    SwitchableConv2d,
    SwitchableLinear,
    SwitchableNetwork,
)


class DerivedNetwork(Backbone):
    """ops: the operation's name for every searched layer. Raises ValueError on an unknown name or a wrong number."""

    def __init__(self, ops: Sequence[str], geometry: Geometry, precision: Precision):
        unknown = [name for name in ops if name not in OPERATIONS]
        if unknown:
            raise ValueError(f"unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}")
        if len(ops) != geometry.num_layers:
            raise ValueError(
                f"the architecture has {len(ops)} layers, num_layer_list = {list(geometry.num_layer_list)} needs "
                f"{geometry.num_layers}"
            )
        shapes = list(geometry.layers())
        super().__init__(
            geometry, precision, [OPERATIONS[op](*s, precision) for op, s in zip(ops, shapes, strict=True)]
        )
        self.ops = list(ops)

    def flops(self) -> int:
        """FLOPs for one image, from the project's own formula."""
        sizes = list(self.geometry.layer_sizes())[:-1]
        cells = cast(Sequence[Operation], self.cells)
        return self.ends_flops() + sum(cell.flops(*size) for cell, size in zip(cells, sizes, strict=True))


def profile(model: SwitchableNetwork) -> tuple[int, int]:
    """(FLOPs for one image, parameters) as thop counts them, with hooks for the quantized layers.

    model: any network whose `geometry` has the size of its images.

    The counting convention is `operations`': the classifier is left out, a batch norm costs 4 per output element.
    """
    import thop  # imported here: slow to start, and only the summary of a run needs it

    def count_convolution(module: Any, inputs, output):
        macs = output[0].numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        module.total_ops += torch.DoubleTensor([macs])

    def count_norm(module: Any, inputs, output):
        module.total_ops += torch.DoubleTensor([4 * output[0].numel()])

    def count_nothing(module: Any, inputs, output):
        module.total_ops += torch.DoubleTensor([0])

    geometry: Any = model.geometry
    hooks = {
        nn.Conv2d: count_convolution,
        SwitchableConv2d: count_convolution,
        SwitchableBatchNorm2d: count_norm,  # as a whole: its parameters are those of every bit-width
        BatchNorm2d: count_norm,
        nn.Linear: count_nothing,
        SwitchableLinear: count_nothing,
    }
    counted = copy.deepcopy(model).cpu().eval()  # thop leaves buffers behind in what it counts
    image = torch.zeros(1, 3, geometry.image_height, geometry.image_width)
    flops, parameters = thop.profile(counted, inputs=(image,), custom_ops=hooks, verbose=False)
    return int(flops), int(parameters)
