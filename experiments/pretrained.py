"""The network in pretrained/: of all that were trained at one scale, the most accurate at the lowest bit-width."""

from collections.abc import Sequence
from pathlib import Path

from experiments import cdt, cdt_tried
from experiments.options import ROOT
from experiments.plan import derived_network, join
from experiments.runs import Run
from experiments.scales import SCALES, Scale
from experiments.store import Store
from experiments.tables import Results, accuracy_table
from instantnet.engine.checkpoint import load_checkpoint, save_checkpoint

TITLE = "The network in pretrained/"
CLAIM = (
    "`pretrained/arch.pt` and `pretrained/weights.pt`: the most accurate at the lowest bit-width of all the runs of "
    "claims 1 and 8 at the scale, whatever its teachers. Chosen on the test images, its accuracy is optimistic"
)
LEGAL = (SCALES["cifar_cpu_long"], SCALES["smoke"])
DEFAULT = {
    "dataset_path": "data",
    "save": "ckpt/finetune",
    "load_path": "ckpt/search",
}  # instead of this machine's folders
FOLDER = ROOT / "pretrained"


def bits_of(scale: Scale) -> tuple[int, ...]:
    return scale.bit_lists["derived"][0]


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    """The networks to choose from: every one that switches between all bit-widths."""
    names = f"train/derived/{join(bits_of(scale), '-')}/"
    found = {run.name: run for claim in (cdt, cdt_tried) for run in claim.runs(scale, seeds)}
    return [run for name, run in found.items() if name.startswith(names)]


def best(scale: Scale, seeds: Sequence[int], results: Results) -> Run | None:
    """The one of those that are done; None where none is."""
    low = str(min(bits_of(scale)))
    done = {run: results.of(run) for run in runs(scale, seeds)}
    done = {run: found["accuracy"] for run, found in done.items() if found}
    return max(done, key=lambda run: done[run][low]) if done else None


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    run = best(scale, seeds, results)
    if run is None:
        return ""
    found, bits = results.of(run), bits_of(scale)
    rows = {f"`{run.name}`": results.accuracies([[run]])}
    size = f"{found['flops'] / 1e6:.2f} MFLOPs, {found['parameters'] / 1e6:.3f} M parameters"
    return f"{accuracy_table('pretrained/weights.pt', rows, bits, best=False)}\n\n{size}."


def publish(store: Store, scale: Scale, folder: Path = FOLDER) -> list[Path]:
    """Put what the runs wrote into `folder`, without the names of folders of this machine; nothing where it is gone."""
    run = best(scale, scale.seeds, Results(store))
    sources = (
        [store.work / derived_network(scale).name / "arch.pt", store.work / run.name / "weights.pt"] if run else []
    )
    if not sources or not all(source.exists() for source in sources):
        return []
    for source in sources:
        content = load_checkpoint(source, ["config"], source.name)
        config = content["config"]
        content["config"] = config | {setting: DEFAULT[setting] for setting in DEFAULT if setting in config}
        save_checkpoint(folder / source.name, content)
    return [folder / source.name for source in sources]
