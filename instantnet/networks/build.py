"""Which network stage 2 trains: that of an arch.pt, one of the paper's, or one of others by name; and how it is
rebuilt."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from instantnet.engine.errors import UserError
from instantnet.engine.user_code import described as described_error
from instantnet.engine.user_code import names_a_function
from instantnet.model_infer import DerivedNetwork, profile
from instantnet.networks.converted import ConvertedNetwork, float_layers_of, rebuilt, switchable, trial
from instantnet.networks.mobilenet import mobilenet_v2
from instantnet.networks.named import float_network, own_name
from instantnet.networks.paper import Form
from instantnet.networks.residual import quantized_additions
from instantnet.networks.resnet import RESNET_BLOCKS, cifar_resnet
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableNetwork, set_own_bits
from instantnet.widths import own_bits


def build_network(arch: Mapping[str, Any], settings: Mapping[str, Any], precision: Precision) -> SwitchableNetwork:
    """The network that `arch` names: {"ops": operations of a searched one}, {"network": one of the paper's}, or
    {"network": a name of `float_network`'s, "float_layers": its layers that do not switch, and "additions": module ->
    number of those that are quantized, if any}.

    settings: `C.to_dict()` or a checkpoint's `config`, whose `bits_of` single layers follow. Raises ValueError,
    TypeError or KeyError where they do not fit.
    """
    network = network_of(arch, settings, precision)
    set_own_bits(network, own_bits(settings.get("bits_of", [])))
    return network


def network_of(arch: Mapping[str, Any], settings: Mapping[str, Any], precision: Precision) -> SwitchableNetwork:
    """The same with every layer at the network's bit-width."""
    name = arch.get("network", "derived")
    if name == "derived":
        return DerivedNetwork(arch["ops"], Geometry.from_settings(settings), precision)
    form = Form.from_settings(settings)
    if name in RESNET_BLOCKS:
        return cifar_resnet(name, form, precision, RESNET_BLOCKS[name])
    if name == "mobilenet_v2":
        return mobilenet_v2(name, form, precision)
    if own_name(name):
        module = float_network(name, form.num_classes, (form.image_height, form.image_width))
        return rebuilt(module, arch["float_layers"], precision, arch.get("additions"))
    raise ValueError(f"unknown network {name!r}; known: derived, {', '.join(RESNET_BLOCKS)}, mobilenet_v2")


def build(arch: dict, settings: dict, precision: Precision, source: object) -> SwitchableNetwork:
    """The network of an architecture; `UserError` naming `source` where settings and architecture do not fit."""
    try:
        return build_network(arch, settings, precision)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: {error}") from error


def own_architecture(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `build_network` makes the network of that name of, which is run and converted for this once.

    settings: `C.to_dict()`; with quantize_ends the first and the last layer switch, too, unless keep_float names some.
    "kept_float" of the result: name -> why, of layers that cannot. Raises UserError where the network cannot be used.
    """
    size = settings["image_height"], settings["image_width"]
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    module = float_network(name, settings["num_classes"] or 10, size)
    try:
        network = switchable(
            module,
            settings["num_bits_list"],
            quantizer=settings["quantizer"],
            keep_float=settings["keep_float"] or ([] if settings["quantize_ends"] else None),
            quantize_residual=settings["quantize_residual"],
            example=images.to(next(module.parameters(), images).device),
            strict=False,
        )
        for training in (True, False):
            check_logits(trial(network, (images,), training))
    except ValueError as error:
        cause = error.__cause__  # of what the user's file raised, which says the line
        said = described_error(cause, name) if cause and names_a_function(name) else str(error)
        said = said.replace("give another `example`", "other image sizes may do")
        raise UserError(f"setting network = {name!r}: {said}") from error
    found = {"network": name, "float_layers": float_layers_of(network), "kept_float": network.kept_float}
    additions = quantized_additions(network)
    return found | {"additions": additions} if additions else found


def check_logits(output: Any, num_classes: int | None = None) -> None:
    """ValueError unless `output` is logits [B, classes]."""
    if not isinstance(output, Tensor):
        raise ValueError(f"it returns {type(output).__name__}, not a tensor of logits")
    if output.dim() != 2:
        raise ValueError(f"it returns {list(output.shape)}, not logits [images, classes]")
    if num_classes not in (None, output.shape[1]):
        raise ValueError(f"its logits are of {output.shape[1]} classes, the data has {num_classes}")


def sizes_of(model: SwitchableNetwork, settings: Mapping[str, Any], source: object) -> tuple[int, int]:
    """(FLOPs for one image, parameters). Of the project's networks as `profile` counts them; of others the
    multiply-accumulates of every convolution and matrix product, the classifier's included, and all parameters.

    Raises UserError, naming `source`, where logits are of another number of classes than the settings'.
    """
    if not isinstance(model, ConvertedNetwork):
        return profile(model)
    like = next(model.parameters())
    image = torch.zeros(1, 3, settings["image_height"], settings["image_width"], dtype=like.dtype, device=like.device)
    fast_path = torch.backends.mha.get_fastpath_enabled()  # it runs an encoder layer as one operation
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            check_logits(trial(model, (image,), training=False), settings["num_classes"])
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in model.parameters())


def described(source: object, arch: Mapping[str, Any], flops: int, parameters: int) -> str:
    """For a log: where a network comes from, its sizes, the operations of a searched one; of one of others the layers
    that do not switch."""
    first = f"network of {source}: {flops / 1e6:.2f} MFLOPs, {parameters / 1e6:.3f} M parameters"
    if "ops" in arch:
        return f"{first}\n  {' '.join(arch['ops'])}"
    reasons = arch.get("kept_float", {})
    chosen = [name for name in arch.get("float_layers", ()) if name not in reasons]
    lines = [f"float at every bit-width: {', '.join(chosen)}"] if chosen else []
    if additions := arch.get("additions"):
        lines.append(f"{sum(additions.values())} additions are quantized, in {len(additions)} modules")
    lines += [f"cannot switch, float: {name}: {why}" for name, why in reasons.items()]
    return "\n  ".join([first, *lines])
