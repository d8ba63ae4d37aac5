"""The CPU renderer: compiled kernels draw frames of bytes, layer by layer and row by row.

A frame starts as a copy of its background, which is drawn again only when it changes. The layers in front of
it take the fast path of `smile_synth.compositing._cpu_common` if it can draw all of them. All else is drawn
here, in float32, 256 pixels of a row at a time, so that they stay in cache. Frames with camera effects are
drawn here too, and are rounded once. No floating-point operation is fused or reordered: the bits are the same
on every processor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._cpu_common import blend_common, is_common
from smile_synth.compositing._parameters import (
    FIXED_ONE,
    IMAGE,
    NOISE,
    OWNS_FLOAT32,
    REFLECT,
    REPEAT,
    SOLID,
    TRANSPARENT,
    Parameters,
    as_numbers,
)
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, philox_word_compiled
from smile_synth.compositing._rows import (
    MARGIN,
    PLANE,
    SEGMENT,
    gather_edges,
    gather_inside,
    reached,
    row_start,
    run_within,
    whole_groups,
)
from smile_synth.core.appearance import LIGHT
from smile_synth.core.compile import kernel

_ZERO, _HALF, _ONE, _TOP = np.float32(0), np.float32(0.5), np.float32(1), np.float32(255)
_1, _2, _3 = np.uint64(1), np.uint64(2), np.uint64(3)
_SHARE_16 = np.float32(2.0**-16)
_CUT = np.float32(255 * OWNS_FLOAT32)
_BYTE = np.uint32(255)
# The meaning of each byte of a colour in linear light; without it a byte means itself.
_LIGHT, _NO_LIGHT = LIGHT.astype(np.float32), np.empty(0, np.float32)
_LIGHT.flags.writeable = _NO_LIGHT.flags.writeable = False


class _Batch(NamedTuple):
    """The arrays of `Parameters`, and the texels ``[X]``. ``numbers`` are the entries, see `as_numbers`."""

    size_hw: tuple[int, int]
    first: NDArray[np.int64]
    subframes: NDArray[np.int64]
    entries: NDArray[np.void]
    numbers: NDArray[np.int64]
    effects: NDArray[np.void]
    bank: NDArray[np.uint32]
    extra: NDArray[np.uint32]


class _Canvas(NamedTuple):
    """The output: one of the arrays, the others are empty. A kernel is compiled once for all of them."""

    interleaved: NDArray[np.uint8]
    planes: NDArray[np.uint8]
    floats: NDArray[np.float32]
    bfloats: NDArray[np.uint16]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


class _Scratch(NamedTuple):
    """Memory for one segment of a row; the places of ``words`` and ``pairs`` are those of `_rows`.

    Attributes:
        acc: colours of the frame, three planes; pixel 0 is the left end of the segment.
        sample: premultiplied colours and alpha of one layer, four planes.
        words, pairs: gathered texels.
        fractions: of the texture position of each pixel, 16 bits of u and 16 bits of v.
        cells: columns, then rows of noise.
    """

    acc: NDArray[np.float32]
    sample: NDArray[np.float32]
    words: NDArray[np.uint32]
    pairs: NDArray[np.uint64]
    fractions: NDArray[np.uint32]
    cells: NDArray[np.int64]


def composite_cpu(
    parameters: Parameters,
    bank: NDArray[np.uint32],
    out: NDArray[Any],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    *,
    channels_last: bool,
) -> None:
    """Draw all F frames of a batch.

    Args:
        parameters: the batch.
        bank: ``[X]`` texels of the bank.
        out: ``[F, 3, H, W]``: uint8, or byte x scale + shift as float32, or as uint16 for the bits of
            bfloat16; or with ``channels_last`` ``[F, H, W, 3]`` uint8.
        scale, shift: ``[3]`` float32.
        channels_last: the layout of ``out``.
    """
    dtypes: list[Any] = [np.uint8, np.uint8, np.float32, np.uint16]
    place = 0 if channels_last else dtypes.index(out.dtype, 1)
    arrays = [out if k == place else np.empty((0, 1, 1, 1), dtype) for k, dtype in enumerate(dtypes)]
    canvas = _Canvas._make([*arrays, scale, shift])
    batch = _Batch(
        parameters.size_hw, parameters.first, parameters.subframes, parameters.entries,
        as_numbers(parameters.entries), parameters.effects, bank, parameters.extra,
    )  # fmt: skip
    _draw(canvas, batch)


@kernel
def _draw(canvas, batch):  # type: ignore[no-untyped-def]  # pragma: no cover
    height, width = batch.size_hw
    words = np.zeros(4 * PLANE, np.uint32)
    scratch = _Scratch(
        np.zeros(3 * PLANE, np.float32),
        np.zeros(4 * PLANE, np.float32),
        words,
        words.view(np.uint64),
        np.zeros(PLANE, np.uint32),
        np.zeros(2 * PLANE, np.int64),
    )
    # Frames of another layout or type are drawn here first, and stay in cache.
    frame = np.empty((height, width, 3), np.uint8)
    background, kept = np.empty((height, width, 3), np.uint8), -1
    for f in range(len(batch.subframes) - 1):
        if len(canvas.interleaved):
            frame = canvas.interleaved[f]
        if _has_effects(batch, f):
            _draw_with_effects(frame, batch, f, scratch)
        else:
            a, b = batch.first[batch.subframes[f]], batch.first[batch.subframes[f] + 1]
            entry = batch.entries[a]
            if a == b or (entry.kind == IMAGE and entry.border == TRANSPARENT):
                _set(frame.reshape(-1), 0)
            elif entry.kind == SOLID:
                _fill(frame, entry)
                a += 1
            else:
                if kept < 0 or not _equal(batch.numbers[kept], batch.numbers[a]):
                    _set(background.reshape(-1), 0)
                    _blend(background, batch, a, a + 1, scratch)
                    kept = a
                _copy(frame.reshape(-1), background.reshape(-1))
                a += 1
            if is_common(batch.entries, a, b):
                blend_common(frame, batch, a, b)
            else:
                _blend(frame, batch, a, b, scratch)
        if len(canvas.interleaved) == 0:
            _write_planes(frame, f, canvas)


@kernel
def _has_effects(batch, f):  # type: ignore[no-untyped-def]  # pragma: no cover
    if len(batch.effects) == 0:
        return False
    subframes = batch.subframes[f + 1] - batch.subframes[f]
    return subframes > 1 or batch.effects[f].linear_light != 0 or batch.effects[f].grain > 0


@kernel
def _fill(frame, entry):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill a frame with a solid's colour after gain, bias, gamma and opacity, rounded half up."""
    row = frame[0]
    for c in range(3):
        value = min(max(entry.gain[c] * entry.color[c] + entry.bias[c] * 255.0, 0.0), 255.0)
        if entry.gamma != 1.0:
            value = 255.0 * (value / 255.0) ** entry.gamma
        byte = np.uint8(np.int32(value * entry.opacity + 0.5))
        for x in range(len(row)):
            row[x, c] = byte
    if row[0, 0] == row[0, 1] == row[0, 2]:  # a quarter of the time of copying rows
        _set(frame.reshape(-1), row[0, 0])
    else:
        for y in range(1, len(frame)):
            _copy(frame[y].reshape(-1), row.reshape(-1))


