"""Stage 3, AutoMapper: a mapping onto the device for every layer and bit-width of a network -> report.json

CHECKPOINT: weights.pt of train.py or arch.pt of train_search.py, or the folder that holds one. Settings: config_map.py.
"""

import math
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from automapper.baselines import check_fit, chosen_baselines
from automapper.budget import parse_budget
from automapper.exhaustive import NODE_LIMIT, TooLarge, check_size
from automapper.fixed import add_fixed, fixed_problems
from automapper.folder import write_outputs
from automapper.interrupt import interrupt_held_back
from automapper.layer_list import read_layers
from automapper.objective import Objective, parse_objective
from automapper.pipelines import Pipelines
from automapper.published import add_published
from automapper.report import build_report
from automapper.result import found_of, network_cost, value_of
from automapper.search import NoMapping, Outcome, load_compiled, run_search
from automapper.terminal import summary
from automapper.trade import trade_layers
from automapper.workload import Network, Problem, distinct_problems, listed
from hw_model import Device, InputError, load_device
from runtime.errors import UserError, exit_status
from runtime.folders import writable_folder
from runtime.settings import from_command_line
from runtime.stages import MapSettings

PIPELINE_SHARE = 0.2  # of a search's mappings go to each size of a pipeline's stage
BIT_WIDTHS = (4, 8, 12, 16, 32)  # where neither the input nor the setting names any: the paper's


