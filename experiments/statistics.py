"""Mean, spread, and whether a difference exceeds it."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN where there are fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


class Paired(NamedTuple):
    """Of the differences between values that belong together: their mean, half the width of its 95 % interval, the
    two-sided p-value of Student's paired t-test, and how many there are.

    A mean farther from zero than `half` is significant at 5 % by itself: half is the smallest difference that the test
    could have shown with the spread it met.
    """

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
    from scipy import stats  # here: it takes a second to load, which processes that only do runs need not spend

    test = stats.ttest_rel(first, second)
    low, high = test.confidence_interval(CONFIDENCE)
    return Paired(gap, float(high - low) / 2, float(test.pvalue), len(gaps))


def jackknifed(whole: float, without_one: Sequence[float]) -> Paired:
    """An estimate with the interval that Student's t gives its pseudo-values (Tukey 1958). without_one: the estimate
    from all units but one, for each."""
    count = len(without_one)
    pseudo = [count * whole - (count - 1) * each for each in without_one]
    return paired(pseudo, [0.0] * count)._replace(gap=whole)


def significant(p_values: Mapping[Hashable, float]) -> set[Hashable]:
    """The keys of the tests that hold together at 1 - CONFIDENCE, after Holm 1979: the smallest p-value against an n-th
    of it, the next against an (n-1)-th, until one fails."""
    found: set[Hashable] = set()
    for tested, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > (1 - CONFIDENCE) / (len(p_values) - tested):
            break
        found.add(key)
    return found
