"""Random lists of layers, devices, bit-widths, objectives and budgets: no baseline is ahead, no wider word cheaper."""

import random

import pytest
from inequalities import check_inequalities

import hw_model
from automapper.baselines import default_baselines
from automapper.budget import Budget
from automapper.fixed import add_fixed
from automapper.objective import parse_objective
from automapper.pipelines import Pipelines
from automapper.published import ALEXNET, add_published
from automapper.report import build_report
from automapper.search import run_search
from automapper.trade import trade_layers
from automapper.workload import Network, NetworkLayer, distinct_problems
from hw_model import Layer

DEVICES = ["eyeriss", "eyeriss168", "simple256", "bitfusion", "shidiannao", "simba_like", "edge_tpu_like"]


def random_layer(draw: random.Random, name: str) -> Layer:
    def up_to(most: int) -> int:
        return draw.randint(1, most)

    kind, wide = draw.random(), draw.choice([4, 16, 64, 256])
    if kind < 0.2:
        sizes = {"K": up_to(4096), "C": up_to(4096)}
    elif kind < 0.4:
        sizes = {"G": up_to(wide * 4), "P": up_to(56), "Q": up_to(56)}
        sizes |= {"R": draw.choice([1, 3, 5]), "S": draw.choice([1, 3, 5]), "stride": draw.choice([1, 2])}
    elif kind < 0.9:
        sizes = {"K": up_to(wide * 2), "C": up_to(wide * 2), "P": up_to(56), "Q": up_to(56)}
        sizes |= {
            "R": draw.choice([1, 3, 5, 7, 11]),
            "S": draw.choice([1, 3, 5, 11]),
            "stride": draw.choice([1, 2, 4]),
        }
    elif kind < 0.95:
        sizes = draw.choice(ALEXNET).layer.to_dict()
    else:
        sizes = {"G": up_to(8), "K": up_to(64), "C": up_to(64), "P": up_to(28), "Q": up_to(28), "R": 3, "S": 3}
    return Layer.from_dict({**sizes, "name": name, "N": draw.choice([1, 1, 1, 4])})


def random_report(seed: int) -> dict:
    draw = random.Random(seed)
    device = hw_model.load_device(draw.choice(DEVICES))
    bit_widths = sorted(draw.sample(range(2, 33), draw.randint(1, 4)))
    layers = [
        NetworkLayer(random_layer(draw, f"layer {index}"), draw.choice([None, None, None, 32]))
        for index in range(draw.randint(2, 6))
    ]
    network = Network("random", tuple(layers), ())
    objective = parse_objective(
        draw.choice(["edp", "edp", "edp", "energy", "latency", "energy=2,latency=1", "energy=1,latency=3"])
    )
    budget = Budget(draw.choice([1, 1, 10, 100, 1000, 3000]))
    engine = draw.choice(["evolution"] * 4 + ["random"])
    problems = distinct_problems(network, bit_widths)
    baselines = default_baselines(bit_widths)
    outcome = run_search(problems, device, objective, budget, seed, engine, workers=1, baselines=baselines)
    add_published(outcome, problems, device, objective)
    add_fixed(outcome, network, bit_widths, device)
    trade_layers(network, bit_widths, outcome, device, objective, seed, 1, searching=engine != "random")
    pipelines = Pipelines(network, bit_widths, device, objective, 1, seed, 1)
    return build_report(network, device, objective, bit_widths, outcome, pipelines, {}, {"device": device.name})


# 70, 99: the sums of a dataflow are ahead of the layers' own bests
SAMPLE = (3, 70, 107, 200, 203, 206)
SEEDS = (3, 70, 99, 107, 123, *range(200, 210))


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s in SAMPLE else pytest.mark.full) for s in SEEDS])
def test_no_baseline_is_ahead_and_no_wider_word_cheaper(seed):
    check_inequalities(random_report(seed))
