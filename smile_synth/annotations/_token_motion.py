"""Exact motion of the tokens of a video transformer, from poses and the owner of each pixel."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations._kernels import is_covered
from smile_synth.core.compile import inlined, kernel
from smile_synth.core.coverage import map_point

Float = NDArray[np.float64]
Int = NDArray[np.int64]

# What the pixels of a token show: its majority owner in the first frame of its tubelet.
TOKEN = np.dtype(
    [
        ("layer", np.int64),
        ("count", np.int64),  # pixels of the layer
        ("mean", np.float64, (2,)),  # of the centres of these pixels, x and y
        ("covariance", np.float64, (3,)),  # xx, xy, yy of these centres
        ("anchor", np.float64, (2,)),  # the first centre, row by row, that is nearest to the mean
    ],
    align=True,
)


@kernel
def find_token_owners(owner, step, patch_size, tokens):  # pragma: no cover - compiled
    """Fill ``tokens [T', H', W']`` of `TOKEN` from every ``step``-th frame of ``owner [T, H, W]``.

    On equal counts, the owner of a token is the last layer.
    """
    for t in range(tokens.shape[0]):
        frame = owner[t * step]
        for row in range(tokens.shape[1]):
            for column in range(tokens.shape[2]):
                y0, x0 = row * patch_size, column * patch_size
                token, low, high = tokens[t, row, column], frame[y0, x0], frame[y0, x0]
                for y in range(y0, y0 + patch_size):
                    pixels = frame[y, x0 : x0 + patch_size]
                    for i in range(np.uint64(patch_size)):  # unsigned indices allow SIMD
                        low, high = min(low, pixels[i]), max(high, pixels[i])
                if low == high:
                    _fill_whole(token, low, y0, x0, patch_size)
                    continue
                token.count = 0
                for k in range(low, high + 1):
                    count = _count(frame, np.int16(k), y0, x0, patch_size)
                    if count >= token.count:
                        token.layer, token.count = k, count
                _fill_moments(token, frame, y0, x0, patch_size)


@inlined
def _fill_whole(token, layer, y0, x0, patch_size):  # pragma: no cover - compiled
    """Fill a token that shows one layer only."""
    token.layer, token.count = layer, patch_size * patch_size
    token.mean[0], token.mean[1] = x0 + patch_size / 2, y0 + patch_size / 2
    variance = (patch_size * patch_size - 1) / 12
    token.covariance[0], token.covariance[1], token.covariance[2] = variance, 0.0, variance
    middle = (patch_size - 1) // 2 + 0.5
    token.anchor[0], token.anchor[1] = x0 + middle, y0 + middle


@kernel
def _count(frame, layer, y0, x0, patch_size):  # pragma: no cover - compiled
    """Return the number of a layer's pixels in a token."""
    count = 0
    for y in range(y0, y0 + patch_size):
        pixels, in_row = frame[y, x0 : x0 + patch_size], np.int16(0)
        for i in range(np.uint64(patch_size)):
            in_row = np.int16(in_row + (pixels[i] == layer))
        count += int(in_row)
    return count


@kernel
def _fill_moments(token, frame, y0, x0, patch_size):  # pragma: no cover - compiled
    """Fill the moments and the anchor of a token from the pixels of its layer."""
    layer, sx, sy, sxx, sxy, syy = np.int16(token.layer), 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(patch_size):
        # Sums of whole numbers over a row, so that the compiler uses SIMD.
        pixels, in_row = frame[y0 + j, x0 : x0 + patch_size], np.int32(0)
        row_x, row_xx = np.int32(0), np.int32(0)
        for i in range(np.uint64(patch_size)):
            place = np.int32(i) if pixels[i] == layer else np.int32(0)
            in_row = np.int32(in_row + (pixels[i] == layer))
            row_x, row_xx = np.int32(row_x + place), np.int32(row_xx + place * place)
        x, y = row_x + in_row / 2, j + 0.5
        sx += x
        sy += in_row * y
        sxx += row_xx + row_x + in_row / 4
        sxy += x * y
        syy += in_row * y * y
    n = float(token.count)
    mx, my = sx / n, sy / n
    token.mean[0], token.mean[1] = x0 + mx, y0 + my
    token.covariance[0] = max(sxx / n - mx * mx, 0.0)
    token.covariance[1] = sxy / n - mx * my
    token.covariance[2] = max(syy / n - my * my, 0.0)
    nearest, row, column = np.inf, int(my), int(mx)
    if frame[y0 + row, x0 + column] == layer:  # only pixels that are as near or nearer remain
        nearest = (column + 0.5 - mx) ** 2 + (row + 0.5 - my) ** 2 + 2e-9
    for j in range(patch_size):
        if (j + 0.5 - my) ** 2 > nearest:
            continue
        for i in range(patch_size):
            if frame[y0 + j, x0 + i] == layer:
                distance = (i + 0.5 - mx) ** 2 + (j + 0.5 - my) ** 2
                if distance < nearest - 1e-9:  # of equal distances the first one, in spite of rounding
                    nearest = distance
                    token.anchor[0], token.anchor[1] = x0 + i + 0.5, y0 + j + 0.5


@kernel
def move_tokens(stack, tokens, owners, sizes, motion, ends, out):  # pragma: no cover - compiled
    """Fill the motion of tokens to other frames.

    Args:
        stack: texels, views and order, see `smile_synth.annotations._kernels`.
        tokens: ``[T', H', W']`` of `TOKEN`.
        owners: ``owner [T, H, W]`` and ``step``, see `find_token_owners`.
        sizes: tubelet_size and patch_size.
        motion: ``[L, T', D, 3, 3]`` maps from the first frame of a tubelet to another frame; ``[L]`` bool,
            the layer shows new content in every frame.
        ends: ``[T', D]`` the other frames, -1 outside of the clip.
        out: filled: displacement ``[D, N, 2]``, spread ``[D, N, 2]``, linear ``[D, N, 2, 2]``, camera
            ``[D, N, 2]`` float32, valid and visible ``[D, N]`` bool; 0 and false before.
    """
    texels, views, order = stack
    maps, redrawn = motion
    displacement, spread, linear, camera, valid, visible = out
    owner, step = owners
    tubelet_size, patch_size = sizes
    height, width = owner.shape[1:]
    rows, columns = tokens.shape[1:]
    for t in range(tokens.shape[0]):
        t0 = t * tubelet_size
        for d in range(ends.shape[1]):
            t1 = ends[t, d]
            if t1 < 0:
                continue
            for row in range(rows):
                for column in range(columns):
                    n = (t * rows + row) * columns + column
                    token = tokens[t, row, column]
                    x0, y0 = column * patch_size, row * patch_size
                    if not redrawn[0]:
                        cx, cy = x0 + patch_size / 2, y0 + patch_size / 2
                        x, y = map_point(maps[0, t, d], cx, cy)
                        if not np.isnan(x):
                            camera[d, n, 0], camera[d, n, 1] = x - cx, y - cy
                    k = token.layer
                    if redrawn[k]:
                        continue
                    m = maps[k, t, d]
                    ax, ay = map_point(m, token.anchor[0], token.anchor[1])
                    if np.isnan(ax):
                        continue
                    if m[2, 0] == 0.0 and m[2, 1] == 0.0 and m[2, 2] == 1.0:
                        x, y = map_point(m, token.mean[0], token.mean[1])
                        a, b, c, e = m[0, 0] - 1.0, m[0, 1], m[1, 0], m[1, 1] - 1.0
                        xx, xy, yy = token.covariance
                        vx = a * a * xx + 2 * a * b * xy + b * b * yy
                        vy = c * c * xx + 2 * c * e * xy + e * e * yy
                        dx, dy = x - token.mean[0], y - token.mean[1]
                    else:
                        dx, dy, vx, vy = _projective(m, owner[t * step], k, y0, x0, patch_size)
                        a, b, c, e = _jacobian(m, token.mean[0], token.mean[1])
                    if np.isnan(dx + dy + a):
                        continue
                    valid[d, n] = True
                    displacement[d, n, 0], displacement[d, n, 1] = dx, dy
                    spread[d, n, 0], spread[d, n, 1] = math.sqrt(max(vx, 0.0)), math.sqrt(max(vy, 0.0))
                    linear[d, n, 0, 0], linear[d, n, 0, 1] = a, b
                    linear[d, n, 1, 0], linear[d, n, 1, 1] = c, e
                    if 0 <= ax < width and 0 <= ay < height:
                        covered = is_covered(
                            texels, views, order, k, t0, token.anchor[0], token.anchor[1], t1, ax, ay
                        )
                        visible[d, n] = not covered


@inlined
def _projective(m, frame, layer, y0, x0, patch_size):  # pragma: no cover - compiled
    """Return mean and variance of the displacement of a layer's pixels under a projective map."""
    count, sx, sy, sxx, syy = 0, 0.0, 0.0, 0.0, 0.0
    for j in range(patch_size):
        for i in range(patch_size):
            if frame[y0 + j, x0 + i] == layer:
                px, py = x0 + i + 0.5, y0 + j + 0.5
                x, y = map_point(m, px, py)
                count += 1
                sx += x - px
                sy += y - py
                sxx += (x - px) ** 2
                syy += (y - py) ** 2
    mx, my = sx / count, sy / count
    return mx, my, sxx / count - mx * mx, syy / count - my * my


@inlined
def _jacobian(m, x, y):  # pragma: no cover - compiled
    """Return the derivative of the displacement of a projective map at a point, row by row."""
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth
    return (
        (m[0, 0] - u * m[2, 0]) / depth - 1.0,
        (m[0, 1] - u * m[2, 1]) / depth,
        (m[1, 0] - v * m[2, 0]) / depth,
        (m[1, 1] - v * m[2, 1]) / depth - 1.0,
    )


def frame_maps(poses: Float, inverses: Float, starts: Int, ends: Int) -> Float:
    """Return ``[L, T', D, 3, 3]`` maps between the frames ``starts [T']`` and ``ends [T', D]`` of each layer.

    Args:
        poses: ``[L, T, 3, 3]`` texture to frame.
        inverses: ``[L, T, 3, 3]`` frame to texture.
        starts, ends: frames; an end of -1 gives any map.
    """
    maps = poses[:, ends] @ inverses[:, starts][:, :, None]
    affine = (maps[..., 2, :2] == 0).all(-1)
    # The last row of a product of affine maps is exact; a projective one is scaled to a last entry near 1.
    maps[affine, 2, 2] = 1.0
    return np.ascontiguousarray(maps, np.float64)
