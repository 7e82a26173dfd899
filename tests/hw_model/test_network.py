"""Costs add up, and networks run one after another or as a pipeline."""

import pytest

import hw_model
from hw_model.network import multi_cycle, partition, pipeline

LAYER = hw_model.Layer(K=16, C=8, P=14, Q=14, R=3, S=3)
MAPPING = {
    "dram": [["K", 4]], "glb": [["C", 8], ["P", 2], ["Q", 14]], "spatial_y": [["R", 3], ["K", 2]],
    "spatial_x": [["P", 7]], "rf": [["K", 2], ["S", 3]],
}  # fmt: skip


def cost(device="eyeriss", bits=8, layer=LAYER):
    return hw_model.evaluate(layer, MAPPING, device, bits)


def test_costs_add_and_scale():
    one, two = cost(bits=8), cost(bits=16)
    both = one + two
    assert both.cycles == one.cycles + two.cycles
    assert both.energy_pj == one.energy_pj + two.energy_pj
    assert both.macs == 2 * LAYER.macs
    assert both.edp_js == pytest.approx((one.energy_j + two.energy_j) * (one.latency_s + two.latency_s))
    assert both.levels["glb"]["I"].reads == one.levels["glb"]["I"].reads + two.levels["glb"]["I"].reads
    tripled, summed = 3 * one, sum([one, one, one])
    assert tripled.cycles == summed.cycles and tripled.energy_pj == pytest.approx(summed.energy_pj)
    assert tripled.active_pes == one.active_pes == 42
    assert tripled.utilisation == pytest.approx(one.utilisation)
    with pytest.raises(TypeError):
        one + 1
    with pytest.raises(TypeError):
        one * one


@pytest.mark.parametrize("device", hw_model.device_names())
def test_total_is_the_sum_of_its_parts(device):
    layer = hw_model.Layer(K=4, C=4, P=6, Q=6, R=3, S=3)
    x_dims, y_dims = hw_model.load_device(device).axis_dims
    mapping = {"dram": [["K", 4], ["P", 6], ["C", 4], ["R", 3]]}
    mapping["spatial_y" if "S" in y_dims else "dram"] = [
        *mapping.get("dram" if "S" not in y_dims else "", []),
        ["S", 3],
    ]
    mapping["spatial_x" if "Q" in x_dims else "dram"] = [
        *mapping.get("dram" if "Q" not in x_dims else "", []),
        ["Q", 3],
    ]
    mapping[hw_model.load_device(device).level_names[1]] = [["Q", 2]]
    found = hw_model.evaluate(layer, mapping, device, 8)
    parts = [part.energy_pj for level in [*found.levels.values(), found.noc] for part in level.values()]
    assert sum(parts) + found.mac_energy_pj + found.idle_energy_pj == pytest.approx(found.energy_pj, rel=1e-12)
    data = found.to_dict()
    inside = [part["energy_j"] for level in data["levels"].values() for part in level.values()]
    assert sum(inside) + data["noc"]["energy_j"] + data["mac"]["energy_j"] + data["idle"]["energy_j"] == pytest.approx(
        data["energy_j"]
    )
    text = str(found)
    assert "dram" in text and "utilisation" in text and "100.0%" in text


def test_drains_can_be_left_out():
    """Energy without drains, from the counters by hand: 16-bit words, partial sums 16 bit."""
    found = cost("eyeriss168", 16)
    per_word = {"dram": 200, "glb": 6, "rf": 1}
    by_hand = 0
    for level, tensors in found.levels.items():
        for part in tensors.values():
            by_hand += per_word[level] * (part.reads + part.fills + part.updates)
    by_hand += sum(2 * (part.fills + part.drains) for part in found.noc.values()) + LAYER.macs
    assert found.energy_without_drains_j == pytest.approx(by_hand * 1e-12)
    drains = sum(per_word[level] * tensors["O"].drains for level, tensors in found.levels.items())
    assert found.energy_j == pytest.approx((by_hand + drains) * 1e-12)


def test_multi_cycle():
    costs = [cost(bits=4), cost(bits=8), cost(bits=8)]
    network = multi_cycle(costs)
    assert network.latency_s == network.interval_s == pytest.approx(sum(c.latency_s for c in costs))
    assert network.energy_j == pytest.approx(sum(c.energy_j for c in costs))
    assert network.to_dict()["mode"] == "multi-cycle"
    assert "interval" in str(network)


def test_pipeline():
    left, right = partition(hw_model.load_device("eyeriss"), [7, 7])
    assert left.array == (7, 12) and left.pes == 84
    assert left.levels[1].partitions == ((("I", "O"), 409600),)
    assert left.levels[0].read_bandwidth_bits_per_cycle == pytest.approx(14.4)
    assert left.levels[2].partitions == hw_model.load_device("eyeriss").levels[2].partitions
    stages = [[cost(left, 8)], [cost(right, 8), cost(right, 4)]]
    network = pipeline(stages)
    assert network.latency_s == pytest.approx(sum(c.latency_s for stage in stages for c in stage))
    assert network.interval_s == pytest.approx(sum(c.latency_s for c in stages[1]))
    assert network.interval_s < network.latency_s
    assert [s["cycles"] for s in network.to_dict()["stages"]] == [s.cycles for s in network.stages]
    assert "stage 1" in str(network)


@pytest.mark.parametrize("columns", [[], [0, 3], [8, 7], [True], [2.5]])
def test_bad_partitions(columns):
    with pytest.raises(hw_model.InputError, match="pipeline: expected"):
        partition(hw_model.load_device("eyeriss"), columns)


def test_empty_networks():
    for network in (lambda: multi_cycle([]), lambda: pipeline([]), lambda: pipeline([[cost()], []])):
        with pytest.raises(hw_model.InputError, match="network: expected"):
            network()
