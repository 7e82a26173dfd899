"""Stage 3, AutoMapper: a mapping onto the device for every layer and bit-width of a network -> report.json

CHECKPOINT: weights.pt of train.py or arch.pt of train_search.py, or the folder that holds one. Settings: config_map.py.
"""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from automapper.objective import parse_objective
from automapper.report import build_report, output_folder, write_report
from automapper.search import NoMapping, search
from automapper.terminal import summary
from automapper.workload import Network, distinct_problems
from hw_model import InputError, load_device
from runtime.errors import UserError, exit_status
from runtime.settings import from_command_line
from runtime.stages import MapSettings


def main(argv: Sequence[str] | None = None) -> None:
    try:
        run(with_checkpoint_setting(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        raise UserError(str(error)) from error


def run(argv: Sequence[str]) -> None:
    from config_map import PRESETS  # here, so that a wrong value in the file is one line of error too
    from config_map import C as defaults

    C = from_command_line(defaults, PRESETS, argv, __doc__)
    objective = parse_objective(C.objective)
    device = load_device(C.device)
    from automapper.layers import load_network  # here: torch takes seconds to load, --help and mistakes need not wait

    network = load_network(C.checkpoint, C.batch)
    bit_widths = chosen_bits(C, network)
    problems = distinct_problems(network, bit_widths)
    folder = output_folder(C.save)
    print(
        f"map {network.name} onto {device.name} ({device.description})\n"
        f"{len(network.layers)} layers, {network.macs / 1e6:.2f} M multiply-accumulates, at {list(bit_widths)} bit: "
        f"{len(problems)} different searches"
    )

    begin = time.perf_counter()
    with tqdm(total=C.budget * len(problems), unit=" mappings", unit_scale=True, disable=None, leave=False) as bar:
        try:
            found, mappings = search(problems, device, objective, C.budget, C.seed, bar.update)
        except NoMapping as error:
            raise UserError(f"layer {network.name_of(error.problem)} at {error.problem.bits} bit: {error}") from error
    seconds = time.perf_counter() - begin
    statistics = {
        "mappings": mappings,
        "seconds": seconds,
        "mappings_per_second": mappings / seconds,
        "seed": C.seed,
    }
    report = build_report(network, device, objective.name, bit_widths, found, statistics, C.to_dict())
    path = write_report(folder, report)
    print(f"{mappings:,} mappings tried in {seconds:.1f} s\n\n{summary(report)}\n\nwrote {path}")


def with_checkpoint_setting(argv: Sequence[str]) -> list[str]:
    """The words of the command line with `CHECKPOINT` turned into `--checkpoint CHECKPOINT`."""
    words = list(argv)
    position = 0
    free = []
    while position < len(words):
        if words[position].startswith("--"):
            position += 1 if "=" in words[position] or words[position] == "--help" else 2
        elif words[position] == "-h":
            position += 1
        else:
            free.append(words.pop(position))
    if len(free) > 1:
        raise UserError(f"one checkpoint at a time: got {free[0]!r} and {free[1]!r}")
    return ["--checkpoint", *free, *words] if free else words


def chosen_bits(C: MapSettings, network: Network) -> tuple[int, ...]:
    """The bit-widths to map, lowest first: those of the setting `bits`, else all of the network's."""
    missing = [bits for bits in C.bits if bits not in network.bit_widths]
    if missing:
        raise UserError(f"setting bits: {network.name} has no bit-width {missing[0]}, only {list(network.bit_widths)}")
    return tuple(sorted(set(C.bits))) or network.bit_widths


if __name__ == "__main__":
    sys.argv[0] = "python -m automapper [CHECKPOINT]"  # what --help shows after "usage:"
    sys.exit(exit_status(main))
