"""Networks of torchvision made switchable: python benchmarks/converted.py [--only NAME,..] [--json FILE]

For each, with random weights and a batch of 2: how many layers switch and how many are named because they read their
weights themselves; whether it is equal to the original, bit for bit, at 32 bit in evaluation; and the loss at 4 bit
before the first and after the fifth step of SGD on one batch.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import instantnet
from instantnet.engine.machine import versions
from instantnet.quantize import SwitchableLinear
from instantnet.quantizers import Quantizer

NETWORKS = {
    **dict.fromkeys(["alexnet", "vgg11_bn"], 224),
    **dict.fromkeys(["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"], 64),
    **dict.fromkeys(["densenet121", "squeezenet1_0"], 224),
    **dict.fromkeys(["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"], 64),
    **dict.fromkeys(["efficientnet_b0", "regnet_y_400mf"], 64),
    **{"googlenet": 224, "inception_v3": 299, "convnext_tiny": 64},
    **dict.fromkeys(["vit_b_32", "swin_t", "maxvit_t"], 224),
}
"""Name -> height and width of an image."""
BITS = (4, 8, 32)
STEPS = 5


def measure(name: str, pixels: int) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    weights = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=10, **weights).eval()
    images = torch.randn(2, 3, pixels, pixels)
    network = instantnet.switchable(model, BITS, example=images, strict=False)
    with torch.no_grad():
        equal = torch.equal(network(images, num_bits=32), model(images))
    switching = [m for m in network.modules() if any(isinstance(child, Quantizer) for child in m.children())]
    losses = steps(network.train(), images)
    return {
        "network": name,
        "pixels": pixels,
        "switch": len(switching),
        "linear": sum(isinstance(m, SwitchableLinear) for m in switching),
        "named": len(network.kept_float),
        "equal": equal,
        "loss_before": losses[0],
        "loss_after": losses[-1],
    }


def steps(network: nn.Module, images: torch.Tensor) -> list[float]:
    """Losses at 4 bit before each of STEPS steps, and after the last, with the same dropout every time."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS + 1):
        torch.manual_seed(1)
        logits = network(images, num_bits=4)
        loss = nn.functional.cross_entropy(getattr(logits, "logits", logits), torch.tensor([3, 7]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | pixels | layers that switch | named | equal at 32 bit | loss at 4 bit, before and after |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        losses = f"{row['loss_before']:.4f}, {row['loss_after']:.4f}"
        equal = "yes" if row["equal"] else "no"
        lines.append(f"| {row['network']} | {row['pixels']} | {row['switch']} | {row['named']} | {equal} | {losses} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated, instead of all")
    parser.add_argument("--json", help="also write the numbers here")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(NETWORKS)
    rows = []
    for name in names:
        rows.append(measure(name, NETWORKS[name]))
        print(rows[-1], flush=True)
    print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
