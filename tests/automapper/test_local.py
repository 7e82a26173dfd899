"""The neighbours of a mapping are mappings of the same layer, and climbing ends where none of them is better."""

import numpy as np

from automapper.evolve import Evolution
from automapper.local import neighbours
from automapper.objective import parse_objective
from automapper.space import Search, build_space
from automapper.workload import Problem
from hw_model import Layer, encode, evaluate_batch, load_device

LAYER = Layer(K=6, C=4, P=8, Q=7, R=3)
MAPPING = {"dram": [["K", 2]], "glb": [["P", 4], ["C", 4]], "spatial_x": [["Q", 7]], "spatial_y": [["R", 3]],
           "rf": [["K", 3], ["P", 2]]}  # fmt: skip


def test_neighbours_cover_the_layer_and_differ():
    device = load_device("eyeriss")
    space = build_space([Search(Problem(LAYER, 8))], device)
    row = encode(MAPPING, device)
    f, o, b = neighbours(space, 0, row)
    assert len(f) == len(o) == len(b) > 200
    assert (f.prod(axis=1) >= LAYER.sizes).all()
    assert (np.sort(o, axis=2) == np.arange(8)).all()
    assert ((b & ~space.free[0].astype(np.uint8)) == 0).all()
    assert all((f[i] != row[0]).any() or (o[i] != row[1]).any() or (b[i] != row[2]).any() for i in range(len(f)))
    assert evaluate_batch(LAYER, f, o, device, 8, bypass=b).valid.sum() > 50
    past = {int(mask) for mask in b[:, 1]}
    assert past == {0, 2, 4}  # inputs or outputs past the buffer: the device holds no weights there


def test_climbing_ends_on_a_peak(monkeypatch):
    monkeypatch.setattr("automapper.local_search.LOCAL", np.inf)  # however long it takes
    device, objective = load_device("eyeriss"), parse_objective("edp")
    evolution = Evolution([Search(Problem(LAYER, 8))], device, objective, seed=0)
    evolution.step()
    before = evolution.score[0]
    evolution.climb()
    assert evolution.score[0] < before
    f, o, b = neighbours(evolution.space, 0, evolution.rows[0])
    cost = evaluate_batch(LAYER, f, o, device, 8, bypass=b)
    ours = evaluate_batch(LAYER, *(part[None] for part in evolution.rows[0][:2]), device, 8,
                          bypass=evolution.rows[0][2][None])  # fmt: skip
    assert (cost.edp_js >= ours.edp_js[0] * (1 - 1e-8)).all()
