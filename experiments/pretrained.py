"""The network in pretrained/: the searched network of claim 1, trained longer."""

from collections.abc import Sequence
from pathlib import Path

from experiments.plan import derived_network, train_run
from experiments.runs import ROOT, Run, Store
from experiments.scales import PAPER_BITS, SCALES, Scale
from experiments.tables import Results, accuracy_table
from runtime.checkpoint import load_checkpoint, save_checkpoint

TITLE = "The network in pretrained/"
CLAIM = "`pretrained/arch.pt` and `pretrained/weights.pt` are what this command wrote"
CAPTION = (
    "CIFAR-10 scaled down as in claim 1 (16x16 pixels, 2000 training and 500 test images of each class), but 20 epochs "
    "of 100 steps at batch 64 (128,000 images in all) by cascade distillation"
)
LEGAL = (SCALES["cifar_cpu"], SCALES["smoke"])
DEFAULT = {
    "dataset_path": "data",
    "save": "ckpt/finetune",
    "load_path": "ckpt/search",
}  # instead of this machine's folders
FOLDER = ROOT / "pretrained"
LONGER = {"cifar_cpu": ("--nepochs", "20", "--eval_epoch", "10"), "smoke": ()}


def training(scale: Scale) -> Run:
    return train_run(scale, scale.seeds[0], PAPER_BITS, "cascade", name="pretrained", extra=LONGER[scale.name])


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    return [training(scale)]


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    run = training(scale)
    found = results.of(run)
    if found is None:
        return ""
    rows = {"cascade (CDT)": results.accuracies([[run]])}
    size = f"{found['flops'] / 1e6:.2f} MFLOPs, {found['parameters'] / 1e6:.3f} M parameters"
    return f"{accuracy_table('pretrained/weights.pt', rows, PAPER_BITS, best=False)}\n\n{size}."


def publish(store: Store, scale: Scale, folder: Path = FOLDER) -> list[Path]:
    """Put what the runs wrote into `folder`, without the names of folders of this machine; nothing where it is gone."""
    written = []
    for run, name in ((derived_network(scale), "arch.pt"), (training(scale), "weights.pt")):
        source = store.work / run.name / name
        if source.exists():
            content = load_checkpoint(source, ["config"], name)
            config = content["config"]
            content["config"] = config | {setting: DEFAULT[setting] for setting in DEFAULT if setting in config}
            save_checkpoint(folder / name, content)
            written.append(folder / name)
    return written
