"""A traced network -> its integers: which values are codes, and what is multiplied, added and shifted.

Nothing here depends on a quantizer's formula. It is asked for codes, and for the scale, zero point and offset behind
them; a value becomes the code of the nearest number on that grid, which is what every quantizer of
`instantnet.quantizers` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, inf, log2, prod
from typing import Any

import numpy as np
import torch

from instantnet.deploy.graph import Graph, Node, conv_options, folded_norm
from instantnet.deploy.program import WIDE_BITS, Arrays, Program, Step, fixed_point, taps_inside
from instantnet.engine.errors import UserError
from instantnet.quantizers.base import BeginsWithABatch, Codes

WIDEST = 16  # bit of a code
INPUT_BOUND = 16.0  # of a normalised image whose mean and deviation nobody knows


@dataclass
class Grid:
    """Of a layer's input: x = (code - zero) * scale + offset; all [C] or [1], float64 and int64; codes 0..top."""

    scale: np.ndarray
    zero: np.ndarray
    offset: np.ndarray
    top: int

    @property
    def divisor(self) -> np.ndarray:
        """The scale, with 1 for a range of one value, which has but one code's worth of numbers."""
        return np.where(self.scale > 0, self.scale, 1.0)

    def permuted(self, order: np.ndarray) -> "Grid":
        """The grid of channels whose i-th becomes order[i]."""
        if len(self.scale) == 1:
            return self
        return Grid(self.scale[order], self.zero[order], self.offset[order], self.top)

    def value(self, code: int) -> np.ndarray:
        """[C] or [1]"""
        return (code - self.zero) * self.divisor + self.offset

    def code_of(self, x: float) -> np.ndarray:
        """[C] or [1]"""
        return np.clip(np.floor((x - self.offset) / self.divisor + 0.5) + self.zero, 0, self.top)


@dataclass
class Weights:
    """w = q * scale + offset; q [K, ..] (int64, signed, of b bits), scale, offset [K]."""

    q: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def weights_of(node: Node) -> Weights:
    """Of a quantized layer at the current bit-width. Raises UserError where its quantizer has no codes."""
    codes = _codes(node, "weight_quantizer", node.layer.weight.detach())
    channels = len(codes.codes)
    scale, zero, offset = (_flat(part, channels) for part in (codes.scale, codes.zero_point, codes.offset))
    if offset.any():  # signed codes, as integer kernels have them
        middle = 1 << (node.layer.weight_quantizer.precision.bits - 1)
        offset = offset + (middle - zero) * scale
        zero = np.full_like(zero, middle)
    q = codes.codes.numpy() - zero.reshape(-1, *[1] * (codes.codes.dim() - 1)).astype(np.int64)
    return Weights(q, scale, offset)


def grid_of(node: Node) -> Grid:
    """Of a quantized layer's input at the current bit-width. Raises UserError where it was never measured."""
    quantizer = node.layer.input_quantizer
    bits = node.layer.precision.bits
    if isinstance(quantizer, BeginsWithABatch) and not bool(quantizer.initialised.all()):
        raise UserError(f"{node.name}: the range of its input at {bits} bit was never measured: train or calibrate it")
    channels = node.layer.weight.shape[1] * getattr(node.layer, "groups", 1)
    shape = (1, channels, 1, 1) if node.op == "conv" else (1, channels)
    codes = _codes(node, "input_quantizer", torch.full(shape, 1e30, dtype=node.layer.weight.dtype))
    size = max(part.numel() for part in codes[1:])
    scale, zero, offset = (_flat(part, size) for part in codes[1:])
    return Grid(scale, zero.astype(np.int64), offset, int(codes.codes.max()))


def _codes(node: Node, operand: str, x: torch.Tensor) -> Codes:
    quantizer = getattr(node.layer, operand)
    try:
        with torch.no_grad():
            return quantizer.codes(x)
    except NotImplementedError as error:
        raise UserError(
            f"{node.name}: {type(quantizer).__name__} offers no codes, so there are no integers to export; write its "
            "`codes`, or train with quantizer = symmetric"
        ) from error


def _flat(part: torch.Tensor, size: int) -> np.ndarray:
    """[size] in float64."""
    return np.broadcast_to(part.detach().double().numpy().reshape(-1), (size,)).copy()


