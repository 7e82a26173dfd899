"""The claims by name, in the order of docs/results.md."""

from types import ModuleType

from experiments import (
    cdt,
    cdt_tried,
    demo,
    end_to_end,
    ends,
    mapper,
    paper_size,
    pretrained,
    quantizers,
    released,
    search,
)
from experiments.scales import Scale

CLAIMS = {
    "cdt": cdt,
    "search": search,
    "end_to_end": end_to_end,
    "released": released,
    "ends": ends,
    "mapper": mapper,
    "paper_size": paper_size,
    "cdt_tried": cdt_tried,
    "pretrained": pretrained,
    "demo": demo,
    "quantizers": quantizers,
}


def seeds_of(claim: ModuleType, scale: Scale) -> tuple[int, ...]:
    """The seeds a claim is measured with: the scale's, or the first of them where each costs too much (`AT_MOST`)."""
    return scale.seeds[: getattr(claim, "AT_MOST", None)]
