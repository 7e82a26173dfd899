"""Kernels for training on a CPU, put into a network from outside: `model = with_kernels(model)`.

No network knows of them. A C++ file (passes.cpp) is compiled on first use; without a compiler, and for whatever the
kernels do not serve (evaluation, GPUs, other types than float32, autocast), the plain path runs.
"""

from typing import Any, TypeVar

from torch import nn

from instantnet.kernels import quantize
from instantnet.kernels.block import KernelConvBlock
from instantnet.kernels.library import shared_library
from instantnet.operations import ConvBlock
from instantnet.quantizers.minmax import min_max, rounded

Model = TypeVar("Model", bound=nn.Module)


def with_kernels(model: Model, quantizers: bool = True, layers: bool = True) -> Model:
    """`model`, trained by kernels on a CPU; changed in place, with the same parameters, buffers and names.

    quantizers: ranges and rounding in one pass over memory each, bit-equal.
    layers: batch norm, ReLU and quantizer as one operation, and the gradient of depth-wise 5x5 weights; the last digits
        of float32 differ. Bounds: docs/training.md.

    A network on a GPU stays as it is. So does any where there is no C++ compiler; that is a warning.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not (quantizers or layers) or not on_cpu or shared_library() is None:
        return model
    module: Any
    for module in model.modules():
        if quantizers and getattr(module, "measure", None) is min_max:
            module.measure = quantize.min_max
        if quantizers and getattr(module, "rounding", None) is rounded:
            module.rounding = quantize.rounded
        if layers and type(module) is ConvBlock:
            module.__class__ = KernelConvBlock  # same parameters and buffers, another forward
    return model
