"""Every network's forward pass on a GPU that is not there: fake tensors have a shape and a device and hold nothing.

A tensor made on the CPU inside a pass, or one that does not move with its network, is found here without a GPU, and so
is a value that the host reads. What a GPU computes is tested in tests/gpu.
"""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.networks import mobilenet
from instantnet.networks.mobilenet import mobilenet_v2
from instantnet.networks.paper import Form
from instantnet.networks.resnet import cifar_resnet
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableNetwork
from instantnet.quantizers import QUANTIZERS

BITS = (4, 8, 32)
CUDA = torch.device("cuda")
EVERY_OPERATION = ["k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "skip", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip"]


def derived(ends: bool) -> SwitchableNetwork:
    geometry = Geometry((4, 6), (4, 6), (1, 2), 4, 1, 8, 5, 8, 8, ends)
    return DerivedNetwork(EVERY_OPERATION, geometry, Precision(BITS))


def supernet(ends: bool, sample_paths: int = 0) -> SwitchableNetwork:
    geometry = Geometry((1,), (6,), (2,), 4, 1, 8, 5, 8, 8, ends)
    return Supernet(geometry, Precision(BITS), sample_paths=sample_paths)


def form(ends: bool) -> Form:
    return Form(width_mult=0.25, num_classes=5, image_height=8, image_width=8, quantize_ends=ends)


NETWORKS = {
    "derived": derived,
    "supernet": supernet,
    "supernet, one path": lambda ends: supernet(ends, 1),
    "supernet, two paths": lambda ends: supernet(ends, 2),
    "resnet": lambda ends: cifar_resnet("resnet8", form(ends), Precision(BITS), 1),  # ResNet-38 has six of each block
    "mobilenet_v2": lambda ends: mobilenet_v2("mobilenet_v2", form(ends), Precision(BITS)),
}


@pytest.fixture(autouse=True)
def few_stages(monkeypatch):
    """One block of every kind: without expansion, strided, with a shortcut."""
    monkeypatch.setattr(mobilenet, "MOBILENET_STAGES", ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 2, 2)))


def measured(model: SwitchableNetwork) -> SwitchableNetwork:
    """`model` after a training pass of all its layers at every bit-width: ranges are known, so that no pass has to
    look."""
    paths = getattr(model, "sample_paths", 0)
    model.sample_paths = 0
    for bits in model.precision.bit_widths:
        model(torch.randn(2, 3, 8, 8), num_bits=bits)
    model.sample_paths = paths
    return model


def on_cuda(model: nn.Module) -> None:
    """Replace parameters and buffers, as `model.to("cuda")` does, and nothing else. In a FakeTensorMode."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(moved(parameter)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, moved(buffer))


def passes(model: SwitchableNetwork) -> set[str]:
    """Devices of the logits of passes in training, frozen training and evaluation at every bit-width."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        on_cuda(model)
        images = torch.empty(4, 3, 8, 8, device=CUDA)
        logits = [model(images, num_bits=bits) for bits in BITS]
        with model.precision.frozen_statistics():
            logits.append(model(images, num_bits=BITS[0]))
        model.eval()
        logits += [model(images, num_bits=bits) for bits in BITS]
    return {tensor.device.type for tensor in logits}


def know_paths(model: SwitchableNetwork, monkeypatch) -> None:
    """Which candidates run is read from the device once per draw: here it is said beforehand."""
    if getattr(model, "sample_paths", 0):
        paths = [list(range(model.sample_paths))] * len(model.layers())
        monkeypatch.setattr(model, "_paths_of", lambda op_weights: paths)


CASES = [("derived", False), ("derived", True), ("supernet", True), ("supernet, one path", False)]
CASES += [("supernet, two paths", False), ("resnet", False), ("resnet", True)]
CASES += [("mobilenet_v2", False), ("mobilenet_v2", True)]


@pytest.mark.sample(4)
@pytest.mark.parametrize("name, quantize_ends", CASES)
def test_everything_is_made_on_the_device_of_the_network(name, quantize_ends, monkeypatch):
    model = measured(NETWORKS[name](quantize_ends))
    know_paths(model, monkeypatch)
    assert passes(model) == {"cuda"}


@pytest.mark.parametrize("sample_paths", [0, 2])
def test_the_noise_of_a_search_is_drawn_on_the_cpu_and_sent(sample_paths, monkeypatch):
    """Sent so that the host does not wait for the GPU."""
    model = measured(supernet(False, sample_paths))
    know_paths(model, monkeypatch)
    with FakeTensorMode(allow_non_fake_inputs=False), Copies() as copies:
        on_cuda(model)
        model.sample()
        flops = model.expected_flops()
        logits = model(torch.empty(4, 3, 8, 8, device=CUDA), num_bits=4)
    assert {logits.device.type, model.op_weights.device.type, flops.device.type} == {"cuda"}
    assert copies.non_blocking == [True]


@pytest.mark.sample(3)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_pass_of_a_training_sends_nothing(quantizer):
    """A step is recorded as a CUDA graph, in which nothing can come from the CPU."""
    geometry = Geometry((1,), (6,), (2,), 4, 1, 8, 5, 8, 8, True)
    model = measured(DerivedNetwork(["k3_e3"], geometry, Precision(BITS, quantizer=quantizer)))
    with FakeTensorMode(allow_non_fake_inputs=False):
        on_cuda(model)
        images = torch.empty(4, 3, 8, 8, device=CUDA)
        with Copies() as copies:
            for bits in BITS:
                model(images, num_bits=bits)
    assert copies.non_blocking == []


class Copies(TorchDispatchMode):
    """Notes of every copy from the CPU to another device whether the host goes on meanwhile."""

    def __init__(self):
        super().__init__()
        self.non_blocking: list[bool] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        to = options.get("device")
        if function is torch.ops.aten._to_copy.default and to is not None and arguments[0].device.type != to.type:
            self.non_blocking.append(bool(options.get("non_blocking")))
        if function is torch.ops.aten.copy_.default and arguments[0].device.type != arguments[1].device.type:
            self.non_blocking.append(bool(arguments[2:] and arguments[2]))
        return function(*arguments, **options)


# --- the check itself finds what it is for


class Planted(nn.Module):
    """Adds what `plant` makes of its input to it."""

    def __init__(self, plant):
        super().__init__()
        self.forgotten = [torch.ones(4)]  # in a list, where no module looks for it
        self.plant = plant

    def forward(self, x: Tensor) -> Tensor:
        return x + self.plant(self, x)


PLANTS = {  # what it makes, and what the error says
    "made on the CPU": (lambda module, x: torch.ones(x.shape[-1]), "two different devices"),
    "not moved": (lambda module, x: module.forgotten[0], "convert all Tensors to FakeTensors"),
    "read by the host": (lambda module, x: x.sum().item(), "_local_scalar_dense"),
}


@pytest.mark.parametrize("plant, message", PLANTS.values(), ids=PLANTS)
def test_a_planted_mistake_is_found(plant, message):
    geometry = Geometry((1,), (4,), (2,), 4, 1, 8, 5, 8, 8, False)
    model = measured(DerivedNetwork(["skip"], geometry, Precision(BITS)))
    model.cells.append(Planted(plant))
    with pytest.raises(Exception, match=message):
        passes(model)


def test_a_copy_that_waits_is_found():
    with FakeTensorMode(), Copies() as copies:
        torch.zeros(2, device=CUDA)[0] = 1
        torch.ones(1).to(CUDA)
    assert copies.non_blocking == [False, False]
