"""The CPU backend: a frame's ground in bytes, kept while it stands still, and what lies over it.

Images that end at their edges, moved by affine maps and shown as they are, go through `_fused`. All else is
drawn here: every row of a frame is gathered, mixed and blended in a scratch that stays in cache. Positions
along a row are 32.32 fixed point, stepped by addition; where both bilinear taps of either axis lie inside the
texture is solved for a whole row at once, and only the rest asks for borders. Gathering only copies 8-bit
texels, two neighbours per 64-bit word. Mixing and blending run over sixteen and more pixels at a time in
float32, of which no operation is fused or reordered: the same bits on every processor.

numba's cache follows changes of this file alone: after a change of `_fused` touch this one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._fused import blend_common, is_common
from smile_synth.compositing._parameters import (
    AFFINE,
    AREA,
    BIAS,
    BORDER,
    COLOR,
    COLUMNS,
    FAR,
    FROM_BANK,
    GAIN,
    GAMMA,
    HEIGHT,
    IMAGE,
    INVERSE,
    KIND,
    LEVEL,
    NEAR,
    NOISE,
    OPACITY,
    PLAIN,
    REFLECT,
    REPEAT,
    ROWS,
    SOLID,
    START,
    TRANSPARENT,
    U_X,
    U_Y,
    V_X,
    V_Y,
    WIDTH,
    Parameters,
    U,
    V,
)
from smile_synth.compositing._philox import MULTIPLIERS, ROUNDS, WEYL
from smile_synth.core.compile import kernel

# A row is drawn in segments of this many pixels: long enough for vectors, short enough for the first cache.
_SEGMENT = 256
# Vectors run over whole groups of pixels; what stands beyond the last pixel is transparent.
_GROUP = 16
_PLANE = _SEGMENT + _GROUP
# Places in the scratch of gathered words: the upper and the lower pair of texels, their 16-bit fractions.
_UPPER, _LOWER, _FRACTION = 0, 2 * _PLANE, 4 * _PLANE
_WORDS = 5 * _PLANE  # noise needs but four
_FIXED_ONE = 1 << 32
_ZERO, _HALF, _ONE, _TOP = np.float32(0), np.float32(0.5), np.float32(1), np.float32(255)
_FINE = np.float32(2.0**-16)
_BYTE = np.uint32(255)
NO_LIGHT = np.empty(0, np.float32)
NO_LIGHT.flags.writeable = False
_MASK, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)

# What may be drawn into; the compiled kernel takes one of each and leaves alone those that are empty.
_NOWHERE: dict[type, NDArray[Any]] = {
    kind: np.empty((0, 1, 1, 1), kind) for kind in (np.uint8, np.float32, np.uint16)
}


def composite_cpu(
    parameters: Parameters,
    bank: NDArray[np.uint32],
    out: NDArray[Any],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    *,
    threads: int = 1,
) -> None:
    """Draw all frames; F counts those of all clips. Several threads draw a run of frames each.

    ``out`` is ``[F, H, W, 3]`` uint8, or ``[F, 3, H, W]`` float32 for the same values times ``scale`` plus
    ``shift`` (``[3]`` each), or uint16 for the bits of the nearest bfloat16, ties to even.
    """
    frames, floats, halves = (out if out.dtype == kind else none for kind, none in _NOWHERE.items())
    common = (frames, floats, halves, scale, shift, *parameters.size_hw)
    sources = (parameters.first, parameters.ints, parameters.reals, bank, parameters.extra)
    edges = np.linspace(0, parameters.num_clips * parameters.num_frames, threads + 1).astype(int).tolist()
    if threads == 1:
        _draw(edges[0], edges[1], *common, *sources)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda begin, end: _draw(begin, end, *common, *sources), edges[:-1], edges[1:]))


@kernel
def _draw(  # type: ignore[no-untyped-def]  # pragma: no cover
    begin, end, frames, floats, halves, scale, shift, height, width, first, ints, reals, bank, extra
):
    words = np.zeros(_WORDS, np.uint32)
    sample = np.zeros(4 * _PLANE, np.float32)
    acc = np.zeros(3 * _PLANE, np.float32)
    # What is normalised is drawn here first, and stays in cache.
    frame = np.empty((height, width, 3), np.uint8)
    rows = np.empty(3 * width, np.float32)
    # A ground other than one colour is kept from frame to frame while it stands still.
    ground = np.empty((0, width, 3), np.uint8)
    kept = -1
    for f in range(begin, end):
        if len(frames):
            frame = frames[f]
        a, b = first[f], first[f + 1]
        if a == b or (ints[a, KIND] == IMAGE and ints[a, BORDER] == TRANSPARENT):
            _set(frame.reshape(-1), 0)
        else:
            if ints[a, KIND] == SOLID:
                _fill(frame, ints[a], reals[a])
            else:
                if kept < 0 or not _equal(ints, reals, kept, a):
                    if len(ground) == 0:
                        ground = np.empty((height, width, 3), np.uint8)
                    _set(ground.reshape(-1), 0)
                    _blend_any(ground, acc, sample, words, ints, reals, a, a + 1, bank, extra)
                    kept = a
                _copy(frame.reshape(-1), ground.reshape(-1))
            a += 1
        if is_common(ints, a, b):
            blend_common(frame, ints, reals, a, b, bank, extra)
        else:
            _blend_any(frame, acc, sample, words, ints, reals, a, b, bank, extra)
        if len(frames) == 0:
            _write_floats(frame, f, floats, halves, rows, scale, shift)


@kernel
def _write_floats(frame, f, floats, halves, rows, scale, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a frame ``[H, W, 3]`` times scale plus shift as planes of a float type."""
    height, width = frame.shape[:2]
    for y in range(height):
        _normalise(rows, frame.reshape(-1), 3 * width * y, width, scale, shift)
        for c in range(3):
            if len(floats):
                _copy(floats[f, c, y], rows[c * width :])
            else:
                _to_bfloat16(halves[f, c, y], rows.view(np.uint32)[c * width :])


