"""A search as it runs: what is shown of it, recorded of it, and when it has met its goal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from automapper.objective import Objective
from automapper.pipelines import Pipelines
from automapper.result import best_of, network_cost, value_of
from automapper.saved_search import State, state_of
from automapper.search import Outcome
from automapper.workload import Network
from hw_model.widths import Bits

PIPELINE_SHARE = 0.2  # of a search's mappings go to each size of a pipeline's stage


class Progress:
    """Progress of a search. This class ignores it; a subclass shows it."""

    def searched(self, share: float, edp_js: Mapping[Bits, float]) -> None:
        """share: of the budget used so far; edp_js: bit-width -> the best EDP of the network so far."""

    def proved(self, done: int, of: int) -> None:
        """The exhaustive engine has finished `done` of `of` searches."""

    def fused(self, done: int, of: int) -> None:
        """Layers have been fused at `done` of `of` bit-widths, after the search has ended."""

    def close(self) -> None:
        """The search, or fusing, has ended or failed."""


class Watch:
    """Follows a search round by round: advances the pipelines, records convergence, checks the goal."""

    def __init__(
        self,
        network: Network,
        bit_widths: Sequence[Bits],
        objective: Objective,
        goal: float | None,
        pipelines: Pipelines,
        progress: Progress,
    ):
        self.network, self.bit_widths, self.objective, self.goal = network, bit_widths, objective, goal
        self.pipelines, self.progress = pipelines, progress
        self.mappings, self.seconds, self.begin = 0, 0.0, time.perf_counter()
        self.history: list[dict] = []
        self.state: State = {}

    def after_round(self, outcome: Outcome, share: float) -> bool:
        """True when the result at every bit-width, pipelines included, has met the goal."""
        if not outcome.interrupted:
            try:
                self.pipelines.advance(max(1, int(PIPELINE_SHARE * outcome.per_search)), share)
            except KeyboardInterrupt:
                outcome.interrupted = True
        if not outcome.interrupted:  # else that of the last whole round counts
            self.state = state_of(outcome.units)
        self.mappings = outcome.mappings + self.pipelines.evaluated
        self.seconds = time.perf_counter() - self.begin
        sums = {bits: network_cost(self.network, bits, outcome) for bits in self.bit_widths}
        costs = {bits: cost for bits, cost in sums.items() if cost}
        if len(costs) < len(sums):
            return False
        edp_js = {bits: cost.edp_js for bits, cost in costs.items()}
        values = {bits: value_of(self.objective, cost) for bits, cost in costs.items()}
        layers = {bits: self._mean_layer(outcome, bits) for bits in self.bit_widths}
        self.history.append(
            {"mappings": self.mappings, "seconds": self.seconds, "edp_js": edp_js, "objective_value": values,
             "mean_layer_value": layers}
        )  # fmt: skip
        self.progress.searched(share, edp_js)
        return self.goal is not None and all(
            value <= self.goal or self._pipeline_value(bits) <= self.goal for bits, value in values.items()
        )

    def _mean_layer(self, outcome: Outcome, bits: Bits) -> float:
        """Geometric mean over the layers of what each minimises. Unlike the network's sums it never rises."""
        costs = [found.cost for found in best_of(self.network, bits, outcome)]
        logs = [math.log(self.objective.value(cost.energy_j, cost.latency_s)) for cost in costs]
        return math.exp(sum(logs) / len(logs))

    def _pipeline_value(self, bits: Bits) -> float:
        pipeline = self.pipelines.best(bits)
        return value_of(self.objective, pipeline.cost) if pipeline else math.inf
