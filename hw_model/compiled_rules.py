"""`rules`, compiled and inlined into whatever calls them."""

from numba import njit

from hw_model import rules

SOURCES = (rules.__file__, __file__)  # a change in one of them makes compiled callers stale: `disk_cache.cached`


def _inlined(function):
    return njit(function, inline="always", error_model="numpy")


span = _inlined(rules.span)
weight_words = _inlined(rules.weight_words)
input_words = _inlined(rules.input_words)
output_words = _inlined(rules.output_words)
capacity_bits = _inlined(rules.capacity_bits)
returning = _inlined(rules.returning)
