"""What fuses across the blocks of a network, which a table of a search space does not hold:
python benchmarks/across_blocks.py [--preset digits] [--device eyeriss,..] [--bits 8] [--budget 2000] [--json FILE]

For ten random networks of the search space, EDP at one bit-width: layer by layer; with layers fused within blocks, the
sums of the table; with layers fused wherever it pays, as `python -m automapper` does. All three rest on the layers' own
best mappings, without the trade between layers that the mapper adds. The last one also chooses its groups for the EDP
of the whole network, where the table has each block's own.
"""

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import automapper
from instantnet.engine.errors import exit_status
from instantnet.engine.machine import versions
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision
from instantnet.settings.presets import SEARCH
from instantnet.settings.stages import SearchSettings

NETWORKS, SEED = 10, 0


def measure(geometry: Geometry, device: str, bits: int, budget: int) -> list[dict[str, float]]:
    """A row per network: EDPs in J*s."""
    common: dict[str, Any] = {"budget": str(budget), "fuse": "strips"}
    table = automapper.table(geometry, device, bits, **common)
    draw = random.Random(SEED)
    rows = []
    for _ in range(NETWORKS):
        ops = draw.choices(list(OPERATIONS), k=geometry.num_layers)
        with torch.device("meta"):
            network = DerivedNetwork(ops, geometry, Precision([bits]))
            images = torch.zeros(1, 3, geometry.image_height, geometry.image_width)
        with mock.patch("automapper.api.trade_layers"):
            report = automapper.map_network(network, device, bits, example=images, baselines=[], stages=1, **common)
        fused = report.to_dict()["bit_widths"][0]["fused"]
        energy_j, latency_s = table.cost(ops, bits)
        rows.append(
            {
                "layer_by_layer": fused["layer_by_layer"]["edp_js"],
                "within": energy_j * latency_s,
                "anywhere": fused["edp_js"],
                "groups": len(fused["groups"]),
                "across": sum(len(set(map(block_of, group["layers"]))) > 1 for group in fused["groups"]),
            }
        )
    return rows


def block_of(layer: dict[str, Any]) -> str:
    """`cells.3` of `cells.3.expand`; of other layers the name."""
    return ".".join(layer["name"].split(".")[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits", choices=list(SEARCH))
    parser.add_argument("--device", default="eyeriss,edge_tpu_like")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    C = SearchSettings().replaced(**SEARCH[arguments.preset])
    geometry = Geometry.from_settings(C.replaced(num_classes=C.num_classes or 10).to_dict())
    print(f"{NETWORKS} random networks, preset {arguments.preset}, {arguments.bits} bit, budget {arguments.budget}")
    print(f"{'':15} {'EDP':30} median (least to most)")
    found = {}
    for device in arguments.device.split(","):
        rows = found[device] = measure(geometry, device, arguments.bits, arguments.budget)
        for upper, lower in (("within", "layer_by_layer"), ("anywhere", "layer_by_layer"), ("anywhere", "within")):
            ratios = [row[upper] / row[lower] for row in rows]
            name = f"{upper} / {lower}".replace("_", " ")
            print(f"{device:15} {name:30} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        across, groups = (sum(row[name] for row in rows) for name in ("across", "groups"))
        print(f"{device:15} {across} of {groups} groups hold layers of several blocks")
    if arguments.json:
        content = {"versions": versions(), "settings": {k: str(v) for k, v in vars(arguments).items()}, "rows": found}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(exit_status(main))
