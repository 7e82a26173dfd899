"""The steps that benchmarks/training.py times; it starts this file in a process for each case.

weight step    CDT of the CIFAR supernet's weights: every bit-width, clipped gradients, SGD
alpha step     the architecture step, at the lowest bit-width
search step    one alpha step, then one weight step
training step  CDT of a derived network: every bit-width, clipped gradients, SGD

A case is a dictionary: step, variant (plain, fast), batch, threads, device, tiny; and where they matter bit_widths,
candidates (so many equal ones per layer), sample_paths, all_float (every pass at 32 bit), numbers (fp32, tf32, bf16),
large (the derived network of 133 MFLOPs).
Variants "compiled" and "graph" are the fast one ("eager") with the setting `compile` or `cuda_graph`; network: resnet38
or mobilenet_v2 instead of a derived one.
"""

import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from config_search import C as SEARCH
from config_train import C as TRAIN
from instantnet.architect import Architect
from instantnet.distill import Cascade
from instantnet.engine.loop import frozen, updater
from instantnet.engine.machine import tune_cpu, tune_gpu
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.networks.build import build_network
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision, SwitchableNetwork
from instantnet.searching import loss_by_graph
from instantnet.settings.stages import NetworkSettings
from instantnet.strategies import autocasted, compiled, placed, recorded
from instantnet.training import make_optimizer

PLAIN = {"channels_last": False, "fused_quantizer": False, "compiled_layers": False, "keep_memory": False}
TINY = {
    "num_layer_list": [1, 2],
    "num_channel_list": [8, 16],
    "stride_list": [1, 2],
    "stem_channel": 8,
    "header_channel": 16,
    "image_height": 8,
    "image_width": 8,
}
DERIVED = ["k3_e3", "k5_e3", "k3_e6", "k5_e1", "k3_e1", "k5_e6", "k3_e1_g2", "skip", "k5_e1_g2", "k3_e3", "k5_e6"] * 2
"""A network of every operation, 79 MFLOPs on CIFAR."""

LARGE = ["k5_e6", "k5_e3"] * 11
"""133 MFLOPs."""


def settings_of(case: dict, defaults: NetworkSettings) -> NetworkSettings:
    """The settings of a case: the config file's, and what makes it plain or tiny."""
    values = {"num_classes": 100, "batch_size": case["batch"], "num_threads": case["threads"]}
    values |= {"num_bits_list": case["bit_widths"]} if "bit_widths" in case else {}
    values |= PLAIN if case["variant"] == "plain" else {}
    values |= TINY if case["tiny"] else {}
    values |= {"compile": case["variant"] == "compiled", "cuda_graph": case["variant"] == "graph"}
    values |= {"tune_convolutions": case.get("tuned", False)}
    values |= {"channels_last": case["layout"] == "nhwc"} if case.get("layout") and case["variant"] != "plain" else {}
    numbers = case.get("numbers", "fp32")
    values |= {"tf32": numbers != "fp32", "mixed_precision": "bfloat16" if numbers == "bf16" else "none"}
    return defaults.replaced(**values)


def step_of(case: dict) -> Callable[[], None]:
    """What `case` names, ready to be called again and again."""
    searching = case["step"] != "training step"
    C = settings_of(case, SEARCH if searching else TRAIN)
    tune_cpu(C.num_threads, C.keep_memory)
    tune_gpu(C.tf32, C.tune_convolutions)
    torch.manual_seed(0)
    precision = Precision(**C.precision_arguments())
    geometry = Geometry.from_settings(C.to_dict())
    model: SwitchableNetwork
    if case.get("network") in ("resnet38", "mobilenet_v2"):
        settings = C.to_dict() | {"width_mult": 0.125 if case["tiny"] else 1.0}
        model = build_network({"network": case["network"]}, settings, precision)
    elif searching:
        model = Supernet(geometry, precision, sample_paths=case.get("sample_paths", 0))
        if "candidates" in case:
            equal_candidates(model, case["candidates"])
    else:
        ops = LARGE if case.get("large") else DERIVED
        model = DerivedNetwork(ops[: geometry.num_layers], geometry, precision)
    model = placed(model, torch.device(case["device"]), C.channels_last).train()
    model = with_kernels(model, **C.kernel_arguments())
    images = torch.randn(C.batch_size, 3, C.image_height, C.image_width, device=case["device"])
    labels = torch.randint(C.num_classes, (C.batch_size,), device=case["device"])
    run = autocasted(compiled(model, C.compile), C.mixed_precision, torch.device(case["device"]))
    make = search_step if searching else training_step
    step = make(case, C, model, run, images, labels)
    if case["variant"] != "plain":
        gc.freeze()  # as train.py and train_search.py before their loops
    return step


