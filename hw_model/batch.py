"""Costs of millions of mappings: arrays in, arrays out.

A mapping is a row of three arrays, in the device's own terms (B mappings, L temporal levels):

    factors [B, slots, 8] int32   trips of each dimension (order of DIMS) in each slot (order of Device.slots)
    orders  [B, L, 8]     int8    per temporal level the dimensions' indices, outermost first (a permutation of 0..7)
    bypass  [B, L]        uint8   per temporal level the tensors sent past it: W 1, I 2, O 4

The loops of an axis of the array are in the order of DIMS. That matters where `Device.passes_tiles`; there, orders may
be [B, L + 2, 8], the last two for the loops of y and of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingABC
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hw_model.device import Device, load_device
from hw_model.errors import InputError
from hw_model.kernel_loader import cpu_count, kernel
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Mapping
from hw_model.tables import device_table, problem_table, scratch, tensor_bits
from hw_model.widths import BitsLike, Widths

ROWS_PER_THREAD = 2048  # below this a second thread costs more than it saves
REASONS = ("factor", "overflow", "spatial_x", "spatial_y", "lanes", "uncovered", "capacity", "bypass")


@dataclass(frozen=True)
class BatchCost:
    """Costs of B mappings. Where a mapping is invalid, energy_pj is infinite and cycles 2**62.

    energy_pj [B] float64; cycles [B] int64; reason [B] uint8: 0 when valid, else bits in the order of REASONS;
    violation [B] float64: 0 when valid, else the sum of log2(needed / available) over everything that is exceeded (a
    tile twice its capacity: 1; a dimension covered by half: 1), infinite for a row that is no mapping at all.
    """

    energy_pj: np.ndarray
    cycles: np.ndarray
    reason: np.ndarray
    violation: np.ndarray
    clock_mhz: float

    @property
    def valid(self) -> np.ndarray:
        """[B] bool."""
        return self.reason == 0

    @property
    def energy_j(self) -> np.ndarray:
        """[B] joules, infinite where invalid."""
        return self.energy_pj * 1e-12

    @property
    def latency_s(self) -> np.ndarray:
        """[B] seconds, infinite where invalid."""
        return np.where(self.valid, self.cycles / (self.clock_mhz * 1e6), np.inf)

    @property
    def edp_js(self) -> np.ndarray:
        """[B] joules times seconds, infinite where invalid."""
        return self.energy_j * self.latency_s

    def __len__(self) -> int:
        return len(self.cycles)


class Batch(NamedTuple):
    """Mappings as in the module's docstring; problem [B]: row of the ProblemTable."""

    factors: np.ndarray
    orders: np.ndarray
    bypass: np.ndarray
    problem: np.ndarray


class Results(NamedTuple):
    """The arrays of a BatchCost, as the kernel fills them."""

    energy_pj: np.ndarray
    cycles: np.ndarray
    reason: np.ndarray
    violation: np.ndarray


def evaluate_batch(
    layers: Layer | Sequence[Layer],
    factors: np.ndarray,
    orders: np.ndarray,
    device: Device | str,
    bits: BitsLike | Sequence[BitsLike],
    *,
    bypass: np.ndarray | None = None,
    problem: np.ndarray | None = None,
    threads: int | None = None,
) -> BatchCost:
    """Costs of a batch of mappings, the same numbers as `evaluate` gives one by one.

    Args:
        layers, bits: one layer and one bit-width (or "w4a8", ..) for all rows; or sequences of equal length (a single
            one is repeated), of which `problem` picks one per row.
        factors, orders, bypass: as in the module's docstring; bypass None: nothing beyond what the device does.
        problem: [B] integer index into layers and bits; may be left out when there is only one.
        threads: at most so many; None: all cores. Results do not depend on it.

    Raises:
        InputError: arrays of a wrong shape or type, an index out of range. Invalid mappings are flagged, not raised.
    """
    device = load_device(device)
    problems = _problems(layers, bits)
    n_levels, n_slots = len(device.levels), len(device.slots)
    factors = _array("factors", factors, np.int32, (n_slots, 8))
    rows = len(factors)
    ordered = n_levels if np.shape(orders)[1:2] == (n_levels,) else len(device.ordered_slots)
    orders = _array("orders", orders, np.int8, (ordered, 8), rows)
    bypass = np.zeros((rows, n_levels), np.uint8) if bypass is None else bypass
    bypass = _array("bypass", bypass, np.uint8, (n_levels,), rows)
    if problem is None:
        if len(problems) != 1:
            raise InputError(f"problem: {len(problems)} layers or bit-widths need an index for each row")
        problem = np.zeros(rows, np.int32)
    problem = _array("problem", problem, np.int32, (), rows)
    if rows and not (problem.min() >= 0 and problem.max() < len(problems)):
        raise InputError(f"problem: expected 0 to {len(problems) - 1}, got {problem.min()} to {problem.max()}")
    result = BatchCost(
        np.empty(rows), np.empty(rows, np.int64), np.empty(rows, np.uint8), np.empty(rows), device.clock_mhz
    )
    table, rows_of = device_table(device), problem_table(problems, device)
    batch = Batch(factors, orders, bypass, problem)
    found = Results(result.energy_pj, result.cycles, result.reason, result.violation)

    def run(begin: int, end: int) -> None:
        kernel().cost_batch(begin, end, batch, table, rows_of, scratch(device, rows_of), found)

    threads = max(1, min(threads or cpu_count(), rows // ROWS_PER_THREAD))
    edges = np.linspace(0, rows, threads + 1).astype(int).tolist()
    if threads == 1:
        run(0, rows)
    else:
        run(0, 0)  # compiles, once, before threads ask for it
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, edges[:-1], edges[1:]))
    return result


