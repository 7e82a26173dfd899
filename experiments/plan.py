"""The runs that claims are made of. A run that two claims need has one name, and is done once."""

from typing import Any

from experiments.runs import DATA, Run
from experiments.scales import PAPER_BITS, Scale, Settings, Window

METHODS = {"sp_nas": "SP-NAS", "fp_nas": "FP-NAS", "lp_nas": "LP-NAS"}  # presets of config_search.py
NONE: Settings = {}


def join(bit_widths: tuple[int, ...], by: str = ",") -> str:
    return by.join(map(str, bit_widths))


def common_settings(scale: Scale, bits: tuple[int, ...], seed: int) -> dict[str, Any]:
    """What every search and training at a scale sets."""
    images = {"dataset_path": DATA + scale.subset} if scale.images_per_class else {}
    return {**images, **scale.settings, "num_bits_list": list(bits), "seed": seed}


def search_run(
    scale: Scale,
    seed: int,
    method: str = "sp_nas",
    window: Window | None = None,
    bits: tuple[int, ...] = PAPER_BITS,
    name: str = "",
    extra: Settings = NONE,
    presets: tuple[str, ...] = (),
) -> Run:
    """A search by one of `METHODS`; name, extra, presets: of a variation of it. What the scale's preset sets, it
    keeps."""
    window = window or scale.windows[0]
    parts = ["search", name or method, window.name, join(bits, "-"), f"seed{seed}"]
    settings = {**common_settings(scale, bits, seed), **window.ends, **extra}
    return Run("search", "/".join(parts), (*presets, method, scale.preset), settings)


def derived_network(scale: Scale) -> Run:
    """The search whose network claim 1 trains at every bit-width list, with every teacher and seed."""
    return search_run(scale, scale.seeds[0])


def train_run(
    scale: Scale,
    seed: int,
    bits: tuple[int, ...] = PAPER_BITS,
    teachers: str = "cascade",
    network: str = "derived",
    architecture: Run | None = None,
    name: str = "",
    extra: Settings = NONE,
    presets: tuple[str, ...] = (),
) -> Run:
    """Training of the derived network (of `architecture`, None = `derived_network`) or of one of the paper's others.

    teachers: "" = those of the presets.
    """
    settings = {**common_settings(scale, bits, seed), **scale.networks[network], **extra}
    if len(bits) == 1:
        teachers = "alone"
    elif teachers:
        settings["teachers"] = teachers
    of = network.replace(":", "_")
    if network == "derived":
        architecture = architecture or derived_network(scale)
        settings["load_path"] = architecture
        if architecture != derived_network(scale):
            of = architecture.name.replace("/", "_").removeprefix("search_")
    else:
        settings["network"] = network
    parts = ["train", of, join(bits, "-"), *filter(None, [teachers, name]), f"seed{seed}"]
    return Run("train", "/".join(parts), (*presets, scale.preset), settings)


def budget(scale: Scale) -> str:
    """How long `map_run` searches, for a caption."""
    return f"Mapped with a budget of {int(scale.map_budget):,} mappings per layer, bit-width and dataflow, seed 0:"


def map_run(scale: Scale, name: str, source: Run, device: str = "eyeriss") -> Run:
    """The network of another run, mapped."""
    settings = {"checkpoint": source, "device": device, "budget": scale.map_budget, "workers": 1, **scale.map_settings}
    return Run("map", f"map/{name}/{device}", settings=settings)
