"""The slots of a scale: their runs, and what their planned tests find (docs/experiments.md, "On a GPU").

Rows of one seed share initial weights, order of the images, crops and flips. So differences are taken seed by seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from experiments.plan import join, search_run, train_run
from experiments.rows import EVERY
from experiments.runs import Run
from experiments.scales import Scale, Slot
from experiments.statistics import CONFIDENCE, Paired, mean, paired, significant
from experiments.tables import Results, cell, device_of, said, table
from experiments.verdicts import FAILS, HOLDS, NO_SPREAD, UNDECIDED, Verdict, listed

PRIMARY = ("cascade", "none", "lowest")
SECONDARY = (
    ("cascade", "none", "mean"),
    ("cascade", "next", "lowest"),
    ("cascade_kl", "none", "lowest"),
    ("cascade_kl", "cascade", "lowest"),
)


def scale_of(scale: Scale, slot: Slot) -> Scale:
    """The scale with the slot's images."""
    return replace(scale, images_per_class=slot.images_per_class, subset="_{}_{}".format(*slot.images_per_class))


def search_of(scale: Scale, slot: Slot, seed: int) -> Run:
    """The search for the network that the slot trains as `derived`, one for all seeds of the training."""
    return search_run(scale_of(scale, slot), seed, name=f"sp_nas/{slot.name}", bits=slot.bits)


def row_run(scale: Scale, slot: Slot, network: str, row: str, seed: int) -> Run:
    how = EVERY[row]
    architecture = search_of(scale, slot, scale.seeds[0]) if network == "derived" else None
    extra = {"nepochs": slot.epochs, "eval_epoch": slot.epochs, **how.settings}
    name = f"{slot.name}/{how.name}" if how.name else slot.name
    return train_run(scale_of(scale, slot), seed, slot.bits, how.teachers, network, architecture, name, extra)


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    """Slot by slot: its search, if it has one; then the two rows of its primary test for all seeds, so that pairs are
    complete first; then every other row, seed by seed."""
    return [
        run
        for slot in scale.slots
        for run in (
            *([search_of(scale, slot, scale.seeds[0])] if "derived" in slot.networks else []),
            *(
                row_run(scale, slot, network, row, seed)
                for rows in in_order(slot)
                for seed in seeds[: slot.seeds]
                for network in slot.networks
                for row in rows
            ),
        )
    ]


def in_order(slot: Slot) -> list[list[str]]:
    """The rows in groups, each of which is for all seeds done before the next."""
    if not slot.tested:
        return [list(slot.rows)]
    first = [row for row in slot.rows if row in PRIMARY]
    return [first, [row for row in slot.rows if row not in first]]


def title(slot: Slot, network: str) -> str:
    images = 10 * slot.images_per_class[0]
    return f"slot {slot.name}: {network} at [{join(slot.bits)}], {images:,} images, {slot.epochs} epochs"


class Compared(NamedTuple):
    """The networks of one slot and kind, to compare row by row. labels: row -> how tables name it."""

    scale: Scale
    slot: Slot
    network: str
    seeds: Sequence[int]
    results: Results
    labels: dict[str, str]

    def pair(self, first: str, second: str, bits: Sequence[int]) -> Paired:
        """Row `first` minus row `second`, in the mean over `bits`, over the seeds with both."""
        both = [[self._accuracy(row, seed, bits) for row in (first, second)] for seed in self._seeds()]
        done = [pair for pair in both if None not in pair]
        return paired([one for one, _ in done], [other for _, other in done])

    def _seeds(self) -> Sequence[int]:
        return self.seeds[: self.slot.seeds]

    def _accuracy(self, row: str, seed: int, bits: Sequence[int]) -> float | None:
        run = row_run(self.scale, self.slot, self.network, row, seed)
        found = self.results.accuracies([[run]])
        return mean([found[b][seed] for b in bits]) if found else None

    def test(self, test: tuple[str, str, str]) -> Paired:
        first, second, where = test
        return self.pair(first, second, self.slot.bits if where == "mean" else [min(self.slot.bits)])

    def named(self, test: tuple[str, str, str]) -> str:
        first, second, where = test
        at = "in the mean over the bit-widths" if where == "mean" else f"at {min(self.slot.bits)} bit"
        return f"{self.labels[first]} minus {self.labels[second]} {at}"

    def differences(self) -> str:
        """The cascade against every other row, per bit-width, by pairs."""
        lines = []
        for row in self.slot.rows:
            pairs = [self.pair("cascade", row, [b]) for b in self.slot.bits] if row != "cascade" else []
            if any(each.count for each in pairs):
                lines.append([self.labels[row], *map(cell, pairs)])
        head = [f"{self.labels['cascade']} minus", *(f"{b} bit" for b in self.slot.bits)]
        return f"{table(head, lines)}\n\nDifferences and intervals are over pairs of one seed." if lines else ""

    def verdict(self) -> Verdict:
        """Of the primary test alone."""
        found, low = self.test(PRIMARY), min(self.slot.bits)
        because = f"primary test, {self.named(PRIMARY)}: {said(found)}; {found.count} of {self.slot.seeds} pairs"
        if found.p != found.p:
            return Verdict(NO_SPREAD if found.count == 1 else UNDECIDED, because)
        if found.p >= 1 - CONFIDENCE:
            return Verdict(f"{UNDECIDED} at {low} bit", because)
        return Verdict(f"{HOLDS if found.gap > 0 else FAILS} at {low} bit", because)

    def secondary(self) -> str:
        """A sentence for each of the other tests, and which of them hold together."""
        found = {test: self.test(test) for test in SECONDARY if {*test[:2]} <= {*self.slot.rows}}
        found = {test: each for test, each in found.items() if each.p == each.p}
        if not found:
            return ""
        together = significant({test: each.p for test, each in found.items()})
        lines = [f"* {self.named(test)}: {said(each)}" for test, each in found.items()]
        holding = listed(self.named(test) for test in found if test in together) if together else "none"
        return "\n".join(["Secondary tests:", "", *lines, "", f"Significant together (Holm): {holding}."])

    def devices(self) -> str:
        """The cards behind the slot's results."""
        names = [row_run(self.scale, self.slot, self.network, row, seed).name
                 for row in self.slot.rows for seed in self._seeds()]  # fmt: skip
        used = [self.results.used[name] for name in names if name in self.results.used]
        cards = sorted({device_of(each["origin"]) for each in used})
        return f"{len(used)} of {len(names)} trainings are done, on {listed(cards)}." if used else ""

    def text(self) -> str:
        """What follows the table of accuracies."""
        tests = [str(self.verdict()), self.secondary()] if self.slot.tested else []
        return "\n\n".join(filter(None, [self.differences(), *tests, self.devices()]))
