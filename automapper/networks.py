"""What a user calls a network, as layers to map, and the bit-widths to map it at."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from automapper.layer_list import network_of, read_layers
from automapper.workload import Network
from hw_model import Layer
from hw_model.widths import Bits, width_order, widths_of
from instantnet.engine.errors import UserError
from instantnet.engine.user_code import names_a_function, names_of_library
from instantnet.settings.stages import MapSettings

if TYPE_CHECKING:
    from torch import nn

BIT_WIDTHS = (4, 8, 12, 16, 32)  # the paper's, where neither the caller nor the network names any
YAML = (".yaml", ".yml")


def read_network(
    network: str | os.PathLike | Sequence[Layer] | Network | nn.Module,
    batch: int = MapSettings.batch,
    example: Any = None,
) -> Network:
    """The layers of a `network` argument of `map_network`. Raises UserError or hw_model.InputError for anything
    else."""
    if isinstance(network, _module_type()):
        if batch != 1:
            raise UserError(f"setting batch = {batch}: the batch of a module is that of its example input")
        from automapper import layers

        return layers.load_module(network, example)
    if example is not None:
        raise UserError("example: only a torch module takes an example input")
    if isinstance(network, Network):
        return network
    if isinstance(network, str | os.PathLike):
        return _read_named(os.fspath(network), batch)
    if isinstance(network, Sequence) and network:
        shapes = [one for one in network if isinstance(one, Layer)]
        if len(shapes) == len(network):
            return network_of(shapes, batch, "layers")
    raise UserError(
        f"network: a {type(network).__name__} is neither a torch module, a path, a torchvision model's name nor a list "
        "of hw_model layers"
    )


def _module_type() -> Any:
    """torch.nn.Module if torch is loaded, else (): then nothing can be a module, and loading torch takes seconds."""
    return sys.modules["torch"].nn.Module if "torch" in sys.modules else ()


def _read_named(name: str, batch: int) -> Network:
    if name.endswith(YAML):
        return read_layers(name, batch)
    from automapper import layers  # imported here: torch takes seconds to load

    if names_of_library(name) or names_a_function(name):
        return layers.load_named(name, batch)
    if name.endswith(".pt") or os.sep in name or os.path.exists(name):
        return layers.load_network(name, batch)
    return layers.load_named(name, batch)


def chosen_bits(bits: Sequence[Bits], network: Network) -> tuple[Bits, ...]:
    """The bit-widths to map: those asked for, else all of the network's, else the paper's.

    They are sorted by activations, then weights, lowest first.

    Raises UserError where the network does not have one.
    """
    specs: set[Bits] = {one.W if one.W == one.I else one.label for one in map(widths_of, bits)}  # "w8a8" is 8
    known = network.bit_widths
    both = [width for width in known if isinstance(width, int)]  # any two of these, too
    lacking = [spec for spec in specs if known and spec not in known]
    missing = [width for spec in lacking for width in widths_of(spec) if width not in both]
    if missing:
        raise UserError(f"setting bits: {network.name} has no bit-width {missing[0]}, only {list(known)}")
    return tuple(sorted(specs, key=width_order)) or known or BIT_WIDTHS
