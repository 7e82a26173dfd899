"""Fused groups: the search against brute force, bounds, inequalities, and what a report says of them."""

import dataclasses
import itertools
import json
import math

import pytest

import hw_model
from automapper.__main__ import main
from automapper.api import map_network
from automapper.budget import parse_budget
from automapper.fusion.fuse import fuse_network, fused_report
from automapper.fusion.groups import ROWS, Group, Grouping
from automapper.fusion.plan import Effort
from automapper.objective import parse_objective
from automapper.search import run_search
from automapper.workload import DRAM, Network, NetworkLayer, distinct_problems
from hw_model import Cost, Layer, Mapping, evaluate, evaluate_batch, fusion
from instantnet.engine.errors import UserError

EDP = parse_objective("edp")
TINY = {
    "name": "tiny", "clock_mhz": 100, "array": {"x": 2, "y": 1}, "psum_bits": 16,
    "levels": [
        {"name": "dram", "holds": ["W", "I", "O"], "read_energy_pj_per_bit": 10.0, "write_energy_pj_per_bit": 10.0,
         "read_bandwidth_bits_per_cycle": 4, "write_bandwidth_bits_per_cycle": 4},
        {"name": "glb", "holds": ["I", "O"], "size_bits": 4096, "read_energy_pj_per_bit": 0.5,
         "write_energy_pj_per_bit": 0.5},
        {"name": "rf", "scope": "pe", "holds": ["W", "I", "O"], "size_bits": {"W": 256, "I": 64, "O": 64},
         "read_energy_pj_per_bit": 0.05, "write_energy_pj_per_bit": 0.05},
    ],
    "network": {"energy_pj_per_bit": 0.1},
    "mac": {"multiplier_energy_pj": 1.0, "multiplier_bits": 16, "adder_energy_pj": 0.1, "adder_bits": 32},
}  # fmt: skip
CHAIN = (
    NetworkLayer(Layer(name="a", K=4, C=2, P=4, Q=2)),
    NetworkLayer(Layer(name="b", G=4, P=4, Q=2, R=3, H=4, pad_top=1), source=0),
    NetworkLayer(Layer(name="c", K=4, C=4, P=4, Q=2), source=1, adds=(0,)),
)


def device_of(glb_bits):
    fields = json.loads(json.dumps(TINY))
    fields["levels"][1]["size_bits"] = glb_bits
    return hw_model.load_device(fields)


def found_by(layers, device, bit_widths=(8,), mode="strips", budget=400, baselines=()):
    network = Network("made up", tuple(layers), ())
    outcome = run_search(distinct_problems(network, bit_widths), device, EDP, parse_budget(str(budget)), 0, workers=1)
    effort = Effort(budget, 0, 1, "threading")
    return fuse_network(network, bit_widths, outcome, device, EDP, mode, effort)


