"""A checkpoint, or a torchvision model -> the layers that run. The one file of automapper that knows torch.

Shapes are measured, not computed: one image runs through the rebuilt network, and every convolution and linear layer
notes what it was given.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automapper.workload import Network, NetworkLayer
from hw_model import Layer
from networks import Form, build_network
from operations import Geometry
from quantize import FLOAT_BITS, Precision, SwitchableConv2d, SwitchableLinear
from runtime.checkpoint import load_checkpoint, load_weights
from runtime.errors import UserError
from runtime.settings import closest
from runtime.stages import TrainSettings

IMAGE_SIZE = {"inception_v3": (299, 299)}  # of torchvision's models; all others 224 x 224
EXPECTED = "weights.pt of train.py or arch.pt of train_search.py"
NOT_SUGGESTED = ("vit", "swin", "maxvit", "convnext")  # torchvision models with layers that cannot be mapped
NOT_CHARGED = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
"""Modules with parameters that run on no MAC array: normalisation folds into the layer before it."""


def load_network(path: str, batch: int) -> Network:
    """The layers of the network in a checkpoint, with its bit-widths and accuracy.

    Args:
        path: a weights.pt or arch.pt, or the folder that holds one (weights.pt first).
        batch: images per inference, the N of every layer.

    Raises:
        UserError: no readable checkpoint, none with an architecture, or a layer that cannot be mapped.
    """
    file = _find(path)
    content = load_checkpoint(file, [], EXPECTED)
    arch = content.get("arch", content)
    has_network = isinstance(arch, dict) and ("ops" in arch or "network" in arch)
    if not has_network or "config" not in content:
        missing = "config" if has_network else "architecture"
        raise UserError(f"{file}: a checkpoint without {missing}, so no layers to map; expected {EXPECTED}")
    try:
        config = content["config"]
        bits = content.get("bits", config["num_bits_list"])
        shape = Geometry if arch.get("network", "derived") == "derived" else Form
        _check_config(config | {"num_bits_list": bits}, list(shape.__dataclass_fields__))
        precision = Precision(bits)
        model = build_network(arch, config, precision)
        if "model" in content:
            load_weights(model, content["model"], file)
        image = torch.zeros(batch, 3, config["image_height"], config["image_width"])
        layers = tuple(extract_layers(model, image))
        # A search's accuracies are those of its supernet, not of the network that is mapped.
        measured = content.get("accuracy", {}) if "model" in content else {}
        accuracy = {int(b): float(value) for b, value in measured.items()}
        if not all(0 <= value <= 100 for value in accuracy.values()):
            raise ValueError("an accuracy is not between 0 and 100 %")
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file}: its network cannot be rebuilt ({error}); expected {EXPECTED}") from error
    return Network(str(file), layers, precision.bit_widths, accuracy)


def _check_config(config: dict[str, Any], shape: list[str]) -> None:
    """Raise UserError where a setting that shapes the network, named in `shape`, is not legal."""
    legal = TrainSettings.legal_settings()
    for name in [*shape, "num_bits_list"]:
        legal[name].check(config[name])
    bits = config["num_bits_list"]
    if not bits or len(set(bits)) < len(bits):
        raise ValueError(f"its bit-widths are {bits}")


def load_module(module: nn.Module, example: Any) -> Network:
    """The layers that run in a module of the caller's.

    Args:
        example: its input, a tensor or a sequence of positional arguments.

    Layers of this project run at the bit-width of their network, plain ones beside them at 32 bit; in a module without
    such layers all run at the network's.

    Raises:
        UserError: no example, one that the module does not take, or a layer that cannot be mapped.
    """
    name = type(module).__name__
    if example is None:
        raise UserError(
            f"example: {name} needs one, the input that is passed through it; as torch.zeros(1, 3, 224, 224)"
        )
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    switchable = [m for m in module.modules() if isinstance(m, SwitchableConv2d | SwitchableLinear)]
    try:
        layers = tuple(extract_layers(module, *inputs, plain_bits=FLOAT_BITS if switchable else None))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"example: {name} does not run on it ({error})") from error
    return Network(name, layers, tuple(switchable[0].precision.bit_widths) if switchable else ())


def load_torchvision(name: str, batch: int) -> Network:
    """The layers of a torchvision classification model with random weights, all at the network's bit-width.

    Raises UserError on an unknown name, or naming a layer that cannot be mapped.
    """
    from torchvision import models  # here: it costs start-up time, and only this needs it

    names, others = models.list_models(module=models), models.list_models()
    if name not in names:
        mappable = [known for known in names if not known.startswith(NOT_SUGGESTED)]
        hint = closest(name, others)
        hint = hint if any(repr(known) in hint for known in mappable) else ""
        raise UserError(
            f"setting network = {name!r}: a torchvision model, but not one that classifies images; only those can be "
            f"mapped, or the layers that a file lists (--network layers.yaml){closest(_backbone(name), mappable)}"
            if name in others
            else f"setting network = {name!r}{hint or ':'} neither a torchvision model, as "
            "resnet18, mobilenet_v2, alexnet or vgg16, nor the path of a .yaml file of layers"
        )
    with torch.device("meta"), warnings.catch_warnings():  # shapes are enough: no weights, nothing is computed
        warnings.simplefilter("ignore")  # on how weights will be initialised
        model = models.get_model(name, weights=None)
        images = torch.zeros(batch, 3, *IMAGE_SIZE.get(name, (224, 224)))
    return Network(name, tuple(extract_layers(model, images, plain_bits=None)), ())


def _backbone(name: str) -> str:
    """The part of a torchvision model's name that names the network it builds on: fcn_resnet50 -> resnet50."""
    families = [part for part in ("resnet", "mobilenet", "vgg") if part in name]
    return name[name.index(families[0]) :].removesuffix("_fpn") if families else ""


