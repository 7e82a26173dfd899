"""Mean, spread, and whether a difference exceeds it."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN where there are fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """(mean(first) - mean(second), its standard error, degrees of freedom) after Welch 1947: unequal variances.

    Both are NaN where one side has fewer than two values, or where the means differ and neither side has any spread: an
    accuracy on a few hundred images repeats by chance, and nothing is then known of its error.
    """
    gap = mean(first) - mean(second) if first and second else math.nan
    if min(len(first), len(second)) < 2:
        return gap, math.nan, math.nan
    a, b = (spread(values) ** 2 / len(values) for values in (first, second))
    if a + b == 0:
        return (gap, 0.0, math.inf) if gap == 0 else (gap, math.nan, math.nan)
    return gap, math.sqrt(a + b), (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """(difference of the means, half the width of its 95 % interval); the half is NaN where `welch`'s error is."""
    gap, error, freedom = welch(first, second)
    return gap, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error


def p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Of Welch's test that the two means differ; NaN where `welch`'s error is."""
    gap, error, freedom = welch(first, second)
    if error == 0:
        return 1.0
    return 2 * float(stats.t.sf(abs(gap) / error, freedom))


class Paired(NamedTuple):
    """Of the differences between values that belong together: their mean, half the width of its 95 % interval, the
    two-sided p-value of Student's paired t-test, and how many there are."""

    gap: float
    half: float
    p: float
    count: int


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """`first` minus `second`, value by value. half and p are NaN where fewer than two pairs are there, or where all
    differences are the same but zero: nothing is then known of their error."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    gap = mean(gaps) if gaps else math.nan
    if len(gaps) < 2:
        return Paired(gap, math.nan, math.nan, len(gaps))
    if spread(gaps) == 0:
        return Paired(gap, 0.0, 1.0, len(gaps)) if gap == 0 else Paired(gap, math.nan, math.nan, len(gaps))
    test = stats.ttest_rel(first, second)
    low, high = test.confidence_interval(CONFIDENCE)
    return Paired(gap, float(high - low) / 2, float(test.pvalue), len(gaps))


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
    """`higher`, `lower` or `within the spread`: where the interval of the difference excludes zero, or does not;
    `without a spread`: there is no interval."""
    gap, half = difference(first, second)
    if math.isnan(half):
        return "without a spread"
    if abs(gap) <= half:
        return "within the spread"
    return "higher" if gap > 0 else "lower"
