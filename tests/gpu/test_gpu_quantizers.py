"""Every quantizer on the GPU against the CPU: the same codes, and the same numbers bit for bit."""

import pytest
import torch

from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS
from instantnet.quantizers.minmax import min_max, rounded

pytestmark = pytest.mark.gpu

BITS = (2, 4, 8, 12, 16)
SHAPES = {"images": (6, 8, 9, 7), "features": (16, 8)}


def same_on(device, quantizer, x, bits):
    """(output, gradient of x, codes) on the device, moved to the CPU, of a quantizer built and measured on the CPU."""
    quantizer.precision.set(bits)
    x = x.to(device).requires_grad_()
    with quantizer.precision.frozen_statistics():
        output = quantizer.to(device)(x)
        codes = quantizer.codes(x)
    (gradient,) = torch.autograd.grad((output * torch.linspace(-1, 1, x.numel(), device=device).view_as(x)).sum(), x)
    assert torch.equal(codes.values().broadcast_to(x.shape), output), "codes are what the output is made of"
    return [tensor.detach().cpu() for tensor in (output, gradient, *codes)]


def assert_same(device, quantizer, x):
    for bits in BITS:
        expected = same_on("cpu", quantizer, x, bits)
        got = same_on(device, quantizer, x, bits)
        assert all(map(torch.equal, expected, got)), f"{bits} bit"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_weights(device, name, dtype):
    for shape in [(12, 8, 3, 3), (12, 1, 5, 5), (12, 8)]:
        weight = torch.randn(shape, dtype=dtype)
        weight[3] = 0.25  # a channel whose values are all the same
        assert_same(device, QUANTIZERS[name].weights(Precision(BITS), 12).to(dtype), weight)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [None, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_inputs(device, name, dtype, channels, training):
    """In evaluation over running ranges, which some of the values lie outside of."""
    for shape in SHAPES.values():
        quantizer = QUANTIZERS[name].inputs(Precision(BITS), channels).to(dtype)
        for bits in BITS:
            quantizer.precision.set(bits)
            quantizer(torch.randn(shape, dtype=dtype))
        assert_same(device, quantizer.train(training), 2 * torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_recorded(device, name):
    """The first batch sets a range, the second moves it; a running range read by the CPU is that of the GPU."""
    states = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        quantizer = QUANTIZERS[name].inputs(Precision(BITS), 8).to(where)
        for bits in BITS:
            quantizer.precision.set(bits)
            for _ in range(2):
                quantizer(torch.randn(6, 8, 9, 7).to(where))
        states.append({key: tensor.cpu() for key, tensor in quantizer.state_dict().items()})
    for key, expected in states[0].items():
        torch.testing.assert_close(states[1][key], expected, rtol=1e-6, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_the_kernels_of_the_cpu_stay_out(device):
    if device.type == "cpu":
        pytest.skip("on a CPU they are put in")
    geometry = Geometry((1,), (4,), (1,), 4, 1, 8, 5, 8, 8, True)
    network = DerivedNetwork(["k3_e3"], geometry, Precision(BITS)).to(device)
    classes = [type(module) for module in network.modules()]
    assert [type(module) for module in with_kernels(network).modules()] == classes
    quantizers = [module for module in network.modules() if hasattr(module, "rounding")]
    assert quantizers and all((q.measure, q.rounding) == (min_max, rounded) for q in quantizers)
