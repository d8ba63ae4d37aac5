"""The CPU backend: a numba kernel on each layer's window, colours in integers.

Positions stay float64. Texels are mixed in fixed point (12-bit weights per axis and mip level), blended
into a 16-bit accumulator (8.8) so that stacked layers do not add up rounding, and rounded once.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from smile_synth import geometry
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing._philox import philox_word
from smile_synth.coverage import level_start, window
from smile_synth.objects import ObjectBank
from smile_synth.scene import Drawn, Noise, Picture, Scene, Solid, Video, is_redrawn, texture_of

_TRANSPARENT, _REFLECT, _REPEAT = 0, 1, 2
_BORDERS = {"transparent": _TRANSPARENT, "reflect": _REFLECT, "repeat": _REPEAT}
_ONE = 4096  # fixed-point one of a weight: 12 bits
_FULL = 255 * 256  # full alpha and full colour in 8.8


def composite_cpu(scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None) -> NDArray[np.uint8]:
    """Render frames ``[T, H, W, 3]`` uint8 within the tolerances of `smile_synth.compositing`."""
    height, width = scene.size_hw
    frame = (0, 0, width, height)
    textures = [
        texture_of(layer.surface, bank, backgrounds) if isinstance(layer.surface, Picture | Drawn) else None
        for layer in scene.layers
    ]
    inverses = np.ascontiguousarray(geometry.invert(scene.object_to_frame))
    plain = ((scene.gain == 1.0) & (scene.bias == 0.0)).all(axis=-1)
    gains = np.round(scene.gain * 65536).astype(np.int64)
    biases = np.round(scene.bias * 65536).astype(np.int64)
    accumulator = np.empty((height, width, 3), np.uint16)
    rearmost = np.empty_like(accumulator)
    frames = np.empty((scene.num_frames, height, width, 3), np.uint8)

    def blend(target: NDArray[np.uint16], k: int, t: int) -> None:
        surface, texture = scene.layers[k].surface, textures[k]
        if isinstance(surface, Video):
            texture = texture_of(surface, bank, backgrounds, t)
        opacity = round(scene.opacity[k, t] * 65536)
        tint = (bool(plain[k, t]), *gains[k, t].tolist(), *biases[k, t].tolist())
        if isinstance(surface, Solid):
            _fill(target, *surface.rgb, opacity, tint)
        elif isinstance(surface, Noise):
            frame_word = t if surface.redrawn else 0
            _noise(target, surface.key[0], surface.key[1], frame_word, inverses[k, t], opacity, tint)
        elif texture is not None and opacity > 0:
            border, level, area = _BORDERS[scene.layers[k].border], float(scene.level[k, t]), frame
            if border == _TRANSPARENT:
                area = window(scene.object_to_frame[k, t], texture, level, frame)
            texels = texture.texels.view(np.uint32)[:, 0]
            size = texture.height, texture.width
            _blend(target, texels, *size, level, inverses[k, t], border, area, opacity, tint)

    for t in range(scene.num_frames):
        # A background that stands still is rendered once and copied.
        if t == 0 or _background_moves(scene, t):
            rearmost[:] = 0
            blend(rearmost, 0, t)
        np.copyto(accumulator, rearmost)
        for k in scene.front_to_back(t)[-2::-1]:
            blend(accumulator, k, t)
        _round(accumulator, frames[t])
    return frames


def _background_moves(scene: Scene, t: int) -> bool:
    """Return whether the background of frame t differs from that of frame t - 1."""
    if is_redrawn(scene.layers[0].surface):
        return True
    arrays = (scene.object_to_frame, scene.opacity, scene.gain, scene.bias, scene.level)
    return not all(np.array_equal(array[0, t], array[0, t - 1]) for array in arrays)


@numba.njit(cache=True, nogil=True)
def _tint(color, alpha, gain, bias):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Apply gain and bias (16.16) to a premultiplied 8.8 channel."""
    return min(max((color * gain + alpha * bias) >> 16, 0), alpha)


