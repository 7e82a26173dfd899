"""Any torch module as a switchable-precision network: `instantnet.switchable(model, bit_widths=[4, 8, 32])`.

Convolutions, transposed convolutions and linear layers get quantizers, batch norms become one per bit-width; everything
else stays. A layer keeps its object, its parameters and their names: only its class changes.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as FloatNorm

from instantnet.networks import layers
from instantnet.networks.residual import Addition, additions_of, quantize_additions
from instantnet.quantize import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Precision,
    SwitchableBatchNorm,
    SwitchableConv2d,
    SwitchableLinear,
    SwitchableNetwork,
    set_own_bits,
)
from instantnet.quantizers import FLOAT_BITS, Quantizer
from instantnet.widths import Bits

SWITCHABLE: dict[type[nn.Module], type] = {
    nn.Conv1d: layers.SwitchableConv1d,
    nn.Conv2d: SwitchableConv2d,
    nn.Conv3d: layers.SwitchableConv3d,
    nn.ConvTranspose1d: layers.SwitchableConvTranspose1d,
    nn.ConvTranspose2d: layers.SwitchableConvTranspose2d,
    nn.ConvTranspose3d: layers.SwitchableConvTranspose3d,
    nn.Linear: SwitchableLinear,
}
"""torch's layer -> what it becomes."""

NORMS: dict[type[nn.Module], type] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}

KeepFloat = Sequence[str] | Callable[[str, nn.Module], bool]

OWN_FORWARD = "a subclass whose forward is its own"
READ_ELSEWHERE = "its forward does not run: another module reads its weights, or it is not used"
ATTENTION = "it multiplies by its projections' weights itself"


class ConvertedNetwork(SwitchableNetwork):
    """What a converted module is besides itself: `set_bits`, `model(.., num_bits=8)`, loading float weights."""

    kept_float: dict[str, str]
    """Name -> why: layers that could not be made switchable."""

    def __call__(self, *arguments: Any, num_bits: Bits | None = None, **options: Any) -> Any:
        if num_bits is not None:
            self.precision.set(num_bits)
        return nn.Module.__call__(self, *arguments, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch has it; weights of the float network are taken too, for every bit-width."""
        return super().load_state_dict(completed(self, state_dict), strict=strict, assign=assign)


def completed(network: SwitchableNetwork, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`state_dict`; that of the float network with its norms for every bit-width, and quantizers as they are."""
    own = network.state_dict()
    norms = {name for name, module in network.named_modules() if isinstance(module, SwitchableBatchNorm)}
    of_quantizers = [key for key in own if key.startswith(quantizer_names(network))]
    found: dict[str, Any] = {}
    for key, value in state_dict.items():
        norm, _, entry = key.rpartition(".")
        if norm in norms:
            found |= {f"{norm}.per_bit_width.{i}.{entry}": value for i in range(len(network.precision.bit_widths))}
        else:
            found[key] = value
    if not state_dict.keys() & of_quantizers:
        found |= {key: own[key] for key in of_quantizers}
    return found


def float_view(network: SwitchableNetwork) -> dict[str, Tensor]:
    """The state_dict of the network at 32 bit as that of the float network, by its names."""
    quantizers, last = quantizer_names(network), f".per_bit_width.{len(network.precision.bit_widths) - 1}."
    view = {}
    for name, value in network.state_dict().items():
        if not name.startswith(quantizers) and (last in name or ".per_bit_width." not in name):
            view[name.replace(last, ".")] = value
    return view


def quantizer_names(network: nn.Module) -> tuple[str, ...]:
    """How the names begin of what quantizers hold."""
    return tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, Quantizer))


