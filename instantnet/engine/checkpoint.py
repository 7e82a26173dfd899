"""Files between stages: versioned dictionaries of tensors, numbers and strings, loaded with `weights_only=True`.

What each kind of file holds is `instantnet.formats`' matter; here is what holds of them all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instantnet.engine.errors import UserError, shown
from instantnet.engine.files import replacing
from instantnet.engine.untrusted import Unreadable, not_finite, read

FORMAT = 2
READABLE = (1, 2)
TYPES = {  # of the entries that a reader may ask for
    **dict.fromkeys(["model", "optimizer", "arch_optimizer", "arch", "config", "accuracy"], dict),
    **dict.fromkeys(["loss", "alpha_loss", "log_sizes", "data", "average", "efficiency"], dict),
    **dict.fromkeys(["ops", "bits"], list),
    **dict.fromkeys(["epoch", "step"], int),
    **dict.fromkeys(["kind", "quantizer", "version", "commit"], str),
    "flops_weight": float,
    "best": dict | None,
    "network": dict | str,
}


def save_checkpoint(path: Path | str, content: dict[str, Any], keep_as: Path | None = None) -> None:
    """Write `content` so that `path` holds either the old file or the whole new one, whatever happens meanwhile.

    keep_as: another name that the old file, if there is one, keeps. Raises `UserError` where the folder cannot be
    written; the old file is then as it was.
    """
    with replacing(path, keep_as) as file:
        torch.save({"format": FORMAT, **{key: value for key, value in content.items() if key != "format"}}, file)


def load_checkpoint(path: Path | str, needs: Sequence[str], what: str) -> dict[str, Any]:
    """The dictionary in `path`; `needs`: the keys it must have, `what`: how messages call such a file.

    It holds dictionaries, lists, numbers, text and dense tensors on the CPU, all of them finite; what a format of today
    has beside `needs` is of its type (`TYPES`), too. Raises `UserError` where it is anything else: no such file, not a
    checkpoint, truncated, another format version, a key missing.
    """
    path = Path(path)
    try:
        if not path.is_file():
            there = "not a regular file" if path.exists() else "no such file"
            raise UserError(f"{path}: {there}; expected {what}")
        content = read(path)
    except Unreadable as error:
        raise UserError(f"{path}: not a readable checkpoint ({error}); expected {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; expected {what}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not a checkpoint of this project, expected {what}")
    if type(content["format"]) is not int or content["format"] not in READABLE:
        raise UserError(
            f"{path}: format {shown(content['format'])}, this version reads formats {' and '.join(map(str, READABLE))}"
        )
    missing = [key for key in needs if key not in content]
    if missing:
        raise UserError(f"{path}: expected {what}, but it has no {missing[0]!r}")
    for key, value in content.items():
        kind = TYPES.get(key, object)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            name = getattr(kind, "__name__", kind)
            raise UserError(f"{path}: expected {what}, but its {key!r} is not of type {name}")
    if where := not_finite(content):
        raise UserError(f"{path}: its {where} is NaN or infinite: the training that wrote it has diverged")
    return content


def check_weights(model: nn.Module, weights: Any, path: Path | str) -> None:
    """Raise `UserError` where `weights`, read from `path`, are not those of a network like `model`, which may be on the
    meta device."""
    if not isinstance(weights, dict):
        raise UserError(f"{path}: its weights are not a dictionary of tensors")
    check_tensors(with_present_names(weights, model), model.state_dict(), path)


def check_tensors(weights: Mapping[str, Any], wanted: Mapping[str, Tensor], path: Path | str) -> None:
    """Raise `UserError`, with the first name that differs, where `weights`, read from `path`, have not the names and
    shapes of those `wanted`."""
    for name in [*wanted, *weights]:
        if name not in weights or name not in wanted:
            lacks = "has no" if name not in weights else "has an extra"
            raise UserError(f"{path}: weights of another architecture: it {lacks} {shown(name)}")
        if not isinstance(weights[name], Tensor) or weights[name].shape != wanted[name].shape:
            shape = list(getattr(weights[name], "shape", []))
            raise UserError(
                f"{path}: weights of another architecture: {name!r} is {shape}, here {list(wanted[name].shape)}"
            )
        if weights[name].is_floating_point() != wanted[name].is_floating_point():
            raise UserError(f"{path}: {name!r} is of {weights[name].dtype}, here of {wanted[name].dtype}")


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path | str) -> None:
    """Put `weights`, read from `path`, into `model`; `UserError` where they belong to another architecture.

    Checked as a whole before the first tensor is copied, so that the model stays as it was on an error.
    """
    check_weights(model, weights, path)
    if not all_finite(weights):
        raise UserError(f"{path}: its weights are NaN or infinite: the training that wrote them has diverged")
    model.load_state_dict(weights)


def with_present_names(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """`weights` by the names that `model` has today: a module's `old_names` says how its children were called."""
    prefixes = {
        f"{name}.{old}.".removeprefix("."): f"{name}.{new}.".removeprefix(".")
        for name, module in model.named_modules()
        for old, new in getattr(module, "old_names", {}).items()
    }

    def present(name: str) -> str:
        head, _, tensor = name.rpartition(".")
        return prefixes.get(f"{head}.", f"{head}.".removeprefix(".")) + tensor

    return {present(name) if isinstance(name, str) else name: tensor for name, tensor in weights.items()}


