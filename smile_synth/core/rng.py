"""Random numbers addressed by (seed, index, purpose): no hidden state, any order, any process.

Every number comes from Philox 4x64-10, a counter-based generator (Salmon et al., SC 2011), by the
algorithms of this file alone, so that other versions of NumPy draw the same numbers. The key is
(seed, index), and the purpose selects a block of 2^192 counters, so streams never overlap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from smile_synth.core.compile import kernel

MAX_SEED = 2**63 - 1
Float = NDArray[np.float64]
Int = NDArray[np.int64]


@lru_cache(maxsize=65536)
def counter_block(purpose: str) -> int:
    """Return the highest 64 bits of the counter of a purpose's streams."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


@lru_cache(maxsize=1024)
def _cumulative(weights: tuple[float, ...]) -> Float:
    """Return the cumulative sums of weights, divided by their total."""
    share = np.array(weights, np.float64)
    cumulative = np.cumsum(share / share.sum())
    return np.asarray(cumulative / cumulative[-1])


class RandomStreams:
    """Draws from R independent streams at once.

    Row r is the stream of (seed, indices[r], purposes[r]). Its numbers do not depend on the other rows.
    The first axis of every result is the row.
    """

    def __init__(self, seed: int, indices: ArrayLike, purposes: Sequence[str] | str) -> None:
        """Address R streams.

        Args:
            seed: 0 .. 2^63 - 1. Seed 0 is a seed like any other.
            indices: ``[R]``, each 0 .. 2^63 - 1.
            purposes: what the numbers are for, such as ``"background"``: one for all rows, or one per row.

        Raises:
            ValueError: seed or index outside its range.
        """
        try:
            index = np.array(indices, np.int64, ndmin=1)
        except OverflowError:
            raise ValueError(f"index must be in 0..2^63-1, got {np.max(indices)}") from None
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be in 0..2^63-1, got {seed}")
        self._num_rows = len(index)
        lowest = min(index.tolist(), default=0)
        if lowest < 0:
            raise ValueError(f"index must be in 0..2^63-1, got {lowest}")
        names = [purposes] * self._num_rows if isinstance(purposes, str) else purposes
        blocks = np.array([counter_block(name) for name in names], np.uint64)
        self._address = np.uint64(seed), index.view(np.uint64), blocks
        self._num_drawn = np.zeros(self._num_rows, np.int64)  # 64-bit words that each row has drawn

    def __len__(self) -> int:
        """Return the number of rows R."""
        return self._num_rows

    def random(self, *shape: int) -> Float:
        """Draw uniform numbers 0 <= u < 1, ``[R, *shape]``, multiples of 2^-53."""
        out = np.empty((self._num_rows, math.prod(shape)))
        _fill_uniform(*self._address, self._num_drawn, out)
        return out.reshape(self._num_rows, *shape)

    def random_float32(self, *shape: int) -> NDArray[np.float32]:
        """Draw uniform float32 numbers 0 <= u < 1, ``[R, *shape]``, multiples of 2^-24.

        A 64-bit word gives two numbers, from its lower and its upper half. A call starts with a new word.
        """
        out = np.empty((self._num_rows, math.prod(shape)), np.float32)
        _fill_uniform_float32(*self._address, self._num_drawn, out)
        return out.reshape(self._num_rows, *shape)

    def uniform(self, low: float | Float, high: float | Float, *shape: int) -> Float:
        """Draw uniform numbers low <= u < high, ``[R, *shape]``; the bounds broadcast with them."""
        return np.asarray(low + (high - low) * self.random(*shape))

    def normal(self, *shape: int) -> Float:
        """Draw standard normal numbers ``[R, *shape]``, by the inverse of the distribution function."""
        # Half a step is added because the quantile of 0 is infinite.
        return np.asarray(ndtri(self.random(*shape) + 2.0**-54), np.float64)

    def integers(self, limit: ArrayLike, *shape: int) -> Int:
        """Draw integers 0 <= n < limit, ``[R, *shape]``; ``limit`` broadcasts with them.

        floor(u * limit) of a uniform u: the bias is below limit * 2^-53.
        """
        return np.multiply(self.random(*shape), limit).astype(np.int64)

    def sign(self) -> Float:
        """Draw -1 or 1, ``[R]``."""
        return np.asarray(self.integers(2) * 2.0 - 1.0, np.float64)

    def choice(self, weights: Sequence[float], *shape: int) -> Int:
        """Draw indices ``[R, *shape]`` into a list of weights, each with a probability of its share."""
        cumulative = _cumulative(tuple(weights))
        return np.asarray(cumulative.searchsorted(self.random(*shape), side="right"), np.int64)

    def permutations(self, lengths: ArrayLike) -> list[Int]:
        """Draw one permutation of 0 .. length - 1 per row, by the shuffle of Fisher and Yates."""
        limits = np.broadcast_to(np.asarray(lengths, np.int64), (len(self),))
        # One number per element except the first. Swaps start at the last element.
        drawn = self.random(max(int(limits.max(initial=0)) - 1, 0))
        out = np.empty((len(self), drawn.shape[1] + 1), np.int64)
        _fill_permutations(drawn, limits, out)
        return [row[:length] for row, length in zip(out, limits, strict=True)]


