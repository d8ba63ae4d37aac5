"""Random numbers addressed by (seed, index, purpose): no hidden state, any order, any process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

MAX_SEED = 2**63 - 1
Float = NDArray[np.float64]
Int = NDArray[np.int64]


@lru_cache(maxsize=65536)
def _block(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def _check(seed: int, lowest: int, highest: int) -> None:
    for name, value in (("seed", seed), ("index", lowest), ("index", highest)):
        if not 0 <= value <= MAX_SEED:
            raise ValueError(f"{name} must be in 0..2^63-1, got {value}")


def generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator of one purpose of one clip.

    Philox 4x64 is counter based: the key is (seed, index) and the purpose selects a block of 2^192
    counters, so that streams of different clips and purposes never overlap, whatever the order in
    which they are asked for. Seed 0 is a seed like any other.

    Args:
        seed: 0 .. 2^63 - 1.
        index: clip index, 0 .. 2^63 - 1.
        purpose: what is drawn, for example ``"scene"`` or ``"mask"``.

    Raises:
        ValueError: seed or index outside its range.
    """
    _check(seed, index, index)
    bits = np.random.Philox(
        key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, _block(purpose)], np.uint64)
    )
    return np.random.Generator(bits)


class Generators:
    """The generators of `generator` for one clip after the other, at a tenth of the cost.

    One object per purpose is kept and set anew: a generator is good until its purpose is asked for again.
    """

    def __init__(self, seed: int) -> None:
        """Keep nothing yet; ``seed`` is that of all clips."""
        self._seed = seed
        self._kept: dict[str, tuple[np.random.Generator, Any]] = {}

    def __call__(self, index: int, purpose: str) -> np.random.Generator:
        """Return the generator of one purpose of one clip, see `generator`."""
        if purpose not in self._kept:
            fresh = generator(self._seed, index, purpose)
            self._kept[purpose] = fresh, fresh.bit_generator.state
        kept, state = self._kept[purpose]
        _check(self._seed, index, index)
        state["state"]["key"][1] = index
        kept.bit_generator.state = state
        return kept


class Draws:
    """The streams of many rows, drawn from together.

    Row r gives exactly the numbers that ``generator(seed, indices[r], purposes[r])`` gives, whatever the
    other rows are; results have the rows as their first axis.
    """

    def __init__(self, seed: int, indices: ArrayLike, purposes: Sequence[str] | str) -> None:
        """Address R rows: one seed, ``[R]`` indices, and one purpose for all or R of them.

        Raises:
            ValueError: seed or index outside its range.
        """
        index = np.atleast_1d(np.asarray(indices, np.int64))
        if len(index):
            _check(seed, int(index.min()), int(index.max()))
        names = [purposes] * len(index) if isinstance(purposes, str) else purposes
        self._address = (
            np.uint64(seed), index.astype(np.uint64), np.array([_block(name) for name in names], np.uint64)
        )  # fmt: skip
        # 64-bit words used so far, and the unused half of a split one, -1 where there is none.
        self._state = np.zeros(len(index), np.int64), np.full(len(index), -1, np.int64)

    def __len__(self) -> int:
        """Return the number of rows R."""
        return len(self._state[0])

    def random(self, *shape: int) -> Float:
        """Draw uniform numbers 0 <= u < 1, ``[R, *shape]``."""
        out = np.empty((len(self), int(np.prod(shape, dtype=np.int64))))
        _fill_random(*self._address, self._state[0], out)
        return out.reshape(len(self), *shape)

    def uniform(self, low: ArrayLike, high: ArrayLike, *shape: int) -> Float:
        """Draw uniform numbers low <= u < high, ``[R, *shape]``."""
        lowest = np.asarray(low, np.float64)
        return np.asarray(lowest + np.subtract(high, lowest) * self.random(*shape), np.float64)

    def normal(self, *shape: int) -> Float:
        """Draw standard normal numbers ``[R, *shape]``."""
        # Half a step keeps 0, whose quantile is infinite, out.
        return np.asarray(ndtri(self.random(*shape) + 2.0**-54), np.float64)

    def below(self, limit: ArrayLike) -> Int:
        """Draw whole numbers 0 <= n < limit, ``[R]``; ``limit`` is one number or ``[R]``, below 2^32."""
        limits = np.broadcast_to(np.asarray(limit, np.int64), (len(self),))
        out = np.empty(len(self), np.int64)
        _fill_below(*self._address, *self._state, limits, out)
        return out

    def sign(self) -> Float:
        """Draw -1 or 1, ``[R]``."""
        return np.asarray(self.below(2) * 2.0 - 1.0, np.float64)

    def pick(self, weights: ArrayLike, *shape: int) -> Int:
        """Draw places ``[R, *shape]`` in a list of weights, as often as they weigh."""
        share = np.asarray(weights, np.float64)
        cumulated = np.cumsum(share / share.sum())
        cumulated /= cumulated[-1]
        return np.searchsorted(cumulated, self.random(*shape), side="right").astype(np.int64)

    def permutations(self, lengths: ArrayLike) -> list[Int]:
        """Draw one permutation of 0 .. length - 1 per row."""
        limits = np.broadcast_to(np.asarray(lengths, np.int64), (len(self),))
        out = np.empty((len(self), int(limits.max(initial=0))), np.int64)
        _fill_permutations(*self._address, *self._state, limits, out)
        return [row[:length] for row, length in zip(out, limits, strict=True)]


