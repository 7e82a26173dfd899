"""Mean, spread, and whether a difference exceeds it."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence

from scipy import stats

CONFIDENCE = 0.95


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN where there are fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """(mean(first) - mean(second), half the width of its 95 % interval after Welch 1947), the two of unequal variance.

    The half width is NaN where one side has fewer than two values.
    """
    gap = mean(first) - mean(second)
    if min(len(first), len(second)) < 2:
        return gap, math.nan
    a, b = (spread(values) ** 2 / len(values) for values in (first, second))
    if a + b == 0:
        return gap, 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    return gap, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(a + b)


def p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Of Welch's test that the two means differ; NaN where one side has fewer than two values."""
    if min(len(first), len(second)) < 2:
        return math.nan
    if spread(first) == spread(second) == 0:
        return float(mean(first) == mean(second))
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def significant(p_values: Mapping[Hashable, float]) -> set[Hashable]:
    """The keys of the tests that hold together at 1 - CONFIDENCE, after Holm 1979: the smallest p-value against an n-th
    of it, the next against an (n-1)-th, until one fails."""
    found: set[Hashable] = set()
    for tested, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > (1 - CONFIDENCE) / (len(p_values) - tested):
            break
        found.add(key)
    return found


def verdict(first: Sequence[float], second: Sequence[float]) -> str:
    """`higher`, `lower` or `within the spread`: where the interval of the difference excludes zero, or does not."""
    gap, half = difference(first, second)
    if math.isnan(half):
        return "one seed"
    if abs(gap) <= half:
        return "within the spread"
    return "higher" if gap > 0 else "lower"