@kernel
def _write_all(frames, floats, halves, scale, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    rows = np.empty(3 * frames.shape[2], np.float32)
    for f in range(len(frames)):
        _write_floats(frames[f], f, floats, halves, rows, scale, shift)


def write_normalised(
    frames: NDArray[np.uint8], out: NDArray[Any], scale: NDArray[np.float32], shift: NDArray[np.float32]
) -> None:
    """Write frames ``[F, H, W, 3]`` into ``out``, float32 or bfloat16 as of `composite_cpu`."""
    floats, halves = (out if out.dtype == kind else _NOWHERE[kind] for kind in (np.float32, np.uint16))
    _write_all(frames, floats, halves, scale, shift)


@kernel
def _blend_any(frame, acc, sample, words, ints, reals, first, last, bank, extra):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend entries of all kinds over a frame ``[H, W, 3]``, in float32."""
    height, width = frame.shape[:2]
    pairs = words.view(np.uint64)
    for y in range(height):
        for left in range(0, width, _SEGMENT):
            right = min(left + _SEGMENT, width)
            low, high = right, left
            for e in range(first, last):
                if ints[e, AREA + 1] <= y < ints[e, AREA + 3]:
                    low = min(low, max(ints[e, AREA], left))
                    high = max(high, min(ints[e, AREA + 2], right))
            if low >= high:
                continue
            _load(acc[low - left :], frame[y, low:high])
            for e in range(first, last):
                if ints[e, AREA + 1] <= y < ints[e, AREA + 3]:
                    _layer(acc, sample, words, pairs, ints, reals, e, bank, extra, left, right, y, NO_LIGHT)
            _store(frame[y, low:high], acc[low - left :])


@kernel
def _equal(ints, reals, i, j):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(ints.shape[1]):
        if ints[i, k] != ints[j, k]:
            return False
    for k in range(reals.shape[1]):  # noqa: SIM110 - numba knows no generators
        if reals[i, k] != reals[j, k]:
            return False
    return True


@kernel
def _fill(frame, whole, real):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill a frame with a solid's colour after gain, bias and opacity, rounded half up."""
    row = frame[0]
    for c in range(3):
        value = min(max(real[GAIN + c] * whole[COLOR + c] + real[BIAS + c] * 255.0, 0.0), 255.0)
        if real[GAMMA] != 1.0:
            value = 255.0 * (value / 255.0) ** real[GAMMA]
        byte = np.uint8(np.int32(value * real[OPACITY] + 0.5))
        for x in range(len(row)):
            row[x, c] = byte
    if row[0, 0] == row[0, 1] == row[0, 2]:
        _set(frame.reshape(-1), row[0, 0])
    else:
        for y in range(1, len(frame)):
            _copy(frame[y].reshape(-1), row.reshape(-1))


@kernel
def _set(out, value):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill; an assignment of a slice would compile for a second."""
    for k in range(len(out)):
        out[k] = value


@kernel
def _copy(out, values):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy as many values as there is room for; an assignment of slices goes one by one."""
    for k in range(len(out)):
        out[k] = values[k]


@kernel
def _load(acc, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(row)):
        acc[k] = row[k, 0]
        acc[k + _PLANE] = row[k, 1]
        acc[k + 2 * _PLANE] = row[k, 2]


@kernel
def _store(row, acc):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Round half up."""
    for k in range(len(row)):
        row[k, 0] = np.uint8(np.int32(acc[k] + _HALF))
        row[k, 1] = np.uint8(np.int32(acc[k + _PLANE] + _HALF))
        row[k, 2] = np.uint8(np.int32(acc[k + 2 * _PLANE] + _HALF))


@kernel
def _normalise(rows, pixels, first, width, scale, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a row of pixels as three rows of planes."""
    first, width, one, two, three = (
        np.uint64(first),
        np.uint64(width),
        np.uint64(1),
        np.uint64(2),
        np.uint64(3),
    )
    a, b, c = scale[0], scale[1], scale[2]
    d, e, f = shift[0], shift[1], shift[2]
    for k in range(width):
        at = first + k * three
        rows[k] = np.float32(np.int32(pixels[at])) * a + d
        rows[k + width] = np.float32(np.int32(pixels[at + one])) * b + e
        rows[k + two * width] = np.float32(np.int32(pixels[at + two])) * c + f


@kernel
def _to_bfloat16(out, bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Round finite float32 values, given by their bits, to the nearest, ties to even."""
    for k in range(len(out)):
        even = np.uint32(0x7FFF) + ((bits[k] >> np.uint32(16)) & np.uint32(1))
        out[k] = np.uint16(np.uint32(bits[k] + even) >> np.uint32(16))


@kernel
def _layer(acc, sample, words, pairs, ints, reals, e, bank, extra, left, right, y, light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend entry ``e`` over row ``y`` of the segment ``left`` to ``right``.

    ``light`` ``[256]`` holds what every byte of a colour means, or nothing: itself.
    """
    low, high = max(ints[e, AREA], left), min(ints[e, AREA + 2], right)
    kind = ints[e, KIND]
    mix = np.float32(reals[e, LEVEL] - np.floor(reals[e, LEVEL]))
    if kind == IMAGE and ints[e, AFFINE] and ints[e, BORDER] == TRANSPARENT:
        low, high = _reached(ints, e, FAR if mix > 0 else NEAR, low, high, y)
    n = high - low
    if n <= 0:
        return
    whole = (n + _GROUP - 1) // _GROUP * _GROUP
    if kind == IMAGE:
        texels = bank if ints[e, FROM_BANK] else extra
        for number in range(1 + (mix > 0)):
            _gather(words, pairs, texels, ints, reals, e, FAR if number else NEAR, low, high, y)
            share = mix if number else _ONE - mix
            if len(light):
                _mix_light(sample, words, share, number > 0, whole, light)
            else:
                _mix(sample, words, share, number > 0, whole)
    elif kind == NOISE:
        _noise(sample, pairs, ints, reals, e, low, high, y)
        if len(light):
            for c in range(3):
                for k in range(c * _PLANE, c * _PLANE + n):
                    sample[k] = light[int(sample[k])]
    else:
        for c in range(3):
            color = ints[e, COLOR + c]
            _set(sample[c * _PLANE : c * _PLANE + n], light[color] if len(light) else np.float32(color))
        _set(sample[3 * _PLANE : 3 * _PLANE + n], _TOP)
    for c in range(4):
        _set(sample[c * _PLANE + n : c * _PLANE + whole], _ZERO)
    if not ints[e, PLAIN]:
        for c in range(3):
            _tint(sample, c * _PLANE, np.float32(reals[e, GAIN + c]), np.float32(reals[e, BIAS + c]), whole)
            if reals[e, GAMMA] != 1.0:
                _bend(sample, c * _PLANE, np.float32(reals[e, GAMMA]), n)
    _over(acc[low - left :], sample, np.float32(reals[e, OPACITY]), whole)


@kernel
def _between(at, step, least, most, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the run of k in 0..n with least <= at + k step < most."""
    if step == 0:
        return (0, n) if least <= at < most else (0, 0)
    enter, leave = float(least - at) / step, float(most - at) / step
    if step < 0:
        enter, leave = leave, enter
    begin = int(min(max(np.ceil(enter), 0.0), float(n)))
    end = int(min(max(np.ceil(leave), 0.0), float(n)))
    # The division rounds: the first and the last may miss by one.
    if begin < end and not least <= at + begin * step < most:
        begin += 1
    if begin < end and not least <= at + (end - 1) * step < most:
        end -= 1
    return begin, end


@kernel
def _reached(ints, e, level, low, high, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Narrow a row to the pixels that an affine image reaches at a mip level."""
    n = high - low
    u = ints[e, level + U] + low * ints[e, level + U_X] + y * ints[e, level + U_Y]
    v = ints[e, level + V] + low * ints[e, level + V_X] + y * ints[e, level + V_Y]
    a, b = _between(u, ints[e, level + U_X], -_FIXED_ONE, ints[e, level + COLUMNS] << 32, n)
    c, d = _between(v, ints[e, level + V_X], -_FIXED_ONE, ints[e, level + ROWS] << 32, n)
    return low + max(a, c), low + min(b, d)


@kernel
def _gather(words, pairs, texels, ints, reals, e, level, low, high, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy the four texels and the two fractions of every pixel from ``low`` to ``high`` at one mip level."""
    n = high - low
    begin, end = 0, 0  # where all taps lie inside
    if ints[e, AFFINE]:
        start, h, w = ints[e, level + START], ints[e, level + ROWS], ints[e, level + COLUMNS]
        u_step, v_step = ints[e, level + U_X], ints[e, level + V_X]
        u = ints[e, level + U] + low * u_step + y * ints[e, level + U_Y]
        v = ints[e, level + V] + low * v_step + y * ints[e, level + V_Y]
        most_u, most_v = (w - 1) << 32, (h - 1) << 32
        if ints[e, BORDER] != TRANSPARENT:
            # Folded from the image's own edge on, which may lie inside the last texel of a coarse level.
            coarse = int(reals[e, LEVEL]) + (level == FAR)
            most_u = min(most_u, (ints[e, WIDTH] << 32 >> coarse) - (_FIXED_ONE >> 1) + 1)
            most_v = min(most_v, (ints[e, HEIGHT] << 32 >> coarse) - (_FIXED_ONE >> 1) + 1)
        a, b = _between(u, u_step, 0, most_u, n)
        c, d = _between(v, v_step, 0, most_v, n)
        begin, end = max(a, c), min(b, d)
        if begin >= end:
            begin, end = 0, 0
        for k in range(n):
            words[_FRACTION + k] = np.uint32(u + k * u_step) >> 16 | np.uint32(v + k * v_step) & 0xFFFF0000
        _gather_inside(pairs, texels, start, w, u, u_step, v, v_step, begin, end)
        if ints[e, BORDER] == TRANSPARENT:
            for a, b in ((0, begin), (end, n)):
                _gather_edge(words, texels, start, h, w, u, u_step, v, v_step, a, b)
            return
    for k in range(begin + n - end):
        place = k if k < begin else k + end - begin
        _gather_one(words, texels, ints, reals, e, level, low + place + 0.5, y + 0.5, place)


@kernel
def _gather_inside(pairs, texels, start, w, u, du, v, dv, begin, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather pixels of an affine image whose taps all lie inside."""
    u += begin * du
    v += begin * dv
    # Unsigned places: numba then drops its test for negative indices.
    below, one, shift = np.uint64(w), np.uint64(1), np.uint64(32)
    upper, lower = np.uint64(_UPPER // 2), np.uint64(_LOWER // 2)
    for k in range(np.uint64(begin), np.uint64(end)):
        p = np.uint64(start + (v >> 32) * w + (u >> 32))
        q = p + below
        pairs[upper + k] = np.uint64(texels[p]) | np.uint64(texels[p + one]) << shift
        pairs[lower + k] = np.uint64(texels[q]) | np.uint64(texels[q + one]) << shift
        u += du
        v += dv


@kernel
def _gather_edge(words, texels, start, h, w, u, du, v, dv, begin, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather pixels of an affine image of which some taps lie outside, where nothing is."""
    for k in range(begin, end):
        u_at, v_at = u + k * du, v + k * dv
        i, j = u_at >> 32, v_at >> 32
        p = start + j * w + i
        west, east = 0 <= i < w, -1 <= i < w - 1
        north, south = 0 <= j < h, -1 <= j < h - 1
        place = np.uint64(2 * k)
        words[np.uint64(_UPPER) + place] = texels[np.uint64(p)] if north & west else 0
        words[np.uint64(_UPPER + 1) + place] = texels[np.uint64(p + 1)] if north & east else 0
        words[np.uint64(_LOWER) + place] = texels[np.uint64(p + w)] if south & west else 0
        words[np.uint64(_LOWER + 1) + place] = texels[np.uint64(p + w + 1)] if south & east else 0


@kernel
def _gather_one(words, texels, ints, reals, e, level, x, y, k):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather one pixel anywhere, in any projection, with any border."""
    start, h, w = ints[e, level + START], ints[e, level + ROWS], ints[e, level + COLUMNS]
    scale = 0.5 ** (int(reals[e, LEVEL]) + (level == FAR))
    for place in range(2):
        words[_UPPER + 2 * k + place] = 0
        words[_LOWER + 2 * k + place] = 0
    words[_FRACTION + k] = 0
    depth = reals[e, INVERSE + 6] * x + reals[e, INVERSE + 7] * y + reals[e, INVERSE + 8]
    if not depth > 0.0:
        return
    u = (reals[e, INVERSE] * x + reals[e, INVERSE + 1] * y + reals[e, INVERSE + 2]) / depth
    v = (reals[e, INVERSE + 3] * x + reals[e, INVERSE + 4] * y + reals[e, INVERSE + 5]) / depth
    border = ints[e, BORDER]
    if border == REFLECT:
        u, v = _fold(u, ints[e, WIDTH]), _fold(v, ints[e, HEIGHT])
    elif border == REPEAT:
        u, v = u % ints[e, WIDTH], v % ints[e, HEIGHT]
    u, v = u * scale - 0.5, v * scale - 0.5
    if not (-1.0 < u < w and -1.0 < v < h):
        return
    i, j = int(np.floor(u)), int(np.floor(v))
    words[_FRACTION + k] = np.uint32(int((u - i) * 65536.0) | int((v - j) * 65536.0) << 16)
    for dj in range(2):
        row = j + dj
        if border == REPEAT:
            row %= h
        elif border == REFLECT:
            row = min(max(row, 0), h - 1)
        for di in range(2):
            column = i + di
            if border == REPEAT:
                column %= w
            elif border == REFLECT:
                column = min(max(column, 0), w - 1)
            if 0 <= row < h and 0 <= column < w:
                words[(_LOWER if dj else _UPPER) + 2 * k + di] = texels[start + row * w + column]


@kernel
def _fold(u, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    u = abs(u) % (2.0 * size)
    return 2.0 * size - u if u > size else u


@kernel
def _byte(word, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    return np.float32(np.int32((word >> np.uint32(shift)) & _BYTE))


@kernel
def _mix(sample, words, share, add, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weigh the gathered texels by their fractions and a level's share, in premultiplied 0..255."""
    for k in range(n):
        fraction = words[_FRACTION + k]
        fu = np.float32(np.int32(fraction & np.uint32(0xFFFF))) * _FINE
        fv = np.float32(np.int32(fraction >> np.uint32(16))) * _FINE
        upper, lower = share * (_ONE - fv), share * fv
        w0, w1, w2, w3 = (_ONE - fu) * upper, fu * upper, (_ONE - fu) * lower, fu * lower
        a, b = words[_UPPER + 2 * k], words[_UPPER + 2 * k + 1]
        c, d = words[_LOWER + 2 * k], words[_LOWER + 2 * k + 1]
        red = _byte(a, 0) * w0 + _byte(b, 0) * w1 + _byte(c, 0) * w2 + _byte(d, 0) * w3
        green = _byte(a, 8) * w0 + _byte(b, 8) * w1 + _byte(c, 8) * w2 + _byte(d, 8) * w3
        blue = _byte(a, 16) * w0 + _byte(b, 16) * w1 + _byte(c, 16) * w2 + _byte(d, 16) * w3
        alpha = _byte(a, 24) * w0 + _byte(b, 24) * w1 + _byte(c, 24) * w2 + _byte(d, 24) * w3
        if add:
            red, green = red + sample[k], green + sample[k + _PLANE]
            blue, alpha = blue + sample[k + 2 * _PLANE], alpha + sample[k + 3 * _PLANE]
        sample[k], sample[k + _PLANE] = red, green
        sample[k + 2 * _PLANE], sample[k + 3 * _PLANE] = blue, alpha


@kernel
def _mix_light(sample, words, share, add, n, light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weigh the gathered texels as `_mix` does, their colours by what their bytes mean."""
    for k in range(n):
        fraction = words[_FRACTION + k]
        fu = np.float32(np.int32(fraction & np.uint32(0xFFFF))) * _FINE
        fv = np.float32(np.int32(fraction >> np.uint32(16))) * _FINE
        for c in range(4):
            total = _ZERO
            for corner in range(4):
                word = words[(_LOWER if corner & 2 else _UPPER) + 2 * k + (corner & 1)]
                byte = (word >> np.uint32(8 * c)) & _BYTE
                value = light[byte] if c < 3 else np.float32(byte)
                weight = (fu if corner & 1 else _ONE - fu) * (fv if corner & 2 else _ONE - fv)
                total += value * weight
            sample[c * _PLANE + k] = share * total + (sample[c * _PLANE + k] if add else _ZERO)


@kernel
def _noise(sample, pairs, ints, reals, e, low, high, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Draw uniform noise."""
    for k in range(high - low):
        px, py = low + k + 0.5, y + 0.5
        depth = reals[e, INVERSE + 6] * px + reals[e, INVERSE + 7] * py + reals[e, INVERSE + 8]
        u = (reals[e, INVERSE] * px + reals[e, INVERSE + 1] * py + reals[e, INVERSE + 2]) / depth
        v = (reals[e, INVERSE + 3] * px + reals[e, INVERSE + 4] * py + reals[e, INVERSE + 5]) / depth
        pairs[k] = np.uint64(int(np.floor(u))) & _MASK
        pairs[_PLANE + k] = np.uint64(int(np.floor(v))) & _MASK
    key0, key1 = np.uint64(ints[e, COLOR]), np.uint64(ints[e, COLOR + 1])
    for c in range(3):
        _philox(
            sample[c * _PLANE :], pairs, high - low, np.uint64(ints[e, COLOR + 2]), np.uint64(c), key0, key1
        )
    _set(sample[3 * _PLANE : 3 * _PLANE + high - low], _TOP)


@kernel
def _philox(out, cells, n, frame, channel, key0, key1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the high byte of a channel's first word; vectors run over the pixels, in all rounds at once."""
    for k in range(n):
        c0, c1, c2, c3 = cells[k], cells[_PLANE + k], frame, channel
        k0, k1 = key0, key1
        for _ in range(ROUNDS):
            a, b = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
            c0, c1 = (b >> _32) ^ c1 ^ k0, b & _MASK
            c2, c3 = (a >> _32) ^ c3 ^ k1, a & _MASK
            k0, k1 = (k0 + np.uint64(WEYL[0])) & _MASK, (k1 + np.uint64(WEYL[1])) & _MASK
        out[k] = np.float32(np.int32(c0 >> np.uint64(24)))


@kernel
def _tint(sample, plane, gain, bias, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Apply gain and bias to one plane of premultiplied colour, and keep it within alpha."""
    for k in range(n):
        alpha = sample[3 * _PLANE + k]
        sample[plane + k] = min(max(sample[plane + k] * gain + alpha * bias, _ZERO), alpha)


@kernel
def _bend(sample, plane, gamma, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Raise the straight colours of one plane to a power."""
    for k in range(n):
        alpha = sample[3 * _PLANE + k]
        if alpha > 0:
            sample[plane + k] = alpha * (sample[plane + k] / alpha) ** gamma


@kernel
def _over(acc, sample, opacity, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(n):
        rest = _ONE - sample[3 * _PLANE + k] * opacity / _TOP
        acc[k] = sample[k] * opacity + acc[k] * rest
        acc[k + _PLANE] = sample[k + _PLANE] * opacity + acc[k + _PLANE] * rest
        acc[k + 2 * _PLANE] = sample[k + 2 * _PLANE] * opacity + acc[k + 2 * _PLANE] * rest
