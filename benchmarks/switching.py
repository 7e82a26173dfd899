"""What switchable precision costs: python benchmarks/switching.py [--json FILE]

1. A training step at 32 bit against the same network of plain nn.Conv2d and nn.BatchNorm2d (target: at most 1.05x).
2. Switching the bit-width of a network, by each quantizer (target: under 1 microsecond, no allocation).
3. A training step at 4 and 8 bit by each quantizer against min-max, all without kernels (symmetric: at most 1.1x).
The network: every layer k3_e3 at 3x32x32, 82 MFLOPs. Steps are interleaved; the table quotes medians.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import timeit
import tracemalloc
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instantnet.engine.machine import tune_cpu, versions
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import BatchNorm2d, Precision, SwitchableBatchNorm2d, SwitchableConv2d
from instantnet.quantizers import QUANTIZERS

CIFAR = Geometry(
    (1, 4, 4, 4, 4, 4, 1), (16, 24, 32, 64, 112, 184, 352), (1, 1, 2, 2, 1, 2, 1), 16, 1, 1504, 100, 32, 32, False
)


def plain(module: nn.Module) -> nn.Module:
    """A copy in which every switchable convolution and batch norm is torch's own, weights kept."""
    module = copy.deepcopy(module)
    for name, child in list(module.named_children()):
        if isinstance(child, SwitchableConv2d):
            options = {"stride": child.stride, "padding": child.padding, "groups": child.groups, "bias": False}
            new = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, **options)
            new.weight.data.copy_(child.weight.data)
        elif isinstance(child, SwitchableBatchNorm2d | BatchNorm2d):
            source = child.per_bit_width[-1] if isinstance(child, SwitchableBatchNorm2d) else child
            new = nn.BatchNorm2d(source.num_features)
            new.load_state_dict(source.state_dict())
        else:
            new = plain(child)
        setattr(module, name, new)
    return module


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of one training step."""
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def compare_steps(device: torch.device, batch: int, repeats: int) -> dict:
    """Medians of interleaved training steps, and of the ratio pair by pair."""
    torch.manual_seed(0)
    switchable = DerivedNetwork(["k3_e3"] * CIFAR.num_layers, CIFAR, Precision([4, 8, 12, 16, 32])).to(device)
    models = {"plain": plain(switchable).to(device), "switchable": switchable}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 3):
        for name in sorted(models, reverse=bool(repeat % 2)):  # either goes first as often
            seconds = step(models[name], optimizers[name], images, labels)
            if repeat >= 3:
                times[name].append(seconds)
    ratios = [s / p for s, p in zip(times["switchable"], times["plain"], strict=True)]
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "batch": batch,
        "repeats": repeats,
        "plain_ms": 1e3 * statistics.median(times["plain"]),
        "switchable_ms": 1e3 * statistics.median(times["switchable"]),
        "ratio": statistics.median(ratios),
    }


def of_quantizer(name: str) -> DerivedNetwork:
    """The network, with a bit-width whose weights and activations differ."""
    torch.manual_seed(0)
    precision = Precision([4, "w4a8", 8, 16, 32], quantizer=name)
    return DerivedNetwork(["k3_e3"] * CIFAR.num_layers, CIFAR, precision)


def compare_quantizers(device: torch.device, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Quantizer -> median of training steps that run 8 bit, then 4 bit, and of their ratio to min-max, in one round."""
    models = {name: of_quantizer(name).to(device) for name in QUANTIZERS}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 2):
        for name in sorted(models, reverse=bool(repeat % 2)):
            seconds = 0.0
            for bits in (8, 4):
                models[name].set_bits(bits)
                seconds += step(models[name], optimizers[name], images, labels)
            if repeat >= 2:
                times[name].append(seconds)
    return {
        name: {
            "ms": 1e3 * statistics.median(own),
            "ratio": statistics.median(o / m for o, m in zip(own, times["minmax"], strict=True)),
        }
        for name, own in times.items()
    }


def switching(name: str) -> dict:
    """Microseconds and bytes of one set_bits."""
    model = of_quantizer(name)
    runs = timeit.repeat(lambda: (model.set_bits("w4a8"), model.set_bits(32)), number=100_000, repeat=7)
    tracemalloc.start()
    snapshots = [0, 0]
    for turn in range(2):
        for _ in range(1000):
            model.set_bits(32)
            model.set_bits("w4a8")
        snapshots[turn] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "microseconds": statistics.median(runs) / 200_000 * 1e6,
        "bytes_kept_by_2000": snapshots[1] - snapshots[0],
        "modules": sum(1 for _ in model.modules()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: both where there is a GPU")
    options = parser.parse_args()
    tune_cpu(options.threads, keep_memory=True)
    there = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [torch.device(name) for name in ([options.device] if options.device else there)]
    result = {
        "versions": versions(),
        "steps": [compare_steps(device, options.batch, options.repeats) for device in devices],
        "quantizers": [compare_quantizers(device, options.batch, options.repeats) for device in devices],
        "switching": {name: switching(name) for name in QUANTIZERS},
    }
    print(f"{'device':<24} {'batch':>5} {'plain':>10} {'switchable':>11} {'ratio':>6}   (medians of {options.repeats})")
    for row in result["steps"]:
        times = f"{row['plain_ms']:7.1f} ms {row['switchable_ms']:8.1f} ms"
        print(f"{row['device']:<24} {row['batch']:>5} {times} {row['ratio']:6.3f}")
    for device, rows in zip(devices, result["quantizers"], strict=True):
        for name, row in rows.items():
            print(f"{device.type}, {name}: a step at 8 and 4 bit {row['ms']:.1f} ms, {row['ratio']:.3f} of minmax")
    for name, s in result["switching"].items():
        kept = f"{s['bytes_kept_by_2000']} bytes kept by 2000 of them"
        print(f"{name}, {s['modules']} modules: set_bits {s['microseconds']:.3f} us, {kept}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