def main(argv: Sequence[str] | None = None) -> None:
    try:
        run(with_checkpoint_setting(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        raise UserError(str(error)) from error


def run(argv: Sequence[str]) -> None:
    from config_map import PRESETS  # here, so that a wrong value in the file is one line of error too
    from config_map import C as defaults

    C = from_command_line(defaults, PRESETS, argv, __doc__)
    objective, budget = parse_objective(C.objective, C.delay), parse_budget(C.budget)
    device = load_device(C.device)
    network = read_network(C)
    bit_widths = chosen_bits(C, network)
    baselines = chosen_baselines(C.baselines, C.dataflow, C.within, C.fixed_at, bit_widths)
    check_fit(baselines, network, bit_widths, device)
    if baselines.own and C.engine == "exhaustive":
        raise UserError("setting within: not with engine = 'exhaustive', which covers the whole space")
    problems = distinct_problems(network, bit_widths)
    folder = writable_folder(C.save, f"setting save = {C.save!r}")
    place = device.name if C.device == device.name else f"{device.name} of {C.device}"
    print(
        f"map {network.name} onto {place} ({device.description})\n"
        f"{len(network.layers)} layers, {network.macs / 1e6:.2f} M multiply-accumulates, at {list(bit_widths)} bit: "
        f"{len(problems)} different searches",
        flush=True,
    )

    if C.engine == "exhaustive":
        refuse_large(network, problems, device, objective, C.seed)
    with interrupt_held_back() as early:
        pipelines = Pipelines(
            network, bit_widths, device, objective, C.stages, C.seed, C.workers, C.backend, C.engine == "random",
            baselines.own,
        )  # fmt: skip
        load_compiled(device)
    watch = Watch(network, bit_widths, objective, C.goal, pipelines)
    try:
        outcome = run_search(
            problems, device, objective, budget, C.seed, C.engine, C.workers, C.backend, watch.after_round,
            watch.after_proof, bool(early), baselines, fixed_problems(network, bit_widths, baselines.fixed_at),
        )  # fmt: skip
    except NoMapping as error:
        raise UserError(
            f"layer {network.name_of(error.problem)} at {error.problem.bits} bit: no valid mapping on device "
            f"{C.device} found; closest miss: {'; '.join(error.reasons)}"
        ) from error
    finally:
        watch.close()
    add_published(outcome, problems, device, objective)
    add_fixed(outcome, network, bit_widths, device)
    with interrupt_held_back() as came:
        trade_layers(
            network, bit_widths, outcome, device, objective, C.seed, C.workers, C.backend, C.engine != "random"
        )
    outcome.interrupted |= bool(came)
    statistics = {
        "engine": C.engine,
        "mappings": watch.mappings,
        "mappings_for_pipelines": pipelines.evaluated,
        "seconds": watch.seconds,
        "mappings_per_second": watch.mappings / watch.seconds,
        "seed": C.seed,
        "interrupted": outcome.interrupted,
        "goal_met": outcome.goal_met,
        "convergence": watch.history,
    }
    with interrupt_held_back():
        report = build_report(network, device, objective, bit_widths, outcome, pipelines, statistics, C.to_dict())
        write_outputs(folder, report, device)
    missed = "" if C.goal is None else ", goal not met"
    ended = (
        "interrupted, best so far"
        if outcome.interrupted
        else "goal met"
        if outcome.goal_met
        else f"budget used{missed}"
    )
    if outcome.optima:
        print(proven(network, outcome))
    print(
        f"{watch.mappings:,} mappings tried in {watch.seconds:.1f} s ({ended})\n\n{summary(report)}\n\n"
        f"wrote {folder}/report.json, report.html (open it in a browser) and mappings/"
    )


class Watch:
    """Follows a search round by round: pipelines keep pace with it, progress bar with the best so far, convergence, and
    the goal."""

    def __init__(
        self,
        network: Network,
        bit_widths: Sequence[int],
        objective: Objective,
        goal: float | None,
        pipelines: Pipelines,
    ):
        self.network, self.bit_widths, self.objective, self.goal = network, bit_widths, objective, goal
        self.pipelines = pipelines
        self.mappings, self.seconds, self.begin = 0, 0.0, time.perf_counter()
        self.history: list[dict] = []
        self.bar = tqdm(
            total=100, disable=None, leave=False, bar_format="{percentage:3.0f}%|{bar:24}| {remaining} left{postfix}"
        )

    def after_round(self, outcome: Outcome, share: float) -> bool:
        """True when the result at every bit-width, pipelines included, has met the goal."""
        if not outcome.interrupted:
            try:
                self.pipelines.advance(max(1, int(PIPELINE_SHARE * outcome.per_search)), share)
            except KeyboardInterrupt:
                outcome.interrupted = True
        self.mappings = outcome.mappings + self.pipelines.evaluated
        self.seconds = time.perf_counter() - self.begin
        costs = {bits: network_cost(self.network, bits, outcome) for bits in self.bit_widths}
        if not all(costs.values()):
            return False
        edp_js = {bits: cost.edp_js for bits, cost in costs.items()}
        values = {bits: value_of(self.objective, cost) for bits, cost in costs.items()}
        layers = {bits: self._mean_layer(outcome, bits) for bits in self.bit_widths}
        self.history.append(
            {"mappings": self.mappings, "seconds": self.seconds, "edp_js": edp_js, "objective_value": values,
             "mean_layer_value": layers}
        )  # fmt: skip
        self.bar.n = round(100 * share)
        self.bar.set_postfix_str("best EDP (J*s) " + "  ".join(f"{bits}b {edp:.3e}" for bits, edp in edp_js.items()))
        return self.goal is not None and all(
            value <= self.goal or self._pipeline_value(bits) <= self.goal for bits, value in values.items()
        )

    def _mean_layer(self, outcome: Outcome, bits: int) -> float:
        """Geometric mean over the layers of what each minimises; it never rises, as the network's sums may."""
        costs = [found.cost for found in found_of(self.network, bits, outcome)]
        logs = [math.log(self.objective.value(cost.energy_j, cost.latency_s)) for cost in costs]
        return math.exp(sum(logs) / len(logs))

    def after_proof(self, done: int, of: int) -> None:
        """Show how many searches the exhaustive engine has finished."""
        self.bar.reset(total=of)
        self.bar.n = done
        self.bar.set_postfix_str(f"{done} of {of} searches walked through")

    def _pipeline_value(self, bits: int) -> float:
        pipeline = self.pipelines.best(bits)
        return value_of(self.objective, pipeline.cost) if pipeline else math.inf

    def close(self) -> None:
        self.bar.close()


def refuse_large(
    network: Network, problems: Sequence[Problem], device: Device, objective: Objective, seed: int
) -> None:
    """Raise UserError naming the layers that are too large for the exhaustive engine."""
    sized = tqdm(problems, "sizes", disable=None, leave=False)
    try:
        check_size(sized, device, objective, seed)
    except TooLarge as error:
        names = list(dict.fromkeys(network.name_of(problem) for problem in error.problems))
        most = max(error.problems.values())
        these = f"layer {names[0]} is" if len(names) == 1 else f"layers {listed(names, 10)} are"
        raise UserError(
            f"{these} too large for the exhaustive engine: about {most:.0e} steps, and "
            f"{NODE_LIMIT:.0e} take a minute; use --engine evolution, or a list of the layers that are small enough"
        ) from error
    finally:
        sized.close()


def proven(network: Network, outcome: Outcome) -> str:
    """What the exhaustive engine has shown, one line."""
    covered = sum(optimum.covered for optimum in outcome.optima.values() if optimum.complete)
    cut = [f"{network.name_of(p)} ({p.bits} bit)" for p, optimum in outcome.optima.items() if not optimum.complete]
    if not cut:
        return f"exhaustive: every mapping is the optimum of its layer; {covered:.3e} mappings covered"
    return (
        f"exhaustive: every mapping is the optimum of its layer, {covered:.3e} mappings covered, but those of "
        f"{listed(cut)}: given up after {NODE_LIMIT:.0e} steps, the best so far"
    )


def read_network(C: MapSettings) -> Network:
    """What the settings `network` or `checkpoint` name."""
    if C.network is not None and "checkpoint" in C.given:
        raise UserError(f"settings checkpoint = {C.checkpoint!r} and network = {C.network!r}: give one of them")
    if C.network is not None and C.network.endswith((".yaml", ".yml")):
        return read_layers(C.network, C.batch)
    from automapper import layers  # here: torch takes seconds to load, --help and mistakes need not wait

    return (
        layers.load_network(C.checkpoint, C.batch) if C.network is None else layers.load_torchvision(C.network, C.batch)
    )


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
    missing = [bits for bits in C.bits if network.bit_widths and bits not in network.bit_widths]
    if missing:
        raise UserError(f"setting bits: {network.name} has no bit-width {missing[0]}, only {list(network.bit_widths)}")
    return tuple(sorted(set(C.bits))) or network.bit_widths or BIT_WIDTHS


if __name__ == "__main__":
    sys.argv[0] = "python -m automapper [CHECKPOINT]"  # what --help shows after "usage:"
    sys.exit(exit_status(main))
