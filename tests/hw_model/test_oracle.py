"""Equal to the brute-force counter, whatever the layer, the mapping and the device."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import pytest
import random_cases
import word_sets

import hw_model
from hw_model.axis_words import union_length

SAMPLE, CASES = 600, 3000  # of the default suite, of `make test-full`
CHUNKS = 12


def random_case(seed):
    rng = random.Random(seed)
    device = hw_model.load_device(random_cases.device_fields(rng))
    layer, loops = random_cases.layer_and_loops(rng, list(device.slots))
    mapping = {slot: [list(pair) for pair in pairs] for slot, pairs in loops.items()}
    if rng.random() < 0.4:
        level = rng.choice(device.level_names[1:])
        mapping["bypass"] = {level: rng.sample("WIO", rng.choice([1, 1, 2]))}
    holds = {l.name: [t for t in l.holds if t not in mapping.get("bypass", {}).get(l.name, [])] for l in device.levels}
    return device, layer, loops, mapping, holds


def micro_cases():
    """Timeloop's cases that are small enough to enumerate and where its input counters are not ours."""
    path = Path(__file__).parent.parent / "data/timeloop_cases.json"
    for case in json.loads(path.read_text())["cases"]:
        if case["layer"] == "micro_4x4":
            loops = {slot.removesuffix("_temporal"): pairs for slot, pairs in case["mapping"].items()}
            cost = hw_model.evaluate({**case["dims"], "stride": case["stride"]}, loops, case["architecture"], 16)
            theirs = {level.lower(): words["I"] for level, words in case["words"].items()}
            if any(getattr(cost.levels[level]["I"], c) != n for level, w in theirs.items() for c, n in w.items()):
                yield pytest.param(case, loops, cost, id=f"{case['architecture']}-{case['name']}")


@pytest.mark.sample(8)
@pytest.mark.parametrize(("case", "loops", "cost"), list(micro_cases()))
def test_enumeration_decides_where_timeloop_differs(case, loops, cost):
    layer = hw_model.Layer(**case["dims"], stride=case["stride"])
    layer = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
    levels = ("dram", "glb", "rf")
    for level, tensors in word_sets.run(layer, loops, levels, 2, dict.fromkeys(levels, "WIO")).items():
        for tensor, expected in tensors.items():
            for counter in ("reads", "fills", "updates", "drains"):
                assert getattr(cost.levels[level][tensor], counter) == expected[counter], (level, tensor, counter)


def check_case(seed):
    device, layer, loops, mapping, holds = random_case(seed)
    ours = hw_model.evaluate(layer, mapping, device, 16)
    truth = word_sets.run(
        layer, loops, device.level_names, device.first_pe_level, holds, multicast=device.multicast,
        reduces=device.reduces, sharing=device.input_sharing, box=device.input_words == "box",
        forward=device.forward_inputs, width=device.array[0],
    )  # fmt: skip
    for level, tensors in truth.items():
        for tensor, expected in tensors.items():
            for counter in ("reads", "fills", "updates", "drains"):
                found = getattr(ours.levels[level][tensor], counter)
                assert found == expected.get(counter, 0), (seed, level, tensor, counter, layer, mapping)


@pytest.mark.sample(6)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_counters_equal_enumeration(chunk):
    for seed in range(chunk, SAMPLE, CHUNKS):
        check_case(seed)


def forwarding_case(seed, **sharing):
    """A device that forwards inputs, with output rows and columns on its axes and filter loops outside the PEs."""
    rng = random.Random(seed)
    fields = random_cases.device_fields(rng) | {"forward_inputs": True, **sharing}
    fields["network"]["multicast"] = True
    fields["array"].pop("lanes", None)
    device = hw_model.load_device(fields)
    loops = {slot: [] for slot in device.slots}
    sizes = dict.fromkeys("NGKCPQRS", 1)
    for slot, dim in zip(("spatial_y", "spatial_x"), rng.choice(["PQ", "QP", "RQ", "PS"]), strict=True):
        sizes[dim] = rng.choice([1, 2, 3])
        loops[slot] += [(dim, sizes[dim])]
    for dim in rng.sample("RSPQKC", 4):
        n = rng.choice([2, 2, 3])
        loops[rng.choice(device.level_names)].append((dim, n))
        sizes[dim] *= n
    layer = sizes | {
        "stride_h": rng.choice([1, 1, 2]), "stride_w": rng.choice([1, 1, 2]), "dilation_h": rng.choice([1, 1, 2]),
        "dilation_w": 1, "pad_top": rng.randrange(sizes["R"]), "pad_left": rng.randrange(sizes["S"]),
    }  # fmt: skip
    layer = hw_model.Layer(**layer)
    layer = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
    return device, layer, loops, {slot: [list(pair) for pair in pairs] for slot, pairs in loops.items()}


FORWARDING = {  # queues in the PEs; or none, where only whole tiles of the step before are passed on
    "queues": {"input_sharing": "union"},
    "tags": {"input_sharing": "identical", "input_words": "box"},
}


@pytest.mark.parametrize("cases", [150, pytest.param(700, marks=pytest.mark.full)])
@pytest.mark.parametrize("sharing", FORWARDING.values(), ids=FORWARDING)
def test_forwarding_equals_enumeration(sharing, cases):
    passed_on = 0
    for seed in range(cases):
        device, layer, loops, mapping = forwarding_case(seed, **sharing)
        ours = hw_model.evaluate(layer, mapping, device, 16)
        truth = word_sets.run(
            layer, loops, device.level_names, device.first_pe_level, {l.name: l.holds for l in device.levels},
            reduces=device.reduces, box=device.input_words == "box", forward=True, sharing=device.input_sharing,
            width=device.array[0],
        )  # fmt: skip
        for level in device.level_names:
            assert ours.levels[level]["I"].reads == truth[level]["I"]["reads"], (seed, level, layer, mapping)
        alone = hw_model.evaluate(layer, mapping, dataclasses.replace(device, forward_inputs=False), 16)
        passed_on += alone != ours
    assert passed_on > cases / 25


@pytest.mark.full
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_more_counters_equal_enumeration(chunk):
    for seed in range(SAMPLE + chunk, CASES, CHUNKS):
        check_case(seed)


def test_union_length():
    """The closed forms for the union of regularly placed intervals, against the set of positions, over a grid."""
    grid = itertools.product(range(7), range(1, 9), (1, 2, 3, 5), range(1, 9), (1, 2, 4))
    for length, step_a, count_a, step_b, count_b in grid:
        positions = {a * step_a + b * step_b + i for a in range(count_a) for b in range(count_b) for i in range(length)}
        assert union_length(length, step_a, count_a, step_b, count_b) == len(positions)
