"""Which epoch's architecture a search keeps, and how it is reported."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from instantnet.derivation import most_probable
from instantnet.efficiency import Flops, OnDevice, counted_value, in_words, window_in_words
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError
from instantnet.engine.log import RunLog, SilentLog, per_bits
from instantnet.engine.run import Run
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS
from instantnet.settings.stages import SearchSettings
from instantnet.widths import Bits, width_order


def architecture(supernet: Supernet, efficiency: Flops | OnDevice, C: SearchSettings) -> list[str]:
    """The operations [layers] that alpha stands for, as the setting `derivation` says."""
    if C.derivation == "argmax":
        return supernet.derived_ops()
    log_p = torch.log_softmax(supernet.alpha.detach().cpu().double(), dim=-1).numpy()
    chosen = most_probable(log_p, efficiency.additive(), efficiency.value, *C.window())
    return [list(OPERATIONS)[i] for i in chosen]


class Best:
    """The architecture that is kept: the most accurate one inside the window, or the last one."""

    def __init__(self, C: SearchSettings, header: Callable[[Sequence[str]], dict[str, Any]] = lambda ops: {}):
        self.C, self.header = C, header  # header: what an arch.pt of these operations begins with
        self.found: dict | None = None  # what arch.pt holds

    def consider(
        self, alpha: Tensor, ops: Sequence[str], derived: dict, accuracies: dict[Bits, float], epoch: int, run: Run
    ) -> None:
        """Compare the architecture of a validated epoch with the best so far; write arch.pt if it is better.

        derived: its `flops`, and where a device counts `efficiency`.
        """
        candidate = {
            "ops": list(ops),
            "alpha": alpha.detach().cpu().clone(),
            **derived,
            "accuracy": accuracies,
            "epoch": epoch,
            "config": run.config,
        }
        if self.found is None or self.C.arch_choice == "last" or rank(candidate, self.C) > rank(self.found, self.C):
            self.found = candidate
            self._save(run)

    def save_again(self, run: Run) -> None:
        """Write arch.pt from the checkpoint that `run` resumes; `UserError` if it has none and no epoch is left."""
        if self.found is None and run.start.epoch >= self.C.nepochs:
            raise UserError(f"{run.loaded} has no architecture yet: resume with nepochs above {run.start.epoch}")
        if self.found is not None:
            self._save(run)

    def _save(self, run: Run) -> None:
        if run.processes.is_main and self.found is not None:
            save_checkpoint(run.folder / "arch.pt", self.header(self.found["ops"]) | self.found)

    def state_dict(self) -> dict | None:
        return self.found

    def load_state_dict(self, state: dict | None) -> None:
        if state is not None:
            _check_found(state, self.C)
        self.found = state


def _check_found(state: Any, C: SearchSettings) -> None:
    """ValueError or TypeError where `state` is not what `Best.consider` finds."""
    ops, accuracies = state["ops"], state["accuracy"]
    if not isinstance(ops, list) or len(ops) != sum(C.num_layer_list) or not all(op in OPERATIONS for op in ops):
        raise ValueError("not the operations of this network")
    alpha = state["alpha"]
    if not isinstance(alpha, Tensor) or alpha.shape != (len(ops), len(OPERATIONS)):
        raise ValueError("not this network's alpha")
    if not isinstance(accuracies, dict) or not accuracies or not accuracies.keys() <= set(C.num_bits_list):
        raise ValueError("not accuracies of this network's bit-widths")
    numbers = [state["flops"], state["epoch"], *accuracies.values()]
    if not all(type(number) in (int, float) and number >= 0 for number in numbers) or type(state["epoch"]) is not int:
        raise ValueError("flops, epoch or accuracies are not numbers")
    if not isinstance(state["config"], dict):
        raise TypeError("its config is no dictionary")
    if ("efficiency" in state) != (C.efficiency_metric != "flops"):
        raise ValueError(f"it was not searched by {C.efficiency_metric}")
    if "efficiency" in state:
        _check_efficiency(state["efficiency"], C)


def _check_efficiency(record: Any, C: SearchSettings) -> None:
    """ValueError or KeyError where a record is not what `OnDevice.derived` gives."""
    values = [record["value"], *(value for costs in record["bits"].values() for value in costs.values())]
    if record["metric"] != C.efficiency_metric or not isinstance(record["device"], str):
        raise ValueError(f"it was not searched by {C.efficiency_metric}")
    if not all(type(value) in (int, float) and value >= 0 for value in values):
        raise ValueError("energy, latency or EDP are not numbers")


def rank(candidate: dict, C: SearchSettings) -> tuple[float, float]:
    """Larger is better: inside the window, or nearest to it; then the accuracy at alpha's bit-width."""
    value, accuracies = counted_value(candidate), candidate["accuracy"]
    least, most = C.window()
    bits = (min if C.alpha_bits == "lowest" else max)(accuracies, key=width_order)
    return -max(least - value, value - most, 0), accuracies[bits]


def report(best: dict | None, C: SearchSettings, log: RunLog | SilentLog) -> None:
    """Log the architecture that was found."""
    assert best is not None  # the last epoch is always validated
    accuracies = per_bits(best["accuracy"], ".2f")
    log.line(f"\narchitecture of epoch {best['epoch'] + 1}: {in_words(best)}, supernet {accuracies} %")
    if rank(best, C)[0] < 0:
        window = window_in_words(C)
        log.line(f"no epoch's architecture was inside {window}; this one is the nearest")
    ops = iter(best["ops"])
    for stage, (layers, channels) in enumerate(zip(C.num_layer_list, C.num_channel_list, strict=True)):
        log.line(f"  stage {stage + 1}, {channels:3} channels: {'  '.join(islice(ops, layers))}")
