"""A YAML list of layers -> a network: [{name: conv1, K: 64, C: 3, P: 112, Q: 112, R: 7, S: 7, stride: 2}, ..]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from automapper.workload import Network, NetworkLayer
from hw_model import InputError, Layer
from hw_model.errors import shown
from hw_model.yaml_lines import place, read_text, read_yaml

MOST_TAPS = 2**13  # of a filter along an axis: costing a mapping takes time in proportion
MOST_LAYERS = 1000


def read_layers(path: str, batch: int) -> Network:
    """The layers of a YAML file, in its order; all run at the network's bit-width.

    Args:
        path: a list of objects {name, N, G, K, C, P, Q, R, S, stride, ..}, the fields of hw_model.Layer; sizes left out
            are 1, names "layer 0", ... ; no two names alike.
        batch: multiplies the N of every layer.

    Raises:
        InputError: file, line and field of what is wrong.
    """
    data, lines = read_yaml(read_text(path), path)
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected a list of layers, each {{name, N, G, K, C, P, Q, R, S, stride}}")
    if len(data) > MOST_LAYERS:
        raise InputError(f"{path}: {len(data):,} layers, at most {MOST_LAYERS:,}")
    layers: list[Layer] = []
    first: dict[str, int] = {}
    for index, fields in enumerate(data):
        try:
            layer = Layer.from_dict(fields)
            if "name" in fields and not layer.name.strip():
                raise InputError("name: empty; leave it out, or give the layer a name")
            layers.append(_named(layer, index, batch, first))
        except InputError as error:
            raise InputError(f"{place(path, (index,), lines)}: {error}") from None
    return Network(path, tuple(NetworkLayer(layer) for layer in layers), ())


def network_of(layers: Sequence[Layer], batch: int, name: str) -> Network:
    """The same for layers in memory. Raises InputError naming the layer by its index."""
    first: dict[str, int] = {}
    found = []
    for index, layer in enumerate(layers):
        try:
            found.append(NetworkLayer(_named(layer, index, batch, first)))
        except InputError as error:
            raise InputError(f"{name}[{index}]: {error}") from None
    return Network(name, tuple(found), ())


def _named(layer: Layer, index: int, batch: int, first: dict[str, int]) -> Layer:
    """The layer with its name in the report. first: name -> index of its first use, updated here."""
    if (taps := max(layer.R, layer.S)) > MOST_TAPS:
        raise InputError(f"R, S: {taps:,}: a mapping is searched for filters of up to {MOST_TAPS:,} taps along an axis")
    name = layer.name or f"layer {index}"
    if name in first:
        raise InputError(f"name: {shown(name)} is the name of [{first[name]}] too; each layer needs its own")
    first[name] = index
    return replace(layer, name=name, N=layer.N * batch)