class Lowering:
    """Makes the program of a graph.

    image_bound [C]: largest magnitude of a normalised image's pixels, to prove that sums do not overflow.
    """

    def __init__(self, graph: Graph, image_bound: Sequence[float], bit_widths: Sequence[int] = ()):
        self.graph = graph
        self.bit_widths = sorted(bit_widths or graph.bit_widths)
        self.bound = np.asarray(image_bound, float)
        self.steps: list[Step] = []
        self.step_of: dict[tuple[str, str], int] = {}  # (value, kind) -> step
        self.integer = self._integer_values()
        self.targets = {node.name: self._target(node) for node in graph.quantized()}

    def program(self) -> Program:
        precision = self.graph.precision
        before = precision.bits
        try:
            self.make_steps()
            for bits in self.bit_widths:
                if bits > WIDEST:
                    raise UserError(f"bit-width {bits}: codes have at most {WIDEST} bit; name others with --bits")
                precision.set(bits)
                Numbers(self, bits).fill()
        finally:
            precision.set(before)
        return Program(self.steps, self.bit_widths, precision.quantizer == "nested")

    # --- which values are integers, and where codes are written at once

    def _integer_values(self) -> set[str]:
        found: set[str] = set()
        for name, node in self.graph.nodes.items():
            if node.quantized or (node.layer is None and found & set(node.inputs)):
                found.add(name)
        return found

    def _target(self, node: Node) -> tuple[Node, np.ndarray] | None:
        """The quantized layer that reads what `node` computes, and where that layer finds each channel; None where no
        layer or several read it. Only moves and a maximum may lie between: rounding commutes with them."""
        order = np.arange(node.shape[0])
        name = node.name
        while name != self.graph.output and len(readers := self.graph.readers(name)) == 1:
            reader = readers[0]
            if reader.quantized:
                return reader, order
            if reader.op == "shuffle":
                order = _shuffled(len(order), reader.options["groups"])[order]
            elif reader.op not in ("subsample", "flatten", "max_pool"):
                return None
            name = reader.name
        return None

    # --- steps

    def make_steps(self) -> None:
        for node in self.graph.nodes.values():
            if node.op == "input":
                self.add(node.name, "input", [], node.shape, "float")
            elif node.op in ("conv", "linear"):
                self.layer(node)
            else:
                self.plain(node)
        last = self.value(self.graph.output, "float")
        del self.steps[last + 1 :]  # what nothing reads

    def add(self, value: str, op: str, inputs: list[int], shape: tuple[int, ...], kind: str, **options: Any) -> int:
        name = value if op not in ("quantize", "requantize", "to_wide", "to_float") else f"{value}:{op}"
        self.steps.append(Step(name, op, inputs, shape, kind, options))
        self.step_of[value, kind] = len(self.steps) - 1
        return len(self.steps) - 1

    def value(self, name: str, kind: str) -> int:
        """The step that has a value as wide or float."""
        if (name, kind) not in self.step_of:
            shape = self.graph.nodes[name].shape
            other = self.step_of[name, "wide" if kind == "float" else "float"]
            self.add(name, f"to_{kind}", [other], shape, kind)
        return self.step_of[name, kind]

    def layer(self, node: Node) -> None:
        options: dict[str, Any] = conv_options(node.layer) if node.op == "conv" else {}
        if not node.quantized:
            options |= _activation(node)
            self.add(node.name, f"float_{node.op}", [self.value(node.inputs[0], "float")], node.shape, "float",
                     **options)  # fmt: skip
            return
        kind = "codes" if self.targets[node.name] else "wide"
        self.add(node.name, node.op, [self.codes(node)], node.shape, kind, **options)

    def codes(self, node: Node) -> int:
        """The step that has the codes which a quantized layer reads."""
        name = node.inputs[0]
        if (name, "codes") in self.step_of and self.graph.readers(name) == [node]:
            return self.step_of[name, "codes"]
        kind = "wide" if name in self.integer else "float"
        read = self.value(name, kind)
        op = "requantize" if kind == "wide" else "quantize"
        self.steps.append(Step(f"{node.name}:{op}", op, [read], self.steps[read].shape, "codes"))
        return len(self.steps) - 1

    def plain(self, node: Node) -> None:
        first = node.inputs[0]
        if (first, "codes") in self.step_of:
            kind = "codes"
        else:
            kind = "wide" if node.name in self.integer else "float"
        read = [self.step_of[first, "codes"]] if kind == "codes" else [self.value(name, kind) for name in node.inputs]
        options = dict(node.options)
        if node.op in ("add", "clamp"):
            options |= _activation(node)
        self.add(node.name, node.op, read, node.shape, kind, **options)


