"""Alpha, ownership and visibility of layers: the one definition that sampling and labels share.

A pixel is tested at its centre, a track at the point itself, with the sampling that renders: bilinear in two
neighbouring mip levels, then mixed. An object's extent (amodal) is where ``alpha >= .5``. A layer covers a
point where ``alpha x opacity >= .5``. The front-most layer that covers a point owns it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth.core import geometry
from smile_synth.core.compile import inlined, kernel

Border = Literal["transparent", "reflect", "repeat"]
Float = NDArray[np.float64]
Int = NDArray[np.int64]

# Slightly below one half, so that alpha 1 x opacity .5 passes in spite of rounding.
THRESHOLD = 0.5 - 1e-9

# Values of a side map, see `side_maps`. BELOW & ABOVE is MIXED.
MIXED, BELOW, ABOVE = 0, 1, 2

# Geometry and mip levels of one layer in one frame. Fields of two values hold the two mixed mip levels.
LAYER_VIEW = np.dtype(
    [
        ("frame_to_texture", np.float64, (3, 3)),
        ("opacity", np.float64),
        ("window", np.int64, (4,)),  # pixels x0, y0, x1, y1 that the layer may touch, also outside the frame
        ("level", np.int64, (2,)),
        ("first", np.int64, (2,)),  # first texel of the level
        ("height", np.int64, (2,)),
        ("width", np.int64, (2,)),
        ("scale", np.float64, (2,)),  # texels of the level per texel of level 0
        ("weight", np.float64, (2,)),
        ("sides_first", np.int64, (2,)),  # where the level's side map begins, see `side_maps`; -1: no map
        ("texture_first", np.int64),  # first texel of level 0
        ("texture_height", np.int64),
        ("texture_width", np.int64),
        ("margin", np.float64),  # texels of level 0 by which the extent may exceed the texture
        ("affine", np.bool_),
    ],
    align=True,
)


def level_of_detail(object_to_frame: Float, height: ArrayLike, width: ArrayLike) -> Float:
    """Return the mip level ``[...]`` of ``height x width`` textures under poses ``[..., 3, 3]``.

    The rule: log2 of the side of the square in the texture that has the area of one frame pixel,
    sqrt(|det J|) of the frame-to-object map at the texture's middle, at least 0 and at most the last
    level. If the scales of the two axes differ, their geometric mean decides. Sizes broadcast with the
    leading axes.
    """
    m = object_to_frame
    w = m[..., 2, 0] * np.divide(width, 2) + m[..., 2, 1] * np.divide(height, 2) + m[..., 2, 2]
    # det of the Jacobian of a projective map is det(M) / w^3.
    area = np.abs(geometry.determinant(m)) / np.abs(w) ** 3
    # The last level has one texel: ceil(log2(longer side)), which frexp computes exactly.
    last = np.frexp(np.maximum(height, width) - 1.0)[1]
    # 0 - 0, unlike -0.5 x 0, is never -0.
    level: Float = np.minimum(np.maximum(0.0 - 0.5 * np.log2(area), 0.0), last)
    return level


def layer_views(
    first_texel: ArrayLike,
    texture_hw: ArrayLike,
    object_to_frame: Float,
    level: Float,
    opacity: Float,
    frame_hw: tuple[int, int],
) -> NDArray[Any]:
    """Return how L layers with transparent borders are seen in T frames.

    Args:
        first_texel: ``[L]``, where each texture begins in the array of texels that kernels read.
        texture_hw: ``[L, 2]`` texels.
        object_to_frame: ``[L, T, 3, 3]``.
        level: ``[L, T]`` mip level, see `level_of_detail`.
        opacity: ``[L, T]`` 0..1.
        frame_hw: frame size in pixels. The window of a texture with points behind the camera is infinite;
            it is cropped to three times the frame's width and height.

    Returns:
        ``[L, T]`` of `LAYER_VIEW`.

    Raises:
        ValueError: a pose is singular.
    """
    views = np.empty(level.shape, LAYER_VIEW)
    views["frame_to_texture"] = geometry.invert(object_to_frame)
    views["opacity"] = opacity
    height, width = frame_hw
    largest = np.array([-width, -height, 2 * width, 2 * height], np.int64)
    sizes = np.asarray(texture_hw, np.int64).reshape(-1, 2)
    _fill_views(
        views, np.asarray(first_texel, np.int64), sizes, np.ascontiguousarray(object_to_frame), level, largest
    )
    return views


@inlined
def map_point(transform, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Map a point by a 3x3 transform; NaN behind the camera."""
    depth = transform[2, 0] * x + transform[2, 1] * y + transform[2, 2]
    scale = 1.0 if depth > 0.0 else np.nan
    u = (transform[0, 0] * x + transform[0, 1] * y + transform[0, 2]) * scale
    v = (transform[1, 0] * x + transform[1, 1] * y + transform[1, 2]) * scale
    if depth != 1.0:  # a division is slow
        u /= depth
        v /= depth
    return u, v


