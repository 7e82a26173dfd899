"""`python train.py --eval_only`: the accuracy of a weights.pt per bit-width."""

import sys

from instantnet.dataloader import DataSet, load_data
from instantnet.engine.checkpoint import find, load_checkpoint, load_weights
from instantnet.engine.distributed import Processes
from instantnet.engine.errors import UserError
from instantnet.engine.log import per_bits
from instantnet.engine.loop import accuracy
from instantnet.engine.machine import tune_cpu, tune_gpu
from instantnet.engine.user_code import names_a_function
from instantnet.networks.build import build
from instantnet.quantize import Precision
from instantnet.settings.stages import TrainSettings
from instantnet.strategies import placed


def evaluate(C: TrainSettings, processes: Processes) -> None:
    """Print the accuracy of a weights.pt per bit-width, with its own settings except those on the command line."""
    path = find(C.pretrain or C.save, "weights.pt")
    needs = ["model", "arch", "bits", "config"]
    checkpoint = processes.from_main(load_checkpoint, path, needs, "weights.pt of train.py")
    machine = {"dataset_path", "device", "num_workers", "prefetch", "memory_limit_mb", "batch_size", "max_steps"}
    own = {name: value for name, value in checkpoint["config"].items() if name not in C.named | machine}
    wanted = C.num_bits_list if "num_bits_list" in C.named else checkpoint["bits"]
    if names_a_function(own.get("dataset", "")):
        raise UserError(
            f"{path} was trained on {own['dataset']}; a file never has code run: name it, --dataset {own['dataset']}"
        )
    C = C.replaced(**own)
    missing = [bits for bits in wanted if bits not in checkpoint["bits"]]
    if missing:
        raise UserError(f"setting num_bits_list: {path} has no bit-width {missing[0]}, only {checkpoint['bits']}")
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32)
    precision = Precision(**C.precision_arguments() | {"bit_widths": checkpoint["bits"]})
    with processes.in_turn():
        data = load_data(**C.data_arguments(), device=processes.device)
    model = build(checkpoint["arch"], C.replaced(num_classes=data.num_classes).to_dict(), precision, path)
    load_weights(model, checkpoint["model"], path)
    model = placed(model, processes.device, C.channels_last)
    batches = data.batches("test", batch_size=4 * C.batch_size, **processes.shard)
    result = accuracy(model, batches, wanted, C.max_steps, processes.total)
    if processes.is_main:
        for note in data.notes:
            print(f"images: {note}", file=sys.stderr)
        print(f"{path} on {tested(data, C)} test images of {data.name}\naccuracy %:  {per_bits(result, '.2f')}")


def tested(data: DataSet, C: TrainSettings) -> int:
    """The number of test images behind an accuracy."""
    return min(len(data.test), 4 * C.batch_size * C.max_steps or len(data.test))
