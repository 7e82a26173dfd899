"""`python train.py --eval_only`: the accuracy of a weights.pt per bit-width."""

import sys
from pathlib import Path

import torch

from instantnet.data.image_sets import open_test_folder
from instantnet.data.streamed import Workers
from instantnet.dataloader import DataSet, load_data
from instantnet.engine.checkpoint import find, load_weights
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import UserError, shown
from instantnet.engine.log import per_bits
from instantnet.engine.loop import accuracy
from instantnet.engine.machine import tune_cpu, tune_gpu
from instantnet.engine.user_code import names_a_function
from instantnet.formats import ImageData, NetworkFile, read_weights
from instantnet.networks.build import build
from instantnet.quantize import Precision
from instantnet.settings.stages import TrainSettings
from instantnet.strategies import placed


def evaluate(C: TrainSettings, processes: Processes) -> None:
    """Print the accuracy of a weights.pt per bit-width, with its own settings except those on the command line."""
    path = find(C.pretrain or C.save, "weights.pt")
    file: NetworkFile = processes.from_main(read_weights, path, named_code(C))
    assert file.settings is not None and file.weights is not None
    machine = {"dataset_path", "device", "num_workers", "prefetch", "memory_limit_mb", "batch_size", "max_steps"}
    own = {name: value for name, value in file.settings.to_dict().items() if name not in C.named | machine}
    wanted = C.num_bits_list if "num_bits_list" in C.named else list(file.bits)
    if names_a_function(own.get("dataset", "")):
        raise UserError(
            f"{path} was trained on {own['dataset']}: name that with --dataset, as a file never has code run"
        )
    C = C.replaced(**own)
    missing = [bits for bits in wanted if bits not in file.bits]
    if missing:
        raise UserError(f"setting num_bits_list: {path} has no bit-width {missing[0]}, only {list(file.bits)}")
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    precision = Precision(**C.precision_arguments() | {"bit_widths": file.bits})
    with processes.in_turn():
        data = images_for(C, file, processes.device)
    model = build(file.arch, C.replaced(num_classes=data.num_classes).to_dict(), precision, path)
    load_weights(model, file.weights, path)
    model = placed(model, processes.device, C.channels_last)
    batches = data.batches("test", batch_size=4 * C.batch_size, **processes.shard)
    result = accuracy(model, batches, wanted, C.max_steps, processes.total)
    if processes.is_main:
        for note in data.notes:
            print(f"images: {note}", file=sys.stderr)
        print(f"{path} on {tested(data, C)} test images of {data.name}\naccuracy %:  {per_bits(result, '.2f')}")


def named_code(C: TrainSettings) -> str | None:
    """The function that the command line names as the network, which a weights.pt may then be of."""
    return C.network if "network" in C.named and names_a_function(C.network) else None


def tested(data: DataSet, C: TrainSettings) -> int:
    """The number of test images behind an accuracy."""
    return min(len(data.test), 4 * C.batch_size * C.max_steps or len(data.test))


def images_for(C: TrainSettings, file: NetworkFile, device: torch.device) -> DataSet:
    """The test images of the settings, normalised as the weights' training images were, which need not be there.

    A file of format 1 does not say how: then it is found out from the training images. Raises `UserError` where the
    classes are other than the weights'.
    """
    known = file.data
    if known is None:
        return load_data(**C.data_arguments(), device=device)
    if C.dataset in ("image_folder", "imagenet"):
        data = _test_folder(C, known, device)
    else:
        data = load_data(**C.data_arguments(), device=device)
    _check_classes(known.class_names, data.class_names, file.path)
    data.mean, data.std = known.mean, known.std
    return data


def _test_folder(C: TrainSettings, known: ImageData, device: torch.device) -> DataSet:
    """The images of val/ or test/, also in the place of those of train/."""
    size, workers = (C.image_height, C.image_width), Workers(C.num_workers, C.prefetch)
    test, classes, notes = open_test_folder(
        C.dataset, Path(C.dataset_path).expanduser(), size, known.class_names, workers, device,
        C.memory_limit_mb << 20, C.skip_broken,
    )  # fmt: skip
    statistics = known.mean, known.std
    return DataSet(C.dataset, classes, *statistics, test, test, device, C.crop_padding, C.flip, notes)


def _check_classes(known: list[str], found: list[str], path: Path) -> None:
    """`UserError` naming the first difference between the weights' classes and the images'."""
    if known == found:
        return
    lost, new = [n for n in known if n not in set(found)], [n for n in found if n not in set(known)]
    parts = [f"{shown(lost[0])} is missing" if lost else "", f"{shown(new[0])} is unknown to them" if new else ""]
    what = " and ".join(filter(None, parts)) or "they are in another order"
    raise UserError(f"the test images have other classes than {path} ({len(found)}, there {len(known)}): {what}")
