"""Element-wise additions of activations at the network's bit-width: both operands quantized, as integer kernels add.

An addition is no module, so it is found by running: a mode of torch's sees every `a + b`, `a += b` and `torch.add` of a
module's own forward, whatever the code around it does. Which one it is, is its number among those of one call. What
only torch's dispatcher sees, additions inside a function of torch's, is named, not quantized.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from instantnet.quantize import Precision, SwitchableLayer
from instantnet.quantizers import FLOAT_BITS, QUANTIZERS
from instantnet.widths import Bits

IN_PLACE: Any = torch.Tensor.add_
ADDITIONS: set[Any] = {torch.add, torch.Tensor.add, IN_PLACE}
"""What `a + b`, `a += b` and their like call."""

HIDDEN = "additions inside a function of torch's: no operator of Python's makes them"


class Addition(SwitchableLayer):
    """(x, y), quantized for the sum: each over its own range, by the quantizer of layers' inputs."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.switch_by(precision)

    def switch_by(self, precision: Precision, own_bits: Bits | None = None) -> None:
        self.precision, self.own_bits = precision, own_bits
        _, self.activations = precision.operands(own_bits)
        inputs = QUANTIZERS[precision.quantizer].inputs
        self.quantizers = nn.ModuleList(inputs(self.activations, None) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.quantizers
        return first(x), second(y)

    def added(self, add: Callable[..., Tensor], x: Tensor, y: Tensor, *more: Any, **options: Any) -> Tensor:
        """add(x, y), with both quantized; in place where `add` is."""
        if self.activations.bits == FLOAT_BITS:
            return add(x, y, *more, **options)
        if add is not IN_PLACE:
            return add(*self(x, y), *more, **options)
        # x changes, but a quantizer may need what it was for its gradient.
        return x.copy_(torch.add(*self(x.clone(), y), *more, **options))


def is_residual(values: Sequence[Any]) -> bool:
    """Whether two operands are activations of one shape."""
    return (
        len(values) > 1
        and all(isinstance(value, Tensor) and not isinstance(value, nn.Parameter) for value in values[:2])
        and all(value.is_floating_point() and value.dim() > 1 for value in values[:2])
        and values[0].shape == values[1].shape
    )


class Adding:
    """Mixed into the class of a module whose own forward adds.

    residual_additions: one for each addition of a call, in running order.
    """

    residual_additions: nn.ModuleList

    def forward(self, *arguments: Any, **options: Any) -> Any:
        forward: Callable[..., Any] = super().forward  # type: ignore[misc]
        with _Watch(self.residual_additions):
            return forward(*arguments, **options)


class _Active(threading.local):
    """The modules that run and add, the innermost last."""

    def __init__(self) -> None:
        self.watches: list[_Watch] = []


_active = _Active()


class _Watch(TorchFunctionMode):
    """Quantizes the additions of one call of a module, not those of the modules that it calls."""

    def __init__(self, additions: nn.ModuleList):
        super().__init__()
        self.additions, self.seen, self.paused = additions, 0, 0

    def __enter__(self) -> "_Watch":
        _active.watches.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _active.watches.pop()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        own = not self.paused and _active.watches[-1] is self
        if own and func in ADDITIONS and is_residual(args):
            self.seen += 1
            if self.seen <= len(self.additions):
                addition: Any = self.additions[self.seen - 1]
                return addition.added(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _enter(module: nn.Module, inputs: Any) -> None:
    for watch in _active.watches[-1:]:
        watch.paused += 1


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    for watch in _active.watches[-1:]:
        watch.paused -= 1


def quantized_additions(network: nn.Module) -> dict[str, int]:
    """Name of a module -> how many additions of a call are quantized: what `quantize_additions` was given."""
    adding = {name: module for name, module in network.named_modules() if isinstance(module, Adding)}
    return {name: len(module.residual_additions) for name, module in adding.items()}


def quantize_additions(network: nn.Module, additions: Mapping[str, int], precision: Precision) -> None:
    """Let modules quantize their additions. additions: name -> how many a call has."""
    modules = dict(network.named_modules())
    inside: dict[nn.Module, None] = {}
    for name, count in additions.items():
        module: Any = modules[name]
        inside |= dict.fromkeys(child for child in module.modules() if child is not module)
        if hasattr(module, "residual_additions"):
            raise ValueError(f"{name or type(module).__name__} has an attribute 'residual_additions' already")
        place = next(network.parameters(), torch.empty(0)).device
        module.residual_additions = nn.ModuleList(Addition(precision) for _ in range(count)).to(place)
        module.residual_additions.train(module.training)
        module.__class__ = type(type(module).__name__, (Adding, type(module)), {})
    for child in inside:
        child.register_forward_pre_hook(_enter)
        child.register_forward_hook(_leave, always_call=True)


class _Callers:
    """The names of the modules that run, the innermost last, and how often each adds in a call."""

    def __init__(self, network: nn.Module):
        self.names = {module: name for name, module in network.named_modules()}
        self.running: list[tuple[str, Counter[str]]] = []
        self.most: dict[str, Counter[str]] = {"python": Counter(), "dispatcher": Counter()}

    def note(self, where: str) -> None:
        if self.running:
            name, counts = self.running[-1]
            counts[where] += 1
            self.most[where][name] = max(self.most[where][name], counts[where])

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.running.append((self.names[module], Counter()))

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.running.pop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [module.register_forward_pre_hook(self.enter) for module in self.names]
        handles += [module.register_forward_hook(self.leave, always_call=True) for module in self.names]
        try:
            with _Python(self), _Dispatcher(self):
                yield
        finally:
            for handle in handles:
                handle.remove()


class _Python(TorchFunctionMode):
    def __init__(self, callers: _Callers):
        super().__init__()
        self.callers = callers

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in ADDITIONS and is_residual(args):
            self.callers.note("python")
        return func(*args, **(kwargs or {}))


class _Dispatcher(TorchDispatchMode):
    def __init__(self, callers: _Callers):
        super().__init__()
        self.callers = callers

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and is_residual(args):
            self.callers.note("dispatcher")
        return func(*args, **(kwargs or {}))


def additions_of(network: nn.Module, run: Callable[[], None]) -> tuple[dict[str, int], dict[str, str]]:
    """(name of a module -> additions of a call; name -> why some of its additions are not among them). run: calls the
    network. Raises ValueError where it adds no activations."""
    callers = _Callers(network)
    with callers.watching():
        run()
    found, every = callers.most["python"], callers.most["dispatcher"]
    hidden = {name or type(network).__name__: HIDDEN for name, count in every.items() if count > found[name]}
    if not found and not hidden:
        raise ValueError(f"quantize_residual: {type(network).__name__} adds no two activations of one shape")
    return dict(found), hidden
