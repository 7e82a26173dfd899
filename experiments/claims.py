"""The claims by name, in the order of docs/results.md."""

from experiments import cdt, cdt_tried, demo, end_to_end, ends, mapper, paper_size, pretrained, released, search

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
}
