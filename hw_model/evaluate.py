"""What one layer costs on a device with one mapping."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC

import numpy as np

from hw_model.compiled import call
from hw_model.cost import Cost, cost_from_arrays
from hw_model.device import Device, load_device
from hw_model.errors import InvalidMapping
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Mapping
from hw_model.reasons import invalid_reasons
from hw_model.tables import check_bits, device_table, keep_table, problem_table


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
    n_levels = len(device.levels)
    loops = [pair for name in device.level_names for pair in mapping[name]]
    level_end = np.cumsum([len(mapping[name]) for name in device.level_names])
    tiles = np.ones((n_levels + 2, 8), np.int64)
    counters = np.zeros((n_levels, 3, 4), np.int64)
    network = np.zeros(4, np.int64)
    energy_pj = np.zeros((n_levels + 2, 3))
    reason, _, total_pj, cycles, active_pes = call(
        "cost_of",
        np.array([DIMS.index(dim) for dim, _ in loops], np.int64),
        np.array([factor for _, factor in loops], np.int64),
        level_end,
        _factors(mapping["spatial_x"]),
        _factors(mapping["spatial_y"]),
        _factors(mapping["lanes"]),
        keep_table(mapping, device),
        problem.sizes[0],
        problem.bits[0],
        table.device,
        table.cap_mask,
        table.cap_bits,
        table.bandwidth,
        problem.per_word[0],
        problem.per_final[0],
        problem.per_hop[0],
        problem.mac_pj[0],
        problem.mac_rate[0],
        np.ones(8, np.int64),
        np.zeros(len(loops), np.int64),
        tiles,
        counters,
        network,
        energy_pj,
    )
    if reason:
        raise AssertionError(f"compiled and worded validity disagree (reason {reason}): {layer} {mapping}")
    return cost_from_arrays(layer, device, bits, counters, network, energy_pj, total_pj, cycles, active_pes, tiles)


def _factors(pairs: tuple) -> np.ndarray:
    factors = np.ones(8, np.int64)
    for dim, factor in pairs:
        factors[DIMS.index(dim)] *= factor
    return factors
