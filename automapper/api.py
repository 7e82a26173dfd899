"""AutoMapper from Python: `map_network` searches; the `Report` it returns prints, converts and writes the result.

report = automapper.map_network("resnet18", "eyeriss", bits=[4, 8])
print(report)
report.write("ckpt/map")
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automapper.baselines import Baselines, check_fit, chosen_baselines
from automapper.budget import Clock, parse_budget, schedule
from automapper.engines import Engine, check_engine
from automapper.fixed import add_fixed, fixed_problems
from automapper.folder import result_folder, write_outputs
from automapper.fusion.fuse import fuse_network, fused_report
from automapper.fusion.groups import Grouping
from automapper.fusion.plan import Effort
from automapper.interrupt import interrupt_held_back
from automapper.networks import chosen_bits, read_network
from automapper.objective import Objective, parse_objective
from automapper.parallel import WorkerLost
from automapper.pareto import Limits, NetworkFront, layer_fronts, network_front
from automapper.pipelines import Pipelines
from automapper.published import add_published
from automapper.report import build_report
from automapper.saved_search import State, read_state, resume
from automapper.search import NoMapping, Outcome, load_kernels, run_search
from automapper.terminal import summary
from automapper.trade import trade_layers
from automapper.warm_start import begin_with, read_mappings
from automapper.watch import Progress, Watch
from automapper.workload import Network, distinct_problems
from hw_model import Device, Layer, load_device
from hw_model.widths import Bits, in_words
from instantnet.engine.errors import UserError
from instantnet.settings.stages import MapSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


class Report:
    """What a search found: `print(report)` shows the table, `to_dict()` is report.json, `write(folder)` all files."""

    def __init__(self, content: Mapping[str, Any], device: Device, state: State | None = None):
        self._content = json.loads(json.dumps(content))  # as read back from the file: keys are text
        self._device = device
        self.state = state or {}  # of the searches: `resume` continues them

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json; see docs/automapper.md."""
        return copy.deepcopy(self._content)

    def summary(self) -> str:
        """The table that the command prints: energy, latency, EDP and gains per bit-width."""
        return summary(self._content)

    def write(self, folder: str | os.PathLike) -> None:
        """Write report.json, report.html, mappings/ and search.safetensors into `folder`, which is created if needed.

        A result that is there already is replaced as a whole. Raises UserError where nothing can be written, or where
        another process has the folder.
        """
        with result_folder(Path(folder), f"folder {os.fspath(folder)!r}") as place:
            write_outputs(place, self._content, self._device, self.state)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        bits = [row["bits"] for row in self._content["bit_widths"]]
        return f"<Report: {self._content['network']} on {self._device.name} at {bits}>"