@numba.njit(cache=True, nogil=True)
def _multiply(a, b):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the upper and the lower half of a 128-bit product."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> half) + (other >> half), a * b


@numba.njit(cache=True, nogil=True)
def _word(seed, index, block, position, words):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return 64-bit word ``position`` of a stream; ``words`` [5] holds the last four and their number."""
    number = np.uint64(position // 4 + 1)
    if words[4] != number:
        # Philox 4x64-10 (Salmon et al., 2011).
        c0, c1, c2, c3 = number, np.uint64(0), np.uint64(0), block
        k0, k1 = seed, index
        for _ in range(10):
            high0, low0 = _multiply(np.uint64(0xD2E7470EE14C6C93), c0)
            high1, low1 = _multiply(np.uint64(0xCA5A826395121157), c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0 += np.uint64(0x9E3779B97F4A7C15)
            k1 += np.uint64(0xBB67AE8584CAA73B)
        words[0], words[1], words[2], words[3], words[4] = c0, c1, c2, c3, number
    return words[position % 4]


@numba.njit(cache=True, nogil=True)
def _fill_random(seed, indices, blocks, positions, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    words = np.empty(5, np.uint64)
    for r in range(out.shape[0]):
        words[4] = 0
        for k in range(out.shape[1]):
            word = _word(seed, indices[r], blocks[r], positions[r], words)
            positions[r] += 1
            out[r, k] = float(word >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True, nogil=True)
def _half(seed, index, block, r, positions, spare, words):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the next 32 bits: the lower half of a word, then its upper half."""
    if spare[r] >= 0:
        half = np.uint64(spare[r])
        spare[r] = -1
        return half
    word = _word(seed, index, block, positions[r], words)
    positions[r] += 1
    spare[r] = np.int64(word >> np.uint64(32))
    return word & np.uint64(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def _fill_below(seed, indices, blocks, positions, spare, limits, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Draw whole numbers as NumPy does: Lemire's method."""
    words = np.empty(5, np.uint64)
    full = np.uint64(0xFFFFFFFF)
    for r in range(out.shape[0]):
        words[4] = 0
        out[r] = 0
        if limits[r] == 1:
            continue
        bound = np.uint64(limits[r])
        threshold = (full - np.uint64(limits[r] - 1)) % bound
        while True:
            product = _half(seed, indices[r], blocks[r], r, positions, spare, words) * bound
            if (product & full) >= threshold:
                out[r] = np.int64(product >> np.uint64(32))
                break


@numba.njit(cache=True, nogil=True)
def _fill_permutations(seed, indices, blocks, positions, spare, limits, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shuffle as NumPy does: Fisher and Yates, numbers above the limit are drawn again."""
    words = np.empty(5, np.uint64)
    for r in range(out.shape[0]):
        words[4] = 0
        for k in range(limits[r]):
            out[r, k] = k
        for k in range(limits[r] - 1, 0, -1):
            mask = np.uint64(1)
            while mask < np.uint64(k):
                mask = (mask << np.uint64(1)) | np.uint64(1)
            other = np.uint64(k + 1)
            while other > np.uint64(k):
                other = _half(seed, indices[r], blocks[r], r, positions, spare, words) & mask
            j = np.int64(other)
            out[r, k], out[r, j] = out[r, j], out[r, k]
