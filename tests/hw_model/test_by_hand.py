"""Energy and cycles of two mappings, worked out by hand, where words, partial sums and rates all differ.

The layer has K = 3 filters, C = 3 channels and P = 4 outputs along one row: 3 * 3 * 4 = 36 MACs, 9 weights, 12 inputs,
12 outputs. A partial sum has 20 bits. At "w4a8" weights have 4 bits, inputs and finished outputs 8.
"""

import pytest

import hw_model

DEVICE = {
    "name": "by_hand", "clock_mhz": 100, "array": {"x": 3, "y": 3}, "psum_bits": 20,
    "network": {"energy_pj_per_bit": 1},
    "mac": {
        "rate": "fused", "native_bits": 8, "granule_bits": 2, "fused_dims": ["C"],
        "multiplier_energy_pj": 6.4, "multiplier_bits": 8, "adder_energy_pj": 1.6, "adder_bits": 16,
    },
    "levels": [
        {"name": "dram", "holds": ["W", "I", "O"], "read_energy_pj_per_bit": 10, "write_energy_pj_per_bit": 20},
        {"name": "glb", "holds": ["I", "O"], "size_bits": 1000,
         "read_energy_pj_per_bit": 2, "write_energy_pj_per_bit": 3},
        {"name": "rf", "holds": ["W", "I", "O"], "size_bits": 100, "scope": "pe",
         "read_energy_pj_per_bit": 0.5, "write_energy_pj_per_bit": 0.25},
    ],
}  # fmt: skip
LAYER = hw_model.Layer(K=3, C=3, P=4)
WIDTHS = {4: (4, 4, 4), 8: (8, 8, 8), "w4a8": (4, 8, 8)}

# A PE for each filter; every PE keeps one word of each tensor, so that partial sums go back to the buffer and return.
RETURNING = {"dram": [["P", 2]], "glb": [["C", 3], ["P", 2]], "spatial_x": [["K", 3]]}
# A PE for each channel; their sums add up along y on the way to the buffer, and leave finished.
ADDED_UP = {"dram": [["K", 3]], "glb": [["P", 4]], "spatial_y": [["C", 3]]}

# MAC: 6.4 * w * a / 64 for the multiplier and 1.6 * (w + a) / 16 for the adder.
MAC_PJ = {
    4: 36 * (1.6 + 0.8),  # 86.4
    8: 36 * (6.4 + 1.6),  # 288
    "w4a8": 36 * (3.2 + 1.2),  # 158.4
}


def returning_pj(w, i, o):
    """Level -> tensor -> pJ of RETURNING, for words of so many bits. Loops: P2, C3, P2, twelve steps."""
    return {
        "dram": {
            "W": 18 * w * 10,  # each PE fetches its weight anew for P2 * C3 = 6; three PEs
            "I": 12 * i * 10,  # P2 tiles of C3 * P2 inputs
            "O": 12 * o * 20,  # every output once, finished
        },
        "glb": {
            "I": 12 * i * 3 + 12 * i * 2,  # filled; read at each of twelve steps, once for the three PEs
            # 3 PEs * 12 steps = 36 sums come up: 24 are partial and go down again, 12 are finished and go to DRAM
            "O": 24 * 20 * 3 + 12 * o * 3 + 24 * 20 * 2 + 12 * o * 2,
        },
        "rf": {
            "W": 18 * w * 0.25 + 36 * w * 0.5,  # fills; one read a MAC
            "I": 36 * i * 0.25 + 36 * i * 0.5,
            # 24 sums return; 36 MACs write one each, and 24 of them read one before; 24 partial, 12 finished go up
            "O": 24 * 20 * 0.25 + 36 * 20 * 0.25 + 24 * 20 * 0.5 + 24 * 20 * 0.5 + 12 * o * 0.5,
        },
        "noc": {"W": 18 * w, "I": 36 * i, "O": 24 * 20 + 24 * 20 + 12 * o},  # down and up, partial; up, finished
    }


