"""Batch norm of one channel out of sums over the batch, and its gradients: what every kernel that normalises shares.

Sums are float64, what comes of them float32.
"""

import numpy as np
from numba import njit


@njit(inline="always")
def normalise(total, square, count, shift, gamma, beta, running_mean, running_var, own, momentum, eps):
    """(mean, 1 / std, a, b) with norm(x) = x * a + b. total, square: sums of x - shift and of its square over `count`
    values. gamma, beta and the running statistics, which move by `momentum`, are those at place `own`."""
    mean = total / count
    variance = square / count - mean * mean
    variance = 0.0 if variance < 0 else variance
    mean += shift
    if momentum > 0:
        running_mean[own] += momentum * (np.float32(mean) - running_mean[own])
        unbiased = variance * count / max(count - 1, 1)
        running_var[own] += momentum * (np.float32(unbiased) - running_var[own])
    deviation = np.float32(1 / np.sqrt(variance + eps))
    a = deviation * gamma[own]
    return np.float32(mean), deviation, a, beta[own] - np.float32(mean) * a


@njit(inline="always")
def gradients(total, product, count, mean, deviation, a):
    """(gradient of gamma, p, q, r) with the gradient of x = p * g + q * x + r: total, product are sums of g and of
    g * (x - mean); that of beta is `total`."""
    product *= deviation
    slope = -a * deviation * product / count
    return product, a, slope, -a * total / count - slope * mean
