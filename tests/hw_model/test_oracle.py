"""Equal to the brute-force counter, whatever the layer, the mapping and the device."""

import itertools
import json
import random
from pathlib import Path

import pytest
import random_cases
import word_sets

import hw_model
from hw_model.compiled import kernel

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
    )  # fmt: skip
    for level, tensors in truth.items():
        for tensor, expected in tensors.items():
            for counter in ("reads", "fills", "updates", "drains"):
                found = getattr(ours.levels[level][tensor], counter)
                assert found == expected.get(counter, 0), (seed, level, tensor, counter, layer, mapping)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_counters_equal_enumeration(chunk):
    for seed in range(chunk, SAMPLE, CHUNKS):
        check_case(seed)


@pytest.mark.full
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_more_counters_equal_enumeration(chunk):
    for seed in range(SAMPLE + chunk, CASES, CHUNKS):
        check_case(seed)


def test_union_length():
    """The closed forms for the union of regularly placed intervals, against the set of positions, over a grid."""
    union_length = kernel().union_length
    grid = itertools.product(range(7), range(1, 9), (1, 2, 3, 5), range(1, 9), (1, 2, 4))
    for length, step_a, count_a, step_b, count_b in grid:
        positions = {a * step_a + b * step_b + i for a in range(count_a) for b in range(count_b) for i in range(length)}
        assert union_length(length, step_a, count_a, step_b, count_b) == len(positions)