def encode(mapping: Mapping | dict, device: Device | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One mapping as (factors [slots, 8], orders [L, 8], bypass [L]); orders [L + 2, 8] where `device.passes_tiles`.

    Raises:
        InputError: a level, or an axis whose order matters, repeats a dimension with another one in between (K C K),
            which `evaluate` takes but the arrays cannot say.
    """
    device = load_device(device)
    mapping = Mapping.from_dict(mapping).on(device)
    factors = np.ones((len(device.slots), 8), np.int32)
    orders = np.empty((len(device.ordered_slots), 8), np.int8)
    for slot, name in enumerate(device.slots):
        order: list[int] = []
        for dim, factor in mapping[name]:
            d = DIMS.index(dim)
            if name in device.ordered_slots and d in order[:-1]:
                raise InputError(f"{name}: dimension {dim} twice with others in between is not possible in a batch")
            product = int(factors[slot, d]) * factor
            if product > np.iinfo(np.int32).max:
                raise InputError(f"{name}: the factors of {dim} multiply to {product}, more than 2**31 - 1")
            factors[slot, d] = product
            order += [d] if d not in order else []
        if name in device.ordered_slots:
            orders[device.ordered_slots.index(name)] = order + [d for d in range(8) if d not in order]
    bypass = np.array([tensor_bits(mapping.bypassed(name)) for name in device.level_names], np.uint8)
    return factors, orders, bypass


def encode_batch(mappings: Sequence[Mapping | dict], device: Device | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Several mappings as (factors [B, slots, 8], orders [B, L, 8] or [B, L + 2, 8], bypass [B, L]), see `encode`."""
    device = load_device(device)
    rows = [encode(mapping, device) for mapping in mappings]
    if not rows:
        return (
            np.ones((0, len(device.slots), 8), np.int32),
            np.zeros((0, len(device.ordered_slots), 8), np.int8),
            np.zeros((0, len(device.levels)), np.uint8),
        )
    factors, orders, bypass = zip(*rows, strict=True)
    return np.stack(factors), np.stack(orders), np.stack(bypass)


def decode(factors: np.ndarray, orders: np.ndarray, device: Device | str, bypass: np.ndarray | None = None) -> Mapping:
    """The mapping of one row: factors [slots, 8], orders [L, 8] or [L + 2, 8], bypass [L]; loops of one trip are left
    out."""
    device = load_device(device)
    given = dict(zip((*device.level_names, "spatial_y", "spatial_x"), orders, strict=False))
    loops = []
    for slot, name in enumerate(device.slots):
        order = given.get(name, range(8))
        loops.append((name, tuple((DIMS[d], int(factors[slot, d])) for d in order if factors[slot, d] != 1)))
    past = []
    for name, mask in zip(device.level_names, [] if bypass is None else bypass, strict=False):
        tensors = tuple(t for t in "WIO" if int(mask) & tensor_bits([t]))
        past += [(name, tensors)] if tensors else []
    return Mapping(tuple(loops), tuple(past))


def _problems(layers: Layer | Sequence[Layer], bits: BitsLike | Sequence[BitsLike]) -> list[tuple[Layer, BitsLike]]:
    layers = [layers] if isinstance(layers, Layer) else list(layers)
    widths = [bits] if isinstance(bits, str | MappingABC | Widths) or not isinstance(bits, Iterable) else list(bits)
    count = max(len(layers), len(widths))
    layers = layers * count if len(layers) == 1 else layers
    widths = widths * count if len(widths) == 1 else widths
    if not layers or len(layers) != len(widths):
        raise InputError(f"layers, bits: expected as many layers as bit-widths, got {len(layers)} and {len(widths)}")
    return list(zip(layers, widths, strict=True))


def _array(name: str, value: np.ndarray, dtype: type, shape: tuple, rows: int | None = None) -> np.ndarray:
    """`value` as a contiguous array [rows, *shape] of dtype, or InputError; never changes a number."""
    array = np.asarray(value)
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape or (rows is not None and len(array) != rows):
        expected = ", ".join(str(n) for n in ("B" if rows is None else rows, *shape))
        raise InputError(f"{name}: expected an array [{expected}], got {list(array.shape)}")
    if array.dtype != dtype:
        if array.dtype.kind not in "iu":
            raise InputError(f"{name}: expected integers, got {array.dtype}")
        info = np.iinfo(dtype)
        if array.size and not (info.min <= array.min() and array.max() <= info.max):
            raise InputError(f"{name}: expected numbers from {info.min} to {info.max}")
    return np.ascontiguousarray(array, dtype)