@numba.njit(cache=True, nogil=True)
def _over(below, color, rest):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend a premultiplied 8.8 channel over what lies below; ``rest`` is full minus alpha."""
    return min(color + (np.int64(below) * rest + _FULL // 2) // _FULL, _FULL)


@numba.njit(cache=True, nogil=True)
def _put(acc, y, x, red, green, blue, alpha, opacity, tint):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend one premultiplied 8.8 colour over a pixel. ``tint`` is (plain, three gains, three biases)."""
    plain, g0, g1, g2, b0, b1, b2 = tint
    if not plain:
        red, green, blue = _tint(red, alpha, g0, b0), _tint(green, alpha, g1, b1), _tint(blue, alpha, g2, b2)
    if opacity != 65536:
        red, green = (red * opacity + 32768) >> 16, (green * opacity + 32768) >> 16
        blue, alpha = (blue * opacity + 32768) >> 16, (alpha * opacity + 32768) >> 16
    rest = _FULL - alpha
    if rest == 0:
        acc[y, x, 0], acc[y, x, 1], acc[y, x, 2] = red, green, blue
    else:
        acc[y, x, 0] = _over(acc[y, x, 0], red, rest)
        acc[y, x, 1] = _over(acc[y, x, 1], green, rest)
        acc[y, x, 2] = _over(acc[y, x, 2], blue, rest)


@numba.njit(cache=True, nogil=True)
def _fill(acc, red, green, blue, opacity, tint):  # type: ignore[no-untyped-def]  # pragma: no cover
    for y in range(acc.shape[0]):
        for x in range(acc.shape[1]):
            _put(acc, y, x, red << 8, green << 8, blue << 8, _FULL, opacity, tint)


@numba.njit(cache=True, nogil=True)
def _noise(acc, key0, key1, frame, inverse, opacity, tint):  # type: ignore[no-untyped-def]  # pragma: no cover
    mask = 0xFFFFFFFF
    for y in range(acc.shape[0]):
        for x in range(acc.shape[1]):
            px, py = x + 0.5, y + 0.5
            depth = inverse[2, 0] * px + inverse[2, 1] * py + inverse[2, 2]
            u = int(np.floor((inverse[0, 0] * px + inverse[0, 1] * py + inverse[0, 2]) / depth)) & mask
            v = int(np.floor((inverse[1, 0] * px + inverse[1, 1] * py + inverse[1, 2]) / depth)) & mask
            red = np.int64(philox_word(u, v, frame, 0, key0, key1) >> np.uint64(24)) << 8
            green = np.int64(philox_word(u, v, frame, 1, key0, key1) >> np.uint64(24)) << 8
            blue = np.int64(philox_word(u, v, frame, 2, key0, key1) >> np.uint64(24)) << 8
            _put(acc, y, x, red, green, blue, _FULL, opacity, tint)


