"""All layers, bit-widths and dataflows of a network, searched together in rounds, in parallel."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from automapper.baselines import Baselines
from automapper.budget import PROVING, Budget, Clock
from automapper.dataflows import built_in, why_none
from automapper.engines import ENGINES, Engine
from automapper.evolve import CONVERGED, Evolution
from automapper.exhaustive import Optimum, find_optimum
from automapper.interrupt import interrupt_held_back
from automapper.objective import Objective, parse_objective
from automapper.parallel import WorkerLost, run_parallel, seconds_each
from automapper.space import Search
from automapper.workload import NetworkLayer, Problem, problem_of
from hw_model import Cost, Device, InvalidMapping, Layer, Mapping, evaluate
from hw_model.widths import Bits
from instantnet.settings.stages import MapSettings

ROUNDS = 20
FIRST_ROUND, SECOND_ROUND = 8, 500  # mappings per search, where the budget is in seconds and the speed unknown


@dataclass(frozen=True)
class Found:
    """The best mapping a search found, and its cost by hw_model. gaps: see `Evolution.gaps`; of a mapping that needs no
    search, 0."""

    search: Search
    mapping: Mapping
    cost: Cost
    gaps: tuple[float, float] = (math.inf, math.inf)

    @property
    def converged(self) -> bool:
        """Whether the search that found it has converged."""
        return max(self.gaps) <= CONVERGED


@dataclass(frozen=True)
class Choice:
    """The mappings that a network runs, in running order, to stay within a limit; met: whether it does; why: a
    sentence."""

    found: tuple[Found, ...]
    met: bool
    why: str


@dataclass
class Outcome:
    """What a run has found so far.

    found: the best of every search; a dataflow that admits no mapping is left out. It depends on the search alone.
    mappings: evaluated in all; per_search: bred by each search; seconds: of searching. interrupted: by Ctrl-C,
    or as a process was killed (lost);
    goal_met: ended by `after_round`. units: the searches as they stand. optima: of the exhaustive engine. traded:
    (bit-width of the network, problem) -> another mapping that the network runs for a lower total (see trade).
    chosen: by bit-width, what the network runs in place of both to stay within a limit.
    """

    baselines: Baselines = field(default_factory=Baselines)
    found: dict[Search, Found] = field(default_factory=dict)
    mappings: int = 0
    per_search: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    lost: WorkerLost | None = None
    goal_met: bool = False
    units: list[Engine] = field(default_factory=list, repr=False)
    optima: dict[Problem, Optimum] = field(default_factory=dict)
    traded: dict[tuple[Bits, Problem], Found] = field(default_factory=dict)
    chosen: dict[Bits, Choice] = field(default_factory=dict)

    def has(self, problem: Problem) -> bool:
        """Whether AutoMapper has a mapping of a layer; of every layer once `run_search` has returned."""
        return Search(problem, self.baselines.own) in self.found

    def own(self, problem: Problem) -> Found:
        """AutoMapper's best mapping of a layer, independent of the network. KeyError while it has none."""
        return self.found[Search(problem, self.baselines.own)]

    def best(self, problem: Problem, bits: Bits) -> Found:
        """The mapping that a layer has while its network runs at `bits`."""
        return self.traded.get((bits, problem)) or self.own(problem)

    def baseline(self, item: NetworkLayer, bits: Bits, name: str) -> Found | None:
        """A baseline's mapping of a layer while its network runs at `bits`."""
        kept = self.baselines.kept(name)
        if kept and item.own_bits is not None:  # always at this width, so its cost is known
            return self.found.get(Search(problem_of(item, bits), kept))
        return self.found.get(Search(problem_of(item, bits), self.baselines.dataflows.get(name, name)))


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
    engine: str = MapSettings.engine,
    workers: int = MapSettings.workers,
    backend: str = MapSettings.backend,
    after_round: Callable[[Outcome, float], bool] = lambda outcome, share: False,
    after_proof: Callable[[int, int], None] = lambda done, of: None,
    interrupted: bool = False,
    baselines: Baselines | None = None,
    fixed: Sequence[Problem] = (),
    prepare: Callable[[Sequence[Engine]], Any] = lambda units: None,
) -> Outcome:
    """The best mapping of every problem, and inside each dataflow: the built-in ones always, and those of `baselines`.

    Args:
        engine: a name in `engines.ENGINES`. "random": as many random mappings, the floor. "exhaustive": evolution, then
            branch and bound over what its result does not rule out, so that the outcome is the optimum.
        workers: shapes searched at once, 0 = as many as there are cores. The result does not depend on it, unless the
            budget is in seconds.
        backend: see `run_parallel`.
        after_round: called with the outcome so far and the share of the budget used; True ends the search.
        after_proof: called with the number of problems that the exhaustive engine has done, and of all.
        interrupted: by Ctrl-C before the start; the first pools are then the outcome.
        fixed: further problems, at another bit-width, that are searched inside the dataflows of the NAME_fixed.
        prepare: called with the searches of every layer before they begin.

    Ctrl-C ends the search too; the outcome is then the best so far.

    Raises:
        NoMapping: nothing valid was found for a problem.
    """
    baselines = baselines or Baselines()
    by_shape: dict = {}
    for search in _searches(problems, fixed, baselines, device):
        by_shape.setdefault(search.problem.layer, []).append(search)
    with interrupt_held_back() as came:  # the first pools hold what an interrupted search reports
        units = [ENGINES[engine](searches, device, objective, seed) for searches in by_shape.values()]
        load_kernels(device)
        prepare(units)
    clock = Clock(budget.seconds)
    if engine == "exhaustive":
        budget = budget.without(PROVING)
    for unit in units:
        unit.local_s = seconds_each(budget.local_s, len(units), workers)
    outcome = Outcome(baselines, interrupted=bool(came) or interrupted)
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
    except (KeyboardInterrupt, WorkerLost) as error:
        if isinstance(error, WorkerLost):
            if not outcome.found:
                raise
            print(f"note: {error}; the result is what was found before", file=sys.stderr)
            outcome.lost = error
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
            evolved = [unit for unit in units if isinstance(unit, Evolution)]
            _find_optima(outcome, evolved, workers, backend, after_proof, clock)
        except KeyboardInterrupt:
            outcome.interrupted = True
        outcome.seconds = time.perf_counter() - begin
    try:
        outcome.goal_met |= after_round(outcome, 1.0)
    except KeyboardInterrupt:
        outcome.interrupted = True
    for problem in problems:
        if not outcome.has(problem):
            _raise_no_mapping(Search(problem, baselines.own), units, device)
        _adopt_better_of_built_in(outcome, problem, objective)
    return outcome


