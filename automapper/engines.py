"""Search engines by name: the choices of the setting `engine`. CONTRIBUTING.md shows how to add one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, Self

from automapper.evolve import Evolution
from automapper.objective import Objective
from automapper.space import Search
from hw_model import Device, Mapping
from instantnet.engine.errors import UserError
from instantnet.settings.schema import closest


class Engine(Protocol):
    """The searches of one layer shape on one device. `stopped`, set by another thread, ends `advance` early. local_s:
    seconds that may follow what is bred, where the budget is in seconds; else infinite."""

    searches: list[Search]
    device: Device
    running: bool
    stopped: bool
    local_s: float

    @property
    def mappings(self) -> int:
        """Mappings that every search has tried."""

    @property
    def evaluated(self) -> int:
        """Mappings costed by all searches together."""

    def advance(self, mappings: int, share: float) -> Self:
        """Search until every search has tried `mappings`; share: of the whole budget that is used by then, 1 = the
        search ends."""

    def best(self, index: int) -> Mapping:
        """The best mapping that search `index` has found so far, inside its constraints."""

    def gaps(self, index: int) -> tuple[float, float]:
        """How far search `index` is from having converged, in logarithms of the objective; infinite where unknown."""


ENGINES: dict[str, Callable[[Sequence[Search], Device, Objective, int], Engine]] = {
    "evolution": Evolution,
    "random": partial(Evolution, random=True),
    "exhaustive": Evolution,  # followed by a proof, by branch and bound, for as many layers as possible
}
"""Name -> engine(searches, device, objective, seed)."""


def check_engine(name: str) -> None:
    """Raise UserError where no engine has this name."""
    if name not in ENGINES:
        raise UserError(f"setting engine = {name!r}{closest(name, ENGINES) or ':'} legal: {', '.join(ENGINES)}")
