"""What one layer costs on a device with one mapping."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC

import numpy as np

from hw_model.batch import REASONS
from hw_model.compiled import kernel
from hw_model.cost import Cost, cost_from_arrays
from hw_model.device import Device, load_device
from hw_model.errors import InvalidMapping
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Mapping
from hw_model.reasons import factor_products, invalid_reasons
from hw_model.tables import check_bits, device_table, keep_table, problem_table, scratch

OVERFLOW = 1 << REASONS.index("overflow")


def evaluate(layer: Layer | MappingABC, mapping: Mapping | MappingABC, device: Device | str, bits: int) -> Cost:
    """Cost of a layer at a bit-width (weights and activations), with its breakdown by level and tensor.

    Args:
        layer: a Layer, or its sizes as a dictionary.
        mapping: a Mapping, or its JSON form.
        device: a Device, or what `load_device` takes.
        bits: 1 to 32; 32 stands for full width.

    Raises:
        InvalidMapping: the mapping does not run this layer on this device; `.reasons` says why.
        InputError: something is not a layer, mapping, device or bit-width at all.
    """
    layer = layer if isinstance(layer, Layer) else Layer.from_dict(layer)
    device = load_device(device)
    bits = check_bits(bits)
    mapping = Mapping.from_dict(mapping).on(device)
    reasons = invalid_reasons(layer, mapping, device, bits)
    if reasons:
        raise InvalidMapping(reasons)
    return _run(layer, mapping, device, bits)


def _run(layer: Layer, mapping: Mapping, device: Device, bits: int) -> Cost:
    table = device_table(device)
    problem = problem_table([(layer, bits)], device)
    products = factor_products(mapping, device)
    factors = np.array([[list(products[slot].values()) for slot in device.slots]], np.int32)
    loops = [pair for name in device.level_names for pair in mapping[name]]
    trips = np.array([factor for _, factor in loops], np.int64)
    *_, tiles, counters, network, energy_pj = scratch(len(device.levels))
    reason, _, total_pj, cycles, active_pes = kernel().cost_one(
        factors,
        table.slots,
        np.array([DIMS.index(dim) for dim, _ in loops], np.uint8),
        trips,
        np.cumsum([len(mapping[name]) for name in device.level_names]),
        np.cumprod(trips),
        keep_table(mapping, device),
        problem.sizes,
        problem.bits,
        table.device,
        table.cap_mask,
        table.cap_bits,
        table.bandwidth,
        problem.per_word,
        problem.per_final,
        problem.per_hop,
        problem.mac_pj,
        problem.mac_rate,
        tiles,
        counters,
        network,
        energy_pj,
    )
    if reason == OVERFLOW:
        raise InvalidMapping([f"overflow: the bandwidths of device {device.name} make for more than 2**53 cycles"])
    if reason:
        raise AssertionError(f"compiled and worded validity disagree (reason {reason}): {layer} {mapping}")
    return cost_from_arrays(layer, device, bits, counters, network, energy_pj, total_pj, cycles, active_pes, tiles)