def splits(size, parts):
    """Every way to write `size` as a product of `parts` factors."""
    if parts == 1:
        return [(size,)]
    return [(n, *rest) for n in range(1, size + 1) if size % n == 0 for rest in splits(size // n, parts - 1)]


def every_mapping(layer, view):
    """(factors, orders, bypass) of all mappings without overshoot, orders of glb and dram loops included."""
    dims = [d for d in "NGKCPQRS" if getattr(layer, d) > 1]
    slots = view.slots
    rows = []
    for choice in itertools.product(*(splits(getattr(layer, d), len(slots)) for d in dims)):
        factors = {slot: {d: choice[i][s] for i, d in enumerate(dims)} for s, slot in enumerate(slots)}
        if math.prod(factors["spatial_x"].values()) > 2 or math.prod(factors["spatial_y"].values()) > 1:
            continue
        ways = []
        for slot in slots:
            active = [(d, n) for d, n in factors[slot].items() if n > 1]
            ways.append(list(itertools.permutations(active)) if slot in ("dram", "glb") else [tuple(active)])
        held = view.level("glb").may_bypass
        for loops in itertools.product(*ways):
            for past in itertools.chain.from_iterable(itertools.combinations(held, k) for k in range(len(held) + 1)):
                rows.append(Mapping(tuple(zip(slots, loops, strict=True)), (("glb", past),) if past else ()))
    return rows


def best_weighted(layer, view, bits, weights):
    """The least weights . (pJ, cycles) of a strip over all its mappings."""
    every = every_mapping(layer, view)
    f, o, b = hw_model.encode_batch(every, view)
    cost = evaluate_batch(layer, f, o, view, bits, bypass=b)
    value = weights[0] * cost.energy_pj + weights[1] * cost.cycles
    return float(value[cost.valid].min()) if cost.valid.any() else math.inf


SMALL = (
    NetworkLayer(Layer(name="a", K=2, C=2, P=4)),
    NetworkLayer(Layer(name="b", G=2, P=4, R=3, H=4, pad_top=1), source=0),
)


@pytest.mark.parametrize("glb_bits", [180, 4096])
def test_the_search_finds_what_brute_force_finds(glb_bits):
    device = device_of(glb_bits)
    planner, found = found_by(SMALL, device, budget=2000)
    alone, plan = found[8].alone, found[8].plan
    weights = planner.weights(plan.cost.energy_pj, plan.cost.cycles)
    least = {}
    for strips in (1, 2, 4):
        group = Group(0, 2, strips)
        reserved = planner.grouping.reserved_bits(group, 8)
        if max(reserved) >= planner.grouping.room_bits:
            continue
        least[strips] = sum(
            times * best_weighted(part, fusion.in_group(device, planner.stays(group, i), reserved[i]), 8, weights)
            for i, parts in enumerate(planner.grouping.strips_of(group))
            for part, times in parts
        )
    unfused = sum(best_weighted(item.layer, device, 8, weights) for item in SMALL)
    best = min(*least.values(), unfused)
    ours = weights[0] * plan.cost.energy_pj + weights[1] * plan.cost.cycles
    assert best <= ours * (1 + 1e-12), "no mapping of a strip is below brute force"
    assert ours <= best * 1.02, (least, unfused, plan.steps)
    assert len(plan.steps) == 1 and planner.value(plan) < planner.value(alone)


def test_an_infinite_buffer_is_the_bound_of_free_activations():
    planner, found = found_by(CHAIN, device_of(10**9))
    (step,) = found[8].plan.steps
    assert step.group == Group(0, 3)
    moved = [cost.levels["dram"] for cost in step.costs]
    assert moved[0]["I"].reads == 2 * 4 * 2 and moved[2]["O"].updates == 4 * 4 * 2
    assert not any(part[t].reads for part in moved[1:] for t in "I") and not any(p["O"].updates for p in moved[:2])
    words = sum(item.layer.words("W") for item in CHAIN) + 16 + 32
    assert planner.dram_bits(step, 8) == 8 * words, "weights, the first input and the last output, each once"


def test_where_everything_stays_only_input_and_result_move():
    """Weights and maps in the buffer: DRAM has the first input, 16 words, and the last output, 32."""
    fields = json.loads(json.dumps(TINY))
    fields["levels"][1].update(size_bits=10**6, holds=["W", "I", "O"])
    planner, found = found_by(CHAIN, hw_model.load_device(fields))
    scenario, plan = found[8].everything_stays, found[8].plan
    assert scenario.levels["dram"]["W"].reads == 0
    assert (scenario.levels["dram"]["I"].reads, scenario.levels["dram"]["O"].updates) == (16, 32)
    assert scenario.macs == sum(item.layer.macs for item in CHAIN)
    assert scenario.energy_pj < plan.cost.energy_pj, "which loads the weights once"
    report = fused_report(planner, found[8], Network("made up", CHAIN, ()))
    assert report["scenarios"]["everything_stays"]["energy_j"] == scenario.energy_j
    assert report["energy_j"] == plan.cost.energy_j, "the scenario is not the headline"


@pytest.mark.parametrize(("glb_bits", "holds"), [(10**6, "IO"), (400, "WIO")])
def test_where_it_does_not_fit_nothing_is_said_of_everything(glb_bits, holds):
    fields = json.loads(json.dumps(TINY))
    fields["levels"][1].update(size_bits=glb_bits, holds=list(holds))
    _, found = found_by(CHAIN, hw_model.load_device(fields))
    assert found[8].everything_stays is None


def test_a_larger_buffer_and_narrower_words_are_never_worse():
    values = {}
    for size in (400, 8192):
        planner, found = found_by(CHAIN, device_of(size), (4, 8, 16))
        values[size] = [planner.value(found[bits].plan) for bits in (4, 8, 16)]
        for bits in (4, 8, 16):
            assert planner.value(found[bits].plan) <= planner.value(found[bits].alone)
        assert values[size] == sorted(values[size])
    for smaller, larger in itertools.pairwise(values.values()):
        assert all(more <= less * 1.01 for less, more in zip(smaller, larger, strict=True)), "found by a search"


def test_what_is_added_is_charged_where_it_lies():
    _, found = found_by(CHAIN, device_of(10**9))
    alone, plan = found[8].alone, found[8].plan
    apart = evaluate(CHAIN[2].layer, alone.steps[2].mappings[0], device_of(10**9), 8)
    assert alone.steps[2].costs[0].levels["dram"]["O"].reads == apart.levels["dram"]["O"].reads + 32
    assert plan.steps[0].costs[2].levels["dram"]["O"].reads == 0
    from_dram = dataclasses.replace(CHAIN[2], adds=(DRAM,))
    _, found = found_by((*CHAIN[:2], from_dram), device_of(10**9))
    assert found[8].plan.steps[0].costs[2].levels["dram"]["O"].reads == 32


@pytest.mark.parametrize(
    ("change", "why"),
    [({"source": None}, "no from"), ({"stored": True}, "something else reads it")],
)
def test_what_cannot_stay_is_not_fused(change, why):
    layers = (dataclasses.replace(SMALL[0], **({"stored": True} if "stored" in change else {})), SMALL[1])
    layers = (layers[0], dataclasses.replace(layers[1], **({"source": None} if "source" in change else {})))
    _, found = found_by(layers, device_of(10**9))
    assert not any(step.fused for step in found[8].plan.steps), why


@pytest.mark.parametrize(("rows", "grouped"), [(ROWS, True), (ROWS + 1, False), (2**31 - 1, False)])
def test_a_layer_of_very_many_rows_is_in_no_group(rows, grouped):
    layers = [
        NetworkLayer(Layer(name="a", P=rows)),
        NetworkLayer(Layer(name="b", P=rows), source=0),
        NetworkLayer(Layer(name="c", P=2, stride=rows // 2), source=1),
    ]
    found = list(Grouping(Network("n", tuple(layers), ()), device_of(10**9), "strips").candidates(8))
    assert bool(found) == grouped


def test_a_tensor_read_outside_its_group_goes_to_dram():
    grouping = Grouping(Network("n", CHAIN, ()), device_of(10**9), "strips")
    assert grouping.stays(0, 0, 3) and not grouping.stays(0, 0, 2) and grouping.stays(1, 0, 3)
    assert not grouping.stays(2, 0, 3), "nothing reads it"


def test_whole_maps_only_are_groups_of_one_strip():
    _, found = found_by(CHAIN, device_of(400), mode="maps")
    assert all(step.group.strips == 1 for step in found[8].plan.steps)
    _, found = found_by(CHAIN, device_of(400), mode="strips")
    assert any(step.group.strips > 1 for step in found[8].plan.steps), "where whole maps do not fit"


def test_a_batch_runs_image_by_image_or_as_a_whole():
    layers = tuple(
        dataclasses.replace(item, layer=dataclasses.replace(item.layer, N=3, name=item.layer.name)) for item in CHAIN
    )
    _, small = found_by(layers, device_of(700), mode="maps")
    _, large = found_by(layers, device_of(10**9))
    assert [step.group.images for step in small[8].plan.steps if step.fused] == [1]
    (step,) = large[8].plan.steps
    assert step.group.images == 3
    macs = sum(item.layer.macs for item in layers)
    for found in (small, large):
        assert sum(cost.macs for step in found[8].plan.steps for cost in step.costs) == macs


def test_every_layer_of_a_plan_computes_all_its_macs():
    _, found = found_by(CHAIN, device_of(700))
    for step in found[8].plan.steps:
        for index, cost in enumerate(step.costs):
            assert cost.macs == CHAIN[step.group.begin + index].layer.macs


YAML = """- {name: a, K: 4, C: 2, P: 4, Q: 2}
- {name: b, from: a, G: 4, P: 4, Q: 2, R: 3, H: 4, pad_top: 1}
- {name: c, from: b, add: a, K: 4, C: 4, P: 4, Q: 2}
"""
FAST = ["--budget", "200", "--stages", "1", "--bits", "4,8", "--device", "eyeriss"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    (folder / "layers.yaml").write_text(YAML)
    found = {}
    for mode in ("off", "strips"):
        main([str(folder / "layers.yaml"), *FAST, "--fuse", mode, "--save", str(folder / mode)])
        found[mode] = json.loads((folder / mode / "report.json").read_text()), folder / mode
    return found


def test_the_unfused_result_is_the_same_beside_the_fused_one(reports):
    off, on = reports["off"][0], reports["strips"][0]
    for without, row in zip(off["bit_widths"], on["bit_widths"], strict=True):
        assert "fused" not in without
        assert {name: value for name, value in row.items() if name != "fused"} == without


def test_the_report_adds_up(reports):
    report, folder = reports["strips"]
    for row in report["bit_widths"]:
        fused = row["fused"]
        (group,) = fused["groups"]
        assert [layer["name"] for layer in group["layers"]] == ["a", "b", "c"]
        assert [layer["stays"] for layer in group["layers"]] == ["O", "IO", "I"]
        assert fused["energy_j"] == pytest.approx(sum(layer["energy_j"] for layer in group["layers"]))
        assert fused["edp_js"] < fused["layer_by_layer"]["edp_js"]
        assert fused["dram_bits"] == fused["layer_by_layer"]["dram_bits"] - group["dram_bits_saved"]
        assert 0 < group["occupancy"] < 1 and group["buffer"] == "glb"
        assert fused["edp_js"] <= fused["baselines"]["row_stationary"]["edp_js"]
        assert fused["layer_by_layer"]["energy_j"] > row["energy_j"], "with what is added"
    page = (folder / "report.html").read_text()
    assert "Layers fused into groups" in page and "a to c: 1 strip, glb" in page
    assert "Nothing shows that the authors of the paper fused layers" in page


def test_a_member_is_a_case_that_hw_model_costs_again(reports):
    report, _ = reports["strips"]
    device = hw_model.load_device("eyeriss")
    for row in report["bit_widths"]:
        for group in row["fused"]["groups"]:
            for member in group["layers"][:2]:
                view = fusion.in_group(device, member["stays"], member["reserved_bits"])
                mapping = Mapping.from_dict(member["mapping"]).on(view)
                total = Cost()
                for part in member["strips"]:
                    layer = Layer(**part["dims"])
                    on_part = fusion.on_strip(mapping, layer, view)
                    total = total + evaluate(layer, on_part, view, member["bits"]) * part["times"]
                assert total.energy_j == member["energy_j"] and total.latency_s == member["latency_s"]


def test_strips_are_written_and_timeloop_gets_them_alone(reports):
    _, folder = reports["strips"]
    place = folder / "mappings" / "8bit" / "fused"
    assert sorted(path.name for path in place.glob("*.txt")) == [f"group01.00{i}.{n}.txt" for i, n in enumerate("abc")]
    text = (place / "group01.001.b.txt").read_text()
    assert text.startswith("b on eyeriss, 8 bit: a strip of 4 rows, in group 1 of 1; I and O on the chip")
    problem = (place / "group01.001.b.timeloop" / "problem.yaml").read_text()
    assert "one strip alone (Timeloop cannot say what stays: I and O)" in problem and "INVALID" not in problem
    assert not (folder.parent / "off" / "mappings" / "8bit" / "fused").exists()


def test_a_network_without_links_is_not_fused():
    report = map_network([Layer(K=4, C=4, P=4)], "eyeriss", 8, budget=100, stages=1).to_dict()
    assert report["bit_widths"][0]["fused"]["groups"] == []


def test_a_wrong_mode_is_one_line():
    with pytest.raises(UserError, match="fuse"):
        map_network([Layer(K=4)], "eyeriss", 8, budget=100, fuse="all")


@pytest.mark.full
def test_mobilenet_gains_most_of_what_its_residuals_cost():
    report = map_network("mobilenet_v2", "eyeriss", 8, budget=1000, stages=1).to_dict()
    fused = report["bit_widths"][0]["fused"]
    assert fused["edp_js"] < 0.5 * fused["layer_by_layer"]["edp_js"]
