"""Three steps of training or of search, as the scripts make them, on any device; what they leave behind."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instantnet import switchable
from instantnet.architect import Architect
from instantnet.distill import Cascade
from instantnet.engine.distributed import Processes
from instantnet.engine.loop import frozen, updater
from instantnet.engine.synchronised import synchronised
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.networks.build import build_network
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableNetwork
from instantnet.quantizers import QUANTIZERS
from instantnet.searching import loss_by_graph
from instantnet.strategies import autocasted, compiled, placed, recorded
from instantnet.widths import Bits

CPU = torch.device("cpu")
BITS = (4, 8, 12, 16, 32)
MIXED = (4, "w4a8", 8, "w8a4", 32)
BATCH, PIXELS, CLASSES, STEPS = 16, 12, 5, 3
LR = 2**-7  # exact in float32, in which a CUDA graph keeps it
ENDS = {"stem_channel": 8, "stem_stride": 1, "header_channel": 16, "num_classes": CLASSES}
SIZE = {"image_height": PIXELS, "image_width": PIXELS}
EVERY = Geometry((4, 6), (8, 12), (1, 2), quantize_ends=True, **ENDS, **SIZE)
SMALL = Geometry((1, 2), (8, 12), (1, 2), quantize_ends=False, **ENDS, **SIZE)
TINY = Geometry((1,), (8,), (2,), quantize_ends=False, **ENDS, **SIZE)
EVERY_OPERATION = ["k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "skip", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip"]
PAPER = {"width_mult": 0.25, "num_classes": CLASSES, "quantize_ends": False, **SIZE}

NETWORKS: dict[str, Callable[[], SwitchableNetwork]] = {
    "derived": lambda: DerivedNetwork(EVERY_OPERATION, EVERY, Precision(BITS)),  # both skips: with and without a layer
    "small": lambda: small(Precision(BITS)),
    "mixed": lambda: small(Precision(MIXED)),
    "converted": lambda: converted(),
    "tiny": lambda: DerivedNetwork(["k3_e1"], TINY, Precision(BITS)),
    "resnet38": lambda: build_network({"network": "resnet38"}, PAPER, Precision(BITS)),
    "mobilenet_v2": lambda: build_network({"network": "mobilenet_v2"}, PAPER, Precision(BITS)),
}
for quantizer in QUANTIZERS:
    NETWORKS[quantizer] = lambda quantizer=quantizer: small(Precision(BITS, quantizer=quantizer))


def small(precision: Precision) -> SwitchableNetwork:
    return DerivedNetwork(["k3_e3", "k5_e1_g2", "skip"], SMALL, precision)


def converted() -> SwitchableNetwork:
    """Not ours: torchvision's residual network, a block a stage."""
    import torchvision

    block = torchvision.models.resnet.BasicBlock
    return switchable(torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES), bit_widths=BITS)


@dataclass
class Outcome:
    """losses: of every step, bit-width -> number; before and after: the network's state, on the CPU."""

    losses: list[dict[Bits, float]]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    model: SwitchableNetwork


def images_and_labels(step: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The same numbers for every device and type."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, PIXELS, PIXELS, generator=generator)
    return images.to(device, dtype), torch.randint(CLASSES, (BATCH,), generator=generator).to(device)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def optimizer_of(parameters: list[torch.nn.Parameter], opt: str) -> torch.optim.Optimizer:
    if opt == "adam":
        return torch.optim.Adam(parameters, lr=LR, betas=(0.5, 0.999), weight_decay=5e-4)
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=5e-4)


