"""Costs that add, scale and print themselves; the breakdown first, totals as sums of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from numbers import Real

import numpy as np

from hw_model.device import Device
from hw_model.energy import mac_rate
from hw_model.layer import TENSORS, Layer
from hw_model.tables import Scratch, word_bits
from hw_model.widths import Widths


@dataclass(frozen=True)
class Traffic:
    """Words one tensor moves at one place, and their energy.

    reads: out of the level; fills: from the level above; updates: outputs from below; drains: outputs read out on their
    way up, one per word updated above. At the network: fills = words sent down to the PEs, drains = words sent up.
    """

    reads: float = 0
    fills: float = 0
    updates: float = 0
    drains: float = 0
    energy_pj: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Traffic:
        return Traffic(*(getattr(self, f.name) * times for f in fields(self)))

    def to_dict(self) -> dict:
        """Counts in words, energy in joules."""
        counts = {name: getattr(self, name) for name in ("reads", "fills", "updates", "drains")}
        return {**counts, "energy_j": self.energy_pj * 1e-12}


@dataclass(frozen=True)
class Cost:
    """Cost of a layer, or of several run one after another (`a + b`, `3 * a`, `sum(costs)`).

    macs: of the layers, charged; padded_macs: steps of the loops, overshoot included, which cost time only;
    levels: {level: {tensor: Traffic}}, all zero where a level does not hold a tensor; noc: {tensor: Traffic};
    mac_energy_pj; idle_energy_pj: clock, control, leakage; drain_energy_pj: the part of the level energy that reading
    out drains takes; active_pe_cycles, peak_macs: PEs in use, and MACs possible, summed over cycles.
    """

    cycles: float = 0
    latency_s: float = 0.0
    energy_pj: float = 0.0
    macs: float = 0
    padded_macs: float = 0
    mac_energy_pj: float = 0.0
    idle_energy_pj: float = 0.0
    drain_energy_pj: float = 0.0
    active_pe_cycles: float = 0
    peak_macs: float = 0
    levels: dict[str, dict[str, Traffic]] = field(default_factory=dict)
    noc: dict[str, Traffic] = field(default_factory=dict)

    @property
    def energy_j(self) -> float:
        """Energy in joules, drains included."""
        return self.energy_pj * 1e-12

    @property
    def energy_without_drains_j(self) -> float:
        """Energy in joules when drains are not charged, as Timeloop counts."""
        return (self.energy_pj - self.drain_energy_pj) * 1e-12

    @property
    def edp_js(self) -> float:
        """Energy-delay product: energy (J) times latency (s)."""
        return self.energy_j * self.latency_s

    @property
    def active_pes(self) -> float:
        """PEs in use, the mean over cycles when several layers were added."""
        return _whole(self.active_pe_cycles / self.cycles) if self.cycles else 0

    @property
    def utilisation(self) -> float:
        """MACs of the layers / MACs the whole array could have done in these cycles."""
        return self.macs / self.peak_macs if self.peak_macs else 0.0

    def __add__(self, other: Cost | int) -> Cost:
        if isinstance(other, int) and other == 0:  # the start value of sum()
            return self
        if not isinstance(other, Cost):
            return NotImplemented
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        levels = {
            name: _added(self.levels.get(name, {}), other.levels.get(name, {}))
            for name in {**self.levels, **other.levels}
        }
        return Cost(**numbers, levels=levels, noc=_added(self.noc, other.noc))

    __radd__ = __add__

    def __mul__(self, times: float) -> Cost:
        if not isinstance(times, Real) or isinstance(times, bool):
            return NotImplemented
        numbers = {name: getattr(self, name) * times for name in _NUMBERS}
        levels = {name: {t: part * times for t, part in parts.items()} for name, parts in self.levels.items()}
        return Cost(**numbers, levels=levels, noc={t: part * times for t, part in self.noc.items()})

    __rmul__ = __mul__

    def to_dict(self) -> dict:
        """The JSON of `python -m hw_model --json`: counts in words, energy in joules, time in seconds."""
        return {
            "valid": True,
            "cycles": self.cycles,
            "latency_s": self.latency_s,
            "energy_j": self.energy_j,
            "edp_js": self.edp_js,
            "macs": self.macs,
            "padded_macs": self.padded_macs,
            "active_pes": self.active_pes,
            "utilisation": self.utilisation,
            "energy_without_drains_j": self.energy_without_drains_j,
            "levels": {name: {t: part.to_dict() for t, part in parts.items()} for name, parts in self.levels.items()},
            "noc": {
                **{t: {"down": p.fills, "up": p.drains, "energy_j": p.energy_pj * 1e-12} for t, p in self.noc.items()},
                "energy_j": sum(part.energy_pj for part in self.noc.values()) * 1e-12,
            },
            "mac": {"count": self.macs, "energy_j": self.mac_energy_pj * 1e-12},
            "idle": {"energy_j": self.idle_energy_pj * 1e-12},
        }

    def __str__(self) -> str:
        head = f"{'':10}{'':3}" + "".join(f"{name:>16}" for name in ("reads", "fills", "updates", "drains"))
        lines = [head + f"{'energy, uJ':>14}{'share':>8}"]
        for name, parts in {**self.levels, "noc": self.noc}.items():
            for tensor, part in parts.items():
                counts = [part.reads, part.fills, part.updates, part.drains]
                if not any(counts):
                    continue  # the level does not hold this tensor
                lines.append(
                    f"{name:10}{tensor:3}" + "".join(f"{n:16,.0f}" for n in counts) + self._share(part.energy_pj)
                )
        lines.append(f"{'mac':13}{self.macs:16,.0f}{'':48}" + self._share(self.mac_energy_pj))
        if self.idle_energy_pj:
            lines.append(f"{'idle power':77}" + self._share(self.idle_energy_pj))
        lines.append(f"{'total':77}" + self._share(self.energy_pj))
        lines.append(
            f"{self.cycles:,.0f} cycles, {self.latency_s * 1e3:.6g} ms, {self.energy_j * 1e6:.6g} uJ, "
            f"EDP {self.edp_js:.6g} J*s, {self.macs:,.0f} MACs, {self.active_pes:g} active PEs, "
            f"utilisation {self.utilisation:.1%}"
        )
        return "\n".join(lines)

    def _share(self, energy_pj: float) -> str:
        share = energy_pj / self.energy_pj if self.energy_pj else 0.0
        return f"{energy_pj * 1e-6:14.5g}{share:8.1%}"


_NUMBERS = tuple(f.name for f in fields(Cost) if f.name not in ("levels", "noc"))


def cost_from_arrays(layer: Layer, device: Device, bits: Widths, work: Scratch, total_pj: float, cycles: int) -> Cost:
    """The Cost in the kernel's arrays."""
    n_levels = len(device.levels)
    counters, network, energy_pj = work.counters, work.network, work.energy
    levels = {}
    for index, level in enumerate(device.levels):
        levels[level.name] = {
            tensor: Traffic(reads, fills, updates, drains, energy)
            for tensor, (reads, fills, updates, drains), energy in zip(
                TENSORS, counters[index].tolist(), energy_pj[index].tolist(), strict=True
            )
        }
    noc = {
        "W": Traffic(fills=int(network[0]), energy_pj=float(energy_pj[n_levels, 0])),
        "I": Traffic(fills=int(network[1]), energy_pj=float(energy_pj[n_levels, 1])),
        "O": Traffic(fills=int(network[3]), drains=int(network[2]), energy_pj=float(energy_pj[n_levels, 2])),
    }
    per_cycle = mac_rate(device.mac, bits)
    return Cost(
        cycles=int(cycles),
        latency_s=int(cycles) / (device.clock_mhz * 1e6),
        energy_pj=float(total_pj),
        macs=layer.macs,
        padded_macs=int(np.prod(work.tiles[0])),
        mac_energy_pj=float(energy_pj[n_levels + 1, 0]),
        idle_energy_pj=float(energy_pj[n_levels + 2, 0]),
        drain_energy_pj=_drain_energy_pj(device, bits, levels, layer.words("O")),
        active_pe_cycles=math.prod(work.fan.tolist()) * int(cycles),
        peak_macs=_whole(int(cycles) * device.pes * device.lanes * per_cycle[0] / per_cycle[1]),
        levels=levels,
        noc=noc,
    )


def _drain_energy_pj(device: Device, bits: Widths, levels: dict, outputs: int) -> float:
    width = word_bits(device, bits)
    total = 0.0
    for level in device.levels:
        drains = levels[level.name]["O"].drains
        if drains:
            moved_bits = (drains - outputs) * width["O"] + outputs * width["final"]
            total += moved_bits * level.read_energy_pj_per_bit["O"]
    return total


def _added(one: dict[str, Traffic], other: dict[str, Traffic]) -> dict[str, Traffic]:
    return {tensor: one.get(tensor, Traffic()) + other.get(tensor, Traffic()) for tensor in {**one, **other}}


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value
