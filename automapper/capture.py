"""The layers that run in a torch module, seen at the dispatcher.

Shapes are measured, not computed: one input runs through the network, and every operation that torch dispatches is
recorded, whether a module or a function called it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from automapper.graph import Sources
from automapper.shapes import NoLayer, convolution, linear, product, renamed, transposed_convolution
from automapper.torch_operations import (
    ADDS,
    ATTENTION,
    CREATES,
    HANDLED,
    KINDS,
    MOVES,
    NORMS,
    PASSES,
    PRODUCTS,
    REFUSED,
)
from automapper.workload import NetworkLayer, Unmapped
from hw_model import InputError, Layer
from instantnet.engine.errors import UserError
from instantnet.quantize import FLOAT_BITS, SwitchableLayer


def extract_layers(model: nn.Module, *inputs: Any, plain_bits: int | None = FLOAT_BITS) -> list[NetworkLayer]:
    """The layers of `capture`."""
    return list(capture(model, *inputs, plain_bits=plain_bits)[0])


def capture(
    model: nn.Module, *inputs: Any, plain_bits: int | None = FLOAT_BITS
) -> tuple[tuple[NetworkLayer, ...], tuple[Unmapped, ...]]:
    """Every convolution and matrix product that runs on `inputs`, in running order, and what else runs.

    Layers are named by the module they run in. If a module runs several operations, each has its kind as a suffix:
    `attention[linear]`, `attention[matmul]`, `attention[matmul 2]`. If a module runs again, ` (run 2)` follows.
    Switchable layers run at the network's bit-width or their own, all others at plain_bits (None: at the network's
    too). The model is left as it was.

    Raises UserError naming a layer that cannot be mapped.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # it runs without the dispatcher's modes
            raise _unmappable(_Run(name or type(module).__name__, module, 1), "is compiled by torch.jit")
    batch = next((len(t) for t in tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.dim() > 1), 1)
    recorder = _Recorder(model, batch, plain_bits)
    training = {module: module.training for module in model.modules()}
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(recorder.enter, name)))
        handles.append(module.register_forward_hook(recorder.leave, always_call=True))
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    # These run a whole encoder layer, or a whole LSTM, as one operation.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a descriptor, as torch types it
    try:
        with torch.no_grad(), recorder:
            recorder.depends_on_input(inputs)
            recorder.sources.leaves(_tensors(model.eval()(*inputs)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.mkldnn.enabled = onednn
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return recorder.layers(), recorder.unmapped()


@dataclass
class _Run:
    """One call of a module. kinds: of the operations that ran in it and in no module inside it; quantized: elements of
    a switchable layer's input."""

    name: str
    module: nn.Module
    number: int
    kinds: list[str] = field(default_factory=list)
    quantized: int = 0


class _Recorder(TorchDispatchMode):
    """Records every operation at torch's dispatcher, below modules and functions, where nothing is hidden."""

    def __init__(self, model: nn.Module, batch: int, plain_bits: int | None):
        super().__init__()
        self.batch, self.plain_bits = batch, plain_bits
        self.runs = [_Run(type(model).__name__, model, 1)]  # the current calls, the innermost last
        self.counts: Counter[str] = Counter()
        self.found: list[tuple[_Run, int, NetworkLayer]] = []  # with the position among the operations of the run
        self.others: Counter[tuple[str, str]] = Counter()
        self.tracked = WeakTensorKeyDictionary()  # tensors that depend on the input: activations
        self.padded = WeakTensorKeyDictionary()  # output of a padding with zeros -> (shape before, padding)
        self.sources = Sources(WeakTensorKeyDictionary())

    def enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        name = name or type(module).__name__
        self.counts[name] += 1
        self.runs.append(_Run(name, module, self.counts[name]))

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.runs.pop()

    def depends_on_input(self, values: Any) -> None:
        for tensor in _tensors(values):
            self.tracked[tensor] = True

    def layers(self) -> tuple[NetworkLayer, ...]:
        several = {run.name for run, _, _ in self.found if len(run.kinds) > 1}
        named = []
        for run, position, item in self.found:
            kind, before = run.kinds[position], run.kinds[:position].count(run.kinds[position])
            name = run.name
            name += f"[{kind}{f' {before + 1}' if before else ''}]" if name in several else ""
            name += f" (run {run.number})" if run.number > 1 else ""
            named.append(replace(item, layer=renamed(item.layer, name)))
        return self.sources.linked(named)

    def unmapped(self) -> tuple[Unmapped, ...]:
        return tuple(Unmapped(name, kind, count) for (name, kind), count in self.others.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        namespace, _, name = func.name().partition(".")[0].partition("::")
        if name not in HANDLED:
            with self:  # in inference mode composite operations are not split up
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        run = self.runs[-1]
        if name == "_local_scalar_dense" and args[0].is_meta and args[0].dtype == torch.bool:
            return True  # a flag, as whether a range is initialised: without values, as after training
        if namespace == "quantized" or name in REFUSED:
            raise _unmappable(run, f"runs {namespace}::{name}")
        output = func(*args, **kwargs)
        active = name not in CREATES and any(tensor in self.tracked for tensor in _tensors((args, kwargs)))
        try:
            if name == "convolution":
                self._convolution(run, output, *args)
            elif name in PRODUCTS:
                left, right = args[PRODUCTS[name] :][:2]
                self._product(run, output, left, right)
            elif name in ATTENTION:
                self._attention(run, *args[:3])
            elif active and name not in MOVES and not func.is_view:
                self._other(run, name, (args, kwargs, output))
        except NoLayer as error:
            raise _unmappable(run, str(error)) from error
        except InputError as error:
            raise _unmappable(run, f"is beyond what a layer can be ({error})") from error
        if active and name not in HANDLED:
            self._follow(func, name, (args, kwargs), output)
        if name == "constant_pad_nd" and not any(args[2:]):
            self.padded[output] = (args[0].shape, args[1])
        if active:
            self.depends_on_input(output)
        return output

    def _follow(self, func: Any, name: str, values: Any, output: Any) -> None:
        """Follow the outputs of layers through an operation that is none."""
        read = [tensor for tensor in _tensors(values) if tensor in self.tracked]
        out = next(iter(_tensors(output)), None)
        if out is None:
            return
        alike = [tensor for tensor in read if tensor.shape == out.shape]
        pointwise = torch.Tag.pointwise in func.tags or name in PASSES
        # A quantizer's ranges are numbers by then, whatever computed them: the input passes element by element.
        quantizing = any(isinstance(run.module, SwitchableLayer) for run in self.runs)
        if name in NORMS:
            return self.sources.passes(values[0][0], out)
        if quantizing:
            return self.sources.passes(next((one for one in alike if one in self.sources.values), out), out)
        if not pointwise or len(alike) < len(read) or len(alike) > 2:
            return self.sources.leaves(read, out)
        if len(alike) == 1:
            return self.sources.passes(alike[0], out)
        if name in ADDS and any(tensor in self.sources.values for tensor in alike):
            return self.sources.added(alike[0], alike[1], out)
        self.sources.leaves(alike, out)

    def _add(
        self, run: _Run, kind: str, layer: Layer, product: bool = False, reads: Any = (), output: Any = None
    ) -> None:
        """Note a layer. reads, output: see `Sources.runs`."""
        self.sources.runs(layer, reads, output)
        own_bits = run.module.own_bits if isinstance(run.module, SwitchableLayer) else self.plain_bits
        item = NetworkLayer(layer, own_bits, product)
        self.found.append((run, len(run.kinds), item))
        run.kinds.append(kind)

    def _convolution(
        self, run: _Run, y: Any, x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> None:  # fmt: skip
        if not y.numel():
            return
        if transposed:
            return self._add(run, "conv", transposed_convolution(x.shape, w.shape, groups), w in self.tracked, (x, w))
        axes = x.dim() - 2
        x_shape, padding = list(x.shape), [*padding] * (axes if len(padding) == 1 else 1)
        # padding="same" with an even filter pads one side by a separate operation; any other separate padding
        # makes rows of the input that are read
        if getattr(run.module, "padding", None) == "same" and x in self.padded:
            shape, around = self.padded[x]
            x_shape = list(shape)
            before = [*around[::2], *[0] * axes][:axes][::-1]  # given from the last axis on, (before, after) each
            padding = [pad + more for pad, more in zip(padding, before, strict=True)]
        stride, padding, dilation = ([*n] * (axes if len(n) == 1 else 1) for n in (stride, padding, dilation))
        layer = convolution(x_shape, w.shape, y.shape, stride, padding, dilation, groups)
        reads = (x, w) if w in self.tracked else (x,)
        self._add(run, "conv", layer, w in self.tracked, reads, y)

    def _product(self, run: _Run, y: Any, left: Any, right: Any) -> None:
        """[.., rows, inner] x [.., inner, columns], with up to one dimension before; either may be a vector."""
        count = len(left) if left.dim() == 3 else 1
        rows = left.shape[-2] if left.dim() > 1 else 1
        columns = right.shape[-1] if right.dim() > 1 else 1
        inner = left.shape[-1]
        if not count * rows * columns * inner:
            return
        if left in self.tracked and right in self.tracked:
            return self._add(run, "matmul", product(count, rows, inner, columns), True, (left, right))
        weights, reads = right, left
        if right in self.tracked:  # W x: the same product as x' W'
            weights, reads, rows, columns = left, right, columns, rows
        if count == 1 or weights.stride(0) == 0:  # the same weights for all
            whole = y if reads is left and left.dim() == 2 else None  # as images x features, in that order
            return self._add(run, "linear", linear(count * rows, inner, columns, self.batch), False, (reads,), whole)
        self._add(run, "linear", product(count, rows, inner, columns), False, (left, right))

    def _attention(self, run: _Run, q: Any, k: Any, v: Any) -> None:
        """Scaled dot product attention in one operation: q [.., L, D], k [.., M, D], v [.., M, E]."""
        count, rows, columns = q.shape[:-2].numel(), q.shape[-2], k.shape[-2]
        if not q.numel() * v.numel():
            return
        self._add(run, "matmul", product(count, rows, q.shape[-1], columns), True, (q, k))
        self._add(run, "matmul", product(count, rows, columns, v.shape[-1]), True, (v, q))
        self.others[run.name, "softmax"] += count * rows * columns

    def _other(self, run: _Run, name: str, values: Any) -> None:
        operations = max((tensor.numel() for tensor in _tensors(values)), default=0)
        layer = next((one for one in reversed(self.runs) if isinstance(one.module, SwitchableLayer)), None)
        if layer is not None:  # torch quantizes an input by a dozen operations; they count as one per element
            self.others[layer.name, "quantize"] += max(0, operations - layer.quantized)
            layer.quantized = max(layer.quantized, operations)
            return
        kind = KINDS.get(name, name.strip("_").removeprefix("native_"))
        self.others[run.name, kind] += operations


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _unmappable(run: _Run, why: str) -> UserError:
    return UserError(
        f"layer {run.name} ({type(run.module).__name__}) {why}: it cannot be mapped; list the layers to map in a file: "
        "--network layers.yaml"
    )
