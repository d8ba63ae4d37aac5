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
def find_token_owners(owner, tubelet_size, patch_size, num_layers, tokens):  # pragma: no cover - compiled
    """Fill ``tokens [T', H', W']`` of `TOKEN` from ``owner [T, H, W]``; on equal counts the last layer."""
    counts = np.zeros(num_layers, np.int64)
    for t in range(tokens.shape[0]):
        frame = owner[t * tubelet_size]
        for row in range(tokens.shape[1]):
            for column in range(tokens.shape[2]):
                y0, x0 = row * patch_size, column * patch_size
                token = tokens[t, row, column]
                first, difference = frame[y0, x0], np.int16(0)
                for y in range(y0, y0 + patch_size):
                    pixels = frame[y, x0 : x0 + patch_size]
                    for i in range(np.uint64(patch_size)):  # unsigned indices allow SIMD
                        difference |= pixels[i] ^ first
                if difference == 0:
                    _fill_whole(token, first, y0, x0, patch_size)
                    continue
                best = 0
                for y in range(y0, y0 + patch_size):
                    for x in range(x0, x0 + patch_size):
                        counts[frame[y, x]] += 1
                for y in range(y0, y0 + patch_size):
                    for x in range(x0, x0 + patch_size):
                        k = frame[y, x]
                        if counts[k] > counts[best] or (counts[k] == counts[best] and k > best):
                            best = k
                token.layer, token.count = best, counts[best]
                for y in range(y0, y0 + patch_size):
                    for x in range(x0, x0 + patch_size):
                        counts[frame[y, x]] = 0
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


@inlined
def _fill_moments(token, frame, y0, x0, patch_size):  # pragma: no cover - compiled
    """Fill the moments and the anchor of a token from the pixels of its layer."""
    sx, sy, sxx, sxy, syy = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(patch_size):
        for i in range(patch_size):
            if frame[y0 + j, x0 + i] == token.layer:
                x, y = i + 0.5, j + 0.5
                sx += x
                sy += y
                sxx += x * x
                sxy += x * y
                syy += y * y
    n = float(token.count)
    mx, my = sx / n, sy / n
    token.mean[0], token.mean[1] = x0 + mx, y0 + my
    token.covariance[0] = max(sxx / n - mx * mx, 0.0)
    token.covariance[1] = sxy / n - mx * my
    token.covariance[2] = max(syy / n - my * my, 0.0)
    nearest = np.inf
    for j in range(patch_size):
        for i in range(patch_size):
            if frame[y0 + j, x0 + i] == token.layer:
                distance = (i + 0.5 - mx) ** 2 + (j + 0.5 - my) ** 2
                if distance < nearest - 1e-9:  # of equal distances the first one, in spite of rounding
                    nearest = distance
                    token.anchor[0], token.anchor[1] = x0 + i + 0.5, y0 + j + 0.5


@kernel
def move_tokens(stack, tokens, owner, sizes, motion, ends, out):  # pragma: no cover - compiled
    """Fill the motion of tokens to other frames.

    Args:
        stack: texels, views and order, see `smile_synth.annotations._kernels`.
        tokens: ``[T', H', W']`` of `TOKEN`.
        owner: ``[T, H, W]``, which owns the pixels of projective layers.
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
                        dx, dy, vx, vy = _projective(m, owner[t0], k, y0, x0, patch_size)
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
