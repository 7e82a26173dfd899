"""Quantizers, one file each: which values a bit-width has, what is measured and what is learned.

A layer has two, `weight_quantizer` and `input_quantizer`, of the pair that its network's `Precision` names.
"""

from typing import NamedTuple

from instantnet.quantizers.base import FLOAT_BITS, Codes, Quantizer, learned_by_quantizers
from instantnet.quantizers.dorefa import DoReFaInputs, DoReFaWeights
from instantnet.quantizers.dorefa_scl import ClippedInputs, RescaledWeights
from instantnet.quantizers.lsq import LSQInputs, LSQWeights
from instantnet.quantizers.minmax import MinMaxInputs, MinMaxWeights
from instantnet.quantizers.nested import NestedInputs, NestedWeights
from instantnet.quantizers.released import ReleasedInputs, ReleasedWeights
from instantnet.quantizers.symmetric import SymmetricInputs, SymmetricWeights

__all__ = ["FLOAT_BITS", "QUANTIZERS", "Codes", "Quantizer", "Scheme", "learned_by_quantizers"]


class Scheme(NamedTuple):
    """A quantizer's two classes: weights(precision, channels, axis=0) and inputs(precision, channels or None)."""

    weights: type[Quantizer]
    inputs: type[Quantizer]

    @property
    def lowest_bits(self) -> int:
        """The lowest bit-width it is defined at."""
        return max(self.weights.lowest_bits, self.inputs.lowest_bits)


QUANTIZERS: dict[str, Scheme] = {
    "minmax": Scheme(MinMaxWeights, MinMaxInputs),
    "symmetric": Scheme(SymmetricWeights, SymmetricInputs),
    "nested": Scheme(NestedWeights, NestedInputs),
    "lsq": Scheme(LSQWeights, LSQInputs),
    "dorefa_scl": Scheme(RescaledWeights, ClippedInputs),
    "dorefa": Scheme(DoReFaWeights, DoReFaInputs),
    "released": Scheme(ReleasedWeights, ReleasedInputs),
}
"""Name -> classes."""
