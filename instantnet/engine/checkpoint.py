"""Files between stages: versioned dictionaries of tensors, numbers and strings, loaded with `weights_only=True`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instantnet.engine.errors import UserError
from instantnet.engine.files import replacing

FORMAT = 1
KINDS = {  # of the entries that a reader may ask for
    **dict.fromkeys(["model", "optimizer", "arch_optimizer", "arch", "config", "accuracy"], dict),
    **dict.fromkeys(["loss", "alpha_loss", "log_sizes"], dict),
    **dict.fromkeys(["ops", "bits"], list),
    **dict.fromkeys(["epoch", "step"], int),
    "flops_weight": float,
    "best": dict | None,
}


def save_checkpoint(path: Path | str, content: dict[str, Any], keep_as: Path | None = None) -> None:
    """Write `content` so that `path` holds either the old file or the whole new one, whatever happens meanwhile.

    keep_as: another name that the old file, if there is one, keeps. Raises `UserError` where the folder cannot be
    written; the old file is then as it was.
    """
    with replacing(path, keep_as) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path | str, needs: Sequence[str], what: str) -> dict[str, Any]:
    """The dictionary in `path`; `needs`: the keys it must have, `what`: how messages call such a file.

    Raises `UserError`: no such file, not a checkpoint, truncated, another format version, a key missing or of
    another type (`KINDS`).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {what}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd pickles: what is wrong is said in one line below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling untrusted bytes fails in many ways
        raise UserError(
            f"{path}: not a readable checkpoint (damaged, or another kind of file); expected {what}"
        ) from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not a checkpoint of this project, expected {what}")
    if not isinstance(content["format"], int) or content["format"] != FORMAT:
        raise UserError(f"{path}: format {content['format']!r}, this version reads format {FORMAT}")
    missing = [key for key in needs if key not in content]
    if missing:
        raise UserError(f"{path}: expected {what}, but it has no {missing[0]!r}")
    for key in needs:
        kind = KINDS.get(key, object)
        if not isinstance(content[key], kind):
            raise UserError(
                f"{path}: expected {what}, but its {key!r} is not of type {getattr(kind, '__name__', kind)}"
            )
    return content


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path | str) -> None:
    """Put `weights`, read from `path`, into `model`; `UserError` where they belong to another architecture.

    Checked as a whole before the first tensor is copied, so that the model stays as it was on an error.
    """
    wanted = model.state_dict()
    if not isinstance(weights, dict):
        raise UserError(f"{path}: its weights are not a dictionary of tensors")
    for name in [*wanted, *weights]:
        if name not in weights or name not in wanted:
            lacks = "has no" if name not in weights else "has an extra"
            raise UserError(f"{path}: weights of another architecture: it {lacks} {name!r}")
        if not isinstance(weights[name], torch.Tensor) or weights[name].shape != wanted[name].shape:
            shape = list(getattr(weights[name], "shape", []))
            raise UserError(
                f"{path}: weights of another architecture: {name!r} is {shape}, here {list(wanted[name].shape)}"
            )
    if not all_finite(weights):
        raise UserError(f"{path}: its weights are NaN or infinite: the training that wrote them has diverged")
    model.load_state_dict(weights)


def all_finite(tensors: dict[str, torch.Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    floats = [tensor.detach().flatten() for tensor in tensors.values() if tensor.is_floating_point()]
    # A supernet has thousands of small ones: joined, they cost one pass and one wait for the device per 1000.
    groups = (floats[start : start + 1000] for start in range(0, len(floats), 1000))
    return all(bool(torch.cat(group).isfinite().all()) for group in groups)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path | str) -> None:
    """Put an optimiser's `state`, read from `path`, into it; `UserError` where it is another kind's or model's."""
    try:
        if state["param_groups"][0].keys() != optimizer.param_groups[0].keys():
            raise ValueError("another kind of optimiser")
        optimizer.load_state_dict(state)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path}: its optimiser does not fit this run ({error}); resume with the same settings"
        ) from error


def restore(part: Any, state: Any, name: str, path: Path | str) -> None:
    """Put `state`, read from `path` under `name`, into a part of a run; `UserError` where it does not fit."""
    if isinstance(part, nn.Module):
        load_weights(part, state, path)
    elif isinstance(part, torch.optim.Optimizer):
        load_optimizer(part, state, path)
    else:
        try:
            part.load_state_dict(state)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: its {name!r} cannot be read ({error})") from error


def find(path: Path | str, name: str) -> Path:
    """`path` itself, or the file `name` in it where `path` is a folder."""
    path = Path(path)
    return path / name if path.is_dir() else path