@kernel
def _blend(frame, batch, first, last, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend entries of all kinds over a frame ``[H, W, 3]``."""
    height, width = frame.shape[:2]
    for y in range(height):
        for left in range(0, width, SEGMENT):
            right = min(left + SEGMENT, width)
            low, high = right, left
            for e in range(first, last):
                entry = batch.entries[e]
                if entry.y0 <= y < entry.y1:
                    low, high = min(low, max(entry.x0, left)), max(high, min(entry.x1, right))
            if low >= high:
                continue
            _load(scratch.acc[low - left :], frame[y, low:high])
            for e in range(first, last):
                _blend_row(scratch, batch, batch.entries[e], (left, right, y), _NO_LIGHT)
            _store(frame[y, low:high], scratch.acc[low - left :])


@kernel
def _draw_with_effects(frame, batch, f, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Draw the mean of a frame's subframes, and apply linear light and grain."""
    height, width = frame.shape[:2]
    effects, begin, end = batch.effects[f], batch.subframes[f], batch.subframes[f + 1]
    light = _LIGHT if effects.linear_light else _NO_LIGHT
    total = np.empty(3 * PLANE, np.float32)
    for y in range(height):
        for left in range(0, width, SEGMENT):
            right = min(left + SEGMENT, width)
            _set(total, _ZERO)
            for m in range(begin, end):
                _set(scratch.acc, _ZERO)
                for e in range(batch.first[m], batch.first[m + 1]):
                    _blend_row(scratch, batch, batch.entries[e], (left, right, y), light)
                for k in range(len(total)):
                    total[k] += scratch.acc[k]
            for c in range(3):
                for k in range(right - left):
                    value = total[c * PLANE + k] / np.float32(end - begin)
                    frame[y, left + k, c] = _developed(value, effects, left + k, y, c)


@kernel
def _developed(value, effects, x, y, channel):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the byte of a channel after linear light and grain."""
    if effects.linear_light:
        value = _to_srgb(value)
    if effects.grain > 0:
        column, row = int((x + 0.5) * effects.cells_xy[0]), int((y + 0.5) * effects.cells_xy[1])
        word = philox_word_compiled(column, row, effects.frame, channel, effects.key[0], effects.key[1])
        total = (word & 255) + ((word >> 8) & 255) + ((word >> 16) & 255) + (word >> 24)
        value += np.float32(effects.grain * ((total - GRAIN_MEAN) / GRAIN_DEVIATION))
    return np.uint8(np.int32(min(max(value, _ZERO), _TOP) + _HALF))


@kernel
def _to_srgb(light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sRGB value 0..255 of light 0..255."""
    share = min(light / np.float32(255), np.float32(1))
    if share <= np.float32(0.0031308):
        return light * np.float32(12.92)
    return np.float32(255 * 1.055) * share ** np.float32(1 / 2.4) - np.float32(255 * 0.055)


# --- one layer in one segment of a row


@kernel
def _blend_row(scratch, batch, entry, segment, light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend an entry over a segment (left, right, y). ``light`` is the meaning of each byte, or empty."""
    left, right, y = segment
    if not entry.y0 <= y < entry.y1:
        return
    low, high = max(entry.x0, left), min(entry.x1, right)
    mix = np.float32(entry.level - np.floor(entry.level))
    if entry.kind == IMAGE and entry.fixed_point and entry.border == TRANSPARENT:
        low, high = reached(entry.far if mix > 0 else entry.near, low, high, y)
    n = high - low
    if n <= 0:
        return
    whole, sample = np.int64(whole_groups(n)), scratch.sample
    if entry.kind == IMAGE:
        texels = batch.bank if entry.from_bank else batch.extra
        for number in range(1 + (mix > 0)):
            _gather(scratch, texels, entry, number, (low, high, y))
            share = mix if number else _ONE - mix
            if len(light):
                _mix_light(scratch, share, number > 0, whole, light)
            else:
                _mix(scratch, share, number > 0, whole)
        if entry.shows_noise:
            _noise(scratch, entry, low, high, y, light)
            _cut(sample, n)
    elif entry.kind == NOISE:
        _noise(scratch, entry, low, high, y, light)
    else:
        for c in range(3):
            color = light[entry.color[c]] if len(light) else np.float32(entry.color[c])
            _set(sample[c * PLANE : c * PLANE + n], color)
    if entry.kind != IMAGE:
        _set(sample[3 * PLANE : 3 * PLANE + n], _TOP)
    for c in range(4):
        _set(sample[c * PLANE + n : c * PLANE + whole], _ZERO)
    if not entry.plain_color:
        for c in range(3):
            _gain_and_bias(sample, c * PLANE, np.float32(entry.gain[c]), np.float32(entry.bias[c]), whole)
            if entry.gamma != 1.0:
                _gamma(sample, c * PLANE, np.float32(entry.gamma), n)
    _over(scratch.acc[low - left :], sample, np.float32(entry.opacity), whole)


@kernel
def _gather(scratch, texels, entry, number, run):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather the texels and fractions of a run (low, high, y) at the near (0) or far (1) level."""
    low, high, y = run
    level, border = entry.far if number else entry.near, entry.border
    index = int(entry.level) + number
    scale, n, begin, end = 0.5**index, high - low, 0, 0
    if entry.fixed_point:
        u, v = row_start(level, low, y)
        most_u, most_v = (level.width - 1) << 32, (level.height - 1) << 32
        if border != TRANSPARENT:
            # The image's own edge may be inside the last texel of a coarse level.
            most_u = min(most_u, (entry.width << 32 >> index) - (FIXED_ONE >> 1) + 1)
            most_v = min(most_v, (entry.height << 32 >> index) - (FIXED_ONE >> 1) + 1)
        begin, end = run_within(level, u, v, 0, most_u, most_v, n, MARGIN)
        u_step, v_step = level.u_x, level.v_x
        for k in range(n):
            u_at, v_at = np.uint32(u + k * u_step), np.uint32(v + k * v_step)
            scratch.fractions[k] = u_at >> 16 | v_at & 0xFFFF0000
        gather_inside(scratch.pairs, texels, level, u, v, begin, end)
        if border == TRANSPARENT:
            gather_edges(scratch.words, texels, level, u, v, begin, end, n)
            return
    for edge in range(begin + n - end):
        k = edge if edge < begin else edge + end - begin
        u, v, is_visible = _position(entry, low + k + 0.5, y + 0.5)
        _gather_one(scratch, texels, entry, level, k, (u * scale - 0.5, v * scale - 0.5, is_visible))


@kernel
def _position(entry, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the texture position of a point inside an image without end, and if it is before the horizon."""
    m = entry.inverse
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    if not depth > 0.0:
        return 0.0, 0.0, False
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth
    if entry.border == REFLECT:
        u, v = _mirrored(u, entry.width), _mirrored(v, entry.height)
    elif entry.border == REPEAT:
        u, v = u % entry.width, v % entry.height
    return u, v, True


@kernel
def _mirrored(u, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    u = abs(u) % (2.0 * size)
    return 2.0 * size - u if u > size else u


@kernel
def _gather_one(scratch, texels, entry, level, k, position):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather the texels of one pixel with any border, at a position in texels of the level, less one half."""
    u, v, is_visible = position
    start, h, w = level.first_texel, level.height, level.width
    scratch.pairs[k] = scratch.pairs[PLANE + k] = scratch.fractions[k] = 0
    if not (is_visible and -1.0 < u < w and -1.0 < v < h):
        return
    i, j = int(np.floor(u)), int(np.floor(v))
    scratch.fractions[k] = np.uint32(int((u - i) * 65536.0) | int((v - j) * 65536.0) << 16)
    for dj in range(2):
        row = _wrapped(j + dj, h, entry.border)
        for di in range(2):
            column = _wrapped(i + di, w, entry.border)
            if 0 <= row < h and 0 <= column < w:
                scratch.words[2 * (dj * PLANE + k) + di] = texels[start + row * w + column]


@kernel
def _wrapped(index, size, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the row or column of a texel after the border rule."""
    if border == REPEAT:
        return index % size
    return min(max(index, 0), size - 1) if border == REFLECT else index


@kernel
def _byte(word, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    return np.float32(np.int32((word >> np.uint32(shift)) & _BYTE))


@kernel
def _mix(scratch, share, add, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weigh the gathered texels by their fractions and a level's share, in premultiplied 0..255."""
    sample, words = scratch.sample, scratch.words
    for k in range(n):
        fraction = scratch.fractions[k]
        fu = np.float32(np.int32(fraction & np.uint32(0xFFFF))) * _SHARE_16
        fv = np.float32(np.int32(fraction >> np.uint32(16))) * _SHARE_16
        upper, lower = share * (_ONE - fv), share * fv
        w0, w1, w2, w3 = (_ONE - fu) * upper, fu * upper, (_ONE - fu) * lower, fu * lower
        a, b = words[2 * k], words[2 * k + 1]
        c, d = words[2 * PLANE + 2 * k], words[2 * PLANE + 2 * k + 1]
        red = _byte(a, 0) * w0 + _byte(b, 0) * w1 + _byte(c, 0) * w2 + _byte(d, 0) * w3
        green = _byte(a, 8) * w0 + _byte(b, 8) * w1 + _byte(c, 8) * w2 + _byte(d, 8) * w3
        blue = _byte(a, 16) * w0 + _byte(b, 16) * w1 + _byte(c, 16) * w2 + _byte(d, 16) * w3
        alpha = _byte(a, 24) * w0 + _byte(b, 24) * w1 + _byte(c, 24) * w2 + _byte(d, 24) * w3
        if add:
            red, green = red + sample[k], green + sample[k + PLANE]
            blue, alpha = blue + sample[k + 2 * PLANE], alpha + sample[k + 3 * PLANE]
        sample[k], sample[k + PLANE] = red, green
        sample[k + 2 * PLANE], sample[k + 3 * PLANE] = blue, alpha


@kernel
def _mix_light(scratch, share, add, n, light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weigh the gathered texels as `_mix` does, in linear light. The table prevents SIMD."""
    sample = scratch.sample
    for k in range(n):
        fraction = scratch.fractions[k]
        fu = np.float32(np.int32(fraction & np.uint32(0xFFFF))) * _SHARE_16
        fv = np.float32(np.int32(fraction >> np.uint32(16))) * _SHARE_16
        for c in range(4):
            total = _ZERO
            for corner in range(4):
                word = scratch.words[2 * ((corner >> 1) * PLANE + k) + (corner & 1)]
                byte = (word >> np.uint32(8 * c)) & _BYTE
                value = light[byte] if c < 3 else np.float32(byte)
                weight = (fu if corner & 1 else _ONE - fu) * (fv if corner & 2 else _ONE - fv)
                total += value * weight
            sample[c * PLANE + k] = share * total + (sample[c * PLANE + k] if add else _ZERO)


@kernel
def _noise(scratch, entry, low, high, y, light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Draw uniform noise: the high byte of a word of each cell and channel."""
    m, to_cells, cells, sample = entry.inverse, entry.noise_cells, scratch.cells, scratch.sample
    for k in range(high - low):
        px, py = low + k + 0.5, y + 0.5
        depth = m[2, 0] * px + m[2, 1] * py + m[2, 2]
        u = (m[0, 0] * px + m[0, 1] * py + m[0, 2]) / depth
        v = (m[1, 0] * px + m[1, 1] * py + m[1, 2]) / depth
        cells[k] = int(np.floor(to_cells[0, 0] * u + to_cells[0, 1] * v)) & 0xFFFFFFFF
        cells[PLANE + k] = int(np.floor(to_cells[1, 0] * u + to_cells[1, 1] * v)) & 0xFFFFFFFF
    for c in range(3):
        _noise_bytes(sample[c * PLANE :], cells, high - low, entry.frame, c, entry.key)
        if len(light):
            for k in range(c * PLANE, c * PLANE + high - low):
                sample[k] = light[int(sample[k])]


@kernel
def _noise_bytes(out, cells, n, frame, channel, key):  # type: ignore[no-untyped-def]  # pragma: no cover
    key0, key1 = key[0], key[1]
    for k in range(n):
        word = philox_word_compiled(cells[k], cells[PLANE + k], frame, channel, key0, key1)
        out[k] = np.float32(np.int32(word >> 24))


@kernel
def _cut(sample, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Make colours opaque where alpha is at least one half, and transparent elsewhere."""
    for k in range(n):
        shown = np.float32(sample[3 * PLANE + k] >= _CUT)
        sample[k], sample[k + PLANE] = sample[k] * shown, sample[k + PLANE] * shown
        sample[k + 2 * PLANE], sample[k + 3 * PLANE] = sample[k + 2 * PLANE] * shown, _TOP * shown


@kernel
def _gain_and_bias(sample, plane, gain, bias, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Apply gain and bias to one plane of premultiplied colour, and limit it to alpha."""
    for k in range(n):
        alpha = sample[3 * PLANE + k]
        sample[plane + k] = min(max(sample[plane + k] * gain + alpha * bias, _ZERO), alpha)


@kernel
def _gamma(sample, plane, gamma, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Raise the straight colours of one plane to a power."""
    for k in range(n):
        alpha = sample[3 * PLANE + k]
        if alpha > 0:
            sample[plane + k] = alpha * (sample[plane + k] / alpha) ** gamma


@kernel
def _over(acc, sample, opacity, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(n):
        rest = _ONE - sample[3 * PLANE + k] * opacity / _TOP
        acc[k] = sample[k] * opacity + acc[k] * rest
        acc[k + PLANE] = sample[k + PLANE] * opacity + acc[k + PLANE] * rest
        acc[k + 2 * PLANE] = sample[k + 2 * PLANE] * opacity + acc[k + 2 * PLANE] * rest


# --- copies. Slice assignments would compile for a second each, and copy element by element.


@kernel
def _set(out, value):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(out)):
        out[k] = value


@kernel
def _copy(out, values):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(out)):
        out[k] = values[k]


@kernel
def _equal(a, b):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(a)):  # noqa: SIM110 - numba has no generator expressions
        if a[k] != b[k]:
            return False
    return True


@kernel
def _load(acc, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(row)):
        acc[k] = row[k, 0]
        acc[k + PLANE] = row[k, 1]
        acc[k + 2 * PLANE] = row[k, 2]


@kernel
def _store(row, acc):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Round half up."""
    for k in range(len(row)):
        row[k, 0] = np.uint8(np.int32(acc[k] + _HALF))
        row[k, 1] = np.uint8(np.int32(acc[k + PLANE] + _HALF))
        row[k, 2] = np.uint8(np.int32(acc[k + 2 * PLANE] + _HALF))


@kernel
def _write_planes(frame, f, canvas):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a frame ``[H, W, 3]``, times scale plus shift, as planes."""
    height, width = frame.shape[:2]
    if len(canvas.planes):
        _deinterleave(canvas.planes[f].reshape(-1), frame.reshape(-1))
        return
    values = np.empty(3 * width, np.float32)
    bits = values.view(np.uint32)
    for y in range(height):
        _deinterleave_scaled(values, frame.reshape(-1), 3 * width * y, canvas.scale, canvas.shift)
        for c in range(3):
            if len(canvas.floats):
                _copy(canvas.floats[f, c, y], values[c * width :])
            else:
                _to_bfloat16(canvas.bfloats[f, c, y], bits[c * width :])


@kernel
def _deinterleave(planes, pixels):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy interleaved pixels as three planes, one per channel."""
    # One loop over all channels, and unsigned indices, let the compiler use SIMD.
    size = np.uint64(len(planes) // 3)
    for k in range(size):
        planes[k] = pixels[k * _3]
        planes[k + size] = pixels[k * _3 + _1]
        planes[k + _2 * size] = pixels[k * _3 + _2]


@kernel
def _deinterleave_scaled(row, pixels, first, scale, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy pixels from byte ``first`` on as three rows, one per channel, times scale plus shift."""
    first, width = np.uint64(first), np.uint64(len(row) // 3)
    a, b, c = scale[0], scale[1], scale[2]
    d, e, f = shift[0], shift[1], shift[2]
    for k in range(width):
        at = first + k * _3
        row[k] = np.float32(np.int32(pixels[at])) * a + d
        row[k + width] = np.float32(np.int32(pixels[at + _1])) * b + e
        row[k + _2 * width] = np.float32(np.int32(pixels[at + _2])) * c + f


@kernel
def _to_bfloat16(out, bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Round finite float32 values, given by their bits, to the nearest, ties to even."""
    for k in range(len(out)):
        even = np.uint32(0x7FFF) + ((bits[k] >> np.uint32(16)) & np.uint32(1))
        out[k] = np.uint16(np.uint32(bits[k] + even) >> np.uint32(16))
