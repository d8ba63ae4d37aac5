"""One cut-out: where it comes from, and how its pixels are made ready for a bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]


class Reject(Exception):
    """Why one candidate does not become an object."""


@dataclass(frozen=True)
class Candidate:
    """What a reader found; its pixels are loaded one candidate at a time.

    Attributes:
        class_name: the label.
        source: name inside its source, unique there.
        source_image: the picture it was cut from; decides the split.
        load: returns straight RGBA ``[H, W, 4]`` uint8, or raises Reject.
        licence: of the picture, empty where unknown.
        attributes: further known facts, such as a shape's colour.
    """

    class_name: str
    source: str
    source_image: str
    load: Callable[[], UInt8]
    licence: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def prepare(rgba: UInt8, *, max_side: int, min_side: int) -> UInt8:
    """Crop, shrink and soften a cut-out.

    Straight RGBA ``[H, W, 4]`` uint8 in and out: cropped to alpha > 0; a hard edge (one alpha value
    beside 0) softened by one pixel; the long side at most ``max_side`` by exact area averaging of
    premultiplied colour.

    Raises:
        Reject: transparent everywhere, a side shorter than ``min_side``, or opaque nowhere.
    """
    rows, columns = np.nonzero(rgba[..., 3].any(axis=1))[0], np.nonzero(rgba[..., 3].any(axis=0))[0]
    if not len(rows):
        raise Reject("transparent everywhere")
    rgba = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if np.isin(rgba[..., 3], (0, rgba[..., 3].max())).all():
        rgba = _soften(rgba)
    height, width = rgba.shape[:2]
    longest = max(height, width)
    if longest > max_side:
        new_hw = [max(1, (2 * side * max_side + longest) // (2 * longest)) for side in (height, width)]
        rgba = _shrink(rgba, new_hw[0], new_hw[1])
    height, width = rgba.shape[:2]
    if min(height, width) < min_side:
        raise Reject(f"too small: {height}x{width} pixels, the least side is {min_side}")
    if rgba[..., 3].max() < 128:
        # An object's extent is where alpha >= .5; without any it would move unseen by every label.
        raise Reject("alpha is nowhere one half or more")
    return rgba


def _shrink(rgba: UInt8, height: int, width: int) -> UInt8:
    # Integers throughout: the same bytes on every machine, which floats do not promise.
    alpha = rgba[..., 3].astype(np.int64)
    area = alpha.size
    mean_alpha = _box_sums(_box_sums(alpha, height).T, width).T
    out = np.empty((height, width, 4), np.uint8)
    out[..., 3] = (2 * mean_alpha + area) // (2 * area)
    weight = np.maximum(mean_alpha, 1)
    for channel in range(3):
        total = _box_sums(_box_sums(rgba[..., channel] * alpha, height).T, width).T
        out[..., channel] = (2 * total + weight) // (2 * weight)
    return out


def _box_sums(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Integrate rows over ``size`` equal boxes, in units of 1 / size of a row: weights sum to len."""
    count = len(values)
    whole, part = np.divmod(np.arange(size + 1) * count, size)
    before = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    current = values[np.minimum(whole, count - 1)]
    return np.diff(before[whole] * size + current * part[:, None], axis=0)


def _soften(rgba: UInt8) -> UInt8:
    """Anti-alias a hard edge over its outermost pixel, inwards only: nothing outside can show.

    The mask's 5x5 binomial mean m, outside the picture counting as 0, becomes alpha's factor
    (m - 3/8) / (35/64), kept in .5..1: about .57 along a straight edge, 1 from the second pixel on. It
    never falls below .5, so an opaque object's extent (alpha >= .5) stays that of the given mask.
    """
    mean256 = (rgba[..., 3] > 0).astype(np.int64)
    for _ in range(2):
        padded = np.pad(mean256, ((2, 2), (0, 0)))
        ends, sides = padded[:-4] + padded[4:], padded[1:-3] + padded[3:-1]
        mean256 = (ends + 4 * sides + 6 * padded[2:-2]).T
    factor140 = np.clip(mean256 - 96, 70, 140)
    out = rgba.copy()
    out[..., 3] = (rgba[..., 3] * factor140 + 70) // 140
    return out