def _searches(
    problems: Sequence[Problem], fixed: Sequence[Problem], baselines: Baselines, device: Device
) -> list[Search]:
    """Every search once. The built-in dataflows always come with the whole space, which takes over from them."""
    flows = [
        flow for flow in baselines.dataflows.values() if not why_none(Search(problems[0], flow).definition, device)
    ]
    kept = [flow for flow in map(baselines.kept, baselines.shown) if flow in flows]
    searches = [Search(problem, flow) for problem in problems for flow in (baselines.own, *flows)]
    searches += [Search(problem, flow) for problem in fixed for flow in kept]
    return list(dict.fromkeys(searches))


def load_kernels(device: Device) -> None:
    """Load the compiled code, or compile it once per machine, before the time of the search begins."""
    Evolution([Search(Problem(Layer(), 8))], device, parse_objective("edp"), 0).advance(1, 1.0).best(0)


def _next_round(budget: Budget, done: int, seconds: float) -> tuple[int, float]:
    """Mappings per search until the end of the next round, and the share of the budget that is used by then."""
    if budget.mappings is not None:
        step = max(1, budget.mappings // ROUNDS)
        target = done + step if done + 2 * step <= budget.mappings else budget.mappings
        return target, target / budget.mappings
    if not done:
        return FIRST_ROUND, 0.0
    slice_s = budget.breeding_s / ROUNDS
    if done == FIRST_ROUND and seconds < slice_s:
        return SECOND_ROUND, 0.0
    share = min(1.0, (seconds + slice_s) / budget.breeding_s)
    return done + max(1, int(done * slice_s / seconds)), share


def _advance(units: list[Engine], target: int, share: float, workers: int, backend: str) -> list[Engine]:
    return run_parallel(_advanced, [(unit, target, share) for unit in units], workers, backend)


def _advanced(unit: Engine, target: int, share: float) -> Engine:
    return unit.advance(target, share)


def _collect(outcome: Outcome, units: Iterable[Engine], begin: float) -> None:
    """Cost the bests so far by hw_model's own `evaluate`, those that changed."""
    outcome.seconds = time.perf_counter() - begin
    outcome.per_search = max(unit.mappings for unit in units)
    outcome.units = list(units)
    outcome.mappings = sum(unit.evaluated for unit in units)
    for unit in units:
        for index, search in enumerate(unit.searches):
            mapping, gaps = unit.best(index), unit.gaps(index)
            before = outcome.found.get(search)
            if before and before.mapping == mapping:
                outcome.found[search] = replace(before, gaps=gaps)
                continue
            try:
                cost = evaluate(search.problem.layer, mapping, unit.device, search.problem.bits)
            except InvalidMapping:
                continue
            outcome.found[search] = Found(search, mapping, cost, gaps)


def _adopt_better_of_built_in(outcome: Outcome, problem: Problem, objective: Objective) -> None:
    """Give a layer a built-in dataflow's mapping that is better by a rounding error, which scores do not show."""
    best = outcome.found.get(Search(problem))
    if best is None or problem in outcome.optima:
        return
    for name in built_in():
        other = outcome.found.get(Search(problem, name))
        if other and _value(objective, other) < _value(objective, best):
            best = replace(best, mapping=other.mapping, cost=other.cost)
    outcome.found[Search(problem)] = best


def _value(objective: Objective, found: Found) -> float:
    return objective.value(found.cost.energy_j, found.cost.latency_s)


def _find_optima(
    outcome: Outcome,
    units: Iterable[Evolution],
    workers: int,
    backend: str,
    after_proof: Callable[[int, int], None],
    clock: Clock,
) -> None:
    """Replace what evolution found by the optimum, where that is better, until the clock has run down."""
    work = [
        (search.problem, unit.device, unit.objective, float(unit.score[index]))
        for unit in units
        for index, search in enumerate(unit.searches)
        if not search.dataflow
    ]
    at_once = workers or os.cpu_count() or 1
    for begin in range(0, len(work), at_once):
        seconds = clock.until() / math.ceil((len(work) - begin) / at_once)
        part = [(*one, seconds) for one in work[begin : begin + at_once]]
        for (problem, device, *_), optimum in zip(
            part, run_parallel(find_optimum, part, workers, backend), strict=True
        ):
            outcome.optima[problem] = optimum
            outcome.mappings += optimum.evaluated
            if optimum.mapping:
                cost = evaluate(problem.layer, optimum.mapping, device, problem.bits)
                outcome.found[Search(problem)] = Found(Search(problem), optimum.mapping, cost)
            if optimum.complete and Search(problem) in outcome.found:
                outcome.found[Search(problem)] = replace(outcome.found[Search(problem)], gaps=(0.0, 0.0))
        after_proof(begin + len(part), len(work))


def _raise_no_mapping(search: Search, units: Iterable[Engine], device: Device) -> None:
    problem = search.problem
    for unit in units:
        if search in unit.searches:
            mapping = unit.best(unit.searches.index(search))
            try:
                evaluate(problem.layer, mapping, device, problem.bits)
            except InvalidMapping as error:
                raise NoMapping(problem, device, error.reasons) from error
