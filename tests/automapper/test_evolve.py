"""The pools of the evolutionary engine."""

from collections import Counter

import numpy as np

from automapper.evolve import NICHE, PARENTS, SAME, Evolution
from automapper.objective import parse_objective
from automapper.space import Search
from automapper.trade import _search_again
from automapper.workload import Problem
from hw_model import Layer, evaluate, load_device


def test_a_pool_keeps_several_layouts_of_the_array():
    problem = Problem(Layer(K=64, C=48, P=14, Q=14, R=3, S=3), 8)
    evolution = Evolution([Search(problem)], load_device("simba_like"), parse_objective("edp"), 0)
    for _ in range(15):
        evolution.step()
    layouts, scores = evolution._layout(np.array([0]))[0], evolution.pool_score[0]
    seen, kinds = Counter(), []
    for row, (layout, score) in enumerate(zip(layouts.tolist(), scores, strict=True)):
        again = bool((np.abs(scores[:row] - score) <= SAME).any())
        kinds.append(2 if again else int(seen[layout] >= NICHE))
        seen[layout] += not again
    assert kinds == sorted(kinds)  # best of few layouts, more of the same, duplicates
    assert len(set(layouts[:PARENTS].tolist())) >= PARENTS / NICHE
    for kind in (0, 1):
        ranked = scores[np.array(kinds) == kind]
        assert (np.diff(ranked) >= 0).all()


def test_a_layout_is_the_same_whichever_axis_a_dimension_lies_on():
    device = load_device("simba_like")
    evolution = Evolution([Search(Problem(Layer(K=8, C=8), 8))], device, parse_objective("edp"), 0)
    x, y = device.slots.index("spatial_x"), device.slots.index("spatial_y")
    f = evolution.pool[0]
    f[0, 0, x, 2] = f[0, 1, y, 2] = f[0, 2, x, 3] = 4
    one, other, third = evolution._layout(np.array([0]))[0][:3]
    assert one == other != third


def test_a_search_prices_what_neighbours_pass_on_as_evaluate_does():
    """Where the order of the loops of an axis counts, mappings lose none of their value on the way out and back in."""
    levels = {"glb": {"may_bypass": []}, "rf": {"may_bypass": [], "size_bits": 32}}  # a word of each in a PE
    fields = {"extends": "simple256", "input_sharing": "identical", "array": {"x_dims": ["Q"], "y_dims": ["P"]}}
    fields = {**fields, "levels": levels}
    device = load_device({**fields, "forward_inputs": True})
    layer, objective = Layer(P=16, Q=16, G=4, R=3, S=3), parse_objective("energy")
    evolution = Evolution([Search(Problem(layer, 8))], device, objective, 0).advance(1000, 1.0)
    mapping = evolution.best(0)
    cost = evaluate(layer, mapping, device, 8)
    assert np.isclose(evolution.score[0], objective.score(cost.energy_pj, cost.cycles), rtol=1e-12)
    assert cost.energy_pj < 0.99 * evaluate(layer, mapping, load_device(fields), 8).energy_pj
    again = _search_again(objective, Search(Problem(layer, 8)), [mapping], device, 90, 1)
    assert again.cost.energy_pj <= cost.energy_pj