def added_up_pj(w, i, o):
    """The same of ADDED_UP. Loops: K3, P4, twelve steps."""
    return {
        "dram": {"W": 9 * w * 10, "I": 12 * i * 10, "O": 12 * o * 20},  # everything once: K3 keeps the inputs in place
        "glb": {
            "I": 12 * i * 3 + 36 * i * 2,  # each filter reads the twelve inputs again
            "O": 12 * o * 3 + 12 * o * 2,  # nothing but finished outputs
        },
        "rf": {
            "W": 9 * w * 0.25 + 36 * w * 0.5,
            "I": 36 * i * 0.25 + 36 * i * 0.5,
            "O": 36 * 20 * 0.25 + 12 * o * 0.5,  # the first and only MAC of a sum reads none
        },
        "noc": {"W": 9 * w, "I": 36 * i, "O": 24 * 20 + 12 * o},  # from PE to PE; the last hop of each is finished
    }


CASES = [
    # bits, mapping, its energies, sum of all in pJ, MACs included:
    # RETURNING at 4: dram 720 + 480 + 960 = 2160, glb 240 + 2640 = 2880, rf 90 + 108 + 804 = 1002,
    #     noc 72 + 144 + 1008 = 1224
    (4, RETURNING, returning_pj, 2160 + 2880 + 1002 + 1224 + 86.4),  # 7352.4
    # at 8: dram 1440 + 960 + 1920 = 4320, glb 480 + 2880 = 3360, rf 180 + 216 + 828 = 1224,
    #     noc 144 + 288 + 1056 = 1488
    (8, RETURNING, returning_pj, 4320 + 3360 + 1224 + 1488 + 288),  # 10680
    # at w4a8: dram 720 + 960 + 1920 = 3600, glb as at 8, rf 90 + 216 + 828 = 1134, noc 72 + 288 + 1056 = 1416
    ("w4a8", RETURNING, returning_pj, 3600 + 3360 + 1134 + 1416 + 158.4),  # 9668.4
    # ADDED_UP at 4: dram 360 + 480 + 960 = 1800, glb 144 + 288 + 240 = 672, rf 81 + 108 + 204 = 393,
    #     noc 36 + 144 + 528 = 708
    (4, ADDED_UP, added_up_pj, 1800 + 672 + 393 + 708 + 86.4),  # 3659.4
    # at 8: dram 720 + 960 + 1920 = 3600, glb 288 + 576 + 480 = 1344, rf 162 + 216 + 228 = 606,
    #     noc 72 + 288 + 576 = 936
    (8, ADDED_UP, added_up_pj, 3600 + 1344 + 606 + 936 + 288),  # 6774
    # at w4a8: dram 360 + 960 + 1920 = 3240, glb as at 8, rf 81 + 216 + 228 = 525, noc 36 + 288 + 576 = 900
    ("w4a8", ADDED_UP, added_up_pj, 3240 + 1344 + 525 + 900 + 158.4),  # 6167.4
]


def name_of(case):
    return f"{'returning' if case[1] is RETURNING else 'added_up'}-{case[0]}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_energy(case):
    bits, mapping, energies, total = case
    cost = hw_model.evaluate(LAYER, mapping, DEVICE, bits)
    places = {**cost.levels, "noc": cost.noc}
    for place, tensors in energies(*WIDTHS[bits]).items():
        for tensor, picojoules in tensors.items():
            assert places[place][tensor].energy_pj == pytest.approx(picojoules, rel=1e-12), (place, tensor)
    assert cost.mac_energy_pj == pytest.approx(MAC_PJ[bits], rel=1e-12)
    assert cost.energy_pj == pytest.approx(total, rel=1e-12)


