"""The operations that a network runs in evaluation, in order: what every exported form is made from.

Shapes leave the batch out: (C, H, W) of images, (F,) of features.

A batch norm belongs to the convolution or linear layer before it, and a ReLU or ReLU6 to whatever is before it. What is
left are few kinds of nodes:

    input       the normalised image
    conv        nn.Conv2d, with zeros around the image        linear      nn.Linear
    add         of two values of one shape                    clamp       ReLU, ReLU6 of a value with other readers
    avg_pool    options kernel, stride                        max_pool    options kernel, stride, padding
    shuffle     channels of groups interleaved; option groups
    subsample   every stride-th pixel; option stride          pad_channels    zeros; options before, after
    flatten     (C, H, W) -> (C * H * W,)
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm as FloatNorm
from torch.nn.modules.conv import _ConvNd

from instantnet.engine.errors import UserError, shown
from instantnet.quantize import SwitchableBatchNorm, SwitchableConv2d, SwitchableLinear

__all__ = ["Graph", "Node", "graph_of"]

MOVERS = ("shuffle", "subsample", "pad_channels", "flatten")
"""Nodes that compute nothing."""
KNOWN = "convolutions, linear layers, batch norm behind them, ReLU, ReLU6, additions, average and maximum pooling"


@dataclass
class Node:
    """One operation.

    inputs: names of the values it reads. shape: of its value. layer, norm: modules of conv and linear. clamp: (lowest,
    highest) of an activation behind it. options: sizes, as the module's page lists them.
    """

    name: str
    op: str
    inputs: list[str]
    shape: tuple[int, ...]
    layer: Any = None
    norm: Any = None
    clamp: tuple[float, float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether it is a layer with quantizers."""
        return isinstance(self.layer, SwitchableConv2d | SwitchableLinear)


@dataclass
class Graph:
    """nodes: name -> node, in the order they run; output: the name of the logits; precision: of the network."""

    nodes: dict[str, Node]
    output: str
    precision: Any

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a value, one entry per reading."""
        return [node for node in self.nodes.values() for read in node.inputs if read == name]

    @property
    def bit_widths(self) -> list[int]:
        """Of the network, those that have codes: one width for weights and inputs."""
        return [bits for bits in self.precision.bit_widths if isinstance(bits, int) and bits != 32]

    def quantized(self) -> list[Node]:
        """The layers with quantizers."""
        return [node for node in self.nodes.values() if node.quantized]


def graph_of(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The graph of a switchable network for images of `shape` (3, H, W).

    Raises UserError, naming the layer, where an operation has no integer form.
    """
    model = model.eval()
    if hasattr(model, "residual_additions"):
        raise UserError(
            f"{type(model).__name__}: its quantized additions have no exported form; convert without quantize_residual"
        )
    try:
        traced = fx.GraphModule(model, _Tracer().trace(model))
        example = torch.zeros(2, *shape, dtype=next(model.parameters()).dtype)
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise UserError(
            f"{type(model).__name__}: its forward cannot be traced ({shown(reason)}); a network whose operations do "
            "not depend on its values can be exported"
        ) from error
    reader = _Reader(model)
    for node in traced.graph.nodes:
        reader.read(node)
    return Graph(reader.nodes, reader.output, model.precision)


