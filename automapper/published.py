"""The mappings that the Eyeriss chip ran AlexNet with, as a baseline: JSSC 2017 (Chen et al.), table III."""

from __future__ import annotations

from dataclasses import dataclass

from automapper.objective import Objective
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Problem
from hw_model import Device, InvalidMapping, Layer, Mapping, evaluate

NAME = "eyeriss_published"


@dataclass(frozen=True)
class Published:
    """layer: of AlexNet, N = 1; m ofmaps of n images stay in the buffer; e ofmap rows per strip; each PE keeps p
    filters of q channels; r x t PE sets side by side on channels and ofmaps."""

    layer: Layer
    m: int
    n: int
    e: int
    p: int
    q: int
    r: int
    t: int


ALEXNET = (
    Published(Layer(K=96, C=3, P=55, Q=55, R=11, S=11, stride=4), m=96, n=1, e=7, p=16, q=1, r=1, t=2),
    Published(Layer(G=2, K=128, C=48, P=27, Q=27, R=5, S=5), m=64, n=1, e=27, p=16, q=2, r=1, t=1),
    Published(Layer(K=384, C=256, P=13, Q=13, R=3, S=3), m=64, n=4, e=13, p=16, q=4, r=1, t=4),
    Published(Layer(G=2, K=192, C=192, P=13, Q=13, R=3, S=3), m=64, n=4, e=13, p=16, q=3, r=2, t=2),
    Published(Layer(G=2, K=128, C=192, P=13, Q=13, R=3, S=3), m=64, n=4, e=13, p=16, q=3, r=2, t=2),
)


def published_mapping(layer: Layer, device: Device) -> Mapping | None:
    """The published mapping of a layer of AlexNet on a device with Eyeriss' levels and array; else None.

    A strip that does not divide the layer is padded; one wider than the array is folded over its height, as on the
    chip.
    """
    for one in ALEXNET:
        if layer.sizes[1:] == one.layer.sizes[1:] and layer.stride == one.layer.stride:
            break
    else:
        return None
    width, height = device.array
    if device.level_names != ("dram", "glb", "rf") or (width, height) != (14, 12):
        return None
    folds = -(-one.e // width)
    images = min(one.n, layer.N)
    sets = [["K", one.t], ["C", one.r]]
    beside = one.e * one.t <= width
    return Mapping.from_dict(
        {
            "dram": [
                ["G", layer.G], ["N", -(-layer.N // images)], ["P", -(-layer.P // one.e)], ["K", layer.K // one.m],
                ["C", -(-layer.C // (one.q * one.r))],
            ],
            "glb": [["K", one.m // (one.p * one.t)], ["N", images], ["Q", layer.Q]],
            "spatial_y": [["R", layer.R], ["P", folds], *([] if beside else sets)],
            "spatial_x": [["P", -(-one.e // folds)], *(sets if beside else [])],
            "rf": [["K", one.p], ["C", one.q], ["S", layer.S]],
        }
    )  # fmt: skip


def add_published(outcome: Outcome, problems: list[Problem], device: Device, objective: Objective) -> None:
    """Put the published mapping beside what was found, where there is one that fits; and take it where it is better."""
    for problem in problems:
        mapping = published_mapping(problem.layer, device)
        if mapping is None:
            continue
        try:
            cost = evaluate(problem.layer, mapping, device, problem.bits)
        except InvalidMapping:  # a wider word than the chip's 16 bit
            continue
        search = Search(problem, NAME)
        outcome.found[search] = Found(search, mapping, cost)
        best = outcome.found[Search(problem)].cost
        if objective.score(cost.energy_pj, cost.cycles) < objective.score(best.energy_pj, best.cycles):
            outcome.found[Search(problem)] = Found(Search(problem), mapping, cost)
