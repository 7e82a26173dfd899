"""The Pareto front of energy and latency: of a layer's mappings, and of a network as all combinations of these.

A layer's front holds every mapping that searches with different weights of energy and latency came past, and what the
run knows already, as far as no other one is at least as good in both. The front of a network is exact for these: every
combination of the layers' mappings is covered, also those that minimise no product of the two sums.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from automapper.evolve import EXPLORE, Evolution, known_row
from automapper.local import Row
from automapper.objective import Objective, Scoring
from automapper.parallel import run_parallel, seconds_each
from automapper.search import Choice, Found, Outcome
from automapper.space import Search, on_single_axes
from automapper.workload import Network, Problem, problem_of
from hw_model import BatchCost, Device, Mapping, decode, evaluate
from hw_model.widths import Bits
from instantnet.engine.errors import UserError

WEIGHTS = ((1.0, 0.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.0, 1.0))
"""Of energy and latency, one search of a layer each; together they breed as many mappings as its main search."""
SAME = 1e-9  # relative; energies closer than this are the same
ROUNDING = 1e-12  # relative; what a limit is exceeded by without being exceeded
MOST = 2_000_000  # points of a network's front


class Frontier(Evolution):
    """The search of one problem that keeps what no other mapping beats: `front`, by rising cycles and falling
    energy."""

    sees_all = True

    def __init__(self, search: Search, device: Device, objective: Scoring, seed: int, random: bool = False):
        super().__init__([search], device, objective, seed, random)
        self.front_energy, self.front_cycles = np.zeros(0), np.zeros(0, np.int64)
        f, o, b = self.pool
        self.front_rows: Row = f[0, :0], o[0, :0], b[0, :0]

    def see(self, cost: BatchCost, rows: Row) -> None:
        valid = np.flatnonzero(cost.valid)
        energy, cycles = cost.energy_pj[valid], cost.cycles[valid]
        if len(self.front_cycles):
            place = np.searchsorted(self.front_cycles, cycles, side="right") - 1
            beaten = (place >= 0) & (self.front_energy[place] <= energy * (1 + SAME))
            valid, energy, cycles = valid[~beaten], energy[~beaten], cycles[~beaten]
        if not len(valid):
            return
        energy = np.concatenate([self.front_energy, energy])
        cycles = np.concatenate([self.front_cycles, cycles])
        keep = nondominated(energy, cycles)
        self.front_energy, self.front_cycles = energy[keep], cycles[keep]
        f, o, b = (np.concatenate([kept, new[valid]])[keep] for kept, new in zip(self.front_rows, rows, strict=True))
        self.front_rows = f, o, b

    def mappings_of_front(self) -> list[Mapping]:
        """The mappings of the front."""
        constrained = self.searches[0].definition.constrained
        mappings = []
        for f, o, b in zip(*self.front_rows, strict=True):
            mappings.append(decode(f if constrained else on_single_axes(f, self.device), o, self.device, b))
        return mappings


def nondominated(energy: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Indices of the points [n] that no other one is at least as good as in both, by rising cycles."""
    order = np.lexsort((energy, cycles))
    sorted_energy = energy[order]
    least = np.minimum.accumulate(sorted_energy)
    before = np.concatenate([[np.inf], least[:-1]])
    return order[sorted_energy * (1 + SAME) < before]


