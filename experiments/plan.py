"""The runs that claims are made of. A run that two claims need has one name, and is done once."""

from experiments.runs import Run
from experiments.scales import PAPER_BITS, Scale, Window

METHODS = {"sp_nas": "SP-NAS", "fp_nas": "FP-NAS", "lp_nas": "LP-NAS"}  # presets of config_search.py


def join(bit_widths: tuple[int, ...], by: str = ",") -> str:
    return by.join(map(str, bit_widths))


def with_presets(words: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """`words`, which begin with `--preset NAMES`, with presets named in front of them: what a scale sets, it keeps."""
    assert words[0] == "--preset"
    return "--preset", ",".join([*more, words[1]]), *words[2:]


def search_run(
    scale: Scale,
    seed: int,
    method: str = "sp_nas",
    window: Window | None = None,
    bits: tuple[int, ...] = PAPER_BITS,
    name: str = "",
    extra: tuple[str, ...] = (),
    presets: tuple[str, ...] = (),
) -> Run:
    """A search by one of `METHODS`; name, extra, presets: of a variation of it."""
    window = window or scale.windows[0]
    parts = ["search", name or method, window.name, join(bits, "-"), f"seed{seed}"]
    words = [*with_presets(scale.shape, (*presets, method)), *scale.search, *window.words]
    words += ["--num_bits_list", join(bits), "--seed", str(seed), *extra]
    return Run("search", "/".join(parts), tuple(words))


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
    extra: tuple[str, ...] = (),
    presets: tuple[str, ...] = (),
) -> Run:
    """Training of the derived network (of `architecture`, None = `derived_network`) or of one of the paper's others."""
    words = [*with_presets(scale.shape, presets), *scale.train, "--num_bits_list", join(bits), "--seed", str(seed)]
    words += [*scale.networks[network], *extra]
    if len(bits) > 1:
        words += ["--teachers", teachers]
    else:
        teachers = "alone"
    of = network
    if network == "derived":
        architecture = architecture or derived_network(scale)
        words += ["--load_path", architecture]
        if architecture != derived_network(scale):
            of = architecture.name.replace("/", "_").removeprefix("search_")
    else:
        words += ["--network", network]
    parts = ["train", of, join(bits, "-"), teachers, *([name] if name else []), f"seed{seed}"]
    return Run("train", "/".join(parts), tuple(words))


def budget(scale: Scale) -> str:
    """How long `map_run` searches, for a caption."""
    return f"Mapped with a budget of {int(scale.map_budget):,} mappings per layer, bit-width and dataflow, seed 0:"


def map_run(scale: Scale, name: str, source: Run, device: str = "eyeriss", extra: tuple[str, ...] = ()) -> Run:
    """The network of another run, mapped."""
    words = ("--checkpoint", source, "--device", device, "--budget", scale.map_budget, "--workers", "1", *extra)
    return Run("map", f"map/{name}/{device}", words)
