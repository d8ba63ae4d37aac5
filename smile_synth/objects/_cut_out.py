"""Prepare one cut-out for a bank: clean its edges, shrink it, measure it, filter it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject, UInt8
from smile_synth.objects._item import CutOut

Float = NDArray[np.float64]


@dataclass(frozen=True)
class CutOutOptions:
    """How cut-outs are prepared, and which are rejected.

    Attributes:
        max_side: longest side of a texture in pixels; exact area averaging shrinks larger cut-outs.
        erode: pixels of the image that are removed along the outline before shrinking, 0..64.
        feather: pixels of the texture over which alpha rises from the edge inwards, 0..64.
        min_side: least short side of a texture in pixels.
        min_thickness: least diameter of the largest inscribed circle, as a share 0..1 of the long side.
        max_truncation: largest share 0..1 of the outline on the border of the image.
        max_covered: largest share 0..1 of pixels that smaller objects also contain.
        min_largest_part: least share 0..1 of pixels in the largest connected part, for objects cut from
            images, where other objects in front can hide most of an object.
        duplicate_distance: 64-bit perceptual hashes that differ in at most this many bits (0..7) are
            compared as near-duplicates; -1 keeps all.
    """

    max_side: int = 256
    erode: float = 0.0
    feather: float = 0.0
    min_side: int = 16
    min_thickness: float = 0.05
    max_truncation: float = 0.05
    max_covered: float = 0.5
    min_largest_part: float = 0.5
    duplicate_distance: int = 4

    def check(self) -> None:
        """Check the range of every value.

        Raises:
            UserError: a value is out of its range.
        """
        if not 1 <= self.min_side <= self.max_side:
            raise UserError(f"expected 1 <= min_side <= max_side, got {self.min_side} and {self.max_side}")
        for name in ("erode", "feather"):
            if not 0 <= getattr(self, name) <= 64:
                raise UserError(f"{name} must be in 0..64 pixels, got {getattr(self, name)}")
        for name in ("min_thickness", "max_truncation", "max_covered", "min_largest_part"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a share and must be in 0..1, got {getattr(self, name)}")
        if not -1 <= self.duplicate_distance <= 7:
            raise UserError(f"duplicate_distance must be in -1..7 bits, got {self.duplicate_distance}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A cut-out that is ready for a bank: straight RGBA ``[H, W, 4]``, cropped; measures of `ObjectInfo`."""

    rgba: UInt8
    original_hw: tuple[int, int]
    fill: float
    thickness: float
    largest_part: float


