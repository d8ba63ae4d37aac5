"""COCO's run lengths of masks whose boxes are known: only the boxes are looked at."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def _encode(mask, x0, y0, x1, y1, runs, text):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the run lengths of ``mask [H, W]`` as COCO's text; returns its length.

    Runs go down the columns and begin with zeros. From the fourth on a run is written as its difference
    from the last but one; numbers in groups of five bits, the lowest first, a sixth bit where more follow.
    """
    height, width = mask.shape
    count, last, begin = 0, False, 0
    for x in range(x0, x1):
        # Between two columns of the box lies what is above and below it.
        if last and (y0 > 0 or y1 < height) and x > x0:
            edge = (x - 1) * height + y1 if y1 < height else x * height
            runs[count] = edge - begin
            count, last, begin = count + 1, False, edge
        for y in range(y0, y1):
            if mask[y, x] != last:
                runs[count] = x * height + y - begin
                count, last, begin = count + 1, not last, x * height + y
    if last:
        edge = (x1 - 1) * height + y1
        runs[count] = edge - begin
        count, last, begin = count + 1, False, edge
    if begin < height * width:
        runs[count] = height * width - begin
        count += 1
    length = 0
    for i in range(count):
        value = runs[i] - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text[length] = 48 + (bits | 32 if more else bits)
            length += 1
    return length


def run_lengths(masks: NDArray[np.bool_], boxes_xyxy: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return COCO run lengths of masks ``[T, H, W]``, empty outside of the boxes ``[T, 4]``."""
    height, width = masks.shape[1:]
    # A box of NaN is empty; one that is not cropped is.
    corners = np.nan_to_num(boxes_xyxy).clip(0, [width, height, width, height]).astype(np.int64)
    runs = np.empty(height * width + 2, np.int64)
    text = np.empty(7 * len(runs), np.uint8)
    found = []
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        length = _encode(mask, x0, y0, x1, y1, runs, text)
        found.append({"size": [height, width], "counts": text[:length].tobytes().decode()})
    return found
