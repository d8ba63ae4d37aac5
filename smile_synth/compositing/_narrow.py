"""Float types that NumPy does not know."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def to_bfloat16(words: NDArray[np.uint32], out: NDArray[np.uint16]) -> None:  # pragma: no cover - compiled
    """Round finite float32 values, given by their bits, to the nearest bfloat16, ties to even."""
    for i in range(len(words)):
        word = words[i]
        out[i] = np.uint16(
            (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        )
