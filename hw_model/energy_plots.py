"""python -m hw_model.energy_plots [FOLDER]: the scaling laws of energy.py with the published points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hw_model.device import Mac, load_device
from hw_model.energy import (
    ADD_PJ,
    ALADDIN_ADD_PJ,
    ALADDIN_MULTIPLY_PJ,
    DRAM_PJ_PER_BIT,
    MULTIPLY_PJ,
    REGISTER_PJ_PER_BIT,
    SRAM_READ_64_BIT_PJ,
    hop_energy_pj_per_bit,
    mac_energy_pj,
    sram_energy_pj_per_bit,
)
from hw_model.evaluate import evaluate
from hw_model.layer import Layer

WIDTHS = range(1, 33)
HOROWITZ_SRAM_PJ = {2**13: 10, 2**15: 20, 2**20: 100}  # 64-bit access, ISSCC 2014, for comparison only
ALADDIN_MAC_PJ = {4: 0.251, 8: 0.898, 12: 1.941, 16: 3.38, 32: 13.1}  # multiplier b, adder 2b, 40 nm
LAYER = Layer(K=64, C=64, P=28, Q=28, R=3, S=3)
MAPPING = {
    "dram": [["K", 4], ["C", 16]], "glb": [["P", 4], ["Q", 28]], "spatial_y": [["R", 3], ["C", 4]],
    "spatial_x": [["P", 7], ["K", 2]], "rf": [["K", 8], ["S", 3]],
}  # fmt: skip


def mac_plot(axes: Any) -> None:
    """Energy of a MAC against bit-width: multiplier with b*b, adder (2b wide) with b."""
    sources = (
        ("Horowitz, 45 nm", Mac(MULTIPLY_PJ[32], 32, ADD_PJ[32], 32, "fixed", 16, 1)),
        ("Aladdin, 40 nm", Mac(ALADDIN_MULTIPLY_PJ, 32, ALADDIN_ADD_PJ, 32, "fixed", 16, 1)),
    )
    for name, mac in sources:
        axes.plot(WIDTHS, [mac_energy_pj(mac, bits) for bits in WIDTHS], label=f"law through 32 bit, {name}")
    axes.plot(MULTIPLY_PJ.keys(), MULTIPLY_PJ.values(), "s", label="multiply, Horowitz, published")
    axes.plot(ALADDIN_MAC_PJ.keys(), ALADDIN_MAC_PJ.values(), "o", label="MAC, Aladdin's figures scaled")
    axes.set(xlabel="bit-width b", ylabel="energy per MAC, pJ", yscale="log", title="MAC: multiplier b·b, adder b")
    axes.legend()


def memory_plot(axes: Any) -> None:
    """Energy per bit against the size of the memory."""
    sizes = [2**exponent for exponent in range(10, 24)]
    axes.plot(sizes, [sram_energy_pj_per_bit(size) for size in sizes], label="law: line through CACTI's points")
    cacti = {size: energy / 64 for size, energy in SRAM_READ_64_BIT_PJ.items()}
    axes.plot(cacti.keys(), cacti.values(), "o", label="SRAM, 64-bit read, CACTI 7, 45 nm")
    horowitz = {size: energy / 64 for size, energy in HOROWITZ_SRAM_PJ.items()}
    axes.plot(horowitz.keys(), horowitz.values(), "s", label="SRAM, Horowitz, 45 nm")
    axes.axhline(REGISTER_PJ_PER_BIT, color="grey", linestyle=":", label="register, Aladdin, 40 nm")
    for index, (name, energy) in enumerate(DRAM_PJ_PER_BIT.items()):
        axes.axhline(energy, linestyle="--", linewidth=0.8, color="black")
        axes.annotate(name, (sizes[2 * index], energy), xytext=(0, 2), textcoords="offset points", fontsize=8)
    axes.set(xlabel="size, bytes", ylabel="energy, pJ per bit", xscale="log", yscale="log", title="Memories, per bit")
    axes.legend(fontsize=8)


def network_plot(axes: Any) -> None:
    """Energy per bit against the number of hops."""
    hops = range(17)
    for distance_mm in (0.03, 0.1, 0.3, 0.6):
        energies = [count * hop_energy_pj_per_bit(distance_mm) for count in hops]
        axes.plot(hops, energies, label=f"{distance_mm} mm per hop")
    axes.set(xlabel="hops", ylabel="energy, pJ per bit", title="Network: wire of 0.121 pJ/bit/mm, 40 nm")
    axes.legend()


def layer_plot(axes: Any) -> None:
    """The breakdown of one layer's energy on Eyeriss, with one mapping, at each bit-width."""
    bit_widths = (2, 4, 6, 8, 12, 16)
    costs = [evaluate(LAYER, MAPPING, "eyeriss", bits) for bits in bit_widths]
    parts = {name: [sum(p.energy_pj for p in c.levels[name].values()) for c in costs] for name in costs[0].levels}
    parts["network"] = [sum(part.energy_pj for part in cost.noc.values()) for cost in costs]
    parts["mac"] = [cost.mac_energy_pj for cost in costs]
    below = [0.0] * len(costs)
    for name, energies in parts.items():
        axes.bar([str(bits) for bits in bit_widths], [e * 1e-6 for e in energies], bottom=below, label=name)
        below = [b + e * 1e-6 for b, e in zip(below, energies, strict=True)]
    title = f"{load_device('eyeriss').name}: 64x64x28x28, 3x3, one mapping"
    axes.set(xlabel="bit-width", ylabel="energy, uJ", title=title)
    axes.legend()


PLOTS = {"mac": mac_plot, "memory": memory_plot, "network": network_plot, "layer": layer_plot}


def main(folder: str = "docs/figures") -> None:
    """Write energy_mac.svg, energy_memory.svg, energy_network.svg and energy_layer.svg into the folder."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "energy"  # the same file every time
    from matplotlib import pyplot

    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        plot(axes)
        axes.grid(alpha=0.3)
        figure.savefig(Path(folder) / f"energy_{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
