"""Random numbers addressed by (seed, index, purpose): no hidden state, any order, any process."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

MAX_SEED = 2**63 - 1


@lru_cache(maxsize=4096)
def _block(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


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
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value <= MAX_SEED:
            raise ValueError(f"{name} must be in 0..2^63-1, got {value}")
    bits = np.random.Philox(
        key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, _block(purpose)], np.uint64)
    )
    return np.random.Generator(bits)
