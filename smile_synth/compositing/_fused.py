"""The common case on the CPU, in whole numbers: images that end at their edges, over a frame of bytes.

Texels stay packed as they lie in the bank, and every multiplication weighs two channels: red and blue, then
green and alpha. The eight weights of a pixel, four texels at each of two mip levels, are 8-bit and sum to
256; sums have eight bits below the point, and only the finished row is rounded to bytes. Where a row enters
and leaves an image is solved, not tested. The same bits on every processor.
"""

from __future__ import annotations

import numpy as np

from smile_synth.compositing._parameters import (
    AFFINE,
    AREA,
    BORDER,
    COLUMNS,
    FAR,
    FROM_BANK,
    IMAGE,
    KIND,
    LEVEL,
    NEAR,
    OPACITY,
    PLAIN,
    ROWS,
    START,
    TRANSPARENT,
    U_X,
    U_Y,
    V_X,
    V_Y,
    U,
    V,
)
from smile_synth.core.compile import inlined, kernel

# A row is drawn in segments of this many pixels; vectors run over whole groups of pixels, and what stands
# beyond the last pixel of a span is transparent.
_SEGMENT, _GROUP = 256, 16
_PLANE = _SEGMENT + _GROUP
# How far a solved place along a row may be wrong, in pixels, with room to spare.
_DOUBT = 1e-6
_FIXED_ONE = 1 << 32
# Red and blue of a packed texel, or green and alpha of one that is shifted by a byte.
_TWO = np.uint32(0x00FF00FF)
_LOW = np.uint32(0xFFFF)
_8, _15, _16, _24 = np.uint32(8), np.uint32(15), np.uint32(16), np.uint32(24)
_HALF, _HALF_16, _ONE_16 = np.uint32(1 << 7), np.uint32(1 << 15), np.uint32(1 << 16)
# Places are unsigned: numba then drops its test for negative ones, which vectors do not survive.
_1, _2, _3, _32, _NEXT = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(32), np.uint64(_PLANE)