class _Tracer(fx.Tracer):
    """Stops at the modules that the reader knows."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, _ConvNd) or _find(MODULES, m) is not None or super().is_leaf_module(m, module_qualified_name)
        )


class _Reader:
    """Makes nodes of those of torch.fx; names: fx node -> the name of its value."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.modules = dict(model.named_modules())
        self.nodes: dict[str, Node] = {}
        self.names: dict[fx.Node, str] = {}
        self.output = ""

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.nodes:
                raise UserError(f"{type(self.model).__name__} has more than one input: one image is exported")
            self.add(node, Node("input", "input", [], _shape(node)))
        elif node.op == "output":
            self.read_output(node)
        elif node.op == "call_module":
            module = self.modules[str(node.target)]
            handler = _find(MODULES, module)
            if handler is None:
                raise _unknown(str(node.target), type(module).__name__)
            handler(self, node, module)
        elif "tensor_meta" in node.meta:  # others are sizes
            handler = OPERATIONS.get(node.target if node.op == "call_function" else str(node.target))
            if handler is None:
                raise _unknown(node.name, getattr(node.target, "__name__", str(node.target)))
            handler(self, node, *node.args[1:], **node.kwargs)

    def read_output(self, node: fx.Node) -> None:
        given = node.args[0]
        if not isinstance(given, fx.Node) or len(_shape(given)) != 1:
            raise UserError(f"{type(self.model).__name__}: its output is not logits [B, C], which is what is exported")
        self.output = self.names[given]

    def add(self, node: fx.Node, made: Node) -> None:
        """Take `made` as the node that computes the value of `node`."""
        name, number = made.name, 1
        while made.name in self.nodes:
            number += 1
            made.name = f"{name}_{number}"
        self.nodes[made.name] = made
        self.names[node] = made.name

    def make(self, node: fx.Node, op: str, **more: Any) -> Node:
        read = [self.names[one] for one in node.args[:1] if isinstance(one, fx.Node)]
        name = str(node.target) if node.op == "call_module" else node.name
        made = Node(name, op, read, _shape(node), **more)
        self.add(node, made)
        return made

    def same(self, node: fx.Node, *_: Any, **__: Any) -> None:
        """A node that passes its input unchanged."""
        self.names[node] = self.names[node.args[0]]  # type: ignore[index]

    def source(self, node: fx.Node) -> tuple[Node, bool]:
        """The node before, and whether nothing else reads its value."""
        before = node.args[0]
        assert isinstance(before, fx.Node)
        return self.nodes[self.names[before]], len(before.users) == 1 and before.op != "placeholder"

    def convolution(self, node: fx.Node, module: nn.Conv2d) -> None:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _unknown(str(node.target), f"a convolution with padding {module.padding_mode!r}, {module.padding!r}")
        self.make(node, "conv", layer=module)

    def linear(self, node: fx.Node, module: nn.Linear) -> None:
        if len(_shape(node)) != 1:
            raise _unknown(str(node.target), "a linear layer of more than features [B, F]")
        self.make(node, "linear", layer=module)

    def norm(self, node: fx.Node, module: nn.Module) -> None:
        before, alone = self.source(node)
        if before.layer is None or before.norm is not None or before.clamp is not None or not alone:
            raise _unknown(str(node.target), "a batch norm that is not directly behind a convolution or linear layer")
        before.norm = module
        self.same(node)

    def activation(self, node: fx.Node, highest: float = inf) -> None:
        before, alone = self.source(node)
        if alone and before.op in ("conv", "linear", "add"):
            low, high = before.clamp or (0.0, inf)
            before.clamp = (max(low, 0.0), min(high, highest))
            self.same(node)
        else:
            self.make(node, "clamp", clamp=(0.0, highest))

    def addition(self, node: fx.Node, other: Any, alpha: float = 1, **_: Any) -> None:
        first = node.args[0]
        both = [first, other]
        if alpha != 1 or not all(isinstance(one, fx.Node) for one in both) or _shape(first) != _shape(other):
            raise _unknown(node.name, "an addition of other than two values of one shape")
        self.add(node, Node(node.name, "add", [self.names[one] for one in both], _shape(node)))

    def shuffle(self, node: fx.Node, module: nn.ChannelShuffle) -> None:
        self.make(node, "shuffle", options={"groups": module.groups})

    def mean(self, node: fx.Node, dim: Any = None, keepdim: bool = False, **_: Any) -> None:
        shape = _shape(node.args[0])
        if len(shape) != 3 or sorted(d % 4 for d in ([dim] if isinstance(dim, int) else dim or [])) != [2, 3]:
            raise _unknown(node.name, "a mean over other axes than the pixels")
        self.pooled_whole(node, shape, keep=keepdim)

    def pooled_whole(self, node: fx.Node, shape: tuple[int, ...], keep: bool) -> None:
        pooled = self.make(node, "avg_pool", options={"kernel": shape[1:], "stride": shape[1:]})
        pooled.shape = (shape[0], 1, 1)
        if not keep:
            self.add(node, Node(f"{pooled.name}_flat", "flatten", [pooled.name], (shape[0],)))

    def adaptive_pool(self, node: fx.Node, output_size: Any) -> None:
        if output_size not in (1, (1, 1), [1, 1]):
            raise _unknown(node.name, f"an adaptive pooling to {shown(output_size)} pixels, not to 1")
        self.pooled_whole(node, _shape(node.args[0]), keep=True)

    def avg_pool(self, node: fx.Node, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
                 *_: Any, **__: Any) -> None:  # fmt: skip
        if _pair(padding) != (0, 0) or ceil_mode:
            raise _unknown(node.name, "an average pooling with padding or ceil_mode")
        kernel = _pair(kernel_size)
        self.make(node, "avg_pool", options={"kernel": kernel, "stride": _pair(stride or kernel)})

    def max_pool(self, node: fx.Node, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                 ceil_mode: bool = False, **_: Any) -> None:  # fmt: skip
        if _pair(dilation) != (1, 1) or ceil_mode:
            raise _unknown(node.name, "a maximum pooling with dilation or ceil_mode")
        kernel = _pair(kernel_size)
        options = {"kernel": kernel, "stride": _pair(stride or kernel), "padding": _pair(padding)}
        self.make(node, "max_pool", options=options)

    def flatten(self, node: fx.Node, *_: Any, **__: Any) -> None:
        if _shape(node) != (prod(_shape(node.args[0])),):
            raise _unknown(node.name, "a change of shape other than to [B, features]")
        if len(_shape(node.args[0])) == 1:
            self.same(node)
        else:
            self.make(node, "flatten")

    def slices(self, node: fx.Node, index: Any) -> None:
        if not isinstance(node.args[0], fx.Node) or "tensor_meta" not in node.args[0].meta:
            return  # of a size
        strides = [1, 1]
        whole = isinstance(index, tuple) and all(isinstance(i, slice) for i in index) and len(index) <= 4
        if whole:
            whole = all(i.start in (None, 0) and i.stop is None for i in index)
            whole = whole and all(i.step in (None, 1) for i in index[:2])
            strides = [i.step or 1 for i in index[2:]] + [1] * (4 - max(2, len(index)))
        if not whole:
            raise _unknown(node.name, "an index other than every n-th pixel")
        self.make(node, "subsample", options={"stride": tuple(strides[:2])})

    def pad(self, node: fx.Node, pad: Any, mode: str = "constant", value: float | None = None) -> None:
        if mode != "constant" or value not in (None, 0) or len(pad) != 6 or any(pad[:4]) or min(pad) < 0:
            raise _unknown(node.name, "a padding other than of channels with zeros")
        self.make(node, "pad_channels", options={"before": pad[4], "after": pad[5]})


