"""Philox 4x32-10 (Salmon et al., SC 2011), the noise of every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# Of the sum of four bytes, each uniform 0..255: mean, and the square root of four variances (256^2 - 1) / 12.
GRAIN_MEAN, GRAIN_DEVIATION = 510.0, ((256**2 - 1) / 3) ** 0.5
_MASK = 0xFFFFFFFF


def philox_word_numpy(
    counter: tuple[NDArray[np.uint64] | int, ...], key: tuple[int, int]
) -> NDArray[np.uint64]:
    """Return the first word for arrays of counters, as the oracle computes it."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = np.uint64(MULTIPLIERS[0]) * c0
        p1 = np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & np.uint64(_MASK),
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & np.uint64(_MASK),
        )
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return np.asarray(c0)
