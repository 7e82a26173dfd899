"""Equal to the brute-force counter, whatever the layer, the mapping and the device."""

import random

import pytest
import random_cases
import word_sets

import hw_model

CASES = 2100
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


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_counters_equal_enumeration(chunk):
    for seed in range(chunk, CASES, CHUNKS):
        device, layer, loops, mapping, holds = random_case(seed)
        ours = hw_model.evaluate(layer, mapping, device, 16)
        first_pe = device.first_pe_level
        truth = word_sets.run(
            layer, loops, device.level_names, first_pe, holds, device.multicast, device.spatial_reduction
        )
        for level, tensors in truth.items():
            for tensor, expected in tensors.items():
                for counter in ("reads", "fills", "updates", "drains"):
                    found = getattr(ours.levels[level][tensor], counter)
                    where = (seed, level, tensor, counter, layer, mapping)
                    if (
                        loops.get("lanes")
                        and counter == "reads"
                        and tensor == "I"
                        and not any("I" in holds[name] for name in device.level_names[first_pe:])
                    ):  # lanes straight from a shared memory: an upper bound
                        assert found >= expected.get(counter, 0), where
                    else:
                        assert found == expected.get(counter, 0), where
