"""What a search counts beside accuracy: FLOPs, or energy, latency and energy-delay product (EDP) on a device.

    L_eff = log(E * T),  E = E0 + sum over layers and candidates of p * e,  T = T0 + sum of p * t

p [layers, operations] are the weights that the supernet mixes by, e and t the table's energies and latencies, E0 and T0
those of stem, header and classifier. The logarithm leaves lambda without a unit. E * T of the expectations is not the
expectation of the EDP: the covariance of energy and latency under p is left out. It vanishes as p becomes one-hot, and
the derived network is evaluated exactly, by its operations' own sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from instantnet.engine.errors import UserError
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS, Geometry
from instantnet.settings.ranges import METRIC_UNITS
from instantnet.settings.stages import SearchSettings
from instantnet.widths import Bits
from instantnet.widths import in_words as bits_in_words

if TYPE_CHECKING:
    from automapper import Table

METRIC_NAMES = {"energy": "energy", "latency": "latency", "edp": "EDP"}
TABLE_FILE = ".json"


class Flops:
    """FLOPs of a supernet, for one image."""

    def __init__(self, supernet: Supernet):
        self.supernet = supernet

    def loss(self) -> Tensor:
        """L_eff, a scalar differentiable in alpha, of the weights that the supernet drew last."""
        return self.supernet.expected_flops()

    def derived(self, ops: Sequence[str]) -> dict[str, Any]:
        """Of the network of these operations: what arch.pt records."""
        return {"flops": self.supernet.derived_flops(ops)}

    def additive(self) -> np.ndarray:
        """[layers, operations, kinds]: what candidates cost, in kinds that add up over layers."""
        return self.supernet.flops_table.detach().cpu().double().numpy()[..., None]

    def value(self, chosen: np.ndarray) -> np.ndarray:
        """What the window is about, of networks [n, layers] of indices of operations: [n]."""
        costs = self.additive()[..., 0]
        return self.supernet.ends_flops() + costs[np.arange(len(costs)), chosen].sum(axis=1)

    def lines(self, C: SearchSettings) -> list[str]:
        """A line where the window holds no network of the search space, however alpha ends."""
        low, high = self.supernet.flops_range()
        if C.flops_min <= high and C.flops_max >= low:
            return []
        return [
            f"note: no candidate reaches the window flops_min = {C.flops_min / 1e6:g} to flops_max = "
            f"{C.flops_max / 1e6:g} MFLOPs; the smallest has {low / 1e6:.4g}, the largest {high / 1e6:.4g}"
        ]


class OnDevice:
    """Energy, latency or EDP of a supernet by a table, for one image.

    bits: those that count; of several the geometric mean does. Methods as those of `Flops`.
    """

    def __init__(self, supernet: Supernet, table: Table, metric: str, bits: Sequence[Bits]):
        self.supernet, self.table, self.metric, self.bits = supernet, table, metric, tuple(bits)
        device = supernet.alpha.device
        rows = [table.rows[width] for width in self.bits]
        entries = [[[layer[op] for op in OPERATIONS] for layer in row.layers] for row in rows]
        self.fixed = torch.tensor([row.fixed for row in rows], dtype=torch.float64, device=device)
        """[bit-widths, 2]: energy in J and latency in s of stem, header and classifier."""
        self.costs = torch.tensor(entries, dtype=torch.float64, device=device)
        """[bit-widths, layers, operations, 2]: of every candidate."""

    def loss(self) -> Tensor:
        weights = self.supernet.counted_weights().to(torch.float64)
        sums = self.fixed + (weights[None, :, :, None] * self.costs).sum((1, 2))  # [bit-widths, 2]
        return self._logarithm(sums).mean()

    def derived(self, ops: Sequence[str]) -> dict[str, Any]:
        costs = {width: self.table.cost(ops, width) for width in self.bits}
        logs = [float(self._logarithm(torch.tensor([cost], dtype=torch.float64))) for cost in costs.values()]
        of_bits = {width: {**cost._asdict(), "edp_js": cost.energy_j * cost.latency_s} for width, cost in costs.items()}
        record = {"metric": self.metric, "device": self.table.device, "value": math.exp(sum(logs) / len(logs))}
        fused = {"fuse": self.table.fuse} if self.table.fused else {}
        return {"flops": self.supernet.derived_flops(ops), "efficiency": {**record, **fused, "bits": of_bits}}

    def additive(self) -> np.ndarray:
        """Of several bit-widths the mean, each relative to its own."""
        costs = self.costs.cpu().numpy()  # [bit-widths, layers, operations, 2]
        relative = (costs / costs.mean(axis=(1, 2), keepdims=True)).mean(axis=0)
        return relative[..., {"energy": [0], "latency": [1], "edp": [0, 1]}[self.metric]]

    def value(self, chosen: np.ndarray) -> np.ndarray:
        layers = torch.arange(chosen.shape[1])
        picked = self.costs.cpu()[:, layers, torch.from_numpy(chosen)]  # [bit-widths, n, layers, 2]
        return self._logarithm(self.fixed.cpu()[:, None] + picked.sum(dim=2)).mean(dim=0).exp().numpy()

    def range(self) -> tuple[float, float]:
        """What networks of the search space can have. For one bit-width the lower end is exact, and the upper one too
        where one operation of each layer has the most energy and the most latency; otherwise both are bounds."""
        low = [self._lowest(fixed, costs) for fixed, costs in zip(self.fixed, self.costs, strict=True)]
        high = self._logarithm(self.fixed + self.costs.amax(2).sum(1))
        return math.exp(sum(low) / len(low)), math.exp(float(high.mean()))

    def lines(self, C: SearchSettings) -> list[str]:
        """What is reachable. Raises UserError where the window is not."""
        low, high = self.range()
        unit, name = METRIC_UNITS[self.metric], METRIC_NAMES[self.metric]
        at = f"{self.table.device} at {', '.join(map(bits_in_words, self.bits))}"
        least, most = C.window()
        if least > high or most < low:
            raise UserError(
                f"settings {self.metric}_min, {self.metric}_max: on {at} no network has {name} of {least:g} to "
                f"{most:g} {unit}; reachable: {low:.3e} to {high:.3e} {unit}"
            )
        how = ", layers fused within each operation" if self.table.fused else ""
        return [f"{name} on {at}{how}: networks of this space have {low:.3e} to {high:.3e} {unit}"]

    def _logarithm(self, sums: Tensor) -> Tensor:
        """[.., 2] energy and latency -> [..]: the logarithm of the metric."""
        energy, latency = torch.log(sums).unbind(-1)
        return {"energy": energy, "latency": latency, "edp": energy + latency}[self.metric]

    def _lowest(self, fixed: Tensor, costs: Tensor) -> float:
        """The logarithm of the lowest value of any network; fixed [2], costs [layers, operations, 2].

        A product of two sums is lowest at a vertex of the convex hull of all (E, T), and every vertex has the lowest
        E + s * T for some s. The layers' choices change only at the slopes between two of a layer's candidates.
        """
        rise = costs[:, :, None] - costs[:, None]  # [layers, operations, operations, 2]
        slopes = -rise[..., 0] / rise[..., 1]
        slopes = slopes[torch.isfinite(slopes) & (slopes > 0)].unique()  # sorted
        between = (slopes[:-1] * slopes[1:]).sqrt()
        ends = torch.tensor([1e-30, 1e30], dtype=slopes.dtype, device=slopes.device)
        s = torch.cat([ends, slopes[:1] / 2, between, slopes[-1:] * 2])
        chosen = (costs[None, :, :, 0] + s[:, None, None] * costs[None, :, :, 1]).argmin(2)  # [slopes, layers]
        picked = costs[torch.arange(len(costs), device=chosen.device), chosen]  # [slopes, layers, 2]
        return float(self._logarithm(fixed + picked.sum(1)).min())


def table_of(C: SearchSettings, geometry: Geometry, bits: Sequence[Bits]) -> Table | None:
    """The table that a search counts by: that of a file, or made for the device; None where it counts FLOPs.

    Raises UserError where it belongs to another network, or lacks a bit-width or an operation.
    """
    if C.efficiency_metric == "flops":
        return None
    import automapper  # imported here: a search that counts FLOPs needs no mapper

    assert C.hw_device is not None
    if C.hw_device.endswith(TABLE_FILE):
        table = automapper.read_table(C.hw_device)
        table.check_geometry(asdict(geometry), C.hw_device)
        table.check_bits(bits, C.hw_device)
    else:
        print(f"table of {C.hw_device} at {', '.join(map(bits_in_words, bits))}: searched, unless cached", flush=True)
        table = automapper.table(
            geometry, C.hw_device, bits, objective=C.efficiency_metric, budget=C.efficiency_budget,
            workers=C.num_threads,
        )  # fmt: skip
    if missing := [op for op in OPERATIONS if op not in table.operations]:
        raise UserError(f"{C.hw_device} has no operation {missing[0]}, only {', '.join(table.operations)}")
    return table


def efficiency_of(
    C: SearchSettings,
    supernet: Supernet,
    on_main: Callable[..., Table | None] = lambda function, *rest: function(*rest),
) -> Flops | OnDevice:
    """What a search counts, by its settings. on_main: calls a function on one of the processes, and gives its result to
    all. Raises UserError as `table_of`."""
    widths = supernet.precision.bit_widths
    bits = {"all": widths, "highest": widths[-1:], "lowest": widths[:1]}[C.efficiency_bits]
    table = on_main(table_of, C, supernet.geometry, bits)
    return Flops(supernet) if table is None else OnDevice(supernet, table, C.efficiency_metric, bits)


def in_words(found: dict[str, Any], unbound: dict[str, Any] | None = None) -> str:
    """Of what `derived` gives: `0.31 MFLOPs`, `0.31 MFLOPs, EDP 8.621e-10 J*s`. unbound: of the network that the window
    does not bind, told where it is another."""
    text = f"{found['flops'] / 1e6:.2f} MFLOPs"
    if "efficiency" in found:
        metric, value = found["efficiency"]["metric"], found["efficiency"]["value"]
        text += f", {METRIC_NAMES[metric]} {value:.3e} {METRIC_UNITS[metric]}"
    return text if unbound in (None, found) else f"{text} (without the window {in_words(unbound)})"


def window_in_words(C: SearchSettings) -> str:
    """`120 to 130 MFLOPs`, `1e-09 to 2e-09 J*s`."""
    least, most = C.window()
    scale, unit = (1e6, "MFLOPs") if C.efficiency_metric == "flops" else (1.0, METRIC_UNITS[C.efficiency_metric])
    return f"{least / scale:g} to {most / scale:g} {unit}"


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """Of what `derived` gives: the numbers of a log, `flops` and the metric by its name."""
    record = found.get("efficiency")
    return {"flops": found["flops"], **({record["metric"]: record["value"]} if record else {})}


def counted_value(found: dict[str, Any]) -> float:
    """Of what `derived` gives, or of an arch.pt: the value that the window is about."""
    return found["efficiency"]["value"] if "efficiency" in found else found["flops"]
