"""The model against the Eyeriss chip: AlexNet CONV1-5, batch 4, 16 bit, 200 MHz, with the published mappings.

    python benchmarks/eyeriss.py [--json FILE]

Chip: JSSC 2017, table V (measured) and table III (mappings), in tests/data/eyeriss_alexnet.csv. MB = 1e6 bytes.
A strip of ofmap rows that does not divide the layer leaves a shorter last strip, costed on its own and added.
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

# What the chip's traffic comes to when the published mappings are counted by hand: psum writes and reads for every
# group of channels, each input row once per pass (GLB); every tile once per pass, uncompressed (DRAM).
EXPECTED_GLB_MB = {"CONV1": 18.45, "CONV2": 77.57, "CONV4": 37.37, "CONV5": 24.92}
EXPECTED_DRAM_MB = {"CONV1": 6.06, "CONV2": 5.43, "CONV3": 5.05, "CONV4": 3.92, "CONV5": 2.61}
BYTES = 2
BATCH = 4


def chip_rows(path: Path = ROOT / "tests/data/eyeriss_alexnet.csv") -> list[dict]:
    """The chip's table as dictionaries: numbers as floats, the layer's name as text."""
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
        "** on-chip energy: the chip's has clock tree, control and leakage in it and skips zero inputs",
        "The model leaves out the cycles that the chip spends filling and draining the array in each pass, and stalls.",
    ]
    return "\n".join(text)


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    options = parser.parse_args()
    lines = [compare(row) for row in chip_rows()]
    print(table(lines))
    if options.json:
        Path(options.json).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
