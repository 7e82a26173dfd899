"""Quantizers, one file each: which values a bit-width has, what is measured and what is learned.

A layer has two, `weight_quantizer` and `input_quantizer`, of the pair that its network's `Precision` names.
"""

from collections.abc import Callable
from typing import NamedTuple

from instantnet.quantizers.base import FLOAT_BITS, Codes, Quantizer
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights

__all__ = ["FLOAT_BITS", "QUANTIZERS", "Codes", "Quantizer", "Scheme"]


class Scheme(NamedTuple):
    """A quantizer's two classes: weights(precision, channels, axis=0) and inputs(precision, channels or None)."""

    weights: Callable[..., Quantizer]
    inputs: Callable[..., Quantizer]


QUANTIZERS: dict[str, Scheme] = {"minmax": Scheme(MinMaxWeights, MinMaxInputs)}
"""Name -> classes."""
