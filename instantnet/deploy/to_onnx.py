"""A traced network -> one ONNX model per bit-width: standard operators, opset 21, integers in QDQ form.

A quantized layer reads its input through QuantizeLinear and DequantizeLinear, and its weights, INT4, INT8 or INT16,
through DequantizeLinear. Batch norm is folded: its gain into the scale of the weights, its shift into the bias. A real
offset (`minmax`, `nested`, `dorefa`) is a Sub before and an Add behind; no engine has an integer kernel for that, and
such a model runs slower than the float one.

Depth-wise convolutions have a range per channel, for which engines have no kernel either. Where the layer before is
quantized, ends in a ReLU and nothing else reads it, its weights are divided by the scale of each channel and those of
the depth-wise one multiplied, which leaves one scale, 1, for all of them.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from instantnet.deploy.graph import MOVERS, Graph, Node, conv_options, folded_norm
from instantnet.deploy.lower import Grid, grid_of, weights_of
from instantnet.deploy.packed import packed

OPSET, IR_VERSION = 21, 10
SIGNED = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
UNSIGNED = {4: TensorProto.UINT4, 8: TensorProto.UINT8, 16: TensorProto.UINT16}


def container(bits: int) -> int:
    """Bits of the smallest type of ONNX that holds a code."""
    return next(size for size in (4, 8, 16) if bits <= size)


Ranges = Mapping[str, tuple[float, float]]


def onnx_model(
    graph: Graph, bits: int, metadata: Mapping[str, str] = {}, sums: Ranges | None = None
) -> onnx.ModelProto:
    """The network at a bit-width; 32 = float, in a network without it with the batch norm of its widest.

    metadata: goes into the file. sums: range of every value in `summed`, which is then rounded to 8 bit; None = sums
    are float. Input "image" [N, 3, H, W], normalised; output "logits" [N, classes].
    """
    precision = graph.precision
    before = precision.bits
    precision.set(bits if bits in precision.bit_widths else precision.bit_widths[-1])
    try:
        emitter = _Emitter(graph, bits, sums or {})
        for node in graph.nodes.values():
            emitter.emit(node)
    finally:
        precision.set(before)
    given, logits = graph.nodes["input"], graph.nodes[graph.output]
    emitter.op("Identity", [emitter.values[graph.output]], "logits")
    body = helper.make_graph(
        emitter.operations,
        f"instantnet_{bits}bit",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *given.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *logits.shape])],
        emitter.constants,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "instantnet"
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def weight_bytes(model: onnx.ModelProto) -> tuple[int, int]:
    """(bytes of integer weights, bytes of all that is float)."""
    integers = sum(len(one.raw_data) for one in model.graph.initializer if one.name.endswith(".weight_q"))
    floats = sum(len(one.raw_data) for one in model.graph.initializer if one.data_type == TensorProto.FLOAT)
    return integers, floats


def summed(graph: Graph, bits: int) -> list[str]:
    """The values that are added, and the sums: what an engine with kernels of 8 bit wants as codes, too. None where
    the bit-width or the quantizer has no such kernels, or a layer that is float computes one of them."""
    if bits not in graph.bit_widths or container(bits) != 8:
        return []
    adds = [node for node in graph.nodes.values() if node.op == "add"]
    names = {name for node in adds for name in (node.name, *node.inputs)}
    return [name for name in graph.nodes if name in names]


def measured(model: onnx.ModelProto, names: Sequence[str], images: np.ndarray) -> dict[str, tuple[float, float]]:
    """name -> (lowest, highest) of values of a model over images [N, 3, H, W]."""
    import onnxruntime

    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = {name: _last_of(model, name) for name in names}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(outputs.values()))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, tuple[float, float]] = {}
    for image in images:
        values = session.run(list(outputs.values()), {"image": image[None]})
        for name, value in zip(names, values, strict=True):
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found


def _last_of(model: onnx.ModelProto, name: str) -> str:
    """The value of a node with its activation."""
    written = {output for operation in model.graph.node for output in operation.output}
    return next(value for value in (f"{name}.clamped", f"{name}.relu", name) if value in written)


def _same(first: Grid | None, second: Grid) -> bool:
    return first is not None and all(np.array_equal(getattr(first, part), getattr(second, part))
                                     for part in ("scale", "zero", "offset", "top"))  # fmt: skip


class _Emitter:
    """operations, constants: of the model so far; values: node -> the name of its value."""

    def __init__(self, graph: Graph, bits: int, sums: Ranges):
        self.graph, self.bits, self.sums = graph, bits, sums
        self.operations: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values: dict[str, str] = {}
        self.rounding: dict[str, Grid] = {}  # of values that are rounded already
        self.written: dict[str, np.ndarray] = {}  # float constants
        self.is_float = bits not in graph.bit_widths
        self.grids: dict[str, Grid] = {}
        if not self.is_float:
            self.grids = {node.name: grid_of(node) for node in graph.quantized()}
        self.one_scale = {name: node for node in graph.quantized() if (name := self._scaled_before(node))}

    def _scaled_before(self, node: Node) -> str | None:
        """The layer before a depth-wise convolution that takes over the scales of its channels."""
        before = self.graph.nodes[node.inputs[0]]
        grid = self.grids.get(node.name)
        alone = before.quantized and before.op == "conv" and len(self.graph.readers(before.name)) == 1
        if grid is None or len(grid.scale) == 1 or not alone or before.clamp is None:
            return None
        saturates = self.saturates(before, before.clamp[1])
        return before.name if not grid.zero.any() and not grid.offset.any() and saturates else None

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.operations.append(helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes))
        return output

    def constant(self, name: str, value: Any, kind: int | None = None) -> str:
        """kind: of ONNX's integer types; None = that of the array."""
        array = np.asarray(value)
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            made = helper.make_tensor(name, kind, array.shape, packed(array).tobytes(), raw=True)
        else:
            array = array if kind is None else array.astype(helper.tensor_dtype_to_np_dtype(kind))
            made = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self.constants.append(made)
        return name

    def floats(self, name: str, value: Any) -> str:
        self.written[name] = np.asarray(value, np.float32)
        return self.constant(name, self.written[name])

    def emit(self, node: Node) -> None:
        if node.op == "input":
            self.values[node.name] = "image"
            return
        given = [self.values[name] for name in node.inputs]
        result = getattr(self, node.op)(node, given)
        low, high = node.clamp or (-inf, inf)
        if low == 0:
            result = self.op("Relu", [result], f"{node.name}.relu")
        if high < inf and not self.saturates(node, high):  # not Clip: onnxruntime fails on one before UINT4
            result = self.op("Min", [result, self.floats(f"{node.name}.high", high)], f"{node.name}.clamped")
        before = self.rounding.get(node.inputs[0]) if node.op in ("subsample", "pad_channels", "max_pool") else None
        if node.name in self.sums:
            result = self.rounded(node, result, self.grid_of_sum(node))
        elif before is not None:
            result = self.rounded(node, result, before)  # changes nothing, and keeps the move among integers
        self.values[node.name] = result

    def saturates(self, node: Node, high: float) -> bool:
        """Whether everything that reads a value rounds it to numbers up to `high`, so that nothing need clamp it."""
        if self.is_float or node.name == self.graph.output:
            return False
        grids = [self.grids.get(reader.name) for reader in self.graph.readers(node.name)]
        return all(grid and float(grid.value(grid.top).max()) <= high * (1 + 1e-6) for grid in grids)

    def rounded(self, node: Node, x: str, grid: Grid) -> str:
        """A value, x, on a grid."""
        self.rounding[node.name] = grid
        return self.quantized(node, x, grid, f"{node.name}.sum")

    def grid_of_sum(self, node: Node) -> Grid:
        """Of a value that is added or a sum, at 8 bit: that of the layer that reads it, or over its own range."""
        grids = [self.grids[reader.name] for reader in self.graph.readers(node.name) if reader.quantized]
        if grids and len(grids[0].scale) == 1:
            return grids[0]
        if (before := self.rounding.get(node.inputs[0])) is not None and node.op in MOVERS:
            return before
        low, high = min(0.0, self.sums[node.name][0]), max(0.0, self.sums[node.name][1])
        top = (1 << self.bits) - 1
        scale = np.array([(high - low) / top or 1.0])
        return Grid(scale, np.rint(-low / scale).astype(np.int64), np.zeros(1), top)

    # --- layers

    def conv(self, node: Node, given: list[str]) -> str:
        options = conv_options(node.layer)
        attributes = {
            "strides": options["stride"],
            "pads": [*options["padding"], *options["padding"]],
            "dilations": options["dilation"],
            "group": options["groups"],
            "kernel_shape": options["kernel"],
        }
        return self.product("Conv", node, given[0], **attributes)

    def linear(self, node: Node, given: list[str]) -> str:
        return self.product("Gemm", node, given[0], transB=1)

    def product(self, kind: str, node: Node, x: str, **attributes: Any) -> str:
        *operands, bias = self.operands(node, x)
        if self.is_float or not node.quantized:
            return self.op(kind, [*operands, self.floats(f"{node.name}.bias", bias)], node.name, **attributes)
        if (name := self.integer_bias(node, bias)) is not None:
            return self.op(kind, [*operands, name], node.name, **attributes)
        # Behind the product and not in it: onnxruntime rounds a float bias there to int32, and lets it overflow.
        shaped = bias.reshape(-1, 1, 1) if kind == "Conv" else bias
        product = self.op(kind, operands, f"{node.name}.product", **attributes)
        return self.op("Add", [product, self.floats(f"{node.name}.bias", shaped)], node.name)

    def operands(self, node: Node, x: str) -> tuple[str, str, np.ndarray]:
        """(name of the input, name of the weight, bias [K])."""
        gain, bias = (part.numpy() for part in folded_norm(node))
        follows = self.one_scale.get(node.name)
        unit = self.grids[follows.name].divisor if follows else np.ones(len(gain))
        if follows:  # of a channel that is always 0
            dead = self.grids[follows.name].scale == 0
            gain, bias = np.where(dead, 0.0, gain), np.where(dead, 0.0, bias)
        gain, bias = gain / unit, bias / unit
        if self.is_float or not node.quantized:
            weight = node.layer.weight.detach().double().numpy()
            weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
            return x, self.floats(f"{node.name}.weight", weight), bias
        if node in self.one_scale.values():
            grid = self.grids[node.name]
            scales = np.repeat(grid.divisor, len(gain) // len(grid.scale))
            x = self.quantized(node, x, Grid(np.ones(1), np.zeros(1, np.int64), np.zeros(1), grid.top))
        else:
            scales = np.ones(len(gain))
            grid = self.grids[node.name]
            if not _same(self.rounding.get(node.inputs[0]), grid):
                x = self.quantized(node, x, grid)
        return x, self.weight(node, gain * scales), bias

    def integer_bias(self, node: Node, bias: np.ndarray) -> str | None:
        """The bias as int32 of the accumulator's scale, as kernels of 8 bit take it; None where they take none."""
        grid = self.grids[node.name]
        single = len(grid.scale) == 1 or node in self.one_scale.values()
        if container(self.bits) != 8 or not single or f"{node.name}.weight_offset" in self.written:
            return None
        scale = np.float32(1) if node in self.one_scale.values() else grid.divisor.astype(np.float32)
        unit = self.written[f"{node.name}.weight_scale"] * scale
        codes = np.rint(bias / unit)
        if grid.offset.any() or np.abs(codes).max() >= 2**31:
            return None
        names = [
            self.constant(f"{node.name}.bias_q", codes, TensorProto.INT32),
            self.floats(f"{node.name}.bias_scale", unit),
        ]
        return self.op("DequantizeLinear", names, f"{node.name}.bias", axis=0)

    def weight(self, node: Node, gain: np.ndarray) -> str:
        """The dequantized weight times gain [K]."""
        weights = weights_of(node)
        q, scale, offset = weights.q, weights.scale * gain, weights.offset * gain
        columns = (-1, *[1] * (q.ndim - 1))
        negative = (scale < 0).reshape(columns)
        if weights.offset.any():
            offset = np.where(scale < 0, offset + scale, offset)
            q, scale = np.where(negative, -1 - q, q), np.abs(scale)
        elif q.min() > -(1 << (self.bits - 1)):
            q, scale = np.where(negative, -q, q), np.abs(scale)
        q = np.where((scale == 0).reshape(columns), 0, q)
        names = [
            self.constant(f"{node.name}.weight_q", q, SIGNED[container(self.bits)]),
            self.floats(f"{node.name}.weight_scale", np.where(scale == 0, 1.0, scale)),
        ]
        weight = self.op("DequantizeLinear", names, f"{node.name}.weight", axis=0)
        if not weights.offset.any():
            return weight
        shift = self.floats(f"{node.name}.weight_offset", offset.reshape(columns))
        return self.op("Add", [weight, shift], f"{node.name}.weight_sum")

    def quantized(self, node: Node, x: str, grid: Grid, name: str = "") -> str:
        """x through QuantizeLinear and DequantizeLinear."""
        name, single = name or f"{node.name}.input", len(grid.scale) == 1
        spread = (1, -1, *[1] * (len(self.graph.nodes[node.inputs[0]].shape) - 1))

        def shaped(part: np.ndarray) -> np.ndarray:
            return part.reshape(()) if single else part.reshape(spread)

        has_offset = bool(grid.offset.any())
        if has_offset:
            x = self.op("Sub", [x, self.floats(f"{name}_offset", shaped(grid.offset))], f"{name}_shifted")
        size = container(self.bits)
        if grid.top < (1 << size) - 1:
            most = self.floats(f"{name}_most", shaped(grid.value(grid.top) - grid.offset))
            x = self.op("Min", [x, most], f"{name}_clamped")
        axis = {} if single else {"axis": 1}
        factors = grid.divisor.reshape(() if single else -1)
        scale = self.floats(f"{name}_scale", factors)
        zero = self.constant(f"{name}_zero", grid.zero.reshape(factors.shape), UNSIGNED[size])
        x = self.op("QuantizeLinear", [x, scale, zero], f"{name}_q", **axis)
        if (grid.scale == 0).any():
            scale = self.floats(f"{name}_values", grid.scale.reshape(factors.shape))
        x = self.op("DequantizeLinear", [x, scale, zero], f"{name}_dq", **axis)
        return self.op("Add", [x, f"{name}_offset"], f"{name}_value") if has_offset else x

    # --- the others

    def add(self, node: Node, given: list[str]) -> str:
        return self.op("Add", given, node.name)

    def clamp(self, node: Node, given: list[str]) -> str:
        return given[0]

    def avg_pool(self, node: Node, given: list[str]) -> str:
        if node.shape[1:] == (1, 1) and node.options["kernel"] == self.graph.nodes[node.inputs[0]].shape[1:]:
            return self.op("GlobalAveragePool", given, node.name)
        return self.op("AveragePool", given, node.name, kernel_shape=node.options["kernel"],
                       strides=node.options["stride"])  # fmt: skip

    def max_pool(self, node: Node, given: list[str]) -> str:
        options = node.options
        return self.op("MaxPool", given, node.name, kernel_shape=options["kernel"], strides=options["stride"],
                       pads=[*options["padding"], *options["padding"]])  # fmt: skip

    def shuffle(self, node: Node, given: list[str]) -> str:
        channels, *pixels = node.shape
        groups = node.options["groups"]
        split = self.constant(f"{node.name}.split", np.array([0, groups, channels // groups, *pixels]))
        joined = self.constant(f"{node.name}.joined", np.array([0, channels, *pixels]))
        x = self.op("Reshape", [given[0], split], f"{node.name}.groups")
        x = self.op("Transpose", [x], f"{node.name}.swapped", perm=[0, 2, 1, *range(3, 3 + len(pixels))])
        return self.op("Reshape", [x, joined], node.name)

    def subsample(self, node: Node, given: list[str]) -> str:
        most = np.iinfo(np.int64).max
        parts = {"starts": [0, 0], "ends": [most, most], "axes": [2, 3], "steps": node.options["stride"]}
        return self.op("Slice", given + [self.constant(f"{node.name}.{part}", np.array(value, np.int64))
                                         for part, value in parts.items()], node.name)  # fmt: skip

    def pad_channels(self, node: Node, given: list[str]) -> str:
        pads = np.array([0, node.options["before"], 0, 0, 0, node.options["after"], 0, 0])
        return self.op("Pad", [given[0], self.constant(f"{node.name}.pads", pads)], node.name)

    def flatten(self, node: Node, given: list[str]) -> str:
        return self.op("Flatten", given, node.name)