# Bits per cycle at one place, and the cycles at 4, 8 and w4a8.
BOUNDS = [
    # Twelve steps in RETURNING: four times a loop over C3, of which a MAC unit does 1 (8 bit), 2 (w4a8) or 4 (4 bit)
    # side by side: 4 * ceil(3 / 4), 4 * ceil(3 / 1), 4 * ceil(3 / 2).
    (RETURNING, None, {4: 4, 8: 12, "w4a8": 8}),
    # In ADDED_UP the channels lie on the array, and no loop over them is left: twelve steps at any width.
    (ADDED_UP, None, {4: 12, 8: 12, "w4a8": 12}),
    # DRAM reads of 18 weights and 12 inputs: 120 / 3, 240 / 3, (72 + 96) / 3.
    (RETURNING, ("dram", "read", 3), {4: 40, 8: 80, "w4a8": 56}),
    # DRAM writes of 12 finished outputs: 48 / 1.5, 96 / 1.5. (Partial sums would take 240 / 1.5 = 160.)
    (RETURNING, ("dram", "write", 1.5), {4: 32, 8: 64, "w4a8": 64}),
    # Buffer reads of 12 inputs and 24 partial sums of 480 bits: (48 + 480) / 5 = 105.6, (96 + 480) / 5 = 115.2.
    (RETURNING, ("glb", "read", 5), {4: 106, 8: 116, "w4a8": 116}),
    # Buffer writes of 12 inputs, 24 partial sums and 12 outputs: (48 + 480 + 48) / 8, (96 + 480 + 96) / 8.
    (RETURNING, ("glb", "write", 8), {4: 72, 8: 84, "w4a8": 84}),
    (ADDED_UP, ("glb", "write", 1), {4: 96, 8: 192, "w4a8": 192}),  # 12 inputs and 12 outputs: 24 * 4, 24 * 8
    # Register files, three at once: 36 weights, 36 inputs and 24 partial sums read: (144 + 144 + 480) / 6 = 128,
    # (288 + 288 + 480) / 6 = 176, (144 + 288 + 480) / 6 = 152.
    (RETURNING, ("rf", "read", 2), {4: 128, 8: 176, "w4a8": 152}),
    # 18 weights, 36 inputs, 24 + 36 partial sums written: (72 + 144 + 1200) / 15 = 94.4, (144 + 288 + 1200) / 15 =
    # 108.8, (72 + 288 + 1200) / 15 = 104.
    (RETURNING, ("rf", "write", 5), {4: 95, 8: 109, "w4a8": 104}),
]


@pytest.mark.parametrize(("mapping", "bound", "cycles"), BOUNDS)
def test_cycles(mapping, bound, cycles):
    device = DEVICE
    if bound:
        place, side, bits_per_cycle = bound
        limit = {f"{side}_bandwidth_bits_per_cycle": bits_per_cycle}
        levels = [level | (limit if level["name"] == place else {}) for level in DEVICE["levels"]]
        device = {**DEVICE, "levels": levels}
    for bits, expected in cycles.items():
        cost = hw_model.evaluate(LAYER, mapping, device, bits)
        assert cost.cycles == expected, bits
        assert cost.latency_s == pytest.approx(expected / 100e6, rel=1e-12)


def test_outputs_that_leave_wide():
    """output_bits 16: finished outputs move at 16 bit everywhere, whatever the width of the inputs."""
    device = {**DEVICE, "output_bits": 16}
    for bits in (4, 8, "w4a8"):
        w, i, _ = WIDTHS[bits]
        cost = hw_model.evaluate(LAYER, RETURNING, device, bits)
        energies = returning_pj(w, i, 16)
        assert {level: cost.levels[level]["O"].energy_pj for level in ("dram", "glb", "rf")} == {
            level: pytest.approx(energies[level]["O"], rel=1e-12) for level in ("dram", "glb", "rf")
        }
        assert cost.noc["O"].energy_pj == pytest.approx(24 * 20 + 24 * 20 + 12 * 16)