@kernel
def is_common(ints, begin, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether `blend_common` can draw these entries."""
    for e in range(begin, end):
        if not (
            ints[e, KIND] == IMAGE
            and ints[e, BORDER] == TRANSPARENT
            and ints[e, AFFINE] == 1
            and ints[e, PLAIN] == 1
        ):
            return False
    return True


@kernel(error_model="numpy")
def blend_common(frame, ints, reals, first, last, bank, extra):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend entries ``first`` to ``last`` over a frame ``[H, W, 3]``."""
    height, width = frame.shape[:2]
    pixels = frame.reshape(-1)
    acc = np.empty(3 * _PLANE, np.uint32)
    sums = np.empty(2 * _PLANE, np.uint32)
    words = np.zeros(4 * _PLANE, np.uint32)
    pairs = words.view(np.uint64)
    spans = np.empty((last - first, 2), np.int64)
    for y in range(height):
        for left in range(0, width, _SEGMENT):
            right = min(left + _SEGMENT, width)
            low, high = right, left
            for e in range(first, last):
                spans[e - first, 0] = spans[e - first, 1] = 0
                if ints[e, AREA + 1] <= y < ints[e, AREA + 3]:
                    # The farther level's texels reach farther.
                    level = FAR if _far(reals, e) else NEAR
                    begin, end = max(ints[e, AREA], left), min(ints[e, AREA + 2], right)
                    begin, end = _reached(ints, e, level, begin, end, y)
                    if begin < end:
                        spans[e - first, 0], spans[e - first, 1] = begin, end
                        low, high = min(low, begin), max(high, end)
            if low >= high:
                continue
            place = 3 * (y * width + low)
            _load(acc, pixels, place, high - low)
            for e in range(first, last):
                begin, end = spans[e - first, 0], spans[e - first, 1]
                if begin == end:
                    continue
                texels = bank if ints[e, FROM_BANK] else extra
                far = _far(reals, e)
                if far < 256:
                    _sample(
                        sums, words, pairs, texels, ints, e, NEAR, begin, end, y, np.uint32(256 - far), False
                    )
                if far > 0:
                    _sample(
                        sums, words, pairs, texels, ints, e, FAR, begin, end, y, np.uint32(far), far < 256
                    )
                opacity = np.uint32(int(reals[e, OPACITY] * 65536.0 + 0.5))
                if opacity < _ONE_16:
                    _fade(sums, opacity, end - begin)
                _over(acc, begin - low, sums, end - begin)
            _store(pixels, place, acc, high - low)


@inlined
def _far(reals, e):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the share of the farther mip level, of 256."""
    return int((reals[e, LEVEL] - np.floor(reals[e, LEVEL])) * 256.0 + 0.5)


@inlined
def _whole(n):  # type: ignore[no-untyped-def]  # pragma: no cover
    return np.uint64((n + _GROUP - 1) // _GROUP * _GROUP)


@inlined
def _span(at, step, least, most, n, inwards):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the run of k in 0..n with least <= at + k step < most, moved inwards by some pixels."""
    if step == 0:
        return (0.0, float(n)) if least <= at < most else (0.0, 0.0)
    inverse = 1.0 / step
    enter, leave = (least - at) * inverse, (most - at) * inverse
    if step < 0:
        enter, leave = leave, enter
    return np.ceil(enter + inwards), np.ceil(leave - inwards)


@inlined
def _both(u, u_step, most_u, v, v_step, most_v, least, n, inwards):  # type: ignore[no-untyped-def]  # pragma: no cover
    a, b = _span(u, u_step, least, most_u, n, inwards)
    c, d = _span(v, v_step, least, most_v, n, inwards)
    begin, end = max(a, c, 0.0), min(b, d, float(n))
    return (int(begin), int(end)) if begin < end else (0, 0)


@kernel(error_model="numpy")
def _reached(ints, e, level, low, high, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the pixels of a row that a mip level reaches, or a few more."""
    u_step, v_step = ints[e, level + U_X], ints[e, level + V_X]
    u = ints[e, level + U] + low * u_step + y * ints[e, level + U_Y]
    v = ints[e, level + V] + low * v_step + y * ints[e, level + V_Y]
    most_u, most_v = ints[e, level + COLUMNS] << 32, ints[e, level + ROWS] << 32
    begin, end = _both(u, u_step, most_u, v, v_step, most_v, -_FIXED_ONE, high - low, -_DOUBT)
    return low + begin, low + end


@kernel(error_model="numpy")
def _sample(sums, words, pairs, texels, ints, e, level, low, high, y, share, add):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weigh the four texels around every pixel of a row by a mip level's share of 256."""
    n = high - low
    start, h, w = ints[e, level + START], ints[e, level + ROWS], ints[e, level + COLUMNS]
    u_step, v_step = ints[e, level + U_X], ints[e, level + V_X]
    # Half a 256th of a texel more, so that cutting to 256ths rounds.
    u = ints[e, level + U] + low * u_step + y * ints[e, level + U_Y] + (_FIXED_ONE >> 9)
    v = ints[e, level + V] + low * v_step + y * ints[e, level + V_Y] + (_FIXED_ONE >> 9)
    begin, end = _both(u, u_step, (w - 1) << 32, v, v_step, (h - 1) << 32, 0, n, _DOUBT)
    # Where some of the four lie outside, there is nothing.
    for edge in range(begin + n - end):
        k = edge if edge < begin else edge + end - begin
        i, j = (u + k * u_step) >> 32, (v + k * v_step) >> 32
        p = start + j * w + i
        west, east = 0 <= i < w, -1 <= i < w - 1
        north, south = 0 <= j < h, -1 <= j < h - 1
        place = np.uint64(2 * k)
        words[place] = texels[np.uint64(p)] if north & west else 0
        words[place + _1] = texels[np.uint64(p + 1)] if north & east else 0
        words[place + _2 * _NEXT] = texels[np.uint64(p + w)] if south & west else 0
        words[place + _2 * _NEXT + _1] = texels[np.uint64(p + w + 1)] if south & east else 0
    below = np.uint64(w)
    u_at, v_at = u + begin * u_step, v + begin * v_step
    for inner in range(np.uint64(begin), np.uint64(end)):
        upper = np.uint64(start + (v_at >> 32) * w + (u_at >> 32))
        lower = upper + below
        pairs[inner] = np.uint64(texels[upper]) | np.uint64(texels[upper + _1]) << _32
        pairs[inner + _NEXT] = np.uint64(texels[lower]) | np.uint64(texels[lower + _1]) << _32
        u_at += u_step
        v_at += v_step
    for beyond in range(np.uint64(n), _whole(n)):
        pairs[beyond] = 0
        pairs[beyond + _NEXT] = 0
    _weigh(
        sums, words, np.uint32(u), np.uint32(u_step), np.uint32(v), np.uint32(v_step), share, add, _whole(n)
    )


@kernel
def _weigh(sums, words, u, u_step, v, v_step, share, add, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(n):
        fu, fv = np.uint32(u >> _24), np.uint32(v >> _24)
        east = np.uint32(np.uint32(fu * share + _HALF) >> _8)
        south = np.uint32(np.uint32(fv * share + _HALF) >> _8)
        w3 = np.uint32(np.uint32(east * fv + _HALF) >> _8)
        w1, w2 = np.uint32(east - w3), np.uint32(south - w3)
        w0 = np.uint32(share - east - w2)
        at = k * _2
        a, b = words[at], words[at + _1]
        at += _NEXT * _2
        c, d = words[at], words[at + _1]
        rb = np.uint32((a & _TWO) * w0 + (b & _TWO) * w1 + (c & _TWO) * w2 + (d & _TWO) * w3)
        a, b, c, d = np.uint32(a >> _8), np.uint32(b >> _8), np.uint32(c >> _8), np.uint32(d >> _8)
        ga = np.uint32((a & _TWO) * w0 + (b & _TWO) * w1 + (c & _TWO) * w2 + (d & _TWO) * w3)
        if add:
            rb, ga = np.uint32(rb + sums[k]), np.uint32(ga + sums[k + _NEXT])
        sums[k] = rb
        sums[k + _NEXT] = ga
        u, v = np.uint32(u + u_step), np.uint32(v + v_step)


@kernel
def _fade(sums, opacity, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiply all channels by an opacity, of 65536."""
    for k in range(_whole(n)):
        for at in (k, k + _NEXT):
            low = np.uint32(np.uint32((sums[at] & _LOW) * opacity + _HALF_16) >> _16)
            high = np.uint32(np.uint32((sums[at] >> _16) * opacity + _HALF_16) >> _16)
            sums[at] = low | high << _16


@kernel
def _over(acc, first, sums, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(_whole(n)):
        rb, ga = sums[k], sums[k + _NEXT]
        # Of 65536, where alpha's 255 with eight bits below the point is all.
        alpha = np.uint32(ga >> _16)
        rest = np.uint32(_ONE_16 - alpha - (alpha >> _8) - (alpha >> _15))
        at = np.uint64(first) + k
        acc[at] = (rb & _LOW) + np.uint32(np.uint32(acc[at] * rest + _HALF_16) >> _16)
        at += _NEXT
        acc[at] = (ga & _LOW) + np.uint32(np.uint32(acc[at] * rest + _HALF_16) >> _16)
        at += _NEXT
        acc[at] = (rb >> _16) + np.uint32(np.uint32(acc[at] * rest + _HALF_16) >> _16)


@kernel
def _load(acc, pixels, first, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(np.uint64(n)):
        at = np.uint64(first) + k * _3
        acc[k] = np.uint32(pixels[at]) << _8
        acc[k + _NEXT] = np.uint32(pixels[at + _1]) << _8
        acc[k + _2 * _NEXT] = np.uint32(pixels[at + _2]) << _8


@kernel
def _store(pixels, first, acc, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Round half up."""
    for k in range(np.uint64(n)):
        at = np.uint64(first) + k * _3
        pixels[at] = np.uint8(np.uint32(acc[k] + _HALF) >> _8)
        pixels[at + _1] = np.uint8(np.uint32(acc[k + _NEXT] + _HALF) >> _8)
        pixels[at + _2] = np.uint8(np.uint32(acc[k + _2 * _NEXT] + _HALF) >> _8)
