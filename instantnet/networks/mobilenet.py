"""MobileNetV2: Sandler et al. 2018 (arXiv 1801.04381), table 2; on images of up to 64 pixels the first two strides are
1, as usual for CIFAR."""

from torch import Tensor, nn

from instantnet.networks.paper import Block, Form, PaperNetwork
from instantnet.operations import ConvNorm, convolution_flops, strided
from instantnet.quantize import Precision, SwitchableBatchNorm2d, SwitchableConv2d

SMALL_IMAGE = 64  # pixels: MobileNetV2 in its CIFAR form up to here
MOBILENET_STAGES = (  # table 2: expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(Block):
    """1x1 expansion, BN, ReLU6 (none where the expansion is 1); 3x3 depth-wise with the stride, BN, ReLU6; 1x1
    projection, BN; plus the input where the shapes match."""

    def __init__(self, c_in: int, c_out: int, stride: int, precision: Precision, expansion: int):
        super().__init__()
        c_mid = c_in * expansion
        self.stride = stride
        self.expand = None
        if expansion > 1:
            self.expand = SwitchableConv2d(c_in, c_mid, 1, bias=False, precision=precision)
            self.expand_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.depthwise = SwitchableConv2d(
            c_mid, c_mid, 3, stride=stride, padding=1, groups=c_mid, bias=False, precision=precision
        )
        self.depthwise_norm = SwitchableBatchNorm2d(c_mid, precision)
        self.project = SwitchableConv2d(c_mid, c_out, 1, bias=False, precision=precision)
        self.project_norm = SwitchableBatchNorm2d(c_out, precision)
        self.relu = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.relu(self.expand_norm(self.expand(x)))
        y = self.relu(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return y + x if self.has_shortcut else y

    def flops(self, height: int, width: int) -> int:
        """FLOPs for one input image of height x width pixels."""
        h, w = strided(height, self.stride), strided(width, self.stride)
        inside = 0 if self.expand is None else convolution_flops(self.expand, height, width)
        return inside + convolution_flops(self.depthwise, h, w) + convolution_flops(self.project, h, w)


def mobilenet_v2(name: str, form: Form, precision: Precision) -> PaperNetwork:
    """MobileNetV2; the header keeps its 1280 channels where width_mult is below 1, as in the paper."""

    def channels(number: int) -> int:
        """Rounded to a multiple of 8, never by more than a tenth down, as in the authors' code."""
        wanted = number * form.width_mult
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    small = max(form.image_height, form.image_width) <= SMALL_IMAGE
    c_in = channels(32)
    stem = ConvNorm(3, c_in, 3, 1 if small else 2, precision, form.quantize_ends, nn.ReLU6)
    blocks: list[Block] = []
    for stage, (expansion, width, count, stride) in enumerate(MOBILENET_STAGES):
        if small and stage == 1:
            stride = 1
        for i in range(count):
            blocks.append(InvertedResidual(c_in, channels(width), stride if i == 0 else 1, precision, expansion))
            c_in = channels(width)
    features = channels(1280) if form.width_mult > 1 else 1280
    header = ConvNorm(c_in, features, 1, 1, precision, form.quantize_ends, nn.ReLU6)
    return PaperNetwork(name, form, precision, stem, blocks, header, features)