class RandomStream:
    """One stream. It draws the numbers of one row of `RandomStreams`, without the row axis."""

    def __init__(self, seed: int, index: int, purpose: str) -> None:
        """Address the stream of (seed, index, purpose); see `RandomStreams`."""
        self._rows = RandomStreams(seed, [index], purpose)

    def random(self) -> float:
        """Draw one uniform number 0 <= u < 1."""
        return float(self._rows.random()[0])

    def uniform(self, low: float, high: float) -> float:
        """Draw one uniform number low <= u < high."""
        return low + (high - low) * self.random()

    def integer(self, limit: int) -> int:
        """Draw one integer 0 <= n < limit."""
        return int(self.random() * limit)

    def choice(self, weights: Sequence[float]) -> int:
        """Draw one index into a list of weights, with a probability of its share."""
        return int(self._rows.choice(weights)[0])

    def randoms(self, *shape: int) -> Float:
        """Draw uniform numbers ``[*shape]``, 0 <= u < 1."""
        return np.asarray(self._rows.random(*shape)[0])

    def uniforms(self, low: float | Float, high: float | Float, *shape: int) -> Float:
        """Draw uniform numbers ``[*shape]``, low <= u < high."""
        return np.asarray(self._rows.uniform(low, high, *shape)[0])

    def normals(self, *shape: int) -> Float:
        """Draw standard normal numbers ``[*shape]``."""
        return np.asarray(self._rows.normal(*shape)[0])

    def integers(self, limit: ArrayLike, *shape: int) -> Int:
        """Draw integers ``[*shape]``, 0 <= n < limit."""
        return np.asarray(self._rows.integers(limit, *shape)[0])

    def permutation(self, length: int) -> Int:
        """Draw a permutation of 0 .. length - 1."""
        return self._rows.permutations(length)[0]


@kernel
def _multiply(a, b):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the upper and the lower half of a 128-bit product."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> half) + (other >> half), a * b


@kernel
def _philox_4x64(seed, index, block, counter):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the four 64-bit words of a counter (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = np.uint64(counter), np.uint64(0), np.uint64(0), block
    k0, k1 = seed, index
    for _ in range(10):
        high0, low0 = _multiply(np.uint64(0xD2E7470EE14C6C93), c0)
        high1, low1 = _multiply(np.uint64(0xCA5A826395121157), c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += np.uint64(0x9E3779B97F4A7C15)
        k1 += np.uint64(0xBB67AE8584CAA73B)
    return c0, c1, c2, c3


@kernel
def _fill_uniform(seed, indices, blocks, num_drawn, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill row r of ``out`` with the next numbers of stream r. Counters begin at 1."""
    for r in range(out.shape[0]):
        words = _philox_4x64(seed, indices[r], blocks[r], num_drawn[r] // 4 + 1)
        for k in range(out.shape[1]):
            place = (num_drawn[r] + k) % 4
            if place == 0 and k > 0:
                words = _philox_4x64(seed, indices[r], blocks[r], (num_drawn[r] + k) // 4 + 1)
            out[r, k] = float(words[place] >> np.uint64(11)) * 2.0**-53
        num_drawn[r] += out.shape[1]


@kernel
def _fill_uniform_float32(seed, indices, blocks, num_drawn, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill row r of ``out`` with the next numbers of stream r, two per word."""
    num_words = (out.shape[1] + 1) // 2
    for r in range(out.shape[0]):
        words = _philox_4x64(seed, indices[r], blocks[r], num_drawn[r] // 4 + 1)
        for k in range(num_words):
            place = (num_drawn[r] + k) % 4
            if place == 0 and k > 0:
                words = _philox_4x64(seed, indices[r], blocks[r], (num_drawn[r] + k) // 4 + 1)
            word = words[place]
            out[r, 2 * k] = np.float32((word & np.uint64(0xFFFFFFFF)) >> np.uint64(8)) * np.float32(2.0**-24)
            if 2 * k + 1 < out.shape[1]:
                out[r, 2 * k + 1] = np.float32(word >> np.uint64(40)) * np.float32(2.0**-24)
        num_drawn[r] += num_words


@kernel
def _fill_permutations(drawn, limits, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shuffle 0 .. limits[r] - 1 into row r of ``out``."""
    for r in range(out.shape[0]):
        for k in range(limits[r]):
            out[r, k] = k
        for k in range(limits[r] - 1, 0, -1):
            j = int(drawn[r, limits[r] - 1 - k] * (k + 1))
            out[r, k], out[r, j] = out[r, j], out[r, k]
