"""The scaling laws pass through the published points, and the devices' numbers are those laws'."""

import pytest

import hw_model
from hw_model import energy
from hw_model.device import Mac
from hw_model.energy_plots import PLOTS, main

ALADDIN = Mac(energy.ALADDIN_MULTIPLY_PJ, 32, energy.ALADDIN_ADD_PJ, 32, "fixed", 16, 1)


def test_mac_law_gives_the_figures_scaled_from_aladdin():
    for bits, expected in {4: 0.251, 8: 0.898, 12: 1.941, 16: 3.38, 32: 13.1}.items():
        assert energy.mac_energy_pj(ALADDIN, bits) == pytest.approx(expected, rel=2e-3)


def test_multiplier_law_predicts_the_other_published_width():
    """Horowitz measured 8 and 32 bit: b*b from the one gives the other within 4 %."""
    assert energy.MULTIPLY_PJ[32] * (8 / 32) ** 2 == pytest.approx(energy.MULTIPLY_PJ[8], rel=0.04)
    assert energy.ADD_PJ[32] * 8 / 32 == pytest.approx(energy.ADD_PJ[8], rel=0.2)


def test_sram_law():
    for size, picojoules in energy.SRAM_READ_64_BIT_PJ.items():
        assert energy.sram_energy_pj_per_bit(size) == pytest.approx(picojoules / 64)
    sizes = [energy.sram_energy_pj_per_bit(2**n) for n in range(10, 24)]
    assert sizes == sorted(sizes)
    assert energy.sram_energy_pj_per_bit(2**17) == pytest.approx(0.505, abs=0.001)
    with pytest.raises(hw_model.InputError, match="technology_nm: expected one of 65, 45, 32, 16, 7, got 28"):
        energy.sram_energy_pj_per_bit(2**17, 28)


def test_ratios_of_eyeriss():
    """DRAM 200, buffer 6, network 2, register file 1 per MAC at 16 bit, on both Eyeriss devices."""
    for name in ("eyeriss", "eyeriss_v1_norm", "eyeriss168", "simple256"):
        device = hw_model.load_device(name)
        mac = energy.mac_energy_pj(device.mac, 16)
        for level, ratio in zip(device.levels, (200, 6, 1), strict=True):
            assert 16 * level.read_energy_pj_per_bit["I"] / mac == pytest.approx(ratio)
            assert level.write_energy_pj_per_bit == level.read_energy_pj_per_bit
        assert 16 * device.network_energy_pj_per_bit / mac == pytest.approx(2)
    assert energy.mac_energy_pj(hw_model.load_device("eyeriss").mac, 16) == 1.09375
    assert energy.mac_energy_pj(hw_model.load_device("eyeriss_v1_norm").mac, 16) == pytest.approx(1)


KB = 1024
BUFFERS = [  # device, level, tensor, bytes of the SRAM or None for a register
    ("simba_like", "glb", "I", 64 * KB), ("simba_like", "buffer", "W", 32 * KB), ("simba_like", "buffer", "I", 8 * KB),
    ("simba_like", "buffer", "O", 3 * KB), ("simba_like", "wreg", "W", None),
    ("edge_tpu_like", "sram", "I", 1024 * KB), ("edge_tpu_like", "accumulator", "O", 8 * KB),
    ("edge_tpu_like", "pe", "W", None),
    ("bitfusion", "buffer", "I", 32 * KB), ("bitfusion", "buffer", "O", 16 * KB), ("bitfusion", "unit", "W", None),
    ("shidiannao", "sram", "W", 128 * KB), ("shidiannao", "sram", "I", 64 * KB), ("shidiannao", "pe", "O", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "level", "tensor", "size_bytes"), BUFFERS)
def test_buffers_follow_the_law(name, level, tensor, size_bytes):
    device = hw_model.load_device(name)
    node = device.technology_nm
    law = (
        energy.register_energy_pj_per_bit(node)
        if size_bytes is None
        else energy.sram_energy_pj_per_bit(size_bytes, node)
    )
    assert device.level(level).read_energy_pj_per_bit[tensor] == pytest.approx(law, rel=1e-4)
    assert device.level(level).write_energy_pj_per_bit[tensor] == pytest.approx(law, rel=1e-4)


def test_bit_fusion_reads_weights_from_an_sram():
    """64 KiB in 512 banks of 128 bytes: dearer than a register, cheaper than the activations' larger macros."""
    buffer = hw_model.load_device("bitfusion").level("buffer")
    assert buffer.partitions[0] == (("W",), 64 * KB * 8)
    energies = buffer.read_energy_pj_per_bit
    assert energies["W"] * 32 == pytest.approx(0.683701, rel=1e-4)  # CACTI, 128 B with a port of 32 bits
    assert buffer.write_energy_pj_per_bit["W"] * 32 == pytest.approx(0.925317, rel=1e-4)
    assert 2 * energy.register_energy_pj_per_bit(45) < energies["W"] < energies["O"]


@pytest.mark.parametrize(
    ("name", "distance_mm", "hops"),
    [("simba_like", 0.6, 4), ("edge_tpu_like", 0.03, 1), ("bitfusion", 0.107, 1), ("shidiannao", 0.1, 8)],
)
def test_networks_and_macs_follow_the_laws(name, distance_mm, hops):
    device = hw_model.load_device(name)
    law = hops * energy.hop_energy_pj_per_bit(distance_mm, device.technology_nm)
    assert device.network_energy_pj_per_bit == pytest.approx(law, rel=1e-3)
    assert device.levels[0].read_energy_pj_per_bit["I"] == energy.DRAM_PJ_PER_BIT["LPDDR4"]
    factor = energy.node_factor(device.technology_nm)
    assert device.mac.multiplier_energy_pj == pytest.approx(energy.MULTIPLY_PJ[32] * factor)
    assert device.mac.adder_energy_pj == pytest.approx(energy.ADD_PJ[32] * factor)


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    main(str(tmp_path))
    for name in PLOTS:
        assert "</svg>" in (tmp_path / f"energy_{name}.svg").read_text()
