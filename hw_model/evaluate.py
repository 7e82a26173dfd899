"""The cost of one layer on a device with one mapping."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC

import numpy as np

from hw_model.batch import REASONS, Batch, Results
from hw_model.cost import Cost, cost_from_arrays
from hw_model.device import Device, load_device
from hw_model.errors import InvalidMapping
from hw_model.kernel_loader import kernel
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Loops, Mapping
from hw_model.reasons import factor_products, invalid_reasons
from hw_model.tables import device_table, keep_table, problem_table, scratch
from hw_model.widths import BitsLike, Widths, widths_of

OVERFLOW, CAPACITY = (1 << REASONS.index(name) for name in ("overflow", "capacity"))


def evaluate(layer: Layer | MappingABC, mapping: Mapping | MappingABC, device: Device | str, bits: BitsLike) -> Cost:
    """Cost of a layer at a bit-width (weights and activations), with its breakdown by level and tensor.

    Args:
        layer: a Layer, or its sizes as a dictionary.
        mapping: a Mapping, or its JSON form.
        device: a Device, or what `load_device` takes.
        bits: 1 to 32, where 32 means full width; or widths per tensor: "w4a8", {"W": 4, "I": 8, "O": 16}.

    Raises:
        InvalidMapping: the mapping does not run this layer on this device; `.reasons` says why.
        InputError: something is not a layer, mapping, device or bit-width at all.
    """
    layer = layer if isinstance(layer, Layer) else Layer.from_dict(layer)
    device = load_device(device)
    bits = widths_of(bits)
    mapping = Mapping.from_dict(mapping).on(device)
    reasons = invalid_reasons(layer, mapping, device, bits)
    if reasons:
        raise InvalidMapping(reasons)
    return _run(layer, mapping, device, bits)


def _run(layer: Layer, mapping: Mapping, device: Device, bits: Widths) -> Cost:
    problem = problem_table([(layer, bits)], device)
    products = factor_products(mapping, device)
    factors = np.array([[list(products[slot].values()) for slot in device.slots]], np.int32)
    levels = [_merged(mapping[name]) for name in device.level_names]
    loops = [pair for level in levels for pair in level]
    spatial = [*mapping["spatial_y"], *mapping["spatial_x"]]
    work = scratch(device, problem, len(loops), len(spatial))
    count = len(loops)
    trips = np.array([factor for _, factor in loops], np.int64)
    work.loop_dim[:count] = [DIMS.index(dim) for dim, _ in loops]
    work.loop_n[:count] = trips
    work.prefix[:count] = np.cumprod(trips)
    work.level_end[:] = np.cumsum([len(level) for level in levels])
    work.keep[:] = keep_table(mapping, device)
    work.pe_loops[:] = 1  # what an earlier mapping left there is no loop of this one
    work.pe_loops[:2, : len(spatial)] = np.array([(DIMS.index(dim), n) for dim, n in spatial]).reshape(-1, 2).T
    row = Batch(
        factors,
        np.zeros((0, len(device.levels), 8), np.int8),
        np.zeros((0, len(device.levels)), np.uint8),
        np.zeros(1, np.int32),
    )
    found = Results(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.uint8), np.zeros(1))
    kernel().cost_batch(0, 1, row, device_table(device), problem, work, found)
    reason = int(found.reason[0])
    if reason == OVERFLOW:
        raise InvalidMapping([f"overflow: the bandwidths of device {device.name} give more than 2**53 cycles"])
    if reason == CAPACITY and "O" in device.stays:
        home = device.levels[device.home].name
        raise InvalidMapping([f"{home}: O stays here, written once, but partial sums would come back"])
    if reason:
        raise AssertionError(f"compiled and worded validity disagree (reason {reason}): {layer} {mapping}")
    return cost_from_arrays(layer, device, bits, work, float(found.energy_pj[0]), int(found.cycles[0]))


def _merged(loops: Loops) -> Loops:
    """Loops over the same dimension, one directly inside the other, as one: [K 2, K 3] is [K 6]."""
    merged: list[tuple[str, int]] = []
    for dim, n in loops:
        if merged and merged[-1][0] == dim:
            n *= merged.pop()[1]
        merged.append((dim, n))
    return tuple(merged)
