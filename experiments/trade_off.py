"""Accuracy against EDP of two kinds of search: how far apart they are at equal EDP, and at equal accuracy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.statistics import CONFIDENCE, Paired, jackknifed

Network = tuple[float, float]
"""Energy-delay product in J*s, accuracy in %."""


class Lines(NamedTuple):
    """Accuracy over the logarithm of EDP: parallel lines for the two kinds of search.

    slope: points for e times the EDP, from networks of one seed and one kind; slope_half: half of its 95 % interval.
    at_equal_edp: distance of the lines in points, the second kind minus the first. log_edp: at equal accuracy the
    logarithm of the EDP of the second over that of the first; None where accuracy does not clearly rise with EDP. The
    intervals of both come from a jackknife over the seeds, with a slope fitted each time.
    """

    slope: float
    slope_half: float
    at_equal_edp: Paired
    log_edp: Paired | None


class Fit(NamedTuple):
    """By least squares with a level for each seed and kind: slope, its standard error, degrees of freedom, and the mean
    over the seeds of the distance between the levels."""

    slope: float
    error: float
    freedom: int
    distance: float


def parallel_lines(networks: Mapping[int, Sequence[Sequence[Network]]]) -> Lines | None:
    """networks: seed -> those of the first kind of search, those of the second. None where fewer than two seeds or two
    networks of a kind are there, or all of a kind have one EDP."""
    from scipy import stats

    if len(networks) < 2 or any(len(row) < 2 for kinds in networks.values() for row in kinds):
        return None
    whole = fitted(networks.values())
    fits = [fitted(kinds for seed, kinds in networks.items() if seed != left) for left in networks]
    if whole is None or None in fits:
        return None
    half = whole.error * float(stats.t.ppf((1 + CONFIDENCE) / 2, whole.freedom))
    at_equal_edp = jackknifed(whole.distance, [fit.distance for fit in fits if fit])
    log_edp = None
    if whole.slope > half:
        log_edp = jackknifed(-whole.distance / whole.slope, [-fit.distance / fit.slope for fit in fits if fit])
    return Lines(whole.slope, half, at_equal_edp, log_edp)


def fitted(seeds: Iterable[Sequence[Sequence[Network]]]) -> Fit | None:
    """Of some seeds, each with both kinds of networks; None where no EDP differs within a seed and kind."""
    pairs = [[np.array(row).T for row in kinds] for kinds in seeds]
    rows = [(np.log(edp_js), accuracy) for kinds in pairs for edp_js, accuracy in kinds]
    x = np.concatenate([values - values.mean() for values, _ in rows])
    y = np.concatenate([values - values.mean() for _, values in rows])
    if not x.any():
        return None
    slope = float(x @ y / (x @ x))
    freedom = len(x) - len(rows) - 1
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / freedom / float(x @ x))
    level = np.array([accuracy.mean() - slope * logs.mean() for logs, accuracy in rows]).reshape(-1, 2)
    return Fit(slope, error, freedom, float((level[:, 1] - level[:, 0]).mean()))
