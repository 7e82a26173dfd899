"""`instantnet.calibrate`: a bit-width that was not trained, on networks of every make and with every quantizer."""

import copy
import re

import pytest
import torch
from tiny_runs import TINY_GEOMETRY
from torch import nn

import instantnet
from instantnet.model_infer import DerivedNetwork
from instantnet.networks.build import build_network
from instantnet.networks.calibrate import change_bit_widths
from instantnet.quantize import Precision, recalibrate, set_own_bits
from instantnet.quantizers import QUANTIZERS

BITS = (4, 8, 32)
FORM = {"width_mult": 0.25, "num_classes": 5, "image_height": 8, "image_width": 8, "quantize_ends": False}
IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(3))
BATCHES = IMAGES.split(4)


class Residual(nn.Module):
    """A dropout, a transposed convolution, a linear layer behind a norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.hidden = nn.Linear(6, 6)
        self.flat_norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.up(self.drop(self.norm(self.stem(x)).relu())).mean((2, 3))
        return self.head(self.flat_norm(self.hidden(x)).relu())


def converted(bit_widths, quantizer):
    return instantnet.switchable(Residual(), bit_widths, quantizer=quantizer, example=IMAGES)


def of_the_paper(name):
    return lambda bits, quantizer: build_network({"network": name}, FORM, Precision(bits, quantizer=quantizer))


NETWORKS = {
    "converted": converted,
    "derived": lambda bits, quantizer: DerivedNetwork(
        ["k3_e1", "k5_e3", "skip", "k3_e1_g2"], TINY_GEOMETRY, Precision(bits, quantizer=quantizer)
    ),
    **{name: of_the_paper(name) for name in ("resnet38", "resnet74", "mobilenet_v2")},
}


def trained(make, quantizer="minmax", bit_widths=BITS):
    """A network that has seen a few batches at each bit-width, in evaluation."""
    torch.manual_seed(1)
    network = make(bit_widths, quantizer)
    network.train()
    with torch.no_grad():
        for batch in BATCHES:
            for bits in bit_widths:
                network(batch, num_bits=bits)
    return network.eval()


@torch.no_grad()
def outputs(network, bit_widths=BITS):
    return {bits: network(IMAGES, num_bits=bits) for bits in bit_widths}


FEW = [(name, "minmax") for name in NETWORKS if "resnet" not in name] + [("converted", name) for name in QUANTIZERS]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "quantizer"),
    [*dict.fromkeys(FEW)]
    + [
        pytest.param(name, quantizer, marks=pytest.mark.full)
        for name in NETWORKS
        for quantizer in QUANTIZERS
        if (name, quantizer) not in FEW
    ],
)
def test_a_bit_width_that_the_list_lacks(name, quantizer):
    """It runs as one measured in a network that always had it; the others are as they were, bit for bit."""
    network = trained(NETWORKS[name], quantizer)
    before = outputs(network)
    network.set_bits(8)
    instantnet.calibrate(network, 6, [(batch, None) for batch in BATCHES])
    assert network.precision.bit_widths == (4, 6, 8, 32) and network.precision.bits == 8 and not network.training
    assert all(torch.equal(after, before[bits]) for bits, after in outputs(network).items())

    twin = trained(NETWORKS[name], quantizer, (4, 6, 8, 32))
    shared = {
        key: value for key, value in network.state_dict().items() if not re.search("per_bit_width|quantizer", key)
    }
    twin.load_state_dict(shared, strict=False)  # a stem's statistics are of all passes
    for module in twin.modules():  # as nothing had been measured at 6 bit
        if hasattr(module, "set_initialised"):
            module.set_initialised(1, False)
        if hasattr(module, "low"):
            module.low[1], module.high[1] = 0.0, 0.0  # where `released` begins
    recalibrate(twin, 6, [(batch, None) for batch in BATCHES])
    assert torch.equal(outputs(network, [6])[6], outputs(twin, [6])[6])
    twin = NETWORKS[name]((4, 6, 8, 32), quantizer)
    twin.load_state_dict(network.state_dict())  # the names and shapes are those of such a network
    assert torch.equal(outputs(network, [6])[6], outputs(twin.eval(), [6])[6])


def test_a_bit_width_of_the_list_begins_again():
    """As one whose steps were never trained; the other rows stay."""
    network = trained(converted, "lsq")
    fresh = copy.deepcopy(network)
    with torch.no_grad():
        network.hidden.weight_quantizer.step[0].fill_(99.0)
        network.norm.per_bit_width[0].running_var.fill_(99.0)
    instantnet.calibrate(network, 4, BATCHES)
    instantnet.calibrate(fresh, 4, BATCHES)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in network.state_dict().items())


def test_what_it_measures_is_what_evaluation_meets():
    """Dropout is off, no random number is drawn, and logits of 16 bit are those of 32."""
    network = trained(converted)
    state = torch.get_rng_state()
    instantnet.calibrate(network, 16, [IMAGES])
    instantnet.calibrate(network, 32, [IMAGES])
    assert torch.equal(torch.get_rng_state(), state)
    found = outputs(network, [16, 32])
    torch.testing.assert_close(found[16], found[32], atol=2e-3, rtol=0)
    mean = network.stem(IMAGES).mean((0, 2, 3))
    torch.testing.assert_close(network.norm.per_bit_width[-1].running_mean, mean)


def test_shared_ranges_and_shared_modules():
    precision = Precision(BITS, range_scope="shared")
    network = DerivedNetwork(["k3_e1"] * 4, TINY_GEOMETRY, precision)
    with torch.no_grad():
        network.train()(IMAGES, num_bits=8)
    before = outputs(network.eval())
    instantnet.calibrate(network, 5, BATCHES)
    assert all(torch.equal(after, before[bits]) for bits, after in outputs(network).items())
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network = instantnet.switchable(nn.Sequential(block, nn.ReLU(), block), BITS, keep_float=[], example=IMAGES)
    instantnet.calibrate(network, 5, BATCHES)
    assert network[0][1] is network[2][1] and len(network[0][1].per_bit_width) == 4


@pytest.mark.parametrize("quantizer", ["minmax", "lsq"])
def test_a_list_is_changed_as_a_whole(quantizer):
    network = trained(converted, quantizer)
    before = outputs(network)
    change_bit_widths(network, [32, 2, 8])
    assert network.precision.bit_widths == (2, 8, 32)
    found = outputs(network, [8, 32])
    assert all(torch.equal(found[bits], before[bits]) for bits in found)
    first = network.norm.per_bit_width[0]
    assert (
        torch.equal(first.weight, network.norm.per_bit_width[1].weight) and first is not network.norm.per_bit_width[1]
    )
    assert network.hidden.input_quantizer.initialised.tolist() == [False, True]
    change_bit_widths(network, [32])
    assert torch.equal(outputs(network, [32])[32], before[32])


def test_new_parameters_train_and_are_copied():
    network = trained(converted, "lsq")
    instantnet.calibrate(network, 6, BATCHES)
    network.train()(IMAGES, num_bits=6).square().sum().backward()
    quantizer = network.hidden.weight_quantizer
    assert isinstance(quantizer.step, nn.Parameter) and quantizer.step.grad[1].abs().sum() > 0
    twin = copy.deepcopy(network)
    assert twin.norm.per_bit_width[1].precision is twin.precision and twin.precision is not network.precision


@pytest.mark.parametrize(
    ("bits", "batches", "message"),
    [
        (0, BATCHES, "bit-width 0 is not between 1 and 32, or widths of weights and activations as in w4a8"),
        (33, BATCHES, "bit-width 33 is not"),
        (True, BATCHES, "bit-width True is not"),
        (6, [], "no batch to measure 6 bit on"),
        (1, BATCHES, "quantizer 'lsq' begins at 2 bit"),
    ],
)
def test_mistakes_change_nothing(bits, batches, message):
    network = trained(converted, "lsq")
    before = network.state_dict()
    with pytest.raises(ValueError, match=message):
        instantnet.calibrate(network, bits, batches)
    assert network.precision.bit_widths == BITS
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_plain_module_is_refused():
    with pytest.raises(ValueError, match="Residual is not a switchable network"):
        instantnet.calibrate(Residual(), 4, BATCHES)


@pytest.mark.parametrize("name", ["minmax", "lsq", "dorefa_scl"])
def test_a_bit_width_of_weights_and_activations_apart(name):
    """Between the others, where rows of state move; single layers keep their own bit-width."""
    torch.manual_seed(0)
    network = DerivedNetwork(["k3_e3", "skip", "k3_e1", "k3_e1"], TINY_GEOMETRY, Precision([4, 8, 32], quantizer=name))
    set_own_bits(network, {"cells.2.*": "w2a3"})
    x = torch.randn(8, 3, 8, 8)
    for bits in (4, 8, 32):
        network(x, num_bits=bits)
    before = {bits: network.eval()(x, num_bits=bits) for bits in (4, 8, 32)}
    instantnet.calibrate(network, "w4a8", [x, x])
    assert network.precision.bit_widths == (4, "w4a8", 8, 32)
    assert all(torch.equal(network(x, num_bits=bits), before[bits]) for bits in before)
    result = network(x, num_bits="w4a8")
    assert result.isfinite().all() and not any(torch.equal(result, other) for other in before.values())
    assert network.cells[2].expand.input_quantizer.precision.bits == 3
