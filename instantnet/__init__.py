"""Switchable-precision networks: search, training, mapping onto a chip (Fu et al., DAC 2021).

Public names are imported on first use: `import instantnet` loads no torch.
"""

import importlib
from typing import Any

from instantnet import _clone

__version__ = "0.1.0"

_clone.find_top_level_modules()

_PUBLIC: dict[str, str] = {
    "load": "instantnet.inference",
    "switchable": "instantnet.networks.converted",
    "calibrate": "instantnet.networks.calibrate",
}
"""Public name -> the module that holds it."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'instantnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
