"""Timeloop takes what the mapper finds: its checks, on every layer of MobileNetV2."""

import pytest
from timeloop_accepts import rejections

import hw_model
from automapper.evolve import Evolution
from automapper.objective import parse_objective
from automapper.space import Search
from automapper.workload import Problem
from hw_model.timeloop import export_timeloop, import_mapping


def mobilenet_v2():
    """Its 53 layers at 224 x 224, in order."""
    layers = [hw_model.Layer(name="stem", K=32, C=3, P=112, Q=112, R=3, S=3, stride=2)]
    size, channels = 112, 32
    for expand, out, repeats, first in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                        (6, 160, 3, 2), (6, 320, 1, 1)):  # fmt: skip
        for step in [first] + [1] * (repeats - 1):
            wide = channels * expand
            if expand > 1:
                layers.append(hw_model.Layer(K=wide, C=channels, P=size, Q=size))
            size //= step
            layers.append(hw_model.Layer(G=wide, P=size, Q=size, R=3, S=3, stride=step))
            layers.append(hw_model.Layer(K=out, C=wide, P=size, Q=size))
            channels = out
    return [*layers, hw_model.Layer(K=1280, C=320, P=7, Q=7), hw_model.Layer(K=1000, C=1280)]


ACCEPTED = [("simple256", 8), ("eyeriss", 4), ("edge_tpu_like", 8), ("simba_like", 4)]
MORE = [("simple256", 4), ("simple256", 16), ("eyeriss", 8), ("eyeriss", 16), ("simba_like", 8)]


@pytest.mark.parametrize(("name", "bits"), [*ACCEPTED, *(pytest.param(*one, marks=pytest.mark.full) for one in MORE)])
def test_every_layer_of_mobilenet_v2(name, bits):
    device, layers = hw_model.load_device(name), mobilenet_v2()
    assert len(layers) == 53
    found = {}
    for layer in dict.fromkeys(layers):
        search = Evolution([Search(Problem(layer, bits))], device, parse_objective("edp"), 0).advance(512, 0.5)
        mapping = search.best(0)
        texts = export_timeloop(layer, mapping, device, bits)
        found[layer] = rejections(texts)
        assert "INVALID" not in texts["map.yaml"]
        back = import_mapping(texts["map.yaml"], device)  # one row of PEs too
        cost = hw_model.evaluate(layer, back, device, bits)
        assert cost == hw_model.evaluate(layer, mapping, device, bits)
    assert [found[layer] for layer in layers] == [[]] * 53
