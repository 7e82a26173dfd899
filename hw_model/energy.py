"""Scaling laws of energy and rate with the bit-width, the size of a memory and the process, all in one place.

The constants below are measured (published) points, each with its source. Every other energy of a device is one of
them, scaled by a law of this file. docs/hardware.md shows the plots, and which numbers of a device are measured or
scaled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction

from hw_model.device import Mac
from hw_model.errors import InputError
from hw_model.widths import BitsLike, widths_of

# Integer arithmetic at 45 nm, 0.9 V (Horowitz, ISSCC 2014): {bits: pJ}.
MULTIPLY_PJ: Mapping[int, float] = {8: 0.2, 32: 3.1}
ADD_PJ: Mapping[int, float] = {8: 0.03, 32: 0.1}
# Multiplier and adder at 40 nm (Aladdin, ISCA 2014), 32 bit.
ALADDIN_MULTIPLY_PJ, ALADDIN_ADD_PJ = 12.68, 0.21
# SRAM at 45 nm, 64-bit read (CACTI 7): {bytes: pJ}; Horowitz gives 10, 20 and 100 pJ for 8 kB, 32 kB and 1 MB.
SRAM_READ_64_BIT_PJ: Mapping[int, float] = {2**13: 6.1, 2**15: 17.0, 2**17: 32.3, 2**20: 93.5}
REGISTER_PJ_PER_BIT = 0.009  # Aladdin, 40 nm
# DRAM with its interface: LPDDR4, HBM2, DDR3.
DRAM_PJ_PER_BIT: Mapping[str, float] = {"LPDDR4": 8.0, "HBM2": 6.25, "DDR3": 70.0}
# A wire on the chip at 40 nm, 0.9 V: 310 pJ for 256 bits over 10 mm (Keckler et al., IEEE Micro 2011).
WIRE_PJ_PER_BIT_MM = 310 / 256 / 10
# Energy of the same circuit, 45 nm = 1 (Stillmaker and Baas, Integration 2017, at 0.9 V); 40 nm is taken as 45.
NODE_ENERGY: Mapping[float, float] = {65: 1.25, 45: 1.0, 32: 0.64, 16: 0.19, 7: 0.10}


def next_power_of_two(bits: int) -> int:
    """4 -> 4, 5 -> 8."""
    return 1 << (bits - 1).bit_length()


def operand_bits(mac: Mac, bits: int) -> int:
    """Width at which an operand of `bits` runs: `fused` arrays consist of power-of-two granules."""
    if mac.rate == "fixed":
        return bits
    return max(mac.granule_bits, next_power_of_two(bits))


def mac_energy_pj(mac: Mac, bits: BitsLike) -> float:
    """Energy of one MAC of w-bit weights and a-bit inputs: multiplier with w*a, adder (w + a bits wide) with w + a.

    bits: 8, "w4a8", .. (`widths_of`).
    """
    widths = widths_of(bits)
    w, a = operand_bits(mac, widths.W), operand_bits(mac, widths.I)
    return mac.multiplier_energy_pj * w * a / mac.multiplier_bits**2 + mac.adder_energy_pj * (w + a) / mac.adder_bits


def mac_rate(mac: Mac, bits: BitsLike) -> tuple[int, int]:
    """MACs per MAC unit and cycle, as a fraction: `fixed` 1; `fused` native_bits / w * native_bits / a, below 1 for
    wider words."""
    if mac.rate == "fixed":
        return 1, 1
    widths = widths_of(bits)
    per_cycle = Fraction(1)
    for width in (widths.W, widths.I):
        per_cycle *= Fraction(mac.native_bits, operand_bits(mac, width))
    return per_cycle.numerator, per_cycle.denominator


def access_energy_pj(energy_pj_per_bit: float, bits: int) -> float:
    """Energy of one word: memories, DRAM and network cost the same for every bit (words are packed)."""
    return energy_pj_per_bit * bits


def node_factor(technology_nm: float) -> float:
    """Energy relative to 45 nm. Raises InputError for a process that is not in NODE_ENERGY."""
    if technology_nm not in NODE_ENERGY:
        raise InputError(f"technology_nm: expected one of {', '.join(map(str, NODE_ENERGY))}, got {technology_nm}")
    return NODE_ENERGY[technology_nm]


def sram_energy_pj_per_bit(size_bytes: float, technology_nm: float = 45) -> float:
    """One bit of an access to an SRAM of this size: a straight line in log-log between (and beyond) CACTI's points."""
    points = [(math.log(size), math.log(energy / 64)) for size, energy in sorted(SRAM_READ_64_BIT_PJ.items())]
    at = math.log(size_bytes)
    left, right = next((pair for pair in itertools.pairwise(points) if at <= pair[1][0]), points[-2:])
    slope = (right[1] - left[1]) / (right[0] - left[0])
    return math.exp(left[1] + slope * (at - left[0])) * node_factor(technology_nm)


def register_energy_pj_per_bit(technology_nm: float = 45) -> float:
    """One bit of an access to a register."""
    return REGISTER_PJ_PER_BIT * node_factor(technology_nm)


def hop_energy_pj_per_bit(distance_mm: float, technology_nm: float = 45) -> float:
    """One bit over a hop of this length: the wire alone, no router."""
    return WIRE_PJ_PER_BIT_MM * distance_mm * node_factor(technology_nm)