class Numbers:
    """Fills in what the steps compute with at one bit-width, which is the network's current one."""

    def __init__(self, lowering: Lowering, bits: int):
        self.lowering, self.graph, self.steps, self.bits = lowering, lowering.graph, lowering.steps, bits
        nodes = self.graph.quantized()
        for node in nodes:
            for operand in (node.layer.weight_quantizer, node.layer.input_quantizer):
                if operand.precision.bits != bits:
                    raise UserError(
                        f"{node.name}: runs at {operand.precision.bits} bit while the network is at {bits}; an export "
                        "has one bit-width for all quantized layers: build the network without bits_of"
                    )
        self.grids = {node.name: grid_of(node) for node in nodes}
        self.weights = {node.name: weights_of(node) for node in nodes}
        self.bounds: dict[int, np.ndarray] = {}
        self.fractions: dict[int, int] = {}

    def fill(self) -> None:
        for index in range(len(self.steps)):
            self.bounds[index] = self.bound(index)
        self.fractions = self.fraction_of()
        for index, step in enumerate(self.steps):
            step.at[self.bits] = self.numbers(index, step)

    def node(self, step: Step) -> Node:
        return self.graph.nodes[step.name.partition(":")[0]]

    # --- bounds

    def bound(self, index: int) -> np.ndarray:
        """The largest magnitude of a step's value, [C] or [1]; of codes it is not needed."""
        step = self.steps[index]
        given = [self.bounds[i] for i in step.inputs]
        if step.op == "input":
            return self.lowering.bound
        if step.kind == "codes":
            return np.zeros(1)
        low, high = step.options.get("low", -inf), step.options.get("high", inf)
        if step.op in ("float_conv", "float_linear"):
            found = _float_bound(self.node(step), given[0])
        elif step.is_layer:
            a, c, b, most_a, most_c = self.coefficients(step)
            clamp = self.node(step).clamp or (-inf, inf)
            low, high = clamp
            found = np.abs(a) * most_a + np.abs(c) * most_c + np.abs(b).reshape(-1, len(a)).max(axis=0)
        else:
            found = np.asarray([sum(float(one.max()) for one in given)])
        found = found if high == inf else np.minimum(found, max(abs(high), abs(low)))
        # A multiplier has 31 bits, also where an activation lets little of a large value through.
        return np.maximum(found, 2 * np.maximum(np.abs(a), np.abs(c))) if step.is_layer else found

    def fraction_of(self) -> dict[int, int]:
        """Index -> fraction of every wide value. All that are added to one another share one."""
        group = {i: i for i, step in enumerate(self.steps) if step.kind == "wide"}

        def root(i: int) -> int:
            return i if group[i] == i else root(group[i])

        for i, step in enumerate(self.steps):
            if step.kind == "wide" and not step.is_layer:
                for read in step.inputs:
                    if read in group:
                        group[root(read)] = root(i)
        most: dict[int, float] = {}
        for i in group:
            most[root(i)] = max(most.get(root(i), 2.0**-60), float(self.bounds[i].max()))
        if not all(np.isfinite(list(most.values()))):
            raise UserError(f"a sum at {self.bits} bit has no bound: the weights hold infinite or missing numbers")
        return {i: floor(WIDE_BITS - log2(most[root(i)]) - 1e-9) for i in group}

    # --- numbers of a step

    def numbers(self, index: int, step: Step) -> Arrays:
        if step.is_layer:
            return self.layer_numbers(index, step)
        if step.op == "quantize":
            grid = self.grids[self.node(step).name]
            step.real[self.bits] = {"scale": grid.scale, "offset": grid.offset}
            return _floats(step.real[self.bits]) | {"zero": grid.zero, "top": np.array(grid.top)}
        if step.op == "requantize":
            return self.requantize_numbers(index, step)
        if step.op in ("to_wide", "to_float"):
            return {"fraction": np.array(self.fractions[index if step.op == "to_wide" else step.inputs[0]])}
        if step.op in ("float_conv", "float_linear"):
            node = self.node(step)
            step.shared["weight"] = node.layer.weight.detach().float().numpy()
            gain, bias = (part.numpy() for part in folded_norm(node))
            step.real[self.bits] = {"gain": gain, "bias": bias}
            return _floats(step.real[self.bits])
        if step.kind == "wide" and step.op in ("add", "clamp"):
            return _wide_clamp((step.options["low"], step.options["high"]), self.fractions[index])
        if step.kind == "wide" and step.op == "avg_pool":
            count = prod(step.options["kernel"])
            one, most = np.ones(1), np.array([count * 2.0**WIDE_BITS])
            step.real[self.bits] = {"a": one / count, "c": 0 * one, "b": 0 * one}
            return _without_second(fixed_point(one / count, 0 * one, 0 * one, most, 0 * one))
        return {}

    def requantize_numbers(self, index: int, step: Step) -> Arrays:
        grid = self.grids[self.node(step).name]
        a = np.exp2(-float(self.fractions[step.inputs[0]])) / grid.divisor
        b = grid.zero - grid.offset / grid.divisor
        nothing = np.zeros_like(a)
        found = self.fixed(step, a, nothing, b, np.full_like(a, 2.0**31), nothing)
        return _without_second(found) | {"low": np.array(0), "high": np.array(grid.top)}

    def layer_numbers(self, index: int, step: Step) -> Arrays:
        node = self.node(step)
        weights = self.weights[node.name]
        a, c, b, most_a, most_c = self.coefficients(step)
        clamp = node.clamp or (-inf, inf)
        if step.kind == "codes":
            target = self.lowering.targets[node.name]
            assert target is not None
            grid = self.grids[target[0].name].permuted(target[1])
            unit, offset, zero = grid.divisor, grid.offset, grid.zero
            ends = {"low": grid.code_of(clamp[0]) if clamp[0] > -inf else np.zeros(1),
                    "high": grid.code_of(clamp[1]) if clamp[1] < inf else np.full(1, grid.top)}  # fmt: skip
            ends = {name: np.broadcast_to(end, len(a)).astype(np.int64) for name, end in ends.items()}
        else:
            unit, offset, zero = np.exp2([-float(self.fractions[index])]), np.zeros(1), np.zeros(1, np.int64)
            ends = {name: np.full(len(a), end) for name, end in _wide_clamp(clamp, self.fractions[index]).items()}
        found = self.fixed(step, a / unit, c / unit, (b - offset) / unit + zero, most_a, most_c)
        long = max(float(most_a.max()), float(most_c.max())) >= 2**31
        container = np.int8 if self.bits <= 8 else np.int16
        grid = self.grids[node.name]
        gain, bias = (part.numpy() for part in folded_norm(node))
        behind = {"weight_scale": weights.scale, "weight_offset": weights.offset, "gain": gain, "bias": bias,
                  "input_scale": grid.scale, "input_offset": grid.offset}  # fmt: skip
        return found | ends | _floats(behind) | {
            "weight": weights.q.astype(container), "zero": grid.zero, "long": np.array(int(long))
        }  # fmt: skip

    def fixed(self, step: Step, a: Any, c: Any, b: Any, most_a: Any, most_c: Any) -> Arrays:
        step.real[self.bits] = {"a": a, "c": c, "b": b}
        if step.kind == "codes":  # beyond this every value but 0 is the lowest or the highest code
            a, c, b = np.clip(a, -(2**29), 2**29), np.clip(c, -(2**29), 2**29), np.clip(b, -(2.0**45), 2.0**45)
        try:
            return fixed_point(a, c, b, most_a, most_c)
        except OverflowError:
            raise UserError(f"{step.name}: at {self.bits} bit its factors do not fit into 64 bit; are its weights "
                            "finite, and its ranges not empty?") from None  # fmt: skip

    def coefficients(self, step: Step) -> tuple[np.ndarray, ...]:
        """(a [K], c [K], b [row classes, column classes, K], most_a [K], most_c [K]) of a quantized layer: its real
        value is a * A + c * S + b, |A| and |S| are at most most_a and most_c for any input."""
        node = self.node(step)
        grid, weights = self.grids[node.name], self.weights[node.name]
        gain, shift = (part.numpy() for part in folded_norm(node))
        of_output = _input_of_output(node)
        scale, zero, offset = (np.broadcast_to(part, max(of_output) + 1)[of_output] if len(part) > 1 else part
                               for part in (grid.scale, grid.zero, grid.offset))  # fmt: skip
        farthest = np.maximum(zero, grid.top - zero).astype(float)
        taps = weights.q[0].size
        most_a = np.abs(weights.q).reshape(len(gain), -1).sum(axis=1) * farthest
        most_c = np.broadcast_to(taps * farthest * (weights.offset != 0), most_a.shape)
        sums, counts = self.inside(step, node, weights, bool(grid.offset.any()))
        constant = offset * (weights.scale * sums + weights.offset * counts[..., None])
        return (gain * weights.scale * scale, gain * weights.offset * scale, gain * constant + shift, most_a, most_c)

    def inside(self, step: Step, node: Node, weights: Weights, matters: bool) -> tuple[np.ndarray, np.ndarray]:
        """(sum of q [rows, columns, K], number [rows, columns]) of the taps inside the image, per class of border.
        matters: whether 0.0 is no code; else there is one class. Writes the classes into the step."""
        whole = weights.q.reshape(len(weights.q), -1).sum(axis=1).astype(float)
        if node.op == "linear":
            return whole[None, None], np.full((1, 1), float(weights.q[0].size))
        options = step.options
        inside, classes = [], []
        size = self.graph.nodes[node.inputs[0]].shape[1:]
        for axis in (0, 1):
            args = (options[key][axis] for key in ("kernel", "stride", "padding", "dilation"))
            table = taps_inside(size[axis], node.shape[1 + axis], *args)
            patterns, of = np.unique(table, axis=0, return_inverse=True)
            if not matters:
                patterns, of = np.ones((1, table.shape[1]), bool), np.zeros(len(table), int)
            inside.append(patterns.astype(float))
            classes.append(of.reshape(-1))
        step.shared["row_class"], step.shared["column_class"] = (of.astype(np.int64) for of in classes)
        sums = np.einsum("kcrs,ir,js->ijk", weights.q.astype(float), *inside)
        return sums, weights.q.shape[1] * np.einsum("ir,js->ij", *inside)


