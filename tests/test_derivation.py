"""The most probable architecture within a window, against trying all of them."""

from itertools import product

import numpy as np
import pytest

from instantnet.derivation import most_probable

OPERATIONS, LAYERS = 5, 5
EVERY = np.array(list(product(range(OPERATIONS), repeat=LAYERS)))


def problem(seed, kinds):
    """(log_p, costs, value): the value is the product of the summed kinds of cost, as an EDP is."""
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(LAYERS, OPERATIONS))
    costs = draw.integers(1, 1000, size=(LAYERS, OPERATIONS, kinds)).astype(float)

    def value(found):
        return costs[np.arange(LAYERS), found].sum(axis=1).prod(axis=1)

    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), costs, value


def log_probability(log_p, found):
    return log_p[np.arange(LAYERS), found].sum(axis=-1)


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_no_other_within_the_window_is_more_probable(seed, kinds):
    log_p, costs, value = problem(seed, kinds)
    middle = np.quantile(value(EVERY), (seed % 10) / 10 + 0.05)
    least, most = 0.95 * middle, 1.05 * middle
    found = most_probable(log_p, costs, value, least, most)
    values = value(EVERY)
    inside = EVERY[(values >= least) & (values <= most)]
    assert least <= value(found[None])[0] <= most
    assert log_probability(log_p, found) == pytest.approx(log_probability(log_p, inside).max(), abs=1e-9)


def test_inside_the_window_each_layer_has_its_own_most_probable():
    log_p, costs, value = problem(0, 1)
    alone = log_p.argmax(axis=1)
    at = value(alone[None])[0]
    assert np.array_equal(most_probable(log_p, costs, value, at, at), alone)
    assert np.array_equal(most_probable(log_p, costs, value, 0, np.inf), alone)


def test_a_window_that_no_architecture_reaches_changes_nothing():
    log_p, costs, value = problem(1, 1)
    for least, most in ((1e6, 2e6), (0, 1)):
        assert np.array_equal(most_probable(log_p, costs, value, least, most), log_p.argmax(axis=1))


def test_layers_that_cost_the_same_whatever_they_do():
    """A kind of cost without a spread has one cell."""
    log_p, costs, value = problem(2, 2)
    costs[:, :, 1] = 7
    middle = np.median(value(EVERY))
    found = most_probable(log_p, costs, value, 0.9 * middle, 1.1 * middle)
    assert 0.9 * middle <= value(found[None])[0] <= 1.1 * middle
