"""A checkpoint, a torchvision model or a module -> the layers that run. This file and `capture` alone need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automapper.capture import capture
from automapper.graph import consumers
from automapper.workload import DRAM, Candidates, Network, NetworkLayer
from hw_model.widths import Bits
from instantnet.engine.checkpoint import load_checkpoint
from instantnet.engine.errors import UserError
from instantnet.formats import read_architecture, read_weights
from instantnet.networks.named import float_network, torchvision_model, without_memory
from instantnet.operations import OPERATIONS, Backbone, Geometry
from instantnet.quantize import FLOAT_BITS, Precision, SwitchableLayer

IMAGE_SIZE = {"inception_v3": (299, 299)}  # of torchvision's models; all others 224 x 224
EXPECTED = "weights.pt of train.py or arch.pt of train_search.py"


def load_network(path: str, batch: int, code: str | None = None) -> Network:
    """The layers of the network in a checkpoint, with its bit-widths and accuracy.

    Args:
        path: a weights.pt or arch.pt, or the folder that holds one (weights.pt first).
        batch: images per inference, the N of every layer.
        code: path/to/file.py:function, where such a function made the network; a file never has it run.

    Raises:
        UserError: no readable checkpoint, no architecture in it, or a layer that cannot be mapped.
    """
    file = _find(path)
    found = read_weights(file, code) if _holds_weights(file) else read_architecture(file, settings_needed=True)
    assert found.settings is not None
    C = found.settings
    try:
        with torch.device("meta"):  # shapes are enough: nothing is computed
            layers, unmapped = capture(found.build(), torch.zeros(batch, 3, C.image_height, C.image_width))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file}: its network cannot be rebuilt ({error}); expected {EXPECTED}") from error
    # A search's accuracies are those of its supernet, not of the network that is mapped.
    accuracy: dict[Bits, float] = {}
    if found.weights is not None:
        accuracy.update((bits, value) for bits, value in found.accuracy.items())
    return Network(str(file), layers, found.bits, accuracy, unmapped)


def _holds_weights(file: Path) -> bool:
    """Whether a checkpoint is a weights.pt. Raises UserError where it is no checkpoint with an architecture."""
    content = load_checkpoint(file, [], EXPECTED)
    arch = content.get("arch", content)
    has_network = isinstance(arch, dict) and ("ops" in arch or "network" in arch)
    if not has_network or "config" not in content:
        missing = "config" if has_network else "architecture"
        raise UserError(f"{file}: a checkpoint without {missing}, so no layers to map; expected {EXPECTED}")
    return "model" in content


def load_module(module: nn.Module, example: Any) -> Network:
    """The layers that run in a module of the caller's.

    Args:
        example: its input, a tensor or a sequence of positional arguments.

    Switchable layers run at the bit-width of their network, plain ones among them at 32 bit. In a module without
    switchable layers, all run at the network's.

    Raises:
        UserError: no example, one that the module cannot run on, or a layer that cannot be mapped.
    """
    name = type(module).__name__
    if example is None:
        raise UserError(
            f"example: {name} needs one, the input that is passed through it; as torch.zeros(1, 3, 224, 224)"
        )
    switchable = [m for m in module.modules() if isinstance(m, SwitchableLayer)]
    try:
        inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
        layers, unmapped = capture(module, *inputs, plain_bits=FLOAT_BITS if switchable else None)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"example: {name} does not run on it ({' '.join(str(error).split())})") from error
    if not layers:
        raise UserError(f"network: in {name} neither a convolution nor a matrix product runs: nothing to map")
    return Network(name, layers, tuple(switchable[0].precision.bit_widths) if switchable else (), {}, unmapped)


def load_named(name: str, batch: int) -> Network:
    """The layers of `torchvision:NAME` or NAME, `timm:NAME`, `path/to/file.py:function`, at the network's bit-width.

    Raises UserError as `float_network` does, or naming a layer that cannot be mapped.
    """
    library, _, model_name = name.rpartition(":")
    if library in ("", "torchvision"):
        return load_torchvision(model_name, batch)
    with torch.device("meta"):
        model: Any = float_network(name, 1000, (224, 224))
        size = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:]  # timm says
        try:
            layers, unmapped = capture(model, torch.zeros(batch, 3, *size), plain_bits=None)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            shape = [batch, 3, *size]
            raise UserError(f"setting network = {name!r}: it does not run on images {shape} ({reason})") from error
    return Network(name, layers, (), {}, unmapped)


def load_candidates(settings: Mapping[str, Any]) -> Candidates:
    """The layers of every candidate operation in a search space, for one image.

    settings: the sizes of its networks, by the names of `Geometry`.
    """
    geometry = Geometry.from_settings(settings)
    candidates = Candidates((), tuple({} for _ in range(geometry.num_layers)))
    for op, build in OPERATIONS.items():
        precision = Precision([FLOAT_BITS])  # nothing is quantized, so there is less to record
        with torch.device("meta"):
            network = Backbone(geometry, precision, [build(*shape, precision) for shape in geometry.layers()])
            layers, _ = capture(network, torch.zeros(1, 3, geometry.image_height, geometry.image_width))
        ends = [index for index, one in enumerate(layers) if not one.layer.name.startswith("cells.")]
        candidates = replace(candidates, fixed=by_itself(layers, ends))
        for index, row in enumerate(candidates.layers):
            inside = [at for at, one in enumerate(layers) if one.layer.name.startswith(f"cells.{index}.")]
            row[op] = by_itself(layers, inside)
    return candidates


def by_itself(layers: Sequence[NetworkLayer], members: Sequence[int]) -> tuple[NetworkLayer, ...]:
    """Some layers of a network without the others: what those make is read from DRAM, what they read is stored."""
    place = {index: number for number, index in enumerate(members)}
    readers = consumers(layers)

    def alone(index: int) -> NetworkLayer:
        one = layers[index]
        source = None if one.source is None else place.get(one.source)
        stored = one.stored or any(reader not in place for reader in readers[index])
        return replace(one, source=source, adds=tuple(place.get(other, DRAM) for other in one.adds), stored=stored)

    return tuple(map(alone, members))


def load_torchvision(name: str, batch: int) -> Network:
    """The layers of a torchvision classification model, all at the network's bit-width.

    Raises UserError on an unknown name, or naming a layer that cannot be mapped.
    """
    model = build_torchvision(name)
    images = torch.zeros(batch, 3, *IMAGE_SIZE.get(name, (224, 224)), device="meta")
    with torch.device("meta"):
        layers, unmapped = capture(model, images, plain_bits=None)
    return Network(name, layers, (), {}, unmapped)


def build_torchvision(name: str) -> nn.Module:
    """A torchvision model on the device "meta": without weights and computation, as shapes are enough."""
    return without_memory(torchvision_model, name)


def _find(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        return folder
    files = [folder / "weights.pt", folder / "arch.pt"]
    for file in files:
        if file.exists():
            return file
    raise UserError(f"{folder}: neither weights.pt nor arch.pt in this folder; expected {EXPECTED}")
