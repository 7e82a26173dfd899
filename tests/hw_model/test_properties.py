"""What must hold for any layer and mapping, whatever the numbers."""

import itertools
import random
from dataclasses import replace

import pytest
import random_cases

import hw_model
from hw_model.energy import mac_energy_pj, mac_rate
from hw_model.layer import RELEVANT

NAMES = ["eyeriss", "eyeriss168", "simple256", "simba_like", "edge_tpu_like", "shidiannao", "bitfusion"]


def case(seed, name=None):
    """A random layer and a mapping of it that is valid on a named (or random) device."""
    rng = random.Random(seed)
    device = hw_model.load_device(name or random_cases.device_fields(rng))
    while True:
        layer, loops = random_cases.layer_and_loops(rng, list(device.slots), steps=20_000)
        layer = hw_model.Layer(**layer)
        mapping = hw_model.Mapping.from_dict(loops)
        try:
            hw_model.evaluate(layer, mapping, device, 16)
        except hw_model.InvalidMapping:
            continue
        return layer, mapping, device


def with_levels(device, change):
    return replace(device, levels=tuple(change(level) for level in device.levels))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_more_bandwidth_never_raises_latency(name, seed):
    layer, mapping, device = case(seed, name)
    cycles = []
    for factor in (0.05, 0.3, 1, 2, 1000):
        scaled = with_levels(
            device,
            lambda level, f=factor: replace(
                level,
                read_bandwidth_bits_per_cycle=min(64.0, level.read_bandwidth_bits_per_cycle) * f,
                write_bandwidth_bits_per_cycle=min(64.0, level.write_bandwidth_bits_per_cycle) * f,
            ),
        )
        cycles.append(hw_model.evaluate(layer, mapping, scaled, 16).cycles)
    cycles.append(hw_model.evaluate(layer, mapping, device.unlimited(), 16).cycles)
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > cycles[-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_capacity_decides_and_larger_never_invalidates(name, seed):
    layer, mapping, device = case(seed, name)

    def scaled(times):
        return with_levels(
            device,
            lambda level: replace(level, partitions=tuple((t, max(1, int(b * times))) for t, b in level.partitions)),
        )

    valid = []
    for times in (1e-9, 0.001, 0.01, 0.1, 0.5, 1, 2, 10):
        try:
            hw_model.evaluate(layer, mapping, scaled(times), 16)
            valid.append(True)
        except hw_model.InvalidMapping as error:
            valid.append(False)
            assert all(" bits" in reason and "there are" in reason for reason in error.reasons)
    assert valid == sorted(valid)
    assert valid[-1] and not valid[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_fewer_bits_never_cost_more(name, seed):
    layer, mapping, device = case(seed, name)
    if device.mac.rate != "fixed":
        pytest.skip("only where the MAC rate is fixed")
    parts = []
    for bits in range(1, 33):
        try:
            cost = hw_model.evaluate(layer, mapping, device, bits)
        except hw_model.InvalidMapping:
            break  # wider words no longer fit
        energies = [p.energy_pj for level in [*cost.levels.values(), cost.noc] for p in level.values()]
        parts.append([*energies, cost.mac_energy_pj, cost.energy_pj, cost.cycles, cost.edp_js])
    assert len(parts) >= 16
    for narrow, wide in itertools.pairwise(parts):
        assert all(a <= b for a, b in zip(narrow, wide, strict=True))
    assert parts[0][-2] <= parts[-1][-2] and parts[0][-3] < parts[-1][-3]


@pytest.mark.parametrize("seed", range(150))
def test_loops_that_do_not_matter_inside_the_innermost_that_does(seed):
    """Permuting irrelevant loops inside the innermost relevant one leaves that tensor's counters as they were."""
    layer, mapping, device = case(seed)
    rng = random.Random(seed + 1)
    before = hw_model.evaluate(layer, mapping, device, 16)
    for tensor in ("W", "O"):
        nest = [(slot, pair) for slot in device.level_names for pair in mapping[slot]]
        innermost = max((i for i, (_, (dim, _)) in enumerate(nest) if dim in RELEVANT[tensor]), default=-1)
        free = range(innermost + 1, len(nest))
        shuffled = {slot: [] for slot in device.level_names}
        for slot in device.level_names:  # within each level, so that no tile changes
            inside = [nest[i][1] for i in free if nest[i][0] == slot]
            rng.shuffle(inside)
            outside = [pair for i, (s, pair) in enumerate(nest) if s == slot and i not in free]
            shuffled[slot] = outside + inside
        spatial = {slot: mapping[slot] for slot in device.slots if slot not in device.level_names}
        after = hw_model.evaluate(layer, {**shuffled, **spatial}, device, 16)
        for level in device.level_names:
            assert before.levels[level].get(tensor) == after.levels[level].get(tensor)


@pytest.mark.parametrize("seed", range(200))
def test_invariants(seed):
    """MACs conserved; no more work than PEs and cycles allow; every tensor moves at least once where it is held."""
    layer, mapping, device = case(seed)
    cost = hw_model.evaluate(layer, mapping, device, 16)
    covered = dict.fromkeys(hw_model.DIMS, 1)
    for _, pairs in mapping.loops:
        for dim, n in pairs:
            covered[dim] *= n
    padded = 1
    for n in covered.values():
        padded *= n
    assert cost.macs == layer.macs <= cost.padded_macs == padded
    assert cost.cycles * cost.active_pes * device.lanes >= cost.padded_macs
    assert 0 < cost.utilisation <= 1
    for index, level in enumerate(device.levels):
        for tensor in level.holds:
            part = cost.levels[level.name][tensor]
            assert min(part.reads, part.fills, part.updates, part.drains) >= 0
            if tensor == "O":
                assert part.updates >= layer.words("O")
            else:
                assert (part.fills if index else part.reads) >= layer.words(tensor)
    inner = {t: [l.name for l in device.levels if t in l.holds][-1] for t in "WIO"}
    in_pe = device.level_names[device.first_pe_level :]
    if device.lanes == 1:
        if inner["W"] in in_pe:
            assert cost.levels[inner["W"]]["W"].reads == layer.macs
        if inner["I"] in in_pe:
            pairs = layer.rows.real_pairs() * layer.columns.real_pairs()
            real = layer.N * layer.G * layer.C * layer.K * pairs
            assert cost.levels[inner["I"]]["I"].reads == (real if device.input_words == "real" else layer.macs)


def test_fused_rate():
    device = hw_model.load_device("bitfusion")
    layer = hw_model.Layer(K=256, C=64)
    mapping = {"dram": [["K", 16], ["C", 64]], "spatial_x": [["K", 16]]}
    cycles = {
        b: hw_model.evaluate(layer, mapping, device.unlimited(), b).cycles for b in (1, 2, 3, 4, 5, 8, 12, 16, 32)
    }
    assert cycles == {1: 64, 2: 64, 3: 256, 4: 256, 5: 1024, 8: 1024, 12: 4096, 16: 4096, 32: 16384}
    assert mac_rate(device.mac, 2) == (16, 1) and mac_rate(device.mac, 16) == (1, 4)
    assert mac_energy_pj(device.mac, 5) == mac_energy_pj(device.mac, 8)


def test_capacity_in_bits():
    """A tile of 12 16-bit inputs fills Eyeriss' register file; 24 fit at 8 bit."""
    layer = hw_model.Layer(S=24)
    for bits, inputs in ((16, 12), (8, 24)):
        mapping = {"dram": [["S", 24 // inputs]], "rf": [["S", inputs]]}
        assert hw_model.evaluate(layer, mapping, "eyeriss", bits).padded_macs == 24
    with pytest.raises(hw_model.InvalidMapping) as caught:
        hw_model.evaluate(layer, {"rf": [["S", 24]]}, "eyeriss", 16)
    assert caught.value.reasons == ["rf: I needs 384 bits, there are 192"]


def test_bypass_is_what_a_device_without_the_level_costs():
    fields = {
        "name": "three", "clock_mhz": 100, "array": {"x": 4, "y": 4}, "psum_bits": 16,
        "network": {"energy_pj_per_bit": 1},
        "mac": {"multiplier_energy_pj": 1, "multiplier_bits": 16, "adder_energy_pj": 1, "adder_bits": 32},
        "levels": [
            {"name": n, "holds": ["W", "I", "O"], "read_energy_pj_per_bit": e, "write_energy_pj_per_bit": e, **more}
            for n, e, more in (
                ("dram", 9, {}), ("glb", 3, {"size_bits": 10**6}), ("rf", 1, {"size_bits": 10**6, "scope": "pe"})
            )
        ],
    }  # fmt: skip
    layer = hw_model.Layer(K=8, C=4, P=6, R=3)
    loops = {"spatial_x": [["P", 3]], "spatial_y": [["C", 2]], "rf": [["R", 3], ["K", 2]]}
    held = {**loops, "dram": [["K", 4]], "glb": [["C", 2], ["P", 2]], "bypass": {"glb": ["W", "I", "O"]}}
    two = {**fields, "levels": [fields["levels"][0], fields["levels"][2]]}
    without = {**loops, "dram": [["K", 4], ["C", 2], ["P", 2]]}
    assert hw_model.evaluate(layer, held, fields, 8).energy_pj == hw_model.evaluate(layer, without, two, 8).energy_pj
