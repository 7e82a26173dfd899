"""What the choices of stage 2 cost and give: python benchmarks/training_options.py [--seeds 1,2,3] [--json FILE]

Each row trains the same network (`--arch`, by default one of k3_e3 layers) on the handwritten digits with one setting
changed. Time: processor seconds of a training step as a whole, median over the steps (on a GPU the host waits for
it); rows are interleaved seed by seed. Accuracy: of weights.pt, recalibrated, mean over the seeds and
(in brackets) the spread (largest minus smallest).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instantnet import train
from instantnet.engine.checkpoint import load_checkpoint, save_checkpoint
from instantnet.engine.machine import versions

ROWS = {
    "all (the default)": [],
    "sandwich": ["--bit_schedule", "sandwich"],
    "max_loss": ["--bit_schedule", "max_loss"],
    "high2low": ["--bit_schedule", "high2low"],
    "low2high": ["--bit_schedule", "low2high"],
    "ema 0.99": ["--ema", "0.99"],
    "label_smoothing 0.1": ["--label_smoothing", "0.1"],
    "warmup_epochs 2": ["--warmup_epochs", "2"],
    "mixed_precision bfloat16": ["--mixed_precision", "bfloat16"],
}
DIGITS_LAYERS = 5  # searched layers of the preset


def run(words: list[str]) -> tuple[list[float], dict[int, float]]:
    """Train; (processor seconds from every step's beginning to the next one's, accuracy per bit-width)."""
    begins: list[float] = []
    step = train.Cascade.step

    def noted(*arguments, **named):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begins.append(time.process_time())
        return step(*arguments, **named)

    train.Cascade.step = noted
    try:
        with tempfile.TemporaryDirectory() as folder:
            train.main([*words, "--save", folder])
            weights = load_checkpoint(Path(folder) / "weights.pt", ["accuracy"], "weights.pt")
    finally:
        train.Cascade.step = step
    return [after - before for before, after in pairwise(begins)], weights["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rows", default=None, help="only rows whose names begin with one of these words, by commas")
    parser.add_argument("--arch", default=None, help="arch.pt to train; by default every layer is k3_e3")
    parser.add_argument("--nepochs", type=int, default=20)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("words", nargs="*", help="after --: further settings of every row")
    options = parser.parse_args()
    rows = {
        name: words
        for name, words in ROWS.items()
        if not options.rows or name.startswith(tuple(options.rows.split(",")))
    }
    seeds = [int(seed) for seed in options.seeds.split(",")]
    times: dict[str, list[float]] = {name: [] for name in rows}
    accuracies: dict[str, list[dict[int, float]]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        arch = options.arch or f"{folder}/arch.pt"
        if not options.arch:
            save_checkpoint(arch, {"ops": ["k3_e3"] * DIGITS_LAYERS})
        for seed in seeds:
            for name, words in rows.items():
                common = ["--preset", "digits", "--load_path", arch, "--nepochs", str(options.nepochs), *options.words]
                seconds, accuracy = run([*common, "--seed", str(seed), *words])
                epoch = max(1, len(seconds) // options.nepochs)
                times[name] += seconds[epoch:] or seconds
                accuracies[name].append(accuracy)

    result = {"versions": versions(), "device": device_name(), "seeds": seeds, "nepochs": options.nepochs, "rows": []}
    base = None
    for name in rows:
        step_ms = 1e3 * statistics.median(times[name])
        base = base or step_ms
        mean = {bits: statistics.mean(a[bits] for a in accuracies[name]) for bits in accuracies[name][0]}
        spread = {
            bits: max(a[bits] for a in accuracies[name]) - min(a[bits] for a in accuracies[name]) for bits in mean
        }
        row = {"setting": name, "step_ms": step_ms, "against_first": step_ms / base, "accuracy": mean, "spread": spread}
        result["rows"].append(row)
    print(f"\n{device_name()}, torch {torch.__version__}, {options.nepochs} epochs, seeds {options.seeds}")
    print(f"{'setting':<26} {'step':>9} {'ratio':>6}  accuracy % (spread over the seeds)")
    for row in result["rows"]:
        figures = "  ".join(
            f"{bits}b {row['accuracy'][bits]:.2f} ({row['spread'][bits]:.2f})" for bits in row["accuracy"]
        )
        print(f"{row['setting']:<26} {row['step_ms']:6.1f} ms {row['against_first']:6.2f}  {figures}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    main()
