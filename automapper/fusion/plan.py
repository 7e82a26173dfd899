"""What a network runs at a bit-width when layers may be fused: its groups, and a mapping of every layer.

An EDP is a product of two sums, so no group can be judged alone. Near the sums E and T of a network, energy^a * T^b
moves as a * E_i / E + b * T_i / T does: a sum over the groups, of which dynamic programming finds the least. E and T
are then those of what it found, and so on until nothing changes. The plan is then searched by more mappings. A group
is kept only where it is better than its layers alone, and a plan of wider words is taken over where it is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from automapper.budget import Clock
from automapper.dataflows import Dataflow
from automapper.fusion.groups import Group, Grouping
from automapper.fusion.members import Place, Placed, search_places
from automapper.objective import Objective
from automapper.search import Found
from automapper.workload import DRAM
from hw_model import Cost, Device, InvalidMapping, Layer, Mapping, evaluate, fusion
from hw_model.tables import word_bits
from hw_model.widths import Bits

ROUGH = 150  # mappings bred to compare groups
MOST = 3000  # mappings bred for each layer of the plan: they begin with good ones, and cost more than a layer's own
LEVELS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)  # of the buffer, as what is left is rounded to compare
SHARE = 0.5  # of the seconds that are left, for each of the searches one after another
TURNS = 8  # of the iteration of E and T, at most


@dataclass(frozen=True)
class Step:
    """A layer alone, or a group. mappings, costs: per layer; of a group's layers the mapping of the largest strip, and
    the cost of all strips and images, with what is added and the weights that are loaded."""

    group: Group
    mappings: tuple[Mapping, ...]
    costs: tuple[Cost, ...]

    @property
    def fused(self) -> bool:
        """Whether it is more than a layer alone."""
        return len(self.group) > 1


@dataclass(frozen=True)
class Plan:
    """The steps of a network in order."""

    bits: Bits
    steps: tuple[Step, ...]

    @cached_property
    def cost(self) -> Cost:
        """The sum over the layers."""
        return sum((cost for step in self.steps for cost in step.costs), Cost())

    @property
    def energy_and_latency(self) -> tuple[float, float]:
        """Those of `cost`, in J and s, without the sums of all else that it counts."""
        costs = [cost for step in self.steps for cost in step.costs]
        return sum(cost.energy_pj for cost in costs) * 1e-12, sum(cost.latency_s for cost in costs)


@dataclass(frozen=True)
class Effort:
    """Of the searches: mappings bred for each, the seed, workers and backend as `run_parallel` has them, whether
    mappings are random ones, and seconds for all of them."""

    mappings: int
    seed: int
    workers: int
    backend: str
    random: bool = False
    seconds: float = math.inf


class Planner:
    """Plans of one network on one device. clock: how long the next searches may take."""

    def __init__(self, grouping: Grouping, objective: Objective, effort: Effort):
        self.grouping, self.objective, self.effort = grouping, objective, effort
        self.clock = Clock()
        self.device: Device = grouping.device
        self.layers = grouping.layers

    @property
    def home(self) -> int:
        """The level where tensors stay; devices without one have no groups."""
        home = fusion.home_of(self.device)
        assert home is not None
        return home

    def layer_by_layer(self, bits: Bits, found: Sequence[Found]) -> Plan:
        """Every layer alone, with the mapping found for it; what is added to its output is read from DRAM."""
        steps = []
        for index, one in enumerate(found):
            layer = self.layers[index].layer
            alone = Group(index, index + 1, images=layer.N)
            steps.append(Step(alone, (one.mapping,), (self._with_added(one.cost, alone, 0, layer, self.device, bits),)))
        return Plan(bits, tuple(steps))

    def plan(self, alone: Plan, wider: Plan | None = None, dataflow: str | Dataflow = "") -> Plan:
        """The best plan found. alone: layer by layer; wider: the plan of wider words, which is worth a look; dataflow:
        as `Search.dataflow`, what every mapping has to stay within. Without time, only the wider one is looked at."""
        best = alone
        if self.clock.until():
            known = {step.group.begin: step.mappings[0] for step in alone.steps}
            groups, weights = self.choose(alone, self._rough(alone, known, dataflow))
            best = self.without_losses(self.searched(groups, alone, known, weights, dataflow), alone)
        if wider is not None:
            same = [step if step.fused else alone.steps[step.group.begin] for step in wider.steps]
            steps = [self.recosted(step, alone.bits) if step.fused else step for step in same]
            if all(steps):
                other = self.without_losses(Plan(alone.bits, tuple(step for step in steps if step)), alone)
                best = min(best, other, key=self.value)
        return best

    def within(self, plan: Plan, alone: Plan, dataflow: str | Dataflow) -> Plan:
        """The groups of a plan with mappings of a dataflow, where they pay. alone: its mappings layer by layer, which
        is the result where there is no time."""
        if not self.clock.until():
            return alone
        known = {step.group.begin: step.mappings[0] for step in alone.steps}
        weights = self.weights(plan.cost.energy_pj, plan.cost.cycles)
        groups = [step.group for step in plan.steps if step.fused]
        return self.without_losses(self.searched(groups, alone, known, weights, dataflow), alone)

    def taken_over(self, plan: Plan, other: Plan) -> Plan:
        """The plan with the other one's mappings in each of the same groups where that is better; the other plan where
        all of it is better still."""
        theirs = {step.group: step for step in other.steps if step.fused}
        for index, step in enumerate(plan.steps):
            if step.group in theirs:
                swapped = replace(plan, steps=(*plan.steps[:index], theirs[step.group], *plan.steps[index + 1 :]))
                plan = min(plan, swapped, key=self.value)
        return min(plan, other, key=self.value)

    def value(self, plan: Plan) -> float:
        """The objective."""
        return self.objective.value(*plan.energy_and_latency)

    def choose(
        self, alone: Plan, rough: MappingABC[Group, tuple[float, float]]
    ) -> tuple[list[Group], tuple[float, float]]:
        """The groups with the lowest objective by their (pJ, cycles), and the weights of a pJ and a cycle there."""
        options: dict[tuple[int, int], list[tuple[Group, float, float]]] = {}
        for step in alone.steps:
            cost = step.costs[0]
            key = step.group.begin, step.group.end
            options[key] = [(step.group, cost.energy_pj, cost.cycles)]
        for group, (energy_pj, cycles) in rough.items():
            options.setdefault((group.begin, group.end), []).append((group, energy_pj, cycles))
        chosen = [step.group for step in alone.steps]
        energy_pj, cycles = alone.cost.energy_pj, alone.cost.cycles
        best = self.objective.value(energy_pj, cycles)
        weights = self.weights(energy_pj, cycles)
        for _ in range(TURNS):
            found = _cheapest(options, len(self.layers), self.weights(energy_pj, cycles))
            energy_pj, cycles = sum(one[1] for one in found), sum(one[2] for one in found)
            value = self.objective.value(energy_pj, cycles)
            if value >= best:
                break
            best, chosen, weights = value, [one[0] for one in found], self.weights(energy_pj, cycles)
        return [group for group in chosen if len(group) > 1], weights

    def searched(
        self,
        groups: Sequence[Group],
        alone: Plan,
        known: MappingABC[int, Mapping],
        weights: tuple[float, float],
        dataflow: str | Dataflow = "",
        preloaded: bool = False,
    ) -> Plan:
        """The plan of these groups, with up to MOST mappings searched for each layer; where a layer has none, its group
        is left out. known: by layer, a mapping to begin with; preloaded: pinned weights are there already."""
        bits = alone.bits
        places: dict[tuple[Group, int], Place] = {}
        for group in groups:
            parts, reserved = self.grouping.strips_of(group), self.grouping.reserved_bits(group, bits)
            assert parts is not None
            for index, strips in enumerate(parts):
                stays = self.stays(group, index)
                place_bits = self.layers[group.begin + index].bits_at(bits)
                places[group, index] = Place(strips, place_bits, stays, reserved[index], *weights, dataflow)
        found = self._found(places, known, min(self.effort.mappings, MOST // 2 if dataflow else MOST))
        steps = list(alone.steps)
        for group in groups:
            each = [found[group, index] for index in range(len(group))]
            if not all(each):
                continue
            mappings = tuple(one.mapping for one in each if one)
            step = self.recosted(Step(group, mappings, ()), bits, preloaded)
            if step:
                begin = next(i for i, other in enumerate(steps) if other.group.begin == group.begin)
                steps[begin : begin + len(group)] = [step]
        return Plan(bits, tuple(steps))

    def without_losses(self, plan: Plan, alone: Plan) -> Plan:
        """The plan with layers alone in place of each group that does not pay, the worst first."""
        while True:
            split = [
                Plan(
                    plan.bits, (*plan.steps[:i], *alone.steps[step.group.begin : step.group.end], *plan.steps[i + 1 :])
                )
                for i, step in enumerate(plan.steps)
                if step.fused
            ]
            better = min(split, key=self.value, default=plan)
            if self.value(better) >= self.value(plan):
                return plan
            plan = better

    def recosted(self, step: Step, bits: Bits, preloaded: bool = False) -> Step | None:
        """A group with its mappings at another bit-width; None where they do not fit."""
        group = step.group
        reserved = self.grouping.reserved_bits(group, bits)
        if max(reserved) >= self.grouping.room_bits:
            return None
        try:
            costs = [self._cost(group, i, mapping, reserved[i], bits) for i, mapping in enumerate(step.mappings)]
            if group.pinned and not preloaded:
                costs = [cost + self._loading(group, i, bits) for i, cost in enumerate(costs)]
        except InvalidMapping:
            return None
        return replace(step, costs=tuple(costs))

    def _cost(self, group: Group, index: int, mapping: Mapping, reserved_bits: int, bits: Bits) -> Cost:
        """What a layer costs in a group, over all strips and images."""
        item = self.layers[group.begin + index]
        own_bits = item.bits_at(bits)
        view = fusion.in_group(self.device, self.stays(group, index), reserved_bits)
        parts = self.grouping.strips_of(group)
        assert parts is not None
        total = Cost()
        for part, times in parts[index]:
            cost = evaluate(part, fusion.on_strip(mapping.on(view), part, view), view, own_bits)
            total = total + self._with_added(cost, group, index, part, view, bits) * times
        return total * self.grouping.passes(group)

    def _with_added(self, cost: Cost, group: Group, index: int, part: Layer, view: Device, bits: Bits) -> Cost:
        """The cost of a layer, or of its strip `part`, with the reads of what is added to its output. view: the device
        that it is costed on."""
        item = self.layers[group.begin + index]
        for other in item.adds:
            level, read_bits = self._added(group, index, other, bits)
            cost = fusion.with_reads(cost, view, item.bits_at(bits), level, part.words("O"), read_bits)
        return cost

    def _loading(self, group: Group, index: int, bits: Bits) -> Cost:
        item = self.layers[group.begin + index]
        return fusion.loading(item.layer, self.device, item.bits_at(bits))

    def dram_bits(self, step: Step, bits: Bits) -> int:
        """Bits that a step moves to and from DRAM."""
        total = 0
        for index, cost in enumerate(step.costs):
            item = self.layers[step.group.begin + index]
            width, moved = word_bits(self.device, item.bits_at(bits)), cost.levels[self.device.level_names[0]]
            outputs = item.layer.words("O")
            added = [self._added(step.group, index, other, bits) for other in item.adds]
            read = [read_bits for level, read_bits in added if level == 0]
            finished = outputs if moved["O"].updates else 0
            total += int(moved["W"].reads * width["W"] + moved["I"].reads * width["I"])
            total += int((moved["O"].reads - len(read) * outputs + moved["O"].updates - finished) * width["O"])
            total += outputs * sum(read) + finished * width["final"]
        return total

    def _added(self, group: Group, index: int, other: int, bits: Bits) -> tuple[int, int]:
        """(level, bits of a word) where what is added to a layer's output is read."""
        if group.begin <= other and self.grouping.stays(other, group.begin, group.end):
            return self.home, self.grouping.kept_bits(other, bits)
        return 0, self._written_bits(other if other != DRAM else group.begin + index, bits)

    def _written_bits(self, index: int, bits: Bits) -> int:
        return word_bits(self.device, self.layers[index].bits_at(bits))["final"]

    def stays(self, group: Group, index: int) -> str:
        """Of W, I, O those of a group's layer that stay on the chip."""
        return fusion.tensors_that_stay(self.grouping.members(group), index, group.pinned)

    def weights(self, energy_pj: float, cycles: float) -> tuple[float, float]:
        """What a pJ and a cycle count near these sums."""
        return self.objective.energy_weight / energy_pj, self.objective.latency_weight / cycles

    def _rough(
        self, alone: Plan, known: MappingABC[int, Mapping], dataflow: str | Dataflow
    ) -> dict[Group, tuple[float, float]]:
        """(pJ, cycles) of every group that fits, by few mappings of the strip that occurs most."""
        bits = alone.bits
        weights = self.weights(alone.cost.energy_pj, alone.cost.cycles)
        room = self.grouping.room_bits
        places: dict[tuple[Group, int], Place] = {}
        scale: dict[tuple[Group, int], float] = {}
        for group in self.grouping.candidates(bits):
            if not self.clock.until(SHARE):
                break
            parts, reserved = self.grouping.strips_of(group), self.grouping.reserved_bits(group, bits)
            assert parts is not None
            for index, strips in enumerate(parts):
                layer = self.layers[group.begin + index].layer
                part = max(strips, key=lambda pair: pair[1])[0]
                left = max(level for level in LEVELS if level <= 1 - reserved[index] / room + 1e-12)
                rounded = room - int(left * room) if left < 1 else 0
                own_bits = self.layers[group.begin + index].bits_at(bits)
                places[group, index] = Place(
                    ((part, 1),), own_bits, self.stays(group, index), rounded, *weights, dataflow
                )
                scale[group, index] = layer.P / part.P * self.grouping.passes(group)
        found = self._found(places, known, min(ROUGH, self.effort.mappings))
        sums: dict[Group, tuple[float, float]] = {}
        for group in dict.fromkeys(group for group, _ in places):
            each = [found[group, index] for index in range(len(group))]
            if all(each):
                energy_pj = sum(one.energy_pj * scale[group, i] for i, one in enumerate(each) if one)
                cycles = sum(one.cycles * scale[group, i] for i, one in enumerate(each) if one)
                more = self._besides(group, bits)
                sums[group] = energy_pj + more.energy_pj, cycles + more.cycles
        return sums

    def _besides(self, group: Group, bits: Bits) -> Cost:
        """What a group costs besides its mappings: what is added (its energy alone), and weights that are loaded."""
        total = Cost()
        for index in range(len(group)):
            item = self.layers[group.begin + index]
            for other in item.adds:
                level, read_bits = self._added(group, index, other, bits)
                energy = self.device.levels[level].read_energy_pj_per_bit["O"]
                total = total + Cost(energy_pj=item.layer.words("O") * read_bits * energy)
            if group.pinned:
                total = total + self._loading(group, index, bits)
        return total

    def _found(
        self, places: MappingABC[tuple[Group, int], Place], known: MappingABC[int, Mapping], mappings: int
    ) -> dict[tuple[Group, int], Placed | None]:
        """The best mapping of every place; the same place is searched once."""
        begin = {place: known[group.begin + index] for (group, index), place in places.items()}
        effort = self.effort
        found = search_places(
            [(place, [mapping]) for place, mapping in begin.items()], self.device, mappings, effort.seed,
            effort.workers, effort.backend, effort.random, SHARE * self.clock.until(),
        )  # fmt: skip
        by_place = dict(zip(begin, found, strict=True))
        return {key: by_place[place] for key, place in places.items()}


def _cheapest(
    options: MappingABC[tuple[int, int], Sequence[tuple[Group, float, float]]],
    layers: int,
    weights: tuple[float, float],
) -> list[tuple[Group, float, float]]:
    """The options, one after another over all layers, with the least sum of weighted pJ and cycles."""
    least = [0.0] + [math.inf] * layers
    best: list[tuple[Group, float, float] | None] = [None] * (layers + 1)
    by_end: dict[int, list[tuple[Group, float, float]]] = {}
    for (_, end), every in options.items():
        by_end.setdefault(end, []).extend(every)
    for end in range(1, layers + 1):
        for one in by_end.get(end, []):
            value = least[one[0].begin] + weights[0] * one[1] + weights[1] * one[2]
            if value < least[end]:
                least[end], best[end] = value, one
    found = []
    end = layers
    while end:
        chosen = best[end]
        assert chosen is not None
        found.append(chosen)
        end = chosen[0].begin
    return found[::-1]
