"""A clock that the work itself moves: budgets in seconds are tested without reading the time."""

import time
from types import SimpleNamespace

from automapper.evolve import Evolution

COSTING = 0.1  # time of a neighbour that is only costed, in times of a mapping that is bred


class FakeClock:
    """Replaces `time` where the mapper reads it; each mapping bred takes 1 / mappings_per_s seconds of it. For searches
    by one worker."""

    def __init__(self, monkeypatch, mappings_per_s: float):
        self.now = 0.0
        advance = Evolution.advance

        def timed(unit: Evolution, mappings: int, share: float) -> Evolution:
            bred, evaluated = unit.bred.sum(), unit.evaluated
            advance(unit, mappings, share)
            bred, evaluated = unit.bred.sum() - bred, unit.evaluated - evaluated
            self.now += float(bred + COSTING * (evaluated - bred)) / mappings_per_s
            return unit

        monkeypatch.setattr(Evolution, "advance", timed)
        for module in ("search", "api"):
            clock = SimpleNamespace(perf_counter=lambda: self.now, sleep=time.sleep)
            monkeypatch.setattr(f"automapper.{module}.time", clock)
