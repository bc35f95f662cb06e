"""A shuffled order of n things that is computed place by place and never held.

A Feistel network over pairs (left, right) with left, right < side = ⌈√n⌉: each round adds to one half, modulo
side, a hash of the other, so each round can be undone and the whole is a bijection of side² numbers. Results
beyond n are sent through again until they are below it ("cycle walking"), which is seldom needed: side² exceeds
n by 2√n at most. Memory is that of the places asked for, whatever n is.

Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains, methods 2 and 3. Departure: a quick hash in
the rounds, since the order need not be secret.
"""

import math

import numpy as np

ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64 to uint64 in which every bit depends on all bits: the end of splitmix64.

    Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int) -> int:
    """One 64-bit number from several, for example seed, dataset and epoch; their order matters."""
    found = 0
    for part in parts:
        found = int(mixed(np.array([(found + part * _GOLDEN + 1) & _MASK], dtype=np.uint64))[0])
    return found


def share(*parts: int) -> float:
    """A number in [0, 1) from several numbers."""
    return key(*parts) / 2**64


class Permutation:
    """One of the orders of range(n), chosen by `key`."""

    def __init__(self, n: int, key: int) -> None:
        assert 1 <= n < 1 << 62, n
        self.n = n
        self._side = np.uint64(math.isqrt(n - 1) + 1)
        begin = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        self._keys = mixed(begin + np.uint64(key & _MASK))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What stands at these places: int64 of the same shape, all of it below n as the places are."""
        found = np.array(places, dtype=np.uint64).reshape(-1)
        walking = np.arange(len(found))
        while len(walking):
            found[walking] = self._once(found[walking])
            walking = walking[found[walking] >= np.uint64(self.n)]
        return found.astype(np.int64).reshape(np.shape(places))

    def _once(self, x: np.ndarray) -> np.ndarray:
        left, right = np.divmod(x, self._side)
        for key in self._keys:
            left, right = right, (left + mixed(right + key)) % self._side
        return left * self._side + right