def _shape(node: Any) -> tuple[int, ...]:
    """Of a value, without the batch."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _unknown(name: str, what: str) -> UserError:
    return UserError(f"{name}: {what} has no integer form here; use {KNOWN}")


def _find(table: Mapping[type, Callable], module: nn.Module) -> Callable | None:
    return next((handler for kind, handler in table.items() if isinstance(module, kind)), None)


MODULES: dict[type, Callable[[_Reader, fx.Node, Any], None]] = {
    nn.Conv2d: _Reader.convolution,
    nn.Linear: _Reader.linear,
    SwitchableBatchNorm: _Reader.norm,
    FloatNorm: _Reader.norm,
    nn.ReLU: lambda reader, node, _: reader.activation(node),
    nn.ReLU6: lambda reader, node, _: reader.activation(node, 6.0),
    nn.Identity: lambda reader, node, _: reader.same(node),
    nn.Dropout: lambda reader, node, _: reader.same(node),
    nn.ChannelShuffle: _Reader.shuffle,
    nn.AdaptiveAvgPool2d: lambda reader, node, m: reader.adaptive_pool(node, m.output_size),
    nn.AvgPool2d: lambda reader, node, m: reader.avg_pool(node, m.kernel_size, m.stride, m.padding, m.ceil_mode),
    nn.MaxPool2d: lambda reader, node, m: reader.max_pool(
        node, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode
    ),
    nn.Flatten: _Reader.flatten,
}
"""Kind of module -> what reads it."""

OPERATIONS: dict[Any, Callable[..., None]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _Reader.addition),
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), lambda r, n, *_, **__: r.activation(n)),
    F.relu6: lambda r, n, *_, **__: r.activation(n, 6.0),
    **dict.fromkeys((torch.mean, "mean"), _Reader.mean),
    **dict.fromkeys((torch.flatten, "flatten", "view", "reshape", torch.reshape), _Reader.flatten),
    **dict.fromkeys((F.dropout, "contiguous"), _Reader.same),
    operator.getitem: _Reader.slices,
    F.pad: _Reader.pad,
    F.adaptive_avg_pool2d: _Reader.adaptive_pool,
    F.avg_pool2d: _Reader.avg_pool,
    F.max_pool2d: _Reader.max_pool,
}
"""Function, or name of a tensor's method -> what reads it."""


def conv_options(layer: nn.Conv2d) -> dict[str, Any]:
    """The sizes of a convolution, as pairs (down, across) and numbers."""
    assert not isinstance(layer.padding, str)
    return {
        "kernel": _pair(layer.kernel_size),
        "stride": _pair(layer.stride),
        "padding": _pair(layer.padding),
        "dilation": _pair(layer.dilation),
        "groups": layer.groups,
    }


@torch.no_grad()
def folded_norm(node: Node) -> tuple[Tensor, Tensor]:
    """(gain, shift) [K] in float64: the layer's value is gain * (product without bias) + shift, batch norm of the
    current bit-width included."""
    channels = node.layer.weight.shape[0]
    bias = node.layer.bias
    norm: Any
    shift = torch.zeros(channels, dtype=torch.float64) if bias is None else bias.detach().double()
    norm = node.norm.current() if isinstance(node.norm, SwitchableBatchNorm) else node.norm
    if norm is None:
        return torch.ones(channels, dtype=torch.float64), shift
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = (shift - norm.running_mean.double()) * gain
    return gain.detach(), (shift if norm.bias is None else shift + norm.bias.double()).detach()