def _activation(node: Node) -> dict[str, float]:
    low, high = node.clamp or (-inf, inf)
    return {"low": low, "high": high}


def _floats(numbers: Arrays) -> Arrays:
    return {name: part.astype(np.float32) for name, part in numbers.items()}


def _wide_clamp(clamp: tuple[float, float], fraction: int) -> Arrays:
    """low and high of a wide value, as integers."""
    most = 1 << WIDE_BITS
    ends = [int(np.clip(np.floor(end * 2.0**fraction + 0.5), -most, most)) for end in clamp]
    return {"low": np.array(ends[0]), "high": np.array(ends[1])}


def _without_second(numbers: Arrays) -> Arrays:
    return {name: part for name, part in numbers.items() if name != "second"}


def _shuffled(channels: int, groups: int) -> np.ndarray:
    """[C]: where nn.ChannelShuffle puts each channel."""
    place = np.arange(channels).reshape(groups, -1).T.reshape(-1)  # place[new] = old
    return np.argsort(place)


def _input_of_output(node: Node) -> np.ndarray:
    """[K]: of a depth-wise convolution the input channel that an output reads; of others 0."""
    outputs = node.layer.weight.shape[0]
    groups = getattr(node.layer, "groups", 1)
    depthwise = groups > 1 and node.layer.weight.shape[1] == 1
    return np.arange(outputs) * groups // outputs if depthwise else np.zeros(outputs, int)


def _float_bound(node: Node, given: np.ndarray) -> np.ndarray:
    """[K]: the largest magnitude of a float layer's value, from that of its input."""
    gain, shift = (part.abs().numpy() for part in folded_norm(node))
    weight = node.layer.weight.detach().double().abs()
    weight = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    if len(given) == weight.shape[1]:
        return gain * (weight.numpy() @ given) + shift
    return gain * weight.sum(1).numpy() * given.max() + shift
