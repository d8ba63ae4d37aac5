"""Alpha, ownership and visibility of a pose: the one definition that scenes and labels share.

A pixel is judged at its centre, a track at the point itself, by the same sampling that renders: two
bilinear taps of neighbouring mip levels, mixed. ``alpha >= .5`` is an object's extent (amodal);
``alpha x opacity >= .5`` of the front-most such layer is ownership.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth.core import geometry
from smile_synth.core.compile import inlined, kernel
from smile_synth.core.texture import Texture

Border = Literal["transparent", "reflect", "repeat"]
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Window = tuple[int, int, int, int]

# One half, less what float64 may lose of it: an opaque texel under an opacity of .5 owns its pixel.
THRESHOLD = 0.5 - 1e-9


def level_of_detail(object_to_frame: Float, height: ArrayLike, width: ArrayLike) -> Float:
    """Return the mip level ``[...]`` of ``height x width`` textures under poses ``[..., 3, 3]``.

    The rule: log2 of the side of the square in the texture that has the area of one frame pixel,
    sqrt(|det J|) of the frame-to-object map at the texture's middle, at least 0 and at most the last
    level. Under anisotropy this is the geometric mean of the two scales: as much is lost to blur along
    the longer axis as is left to aliasing along the shorter. Sizes broadcast with the leading axes.
    """
    m = object_to_frame
    w = m[..., 2, 0] * np.divide(width, 2) + m[..., 2, 1] * np.divide(height, 2) + m[..., 2, 2]
    # det of the Jacobian of a projective map is det(M) / w^3.
    area = np.abs(geometry.determinant(m)) / np.abs(w) ** 3
    # The last level has one texel: as many halvings as the longer side has bits above its first.
    last = np.frexp(np.maximum(height, width) - 1.0)[1]
    # Adding zero makes -0, which a minimum may or may not keep, 0.
    return np.asarray(np.clip(-0.5 * np.log2(area), 0.0, last) + 0.0, np.float64)


def window(object_to_frame: Float, size_hw: tuple[int, int], level: float, limit: Window | None) -> Window:
    """Return the pixels (x0, y0, x1, y1), half-open, that a transparent-border texture of a size can touch.

    ``limit`` crops it, for example to the frame; ``None`` leaves it whole. Empty windows have x1 <= x0
    or y1 <= y0. A pose with a horizon inside the texture may touch everything up to ``limit``.
    """
    reach = float(2 ** (int(level) + 1))  # half a texel of the coarser level, and its padding
    height, width = size_hw
    box = geometry.corners(width + 3 * reach, height + 3 * reach) - reach
    mapped = geometry.apply(object_to_frame, box)
    if not np.isfinite(mapped).all():
        if limit is None:
            raise ValueError("the whole extent of an object that crosses a horizon is not finite")
        return limit
    low, high = np.floor(mapped.min(axis=0)), np.ceil(mapped.max(axis=0))
    x0, y0, x1, y1 = int(low[0]), int(low[1]), int(high[0]), int(high[1])
    if limit is None:
        return x0, y0, x1, y1
    return max(x0, limit[0]), max(y0, limit[1]), min(x1, limit[2]), min(y1, limit[3])


@inlined
def level_start(height: int, width: int, level: int) -> tuple[int, int, int]:  # pragma: no cover
    """Return (first texel, height, width) of a mip level."""
    start = 0
    for _ in range(level):
        start += height * width
        height, width = (height + 1) // 2, (width + 1) // 2
    return start, height, width


@inlined
def alpha_tap(texels, start, h, w, u, v):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bilinear alpha (0..255) at (u, v) in texels of one level, nothing outside."""
    u -= 0.5
    v -= 0.5
    if not (-1.0 <= u < w and -1.0 <= v < h):
        return 0.0
    i, j = int(np.floor(u)), int(np.floor(v))
    fu, fv = u - i, v - j
    if 0 <= i < w - 1 and 0 <= j < h - 1:  # the sum below, without its tests
        at = start + j * w + i
        upper = (1.0 - fv) * (1.0 - fu) * texels[at, 3] + (1.0 - fv) * fu * texels[at + 1, 3]
        return upper + fv * (1.0 - fu) * texels[at + w, 3] + fv * fu * texels[at + w + 1, 3]
    total = 0.0
    for dj in range(2):
        if 0 <= j + dj < h:
            weight = fv if dj else 1.0 - fv
            row = start + (j + dj) * w
            if 0 <= i < w:
                total += weight * (1.0 - fu) * texels[row + i, 3]
            if 0 <= i + 1 < w:
                total += weight * fu * texels[row + i + 1, 3]
    return total


@inlined
def levels_at(first, height, width, level):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (mix, scale, and first texel, height and width of both neighbouring levels)."""
    low = int(level)
    start0, h0, w0 = level_start(height, width, low)
    start1, h1, w1 = level_start(height, width, low + 1)
    return level - low, 1.0 / (1 << low), first + start0, h0, w0, first + start1, h1, w1


@inlined
def alpha_point(texels, levels, inverse, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the alpha 0..1 at one frame point, of a texture in the levels given by `levels_at`."""
    mix, scale, start0, h0, w0, start1, h1, w1 = levels
    depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
    if not depth > 0.0:
        return 0.0
    u = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / depth
    v = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) / depth
    alpha = (1.0 - mix) * alpha_tap(texels, start0, h0, w0, u * scale, v * scale)
    if mix > 0.0:
        alpha += mix * alpha_tap(texels, start1, h1, w1, u * (scale * 0.5), v * (scale * 0.5))
    return alpha / 255.0


@kernel
def _alpha_points(texels, height, width, inverse, level, xs, ys, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    levels = levels_at(0, height, width, level)
    for k in range(xs.shape[0]):
        out[k] = alpha_point(texels, levels, inverse, xs[k], ys[k])


def alpha_at(texture: Texture, object_to_frame: Float, level: float, points_xy: Float) -> Float:
    """Return the alpha ``[P]`` (0..1, without opacity) of a transparent-border texture at frame points.

    ``points_xy`` is ``[P, 2]``.
    """
    out = np.empty(len(points_xy))
    points = np.ascontiguousarray(points_xy, np.float64)
    inverse = np.ascontiguousarray(geometry.invert(object_to_frame))
    _alpha_points(
        texture.texels, texture.height, texture.width, inverse, float(level), points[:, 0], points[:, 1], out
    )
    return out


def pixel_centers(area: Window) -> Float:
    """Return the centres ``[h * w, 2]`` of a window's pixels, row by row."""
    x0, y0, x1, y1 = area
    centers = np.empty((max(y1 - y0, 0), max(x1 - x0, 0), 2))
    centers[..., 0] = np.arange(x0, x1) + 0.5
    centers[..., 1] = np.arange(y0, y1)[:, None] + 0.5
    return centers.reshape(-1, 2)
