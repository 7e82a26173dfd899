"""Networks: layers one after another on the whole array, or as a pipeline of stages on parts of it.

The cost of a network is made of the costs of its layers (`evaluate`). A mapper finds the best mappings and mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hw_model.cost import Cost
from hw_model.device import Device, Level
from hw_model.errors import InputError, shown


@dataclass(frozen=True)
class NetworkCost:
    """Cost of one input through a network.

    mode: "multi-cycle" or "pipeline"; stages: one cost per stage (multi-cycle: one stage); total: their sum, with the
    latency and cycles of one input from start to end; interval_s: time between two results when inputs keep coming.
    """

    mode: str
    stages: tuple[Cost, ...]
    total: Cost
    interval_s: float

    @property
    def energy_j(self) -> float:
        """Joules per input."""
        return self.total.energy_j

    @property
    def latency_s(self) -> float:
        """Seconds from an input to its result: the sum of the stages."""
        return self.total.latency_s

    @property
    def edp_js(self) -> float:
        """Energy of one input times its latency."""
        return self.total.edp_js

    def to_dict(self) -> dict:
        """As Cost.to_dict, with mode, interval_s, and each stage's latency and energy."""
        stages = [{"latency_s": s.latency_s, "energy_j": s.energy_j, "cycles": s.cycles} for s in self.stages]
        return {**self.total.to_dict(), "mode": self.mode, "interval_s": self.interval_s, "stages": stages}

    def __str__(self) -> str:
        lines = [str(self.total)]
        if self.mode == "pipeline":
            lines += [
                f"stage {index}: {stage.latency_s * 1e3:.6g} ms, {stage.energy_j * 1e6:.6g} uJ"
                for index, stage in enumerate(self.stages)
            ]
        return "\n".join([*lines, f"{self.mode}, interval {self.interval_s * 1e3:.6g} ms"])


def multi_cycle(costs: Sequence[Cost]) -> NetworkCost:
    """Layers one after another on the whole array: the next input starts when the last layer is done.

    Raises:
        InputError: no costs.
    """
    if not costs:
        raise InputError("network: expected the cost of at least one layer")
    total = sum(costs, Cost())
    return NetworkCost("multi-cycle", (total,), total, total.latency_s)


def pipeline(stages: Sequence[Sequence[Cost]]) -> NetworkCost:
    """Stages of consecutive layers that work at once on different inputs, each on its part of the device.

    Args:
        stages: per stage the costs of its layers, evaluated on that stage's part (`partition`).

    Latency is the sum of the stages, the interval the slowest of them. Outputs pass between stages through DRAM, as the
    layers' own costs charge it. utilisation is of each part's own PEs while its stage works.

    Raises:
        InputError: no stages, or one without layers.
    """
    if not stages or not all(stages):
        raise InputError("network: expected stages with at least one layer each")
    sums = tuple(sum(costs, Cost()) for costs in stages)
    return NetworkCost("pipeline", sums, sum(sums, Cost()), max(stage.latency_s for stage in sums))


def partition(device: Device, columns: Sequence[int]) -> list[Device]:
    """Parts of a device for the stages of a pipeline: columns of the array and that share of buffers and bandwidth.

    Args:
        device: the whole device.
        columns: PEs along x for each stage; together at most the array's.

    Every chip-wide buffer, every chip-wide bandwidth, the DRAM's too, and the idle power is split in proportion to the
    columns, buffers rounded down to whole bits; what is inside a PE stays as it is.

    Raises:
        InputError: no columns, a stage without any, more than there are, or a buffer that splits to nothing.
    """
    width, height = device.array
    for count in columns:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"pipeline: expected whole columns of PEs, 1 or more per stage, got {shown(count)}")
    if not columns or sum(columns) > width:
        raise InputError(f"pipeline: expected 1 to {width} columns of PEs in all, got {sum(columns)}")
    if len(columns) == 1 and columns[0] == width:
        return [device]
    return [
        replace(
            device,
            name=f"{device.name}, {count} of {width} columns",
            array=(count, height),
            idle_power_mw=device.idle_power_mw * count / width,
            levels=tuple(_share(level, count, width) for level in device.levels),
        )
        for count in columns
    ]


def _share(level: Level, count: int, of: int) -> Level:
    if level.in_pe:
        return level
    partitions = tuple((tensors, size * count // of) for tensors, size in level.partitions)
    if any(size < 1 for _, size in partitions):
        raise InputError(f"pipeline: {level.name} splits to nothing at {count} of {of} columns")
    return replace(
        level,
        partitions=partitions,
        read_bandwidth_bits_per_cycle=level.read_bandwidth_bits_per_cycle * count / of,
        write_bandwidth_bits_per_cycle=level.write_bandwidth_bits_per_cycle * count / of,
    )
