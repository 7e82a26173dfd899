"""Every quantizer on the GPU against the CPU: the same codes, and the same numbers bit for bit.

Of those that take a mean or a tanh the last digits differ between devices: equal to a tolerance, and a value on the
edge between two codes may have the other one."""

import pytest
import torch
from three_steps import NETWORKS

from instantnet.kernels import with_kernels
from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS
from instantnet.quantizers.minmax import min_max, rounded

pytestmark = pytest.mark.gpu

BITS = (2, 4, 8, 12, 16)
BIT_EQUAL = ("minmax", "symmetric", "nested")
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


def assert_same(device, quantizer, x, bit_equal):
    for bits in BITS:
        expected = same_on("cpu", quantizer, x, bits)
        got = same_on(device, quantizer, x, bits)
        if bit_equal:
            assert all(map(torch.equal, expected, got)), f"{bits} bit"
            continue
        output, gradient, codes, scale, zero_point, offset = got
        torch.testing.assert_close(scale, expected[3])
        torch.testing.assert_close(offset, expected[5])
        assert torch.equal(zero_point, expected[4])
        assert (codes - expected[2]).abs().max() <= 1
        assert (codes != expected[2]).double().mean() < 1e-2
        torch.testing.assert_close(gradient, expected[1], rtol=1e-3, atol=1e-4)
        assert ((output - expected[0]).abs() <= 1.01 * scale + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_weights(device, name, dtype):
    for shape in [(12, 8, 3, 3), (12, 1, 5, 5), (12, 8)]:
        weight = torch.randn(shape, dtype=dtype)
        weight[3] = 0.25  # a channel whose values are all the same
        assert_same(device, QUANTIZERS[name].weights(Precision(BITS), 12).to(dtype), weight, name in BIT_EQUAL)


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
        assert_same(device, quantizer.train(training), 2 * torch.randn(shape, dtype=dtype), name in BIT_EQUAL)


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


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("shape", [(8, 12, 5, 5), (16, 3, 3, 3), (6, 8, 1, 1), (40, 17)], ids=str)
def test_the_kernel_rounds_as_the_plain_operations(device, shape, axis, bits):
    """Bit for bit, in both memory formats; a constant channel and NaN among the values."""
    if device.type == "cpu":
        pytest.skip("Triton is for GPUs")
    from instantnet.kernels import cuda

    torch.manual_seed(0)
    x = 3 * torch.randn(shape, device=device)
    x[:, 1] = 0.7
    for values in [x, x.to(memory_format=torch.channels_last)] if x.dim() == 4 else [x]:
        low, high = min_max(0.9 * values, axis)
        assert torch.equal(cuda.rounded(values, low, high, bits, axis), rounded(values, low, high, bits, axis))
        with_nan = values.clone()
        with_nan[0, 0] = float("nan")
        got, expected = (f(with_nan, low, high, bits, axis) for f in (cuda.rounded, rounded))
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_a_network_on_a_gpu_gets_its_kernel_and_none_of_the_cpu(device):
    if device.type == "cpu":
        pytest.skip("Triton is for GPUs")
    from instantnet.kernels import cuda

    network = NETWORKS["small"]().to(device)
    classes = [type(module) for module in network.modules()]
    assert [type(module) for module in with_kernels(network).modules()] == classes
    quantizers = [module for module in network.modules() if hasattr(module, "rounding")]
    assert quantizers and all((q.measure, q.rounding) == (min_max, cuda.rounded) for q in quantizers)
