"""Where each layer's input comes from and what is added to its output: in networks that run, and in lists of layers."""

import pytest
import torch
import torch.nn.functional as F
from tiny_network import tiny_model
from torch import nn

from automapper.capture import capture
from automapper.layer_list import read_layers
from automapper.layers import load_torchvision
from automapper.workload import DRAM
from hw_model import InputError


def graph_of(model, *inputs):
    """{name: (source, adds, stored)} by names, of what runs."""
    layers, _ = capture(model, *inputs, plain_bits=None)
    names = [item.layer.name for item in layers]

    def name(index):
        return "dram" if index in (None, DRAM) else names[index]

    return {item.layer.name: (name(item.source), [*map(name, item.adds)], item.stored) for item in layers}


class Net(nn.Module):
    """Convolutions a, b and c of 4 channels, and a way through them."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.way(self, x)


IMAGE = torch.zeros(2, 4, 8, 8)
WAYS = {
    "chain": (lambda n, x: n.c(n.b(n.a(x))), [("dram", [], False), ("a", [], False), ("b", [], True)]),
    "element by element": (
        lambda n, x: n.c(F.relu6(n.b(F.relu(n.norm(n.a(x)), inplace=True)).clone())),
        [("dram", [], False), ("a", [], False), ("b", [], True)],
    ),
    "residual": (
        lambda n, x: n.c(n.b(y := n.a(x)) + y),
        [("dram", [], False), ("a", ["a"], False), ("b", [], True)],
    ),
    "residual in place": (
        lambda n, x: n.c(F.relu_(n.b(y := n.a(x)).add_(y))),
        [("dram", [], False), ("a", ["a"], False), ("b", [], True)],
    ),
    "the network's input is added": (
        lambda n, x: n.c(n.b(n.a(x)) + x),
        [("dram", [], False), ("a", ["dram"], False), ("b", [], True)],
    ),
    "added to the layer that runs last": (
        lambda n, x: (b := n.b(y := n.a(x)), n.c(y) + b)[1],
        [("dram", [], False), ("a", [], False), ("a", ["b"], True)],
    ),
    "two adds": (
        lambda n, x: n.b(y := n.a(x)) + y + x,
        [("dram", [], False), ("a", ["a", "dram"], True)],
    ),
    "read before and after the add": (
        lambda n, x: (y := n.a(x), z := n.b(y), n.c(z) + (z + y))[2],
        [("dram", [], True), ("a", [], True), ("b", ["dram"], True)],
    ),
    "pool": (
        lambda n, x: n.c(n.b(F.max_pool2d(n.a(x), 2))),
        [("dram", [], True), ("dram", [], False), ("b", [], True)],
    ),
    "concatenation": (
        lambda n, x: n.b(torch.cat([n.a(x), x])),
        [("dram", [], True), ("dram", [], True)],
    ),
    "product of two outputs": (
        lambda n, x: n.c(n.b(y := n.a(x)) * y),
        [("dram", [], True), ("a", [], True), ("dram", [], True)],
    ),
    "gate over the whole map": (
        lambda n, x: n.b((y := n.a(x)) * torch.sigmoid(y.mean((2, 3), keepdim=True))),
        [("dram", [], True), ("dram", [], True)],
    ),
    "rows and columns swapped": (
        lambda n, x: n.b(n.a(x).transpose(2, 3)),
        [("dram", [], True), ("dram", [], True)],
    ),
    "unknown to anyone": (
        lambda n, x: n.b(n.a(x).flip(2)),
        [("dram", [], True), ("dram", [], True)],
    ),
    "the caller sees a tensor inside": (
        lambda n, x: (y := n.a(x), n.b(y)),
        [("dram", [], True), ("a", [], True)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_sources_and_adds_by_hand(way):
    run, expected = WAYS[way]
    assert list(graph_of(Net(run), IMAGE).values()) == expected


def test_a_switchable_network_is_seen_through_its_quantizers():
    found = graph_of(tiny_model(), torch.zeros(1, 3, 8, 8))
    assert found["cells.0.expand"] == ("stem.conv", [], False)
    assert found["cells.0.depthwise"] == ("cells.0.expand", [], False)
    assert found["cells.0.project"] == ("cells.0.depthwise", ["stem.conv"], False)
    assert found["cells.1.expand"] == ("cells.0.project", [], False)
    assert found["cells.1.depthwise"][0] == "cells.1.expand", "its channels are shuffled: read in another order"
    assert found["cells.3.expand"][0] == "cells.1.project"
    assert found["header.conv"] == ("cells.3.project", [], True), "a pool reads it"
    assert found["classifier"][0] == "dram"


def test_resnets_shortcut_is_added_where_the_later_convolution_ends():
    layers = {item.layer.name: item for item in load_torchvision("resnet18", 1).layers}
    index = list(layers).index
    assert layers["layer1.0.conv2"].adds == (DRAM,), "the pool's output"
    assert layers["layer2.0.downsample.0"].source == index("layer1.1.conv2")
    assert layers["layer2.0.downsample.0"].adds == (index("layer2.0.conv2"),)
    assert layers["layer2.1.conv1"].source == index("layer2.0.downsample.0")


CHAIN = """- {name: a, K: 8, C: 3, P: 8, Q: 8}
- {name: b, from: a, G: 8, P: 4, Q: 4, R: 3, S: 3, stride: 2, H: 8, W: 8, pad_top: 1, pad_left: 1}
- {name: c, from: b, K: 8, C: 8, P: 4, Q: 4, add: b, stored: true}
- {name: d, from: c, K: 8, C: 8, P: 4, Q: 4, add: [b, dram]}
"""


def test_a_list_of_layers_says_it(tmp_path):
    path = tmp_path / "layers.yaml"
    path.write_text(CHAIN)
    found = [(item.source, item.adds, item.stored) for item in read_layers(str(path), 3).layers]
    assert found == [(None, (), False), (0, (), False), (1, (1,), True), (2, (1, DRAM), False)]


WRONG = {
    "from: z": ("from: a", "from: 'z' is not the name of an earlier layer"),
    "from: b,": ("from: a,", "from: 'b' is not the name of an earlier layer"),
    "from: d,": ("from: a,", "from: 'd' is not the name of an earlier layer"),
    "from: [a],": ("from: a,", "from: ['a'] is not the name of an earlier layer"),
    "H: 9,": ("H: 8,", "from: a does not fit: 8 rows are made, 9 are read"),
    "G: 9,": ("G: 8,", "from: a does not fit: 8 channels are made, 9 are read"),
    "add: a,": ("add: b,", "add: the outputs of a and of this layer differ: 8 and 4 rows"),
    "add: [b, 3]": ("add: [b, dram]", "add: 3 is not the name of an earlier layer"),
    "stored: 2": ("stored: true", "stored: 2 is neither true nor false"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_links_are_one_line_with_the_place(wrong, tmp_path):
    path = tmp_path / "layers.yaml"
    right, message = WRONG[wrong]
    path.write_text(CHAIN.replace(right, wrong, 1))
    with pytest.raises(InputError) as error:
        read_layers(str(path), 1)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}, line ")
