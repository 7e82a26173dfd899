"""Baselines of a run: dataflows, the same with one mapping for all bit-widths, and published mappings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automapper.dataflows import Dataflow, Unfit, built_in, constraints, load_dataflow, why_none
from automapper.workload import Network, distinct_problems
from hw_model import Device
from hw_model.widths import Bits, in_words, width_order
from instantnet.engine.errors import UserError
from instantnet.settings.schema import closest

PUBLISHED = "eyeriss_published"
FIXED = "_fixed"
EVERY = (*built_in(), f"row_stationary{FIXED}", PUBLISHED)  # what comes with the project


@dataclass(frozen=True)
class Baselines:
    """shown: names in the order of the report; own: the dataflow that constrains AutoMapper itself, empty for none;
    added: dataflows besides the built-in ones; fixed_at: the bit-width whose mapping NAME_fixed keeps."""

    shown: tuple[str, ...] = ()
    own: str | Dataflow = ""
    added: tuple[Dataflow, ...] = ()
    fixed_at: Bits = 0

    @property
    def own_name(self) -> str | None:
        """The name of `own`, None where AutoMapper is not constrained."""
        return (self.own.name if isinstance(self.own, Dataflow) else self.own) or None

    @property
    def dataflows(self) -> dict[str, str | Dataflow]:
        """{name: as `Search.dataflow`} of all that are searched: the built-in ones first, then the added ones."""
        return {**{name: name for name in built_in()}, **{one.name: one for one in self.added}}

    @property
    def references(self) -> tuple[str, ...]:
        """Names whose sums over a network must not be better than AutoMapper's: none where it is constrained itself."""
        return () if self.own else tuple(dict.fromkeys([*self.dataflows, PUBLISHED, *self.shown]))

    def kept(self, name: str) -> str | Dataflow | None:
        """The dataflow whose mapping NAME_fixed keeps; None where `name` is another baseline."""
        return self.dataflows[name.removesuffix(FIXED)] if name.endswith(FIXED) else None


def default_baselines(bit_widths: Sequence[Bits]) -> Baselines:
    """All that come with the project, and row-stationary with the mapping of the widest words."""
    return Baselines(EVERY, fixed_at=max(bit_widths, key=width_order))


def chosen_baselines(
    shown: Sequence[str], added: Sequence[str], within: str | None, fixed_at: int | None, bit_widths: Sequence[Bits]
) -> Baselines:
    """From settings: names to show, files or names of dataflows to add and to stay within.

    Raises:
        InputError: of a dataflow's file.
        UserError: no baseline has that name, or two dataflows have the same.
    """
    more = [one for one in map(load_dataflow, added) if one.name not in built_in()]
    names = [one.name for one in more]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"setting dataflow: {twice[0]!r} is the name of two dataflows")
    own = load_dataflow(within) if within else ""
    flows = [*built_in(), *names]
    legal = [*flows, *(name + FIXED for name in flows), PUBLISHED]
    for name in shown:
        if name not in legal:
            raise UserError(f"setting baselines: no baseline {name!r}{closest(name, legal)}; legal: {', '.join(legal)}")
    also = [name for name in map(_name, added) if name not in shown]
    return Baselines(
        (*dict.fromkeys([*shown, *also]),),
        own.name if isinstance(own, Dataflow) and own.name in built_in() else own,
        tuple(more),
        fixed_at or max(bit_widths, key=width_order),
    )


def check_fit(baselines: Baselines, network: Network, bit_widths: Sequence[Bits], device: Device) -> None:
    """Raise UserError where a user's dataflow cannot be used: a `whole` dimension does not fit, or the device has no
    mapping within the dataflow that constrains AutoMapper."""
    own = baselines.own
    for dataflow in dict.fromkeys([*baselines.added, *([own] if isinstance(own, Dataflow) else [])]):
        for problem in distinct_problems(network, bit_widths):
            try:
                constraints(dataflow, problem.layer, device, problem.bits)
            except Unfit as error:
                name = network.name_of(problem)
                raise UserError(
                    f"dataflow {dataflow.name}: layer {name} at {in_words(problem.bits)}: {error}"
                ) from error
    if own:
        definition = own if isinstance(own, Dataflow) else built_in()[own]
        if why := why_none(definition, device):
            raise UserError(f"setting within: no mapping in {definition.name}: {why}")


def _name(dataflow: str) -> str:
    return load_dataflow(dataflow).name
