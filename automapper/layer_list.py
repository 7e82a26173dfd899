"""A YAML list of layers -> a network: [{name: conv1, K: 64, C: 3, P: 112, Q: 112, R: 7, S: 7, stride: 2}, ..]

Where a layer reads the output of an earlier one, `from:` names that, and `add:` names one, or several, whose output is
added to its own (`dram`: a tensor that no layer made). `stored: true`: something else reads the output, too.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from automapper.graph import misfit, unequal
from automapper.workload import DRAM, Network, NetworkLayer
from hw_model import InputError, Layer
from hw_model.errors import shown
from hw_model.yaml_lines import place, read_text, read_yaml

MOST_TAPS = 2**13  # of a filter along an axis: costing a mapping takes time in proportion
MOST_LAYERS = 1000
LINKS = ("from", "add", "stored")  # fields of an entry besides those of its layer
IN_DRAM = "dram"  # as `add`


def read_layers(path: str, batch: int) -> Network:
    """The layers of a YAML file, in its order; all run at the network's bit-width.

    Args:
        path: a list of objects {name, N, G, K, C, P, Q, R, S, stride, ..}, the fields of hw_model.Layer; sizes left out
            are 1, names "layer 0", ... ; no two names alike; and the fields LINKS. A layer without `from` reads from
            DRAM.
        batch: multiplies the N of every layer.

    Raises:
        InputError: file, line and field of what is wrong.
    """
    data, lines = read_yaml(read_text(path), path)
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected a list of layers, each {{name, N, G, K, C, P, Q, R, S, stride}}")
    if len(data) > MOST_LAYERS:
        raise InputError(f"{path}: {len(data):,} layers, at most {MOST_LAYERS:,}")
    layers: list[NetworkLayer] = []
    first: dict[str, int] = {}
    for index, fields in enumerate(data):
        try:
            links = {key: fields[key] for key in LINKS if key in fields} if isinstance(fields, MappingABC) else {}
            layer = Layer.from_dict({k: v for k, v in fields.items() if k not in LINKS} if links else fields)
            if "name" in fields and not layer.name.strip():
                raise InputError("name: empty; leave it out, or give the layer a name")
            layers.append(_linked(_named(layer, index, batch, first), links, layers, first))
        except InputError as error:
            raise InputError(f"{place(path, (index,), lines)}: {error}") from None
    return Network(path, tuple(layers), ())


def _linked(
    layer: Layer, links: MappingABC[str, Any], before: Sequence[NetworkLayer], first: MappingABC[str, int]
) -> NetworkLayer:
    """The layer with its `from`, `add` and `stored`. first: name -> index of this layer and those before it.

    Raises InputError where one of them names no earlier layer, or the shapes do not fit.
    """

    def earlier(field: str, name: Any) -> int:
        index = first.get(name, len(before)) if isinstance(name, str) else len(before)
        if index == len(before):
            raise InputError(f"{field}: {shown(name)} is not the name of an earlier layer")
        return index

    source = None
    if "from" in links:
        source = earlier("from", links["from"])
        if why := misfit(before[source].layer, layer):
            raise InputError(f"from: {links['from']} does not fit: {why}; give H and W where padding is not zero")
    adds = []
    given = links.get("add", [])
    for name in given if isinstance(given, list) else [given]:
        adds.append(DRAM if name == IN_DRAM and name not in first else earlier("add", name))
        if adds[-1] != DRAM and (why := unequal(before[adds[-1]].layer, layer)):
            raise InputError(f"add: the outputs of {name} and of this layer differ: {why}")
    if not isinstance(stored := links.get("stored", False), bool):
        raise InputError(f"stored: {shown(stored)} is neither true nor false")
    return NetworkLayer(layer, source=source, adds=tuple(adds), stored=stored)


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