def switchable(
    model: nn.Module,
    bit_widths: Sequence[Bits],
    *,
    quantizer: str = "minmax",
    keep_float: KeepFloat | None = None,
    bits_of: Mapping[str, Bits] | None = None,
    quantize_residual: bool = False,
    example: Any = None,
    strict: bool = True,
) -> Any:
    """A copy of `model` that runs at any of `bit_widths`; at 32 it computes what `model` does, bit for bit.

    bit_widths: numbers, or text such as "w4a8" where weights and activations differ.

    quantizer: one of `QUANTIZERS`. keep_float: layers that stay float at every bit-width, as names or patterns
    ("layer4.*"), or as a function of (name, module); by default the first and the last layer that runs. Batch norms
    switch whatever it says. bits_of: names or patterns of layers -> the bit-width that they run at whatever the
    network's is, 32 included; of several that fit, the last counts. quantize_residual: element-wise additions of
    activations quantize both operands (`instantnet.networks.residual`). example: what the model is called with, a
    tensor or a tuple of arguments; by default two inputs of noise that fit the first layer (224 x 224 pixels). It runs
    a few times, and leaves nothing behind.

    Shared modules stay shared. Layers that cannot be made switchable, above all those whose weights an attention block
    reads itself, are a ValueError that names each with the reason; with strict False they stay float, and
    `result.kept_float` names them.

    The result is of the model's class, with `set_bits`, `model(x, num_bits=4)` and `precision` besides; its
    `load_state_dict` takes float weights of the same architecture.
    """
    precision = Precision(bit_widths, quantizer=quantizer)
    check_attributes(model)
    network = copy.deepcopy(model)
    found = layers_of(network)
    if not found:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer")
    inputs = inputs_of(example, found)
    trace = traced(network, found, inputs)
    unusable = cannot_switch(network, found, trace)
    additions: dict[str, int] = {}
    if quantize_residual:
        additions, hidden = additions_of(network, lambda: both_modes(network, inputs))
        unusable |= {name: reason for name, reason in hidden.items() if name not in unusable}
    if unusable and strict:
        raise ValueError(not_switchable(unusable))
    stays = {*floats(found, trace, keep_float), *unusable}
    convert(network, stays, precision, unusable)
    if quantize_residual:
        quantize_additions(network, additions, precision)
    refuse_kept_float(bits_of or {}, stays)
    set_own_bits(network, bits_of or {})
    prove(network, [name for name in found if name in trace.runs and name not in stays], inputs)
    return network


def rebuilt(
    model: nn.Module, float_layers: Collection[str], precision: Precision, additions: Mapping[str, int] | None = None
) -> Any:
    """`model` itself, converted without running it: its layers switch, but for `float_layers`. It may be on meta.

    additions: name of a module -> how many additions of a call are quantized. Raises ValueError where it has no layer
    or module of such a name.
    """
    check_attributes(model)
    found = layers_of(model)
    modules = dict(model.named_modules())
    missing = [name for name in float_layers if name not in found]
    missing += [name for name in additions or {} if name not in modules]
    if missing:
        raise ValueError(f"{type(model).__name__} has no layer {missing[0]!r}")
    network = convert(model, float_layers, precision, {})
    quantize_additions(network, additions or {}, precision)
    return network