def equal_candidates(supernet: Supernet, count: int) -> None:
    """Give every layer `count` candidates k3_e3."""
    for cell, shape in zip(supernet.cells, supernet.geometry.layers(), strict=True):
        cell.candidates = nn.ModuleList(OPERATIONS["k3_e3"](*shape, supernet.precision) for _ in range(count))
    supernet.alpha = nn.Parameter(torch.full((len(supernet.cells), count), 1e-3))


def training_step(
    case: dict,
    C: NetworkSettings,
    model: SwitchableNetwork,
    run: Callable[..., Tensor],
    images: Tensor,
    labels: Tensor,
    parameters: list | None = None,
) -> Callable[[], None]:
    """CDT of `parameters` (all): one optimizer step over every bit-width. run: the model as called in training."""
    parameters = parameters or list(model.parameters())
    optimizer = make_optimizer(parameters, C)
    update = updater(optimizer, parameters, C.grad_clip)
    cascade = Cascade(tuple(C.num_bits_list), dict.fromkeys(C.num_bits_list, 1.0))

    def at_float(x: Tensor, num_bits: int) -> Tensor:
        return run(x, num_bits=32)

    passes = at_float if case.get("all_float") else run
    running, frozen_statistics = cascade.running(random.Random(0)), model.precision.frozen_statistics

    def one_step(images: Tensor, labels: Tensor, op_weights: Tensor | None) -> dict[int, Tensor]:
        with model.mixing_by(op_weights) if isinstance(model, Supernet) and op_weights is not None else nullcontext():
            return cascade.step(passes, images, labels, update, running, frozen_statistics)

    take = recorded(one_step, C.cuda_graph, optimizer)
    return lambda: take(images, labels, getattr(model, "op_weights", None))


def search_step(
    case: dict, C: NetworkSettings, supernet: Supernet, run: Callable[..., Tensor], images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """The steps of the search, as train_search.py takes them; plain ones compute the gradients of everything."""
    plain = case["variant"] == "plain"
    parameters = supernet.weight_parameters()
    weights = training_step(case, C, supernet, run, images, labels, parameters)
    lowest = min(C.num_bits_list)
    architect = Architect(
        run, supernet.alpha, lowest, supernet.expected_flops, C.arch_learning_rate, C.betas, C.flops_weight,
        C.alpha_step,
    )  # fmt: skip

    def descend_everything(loss: Tensor) -> None:
        loss.backward()
        architect.optimizer.step()
        supernet.zero_grad(set_to_none=True)

    if C.cuda_graph:
        architect.loss = loss_by_graph(architect, supernet)
    if plain:
        architect._descend = descend_everything

    def weight_step() -> None:
        supernet.noise_per_forward = plain  # the released code draws the noise anew in every pass
        with frozen([] if plain else [supernet.alpha]):
            supernet.sample()
            weights()
        supernet.noise_per_forward = False

    def alpha_step() -> None:
        supernet.sample()
        with frozen([] if plain else parameters):
            architect.step(images, labels, supernet.precision.frozen_statistics)

    def both() -> None:
        alpha_step()
        weight_step()

    return {"weight step": weight_step, "alpha step": alpha_step, "search step": both}[case["step"]]


def gpu_busy() -> str:
    """Utilisation of the GPU as nvidia-smi gives it, percent; "-" where it does not answer."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "-"


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Answer each line of the input by one of JSON: `build CASE`, `step N` with the time of N steps, `memory`."""
    for line in sys.stdin:
        word, _, argument = line.partition(" ")
        if word == "build":
            case = json.loads(argument)
            step = step_of(case)
            answer = {"before_bytes": peak_bytes()}
        elif word == "step":
            answer = timed(step, int(argument))
        else:
            answer = {"peak_bytes": peak_bytes()}
        print(json.dumps(answer), flush=True)


def timed(step: Callable[[], None], count: int) -> dict:
    """Seconds of `count` steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    main()
