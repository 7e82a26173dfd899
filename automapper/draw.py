"""Compiled: random numbers, and random sizes of tiles."""

import numpy as np

from hw_model.disk_cache import jit_of

MULTIPLY = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLY_AGAIN = np.uint64(0x94D049BB133111EB)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


jit = jit_of((), forceinline=True)


def _smallest_factors(below: int) -> np.ndarray:
    """[below]: the smallest prime factor of every number, itself for 0 and 1."""
    found = np.arange(below)
    for prime in range(int(below**0.5), 1, -1):  # the smallest writes last
        found[prime * prime :: prime] = prime
    return found.astype(np.int32)


SMALLEST = _smallest_factors(1 << 13)
_OF_ROOTS = _smallest_factors(46342)  # up to the root of 2^31, the largest size of a dimension
PRIMES = np.flatnonzero(np.arange(len(_OF_ROOTS)) == _OF_ROOTS)[2:].astype(np.int32)


@jit
def uniform(rng):
    """The next number in [0, 1) of the stream rng [1] uint64 (splitmix64, Steele et al. 2014)."""
    rng[0] += GOLDEN
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * MULTIPLY
    z = (z ^ (z >> np.uint64(27))) * MULTIPLY_AGAIN
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def below(rng, n):
    """A random integer from 0 to n - 1."""
    return int(uniform(rng) * n)


@jit
def random_divisor(rng, n):
    """A divisor of n, above 1 where n is: a random part of its prime factors."""
    part = 1
    rest = np.int64(n)
    last = 1
    index = 0
    while rest > 1:
        if rest < len(SMALLEST):
            prime = np.int64(SMALLEST[rest])
        elif index >= len(PRIMES) or np.int64(PRIMES[index]) * PRIMES[index] > rest:
            prime = rest
        elif rest % PRIMES[index] != 0:
            index += 1
            continue
        else:
            prime = np.int64(PRIMES[index])
        rest = np.int64(np.uint32(rest) // np.uint32(prime))  # half the time of a signed division of 64 bits
        last = prime
        if uniform(rng) < 0.5:
            part *= prime
    return last if part == 1 else part


@jit
def random_part(rng, n):
    """A tile size for n > 1 iterations: mostly a divisor, else any size that is tight for its number of tiles."""
    if uniform(rng) < 0.7:
        return random_divisor(rng, n)
    tiles = int(np.exp(uniform(rng) * np.log(n))) if n > 2 else 1
    return max(2, -(-n // tiles))
