"""All layers, bit-widths and dataflows of a network, searched together in rounds and spread over workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from automapper.budget import Budget
from automapper.dataflows import DATAFLOWS
from automapper.evolve import Evolution
from automapper.exhaustive import Optimum, find_optimum
from automapper.interrupt import interrupt_held_back
from automapper.objective import Objective, parse_objective
from automapper.space import Search
from automapper.spread import spread
from automapper.workload import Problem
from hw_model import Cost, Device, InvalidMapping, Layer, Mapping, evaluate

ROUNDS = 20
FIRST_ROUND, SECOND_ROUND = 8, 500  # mappings per search, where the budget is in seconds and the speed unknown


@dataclass(frozen=True)
class Found:
    """The best mapping a search found, and its cost by hw_model."""

    search: Search
    mapping: Mapping
    cost: Cost


@dataclass
class Outcome:
    """found: the best of every search so far; a dataflow that admits no mapping is left out. mappings: evaluated in
    all, per_search of them bred by each search, in so many seconds; interrupted by Ctrl-C; goal_met: ended by
    `after_round`; optima: of the exhaustive engine; traded: (bit-width of the network, problem) -> what a layer has for
    the network's sake (see trade); aside: of those, where it is behind a baseline at the layer itself."""

    found: dict[Search, Found] = field(default_factory=dict)
    mappings: int = 0
    per_search: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    goal_met: bool = False
    optima: dict[Problem, Optimum] = field(default_factory=dict)
    traded: dict[tuple[int, Problem], Found] = field(default_factory=dict)
    aside: set[tuple[int, Problem]] = field(default_factory=set)

    def best(self, problem: Problem, bits: int) -> Found | None:
        """The mapping that a layer has while its network runs at `bits`."""
        return self.traded.get((bits, problem)) or self.found.get(Search(problem))

    def shown(self, problem: Problem, bits: int) -> Found | None:
        """The mapping that a report gives a layer: what the network runs, or the layer's own best where that is
        behind a baseline."""
        return self.found.get(Search(problem)) if (bits, problem) in self.aside else self.best(problem, bits)


class NoMapping(Exception):
    """No valid mapping of a problem was found; `reasons`: what the closest miss exceeds."""

    def __init__(self, problem: Problem, device: Device, reasons: Sequence[str]):
        super().__init__(f"no valid mapping on device {device.name} found; closest miss: {'; '.join(reasons)}")
        self.problem, self.reasons = problem, list(reasons)


def run_search(
    problems: Sequence[Problem],
    device: Device,
    objective: Objective,
    budget: Budget,
    seed: int,
    engine: str = "evolution",
    workers: int = 0,
    backend: str = "threading",
    after_round: Callable[[Outcome, float], bool] = lambda outcome, share: False,
    after_proof: Callable[[int, int], None] = lambda done, of: None,
    interrupted: bool = False,
) -> Outcome:
    """The best mapping of every problem in the whole space and inside each known dataflow.

    Args:
        engine: "evolution"; "random": as many random mappings, the floor; "exhaustive": evolution, and then whatever
            its result does not already rule out, so that the outcome is the optimum.
        workers: shapes searched at once, 0 = as many as there are cores. The result does not depend on it, unless the
            budget is in seconds.
        backend: see `spread`.
        after_round: told the outcome so far and the share of the budget used; True ends the search.
        after_proof: told how many problems of all the exhaustive engine has done.
        interrupted: by Ctrl-C before it began; the first pools are the outcome then.

    Ctrl-C ends the search too; the outcome is then the best so far.

    Raises:
        NoMapping: nothing valid was found for a problem.
    """
    flows = ["", *DATAFLOWS]
    by_shape: dict = {}
    for problem in problems:
        by_shape.setdefault(problem.layer, []).extend(Search(problem, flow) for flow in flows)
    with interrupt_held_back() as came:  # the first pools hold what an interrupted search reports
        units = [Evolution(searches, device, objective, seed, engine == "random") for searches in by_shape.values()]
        load_compiled(device)
    outcome = Outcome(interrupted=bool(came) or interrupted)
    begin = time.perf_counter()
    target, share = 0, 0.0
    try:
        while share < 1.0 and not outcome.interrupted:
            target, share = _next_round(budget, target, time.perf_counter() - begin)
            units = _advance(units, target, share, workers, backend)
            _collect(outcome, units, begin)
            if share < 1.0 and after_round(outcome, share):
                outcome.goal_met = True
                break
    except KeyboardInterrupt:
        outcome.interrupted = True
        for unit in units:
            unit.stopped = True
        while any(unit.running for unit in units):
            time.sleep(0.01)
    with interrupt_held_back():
        if share < 1.0 or outcome.interrupted:
            units = [unit.advance(1, 1.0) for unit in units]
        _collect(outcome, units, begin)
    if engine == "exhaustive" and not outcome.interrupted:
        try:
            _find_optima(outcome, units, workers, backend, after_proof)
        except KeyboardInterrupt:
            outcome.interrupted = True
        outcome.seconds = time.perf_counter() - begin
    try:
        outcome.goal_met |= after_round(outcome, 1.0)
    except KeyboardInterrupt:
        outcome.interrupted = True
    for problem in problems:
        if Search(problem) not in outcome.found:
            _raise_no_mapping(problem, units, device)
    return outcome


