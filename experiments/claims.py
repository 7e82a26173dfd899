"""The claims by name, in the order of docs/results.md."""

from importlib import import_module
from types import ModuleType

from experiments.options import NAMES
from experiments.scales import Scale

CLAIMS: dict[str, ModuleType] = {name: import_module(f"experiments.{name}") for name in NAMES}


def seeds_of(claim: ModuleType, scale: Scale) -> tuple[int, ...]:
    """The seeds a claim is measured with: the scale's, or the first of them where each costs too much (`AT_MOST`)."""
    return scale.seeds[: getattr(claim, "AT_MOST", None)]
