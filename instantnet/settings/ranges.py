"""What a setting may be, where a type does not say it: the ranges and forms that more than one setting has."""

from typing import Literal

from instantnet.engine.user_code import names_a_function, names_of_library
from instantnet.settings.schema import AtLeast, Between
from instantnet.widths import EXPECTED, Bits, own_bits, widths_of

POSITIVE = Between(0, float("inf"), open=True)
MAX_SEED = 2**63 - 1  # torch's generators take no larger one
# Files of strangers name sizes, too: what is beyond these is refused before anything is built. docs/settings.md
MOST_LAYERS = 200  # searched layers of a network
MOST_BIT_WIDTHS = 16
LOWEST_BITS = {"symmetric": 2, "lsq": 2}  # quantizer -> the lowest bit-width that it has, if not 1
MOST_CHANNELS = 2**16
MOST_CLASSES = 100_000
MOST_PIXELS = 4096  # height, and width, of an image
MOST_AT_ONCE = 1024  # processes and threads
MOST_WIDTH = 64  # factor on a network's channels
MOST_STEPS = 2**31 - 1  # epochs, steps
ANY_STEPS = AtLeast(0, MOST_STEPS)
AT_ONCE = AtLeast(0, MOST_AT_ONCE)
PIXELS = AtLeast(1, MOST_PIXELS)
CHANNELS = AtLeast(2, MOST_CHANNELS)
METRIC_UNITS = {"flops": "FLOPs", "energy": "J", "latency": "s", "edp": "J*s"}
DATASETS = Literal["cifar100", "cifar10", "imagenet", "image_folder", "digits", "random"]


class BitWidths:
    """Legal: a bit-width from 1 to 32, or one of weights and one of activations, as in w4a8."""

    def __str__(self) -> str:
        return EXPECTED

    def __call__(self, value: Bits) -> bool:
        try:
            widths_of(value)
        except ValueError:
            return False
        return not str(value).isdigit() or isinstance(value, int)  # a number is not text

    def canonical(self, value: Bits) -> Bits:
        """w8a8 is 8."""
        return widths_of(value).bits


class OwnBits:
    """Legal: names or patterns of layers with a bit-width, as in layer4.*=8."""

    def __str__(self) -> str:
        return f"pattern=bits as in layer4.*=8, with bits {EXPECTED}"

    def __call__(self, value: str) -> bool:
        try:
            own_bits([value])
        except ValueError:
            return False
        return True


class FileAndFunction:
    """Legal: a function of the user's, in the form path/to/file.py:function."""

    def __str__(self) -> str:
        return "path/to/file.py:function"

    def __call__(self, value: str) -> bool:
        return names_a_function(value)


class NetworkOfOthers:
    """Legal: a model of a library, or a function of the user's that returns a module."""

    def __str__(self) -> str:
        return "torchvision:NAME, timm:NAME, path/to/file.py:function"

    def __call__(self, value: str) -> bool:
        return names_of_library(value) or names_a_function(value)
