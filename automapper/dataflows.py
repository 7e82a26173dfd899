"""The dataflows people build accelerators for, as constraints on a mapping.

* row_stationary: Eyeriss (Chen, Emer, Sze, ISCA 2016). Filter rows lie along the array's height, output rows along its
  width, a filter row stays in a PE and slides over an output row.
* weight_stationary: NVDLA, TPU (Jouppi et al., ISCA 2017). PEs hold different weights and keep them while everything
  that uses them streams past.
* output_stationary: ShiDianNao (Du et al., ISCA 2015). PEs hold different outputs and keep them until they are
  finished.

All of them keep every tensor at every level that holds it. A dataflow's cost is that of the best
mapping found inside its constraints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hw_model import DIMS, TENSORS, Device, Layer

ALL = "NGKCPQRS"
WEIGHT, REDUCTION = "GKCRS", "CRS"


@dataclass(frozen=True)
class Dataflow:
    """x, y, pe: dimensions that the array's width, its height and the memories in a PE may loop over; inside:
    dimensions that run inside all others at every level outside the PEs; least: (slot, dimension) that takes the whole
    dimension wherever it fits."""

    x: str = ALL
    y: str = ALL
    pe: str = ALL
    inside: str = ""
    least: tuple[tuple[str, str], ...] = field(default=())


FREE = Dataflow()
DATAFLOWS = {
    "row_stationary": Dataflow(x="PKCGN", y="RKCGN", pe="SKC", inside="Q", least=(("spatial_y", "R"), ("pe", "S"))),
    "weight_stationary": Dataflow(x=WEIGHT, y=WEIGHT, pe=WEIGHT, inside="NPQ"),
    "output_stationary": Dataflow(x="NGKPQ", y="NGKPQ", inside=REDUCTION),
}


@dataclass(frozen=True)
class Constraint:
    """allowed [slots]: bit per dimension; least [slots, 8]: smallest factors; rule [L, 8]: rank of each dimension's
    loop, lower ones outside."""

    allowed: np.ndarray
    least: np.ndarray
    rule: np.ndarray


def constraint(dataflow: Dataflow, layer: Layer, device: Device, bits: int) -> Constraint:
    """The constraint arrays of a dataflow for one layer on one device."""
    chip = device.level_names[: device.first_pe_level]
    dims = {"spatial_x": dataflow.x, "spatial_y": dataflow.y, "lanes": ALL, **dict.fromkeys(chip, ALL)}
    allowed = [sum(1 << DIMS.index(d) for d in dims.get(slot, dataflow.pe)) for slot in device.slots]
    least = np.ones((len(device.slots), 8), np.int32)
    for where, dim in dataflow.least:
        size = getattr(layer, dim)
        slot = device.level_names[-1] if where == "pe" else where
        room = device.array[where == "spatial_y"] if where != "pe" else size * _fits(layer, dim, device, bits)
        if slot in device.slots and size <= room:
            least[device.slots.index(slot), DIMS.index(dim)] = size
    rule = np.zeros((len(device.levels), 8), np.int8)
    rule[: len(chip)] = [dim in dataflow.inside for dim in DIMS]
    return Constraint(np.array(allowed), least, rule)


def _fits(layer: Layer, dim: str, device: Device, bits: int) -> bool:
    """Whether the memories in a PE hold what the whole of one dimension needs."""
    size = getattr(layer, dim)
    row = Layer(**{dim: size})
    word = {"W": bits, "I": bits, "O": max(device.psum_bits, bits)}
    for level in device.levels[device.first_pe_level :]:
        for tensors, size_bits in level.partitions:
            if sum(row.words(t) * word[t] for t in TENSORS if t in tensors) > size_bits:
                return False
    return True
