"""`--pretrain FILE`: the weights that stage 2 starts from.

FILE is a weights.pt of any list of bit-widths, or float weights of the same network: a state_dict of torch, torchvision
or timm, or a .safetensors. What a list of bit-widths shares carries over; a bit-width without statistics and ranges is
calibrated before the first step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instantnet.engine.checkpoint import check_tensors, find, load_weights, with_present_names
from instantnet.engine.errors import UserError, shown
from instantnet.engine.resume import Position
from instantnet.engine.run import Run
from instantnet.engine.untrusted import Unreadable, read_tensors
from instantnet.engine.user_code import names_a_function
from instantnet.formats import read_weights
from instantnet.networks.calibrate import calibrate, change_bit_widths
from instantnet.networks.converted import completed, float_view, quantizer_names
from instantnet.networks.named import unread
from instantnet.quantize import SwitchableNetwork
from instantnet.quantizers import FLOAT_BITS
from instantnet.settings.stages import TrainSettings
from instantnet.widths import Bits, in_order

CALIBRATION_BATCHES = 100
"""Training batches, at most, that a bit-width without statistics and ranges is measured on."""

EXPECTED = "weights.pt of train.py, or float weights (a state_dict, .safetensors)"
INSIDE = ("state_dict", "model", "model_state_dict")  # where files of other trainings keep their weights


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from.

    weights: name -> tensor, of the float network (is_float) or of one with this run's bit-widths. lacking: this run's
    bit-widths whose statistics and ranges are not among them. num_classes: None where the file does not say. said: for
    the log.
    """

    path: Path
    weights: dict[str, Tensor]
    is_float: bool
    lacking: tuple[Bits, ...]
    num_classes: int | None
    said: str

    def described(self, head: list[str]) -> str:
        """The line of the log. head: the names that `load_into` returned."""
        parts = [f"starts from {self.said}"]
        if head:
            names = ", ".join(name for name in head if name.endswith((".weight", ".bias")))
            parts.append(f"its head is for other classes: {names} are new")
        if self.lacking:
            widths = ", ".join(map(str, self.lacking))
            parts.append(f"{widths} bit calibrated on up to {CALIBRATION_BATCHES} training batches")
        return "; ".join(parts)

    def load_into(self, model: SwitchableNetwork) -> list[str]:
        """Put the weights into a network of this run. Returns the names of its head, which stays new where the
        weights are of another number of classes. Raises UserError, with the first name that differs, where they are of
        another network; the model is then as it was."""
        weights, head = self.fitting(model)
        load_weights(model, weights, self.path)
        return head

    def fitting(self, model: SwitchableNetwork) -> tuple[dict[str, Tensor], list[str]]:
        """(the weights as `model`, which may be on meta, has them; the names of its head)."""
        own = model.state_dict()
        weights = with_present_names(self.weights, model)
        if self.is_float:
            view = float_view(model)
            counts = {name: value for name, value in view.items() if name.endswith(".num_batches_tracked")}
            weights = {**counts, **weights}  # which files of old versions of torch have not
            head = new_head(view, weights)
            check_tensors({**weights, **{name: view[name] for name in head}}, view, self.path)
        weights = completed(model, weights)
        head = new_head(own, weights)
        return {**weights, **{name: own[name] for name in head}}, head


