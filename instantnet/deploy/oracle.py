"""The integer network in NumPy, one step after the other: slow, obvious, and what every other form must equal.

Shapes: B images, C and K channels, H x W and P x Q pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instantnet.deploy.program import Arrays, Program, Step

Value = np.ndarray


def run(program: Program, images: np.ndarray, bits: int, real: bool = False) -> np.ndarray:
    """Logits [B, classes] of normalised images [B, C, H, W] at a bit-width.

    real: with the real factors in place of integer multipliers and shifts, in float64, as the fake-quantized network.
    """
    return run_all(program, images, bits, real)[-1]


def run_all(program: Program, images: np.ndarray, bits: int, real: bool = False) -> list[Value]:
    """The value of every step, [B, ..]."""
    values: list[Value] = []
    kind = np.float64 if real else np.float32
    for step in program.steps:
        given = [values[i] for i in step.inputs]
        if step.op == "input":
            values.append(images.astype(kind))
        else:
            values.append(_OPERATIONS[step.op](step, given, step.at[bits], step.real.get(bits, {}) if real else None))
    return values


def quantize(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x = given[0]
    scale, offset, zero = (_per_channel((at | (real or {}))[name], x) for name in ("scale", "offset", "zero"))
    scale = np.where(scale > 0, scale, np.ones_like(scale))
    code = np.clip(np.rint((x - offset) / scale) + zero, 0, at["top"])
    return np.nan_to_num(code).astype(np.int64)


def requantize(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x = given[0]
    low, high = at["low"], at["high"]
    if real is not None:
        a, b = (_per_channel(real[name], x) for name in ("a", "b"))
        return np.clip(np.rint(x * a + b), low, high).astype(np.int64)
    return np.clip(_scaled(x, at), low, high)


def conv(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x, options = given[0] - _per_channel(at["zero"], given[0]), step.options
    weight = at["weight"].astype(np.int64)
    products = convolved(x, weight, options)
    sums = convolved(x, np.ones_like(weight), options) if at["second"].any() else np.zeros_like(products)
    rows, columns = step.shared["row_class"], step.shared["column_class"]

    def of_pixels(part: np.ndarray) -> np.ndarray:
        return part[rows][:, columns].transpose(2, 0, 1)  # [rows, columns, K] by classes -> [K, P, Q]

    return finished(step, products, sums, at, real, of_pixels)


def linear(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x = given[0] - _per_channel(at["zero"], given[0])
    products = x @ at["weight"].astype(np.int64).T
    sums = np.broadcast_to(x.sum(axis=1, keepdims=True), products.shape)
    return finished(step, products, sums, at, real, lambda part: part[0, 0])


def finished(step: Step, products: Value, sums: Value, at: Arrays, real: Arrays | None, of_pixels) -> Value:
    """The value of a layer from A and S."""
    low, high = (_per_channel(at[name], products) for name in ("low", "high"))
    if real is not None:
        a, c = (_per_channel(real[name], products) for name in ("a", "c"))
        value = products * a + sums * c + of_pixels(real["b"])
        return (
            np.clip(np.rint(value), low, high).astype(np.int64) if step.kind == "codes" else np.clip(value, low, high)
        )
    multiplier, second, shift = (_per_channel(at[name], products) for name in ("multiplier", "second", "shift"))
    return np.clip((products * multiplier + sums * second + of_pixels(at["addend"])) >> shift, low, high)


def convolved(x: Value, weight: np.ndarray, options: Mapping) -> Value:
    """The convolution of x [B, C, H, W] with zeros around, added up tap after tap in the order c, r, s."""
    (down, across), (dilate_r, dilate_s) = options["stride"], options["dilation"]
    groups = options["groups"]
    pad_h, pad_w = options["padding"]
    x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    batch, channels, height, width = x.shape
    outputs, inside, taps_r, taps_s = weight.shape
    p = (height - (taps_r - 1) * dilate_r - 1) // down + 1
    q = (width - (taps_s - 1) * dilate_s - 1) // across + 1
    x = x.reshape(batch, groups, 1, channels // groups, height, width)
    weight = weight.reshape(groups, outputs // groups, inside, taps_r, taps_s, 1, 1)
    total = np.zeros((batch, groups, outputs // groups, p, q), x.dtype)
    for c in range(inside):
        for r in range(taps_r):
            for s in range(taps_s):
                top, left = r * dilate_r, s * dilate_s
                pixels = x[
                    :, :, :, c, top : top + (p - 1) * down + 1 : down, left : left + (q - 1) * across + 1 : across
                ]
                total += pixels * weight[:, :, c, r, s]
    return total.reshape(batch, outputs, p, q)


def float_conv(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x = given[0]
    total = convolved(x, step.shared["weight"].astype(x.dtype), step.options)
    gain, bias = (_per_channel((real or at)[name], total) for name in ("gain", "bias"))
    return _activated(total * gain + bias, step)


def float_linear(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x, weight = given[0], step.shared["weight"]
    total = np.zeros((len(x), len(weight)), x.dtype)
    for f in range(weight.shape[1]):
        total += x[:, f, None] * weight[:, f].astype(x.dtype)
    factors = real or at
    return _activated(total * factors["gain"] + factors["bias"], step)


def to_wide(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x = given[0] * given[0].dtype.type(2.0 ** int(at["fraction"]))
    return x if real is not None else np.clip(np.rint(x), -(1 << 30), 1 << 30).astype(np.int64)


def to_float(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    kind: Any = np.float64 if real is not None or given[0].dtype == np.float64 else np.float32
    return given[0].astype(kind) * kind(2.0 ** -int(at["fraction"]))


def add(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    total = given[0] + given[1]
    return _clamped(total, step, at)


def clamp(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    return _clamped(given[0], step, at)


def avg_pool(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    windows = _windows(given[0], step.options, 0)
    total = np.zeros(windows[0].shape, given[0].dtype)
    for window in windows:
        total += window
    if step.kind == "float" or given[0].dtype == np.float64:
        return total / total.dtype.type(len(windows))
    return _scaled(total, at)


def max_pool(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    lowest = 0 if step.kind == "codes" else -np.inf if step.kind == "float" or real is not None else -(1 << 31)
    return np.max(_windows(given[0], step.options, lowest), axis=0)


def shuffle(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    x, groups = given[0], step.options["groups"]
    return x.reshape(len(x), groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)


def subsample(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    down, across = step.options["stride"]
    return given[0][:, :, ::down, ::across]


def pad_channels(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    return np.pad(given[0], ((0, 0), (step.options["before"], step.options["after"]), (0, 0), (0, 0)))


def flatten(step: Step, given: list[Value], at: Arrays, real: Arrays | None) -> Value:
    return given[0].reshape(len(given[0]), -1)


def _scaled(x: Value, at: Arrays) -> Value:
    multiplier, addend, shift = (_per_channel(at[name], x) for name in ("multiplier", "addend", "shift"))
    return (x * multiplier + addend) >> shift


def _activated(x: Value, step: Step) -> Value:
    return np.clip(x, x.dtype.type(step.options["low"]), x.dtype.type(step.options["high"]))


def _clamped(x: Value, step: Step, at: Arrays) -> Value:
    return np.clip(x, at["low"], at["high"]) if step.kind == "wide" else _activated(x, step)


def _windows(x: Value, options: Mapping, fill: float) -> list[Value]:
    """The pixels of every place in a pooling's window, row by row: [B, C, P, Q] each."""
    (rows, columns), (down, across) = options["kernel"], options["stride"]
    pad_h, pad_w = options.get("padding", (0, 0))
    x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)), constant_values=fill)
    p, q = (x.shape[2] - rows) // down + 1, (x.shape[3] - columns) // across + 1
    return [
        x[:, :, r : r + (p - 1) * down + 1 : down, s : s + (q - 1) * across + 1 : across]
        for r in range(rows)
        for s in range(columns)
    ]


def _per_channel(part: np.ndarray, x: Value) -> np.ndarray:
    """[C] or [1] or [] in a shape that broadcasts against x [B, C, ..]."""
    return part.reshape(1, -1, *[1] * (x.ndim - 2)) if part.ndim else part


_OPERATIONS = {
    operation.__name__: operation
    for operation in (
        quantize, requantize, conv, linear, float_conv, float_linear, to_wide, to_float, add, clamp, avg_pool,
        max_pool, shuffle, subsample, pad_channels, flatten,
    )
}  # fmt: skip
