"""How energy and rate scale with the bit-width: the one place where the laws are written.

Measured points and their sources; everything else on a device is one of these points scaled by a law below.

* MAC: 32-bit multiplier 12.68 pJ and 32-bit adder 0.21 pJ (Aladdin, ISCA 2014, 40 nm).
* Horowitz, ISSCC 2014, 45 nm, 0.9 V: multiply 8 bit 0.2 pJ, 32 bit 3.1 pJ; add 8 bit 0.03 pJ, 32 bit 0.1 pJ;
  64-bit SRAM access 8 kB 10 pJ, 32 kB 20 pJ, 1 MB 100 pJ.
"""

from __future__ import annotations

from collections.abc import Mapping

from hw_model.device import Mac


def next_power_of_two(bits: int) -> int:
    """4 -> 4, 5 -> 8."""
    return 1 << (bits - 1).bit_length()


def mac_bits(mac: Mac, bits: int) -> int:
    """Width at which a MAC of `bits` really runs: `fused` arrays are built of power-of-two granules."""
    if mac.rate == "fixed":
        return bits
    return max(mac.granule_bits, next_power_of_two(bits))


def mac_energy_pj(mac: Mac, bits: int) -> float:
    """Energy of one b x b bit MAC: multiplier with b*b, adder (2b bits wide) with b."""
    b = mac_bits(mac, bits)
    return mac.multiplier_energy_pj * (b / mac.multiplier_bits) ** 2 + mac.adder_energy_pj * 2 * b / mac.adder_bits


def mac_rate(mac: Mac, bits: int) -> tuple[int, int]:
    """MACs per MAC unit and cycle, as a fraction: `fixed` 1; `fused` (native_bits / b)**2, below 1 for wider words."""
    if mac.rate == "fixed":
        return 1, 1
    b = mac_bits(mac, bits)
    if b <= mac.native_bits:
        return (mac.native_bits // b) ** 2, 1
    return 1, (b // mac.native_bits) ** 2


def access_energy_pj(energy_pj_per_bit: float, bits: int) -> float:
    """Energy of one word: memories, DRAM and network cost the same for every bit (words are packed)."""
    return energy_pj_per_bit * bits


# Energy of the same circuit at 45 nm = 1 (Stillmaker and Baas, Integration 2017, at 0.9 V).
NODE_ENERGY: Mapping[int, float] = {65: 1.25, 45: 1.0, 32: 0.64, 16: 0.19, 7: 0.10}
