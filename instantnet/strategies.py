"""How a network runs, put in from outside: device and memory format, torch.compile, mixed precision, CUDA graphs."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from instantnet.engine.graph import StepGraph
from instantnet.quantize import SwitchableNetwork
from instantnet.widths import Bits

Model = TypeVar("Model", bound=nn.Module)


def placed(model: Model, device: torch.device, channels_last: bool) -> Model:
    """`model` on `device`, its weights in the memory format asked for (activations take after the weights)."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model  # type: ignore[call-overload]


def compiled(model: SwitchableNetwork, wanted: bool, backend: str = "inductor") -> Callable[..., Tensor]:
    """`model`, a `SwitchableNetwork`, as called in training, by torch.compile: one graph per region and bit-width.

    It compiles in place, so names of weights stay. The first pass at a bit-width that records ranges runs uncompiled,
    because it reads from the device whether there are any. So does every call of `model` itself, as in validation and
    recalibration. Returns `model` where not wanted.
    """
    if not wanted:
        return model
    regions = model.regions()
    for region in regions:
        region.compile(backend=backend, dynamic=False)
    # One graph per bit-width, and others for frozen weights, frozen statistics and a smaller last batch. Regions of one
    # class count together. Beyond the limit torch silently runs the rest uncompiled.
    graphs = 8 * len(model.precision.bit_widths) * len(regions)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, graphs)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, graphs)
    torch.compiler.set_stance("force_eager")
    known: set[Bits] = set()

    def run(images: Tensor, num_bits: Bits) -> Tensor:
        if num_bits not in known:
            known.update([num_bits] if model.precision.track_statistics else [])
            return model(images, num_bits=num_bits)
        with torch.compiler.set_stance("default"):
            return model(images, num_bits=num_bits)

    return run


def recorded(
    step: Callable[..., Any], wanted: bool, optimizer: torch.optim.Optimizer | None = None
) -> Callable[..., Any]:
    """`step` by CUDA graphs (`engine.graph.StepGraph`), where `wanted`. optimizer: whose step is inside."""
    return StepGraph(step, optimizer) if wanted else step


def autocasted(model: Callable[..., Tensor], mixed_precision: str, device: torch.device) -> Callable[..., Tensor]:
    """`model` as called in training. Under `bfloat16` its convolutions and matrix products run in that format (8
    significant bits); master weights, quantizers, statistics and logits stay float32. `none`: `model` itself."""
    if mixed_precision == "none":
        return model

    def run(images: Tensor, num_bits: Bits) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return model(images, num_bits=num_bits).float()

    return run
