"""Cycles of a mapping on a weight-stationary systolic array with a DMA and a cache behind it (Gemmini).

`hw_model.evaluate` counts words and takes the slowest memory; it leaves out how a systolic array fills, what a request
costs and what a cache keeps. This model has those three, from the tiles of the mapping alone. A tile of the DRAM loops
takes the longest of its compute, its memory requests and its instructions, since loads, compute and stores of
neighbouring tiles overlap; nothing overlaps before the first and after the last:

    cycles = (tiles - 1) * max(compute, memory, instructions) + compute + memory + instructions

Array rows hold input channels (C), columns output channels (K), one weight in each PE; pixels stream through.
docs/hardware.md has its validation and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from typing import NamedTuple

from hw_model.device import Device
from hw_model.errors import InputError, unknown
from hw_model.layer import DIMS, Layer
from hw_model.mapping import Mapping
from hw_model.reasons import factor_products

# Defaults of Gemmini and Chipyard.
LINE_BYTES = 64  # of the cache, and the most that one request moves
BUS_BYTES = 16  # per cycle
BLOCKS_PER_LOAD = 4  # a load instruction moves rows of at most this many array widths
PROGRAMS = ("conv", "matmul")  # Gemmini's two loop instructions


class Constants(NamedTuple):
    """The six constants fitted to tests/data/gemmini_rtl.csv, the same for every array size. The first three are minima
    of the measurements, the others come from `benchmarks/gemmini.py --cross_validate`.

    instructions: cycles to set up one tile of a matmul; a convolution has twice as many (minima: 125 and 250).
    command: least cycles of a step, one preload and one compute (minimum on the 4 x 4 array).
    drain: least cycles of a step, per row of the array.
    request: cycles of a request to the cache.
    line: further cycles for a line that the cache does not hold (7 bytes a cycle).
    cache_bytes: what the cache keeps in effect (Chipyard's default has 512 KiB; the core and its page tables share it).
    """

    instructions: float = 125.0
    command: float = 4.0
    drain: float = 0.5
    request: float = 1.2
    line: float = 9.0
    cache_bytes: float = 448 * 1024.0


FITTED = Constants()


class Estimate(NamedTuple):
    """cycles: of the whole layer; tiles: iterations of the DRAM loops; the others: cycles of one tile, on average."""

    cycles: float
    tiles: int
    compute: float
    memory: float
    instructions: float


class Run(NamedTuple):
    """What the array runs.

    program: one of PROGRAMS. size, tile: elements of each dimension, whole and (on average) in a tile. trips: tiles
    along each dimension, outermost loop first. stride: (rows, columns). weight_blocks: blocks of array x array weights
    in a tile. steps, pixels: how often a block gets pixels, and how many at once.
    """

    program: str
    size: MappingABC[str, int]
    tile: MappingABC[str, float]
    trips: dict[str, int]
    stride: tuple[int, int]
    weight_blocks: float
    steps: float
    pixels: float


def estimate(layer: Layer, mapping: Mapping, device: Device, program: str, constants: Constants = FITTED) -> Estimate:
    """Cycles of a layer (8 bit) with a mapping of this device, run by one of PROGRAMS.

    A matmul has N*P*Q rows, C inner and K outer columns. Everything outside the DRAM loops is one tile.

    Raises:
        InputError: an unknown program, an array that is not square, groups, or a mapping not of this device.
    """
    width, height = device.array
    if width != height:
        raise InputError(f"device {device.name}: expected a square systolic array, got {width} x {height}")
    if program not in PROGRAMS:
        raise unknown("program", program, PROGRAMS)
    if layer.G > 1:
        raise InputError("layer: G: the systolic model has no groups")
    mapping = Mapping.from_dict(mapping).on(device)
    inner = _inner_factors(mapping, device)
    order = list(dict.fromkeys(dim for dim, _ in mapping[device.level_names[0]]))
    run = (_convolution if program == "conv" else _matmul)(layer, inner, order, width)
    tiles = math.prod(run.trips.values())
    compute = _compute_cycles(run, width, constants)
    memory = _memory_cycles(run, width, tiles, constants)
    instructions = constants.instructions * (2 if program == "conv" else 1)
    cycles = (tiles - 1) * max(compute, memory, instructions) + compute + memory + instructions
    return Estimate(cycles, tiles, compute, memory, instructions)


def _inner_factors(mapping: Mapping, device: Device) -> dict[str, int]:
    """Elements of each dimension inside one iteration of the DRAM loops."""
    products = factor_products(mapping, device)
    inside = [slot for slot in device.slots if slot != device.level_names[0]]
    return {dim: math.prod(products[slot][dim] for slot in inside) for dim in DIMS}


def _ordered(trips: dict[str, int], order: list[str]) -> dict[str, int]:
    """Trips in the order of the loops; dimensions that only a remainder made loop come last."""
    return {dim: trips[dim] for dim in [*order, *trips] if dim in trips}


def _convolution(layer: Layer, inner: MappingABC[str, int], order: list[str], array: int) -> Run:
    size = {dim: getattr(layer, dim) for dim in "NKCPQRS"}
    # padding is R // 2 on either side, so that an even kernel makes one more row and column of outputs
    size |= {"P": layer.P + (layer.R % 2 == 0), "Q": layer.Q + (layer.S % 2 == 0)}
    trips = {dim: -(-size[dim] // inner[dim]) for dim in size}
    tile = {dim: size[dim] / trips[dim] for dim in size}
    blocks = math.ceil(tile["K"] / array) * math.ceil(tile["C"] / array) * tile["R"] * tile["S"]
    # P is the axis that a step runs along, up to `array` pixels at once
    per_line = math.ceil(tile["P"] / array)
    steps = tile["N"] * tile["Q"] * per_line
    stride = (layer.stride_h, layer.stride_w)
    return Run("conv", size, tile, _ordered(trips, order), stride, blocks, steps, tile["P"] / per_line)


def _matmul(layer: Layer, inner: MappingABC[str, int], order: list[str], array: int) -> Run:
    rows = "NPQ"
    size = {"P": layer.N * layer.P * layer.Q, "K": layer.K, "C": layer.C}
    wanted = {"P": inner["N"] * inner["P"] * inner["Q"], "K": inner["K"], "C": inner["C"]}
    blocks = {dim: -(-size[dim] // array) for dim in size}
    # the program takes the tile in blocks of 16, whatever the array's size
    trips = {dim: -(-blocks[dim] // min(blocks[dim], max(1, wanted[dim] >> 4))) for dim in size}
    tile = {dim: size[dim] / trips[dim] for dim in size}
    order = list(dict.fromkeys("P" if dim in rows else dim for dim in order))
    steps = blocks["P"] / trips["P"]
    weight_blocks = blocks["K"] * blocks["C"] / (trips["K"] * trips["C"])
    pixels = size["P"] / blocks["P"]
    return Run("matmul", size, tile, _ordered(trips, order), (1, 1), weight_blocks, steps, pixels)


def _compute_cycles(run: Run, array: int, constants: Constants) -> float:
    """Cycles in the array for one tile: a block of weights takes `array` cycles to load while the one before is at work
    on its steps; a step takes a cycle per pixel, and no less than its commands or its drain."""
    step = max(run.pixels, constants.command, constants.drain * array)
    return run.weight_blocks * max(array, run.steps * step)


def _rows(run: Run, extent: MappingABC[str, float]) -> dict[str, tuple[float, float, int]]:
    """Per tensor (rows, bytes of a row, bytes from row to row) of an extent, as they lie in memory: pixels of channels
    for I and O, one row of output channels per weight of an output channel for W."""
    get = {**dict.fromkeys("NPQRS", 1), **extent}
    lines = [(get[p] - 1) * stride + get[r] for p, r, stride in (("P", "R", run.stride[0]), ("Q", "S", run.stride[1]))]
    return {
        "W": (get["C"] * get["R"] * get["S"], get["K"], run.size["K"]),
        "I": (get["N"] * lines[0] * lines[1], get["C"], run.size["C"]),
        "O": (get["N"] * get["P"] * get["Q"], get["K"], run.size["K"]),
    }


def _memory_cycles(run: Run, array: int, tiles: int, constants: Constants) -> float:
    """Cycles for the loads and the stores of one tile: the requests of each tensor, and the lines that they miss.

    An output leaves once, after the last of its partial sums; a line of it that the cache does not hold is fetched
    before it is written, so that it crosses twice.
    """
    missed = missed_lines(run, constants.cache_bytes)
    rows = _rows(run, run.tile)
    longest = min(LINE_BYTES, BLOCKS_PER_LOAD * array)
    sums = math.prod(run.trips.get(dim, 1) for dim in "CRS")
    cycles = 0.0
    for tensor, most, crossings, share in (("W", longest, 1, 1.0), ("I", longest, 1, 1.0), ("O", array, 2, 1 / sums)):
        count, row_bytes, _ = rows[tensor]
        requests = _request_cycles(run.program, row_bytes, most, constants)
        cycles += share * (count * requests + crossings * constants.line * missed[tensor] / tiles)
    return cycles


def _request_cycles(program: str, row_bytes: float, most: int, constants: Constants) -> float:
    """Cycles of the requests for one row, each for at most `most` bytes: those of a matmul overlap with the bytes on
    the bus, those of a convolution were found not to."""
    requests, beats = math.ceil(row_bytes / most), row_bytes / BUS_BYTES
    if program == "conv":
        return constants.request * requests + beats
    return constants.request * max(requests, beats)


def missed_lines(run: Run, cache_bytes: float) -> dict[str, float]:
    """Lines of each tensor that the cache does not hold when a tile wants them, over the whole run.

    From the innermost DRAM loop outwards: what a loop touches again is still there to the degree that all it touches
    fits. What has been touched before the run is there to the same degree.
    """
    extent = dict(run.tile)
    touched = _touched(run, extent)
    missed = dict(touched)
    for dim, trips in reversed(run.trips.items()):
        if trips == 1:
            continue
        lost = _lost(_occupied(run, extent), cache_bytes)
        extent[dim] = run.size[dim]
        wider = _touched(run, extent)
        for tensor in missed:
            new = wider[tensor] / touched[tensor]  # among `trips` visits, those that touch something new
            missed[tensor] *= new + max(0.0, trips - new) * lost
        touched = wider
    kept = 1 - _lost(_occupied(run, extent), cache_bytes)
    return {tensor: (missed[tensor] - kept * touched[tensor]) / LINE_BYTES for tensor in missed}


def _lost(occupied_bytes: float, cache_bytes: float) -> float:
    """Share of the touched lines that are evicted again, with random replacement."""
    return max(0.0, 1 - cache_bytes / occupied_bytes)


def _touched(run: Run, extent: MappingABC[str, float]) -> dict[str, float]:
    """Bytes of the lines that an extent of each tensor touches."""
    return {tensor: rows * _in_lines(part, whole) for tensor, (rows, part, whole) in _rows(run, extent).items()}


def _occupied(run: Run, extent: MappingABC[str, float]) -> float:
    """Bytes of cache that an extent takes. Rows a power of two apart share a few of the cache's sets, so that part of a
    row takes the room of all of it; outputs, which are not read again, take the lines they touch."""
    total = 0.0
    for tensor, (rows, part, whole) in _rows(run, extent).items():
        aligned = whole & -whole  # largest power of two that divides the distance
        total += rows * max(_in_lines(part, whole), aligned if tensor != "O" and whole > LINE_BYTES else 0)
    return total


def _in_lines(part: float, whole: int) -> float:
    """Bytes fetched for `part` bytes of rows that are `whole` bytes apart; rows of less than a line share lines."""
    if whole <= LINE_BYTES:
        return whole
    return min(max(whole, part), math.ceil(part / LINE_BYTES) * LINE_BYTES)
