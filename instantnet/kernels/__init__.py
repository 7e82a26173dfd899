"""Kernels for training, put into a network from outside: `model = with_kernels(model)`.

No network knows of them. On a CPU a C++ file (passes.cpp) is compiled on first use, on a GPU the rounding is one kernel
of Triton's. Without a compiler, and for whatever the kernels do not serve (evaluation, other types than float32,
autocast), the plain path runs.
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
    """`model`, trained by kernels; changed in place, with the same parameters, buffers and names.

    quantizers: ranges (CPU) and rounding in one pass over memory each, bit-equal.
    layers: on a CPU batch norm, ReLU and quantizer as one, and the gradient of depth-wise 5x5 weights; the last
        digits of float32 differ. Bounds: docs/training.md.

    Where there is no C++ compiler a network on the CPU stays as it is; that is a warning.
    """
    module: Any
    devices = {parameter.device.type for parameter in model.parameters()}
    if devices == {"cuda"} and quantizers:
        from instantnet.kernels import cuda  # here: Triton takes half a second to load

        for module in model.modules() if cuda.available() else ():
            if getattr(module, "rounding", None) is rounded:
                module.rounding = cuda.rounded
    if not (quantizers or layers) or not devices <= {"cpu"} or shared_library() is None:
        return model
    for module in model.modules():
        if quantizers and getattr(module, "measure", None) is min_max:
            module.measure = quantize.min_max
        if quantizers and getattr(module, "rounding", None) is rounded:
            module.rounding = quantize.rounded
        if layers and type(module) is ConvBlock:
            module.__class__ = KernelConvBlock  # same parameters and buffers, another forward
    return model
