"""Which network stage 2 trains: that of an arch.pt, or one of the paper's by its name; and how it is rebuilt."""

from collections.abc import Mapping
from typing import Any

from instantnet.engine.errors import UserError
from instantnet.model_infer import DerivedNetwork
from instantnet.networks.mobilenet import mobilenet_v2
from instantnet.networks.paper import Form
from instantnet.networks.resnet import RESNET_BLOCKS, cifar_resnet
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableNetwork


def build_network(arch: Mapping[str, Any], settings: Mapping[str, Any], precision: Precision) -> SwitchableNetwork:
    """The network that `arch` names: {"network": one of the paper's}, or {"ops": operations of a searched one}.

    settings: `C.to_dict()` or a checkpoint's `config`. Raises ValueError, TypeError or KeyError where they do not fit.
    """
    name = arch.get("network", "derived")
    if name == "derived":
        return DerivedNetwork(arch["ops"], Geometry.from_settings(settings), precision)
    form = Form.from_settings(settings)
    if name in RESNET_BLOCKS:
        return cifar_resnet(name, form, precision, RESNET_BLOCKS[name])
    if name == "mobilenet_v2":
        return mobilenet_v2(name, form, precision)
    raise ValueError(f"unknown network {name!r}; known: derived, {', '.join(RESNET_BLOCKS)}, mobilenet_v2")


def build(arch: dict, settings: dict, precision: Precision, source: object) -> SwitchableNetwork:
    """The network of an architecture; `UserError` naming `source` where settings and architecture do not fit."""
    try:
        return build_network(arch, settings, precision)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: {error}") from error
