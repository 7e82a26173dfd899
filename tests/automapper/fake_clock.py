"""A clock that the work itself moves: budgets in seconds are tested without reading the time."""

import time
from types import SimpleNamespace

import numpy as np

from automapper.evolve import Evolution

COSTING = 0.1  # time of a neighbour that is only costed, in times of a mapping that is bred


class FakeClock:
    """Replaces `time` where the mapper reads it; each mapping bred takes 1 / mappings_per_s seconds of it, a neighbour
    of the local search COSTING times that. For searches by one worker."""

    def __init__(self, monkeypatch, mappings_per_s: float):
        self.now = 0.0
        step, score = Evolution.step, Evolution._score

        def timed_step(unit: Evolution, *arguments) -> None:
            bred = unit.bred.sum()
            step(unit, *arguments)
            self.now += (1 - COSTING) * float(unit.bred.sum() - bred) / mappings_per_s

        def timed_score(unit: Evolution, *arguments) -> np.ndarray:
            evaluated = unit.evaluated
            scores = score(unit, *arguments)
            self.now += COSTING * (unit.evaluated - evaluated) / mappings_per_s
            return scores

        monkeypatch.setattr(Evolution, "step", timed_step)
        monkeypatch.setattr(Evolution, "_score", timed_score)
        for module in ("search", "api", "local_search", "watch", "evolve", "budget"):
            clock = SimpleNamespace(perf_counter=lambda: self.now, sleep=time.sleep)
            monkeypatch.setattr(f"automapper.{module}.time", clock)
