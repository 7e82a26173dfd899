"""Speed of exported networks, and whether they still compute the same: python benchmarks/deploy.py [--json FILE]

ResNet-38 at 32x32, MobileNetV2 at 224x224, with random weights and ranges calibrated on random images, and the network
in pretrained/. onnxruntime on one thread, one image; the bit-widths take turns, and the table quotes medians of the
processor time. Target: at 8 bit, `symmetric`, at least 1.8x faster than at 32 bit on a CPU with VNNI. Where openvino is
installed it runs the same files.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import instantnet
from instantnet.deploy import parity, to_onnx
from instantnet.deploy.export import packages, real_offset
from instantnet.deploy.graph import graph_of
from instantnet.deploy.images import random_images
from instantnet.engine.machine import tune_cpu, versions
from instantnet.networks.build import build_network
from instantnet.quantize import Precision, recalibrate

BITS = (4, 8, 16, 32)
CASES = (
    ("resnet38", 32, "symmetric", False),
    ("resnet38", 32, "symmetric", True),
    ("resnet38", 32, "minmax", True),
    ("mobilenet_v2", 224, "symmetric", False),
    ("mobilenet_v2", 224, "symmetric", True),
    ("mobilenet_v2", 224, "minmax", True),
)
"""network, pixels, quantizer, whether the ends are quantized too."""


def calibrated(name: str, pixels: int, quantizer: str, ends: bool) -> Any:
    """A network with random weights, its ranges and batch norms measured on random images."""
    torch.manual_seed(0)
    sizes = {"width_mult": 1.0, "num_classes": 10, "image_height": pixels, "image_width": pixels, "quantize_ends": ends}
    model = build_network({"network": name}, sizes, Precision(BITS, quantizer=quantizer))
    pictures = torch.from_numpy(random_images(16, (3, pixels, pixels), [0.5] * 3, [0.25] * 3).pixels)
    for bits in BITS:
        recalibrate(model, bits, [(pictures, None)])
    return model.eval()


def models(network: Any, shape: tuple[int, ...], images: np.ndarray) -> tuple[Any, dict[int, Any]]:
    """(graph, bit-width -> ONNX model) as the command writes them."""
    graph = graph_of(network, shape)
    found = {}
    for bits in [*graph.bit_widths, 32]:
        found[bits] = to_onnx.onnx_model(graph, bits)
        names = [] if real_offset(graph, graph.bit_widths) else to_onnx.summed(graph, bits)
        if names:
            ranges = to_onnx.measured(found[bits], names, images)
            found[bits] = to_onnx.onnx_model(graph, bits, sums=ranges)
    return graph, found


def measure(
    name: str, network: Any, shape: tuple[int, ...], count: int, calls: int, widths: tuple[int, ...]
) -> dict[str, Any]:
    """One row: latency of those bit-widths, and agreement with torch on `count` random images."""
    images = random_images(count, shape, [0.5] * 3, [0.25] * 3).pixels
    graph, found = models(network, shape, images[:16])
    sessions = {bits: parity.session_of(model) for bits, model in found.items() if bits in widths}
    row: dict[str, Any] = {"name": name, "latency_ms": parity.latencies(sessions, images[:1], calls), "parity": {}}
    for bits, session in sessions.items():
        wanted = parity.torch_logits(network, graph, images, bits)
        logits = parity.onnx_logits(session, images)
        two = np.sort(wanted, axis=1)[:, -2:]
        difference = float(np.abs(logits - wanted).max())
        clear = two[:, 1] - two[:, 0] > difference
        row["parity"][bits] = {
            "top1": float((logits.argmax(1) == wanted.argmax(1)).mean()),
            "largest_difference": difference,
            "clear_images": int(clear.sum()),
            "clear_agreement": float((logits.argmax(1) == wanted.argmax(1))[clear].mean()) if clear.any() else None,
        }
    if importlib.util.find_spec("openvino"):
        chosen = {bits: model for bits, model in found.items() if bits in widths}
        row["openvino"] = openvino_row(network, graph, chosen, images, calls)
    return row


def openvino_row(
    network: Any, graph: Any, found: dict[int, Any], images: np.ndarray, calls: int
) -> dict[str, dict[int, float]]:
    """latency_ms, as `parity.latencies`, and top1, the share of images in the same class as torch, by openvino on one
    thread with float32 where nothing is an integer."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = {bits: core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
                for bits, model in found.items()}  # fmt: skip

    def logits(bits: int, image: np.ndarray) -> np.ndarray:
        return np.asarray(next(iter(compiled[bits]({"image": image}).values())))

    taken: dict[int, list[float]] = {bits: [] for bits in compiled}
    for _ in range(calls):
        for bits in compiled:
            logits(bits, images[:1])
            begun = time.process_time()
            logits(bits, images[:1])
            taken[bits].append(time.process_time() - begun)
    top1 = {}
    for bits in compiled:
        theirs = np.concatenate([logits(bits, images[i : i + 1]) for i in range(len(images))])
        wanted = parity.torch_logits(network, graph, images, bits)
        top1[bits] = float((theirs.argmax(1) == wanted.argmax(1)).mean())
    return {"latency_ms": {bits: 1e3 * statistics.median(times) for bits, times in taken.items()}, "top1": top1}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | 4 bit ms | 8 bit ms | 16 bit ms | 32 bit ms | 32 / 8 bit | top-1 as torch % below 32 bit |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        engines = {row["name"]: (row["latency_ms"], {bits: one["top1"] for bits, one in row["parity"].items()})}
        if "openvino" in row:
            engines[f"{row['name']}, openvino"] = row["openvino"]["latency_ms"], row["openvino"]["top1"]
        for name, (taken, top1) in engines.items():
            agreement = ", ".join(f"{100 * share:.1f}" for bits, share in top1.items() if bits < 32)
            times = " | ".join(f"{taken[bits]:.3g}" if bits in taken else "" for bits in BITS)
            lines.append(f"| {name} | {times} | {taken[32] / taken[8]:.2f} | {agreement} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the numbers here")
    parser.add_argument("--calls", type=int, default=30, help="inferences per bit-width, of small images five times")
    parser.add_argument("--images", type=int, default=10, help="images for the agreement with torch")
    parser.add_argument("--bits", default="4,8,16,32", help="bit-widths that take turns, 8 and 32 among them")
    parser.add_argument("--only", default="", help="networks whose name begins so")
    arguments = parser.parse_args()
    widths = tuple(map(int, arguments.bits.split(",")))
    tune_cpu(1, keep_memory=False)
    rows = []
    for name, pixels, quantizer, ends in (case for case in CASES if case[0].startswith(arguments.only)):
        network = calibrated(name, pixels, quantizer, ends)
        title = f"{name} {pixels}x{pixels}, {quantizer}{', ends too' if ends else ''}"
        calls = arguments.calls * (5 if pixels < 64 else 1)
        rows.append(measure(title, network, (3, pixels, pixels), arguments.images, calls, widths))
        print(rows[-1]["name"], rows[-1]["latency_ms"], flush=True)
    if "pretrained".startswith(arguments.only):
        net = instantnet.load(Path(__file__).resolve().parent.parent / "pretrained")
        rows.append(measure("pretrained, minmax", net.model, (3, 16, 16), 500, 10 * arguments.calls, widths))
    print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"rows": rows, "versions": versions() | packages()}, indent=1))


if __name__ == "__main__":
    main()