def map_network(
    network: str | os.PathLike | Sequence[Layer] | Network | nn.Module,
    device: str | os.PathLike | Mapping[str, Any] | Device,
    bits: Bits | Sequence[Bits] | None = None,
    *,
    example: Tensor | Sequence[Any] | None = None,
    batch: int = MapSettings.batch,
    objective: str = MapSettings.objective,
    budget: int | str = MapSettings.budget,
    seed: int = MapSettings.seed,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Search a mapping onto `device` for every layer and bit-width of `network`.

    Args:
        network: a torch module (with `example`); the path of a checkpoint, weights.pt or arch.pt, or of its folder; the
            path of a .yaml list of layers; the name of a torchvision classification model, "timm:NAME" or
            "path/to/file.py:function"; or hw_model layers.
        device: a device's name, the path of its file, or the file's content.
        bits: one bit-width or several, 1 to 32 or "w4a8" (weights, activations); None: all of the network, else 4, 8,
            12, 16 and 32.
        example: the input of a module, a tensor [N, C, H, W] or a sequence of positional arguments. It may be on the
            device "meta", with the module: nothing is computed then.
        batch: images per inference; multiplies N where the network is a list of layers. Not for a module: N is that of
            `example`.
        objective: "edp", "energy", "latency", or weights as in "energy=1,latency=2".
        budget: mappings per layer, bit-width and dataflow, or seconds in all as text: "30s".
        progress: its methods are called as the search runs.
        settings: any other setting of the command by its name, with its default: delay, engine, stages, goal,
            resume (folder or file of the searches to go on with), baselines (names to show), dataflow (files of more of
            them), within (a name or a file that constrains AutoMapper itself), fixed_at, fuse, workers, backend;
            see `python -m automapper --help`.

    Raises:
        UserError: a setting that is not legal, a network that cannot be mapped, or no valid mapping of a layer.
        hw_model.InputError: `device` is no device, or a layer no layer.
    """
    widths = [bits] if isinstance(bits, int | str) else list(bits or ())
    if unknown := [name for name in settings if name in ("checkpoint", "network", "save", "device")]:
        raise UserError(f"setting {unknown[0]}: not a keyword of map_network; use its arguments or Report.write")
    given = {name: value for name, value in settings.items() if value is not None}  # None: the default
    C = MapSettings().replaced(
        checkpoint="", network=None, save="", device="", bits=widths, batch=batch, objective=objective,
        budget=str(budget), seed=seed, **given,
    )  # fmt: skip
    check_engine(C.engine)  # mistakes first: torch takes seconds to load
    parse_objective(C.objective, C.delay)
    parse_budget(C.budget)
    built = load_device(device)
    read = read_network(network, C.batch, example)
    place = "checkpoint" if read.bit_widths and isinstance(network, str | os.PathLike) else "network"
    return run(read, built, C.to_dict() | {place: read.name, "device": _source(device, built)}, progress)


def _source(given: Any, device: Device) -> Any:
    """The device in a form that hw_model loads again: a name, a path, or a file's content."""
    if not isinstance(given, Device):
        return given if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else os.fspath(given)
    try:
        same = load_device(given.name) == given
    except ValueError:
        same = False
    if not same:
        raise UserError(f"device {given.name}: not one that comes with hw_model; give the path or content of its file")
    return given.name


def run(network: Network, device: Device, settings: Mapping[str, Any], progress: Progress | None = None) -> Report:
    """Map `network` with `settings`, those of MapSettings by name; they become part of the report.

    Ctrl-C ends the search; the report then holds the best so far. Raises UserError as `map_network` does.
    """
    objective = parse_objective(settings["objective"], settings["delay"])
    budget = parse_budget(settings["budget"])
    engine, seed = settings["engine"], settings["seed"]
    parallel = settings["workers"], settings["backend"]
    bit_widths = chosen_bits(settings["bits"], network)
    problems = distinct_problems(network, bit_widths)
    baselines = _baselines(network, device, settings, bit_widths)
    known = read_mappings(settings["warm_start"]) if settings["warm_start"] else {}
    saved = read_state(settings["resume"]) if settings["resume"] else {}
    limits = Limits(settings["max_latency"], settings["max_energy"])
    fronting = bool(settings["pareto"] or limits)
    fusing = settings["fuse"] != "off" and not limits
    may_fuse = fusing and Grouping(network, device, settings["fuse"]).may_fuse
    ends = schedule(engine != "random", fronting, may_fuse)
    searching = budget.without(1 - ends.searched)
    progress = progress or Progress()

    with interrupt_held_back() as early:
        pipelines = Pipelines(
            network, bit_widths, device, objective, 1 if limits else settings["stages"], seed, *parallel,
            engine == "random", baselines.own,
        )  # fmt: skip
        pipelines.limit_local_search(searching.local_s)
        load_kernels(device)
    begun, resumed = 0, 0

    def prepare(units: Sequence[Engine]) -> None:
        nonlocal begun, resumed
        begun = begin_with(units, known)
        resumed = resume(units, saved, settings["resume"]) if saved else 0

    watch = Watch(network, bit_widths, objective, settings["goal"], pipelines, progress)
    clock = Clock(budget.seconds)
    try:
        outcome = run_search(
            problems, device, objective, searching, seed, engine, *parallel, watch.after_round, progress.proved,
            bool(early), baselines, fixed_problems(network, bit_widths, baselines.fixed_at), prepare,
        )  # fmt: skip
    except NoMapping as error:
        raise UserError(
            f"layer {network.name_of(error.problem)} at {in_words(error.problem.bits)}: no valid mapping on device "
            f"{settings['device']} found; closest miss: {'; '.join(error.reasons)}"
        ) from error
    finally:
        progress.close()
    add_published(outcome, problems, device, objective)
    add_fixed(outcome, network, bit_widths, device)
    with interrupt_held_back() as came:
        trade_layers(
            network, bit_widths, outcome, device, objective, seed, *parallel, engine != "random",
            lambda: clock.until(ends.traded),
        )  # fmt: skip
    outcome.interrupted |= bool(came)
    fronts: dict[Bits, NetworkFront] = {}
    mappings_for_fronts = 0
    if fronting:
        seconds = clock.until(ends.fronted)
        fronts, mappings_for_fronts = _fronts(network, bit_widths, outcome, device, settings, seconds)
    if limits:
        outcome.chosen = {bits: limits.choice(front, objective) for bits, front in fronts.items()}
    begin_fusing = time.perf_counter()
    wanted = fusing and not outcome.interrupted
    fused = _fused(network, bit_widths, outcome, device, objective, settings, clock, progress) if wanted else {}
    statistics = {
        "engine": engine,
        "mappings": watch.mappings,
        "warm_starts": begun,
        "resumed": resumed,
        "mappings_for_pipelines": pipelines.evaluated,
        "mappings_for_fronts": mappings_for_fronts,
        "seconds_for_groups": time.perf_counter() - begin_fusing,
        "seconds": watch.seconds,
        "mappings_per_second": watch.mappings / watch.seconds,
        "seed": seed,
        "interrupted": outcome.interrupted,
        "goal_met": outcome.goal_met,
        "convergence": watch.history,
    }
    with interrupt_held_back():
        content = build_report(
            network, device, objective, bit_widths, outcome, pipelines, statistics, settings, fronts, fused
        )
        return Report(content, device, watch.state)


def _fronts(
    network: Network,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    settings: Mapping[str, Any],
    seconds: float,
) -> tuple[dict[Bits, NetworkFront], int]:
    """(the network's front at every bit-width, mappings tried)."""
    seed, workers, backend = settings["seed"], settings["workers"], settings["backend"]
    of_layers, tried = layer_fronts(
        network, bit_widths, outcome, device, seed, workers, backend, settings["engine"] == "random", seconds
    )
    return {bits: network_front(network, bits, of_layers) for bits in bit_widths}, tried


def _fused(
    network: Network,
    bit_widths: Sequence[Bits],
    outcome: Outcome,
    device: Device,
    objective: Objective,
    settings: Mapping[str, Any],
    clock: Clock,
    progress: Progress,
) -> dict[Bits, dict[str, Any]]:
    """`fused` of report.json by bit-width; none after Ctrl-C."""
    mappings = parse_budget(settings["budget"]).mappings or outcome.per_search
    effort = Effort(
        mappings, settings["seed"], settings["workers"], settings["backend"], settings["engine"] == "random",
        clock.until(),
    )  # fmt: skip
    try:
        planner, found = fuse_network(
            network, bit_widths, outcome, device, objective, settings["fuse"], effort, show=progress.fused
        )
    except KeyboardInterrupt:
        outcome.interrupted = True
        return {}
    except WorkerLost as error:
        print(f"note: {error}; nothing is fused", file=sys.stderr)
        return {}
    finally:
        progress.close()
    return {bits: fused_report(planner, one, network) for bits, one in found.items()}


def _baselines(network: Network, device: Device, settings: Mapping[str, Any], bit_widths: Sequence[Bits]) -> Baselines:
    """The baselines that the settings name. Raises UserError where one does not exist or does not fit."""
    chosen = chosen_baselines(
        settings["baselines"], settings["dataflow"], settings["within"], settings["fixed_at"], bit_widths
    )
    check_fit(chosen, network, bit_widths, device)
    if chosen.own and settings["engine"] == "exhaustive":
        raise UserError("setting within: not with engine = 'exhaustive', which covers the whole space")
    return chosen
