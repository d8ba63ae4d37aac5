"""Philox 4x32-10 (Salmon et al., SC 2011): the noise of every backend. Triton brings its own."""

from __future__ import annotations

from typing import Any

from smile_synth.core.compile import inlined

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
# The sum of four bytes, each uniform 0..255: its mean and its standard deviation.
GRAIN_MEAN, GRAIN_DEVIATION = 510.0, ((256**2 - 1) / 3) ** 0.5


def philox_word(c0: Any, c1: Any, c2: Any, c3: Any, key0: Any, key1: Any) -> Any:
    """Return the first word of the counter (c0, c1, c2, c3), each 0..2^32 - 1.

    The arguments are integers, int64 arrays or int64 tensors. Products wrap to signed 64 bits; the masks
    remove the sign.
    """
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (p1 >> 32) & _MASK ^ c1 ^ key0, p1 & _MASK
        c2, c3 = (p0 >> 32) & _MASK ^ c3 ^ key1, p0 & _MASK
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return c0


philox_word_compiled = inlined(philox_word)
