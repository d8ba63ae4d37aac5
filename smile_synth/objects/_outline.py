"""Turn closed outlines into anti-aliased alpha."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LINES_PER_PIXEL = 8


def coverage(rings: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.uint8]:
    """Draw outlines as the share of each pixel that lies inside.

    Exact along x, on ``LINES_PER_PIXEL`` evenly spaced lines per pixel along y. An outline may leave the
    image but not cross itself.

    Args:
        rings: closed outlines ``[N, 2]`` (x, y) in pixels; the last point joins the first. The first
            ring is the outer one, every later ring is a hole inside it.
        height: rows of the result.
        width: columns of the result.

    Returns:
        Alpha ``[height, width]`` uint8, 0..255.
    """
    outer, *holes = (np.abs(_signed_coverage(ring, height, width)) for ring in rings)
    alpha = np.clip(outer - sum(holes), 0.0, 1.0)
    return np.floor(alpha * 255.0 + 0.5).astype(np.uint8)


def _signed_coverage(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    start, end = ring, np.roll(ring, -1, axis=0)
    y = (np.arange(height * LINES_PER_PIXEL) + 0.5) / LINES_PER_PIXEL
    starts_above, ends_above = start[:, 1] < y[:, None], end[:, 1] < y[:, None]
    line, edge = np.nonzero(starts_above != ends_above)
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = np.clip(x0 + (y[line] - y0) * (x1 - x0) / (y1 - y0), 0.0, width)
    # A crossing opens (or closes) everything to its right: a step that begins part way in its pixel.
    sign = np.where(starts_above[line, edge], -1.0, 1.0) / LINES_PER_PIXEL
    row, column = line // LINES_PER_PIXEL, np.floor(x).astype(np.int64)
    steps = np.zeros((height, width + 2))
    np.add.at(steps, (row, column), sign * (column + 1 - x))
    np.add.at(steps, (row, column + 1), sign * (x - column))
    return np.cumsum(steps, axis=1)[:, :width]
