"""What running only some candidates changes: python benchmarks/sampled_paths.py [--seeds 1,2,3] [--json FILE]

For each value of `sample_paths` (0 = all candidates run, the paper's method) and each seed: a search on the handwritten
digits, then the training of the network it found, both with their presets. Time: processor seconds of the search, its
validation included; the values are interleaved seed by seed. Accuracy: of weights.pt, recalibrated. Same layers: the
number of operations equal to those that the search with all candidates found with the same seed. The last line has the
same number for two searches with all candidates that differ only in the seed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instantnet import train, train_search
from instantnet.engine.checkpoint import load_checkpoint
from instantnet.engine.machine import versions

PATHS = (0, 2, 1)


def found_and_trained(paths: int, seed: int, words: list[str], search_epochs: int, train_epochs: int) -> dict:
    """One search and one training: {"sample_paths", "seed", "search_cpu_s", "ops", "flops", "accuracy"}; epochs 0 = the
    preset's."""
    common = ["--preset", "digits", "--seed", str(seed), *words]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        search = [*common, "--sample_paths", str(paths), "--save", f"{folder}/search"]
        train_search.main([*search, *(["--nepochs", str(search_epochs)] if search_epochs else [])])
        seconds = time.process_time() - begin
        training = [*common, "--load_path", f"{folder}/search", "--save", f"{folder}/train"]
        train.main([*training, *(["--nepochs", str(train_epochs)] if train_epochs else [])])
        arch = load_checkpoint(Path(folder, "search", "arch.pt"), ["ops", "flops"], "arch.pt")
        weights = load_checkpoint(Path(folder, "train", "weights.pt"), ["accuracy"], "weights.pt")
    row = {"sample_paths": paths, "seed": seed, "search_cpu_s": seconds, "ops": arch["ops"], "flops": arch["flops"]}
    return row | {"accuracy": weights["accuracy"]}


def same_layers(first: dict, second: dict) -> int:
    """Layers for which both searches found the same operation."""
    return sum(a == b for a, b in zip(first["ops"], second["ops"], strict=True))


def table(rows: list[dict]) -> list[str]:
    """Lines of the table: one for each search, then the means of each `sample_paths`."""
    all_paths = {row["seed"]: row for row in rows if row["sample_paths"] == 0}
    bit_widths = list(rows[0]["accuracy"])
    head = "| sample_paths | seed | search, CPU s | MFLOPs | same layers | operations |"
    lines = [f"{head} {' | '.join(f'{bits} bit' for bits in bit_widths)} |", "|---" * (6 + len(bit_widths)) + "|"]
    for row in rows:
        same = f"{same_layers(row, all_paths[row['seed']])} of {len(row['ops'])}" if row["sample_paths"] else "-"
        figures = f"{row['search_cpu_s']:.1f} | {row['flops'] / 1e6:.2f} | {same} | `{' '.join(row['ops'])}`"
        accuracy = " | ".join(f"{row['accuracy'][bits]:.2f}" for bits in bit_widths)
        lines.append(f"| {row['sample_paths']} | {row['seed']} | {figures} | {accuracy} |")
    for paths in PATHS:
        own = [row for row in rows if row["sample_paths"] == paths]
        seconds, flops = (statistics.mean(row[name] for row in own) for name in ("search_cpu_s", "flops"))
        same = statistics.mean(same_layers(row, all_paths[row["seed"]]) for row in own)
        accuracy = " | ".join(f"{statistics.mean(row['accuracy'][bits] for row in own):.2f}" for bits in bit_widths)
        agreement = f"{same:.1f}" if paths else "-"
        lines.append(f"| {paths} | mean | {seconds:.1f} | {flops / 1e6:.2f} | {agreement} | | {accuracy} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--search_epochs", type=int, default=0, help="0 = the preset's")
    parser.add_argument("--train_epochs", type=int, default=0, help="0 = the preset's")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("words", nargs="*", help="after --: further settings of both stages")
    options = parser.parse_args()
    lengths = options.search_epochs, options.train_epochs
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows = [found_and_trained(paths, seed, options.words, *lengths) for seed in seeds for paths in PATHS]
    rows.sort(key=lambda row: (PATHS.index(row["sample_paths"]), row["seed"]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"\n{device}, " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    print("\n".join(table(rows)))
    everything = [row for row in rows if row["sample_paths"] == 0]
    pairs = [same_layers(*pair) for pair in combinations(everything, 2)]
    agreement = statistics.mean(pairs) if pairs else None
    if pairs:
        print(f"two seeds with all candidates agree in {agreement:.1f} of {len(rows[0]['ops'])} layers")
    if options.json:
        result = {"versions": versions(), "device": device, "rows": rows, "seeds_agree_in_layers": agreement}
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
