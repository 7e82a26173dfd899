"""A table for a hardware-aware search: energy and latency of every candidate operation in every layer on a device.

The sizes of the network are those of stage 1: config_search.py and its presets. With --save FILE the table is written
there, else to standard output.
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tqdm import tqdm

from instantnet.engine.errors import UserError
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import Setting, from_command_line
from instantnet.settings.stages import (
    DataSettings,
    LoadingSettings,
    MapSettings,
    PrecisionSettings,
    SearchSettings,
    ShapeSettings,
)

SIZES = (*ShapeSettings.legal_settings(), "num_classes", "image_height", "image_width", "quantize_ends")
MAPPER = ("device", "bits", "objective", "budget", "seed", "workers", "backend")


class TableSettings(DataSettings, LoadingSettings, ShapeSettings, PrecisionSettings, MapSettings):
    """`instantnet table`: the sizes of a search's network, and how its layers are mapped."""

    save: Annotated[str, "file of the table; empty = standard output"] = ""
    fuse: Annotated[
        Literal["off", "maps", "strips"],
        "keep what lies between the layers of an operation on the chip: whole maps, or strips of them too; what is "
        "added to its output is then charged",
    ] = "off"  # not config_map.py's: layer by layer is what a search's own table holds

    @classmethod
    def legal_settings(cls) -> dict[str, Setting]:
        legal = super().legal_settings()
        return {name: legal[name] for name in (*MAPPER, "fuse", "save", "dataset", *SIZES)}


def settings(argv: Sequence[str] | None) -> TableSettings:
    """What the command line asks for, on top of config_search.py and config_map.py. Raises UserError."""
    search, presets = configuration(SearchSettings)
    mapper, _ = configuration(MapSettings)
    values = {name: getattr(search, name) for name in ("dataset", *SIZES)}
    values |= {name: getattr(mapper, name) for name in MAPPER}
    defaults = TableSettings().replaced(**values)
    legal = defaults.legal_settings()
    of_network = {  # of a preset nothing but the network
        preset: {name: value for name, value in given.items() if name in legal} for preset, given in presets.items()
    }
    C = from_command_line(defaults, of_network, argv, __doc__)
    if not C.bits:
        raise UserError("setting bits is empty: name the bit-widths of the table, as in --bits 4,8")
    return C


def main(argv: Sequence[str] | None = None) -> None:
    C = settings(argv)
    import automapper  # imported here, as torch below: a mistake is answered at once
    from instantnet.data.image_sets import FIXED_CLASSES

    sizes: dict[str, Any] = {name: getattr(C, name) for name in SIZES}
    sizes["num_classes"] = C.num_classes or FIXED_CLASSES.get(C.dataset)
    layout = "{percentage:3.0f}%|{bar:24}| {remaining} left"
    with tqdm(total=100, disable=None, leave=False, bar_format=layout) as bar:

        def show(share: float) -> None:
            bar.n = round(100 * share)
            bar.refresh()

        made = automapper.table(
            sizes, C.device, C.bits, objective=C.objective, budget=C.budget, seed=C.seed, fuse=C.fuse,
            workers=C.workers, backend=C.backend, progress=show,
        )  # fmt: skip
    if not C.save:
        json.dump(made.to_dict(), sys.stdout, indent=1)
        print()
        return
    made.write(C.save)
    layers = sum(made.geometry["num_layer_list"])
    print(f"{layers} layers x {len(made.operations)} operations on {made.device}")
    print(f"minimised: {C.objective}, fused: {C.fuse}")
    for bits in made.bits:
        costs = [made.cost([op] * layers, bits) for op in made.operations]
        low, high = (pick(costs, key=lambda one: one.energy_j * one.latency_s) for pick in (min, max))
        print(
            f"{bits:>5} bit: with one operation everywhere {low.energy_j:.3e} J, {low.latency_s:.3e} s to "
            f"{high.energy_j:.3e} J, {high.latency_s:.3e} s"
        )
    print(f"wrote {C.save}\nuse it: train_search.py --efficiency_metric edp --hw_device {C.save}")
