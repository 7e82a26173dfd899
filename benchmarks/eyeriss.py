"""The model against the Eyeriss chip: AlexNet CONV1-5, batch 4, 16 bit, 200 MHz, published mappings; VGG-16's power.

    python benchmarks/eyeriss.py [--json FILE]

Chip: JSSC 2017, table V (measured) and table III (mappings), in tests/data/eyeriss_alexnet.csv. MB = 1e6 bytes.
A strip of ofmap rows that does not divide the layer leaves a shorter last strip, costed separately and added.

Core power: energy on the chip, without DRAM and idle power, over the chip's processing time, plus `idle_power_mw` of
eyeriss.yaml. That constant is fitted on these five layers. VGG-16 (table VI, batch 3, tests/data/eyeriss_vgg16.csv)
checks it without refitting. Its mappings are unpublished, so buffer megabytes and time are the chip's own. PEs and
network take the energy per MAC of CONV3, 4 and 5, which are 3x3 like all of VGG-16, at the layer's share of zeros.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import hw_model  # noqa: E402

# The chip's traffic when the published mappings are counted by hand: psum writes and reads for every
# group of channels, each input row once per pass (GLB); every tile once per pass, uncompressed (DRAM).
EXPECTED_GLB_MB = {"CONV1": 18.45, "CONV2": 77.57, "CONV4": 37.37, "CONV5": 24.92}
EXPECTED_DRAM_MB = {"CONV1": 6.06, "CONV2": 5.43, "CONV3": 5.05, "CONV4": 3.92, "CONV5": 2.61}
BYTES = 2
BATCH = 4
NULL_MW = 275.0  # the null model: one constant power, within 17 % on CONV1-5
VGG_BATCH = 3
VGG_BLOCKS = {1: (3, 64, 224), 2: (64, 128, 112), 3: (128, 256, 56), 4: (256, 512, 28), 5: (512, 512, 14)}


def chip_rows(path: Path = ROOT / "tests/data/eyeriss_alexnet.csv") -> list[dict]:
    """A table of the chip as dictionaries: numbers as floats, the layer's name as text."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    return [
        {key: value if key == "layer" else float(value) for key, value in row.items()} for row in csv.DictReader(lines)
    ]


