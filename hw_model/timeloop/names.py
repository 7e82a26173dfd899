"""What writer and reader of Timeloop's files share: names of tensors, steps and buffers."""

from __future__ import annotations

from hw_model.device import Device, Level
from hw_model.layer import TENSORS

DATA_SPACES = {"W": "Weights", "I": "Inputs", "O": "Outputs"}
# Timeloop's cnn-layer calls the axis of P and R its width and that of Q and S its height: rows here, columns there.
COEFFICIENTS = {"P": "Wstride", "R": "Wdilation", "Q": "Hstride", "S": "Hdilation"}
STEPS = {"P": "stride_h", "R": "dilation_h", "Q": "stride_w", "S": "dilation_w"}  # a layer's fields
NO_SHARING = "no_multicast_no_reduction"


def data_spaces(tensors: tuple[str, ...] | list[str]) -> list[str]:
    """("O", "W") -> ["Weights", "Outputs"]."""
    return [DATA_SPACES[tensor] for tensor in TENSORS if tensor in tensors]


def buffers(level: Level) -> list[tuple[str, tuple[str, ...], int | None]]:
    """(name, tensors, bits) of the Timeloop buffers a level becomes, one per capacity, outermost first."""
    if len(level.partitions) < 2:
        return [(level.name, level.holds, level.partitions[0][1] if level.partitions else None)]
    return [(f"{level.name}_{''.join(group)}", group, size) for group, size in level.partitions]


def unshared(device: Device) -> list[str]:
    """Data spaces that the network of the device neither multicasts (W, I) nor reduces (O)."""
    alone = [] if device.multicast else ["W", "I"]
    return data_spaces(alone if device.spatial_reduction else [*alone, "O"])
