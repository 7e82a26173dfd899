"""The mappings that the Eyeriss chip ran AlexNet with, as a baseline: JSSC 2017 (Chen et al.), table III.

Layers of AlexNet's own shapes get the published mapping. Layers that differ from one of them only in channels, filters
and groups (torchvision's AlexNet has 64, 192, 384, 256, 256 filters and no groups) get it *adapted*. Strip e, filters p
and channels q per PE, PE sets r x t, and images n stay; these and m are cut to the size of the layer; the trips of the
DRAM loops follow. Where several published layers can be adapted, the one with the lowest objective is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from automapper.baselines import PUBLISHED
from automapper.objective import Objective
from automapper.search import Found, Outcome
from automapper.space import Search
from automapper.workload import Problem, listed
from hw_model import Device, InvalidMapping, Layer, Mapping, evaluate
from hw_model.widths import Bits, in_words

NAME = PUBLISHED
LEVELS, ARRAY = ("dram", "glb", "rf"), (14, 12)


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


def is_published(layer: Layer) -> bool:
    """Whether the mapping is the chip's own for this very shape, not one adapted to it."""
    return any(_same(one.layer, layer) for one in ALEXNET)


def published_mappings(layer: Layer, device: Device) -> list[Mapping]:
    """The published mapping of a layer, else those that can be adapted to it; none on a device unlike Eyeriss.

    A strip that does not divide the layer is padded; one wider than the array is folded over its height, as on the
    chip.
    """
    if not is_eyeriss(device):
        return []
    own = [one for one in ALEXNET if _same(one.layer, layer)]
    alike = [one for one in ALEXNET if _alike(one.layer, layer)]
    return [_mapping(one, layer, device) for one in own or alike]


def is_eyeriss(device: Device) -> bool:
    """Whether a device has the levels and the array that the published mappings are made for."""
    return device.level_names == LEVELS and tuple(device.array) == ARRAY


def why_missing(layers: Sequence[Layer], found: Sequence[Found | None], device: Device, bits: Bits) -> str:
    """Why some of a network's layers have no published mapping at a bit-width; empty where all have one."""
    if not is_eyeriss(device):
        needs = f"needs Eyeriss' memories ({', '.join(LEVELS)}) and {ARRAY[0]} x {ARRAY[1]} PEs"
        return f"{needs}, which {device.name} does not have"
    if all(found):
        return ""
    if not any(_alike(one.layer, layer) for one in ALEXNET for layer in layers):
        return (
            "no layer has the filter and output size of one of AlexNet's, for which the chip's mappings are published"
        )
    missing = [layer for layer, one in zip(layers, found, strict=True) if one is None]
    fit = [layer for layer in missing if any(_alike(one.layer, layer) for one in ALEXNET)]
    names = listed(layer.name for layer in fit or missing)
    if fit:
        return f"the chip's tiles are for words of up to 16 bit; at {in_words(bits)} those of {names} do not fit"
    return f"nothing is published for the filter and output size of {names}"


def _same(one: Layer, layer: Layer) -> bool:
    return layer.sizes[1:] == one.sizes[1:] and _steps(layer) == _steps(one)


def _alike(one: Layer, layer: Layer) -> bool:
    """Whether two layers differ only in channels, filters and groups; a depth-wise layer is another kind."""
    kept = all(getattr(one, name) == getattr(layer, name) for name in ("P", "Q", "R", "S"))
    return kept and _steps(layer) == _steps(one) and (layer.G == 1 or layer.C > 1)


def _steps(layer: Layer) -> tuple[int, ...]:
    return layer.stride_h, layer.stride_w, layer.dilation_h, layer.dilation_w


def _mapping(one: Published, layer: Layer, device: Device) -> Mapping:
    folds = -(-one.e // device.array[0])
    images = min(one.n, layer.N)
    p, q = min(one.p, layer.K), min(one.q, layer.C)
    t, r = min(one.t, -(-layer.K // p)), min(one.r, -(-layer.C // q))
    kept = min(one.m // (one.p * one.t), -(-layer.K // (p * t)))  # m = p * t * kept ofmaps stay in the buffer
    sets = [["K", t], ["C", r]]
    beside = one.e * t <= device.array[0]
    return Mapping.from_dict(
        {
            "dram": [
                ["G", layer.G], ["N", -(-layer.N // images)], ["P", -(-layer.P // one.e)],
                ["K", -(-layer.K // (p * t * kept))], ["C", -(-layer.C // (q * r))],
            ],
            "glb": [["K", kept], ["N", images], ["Q", layer.Q]],
            "spatial_y": [["R", layer.R], ["P", folds], *([] if beside else sets)],
            "spatial_x": [["P", -(-one.e // folds)], *(sets if beside else [])],
            "rf": [["K", p], ["C", q], ["S", layer.S]],
        }
    )  # fmt: skip


def add_published(outcome: Outcome, problems: Sequence[Problem], device: Device, objective: Objective) -> None:
    """Add the published mapping to the outcome where one fits; AutoMapper takes it where it is better."""
    for problem in problems:
        fitting = []
        for mapping in published_mappings(problem.layer, device):
            try:
                cost = evaluate(problem.layer, mapping, device, problem.bits)
            except InvalidMapping:  # a wider word than the chip's 16 bit
                continue
            fitting.append((objective.score(cost.energy_pj, cost.cycles), mapping, cost))
        if not fitting:
            continue
        score, mapping, cost = min(fitting, key=lambda one: one[0])
        outcome.found[Search(problem, NAME)] = Found(Search(problem, NAME), mapping, cost, (0.0, 0.0))
        best = outcome.found.get(Search(problem))  # none where AutoMapper is constrained to a dataflow
        if best and score < objective.score(best.cost.energy_pj, best.cost.cycles):
            outcome.found[Search(problem)] = replace(best, mapping=mapping, cost=cost)