def extract_layers(model: nn.Module, *inputs: Any, plain_bits: int | None = FLOAT_BITS) -> list[NetworkLayer]:
    """Every convolution and linear layer that runs on `inputs`, in running order, named as in `model`.

    Switchable layers run at the network's bit-width, plain ones at plain_bits (None: at the network's too).
    Raises UserError naming a layer that cannot be mapped: one with parameters that is neither, dilated, or with
    different strides down and across.
    """
    layers: list[NetworkLayer] = []
    runs: Counter[str] = Counter()  # of each module
    handles = []

    def note(name: str, module: nn.Module):
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            own_bits = None if isinstance(module, SwitchableConv2d | SwitchableLinear) else plain_bits
            runs[name] += 1
            shown = name if runs[name] == 1 else f"{name} (run {runs[name]})"
            layers.append(NetworkLayer(_layer(shown, module, inputs[0], output), own_bits))

        return module.register_forward_hook(hook)

    _check_modules(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(note(name, module))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return layers


def _check_modules(model: nn.Module) -> None:
    """Raise UserError on a module that has parameters but is no layer known here; the innermost is named."""
    unknown = {
        name: module
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and not isinstance(module, (nn.Conv2d, nn.Linear, *NOT_CHARGED))
    }
    for name, module in unknown.items():
        if not any(other.startswith(f"{name}." if name else "") for other in unknown if other != name):
            raise _unmappable(name or "(the model itself)", module, "is no convolution or linear layer")


def _layer(name: str, module: nn.Conv2d | nn.Linear, x: torch.Tensor, y: torch.Tensor) -> Layer:
    if isinstance(module, nn.Linear):  # [.., C_in] -> [.., C_out]
        return Layer(name=name, N=x.shape[:-1].numel(), K=module.out_features, C=module.in_features)
    if module.stride[0] != module.stride[1]:
        raise _unmappable(name, module, f"has strides {module.stride}, different down and across")
    if module.dilation != (1, 1):
        raise _unmappable(name, module, f"has dilation {module.dilation}")
    N, _, P, Q = y.shape
    R, S = module.kernel_size
    G = module.groups
    K, C = module.out_channels // G, module.in_channels // G
    return Layer(name=name, N=N, G=G, K=K, C=C, P=P, Q=Q, R=R, S=S, stride=module.stride[0])


def _unmappable(name: str, module: nn.Module, why: str) -> UserError:
    return UserError(
        f"layer {name} ({type(module).__name__}) {why}: it cannot be mapped; take a network of convolutions and linear "
        "layers, or list the layers to map in a file: --network layers.yaml"
    )


def _find(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        return folder
    files = [folder / "weights.pt", folder / "arch.pt"]
    for file in files:
        if file.exists():
            return file
    raise UserError(f"{folder}: neither weights.pt nor arch.pt in this folder; expected {EXPECTED}")
