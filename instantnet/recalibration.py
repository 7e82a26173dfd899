"""Recalibration at the end of a training: of every bit-width, or as the authors' code does it."""

from collections.abc import Callable, Iterable, Sequence

from instantnet.quantize import SwitchableNetwork, recalibrate
from instantnet.settings.stages import TrainSettings
from instantnet.widths import Bits


def recalibrated(
    model: SwitchableNetwork,
    batches: Callable[[], Iterable],
    images_in: Callable[[int], int],
    measured: Callable[[Sequence[Bits]], dict[Bits, float]],
    C: TrainSettings,
) -> dict[Bits, float] | None:
    """Recalibrate every bit-width of `model` on `batches()`, its own statistics only; returns None. images_in: step ->
    images of its batch.

    As released (`C.recalibration` = all), each bit-width's recalibration undoes the others'. The model then stays as
    trained, and the result holds `measured([bits])` of each bit-width after its own recalibration.
    """
    if C.recalibration == "own":
        for bits in model.precision.bit_widths:
            recalibrate(model, bits, batches(), "own", images_in)
        return None
    as_trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result: dict[Bits, float] = {}
    for bits in model.precision.bit_widths:
        recalibrate(model, bits, batches(), "all", images_in)
        result |= measured([bits])
    model.load_state_dict(as_trained)
    return result