def all_finite(tensors: dict[str, torch.Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    floats = [tensor.detach().flatten() for tensor in tensors.values() if tensor.is_floating_point()]
    # A supernet has thousands of small ones: joined, they cost one pass and one wait for the device per 1000.
    groups = (floats[start : start + 1000] for start in range(0, len(floats), 1000))
    return all(bool(torch.cat(group).isfinite().all()) for group in groups)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any, path: Path | str) -> None:
    """Put an optimiser's `state`, read from `path`, into it; `UserError` where it is another kind's or model's."""
    try:
        _check_optimizer(optimizer, state)
        optimizer.load_state_dict(state)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: its optimiser does not fit this run ({error}); resume with the same settings"
        ) from error


def _check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """ValueError or TypeError where `state` is not what an optimiser of this kind and model has."""
    groups, values = state["param_groups"], state["state"]
    if not isinstance(groups, list) or not isinstance(values, dict) or len(groups) != len(optimizer.param_groups):
        raise ValueError("another kind of optimiser")
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        if not isinstance(group, dict) or group.keys() != own.keys():
            raise ValueError("another kind of optimiser")
        for name in own.keys() - {"params"}:
            _check_option(name, group[name], own[name])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [index for group in groups for index in group["params"]] != list(range(len(parameters))):
        raise ValueError("it is of another network")
    for index, buffers in values.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(buffers, dict):
            raise ValueError(f"its state {shown(index)} is of no parameter")
        _check_buffers(optimizer, index, buffers, parameters[index])


def _check_option(name: str, value: Any, own: Any) -> None:
    if isinstance(own, list | tuple) and isinstance(value, list | tuple) and len(value) == len(own):
        for element, own_element in zip(value, own, strict=True):
            _check_option(name, element, own_element)
    elif type(value) is not type(own) and not (type(value) in (int, float) and type(own) in (int, float)):
        raise TypeError(f"{name} is {shown(value)}")


def _check_buffers(optimizer: torch.optim.Optimizer, index: int, buffers: dict[Any, Any], parameter: Tensor) -> None:
    """Of a parameter momentum_buffer (or None) of SGD; exp_avg, exp_avg_sq and step of Adam."""
    legal = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"exp_avg", "exp_avg_sq", "step"}
    if buffers.keys() != legal:
        raise ValueError(f"its state {index} has {shown(list(buffers))}, here {', '.join(sorted(legal))}")
    for name, value in buffers.items():
        shape = torch.Size() if name == "step" else parameter.shape
        if name == "momentum_buffer" and value is None:
            continue
        if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
            raise ValueError(f"its {name} {index} is {list(getattr(value, 'shape', []))}, here {list(shape)}")


def restore(part: Any, state: Any, name: str, path: Path | str) -> None:
    """Put `state`, read from `path` under `name`, into a part of a run; `UserError` where it does not fit."""
    if isinstance(part, nn.Module):
        load_weights(part, state, path)
    elif isinstance(part, torch.optim.Optimizer):
        load_optimizer(part, state, path)
    else:
        try:
            part.load_state_dict(state)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UserError(f"{path}: its {name!r} cannot be read ({error})") from error


def find(path: Path | str, name: str) -> Path:
    """`path` itself, or the file `name` in it where `path` is a folder."""
    path = Path(path)
    try:
        return path / name if path.is_dir() else path
    except (OSError, ValueError):  # a name too long, a folder without permission: opening it will say so
        return path