def prepare(found: CutOut, options: CutOutOptions) -> Prepared:
    """Crop a cut-out, clean its edges, shrink it, and measure it.

    A hard edge (one alpha value beside 0) is softened by one pixel, inwards. If the edge is hard or was cut
    from a photograph, its two outermost pixels get their colour from the inside.

    Raises:
        Reject: it fails a filter, is transparent everywhere, or opaque nowhere.
    """
    _check_context(found, options)
    rgba = _eroded(_cropped(found.rgba), options.erode)
    hard = bool(np.isin(rgba[..., 3], (0, rgba[..., 3].max())).all())
    if hard or found.from_photo:
        rgba = np.dstack([clean_edge(rgba[..., :3], rgba[..., 3]), rgba[..., 3]])
    if hard:
        rgba = _softened(rgba)
    original_hw = (rgba.shape[0], rgba.shape[1])
    longest = max(original_hw)
    if longest > options.max_side:
        new_hw = [max(1, (2 * side * options.max_side + longest) // (2 * longest)) for side in original_hw]
        rgba = _shrunk(rgba, new_hw[0], new_hw[1])
    if options.feather:
        rgba = _cropped(_feathered(rgba, options.feather))
    thickness, largest_part = _measure(rgba, options)
    if found.from_photo and largest_part < options.min_largest_part:
        least = f"at least {options.min_largest_part:.0%} must be"
        raise Reject(f"in pieces: {largest_part:.0%} of it is in its largest part, {least}")
    return Prepared(rgba, original_hw, float(rgba[..., 3].mean()) / 255.0, thickness, largest_part)


def _check_context(found: CutOut, options: CutOutOptions) -> None:
    """Reject objects that the image's border or other objects hide."""
    if found.truncation > options.max_truncation:
        share = f"{found.truncation:.0%} of its outline, at most {options.max_truncation:.0%} may be"
        raise Reject(f"truncated by the image's border: {share}")
    if found.covered > options.max_covered:
        share = f"{found.covered:.0%} by others, at most {options.max_covered:.0%} may be"
        raise Reject(f"mostly covered: {share}")


def _measure(rgba: UInt8, options: CutOutOptions) -> tuple[float, float]:
    """Return thickness and largest part; reject objects that are too small, too faint or too thin."""
    height, width = rgba.shape[:2]
    if min(height, width) < options.min_side:
        raise Reject(f"too small: {height}x{width} pixels, the least side is {options.min_side}")
    if rgba[..., 3].max() < 128:
        # An object's extent is alpha >= .5; without an extent it would have no labels.
        raise Reject("too faint: alpha is nowhere one half or more")
    thickness = 2 * float(_depth(rgba[..., 3]).max()) / max(height, width)
    if thickness < options.min_thickness:
        least = f"{options.min_thickness:.0%} of the long side"
        raise Reject(f"too thin: the largest inscribed circle is {thickness:.1%}, the least is {least}")
    inside = (rgba[..., 3] >= 128).astype(np.uint8)
    parts = cv2.connectedComponentsWithStats(inside, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return thickness, float(parts.max() / parts.sum())


def _cropped(rgba: UInt8) -> UInt8:
    rows, columns = np.nonzero(rgba[..., 3].any(axis=1))[0], np.nonzero(rgba[..., 3].any(axis=0))[0]
    if not len(rows):
        raise Reject("transparent everywhere")
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _depth(alpha: UInt8) -> Float:
    """Return the distance of each pixel's centre to the outline of alpha >= .5, ``[H, W]``; outside 0."""
    inside = np.pad((alpha >= 128).astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The outline is half a pixel before the centre of the nearest pixel outside.
    return np.maximum(np.asarray(distance, np.float64)[1:-1, 1:-1] - 0.5, 0.0)


def _eroded(rgba: UInt8, pixels: float) -> UInt8:
    if not pixels:
        return rgba
    out = rgba.copy()
    kept = np.clip(_depth(rgba[..., 3]) - pixels + 0.5, 0.0, 1.0)
    out[..., 3] = np.floor(rgba[..., 3] * kept + 0.5)
    return _cropped(out)


def _feathered(rgba: UInt8, pixels: float) -> UInt8:
    out = rgba.copy()
    ramp = np.clip(_depth(rgba[..., 3]) / pixels, 0.0, 1.0)
    # Smooth at both ends, so that the start of the ramp is invisible.
    out[..., 3] = np.floor(rgba[..., 3] * (ramp * ramp * (3 - 2 * ramp)) + 0.5)
    return out


def clean_edge(rgb: UInt8, alpha: UInt8) -> UInt8:
    """Replace the colour of the outermost two pixels by the mean of the inner pixels near them.

    Edge pixels of a photograph mix in the old background, which would be visible as a halo. Where the
    object is too thin to have inner pixels, colours stay.
    """
    inner = (_box_sum((alpha == 255).astype(np.float64), 3) > 8.5).astype(np.float64)
    near = _box_sum(inner, 5)
    # Sums of whole numbers are exact in float64 in any order.
    colour = _box_sum(rgb * inner[..., None], 5) / np.maximum(near, 1.0)[..., None]
    changed = ((inner == 0) & (near > 0))[..., None]
    return np.where(changed, np.floor(colour + 0.5), rgb).astype(np.uint8)


def _box_sum(values: Float, size: int) -> Float:
    summed = cv2.boxFilter(values, cv2.CV_64F, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(np.rint(summed))


def _shrunk(rgba: UInt8, height: int, width: int) -> UInt8:
    # Integer arithmetic gives the same bytes on every machine.
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
    """Integrate rows over ``size`` equal boxes, in units of 1 / size of a row; weights sum to the length."""
    count = len(values)
    whole, part = np.divmod(np.arange(size + 1) * count, size)
    before = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    current = values[np.minimum(whole, count - 1)]
    return np.diff(before[whole] * size + current * part[:, None], axis=0)


def _softened(rgba: UInt8) -> UInt8:
    """Anti-alias a hard edge over its outermost pixel, inwards only, so that no background becomes visible.

    With m the 5x5 binomial mean of the mask (0 outside the image), alpha is multiplied by
    (m - 3/8) / (35/64), clipped to .5..1: about .57 along a straight edge, 1 from the second pixel on.
    The factor is at least .5, so the extent (alpha >= .5) of an opaque object stays the same.
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