@inlined
def _map_affine(transform, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Map a point by an affine transform; the result has the bits of `map_point`."""
    u = transform[0, 0] * x + transform[0, 1] * y + transform[0, 2]
    v = transform[1, 0] * x + transform[1, 1] * y + transform[1, 2]
    return u, v


@inlined
def level_start(height: int, width: int, level: int) -> tuple[int, int, int]:  # pragma: no cover - compiled
    """Return (first texel, height, width) of a mip level of a texture."""
    start = 0
    for _ in range(level):
        start += height * width
        height, width = (height + 1) // 2, (width + 1) // 2
    return start, height, width


@inlined
def set_levels(view, first_texel, height, width, level):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill a view's fields that follow from texture, mip level and ``frame_to_texture``; no side maps."""
    view.texture_first, view.texture_height, view.texture_width = first_texel, height, width
    fine = int(level)
    for i in range(2):
        start, h, w = level_start(height, width, fine + i)
        view.level[i], view.first[i] = fine + i, first_texel + start
        view.height[i], view.width[i] = h, w
        view.scale[i] = 0.5 ** (fine + i)
        view.weight[i] = level - fine if i else 1.0 - (level - fine)
        view.sides_first[i] = -1
    # At level 0, alpha >= .5 ends with the texture. At coarser levels a partly padded texel extends it by
    # at most 1.5 - sqrt(2) < .125 of the texel's side.
    view.margin = 0.125 * float(2 << fine)
    m = view.frame_to_texture
    view.affine = (m[2, 0] == 0.0) & (m[2, 1] == 0.0) & (m[2, 2] == 1.0)


@kernel(error_model="numpy")
def _fill_views(views, first_texel, texture_hw, poses, level, largest):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(views.shape[0]):
        height, width = texture_hw[k, 0], texture_hw[k, 1]
        for t in range(views.shape[1]):
            view = views[k, t]
            set_levels(view, first_texel[k], height, width, level[k, t])
            reach = float(2 << int(level[k, t]))
            x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
            for corner in range(4):
                u = width + 2 * reach if corner & 1 else -reach
                v = height + 2 * reach if corner & 2 else -reach
                x, y = map_point(poses[k, t], u, v)
                x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
                if np.isnan(x):
                    x0 = np.nan
                    break
            if np.isnan(x0):
                view.window[:] = largest
            else:
                view.window[0], view.window[1] = int(np.floor(x0)), int(np.floor(y0))
                view.window[2], view.window[3] = int(np.ceil(x1)), int(np.ceil(y1))


@inlined
def alpha_tap(texels, first, height, width, u, v):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the bilinear alpha 0..255 at (u, v) in texels of one mip level; 0 outside."""
    u -= 0.5
    v -= 0.5
    i, j = int(np.floor(u)), int(np.floor(v))
    if (i >= 0) & (i < width - 1) & (j >= 0) & (j < height - 1):  # the sum below, without its tests
        at = np.uint64(first + width * j + i)
        under = at + np.uint64(width)
        above = (1.0 - u + i) * texels[at, 3] + (u - i) * texels[at + np.uint64(1), 3]
        below = (1.0 - u + i) * texels[under, 3] + (u - i) * texels[under + np.uint64(1), 3]
        return (1.0 - v + j) * above + (v - j) * below
    left, right = (1.0 - u + i) * ((i >= 0) & (i < width)), (u - i) * ((i >= -1) & (i < width - 1))
    upper, lower = (1.0 - v + j) * ((j >= 0) & (j < height)), (v - j) * ((j >= -1) & (j < height - 1))
    # Texels outside have the weight 0, and the index of some texel inside.
    i0, i1 = min(max(i, 0), width - 1), min(max(i + 1, 0), width - 1)
    j0, j1 = first + width * min(max(j, 0), height - 1), first + width * min(max(j + 1, 0), height - 1)
    above = left * texels[np.uint64(j0 + i0), 3] + right * texels[np.uint64(j0 + i1), 3]
    below = left * texels[np.uint64(j1 + i0), 3] + right * texels[np.uint64(j1 + i1), 3]
    return upper * above + lower * below


@inlined
def mip_levels(view):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return (weight, scale, first texel, height, width) of both mip levels of a view, for `alpha_at`."""
    return (
        (view.weight[0], view.scale[0], view.first[0], view.height[0], view.width[0]),
        (view.weight[1], view.scale[1], view.first[1], view.height[1], view.width[1]),
    )


@inlined
def alpha_at(texels, levels, u, v):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the alpha 0..1, without opacity, at (u, v) in texels of level 0."""
    alpha = 0.0
    for weight, scale, first, height, width in levels:
        if weight > 0.0:
            alpha += weight * alpha_tap(texels, first, height, width, u * scale, v * scale)
    return alpha / 255.0


@inlined
def alpha_point(texels, view, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the alpha 0..1, without opacity, of a layer at a frame point."""
    u, v = map_point(view.frame_to_texture, x, y)
    return alpha_at(texels, mip_levels(view), u, v)


def side_maps(texels: NDArray[np.uint8], views: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the side maps of all mip levels in ``views [L, T]``.

    The start of each map is written to ``views["sides_first"]``, in place.

    A side map has one cell per block of 2x2 texels, also for blocks that cross the texture's edge, and a
    border of one cell. A cell is `ABOVE` if all four alphas are at least one half, `BELOW` if all are below,
    else `MIXED`.
    """
    sides = np.zeros(_place_side_maps(views), np.uint8)
    _fill_side_maps(texels, views, sides)
    return sides


@kernel
def _place_side_maps(views):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    total = 0
    for k in range(views.shape[0]):
        places = np.full(64, -1, np.int64)  # of each level
        for t in range(views.shape[1]):
            view = views[k, t]
            for i in range(2):
                if places[view.level[i]] < 0 and view.weight[i] > 0.0:
                    places[view.level[i]] = total
                    total += (view.height[i] + 3) * (view.width[i] + 3)
                view.sides_first[i] = places[view.level[i]]
    return total


@kernel
def _fill_side_maps(texels, views, sides):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for k in range(views.shape[0]):
        for t in range(views.shape[1]):
            view = views[k, t]
            for i in range(2):
                first, height, width = view.sides_first[i], view.height[i] + 3, view.width[i] + 3
                if view.weight[i] > 0.0 and sides[first] == 0:  # a filled map has no 0 at its border
                    cells = sides[first : first + height * width].reshape(height, width)
                    _fill_side_map(texels, view.first[i], cells)


@kernel
def _fill_side_map(texels, first, cells):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    height, width = cells.shape
    for y in range(height - 3):
        upper, lower = cells[y + 1], cells[y + 2]
        row = texels[first + y * (width - 3) : first + (y + 1) * (width - 3)]
        for x in range(len(row)):
            above = row[x, 3] >> 7  # 1 from 128 on
            upper[x + 1] += above
            upper[x + 2] += above
            lower[x + 1] += above
            lower[x + 2] += above
    for y in range(height):
        row = cells[y]
        for x in range(len(row)):
            row[x] = BELOW * (row[x] == 0) + ABOVE * (row[x] == 4)


@inlined
def _cell(i, j, width, shift):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return the index of a cell in a map. Without the casts numba computes in 64 bits, at half the speed."""
    return np.int32(np.int32(j >> shift) * width) + np.int32(i >> shift)


@inlined
def _compare_sides(sides, view, opacity, y, columns, places, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill ``row`` as `cover_row` does, by the side maps alone.

    Returns the number of pixels that need the exact alpha; ``places[0]`` begins with their places in ``row``.
    """
    begin, step = columns
    # Positions in half texels of the finer level: whole numbers give the cells of both levels.
    scale = 2.0 * view.scale[0]
    u, v = map_point(view.frame_to_texture, begin + 0.5, y + 0.5)
    u, v = u * scale + 3.0, v * scale + 3.0
    du, dv = view.frame_to_texture[0, 0] * scale * step, view.frame_to_texture[1, 0] * scale * step
    zero, last_i, last_j = np.int32(0), np.int32(2 * view.width[0] + 5), np.int32(2 * view.height[0] + 5)
    fine_cells, coarse_cells = np.int32(view.width[0] + 3), np.int32(view.width[1] + 3)
    first, second = np.uint64(view.sides_first[0]), np.uint64(view.sides_first[1])
    fine, coarse = places[0], places[1]
    # Two loops: the first one is compiled to vector instructions.
    for k in range(len(row)):
        # Outside the map, use the nearest border cell: alpha is below one half there.
        i = min(max(np.int32(u + np.int32(k) * du), zero), last_i)
        j = min(max(np.int32(v + np.int32(k) * dv), zero), last_j)
        fine[k] = _cell(i, j, fine_cells, 1)
        coarse[k] = _cell(np.int32(i + 3), np.int32(j + 3), coarse_cells, 2)
    if view.weight[1] == 0.0:
        coarse, second = fine, first
    undecided, also_undecided = 0, ABOVE if opacity < 1.0 else MIXED
    for k in range(len(row)):
        side = sides[first + np.uint64(fine[k])] & sides[second + np.uint64(coarse[k])]
        row[k] = side == ABOVE
        fine[undecided] = k
        undecided += (side == MIXED) | (side == also_undecided)
    return undecided


@kernel(error_model="numpy")
def cover_row(texels, sides, view, opacity, y, columns, places, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill ``row`` with 1 where alpha x opacity of a layer is at least one half, else 0.

    Most pixels do not need the exact alpha: if the side maps of both mip levels agree, all texels that
    contribute are on the same side of one half.

    Args:
        texels: ``[n, 4]`` uint8.
        sides: side maps; for poses with perspective, and without maps, every pixel is tested by its alpha.
        view: of `LAYER_VIEW`.
        opacity: 0..1, in place of the view's own.
        y: row of pixels.
        columns: (begin, step); ``row[i]`` is the pixel in column begin + i step.
        places: ``[2, n]`` int32, at least as long as ``row``, changed.
        row: uint8, filled.
    """
    begin, step = columns
    if view.affine and view.sides_first[0] >= 0:
        undecided = _compare_sides(sides, view, opacity, y, columns, places, row)
    else:
        undecided = len(row)
        for i in range(len(row)):
            places[0, i] = i
    # Read once a row: after a write to the row, the compiler reads the fields of the view again.
    levels, affine = mip_levels(view), view.affine
    for i in range(undecided):
        place = places[0, i]
        x = begin + place * step + 0.5
        if affine:
            u, v = _map_affine(view.frame_to_texture, x, y + 0.5)
        else:
            u, v = map_point(view.frame_to_texture, x, y + 0.5)
        row[place] = alpha_at(texels, levels, u, v) * opacity >= THRESHOLD


@inlined
def _narrowed(at, step, margin, size, x0, x1):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return those of the columns [x0, x1) with -margin <= at + (x + .5) step <= size + margin."""
    if step == 0.0:
        return x0, (x1 if -margin <= at <= size + margin else x0)
    enter, leave = (-margin - at) / step - 0.5, (size + margin - at) / step - 0.5
    if step < 0.0:
        enter, leave = leave, enter
    low, high = float(x0), float(x1)
    return int(min(max(np.floor(enter), low), high)), int(min(max(np.ceil(leave) + 1.0, low), high))


@inlined
def columns_near(view, y, x0, x1):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return those of the columns [x0, x1) of pixel row ``y`` that a layer's extent can reach."""
    if view.affine:
        m, margin = view.frame_to_texture, view.margin
        u, v = m[0, 1] * (y + 0.5) + m[0, 2], m[1, 1] * (y + 0.5) + m[1, 2]
        x0, x1 = _narrowed(u, m[0, 0], margin, view.texture_width, x0, x1)
        x0, x1 = _narrowed(v, m[1, 0], margin, view.texture_height, x0, x1)
    return x0, x1
