"""Stage 3, AutoMapper: a mapping onto the device for every layer and bit-width of a network -> report.json

NETWORK: weights.pt of train.py or arch.pt of train_search.py, or the folder that holds one; or a .yaml list of layers.
`--network torchvision:resnet18` maps a network of others instead.
Settings: config_map.py. The same from Python: automapper.map_network.
"""

from instantnet.engine import loading

if __name__ == "__main__":
    loading.interruptible()

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from automapper import api, device_grid, device_sweep, networks
from automapper.budget import parse_budget
from automapper.engines import check_engine
from automapper.folder import result_folder, write_outputs
from automapper.interrupt import interrupt_held_back, sigterm_interrupts
from automapper.objective import parse_objective
from automapper.workload import Network, distinct_problems, listed
from hw_model import Device, InputError, load_device
from hw_model.widths import Bits, in_words
from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.user_code import names_a_function
from instantnet.engine.version import version_line
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import from_command_line
from instantnet.settings.stages import MapSettings


def main(argv: Sequence[str] | None = None) -> None:
    try:
        run(with_network_setting(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        raise UserError(str(error)) from error


def run(argv: Sequence[str]) -> None:
    C = from_command_line(*configuration(MapSettings), argv, __doc__)
    check_engine(C.engine)  # mistakes first, because networks take seconds to load
    parse_objective(C.objective, C.delay), parse_budget(C.budget)
    if C.sweep is not None:
        return sweep_and_write(C, device_grid.read_grid(C.sweep))
    device = load_device(C.device)
    network = read_network(C)
    bit_widths = networks.chosen_bits(C.bits, network)
    with result_folder(C.save, f"setting save = {C.save!r}") as folder, sigterm_interrupts():
        search_and_write(C, network, device, bit_widths, folder)


def search_and_write(
    C: MapSettings, network: Network, device: Device, bit_widths: Sequence[Bits], folder: Path
) -> None:
    """Search, say what was found, and replace the result in the folder."""
    place = device.name if C.device == device.name else f"{device.name} of {C.device}"
    print(
        f"{version_line()}\n"
        f"map {network.name} onto {place} ({device.description})\n"
        f"{len(network.layers)} layers, {network.macs / 1e6:.2f} M multiply-accumulates, at {list(bit_widths)} bit: "
        f"{len(distinct_problems(network, bit_widths))} different searches",
        flush=True,
    )
    report = api.run(network, device, C.to_dict() | {"resume": str(folder) if C.resume is True else C.resume}, Bar())
    content = report.to_dict()
    with interrupt_held_back():
        write_outputs(folder, content, device, report.state)
    search = content["search"]
    missed = "" if C.goal is None else ", goal not met"
    ended = (
        "interrupted, best so far"
        if search["interrupted"]
        else "goal met"
        if search["goal_met"]
        else f"budget used{missed}"
    )
    if line := proven(content):
        print(line)
    print(
        f"{search['mappings']:,} mappings tried in {search['seconds']:.1f} s ({ended})\n\n{report}\n\n"
        f"wrote {folder}/report.json, report.html (open it in a browser) and mappings/"
    )


def sweep_and_write(C: MapSettings, grid: Sequence[device_grid.GridDevice]) -> None:
    """Map on every device of a grid, say which no other one beats, and write sweep.json and sweep.html."""
    network = read_network(C)
    bit_widths = networks.chosen_bits(C.bits, network)
    budget = C.budget if "budget" in C.given else device_sweep.BUDGET
    with result_folder(C.save, f"setting save = {C.save!r}") as folder, sigterm_interrupts():
        print(
            f"{version_line()}\n"
            f"map {network.name} onto {len(grid)} devices of {C.sweep}\n"
            f"{len(network.layers)} layers at {list(bit_widths)} bit: on each device "
            f"{len(distinct_problems(network, bit_widths))} searches of {budget} mappings",
            flush=True,
        )
        with tqdm(total=len(grid), disable=None, leave=False, unit="device") as bar:
            found = device_sweep.sweep_devices(
                network, grid, bit_widths, C.to_dict() | {"budget": budget}, lambda done: bar.update(done - bar.n)
            )
        with interrupt_held_back():
            device_sweep.write_sweep(folder, found)
        ended = f" (interrupted, {len(found['devices'])} of {found['of']} devices)" if found["interrupted"] else ""
        print(f"{found['seconds']:.1f} s{ended}\n\n{device_sweep.summary(found)}")
        print(f"\nwrote {folder}/sweep.json and sweep.html (open it in a browser)")


class Bar(api.Progress):
    """A progress bar with the best so far."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def searched(self, share: float, edp_js: Mapping[Bits, float]) -> None:
        bar = self._open()
        bar.n = round(100 * share)
        bar.set_postfix_str("best EDP (J*s) " + "  ".join(f"{bits}b {edp:.3e}" for bits, edp in edp_js.items()))

    def proved(self, done: int, of: int) -> None:
        bar = self._open()
        bar.reset(total=of)
        bar.n = done
        bar.set_postfix_str(f"{done} of {of} searches walked through")

    def fused(self, done: int, of: int) -> None:
        bar = self._open()
        bar.total, bar.n = of, done
        bar.set_postfix_str(f"layers fused at {done} of {of} bit-widths")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def _open(self) -> tqdm:
        if self.bar is None:
            layout = "{percentage:3.0f}%|{bar:24}| {remaining} left{postfix}"
            self.bar = tqdm(total=100, disable=None, leave=False, bar_format=layout)
        return self.bar


def proven(report: Mapping[str, Any]) -> str:
    """What the exhaustive engine has proven, as one line; "" for another engine."""
    covered, open_gaps, seen = 0, [], []
    for layer in (layer for row in report["bit_widths"] for layer in row["layers"] if "exhaustive" in layer):
        if (problem := (layer["dims"], layer["bits"])) in seen:
            continue
        seen.append(problem)
        covered += layer["exhaustive"]["mappings_covered"]
        if not layer["exhaustive"]["complete"]:
            open_gaps.append((layer["bound"]["gap"], f"{layer['name']} ({in_words(layer['bits'])})"))
    if not seen:
        return ""
    line = f"exhaustive: {len(seen) - len(open_gaps)} of {len(seen)} mappings are proven optima; {covered:.3e} covered"
    if not open_gaps:
        return line
    gaps = [f"{name} {gap:.1%}" for gap, name in sorted(open_gaps, reverse=True)]
    return f"{line}; the others can be improved by at most {listed(gaps)}"


def read_network(C: MapSettings) -> Network:
    """The network that the settings `network` or `checkpoint` name."""
    code = C.network if C.network is not None and names_a_function(C.network) else None
    if C.network is not None and "checkpoint" in C.given and code is None:
        raise UserError(f"settings checkpoint = {C.checkpoint!r} and network = {C.network!r}: give one of them")
    if C.network is not None and C.network.endswith(networks.YAML):
        return networks.read_network(C.network, C.batch)
    from automapper import layers  # imported here: torch takes seconds to load, and --help and mistakes need none of it

    if C.network is None or (code and "checkpoint" in C.given):
        return layers.load_network(C.checkpoint, C.batch, code)
    return layers.load_named(C.network, C.batch)


def with_network_setting(argv: Sequence[str]) -> list[str]:
    """The words of the command line, with `CHECKPOINT` as `--checkpoint CHECKPOINT` and `LAYERS.yaml` as `--network
    LAYERS.yaml`."""
    words = list(argv)
    types = {f"--{name}": setting.type for name, setting in MapSettings.legal_settings().items()}
    switches = {name for name, kind in types.items() if kind is bool}
    optional = {name for name, kind in types.items() if bool in get_args(kind)}  # with a value or without
    position = 0
    free = []
    while position < len(words):
        if words[position] in switches:  # which need no value
            position += 2 if words[position + 1 : position + 2] in (["true"], ["false"]) else 1
        elif words[position] in optional:
            position += 1 if words[position + 1 : position + 2] == [] or words[position + 1].startswith("-") else 2
        elif words[position].startswith("--"):
            position += 1 if "=" in words[position] or words[position] == "--help" else 2
        elif words[position] == "-h":
            position += 1
        else:
            free.append(words.pop(position))
    if len(free) > 1:
        raise UserError(f"one checkpoint at a time: got {free[0]!r} and {free[1]!r}")
    if not free:
        return words
    option = "--network" if free[0].endswith(networks.YAML) else "--checkpoint"
    if any(word == option or word.startswith(f"{option}=") for word in words):
        raise UserError(f"{free[0]!r} and {option}: give one of them")
    return [option, *free, *words]


if __name__ == "__main__":
    sys.argv[0] = "python -m automapper [NETWORK]"  # what --help shows after "usage:"
    sys.exit(exit_status(main))
