"""How long to search."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

from instantnet.engine.errors import UserError

LOCAL_SHARE = 0.1  # of the seconds: for a local search, once among the mappings bred and once at the end
PROVING = 0.5  # of the seconds of a search: for the branch and bound of the exhaustive engine
TRADING, FRONTS, FUSING = 0.05, 0.2, 0.3  # of all seconds: for what may follow a search


@dataclass(frozen=True)
class Budget:
    """mappings: evaluated per layer, bit-width and dataflow, or None; then seconds, for the whole search, count."""

    mappings: int | None = None
    seconds: float = math.inf

    @property
    def local_s(self) -> float:
        """Seconds that a local search of all layers may take, and one of all stages of pipelines."""
        return LOCAL_SHARE * self.seconds

    @property
    def breeding_s(self) -> float:
        """Seconds after which no more mappings are bred: the last local searches, of layers and pipelines, follow."""
        return (1 - 2 * LOCAL_SHARE) * self.seconds

    def without(self, share: float) -> Budget:
        """What is left where a share of the seconds goes to something else."""
        return replace(self, seconds=(1 - share) * self.seconds)


class Schedule(NamedTuple):
    """The shares of a budget of seconds that are over when a run has searched, has found mappings for the network
    beside its layers' own, and has the fronts; fused groups follow."""

    searched: float
    traded: float
    fronted: float


def schedule(trading: bool, fronts: bool, fusing: bool) -> Schedule:
    """For a run with these steps after its search."""
    fronted = 1 - FUSING * fusing
    traded = fronted - FRONTS * fronts
    return Schedule(traded - TRADING * trading, traded, fronted)


class Clock:
    """The seconds of a budget, which begin to pass."""

    def __init__(self, seconds: float = math.inf):
        self.seconds, self.begin = seconds, time.perf_counter()

    def until(self, share: float = 1.0) -> float:
        """Seconds until a share of them, above 0, is over; not below 0."""
        return max(0.0, self.begin + share * self.seconds - time.perf_counter())


def parse_budget(text: str) -> Budget:
    """`20000` mappings, or `30s` seconds. Raises UserError on anything else, and on a budget of nothing."""
    digits = text.strip().lower()
    try:
        number = float(digits.removesuffix("s").rstrip())
    except ValueError:
        number = math.nan
    seconds = digits.endswith("s")
    if not 0 < number < math.inf or (not seconds and number != int(number)):
        raise UserError(
            f"setting budget = {text!r}: must be a number of mappings from 1 up (20000), or of seconds above 0 (30s)"
        )
    return Budget(seconds=number) if seconds else Budget(mappings=int(number))
