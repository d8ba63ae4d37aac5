"""Turn closed outlines into anti-aliased alpha."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

LINES_PER_PIXEL = 8
# Values that are computed at once, so that memory does not grow with the image.
BAND_VALUES = 1 << 20


def coverage(rings: Sequence[Float], height: int, width: int) -> UInt8:
    """Draw an outline with holes as the share of each pixel that is inside.

    Exact along x, on ``LINES_PER_PIXEL`` evenly spaced lines per pixel along y. An outline may leave the
    image but not cross itself; see `union_coverage` for polygons that overlap.

    Args:
        rings: closed outlines ``[N, 2]`` (x, y) in pixels; the last point joins the first. The first
            ring is the outer one, every later ring is a hole inside it.
        height: rows of the result, alpha ``[height, width]`` uint8.
        width: columns of the result.
    """
    outer, *holes = (np.abs(_signed_coverage(ring, height, width)) for ring in rings)
    return _to_uint8(outer - sum(holes))


def _signed_coverage(ring: Float, height: int, width: int) -> Float:
    start, end = ring, np.roll(ring, -1, axis=0)
    y = (np.arange(height * LINES_PER_PIXEL) + 0.5) / LINES_PER_PIXEL
    starts_above, ends_above = start[:, 1] < y[:, None], end[:, 1] < y[:, None]
    line, edge = np.nonzero(starts_above != ends_above)
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = np.clip(x0 + (y[line] - y0) * (x1 - x0) / (y1 - y0), 0.0, width)
    # A crossing changes all values to its right: a step that begins part way in its pixel.
    sign = np.where(starts_above[line, edge], -1.0, 1.0) / LINES_PER_PIXEL
    row, column = line // LINES_PER_PIXEL, np.floor(x).astype(np.int64)
    steps = np.zeros((height, width + 2))
    np.add.at(steps, (row, column), sign * (column + 1 - x))
    np.add.at(steps, (row, column + 1), sign * (x - column))
    return np.cumsum(steps, axis=1)[:, :width]


def _to_uint8(share: Float) -> UInt8:
    return np.floor(np.clip(share, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def union_coverage(rings: Sequence[Float], height: int, width: int) -> UInt8:
    """Draw the union of annotators' polygons as the share of each pixel that is inside.

    As `coverage`, but the even-odd rule decides what is inside a ring, so rings of finite points may cross
    themselves and each other, run either way round and leave the image.
    """
    alpha = np.zeros((height, width), np.uint8)
    edges = sum(map(len, rings))
    band = max(1, BAND_VALUES // max(width + 2, edges * LINES_PER_PIXEL))
    for top in range(0, height, band):
        rows = min(band, height - top)
        spans = [_spans(ring - (0.0, top), rows * LINES_PER_PIXEL, width) for ring in rings]
        line, left, right = (np.concatenate(parts) for parts in zip(*spans, strict=True))
        if len(line):
            alpha[top : top + rows] = _fill(*_merged(line, left, right, width), rows, width)
    return alpha


def _spans(ring: Float, lines: int, width: int) -> tuple[Int, Float, Float]:
    """Return (line, left, right) of every segment of a line that is inside a ring."""
    x0, y0 = ring[:, 0], ring[:, 1] * LINES_PER_PIXEL - 0.5  # line k is at y = k
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # An edge crosses the lines above its lower end and not above its upper one.
    first = np.clip(np.floor(np.minimum(y0, y1)) + 1, 0, lines).astype(np.int64)
    stop = np.clip(np.floor(np.maximum(y0, y1)) + 1, 0, lines).astype(np.int64)
    crossings = stop - first
    edge = np.repeat(np.arange(len(ring)), crossings)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - stop, crossings)
    share = (line - y0[edge]) / (y1[edge] - y0[edge])
    x = np.clip(x0[edge] + share * (x1[edge] - x0[edge]), 0.0, width)
    order = np.lexsort((x, line))
    line, x = line[order], x[order]
    return line[::2], x[::2], x[1::2]


def _merged(line: Int, left: Float, right: Float, width: int) -> tuple[Int, Float, Float]:
    """Merge segments of the same line that overlap."""
    stride = width + 1.0
    order = np.lexsort((left, line))
    start, end = (left + line * stride)[order], (right + line * stride)[order]
    reach = np.maximum.accumulate(end)
    opens = np.append(True, start[1:] > reach[:-1])
    line, start, end = line[order][opens], start[opens], reach[np.append(opens[1:], True)]
    return line, start - line * stride, end - line * stride


def _fill(line: Int, left: Float, right: Float, rows: int, width: int) -> UInt8:
    # A segment is a step up at its start and a step down at its end, each part way in its pixel.
    x, sign = np.concatenate([left, right]), np.repeat([1.0, -1.0], len(line))
    column = np.floor(x).astype(np.int64)
    place = np.tile(line // LINES_PER_PIXEL, 2) * (width + 2) + column
    size = rows * (width + 2)
    steps = np.bincount(place, sign * (column + 1 - x), size) + np.bincount(
        place + 1, sign * (x - column), size
    )
    return _to_uint8(np.cumsum(steps.reshape(rows, width + 2), axis=1)[:, :width] / LINES_PER_PIXEL)
