"""Loops over pixels and points, by the sampling of `smile_synth.coverage`."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np

from smile_synth.coverage import THRESHOLD, alpha_point, levels_at

# What is known of all points between four neighbouring texels.
_BELOW, _ABOVE, _MIXED = 0, 1, 2


@numba.njit(cache=True, nogil=True)
def _cells(texels, start, h, w, cells):  # pragma: no cover
    """Fill ``cells [(h + 1) * (w + 1)]``: whether alpha is below half, above or either between texels.

    Cell (j, i) lies between the texels j - 1, j and i - 1, i; there is nothing outside of the texture.
    """
    for j in range(h + 1):
        for i in range(w + 1):
            above = 0
            for dj in range(2):
                for di in range(2):
                    y, x = j - 1 + dj, i - 1 + di
                    if 0 <= y < h and 0 <= x < w and texels[start + y * w + x, 3] >= 128:
                        above += 1
            cells[j * (w + 1) + i] = _ABOVE if above == 4 else (_BELOW if above == 0 else _MIXED)


@numba.njit(cache=True, nogil=True)
def _cell(cells, h, w, u, v):  # pragma: no cover
    """Return what is known at (u, v) in texels of a level."""
    u += 0.5
    v += 0.5
    if not (0.0 <= u < w + 1 and 0.0 <= v < h + 1):
        return _BELOW
    return cells[int(v) * (w + 1) + int(u)]


@numba.njit(cache=True, nogil=True)
def cover(
    texels,
    first,
    heights,
    widths,
    inverse,
    levels,
    opacity,
    back_to_front,
    windows,
    number,
    owner,
    amodal,
    extent,
):  # pragma: no cover
    """Fill owners, amodal masks and the extents' areas and boxes.

    Args:
        texels: ``[n, 4]``, the textures of all layers one after another.
        first, heights, widths: ``[L]``, of each layer's texture in it.
        inverse: ``[L, T, 3, 3]`` frame to texture.
        levels, opacity: ``[L, T]``.
        back_to_front: ``[T, L - 1]``, layers without the background.
        windows: ``[L, T, 4]``, half-open, where a layer may be.
        number: ``[L]``, the labelled objects' place, else -1.
        owner: ``[T, H, W]``, filled: the layer that owns a pixel, 0 the background.
        amodal: ``[N, T, H, W]`` bool, filled; no objects: not wanted.
        extent: ``[N, T, 5]`` int64, filled: area, x0, y0, x1, y1 of the whole extent.
    """
    frames, height, width = owner.shape
    wanted = amodal.shape[0] > 0
    # Most pixels lie between texels that are all opaque, or all empty: one look tells.
    known = {(np.int64(0), np.int64(0)): np.zeros(1, np.uint8)}
    for t in range(frames):
        for place in range(back_to_front.shape[1]):
            k = back_to_front[t, place]
            n = number[k] if wanted else -1
            area, left, top, right, bottom = 0, 1 << 40, 1 << 40, -(1 << 40), -(1 << 40)
            x0, y0, x1, y1 = windows[k, t]
            mips, m, strength = (
                levels_at(first[k], heights[k], widths[k], levels[k, t]),
                inverse[k, t],
                opacity[k, t],
            )
            mix, scale, start0, h0, w0, start1, h1, w1 = mips
            low = np.int64(levels[k, t])
            for level, start, h, w in ((low, start0, h0, w0), (low + 1, start1, h1, w1)):
                if (k, level) not in known:
                    cells = np.empty((h + 1) * (w + 1), np.uint8)
                    _cells(texels, start, h, w, cells)
                    known[(k, level)] = cells
            cells0, cells1 = known[(k, low)], known[(k, low + 1)]
            affine = m[2, 0] == 0.0 and m[2, 1] == 0.0 and m[2, 2] == 1.0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    cell = _MIXED
                    if affine:
                        u = m[0, 0] * (x + 0.5) + m[0, 1] * (y + 0.5) + m[0, 2]
                        v = m[1, 0] * (x + 0.5) + m[1, 1] * (y + 0.5) + m[1, 2]
                        cell = _cell(cells0, h0, w0, u * scale, v * scale)
                        if mix > 0.0 and cell != _MIXED:
                            other = _cell(cells1, h1, w1, u * (scale * 0.5), v * (scale * 0.5))
                            cell = cell if other == cell else _MIXED
                        if cell == _BELOW:
                            continue
                    inside = 0 <= x < width and 0 <= y < height
                    if cell == _ABOVE and strength == 1.0:
                        extends, owns = True, True
                    else:
                        alpha = alpha_point(texels, mips, m, x + 0.5, y + 0.5)
                        extends, owns = alpha >= THRESHOLD, alpha * strength >= THRESHOLD
                    if inside and owns:
                        owner[t, y, x] = k
                    if n >= 0 and extends:
                        area += 1
                        left, top = min(left, x), min(top, y)
                        right, bottom = max(right, x), max(bottom, y)
                        if inside:
                            amodal[n, t, y, x] = True
            if n >= 0:
                extent[n, t, 0] = area
                extent[n, t, 1], extent[n, t, 2] = left, top
                extent[n, t, 3], extent[n, t, 4] = right + 1, bottom + 1


@numba.njit(cache=True, nogil=True)
def summarise(owned, amodal, modal, modal_extent, amodal_area, occluded_by):  # pragma: no cover
    """Fill what follows from who owns which pixel.

    Args:
        owned: ``[T, H, W]``, place + 1 of the labelled object that owns a pixel, else 0.
        amodal: ``[N, T, H, W]`` bool.
        modal: ``[N, T, H, W]`` bool, filled.
        modal_extent: ``[N, T, 5]`` int64, filled: area, x0, y0, x1, y1 (0 where empty).
        amodal_area: ``[N, T]`` int64, filled.
        occluded_by: ``[N, N, T]`` int64, filled.
    """
    objects, frames, height, width = amodal.shape
    for n in range(objects):
        for t in range(frames):
            area, left, top, right, bottom = 0, width, height, -1, -1
            inside = 0
            for y in range(height):
                for x in range(width):
                    if not amodal[n, t, y, x]:
                        continue
                    inside += 1
                    other = owned[t, y, x] - 1
                    if other == n:
                        modal[n, t, y, x] = True
                        area += 1
                        left, top = min(left, x), min(top, y)
                        right, bottom = max(right, x), max(bottom, y)
                    elif other >= 0:
                        occluded_by[n, other, t] += 1
            amodal_area[n, t] = inside
            if area:
                modal_extent[n, t, 0] = area
                modal_extent[n, t, 1], modal_extent[n, t, 2] = left, top
                modal_extent[n, t, 3], modal_extent[n, t, 4] = right + 1, bottom + 1


@numba.njit(cache=True, nogil=True)
def owners_at(
    texels, first, heights, widths, inverse, levels, opacity, back_to_front, frames, points, owner
):  # pragma: no cover
    """Fill ``owner [P]``: the layer that owns each point ``[P, 2]`` itself, in its frame ``[P]``."""
    for p in range(len(points)):
        t = frames[p]
        for place in range(back_to_front.shape[1]):
            k = back_to_front[t, place]
            mips = levels_at(first[k], heights[k], widths[k], levels[k, t])
            alpha = alpha_point(texels, mips, inverse[k, t], points[p, 0], points[p, 1])
            if alpha * opacity[k, t] >= THRESHOLD:
                owner[p] = k


@numba.njit(cache=True, nogil=True)
def follow(
    texels, first, heights, widths, inverse, levels, opacity, back_to_front, poses, redrawn,
    points, layers, begin, end, targets, hidden,
):  # fmt: skip  # pragma: no cover
    """Carry points from frame ``begin[p]`` to ``end[p]`` with their layer.

    A point keeps the larger of its alphas at both: resampling at an edge must not make an object hide
    behind what lies behind it.

    Args:
        texels, first, heights, widths, inverse, levels, opacity, back_to_front: as in `cover`.
        poses: ``[L, T, 3, 3]`` texture to frame.
        redrawn: ``[L]`` bool, whether a layer is something new in every frame.
        points: ``[P, 2]``.
        layers, begin, end: ``[P]``.
        targets: ``[P, 2]``, filled; NaN where a point has no place in that frame.
        hidden: ``[P]`` bool, filled: another layer owns the target.
    """
    for p in range(len(points)):
        k, t0, t1 = layers[p], begin[p], end[p]
        x, y = points[p, 0], points[p, 1]
        if t0 != t1:
            if redrawn[k]:
                x = np.nan
            else:
                there = inverse[k, t0]
                depth = there[2, 0] * x + there[2, 1] * y + there[2, 2]
                if depth > 0.0:
                    u = (there[0, 0] * x + there[0, 1] * y + there[0, 2]) / depth
                    v = (there[1, 0] * x + there[1, 1] * y + there[1, 2]) / depth
                    pose = poses[k, t1]
                    depth = pose[2, 0] * u + pose[2, 1] * v + pose[2, 2]
                    if depth > 0.0:
                        x = (pose[0, 0] * u + pose[0, 1] * v + pose[0, 2]) / depth
                        y = (pose[1, 0] * u + pose[1, 1] * v + pose[1, 2]) / depth
                if not depth > 0.0:
                    x = np.nan
        if np.isnan(x):
            targets[p, 0] = targets[p, 1] = np.nan
            continue
        targets[p, 0], targets[p, 1] = x, y
        covered = False
        for place in range(back_to_front.shape[1] - 1, -1, -1):
            front = back_to_front[t1, place]
            if front == k:
                break
            mips = levels_at(first[front], heights[front], widths[front], levels[front, t1])
            alpha = alpha_point(texels, mips, inverse[front, t1], x, y)
            if alpha * opacity[front, t1] >= THRESHOLD:
                covered = True
                break
        if not covered and k > 0:
            mips = levels_at(first[k], heights[k], widths[k], levels[k, t1])
            alpha = alpha_point(texels, mips, inverse[k, t1], x, y)
            if alpha * opacity[k, t1] < THRESHOLD:
                mips = levels_at(first[k], heights[k], widths[k], levels[k, t0])
                before = alpha_point(texels, mips, inverse[k, t0], points[p, 0], points[p, 1])
                covered = max(alpha, before) * opacity[k, t1] < THRESHOLD
        hidden[p] = covered
