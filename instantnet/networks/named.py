"""Float networks of others by name: `torchvision:resnet18`, `timm:resnet18`, `path/to/file.py:function`.

Their weights are random, but for those that a function of the user's has loaded.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from instantnet.engine.errors import UserError
from instantnet.engine.user_code import called, names_a_function, names_of_library
from instantnet.settings.schema import closest

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Classifiers of torchvision's that train beside the last one: left out here, and of weights not read."""


def float_network(name: str, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """The network of that name, for `num_classes` classes and images of `size` (height, width).

    A function of the user's is called with `num_classes`, `image_height` and `image_width`, those of them that are
    parameters of it. Within `torch.device("meta")` the result is on meta. Raises UserError: an unknown name, no package
    timm, an error in the user's file, what it returns is no module.
    """
    on_meta = torch.get_default_device().type == "meta"
    library, _, model = name.partition(":")
    if names_a_function(name):
        given = {"num_classes": num_classes, "image_height": size[0], "image_width": size[1]}
        with torch.device("cpu" if on_meta else torch.get_default_device()):  # it may compute with what it makes
            module = called("network", name, **given)
        if not isinstance(module, nn.Module):
            raise UserError(f"setting network = {name!r}: returned {type(module).__name__}, not a torch module")
        return module.to("meta") if on_meta else module
    build = {"torchvision": torchvision_model, "timm": timm_model}[library]
    return without_memory(build, model, num_classes, size) if on_meta else build(model, num_classes, size)


def own_name(name: str) -> bool:
    """Whether `name` is of a network that `float_network` makes."""
    return names_of_library(name) or names_a_function(name)


def unread(name: str) -> tuple[str, ...]:
    """How the names of those weights begin that published files of the network `name` hold beside its own."""
    library, _, model = name.partition(":")
    return AUXILIARY.get(model, ()) if library == "torchvision" else ()


def torchvision_model(name: str, num_classes: int = 1000, size: tuple[int, int] = (224, 224)) -> nn.Module:
    """A classification model of torchvision. Raises UserError where there is none of that name."""
    from torchvision import models  # imported here: slow to start

    check_torchvision(name)
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options["image_size"] = size[0]
    with warnings.catch_warnings(action="ignore"):  # on how weights will be initialised
        return models.get_model(name, weights=None, **options)


def check_torchvision(name: str) -> None:
    """UserError where torchvision has no classification model of that name."""
    from torchvision import models

    names, others = models.list_models(module=models), models.list_models()
    if name in names:
        return
    hint = closest(name, others)
    hint = hint if any(repr(known) in hint for known in names) else ""
    raise UserError(
        f"setting network = {name!r}: a torchvision model, but not one that classifies images; only those can be "
        f"mapped, or the layers that a file lists (--network layers.yaml){closest(_backbone(name), names)}"
        if name in others
        else f"setting network = {name!r}{hint or ':'} neither a torchvision model, as "
        "resnet18, mobilenet_v2, alexnet or vgg16, nor the path of a .yaml file of layers"
    )


def _backbone(name: str) -> str:
    """The part of a torchvision model's name that names the network it builds on: fcn_resnet50 -> resnet50."""
    families = [part for part in ("resnet", "mobilenet", "vgg") if part in name]
    return name[name.index(families[0]) :].removesuffix("_fpn") if families else ""


def timm_model(name: str, num_classes: int = 1000, size: tuple[int, int] = (224, 224)) -> nn.Module:
    """A model of timm, for images of the size that it is made for. Raises UserError without the package, or a model of
    that name."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"setting network = 'timm:{name}': needs the package timm (pip install 'instantnet[timm]'): {error}"
        ) from error
    if not timm.is_model(name):
        known = timm.list_models()
        raise UserError(f"setting network = 'timm:{name}'{closest(name, known) or ': timm has no such model'}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def without_memory(build: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """What `build` returns, on the device meta. Sizes that it computes from tensors are right."""
    with torch.device("cpu"), _MetaWeights(), warnings.catch_warnings(action="ignore"):
        return build(*arguments).to("meta")


class _MetaWeights(TorchFunctionMode):
    """Creates weight tensors on "meta". Other tensors keep their values, because RegNet computes its widths with
    them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