@numba.njit(cache=True, nogil=True)
def _fold(u, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    u = abs(u) % (2.0 * size)
    return 2.0 * size - u if u > size else u


@numba.njit(cache=True, nogil=True)
def _spread(texel):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Spread a 32-bit texel over two words, (green, red) and (alpha, blue), 32 bits a channel.

    A weight of 24 bits times 8 bits stays within 32: one product weighs two channels.
    """
    t = np.int64(texel)
    return (t & 0xFF) | ((t & 0xFF00) << 24), ((t >> 16) & 0xFF) | ((t >> 24) << 32)


@numba.njit(cache=True, nogil=True)
def _tap(texels, start, h, w, u, v, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bilinear premultiplied RGBA of one level as `_spread` words, 24 fractional bits."""
    u -= 0.5
    v -= 0.5
    fi, fj = np.floor(u), np.floor(v)
    i, j = int(fi), int(fj)
    fu, fv = int((u - fi) * _ONE + 0.5), int((v - fj) * _ONE + 0.5)
    gu, gv = _ONE - fu, _ONE - fv
    if 0 <= i < w - 1 and 0 <= j < h - 1:
        texel = start + j * w + i
        rg0, ba0 = _spread(texels[texel])
        rg1, ba1 = _spread(texels[texel + 1])
        rg2, ba2 = _spread(texels[texel + w])
        rg3, ba3 = _spread(texels[texel + w + 1])
        w0, w1, w2, w3 = gu * gv, fu * gv, gu * fv, fu * fv
        return rg0 * w0 + rg1 * w1 + rg2 * w2 + rg3 * w3, ba0 * w0 + ba1 * w1 + ba2 * w2 + ba3 * w3
    rg, ba = 0, 0
    for dj in range(2):
        row = j + dj
        if border == _REPEAT:
            row %= h
        elif border == _REFLECT:
            row = min(max(row, 0), h - 1)
        elif row < 0 or row >= h:
            continue
        for di in range(2):
            column = i + di
            if border == _REPEAT:
                column %= w
            elif border == _REFLECT:
                column = min(max(column, 0), w - 1)
            elif column < 0 or column >= w:
                continue
            weight = (fu if di else gu) * (fv if dj else gv)
            rg0, ba0 = _spread(texels[start + row * w + column])
            rg += weight * rg0
            ba += weight * ba0
    return rg, ba


@numba.njit(cache=True, nogil=True)
def _blend(acc, texels, height, width, level, inverse, border, area, opacity, tint):  # type: ignore[no-untyped-def]  # pragma: no cover
    low = int(level)
    take = int((level - low) * _ONE + 0.5)
    keep = _ONE - take
    start0, h0, w0 = level_start(height, width, low)
    start1, h1, w1 = level_start(height, width, low + 1)
    scale0, scale1 = 0.5**low, 0.5 ** (low + 1)
    affine = inverse[2, 0] == 0.0 and inverse[2, 1] == 0.0 and inverse[2, 2] == 1.0
    x0, y0, x1, y1 = area
    mask = 0xFFFFFFFF
    for y in range(y0, y1):
        py = y + 0.5
        row_u = inverse[0, 1] * py + inverse[0, 2]
        row_v = inverse[1, 1] * py + inverse[1, 2]
        row_d = inverse[2, 1] * py + inverse[2, 2]
        for x in range(x0, x1):
            px = x + 0.5
            u, v = inverse[0, 0] * px + row_u, inverse[1, 0] * px + row_v
            depth = inverse[2, 0] * px + row_d
            if not affine:
                if not depth > 0.0:
                    continue
                u, v = u / depth, v / depth
            if border == _REFLECT:
                u, v = _fold(u, width), _fold(v, height)
            elif border == _REPEAT:
                u, v = u % width, v % height
            rg, ba = _tap(texels, start0, h0, w0, u * scale0, v * scale0, border)
            red, green = rg & mask, (rg >> 32) & mask
            blue, alpha = ba & mask, (ba >> 32) & mask
            if take > 0:
                rg, ba = _tap(texels, start1, h1, w1, u * scale1, v * scale1, border)
                red = (red * keep + (rg & mask) * take) >> 12
                green = (green * keep + ((rg >> 32) & mask) * take) >> 12
                blue = (blue * keep + (ba & mask) * take) >> 12
                alpha = (alpha * keep + ((ba >> 32) & mask) * take) >> 12
            # 24 fractional bits -> 8, rounding half up.
            alpha = (alpha + 32768) >> 16
            if alpha == 0:
                continue
            red, green, blue = (red + 32768) >> 16, (green + 32768) >> 16, (blue + 32768) >> 16
            _put(acc, y, x, red, green, blue, alpha, opacity, tint)


@numba.njit(cache=True, nogil=True)
def _round(acc, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for y in range(acc.shape[0]):
        for x in range(acc.shape[1]):
            for c in range(3):
                out[y, x, c] = (int(acc[y, x, c]) + 128) >> 8