def float_layers_of(network: nn.Module) -> list[str]:
    """The layers of a converted network that stay float: what `rebuilt` needs to make such a one again."""
    return [name for name, module in layers_of(network).items() if not hasattr(module, "weight_quantizer")]


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer of a kind that switches."""
    return {name: module for name, module in model.named_modules() if layer_kind(module, SWITCHABLE)}


def check_attributes(model: nn.Module) -> None:
    """ValueError where the module has an attribute that a switchable network needs."""
    taken = [name for name in ("precision", "set_bits", "regions", "kept_float") if hasattr(model, name)]
    if taken:
        raise ValueError(f"{type(model).__name__} has an attribute {taken[0]!r} already, which a switchable one needs")


def convert(
    network: nn.Module, stays: Collection[str], precision: Precision, kept_float: Mapping[str, str]
) -> "ConvertedNetwork":
    """Make `network`, in place, one that switches by `precision`, but for the layers `stays`."""
    converted: Any = network
    for name, module in layers_of(network).items():
        if name not in stays:
            become(module, SWITCHABLE, precision)
    with_norms(network, precision)
    converted.__class__ = type(f"Switchable{type(network).__name__}", (ConvertedNetwork, type(network)), {})
    converted.precision = precision
    converted.kept_float = dict(kept_float)
    return converted


def refuse_kept_float(bits_of: Iterable[str], stays: Iterable[str]) -> None:
    """ValueError where a bit-width is asked, by name, of a layer that stays float."""
    for name in bits_of:
        if name in stays:
            raise ValueError(f"bits_of: {name!r} stays float; keep_float chooses which layers do")


def layer_kind(module: nn.Module, table: Mapping[type[nn.Module], type]) -> type[nn.Module] | None:
    """The class in `table` that the module is of, or derives from."""
    return next((kind for kind in table if isinstance(module, kind)), None)


def become(module: nn.Module, table: Mapping[type[nn.Module], type], precision: Precision) -> None:
    """Change the module's class to that in the table; a subclass that has the forward of torch's class loses its own
    class."""
    kind = layer_kind(module, table)
    assert kind is not None
    training = module.training
    tensor = next(iter(module.parameters()), None)
    module.__class__ = table[kind]
    switched: Any = module
    switched.switch_by(precision)
    for child in module.children():  # new ones; where they lie is where the weights do
        child.to(None if tensor is None else tensor.device)
    module.train(training)


def with_norms(network: nn.Module, precision: Precision) -> None:
    """Replace every batch norm by one per bit-width, each a copy of it; shared ones stay shared."""
    made: dict[nn.Module, SwitchableBatchNorm] = {}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, FloatNorm) or why_no_norm(child):
                continue
            if child not in made:
                made[child] = switchable_norm(child, precision).train(child.training)
            setattr(parent, name, made[child])


def switchable_norm(norm: FloatNorm, precision: Precision) -> SwitchableBatchNorm:
    """A copy of `norm` for every bit-width; the activation of one that ends in it is shared."""
    copies: list[Any] = [copy.deepcopy(norm) for _ in precision.bit_widths]
    tail = [copies[0].drop, copies[0].act] if layers.ends_in_activation(norm) else []
    for one in copies:
        if tail:
            del one.drop, one.act
        become(one, NORMS, precision)
    return layers.SwitchableNormAct(copies, precision, *tail) if tail else SwitchableBatchNorm(copies, precision)


def why_no_norm(norm: FloatNorm) -> str:
    """Why a batch norm does not switch; "" where it does."""
    if layer_kind(norm, NORMS) is None:
        return f"a {type(norm).__name__}: only BatchNorm1d, 2d and 3d switch"
    own = type(norm).forward is not FloatNorm.forward
    return OWN_FORWARD if own and not layers.ends_in_activation(norm) else ""


def inputs_of(example: Any, found: Mapping[str, nn.Module]) -> tuple[Any, ...]:
    """Arguments of a call."""
    if example is not None:
        return example if isinstance(example, tuple) else (example,)
    first: Any = next(iter(found.values()))
    device = first.weight.device
    generator = torch.Generator().manual_seed(0)
    if isinstance(first, nn.Linear):
        shape: tuple[int, ...] = (2, first.in_features)
    else:
        shape = (2, first.in_channels, *(224 if len(first.kernel_size) == 2 else 32 for _ in first.kernel_size))
    return (torch.randn(shape, generator=generator).to(device, first.weight.dtype),)


class Trace(NamedTuple):
    """The layers whose forward runs, in training or in evaluation, and the first and the last of an evaluation."""

    runs: set[str]
    first: str
    last: str


def traced(network: nn.Module, found: Mapping[str, nn.Module], inputs: tuple[Any, ...]) -> Trace:
    """Raises ValueError where the network does not take the example."""
    names = {module: name for name, module in found.items()}
    runs: list[str] = []
    with observed(found.values(), lambda module, _: runs.append(names[module])):
        trial(network, inputs, training=True)
        in_training = len(runs)
        trial(network, inputs, training=False)
    evaluated = runs[in_training:] or [""]
    return Trace(set(runs), evaluated[0], evaluated[-1])


@contextmanager
def observed(modules: Iterable[nn.Module], note: Callable[..., None]) -> Any:
    """Within it `note(module, inputs)` is called before each of the modules runs."""
    handles = [module.register_forward_pre_hook(note) for module in dict.fromkeys(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trial(network: nn.Module, inputs: tuple[Any, ...], training: bool) -> Any:
    """What the network returns; its buffers, modes and the random state are put back."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train(training)
    devices = [buffer.device for buffer in buffers.values() if buffer.is_cuda]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices[:1]):
            return network(*inputs)
    except Exception as error:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in inputs]
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the network does not run on the example {shapes}: {reason}; give another `example`"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])