def new_head(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The entries of the layer that puts out the logits, where that is all in which two networks differ; else none.

    Weights and biases then differ in their first dimension alone, and all from the same number of classes to another.
    """
    differing = {name for name in own if name in weights and own[name].shape != weights[name].shape}
    ends = {name.rpartition(".")[0] for name in differing if name.rpartition(".")[2] in ("weight", "bias")}
    changes = set()
    for name in (f"{end}.{part}" for end in ends for part in ("weight", "bias")):
        if name in own and name in weights:
            changes.add((own[name].shape[0], weights[name].shape[0]))
            if own[name].shape[1:] != weights[name].shape[1:]:
                return []
    if len(changes) != 1 or not all(name.startswith(tuple(f"{end}." for end in ends)) for name in differing):
        return []
    return [name for name in own if name.startswith(tuple(f"{end}." for end in ends))]


def read_pretrained(C: TrainSettings, new_model: Callable[[TrainSettings], SwitchableNetwork]) -> Pretrained:
    """The weights of `C.pretrain`. new_model: the network of settings, as this run has it.

    Raises UserError where the file cannot be read, or is of another network.
    """
    path = find(str(C.pretrain), "weights.pt")
    content = _content(path)
    found = _from_this_project(path, C) if "format" in content else _from_others(path, content, C)
    with torch.device("meta"):
        model = new_model(C.replaced(num_classes=C.num_classes or found.num_classes or 1))
    weights, _ = found.fitting(model)
    check_tensors(weights, model.state_dict(), path)
    return found


def begin(model: SwitchableNetwork, result: SwitchableNetwork, found: Pretrained, head: list[str], run: Run) -> None:
    """Say in the log what a run starts from; unless it resumes, measure the bit-widths that the weights say nothing of.

    result: the model itself, or the average of it that becomes the result. head: what `load_into` returned.
    """
    run.log.line(found.described(head))
    if run.start != Position():
        return
    for bits in found.lacking:
        some = run.epoch_again(0, run.batches, min(CALIBRATION_BATCHES, run.steps_per_epoch))
        calibrate(model, bits, some, run.batches.images_in)
    run.processes.average_statistics(model)
    if result is not model:
        result.load_state_dict(model.state_dict())


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        there = "not a regular file" if path.exists() else "no such file"
        raise UserError(f"{path}: {there}; expected {EXPECTED}")
    try:
        content = read_tensors(path)
    except Unreadable as error:
        raise UserError(f"{path}: not a readable checkpoint ({error}); expected {EXPECTED}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected {EXPECTED}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {type(content).__name__}, no dictionary; expected {EXPECTED}")
    return content


def _from_this_project(path: Path, C: TrainSettings) -> Pretrained:
    """The network of the file with this run's list of bit-widths."""
    file = read_weights(path, C.network if names_a_function(C.network) else None)
    assert file.settings is not None and file.weights is not None
    model = file.build()
    load_weights(model, file.weights, path)
    before = file.bits
    change_bit_widths(model, C.num_bits_list)
    weights, lacking = model.state_dict(), set(C.num_bits_list) - set(before)
    said = f"weights of {path}, trained at {list(before)} bit"
    if values_of(file.settings) != values_of(C):
        of_quantizers = quantizer_names(model)
        weights = {name: value for name, value in weights.items() if not name.startswith(of_quantizers)}
        lacking |= {bits for bits in C.num_bits_list if bits != FLOAT_BITS}
        said += f" with quantizer = {file.settings.quantizer}, range_scope = {file.settings.range_scope}"
    return Pretrained(path, weights, False, tuple(in_order(lacking)), file.settings.num_classes, said)


def values_of(C: Any) -> tuple[Any, ...]:
    """The settings that say which values a layer has at a bit-width."""
    return C.quantizer, C.range_scope, getattr(C, "bits_of", [])


def _from_others(path: Path, content: dict[str, Any], C: TrainSettings) -> Pretrained:
    inside = next((content[name] for name in INSIDE if isinstance(content.get(name), dict)), content)
    prefix = "module." if inside and all(str(name).startswith("module.") for name in inside) else ""  # of DataParallel
    extra = unread(C.network)
    weights = {str(name).removeprefix(prefix): value for name, value in inside.items()}
    weights = {name: value for name, value in weights.items() if not (extra and name.startswith(extra))}
    odd = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if odd or not weights:
        what = f"its {shown(odd[0])} is no tensor" if odd else "it holds no weights"
        raise UserError(f"{path}: {what}; expected {EXPECTED}")
    lacking = tuple(in_order(bits for bits in C.num_bits_list if bits != FLOAT_BITS))
    return Pretrained(path, weights, True, lacking, None, f"float weights of {path}")