def device_for(row: dict) -> hw_model.Device:
    """The Eyeriss device; where a PE set is wider than the array the chip folds it, which keeps the number of PEs."""
    device = hw_model.load_device("eyeriss")
    width, height = device.array
    if row["e"] <= width:
        return device
    return replace(device, array=(2 * width, height // 2))


def mapping_for(row: dict, rows: int, strips: int) -> dict:
    """The published mapping for `strips` strips of `rows` ofmap rows.

    A PE set is R x e PEs; r x t sets work side by side on channels and ofmaps; each PE keeps p filters of q channels. m
    ofmaps of n images are summed in the buffer while DRAM delivers the next channels.
    """
    m, n, p, q, r, t = (int(row[name]) for name in "mnpqrt")
    groups = int(row["groups"])
    kernels, channels = int(row["M"]) // groups, int(row["C"])
    sets = [["K", t], ["C", r]]
    beside = int(row["e"]) * t <= device_for(row).array[0]
    return {
        "dram": [
            ["G", groups], ["N", BATCH // n], ["P", strips], ["K", kernels // m], ["C", channels // (q * r)],
        ],
        "glb": [["K", m // (p * t)], ["N", n], ["Q", int(row["E"])]],
        "spatial_y": [["R", int(row["R"])], *([] if beside else sets)],
        "spatial_x": [["P", rows], *(sets if beside else [])],
        "rf": [["K", p], ["C", q], ["S", int(row["R"])]],
    }  # fmt: skip


def cost_of(row: dict) -> tuple[hw_model.Cost, int]:
    """Cost of a layer of the table, and the PEs active in its full strips."""
    e, size = int(row["e"]), int(row["E"])
    costs = []
    for rows, strips in ((e, size // e), (size % e, 1)):
        if rows:
            layer = hw_model.Layer(
                name=row["layer"], N=BATCH, G=int(row["groups"]), K=int(row["M"] / row["groups"]), C=int(row["C"]),
                P=rows * strips, Q=size, R=int(row["R"]), S=int(row["R"]), stride=int(row["U"]),
                input_zeros=row["ifmap_zeros_percent"] / 100,
            )  # fmt: skip
            costs.append(hw_model.evaluate(layer, mapping_for(row, rows, strips), device_for(row), 16))
    return sum(costs), costs[0].active_pes


def compare(row: dict) -> dict:
    """One line of the comparison."""
    cost, active_pes = cost_of(row)
    glb, dram = cost.levels["glb"], cost.levels["dram"]
    glb_words = glb["I"].reads + glb["O"].reads + glb["O"].drains + glb["O"].updates
    dram_words = dram["W"].reads + dram["I"].reads + dram["O"].reads + dram["O"].updates
    return {
        "layer": row["layer"],
        "active_pes": active_pes,
        "chip_active_pes": int(row["active_pes"]),
        "glb_mb": glb_words * BYTES / 1e6,
        "expected_glb_mb": EXPECTED_GLB_MB.get(row["layer"]),
        "chip_glb_mb": row["glb_mb"],
        "dram_mb": dram_words * BYTES / 1e6,
        "expected_dram_mb": EXPECTED_DRAM_MB[row["layer"]],
        "chip_dram_compressed_mb": row["dram_mb"],
        "latency_ms": cost.latency_s * 1e3,
        "chip_processing_ms": row["processing_ms"],
        "energy_mj": cost.energy_j * 1e3,
        "energy_without_dram_mj": cost.energy_j * 1e3 - sum(part.energy_pj for part in dram.values()) * 1e-9,
        "chip_energy_mj": row["power_mw"] * row["total_ms"] * 1e-3,
    }


def access_power_mw(row: dict) -> float:
    """Core power of an AlexNet layer without the idle power, over the chip's processing time."""
    cost, _ = cost_of(row)
    off_chip = sum(part.energy_pj for part in cost.levels["dram"].values())
    return (cost.energy_pj - off_chip - cost.idle_energy_pj) * 1e-9 / (row["processing_ms"] * 1e-3)


def fitted_idle_mw(access: list[float], chip: list[float]) -> float:
    """The idle power (mW, steps of 0.5) that minimises the largest relative error over some layers."""
    return min(
        (step / 2 for step in range(801)),
        key=lambda idle: max(abs((a + idle) / c - 1) for a, c in zip(access, chip, strict=True)),
    )


def alexnet_power(rows: list[dict]) -> list[dict]:
    """Core power (mW) of CONV1-5: the chip's, the model's, the null's, and the model's with the idle power fitted on
    the other four layers."""
    access = [access_power_mw(row) for row in rows]
    chip = [row["power_mw"] for row in rows]
    lines = []
    for index, row in enumerate(rows):
        others = [i for i in range(len(rows)) if i != index]
        idle = fitted_idle_mw([access[i] for i in others], [chip[i] for i in others])
        lines.append(
            _power_line(row["layer"], access[index], chip[index])
            | {"left_out_idle_mw": idle, "left_out_error": (access[index] + idle) / chip[index] - 1}
        )
    return lines


def vgg_power(rows: list[dict], alexnet: list[dict]) -> list[dict]:
    """Core power (mW) of VGG-16's 13 layers; nothing is fitted on them. alexnet: the rows of AlexNet's table."""
    word_pj = hw_model.load_device("eyeriss").level("glb").read_energy_pj_per_bit["I"] * 8 * BYTES
    lines = []
    for row in rows:
        first, kernels, size = VGG_BLOCKS[int(row["layer"][4])]
        channels = first if row["layer"].endswith("_1") else kernels
        macs = VGG_BATCH * size * size * kernels * channels * 3 * 3
        buffer_pj = row["glb_mb"] * 1e6 / BYTES * word_pj
        pe_pj = macs * _pe_energy_pj_per_mac(alexnet[2:], row["zero_inputs_percent"])
        access = (buffer_pj + pe_pj) * 1e-9 / (row["processing_ms"] * 1e-3)
        lines.append(_power_line(row["layer"], access, row["power_mw"]))
    return lines


def _pe_energy_pj_per_mac(rows: list[dict], zeros_percent: float) -> float:
    """MAC, register files and network, per MAC, at a share of zero inputs: the mean of some AlexNet layers."""
    each = []
    for row in rows:
        cost, _ = cost_of({**row, "ifmap_zeros_percent": zeros_percent})
        inside = [*cost.levels["rf"].values(), *cost.noc.values()]
        each.append((cost.mac_energy_pj + sum(part.energy_pj for part in inside)) / cost.macs)
    return sum(each) / len(each)


def _power_line(layer: str, access_mw: float, chip_mw: float) -> dict:
    power = access_mw + hw_model.load_device("eyeriss").idle_power_mw
    return {
        "layer": layer,
        "chip_power_mw": chip_mw,
        "power_mw": power,
        "power_error": power / chip_mw - 1,
        "null_error": NULL_MW / chip_mw - 1,
    }


def power_table(alexnet: list[dict], vgg: list[dict]) -> str:
    """Core power as text."""
    idle = hw_model.load_device("eyeriss").idle_power_mw
    text = [
        f"Core power, mW. Fitted: idle power, {idle:g} mW. Null: {NULL_MW:g} mW for every layer.",
        "layer      chip   model   error    null   left out (its idle power)",
    ]
    for c in (*alexnet, *vgg):
        left = f"{c['left_out_error']:+8.1%} ({c['left_out_idle_mw']:g})" if "left_out_error" in c else "not fitted"
        text.append(
            f"{c['layer']:9} {c['chip_power_mw']:5.0f}  {c['power_mw']:6.1f} {c['power_error']:+7.1%} "
            f"{c['null_error']:+7.1%}   {left}"
        )
    for name, lines in (("AlexNet", alexnet), ("VGG-16", vgg)):
        worst, null = (max(abs(c[key]) for c in lines) for key in ("power_error", "null_error"))
        text.append(f"{name}: largest error {worst:.1%}, of the null {null:.1%}")
    return "\n".join(text)


def table(lines: list[dict]) -> str:
    """The comparison as text."""
    head = (
        "layer   PEs (chip)   GLB MB (by hand, chip)       DRAM MB (by hand, chip*)   "
        "ms (chip)       ratio   mJ (chip**)"
    )
    text = [head]
    for c in lines:
        by_hand = f"{c['expected_glb_mb']:.2f}" if c["expected_glb_mb"] else "-"
        text.append(
            f"{c['layer']:7} {c['active_pes']} ({c['chip_active_pes']})   "
            f"{c['glb_mb']:6.2f} ({by_hand:>5}, {c['chip_glb_mb']:5.1f})       "
            f"{c['dram_mb']:5.2f} ({c['expected_dram_mb']:.2f}, {c['chip_dram_compressed_mb']:.1f})        "
            f"{c['latency_ms']:6.2f} ({c['chip_processing_ms']:4.1f}) "
            f"{c['latency_ms'] / c['chip_processing_ms']:7.2f}   "
            f"{c['energy_without_dram_mj']:5.2f} ({c['chip_energy_mj']:5.2f})"
        )
    text += [
        "*  the chip's DRAM traffic is run-length compressed, the model's is not",
        "** on-chip energy; the model's idle power is charged over the model's time, the chip's over its total time",
        "The model leaves out the cycles that the chip spends filling and draining the array in each pass, and stalls.",
    ]
    return "\n".join(text)


def main() -> None:
    """Print the tables; write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file, a list")
    options = parser.parse_args()
    rows = chip_rows()
    lines = [compare(row) for row in rows]
    alexnet = alexnet_power(rows)
    vgg = vgg_power(chip_rows(ROOT / "tests/data/eyeriss_vgg16.csv"), rows)
    print(table(lines))
    print()
    print(power_table(alexnet, vgg))
    if options.json:
        merged = [line | power for line, power in zip(lines, alexnet, strict=True)] + vgg
        Path(options.json).write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
