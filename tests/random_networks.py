"""Small random networks of what an export knows: strides, groups, depth-wise, padding, dilation, sums, pooling."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import instantnet
from instantnet.quantize import recalibrate
from instantnet.quantizers import QUANTIZERS


class Block(nn.Module):
    """A convolution of a random kind, perhaps with norm, activation, shuffle and a sum."""

    def __init__(self, rng, channels, height, width):
        super().__init__()
        kind = rng.choice(["full", "grouped", "depthwise", "pointwise"])
        groups = {"grouped": 2 if channels % 2 == 0 else 1, "depthwise": channels}.get(kind, 1)
        self.out = channels * int(rng.integers(1, 3)) if kind != "pointwise" else int(rng.integers(1, 4)) * 2
        rows, columns = (1, 1) if kind == "pointwise" else rng.integers(1, 4, 2).tolist()
        stride = rng.integers(1, 3, 2).tolist()
        padding = [int(rng.integers(0, size)) for size in (rows, columns)]
        dilation = int(rng.integers(1, 3)) if kind == "full" and min(padding) > 0 else 1
        self.conv = nn.Conv2d(
            channels, self.out, (rows, columns), stride, padding, dilation, groups, bool(rng.integers(2))
        )
        self.norm = nn.BatchNorm2d(self.out) if rng.integers(2) else nn.Identity()
        if isinstance(self.norm, nn.BatchNorm2d):
            nn.init.uniform_(self.norm.weight, -1, 1)
            nn.init.uniform_(self.norm.bias, -1, 1)
        self.active = [nn.Identity(), nn.ReLU(), nn.ReLU6()][int(rng.integers(3))]
        self.shuffle = nn.ChannelShuffle(2) if self.out % 2 == 0 and rng.integers(3) == 0 else nn.Identity()
        _, self.out, *self.size = self.conv(torch.zeros(1, channels, height, width)).shape
        self.more = self.out - channels
        self.residual = bool(rng.integers(2)) and self.size == [height, width] and self.more >= 0

    def forward(self, x):
        y = self.shuffle(self.active(self.norm(self.conv(x))))
        if self.residual:
            y = y + (F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)) if self.more else x)
        return y


class RandomNetwork(nn.Module):
    def __init__(self, rng, size):
        super().__init__()
        channels, self.blocks = 3, nn.ModuleList()
        height, width = size
        for _ in range(int(rng.integers(2, 6))):
            if min(height, width) < 3:
                break
            self.blocks.append(Block(rng, channels, height, width))
            channels, (height, width) = self.blocks[-1].out, self.blocks[-1].size
        self.pool = [nn.AdaptiveAvgPool2d(1), nn.Identity(), nn.MaxPool2d(2, 1, 1)][int(rng.integers(3))]
        features = self.pool(torch.zeros(1, channels, height, width)).flatten(1).shape[1]
        self.last = nn.Linear(features, int(rng.integers(2, 6)))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(torch.flatten(self.pool(x), 1))


def random_network(seed, bits=(2, 4, 6, 8, 12, 16)):
    """(a calibrated switchable network, the shape of its images)."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size = tuple(rng.integers(4, 9, 2).tolist())
    name = list(QUANTIZERS)[seed % len(QUANTIZERS)]
    widths = sorted(rng.choice(bits, int(rng.integers(1, 4)), replace=False).tolist())
    model = RandomNetwork(rng, size)
    network = instantnet.switchable(
        model,
        [*widths, 32],
        quantizer=name,
        keep_float=[[], ["last"], []][int(rng.integers(3))],
        example=torch.rand(2, 3, *size),
    )
    for width in (*widths, 32):
        recalibrate(network, width, [(torch.rand(16, 3, *size), None)])
    return network.eval(), (3, *size)