class Training:
    """`step(number)` makes one step as train.py does and returns its losses, on the device."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
        mixed_precision: str = "none",
        compile: bool = False,
        cuda_graph: bool = False,
        kernels: bool = False,
        opt: str = "sgd",
        bit_widths: tuple[Bits, ...] = BITS,
        processes: Processes | None = None,
        sync_bn: bool = False,
        **cascade: Any,
    ):
        torch.manual_seed(0)
        self.processes = processes or Processes(device)
        self.device, self.dtype = device, dtype
        self.model = placed(NETWORKS[name]().to(dtype), device, channels_last).train()
        if kernels:
            with_kernels(self.model)
        synchronised(self.model, self.processes, sync_bn)
        self.in_training = autocasted(compiled(self.model, compile), mixed_precision, device)
        parameters = list(self.model.parameters())
        self.optimizer = optimizer_of(parameters, opt)
        self.update = updater(self.optimizer, parameters, 5.0)
        exchange = self.processes.gradient_exchange(parameters)
        scale = dict.fromkeys(bit_widths, 1.0)
        self.cascade = Cascade(bit_widths, scale, **cascade, mean=self.processes.mean, last_backward=exchange)
        self.take = recorded(self._take, cuda_graph, self.optimizer)

    def _take(self, images: Tensor, labels: Tensor, running: tuple[int, ...]) -> dict[int, Tensor]:
        frozen_statistics = self.model.precision.frozen_statistics
        return self.cascade.step(self.in_training, images, labels, self.update, running, frozen_statistics)

    def on(self, images: Tensor, labels: Tensor, step: int) -> dict[int, Tensor]:
        return self.take(images, labels, self.cascade.running(random.Random(step)))

    def step(self, step: int) -> dict[int, Tensor]:
        return self.on(*images_and_labels(step, self.device, self.dtype), step)


class Search:
    """`step(number)` makes one step of both optimisers as train_search.py does; returns the losses, on the device.
    Under -1 among them is that of alpha."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
        alpha_step: str = "joint",
        sample_paths: int = 0,
        noise_per_forward: bool = False,
        cuda_graph: bool = False,
    ):
        torch.manual_seed(0)
        supernet = Supernet(SMALL, Precision(BITS), sample_paths=sample_paths)
        self.device, self.dtype = device, dtype
        self.model = placed(supernet.to(dtype), device, channels_last).train()
        self.model.noise_per_forward = noise_per_forward
        self.weights = self.model.weight_parameters()
        optimizer = optimizer_of(self.weights, "sgd")
        self.update = updater(optimizer, self.weights, 5.0)
        flops = self.model.expected_flops
        self.architect = Architect(
            self.model, self.model.alpha, BITS[0], flops, 0.03, (0.5, 0.999), 1e-7, alpha_step=alpha_step
        )
        if cuda_graph:
            self.architect.loss = loss_by_graph(self.architect, self.model)
        self.cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0))
        self.take = recorded(self._take, cuda_graph, optimizer)

    def _take(self, images: Tensor, labels: Tensor, op_weights: Tensor, running: tuple[int, ...]) -> dict[int, Tensor]:
        frozen_statistics = self.model.precision.frozen_statistics
        with self.model.mixing_by(op_weights):
            return self.cascade.step(self.model, images, labels, self.update, running, frozen_statistics)

    def on(self, images: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, step: int) -> dict[int, Tensor]:
        model = self.model
        frozen_statistics = model.precision.frozen_statistics
        model.generator.manual_seed(step)
        model.sample()
        with frozen(self.weights):
            cross_entropy = self.architect.step(others, their_labels, frozen_statistics)
        model.generator.manual_seed(step)
        with frozen([model.alpha]):
            model.sample()
            losses = self.take(images, labels, model.drawn(), self.cascade.running(random.Random(step)))
        return {-1: cross_entropy, **losses}

    def step(self, step: int) -> dict[int, Tensor]:
        images, labels = images_and_labels(step, self.device, self.dtype)
        others, their_labels = images_and_labels(1000 + step, self.device, self.dtype)
        return self.on(images, labels, others, their_labels, step)


def outcome(stage: Training | Search, steps: int = STEPS) -> Outcome:
    """Make the steps."""
    before = state(stage.model)
    losses = [{bits: loss.item() for bits, loss in stage.step(step).items()} for step in range(steps)]
    return Outcome(losses, before, state(stage.model), stage.model)


def trained(*arguments: Any, **options: Any) -> Outcome:
    return outcome(Training(*arguments, **options))


def searched(*arguments: Any, **options: Any) -> Outcome:
    return outcome(Search(*arguments, **options))


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor of a state, relative to its largest number."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        largest = float(tensor.double().abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(
            second[name], tensor, rtol=0, atol=tolerance * max(largest, 1.0), msg=lambda m, n=name: f"{n}: {m}"
        )


def strayed(expected: Outcome, got: Outcome) -> float:
    """How far the trained parameters of `got` are from the expected ones, relative to how far training took them."""
    names = [name for name, _ in expected.model.named_parameters()]

    def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
        return float(torch.stack([(first[name] - second[name]).double().norm() for name in names]).norm())

    return distance(expected.after, got.after) / distance(expected.after, expected.before)