def layer_fronts(
    network: Network,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    seed: int,
    workers: int,
    backend: str,
    random: bool = False,
    seconds: float = math.inf,
) -> tuple[dict[Problem, list[Found]], int]:
    """(the front of every problem, by rising latency; mappings tried). seconds: for all searches. Ctrl-C ends them;
    the fronts are then the best so far."""
    problems = list(dict.fromkeys(problem_of(item, bits) for bits in bit_widths for item in network.layers))
    known = {problem: _known(problem, outcome) for problem in problems}
    units = []
    for problem in problems:
        for energy_weight, latency_weight in WEIGHTS:
            search = Search(problem, outcome.baselines.own)
            objective = Objective("front", energy_weight, latency_weight)
            unit = Frontier(search, device, objective, seed, random)
            for found in known[problem]:
                if (row := known_row(unit.space, found.mapping, device)) is not None:
                    unit.remember(0, row)
            units.append(unit)
    mappings = max(1, outcome.per_search // len(WEIGHTS))
    try:
        if not outcome.interrupted:
            each = seconds_each(seconds, len(units), workers)
            units = run_parallel(_advanced, [(unit, mappings, each) for unit in units], workers, backend)
    except KeyboardInterrupt:
        outcome.interrupted = True
        for unit in units:
            unit.stopped = True
        while any(unit.running for unit in units):
            time.sleep(0.01)
    for unit in units:
        problem = unit.searches[0].problem
        for mapping in unit.mappings_of_front():
            cost = evaluate(problem.layer, mapping, device, problem.bits)
            known[problem].append(Found(Search(problem), mapping, cost))
    return {problem: _front(found) for problem, found in known.items()}, sum(unit.evaluated for unit in units)


def _advanced(unit: Frontier, mappings: int, seconds: float) -> Frontier:
    unit.end_after(seconds)
    unit.advance(max(1, int(EXPLORE * mappings)), EXPLORE)
    unit.advance(mappings, 1.0)
    return unit


def _known(problem: Problem, outcome: Outcome) -> list[Found]:
    """What the run knows of a problem: AutoMapper's own mapping, what it was traded for, and, where nothing constrains
    AutoMapper, the dataflows' mappings."""
    found = [outcome.own(problem)]
    found += [one for (_, other), one in outcome.traded.items() if other == problem]
    if not outcome.baselines.own:
        found += [one for search, one in outcome.found.items() if search.problem == problem]
    return [Found(Search(problem), one.mapping, one.cost) for one in found]


def _front(found: Sequence[Found]) -> list[Found]:
    energy = np.array([one.cost.energy_pj for one in found])
    cycles = np.array([one.cost.cycles for one in found], np.int64)
    return [found[i] for i in nondominated(energy, cycles)]


@dataclass(frozen=True)
class NetworkFront:
    """A network's front, by rising latency.

    options: the mappings that each layer can choose from; energy_pj [n], cycles [n]: of the combinations that no other
    one beats; previous, chosen: for each layer the point of the front over the layers before it, and the option added
    to that.
    """

    options: tuple[list[Found], ...]
    energy_pj: np.ndarray
    cycles: np.ndarray
    previous: tuple[np.ndarray, ...]
    chosen: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.cycles)

    def choices(self, point: int) -> list[int]:
        """The option of every layer at a point."""
        picked = []
        for previous, chosen in zip(self.previous[::-1], self.chosen[::-1], strict=True):
            picked.append(int(chosen[point]))
            point = int(previous[point])
        return picked[::-1]

    def found(self, point: int) -> tuple[Found, ...]:
        """The mapping of every layer at a point."""
        return tuple(options[i] for options, i in zip(self.options, self.choices(point), strict=True))

    def latency_s(self) -> np.ndarray:
        """[n] seconds."""
        one = self.options[0][0].cost
        return self.cycles * (one.latency_s / one.cycles)

    def best(self, value: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> int:
        """The point with the lowest value(energy_j, latency_s)."""
        return int(np.argmin(value(self.energy_pj * 1e-12, self.latency_s())))


def network_front(network: Network, bits: Bits, fronts: dict[Problem, list[Found]]) -> NetworkFront:
    """All combinations of the layers' mappings that no other combination beats.

    Raises UserError where these are more than MOST.
    """
    options = tuple(fronts[problem_of(item, bits)] for item in network.layers)
    energy, cycles = np.zeros(1), np.zeros(1, np.int64)
    previous, chosen = [], []
    for layer in options:
        own_energy = np.array([one.cost.energy_pj for one in layer])
        own_cycles = np.array([one.cost.cycles for one in layer], np.int64)
        all_energy = (energy[:, None] + own_energy).ravel()
        all_cycles = (cycles[:, None] + own_cycles).ravel()
        keep = nondominated(all_energy, all_cycles)
        if len(keep) > MOST:
            raise UserError(
                f"setting pareto: more than {MOST:,} combinations of mappings at {bits} bit beat each other"
            )
        energy, cycles = all_energy[keep], all_cycles[keep]
        previous.append((keep // len(layer)).astype(np.int32))
        chosen.append((keep % len(layer)).astype(np.int32))
    return NetworkFront(options, energy, cycles, tuple(previous), tuple(chosen))


@dataclass(frozen=True)
class Limits:
    """What a network's latency in s, and its energy in J, may be at most; None = anything."""

    latency_s: float | None = None
    energy_j: float | None = None

    def __bool__(self) -> bool:
        return self.latency_s is not None or self.energy_j is not None

    def __str__(self) -> str:
        parts = ((self.latency_s, "s"), (self.energy_j, "J"))
        return " and ".join(f"{value:g} {unit}" for value, unit in parts if value is not None)

    def choice(self, front: NetworkFront, objective: Objective) -> Choice:
        """The point of a front that a network runs.

        Within the limits it has the lowest energy under a deadline, the lowest latency under a limit of energy, under
        both the lowest objective. Where no point is within them, the nearest: the least excess over a limit, relative.
        """
        energy, latency = front.energy_pj * 1e-12, front.latency_s()
        excess = np.zeros(len(front))
        for values, most in ((latency, self.latency_s), (energy, self.energy_j)):
            if most is not None:
                excess = np.maximum(excess, values / most - 1)
        if excess.min() > ROUNDING:
            point = int(np.argmin(excess))
            nearest = f"the nearest takes {latency[point]:.3e} s and {energy[point]:.3e} J"
            return Choice(front.found(point), False, f"no combination of mappings is within {self}; {nearest}")
        both = self.latency_s is not None and self.energy_j is not None
        what, value = (
            (f"lowest {objective.quantity}", objective.value(energy, latency))
            if both
            else ("lowest latency", latency)
            if self.latency_s is None
            else ("lowest energy", energy)
        )
        point = int(np.argmin(np.where(excess > ROUNDING, np.inf, value)))
        return Choice(front.found(point), True, f"the {what} within {self}, of {len(front)} combinations of mappings")