def both_modes(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Call the network in training and in evaluation, and leave nothing behind."""
    trial(network, inputs, training=True)
    trial(network, inputs, training=False)


def cannot_switch(network: nn.Module, found: Mapping[str, nn.Module], trace: Trace) -> dict[str, str]:
    """Name -> reason."""
    reasons = {}
    for name, module in found.items():
        kind = layer_kind(module, SWITCHABLE)
        assert kind is not None
        if type(module).forward is not kind.forward:
            reasons[name] = OWN_FORWARD
        elif name not in trace.runs:
            reasons[name] = READ_ELSEWHERE
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            reasons[name] = ATTENTION
        if isinstance(module, FloatNorm) and (why := why_no_norm(module)):
            reasons[name] = why
    return reasons


def not_switchable(reasons: Mapping[str, str]) -> str:
    lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
    return f"{len(reasons)} modules cannot be made switchable; strict=False leaves them float:{lines}"


def floats(found: Mapping[str, nn.Module], trace: Trace, keep_float: KeepFloat | None) -> list[str]:
    """The layers that stay float. Raises ValueError where a name or pattern is of none."""
    if keep_float is None:
        return [trace.first, trace.last]
    if callable(keep_float):
        return [name for name, module in found.items() if keep_float(name, module)]
    if isinstance(keep_float, str):
        raise ValueError(f"keep_float = {keep_float!r}: give a list of names or patterns")
    kept = []
    for pattern in keep_float:
        fitting = [name for name in found if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(f"keep_float: no layer is named {pattern!r}; the first ones: {', '.join(list(found)[:5])}")
        kept += fitting
    return kept


def prove(network: Any, names: Sequence[str], inputs: tuple[Any, ...]) -> None:
    """Run the example at the lowest bit-width and see both quantizers of every layer at work. Raises ValueError."""
    precision = network.precision
    narrow = [bits for bits in precision.bit_widths if bits != FLOAT_BITS]
    if not narrow:
        return
    modules = dict(network.named_modules(remove_duplicate=False))
    names = [*names, *(name for name, module in modules.items() if isinstance(module, Addition))]
    quantizers = {
        quantizer: f"{name}.{part}"
        for name in names
        for part, quantizer in modules[name].named_modules()
        if isinstance(quantizer, Quantizer)
    }
    ran: set[nn.Module] = set()
    before = precision.bits
    precision.set(narrow[0])
    working = {q: name for q, name in quantizers.items() if q.precision.bits != FLOAT_BITS}
    try:
        with precision.frozen_statistics(), observed(quantizers, lambda module, _: ran.add(module)):
            trial(network, inputs, training=True)
            trial(network, inputs, training=False)
    finally:
        precision.set(before)
    idle = [name for quantizer, name in working.items() if quantizer not in ran]
    if idle:
        raise ValueError(f"quantizers that do not run: {', '.join(idle)}")
