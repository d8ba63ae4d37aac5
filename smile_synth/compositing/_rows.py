"""Rows of a frame on the CPU: which pixels a texture reaches, and the four texels around each of them.

A row is drawn in segments that stay in the first cache. Loops run over whole groups of pixels, so that the
compiler uses SIMD; the pixels beyond the end of a run are transparent. The texels of pixel k are two
neighbours of the upper row, ``words[2 k]`` and ``words[2 k + 1]``, and two of the lower row, ``2 PLANE``
words later. ``pairs`` is the same memory in 64-bit words, one per pair.
"""

from __future__ import annotations

import numpy as np

from smile_synth.compositing._parameters import FIXED_ONE
from smile_synth.core.compile import inlined, kernel

SEGMENT, GROUP = 256, 16
PLANE = SEGMENT + GROUP
# Bound, in pixels, on the rounding error of a crossing computed along a row.
MARGIN = 1e-6
# Unsigned indices remove numba's check for negative indices, which prevents SIMD.
_1, _2, _32, _PLANE = np.uint64(1), np.uint64(2), np.uint64(32), np.uint64(PLANE)


@inlined
def whole_groups(n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return ``n`` rounded up to whole groups."""
    return np.uint64((n + GROUP - 1) // GROUP * GROUP)


@inlined
def row_start(level, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the fixed-point texture position (u, v) of pixel (x, y)."""
    return level.u + x * level.u_x + y * level.u_y, level.v + x * level.v_x + y * level.v_y


@inlined
def _run_on_axis(at, step, least, most, n, margin):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the run of k in 0..n with ``least <= at + k step < most``, shortened by a margin."""
    if step == 0:
        return (0.0, float(n)) if least <= at < most else (0.0, 0.0)
    inverse = 1.0 / step
    enter, leave = (least - at) * inverse, (most - at) * inverse
    if step < 0:
        enter, leave = leave, enter
    return np.ceil(enter + margin), np.ceil(leave - margin)


@inlined
def run_within(level, u, v, least, most_u, most_v, n, margin):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the run of the ``n`` pixels from (u, v) on whose positions are within bounds on both axes."""
    a, b = _run_on_axis(u, level.u_x, least, most_u, n, margin)
    c, d = _run_on_axis(v, level.v_x, least, most_v, n, margin)
    begin, end = max(a, c, 0.0), min(b, d, float(n))
    return (int(begin), int(end)) if begin < end else (0, 0)


@kernel(error_model="numpy")
def reached(level, low, high, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the part of the pixels ``low`` to ``high`` of a row that a level reaches, or slightly more."""
    u, v = row_start(level, low, y)
    begin, end = run_within(
        level, u, v, -FIXED_ONE, level.width << 32, level.height << 32, high - low, -MARGIN
    )
    return low + begin, low + end


@inlined
def gather_inside(pairs, texels, level, u, v, begin, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather the texels of pixels ``begin`` to ``end``, of which all four are inside the texture."""
    start, width, u_step, v_step = level.first_texel, level.width, level.u_x, level.v_x
    below = np.uint64(width)
    u += begin * u_step
    v += begin * v_step
    for k in range(np.uint64(begin), np.uint64(end)):
        upper = np.uint64(start + (v >> 32) * width + (u >> 32))
        lower = upper + below
        pairs[k] = np.uint64(texels[upper]) | np.uint64(texels[upper + _1]) << _32
        pairs[k + _PLANE] = np.uint64(texels[lower]) | np.uint64(texels[lower + _1]) << _32
        u += u_step
        v += v_step


@inlined
def gather_edges(words, texels, level, u, v, begin, end, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Gather the texels of pixels 0 to ``begin`` and ``end`` to ``n``; texels outside are transparent."""
    start, h, w, u_step, v_step = level.first_texel, level.height, level.width, level.u_x, level.v_x
    for edge in range(begin + n - end):
        k = edge if edge < begin else edge + end - begin
        i, j = (u + k * u_step) >> 32, (v + k * v_step) >> 32
        p = start + j * w + i
        west, east = 0 <= i < w, -1 <= i < w - 1
        north, south = 0 <= j < h, -1 <= j < h - 1
        place = np.uint64(2 * k)
        words[place] = texels[np.uint64(p)] if north & west else 0
        words[place + _1] = texels[np.uint64(p + 1)] if north & east else 0
        words[place + _2 * _PLANE] = texels[np.uint64(p + w)] if south & west else 0
        words[place + _2 * _PLANE + _1] = texels[np.uint64(p + w + 1)] if south & east else 0
