"""A network's list of bit-widths changed in place, and `instantnet.calibrate`: a bit-width that was not trained.

State per bit-width is the batch norms in `SwitchableBatchNorm` and the rows of every quantizer; all other weights are
shared by all bit-widths.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from instantnet.quantize import SwitchableBatchNorm, SwitchableNetwork, recalibrate
from instantnet.quantizers import FLOAT_BITS, Quantizer
from instantnet.quantizers.base import BeginsWithABatch
from instantnet.widths import Bits, in_words, width_order, widths_of


def calibrate(
    model: SwitchableNetwork, bits: Bits, batches: Iterable, images_in: Callable[[int], int] | None = None
) -> None:
    """Measure everything that a bit-width needs besides the weights; one that the network lacks is added to its list.

    model: any switchable network, changed in place. batches: of the data it runs on, as inputs or pairs (inputs,
    labels), normalised as in training; labels are not used. images_in: as `recalibrate` has it.

    Batch norm statistics become the mean over the batches, input ranges follow their running rule, learned steps and
    clipping levels begin as in a training's first step (those of a trained bit-width are lost: `recalibrate` keeps
    them). A new bit-width has the batch norms' scales and shifts of the next wider one, else of the widest. The other
    bit-widths and the current one stay. An optimizer made before does not know the new parameters.

    Raises ValueError for a bit-width that cannot be, or without a batch; the network is then as it was.
    """
    bits = widths_of(bits).bits
    if not isinstance(model, SwitchableNetwork):
        raise ValueError(f"{type(model).__name__} is not a switchable network; instantnet.switchable makes one of it")
    pairs = _pairs(batches)
    first = next(pairs, None)
    if first is None:
        raise ValueError(f"no batch to measure {in_words(bits)} on")
    before = model.precision.bits
    if bits not in model.precision.bit_widths:
        change_bit_widths(model, [*model.precision.bit_widths, bits])
    model.set_bits(bits)
    forget(model)
    try:
        recalibrate(model, bits, chain([first], pairs), images_in=images_in)
    finally:
        model.set_bits(before)


def _pairs(batches: Iterable) -> Iterator[tuple[Tensor, Any]]:
    for batch in batches:
        yield (batch, None) if isinstance(batch, Tensor) else (batch[0], None)


def forget(model: SwitchableNetwork) -> None:
    """Let the next training batch at the current bit-width begin the quantizers that begin with one, learned ones too.
    State that all bit-widths share stays."""
    row = model.precision.index
    for module in model.modules():
        if isinstance(module, BeginsWithABatch) and not module.shared and module.precision.bits != FLOAT_BITS:
            module.set_initialised(row, False)


def change_bit_widths(model: SwitchableNetwork, bit_widths: Sequence[Bits]) -> None:
    """Give `model` another list of bit-widths, in place. What it has of a bit-width of both lists stays. A new one gets
    copies of the batch norms of the next wider one, else of the widest, and quantizers in their first state.

    The current bit-width stays where it can, else the highest is set. Raises ValueError, before any change, where the
    quantizer has no such bit-width.
    """
    before = model.precision.bit_widths
    model.precision.change(bit_widths)
    for module in list(model.modules()):
        if isinstance(module, SwitchableBatchNorm):
            _change_norms(module, before)
        elif isinstance(module, Quantizer) and not module.shared:
            _change_rows(module, before, model.precision.bit_widths)


def nearest(bits: Bits, known: Sequence[Bits]) -> Bits:
    """`bits` itself where known, else the next in the order of bit-widths, else the widest. known: lowest first."""
    return next((other for other in known if width_order(other) >= width_order(bits)), known[-1])


def _change_norms(module: SwitchableBatchNorm, before: Sequence[Bits]) -> None:
    norms, precision = dict(zip(before, module.norms(), strict=True)), module.precision
    copied = {id(precision): precision}  # of which there is one in a network
    module.per_bit_width = nn.ModuleList(
        norms[bits] if bits in norms else copy.deepcopy(norms[nearest(bits, before)], dict(copied))
        for bits in precision.bit_widths
    )


@torch.no_grad()
def _change_rows(quantizer: Quantizer, before: Sequence[Bits], after: Sequence[Bits]) -> None:
    """Rows of state in the order of the new list; a new bit-width's are those of a new quantizer."""
    new = type(quantizer)(quantizer.precision, quantizer.channels, quantizer.axis)
    own = {**dict(quantizer.named_parameters(recurse=False)), **dict(quantizer.named_buffers(recurse=False))}
    for name, old in own.items():
        rows = getattr(new, name).detach().to(old)
        for row, bits in zip(range(len(rows)), after, strict=False):  # the last ones, where it is float, have none
            if bits in before and before.index(bits) < len(old):
                rows[row] = old[before.index(bits)]
        setattr(quantizer, name, nn.Parameter(rows, old.requires_grad) if isinstance(old, nn.Parameter) else rows)
    if isinstance(quantizer, BeginsWithABatch):
        quantizer.read_initialised()