def load_compiled(device: Device) -> None:
    """Load the compiled code, or compile it, once per machine: neither is time of a search."""
    Evolution([Search(Problem(Layer(), 8))], device, parse_objective("edp"), 0).advance(1, 1.0)


def _next_round(budget: Budget, done: int, seconds: float) -> tuple[int, float]:
    """Mappings per search until the end of the next round, and the share of the budget that is used by then."""
    if budget.mappings is not None:
        step = max(1, budget.mappings // ROUNDS)
        target = done + step if done + 2 * step <= budget.mappings else budget.mappings
        return target, target / budget.mappings
    if not done:
        return FIRST_ROUND, 0.0
    slice_s = budget.seconds / ROUNDS
    if done == FIRST_ROUND and seconds < slice_s:
        return SECOND_ROUND, 0.0
    share = min(1.0, (seconds + slice_s) / budget.seconds)
    return done + max(1, int(done * slice_s / seconds)), share


def _advance(units: list[Evolution], target: int, share: float, workers: int, backend: str) -> list[Evolution]:
    return spread(Evolution.advance, [(unit, target, share) for unit in units], workers, backend)


def _collect(outcome: Outcome, units: Iterable[Evolution], begin: float) -> None:
    """Cost the bests so far by hw_model's own `evaluate`, those that changed."""
    outcome.seconds = time.perf_counter() - begin
    outcome.per_search = max(unit.mappings for unit in units)
    outcome.mappings = sum(unit.evaluated for unit in units)
    for unit in units:
        for index, search in enumerate(unit.searches):
            mapping = unit.best(index)
            before = outcome.found.get(search)
            if before and before.mapping == mapping:
                continue
            try:
                cost = evaluate(search.problem.layer, mapping, unit.device, search.problem.bits)
            except InvalidMapping:
                continue
            outcome.found[search] = Found(search, mapping, cost)


def _find_optima(
    outcome: Outcome,
    units: Iterable[Evolution],
    workers: int,
    backend: str,
    after_proof: Callable[[int, int], None],
) -> None:
    """Replace what evolution found by the optimum, where that is better."""
    work = [
        (search.problem, unit.device, unit.objective, float(unit.score[index]))
        for unit in units
        for index, search in enumerate(unit.searches)
        if not search.dataflow
    ]
    at_once = workers or os.cpu_count() or 1
    for begin in range(0, len(work), at_once):
        part = work[begin : begin + at_once]
        for (problem, device, _, _), optimum in zip(part, spread(find_optimum, part, workers, backend), strict=True):
            outcome.optima[problem] = optimum
            outcome.mappings += optimum.evaluated
            if optimum.mapping:
                cost = evaluate(problem.layer, optimum.mapping, device, problem.bits)
                outcome.found[Search(problem)] = Found(Search(problem), optimum.mapping, cost)
        after_proof(begin + len(part), len(work))


def _raise_no_mapping(problem: Problem, units: Iterable[Evolution], device: Device) -> None:
    for unit in units:
        if Search(problem) in unit.searches:
            mapping = unit.best(unit.searches.index(Search(problem)))
            try:
                evaluate(problem.layer, mapping, device, problem.bits)
            except InvalidMapping as error:
                raise NoMapping(problem, device, error.reasons) from error
