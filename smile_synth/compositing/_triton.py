"""The Triton backend: one kernel draws a whole batch.

A program owns a tile of a frame. It walks the frame's entries back to front, skips those whose area misses
the tile, samples the two mip levels from the resident texels, blends in registers and writes once. Where
clips have film it does so for every subframe of the frame; without, that is not compiled.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_synth.compositing import _parameters as p
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN
from smile_synth.compositing._torch import OWNS, DeviceParameters
from smile_synth.core.appearance import LIGHT

TILE_ROWS, TILE_COLUMNS = 16, 32

_KIND, _BORDER, _FROM_BANK = tl.constexpr(p.KIND), tl.constexpr(p.BORDER), tl.constexpr(p.FROM_BANK)
_HEIGHT, _WIDTH, _COLOR = tl.constexpr(p.HEIGHT), tl.constexpr(p.WIDTH), tl.constexpr(p.COLOR)
_LABEL, _AREA, _AFFINE = tl.constexpr(p.LABEL), tl.constexpr(p.AREA), tl.constexpr(p.AFFINE)
_PLAIN, _FOLDED = tl.constexpr(p.PLAIN), tl.constexpr(p.FOLDED)
_NEAR, _FAR = tl.constexpr(p.NEAR), tl.constexpr(p.FAR)
_START, _ROWS, _COLUMNS = tl.constexpr(p.START), tl.constexpr(p.ROWS), tl.constexpr(p.COLUMNS)
_U, _U_X, _U_Y = tl.constexpr(p.U), tl.constexpr(p.U_X), tl.constexpr(p.U_Y)
_V, _V_X, _V_Y = tl.constexpr(p.V), tl.constexpr(p.V_X), tl.constexpr(p.V_Y)
_NUM_INTS, _NUM_REALS = tl.constexpr(p.NUM_INTS), tl.constexpr(p.NUM_REALS)
_LEVEL, _OPACITY = tl.constexpr(p.LEVEL), tl.constexpr(p.OPACITY)
_GAIN, _BIAS, _GAMMA = tl.constexpr(p.GAIN), tl.constexpr(p.BIAS), tl.constexpr(p.GAMMA)
_NUM_FILM, _LINEAR, _GRAIN = tl.constexpr(p.NUM_EFFECTS), tl.constexpr(p.LINEAR), tl.constexpr(p.GRAIN)
_GRAIN_KEY, _GRAIN_FRAME, _CELLS = (
    tl.constexpr(p.GRAIN_KEY),
    tl.constexpr(p.GRAIN_FRAME),
    tl.constexpr(p.CELLS),
)
_GRAIN_MEAN, _GRAIN_DEVIATION = tl.constexpr(GRAIN_MEAN), tl.constexpr(GRAIN_DEVIATION)
_SHADOW = tl.constexpr(p.SHADOW)
_SOLID, _NOISE = tl.constexpr(p.SOLID), tl.constexpr(p.NOISE)
_TRANSPARENT, _REFLECT, _REPEAT = (
    tl.constexpr(p.TRANSPARENT),
    tl.constexpr(p.REFLECT),
    tl.constexpr(p.REPEAT),
)
_OWNS = tl.constexpr(OWNS)


def composite_triton(
    parameters: DeviceParameters,
    frames: Tensor,
    scale: list[float],
    shift: list[float],
    labels: Tensor | None,
    counts: Tensor | None,
    tokens: tuple[int, int],
    num_frames: int,
) -> None:
    """Draw into ``frames``: ``[F, H, W, 3]`` uint8, or ``[F, 3, H, W]`` of a float type, x scale + shift.

    Args:
        parameters: the batch.
        frames: the output.
        scale, shift: of the three channels.
        labels: ``[F, H, W]`` int16 or None; gets the number of the labelled object that owns each pixel.
        counts: ``[clips, N]`` int32 zeros or None; gets the pixels that labelled objects own of each token.
        tokens: (tubelet_size, patch_size); both divide the clips exactly.
        num_frames: frames of each clip.
    """
    height, width = parameters.size_hw
    effects, subframes = parameters.effects, parameters.subframes
    # What every byte of a colour means: itself, or light.
    meaning = None
    if effects is not None:
        meaning = torch.stack([torch.arange(256.0), torch.from_numpy(LIGHT).float()]).to(effects.device)
    grid = (triton.cdiv(width, TILE_COLUMNS), triton.cdiv(height, TILE_ROWS), len(frames))
    _kernel[grid](
        frames,
        frames if labels is None else labels,
        parameters.first if counts is None else counts,
        parameters.first,
        parameters.ints,
        parameters.reals,
        parameters.bank,
        parameters.extra,
        parameters.first if subframes is None else subframes,
        parameters.reals if effects is None else effects,
        parameters.reals if meaning is None else meaning,
        height,
        width,
        num_frames,
        *scale,
        *shift,
        tokens[0],
        tokens[1],
        INTERLEAVED=frames.dtype == torch.uint8,
        WITH_LABELS=labels is not None,
        WITH_COUNTS=counts is not None,
        WITH_FILM=effects is not None,
        TILE_ROWS=TILE_ROWS,
        TILE_COLUMNS=TILE_COLUMNS,
        enable_fp_fusion=True,
    )


@triton.jit
def _unpack(word, weight, c: tl.constexpr, table, FILM: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    byte = (word >> (8 * c)) & 255
    if FILM and c < 3:  # noqa: SIM108 - known when compiled
        value = tl.load(table + byte)
    else:
        value = byte.to(tl.float32)
    return value * weight


@triton.jit
def _tap(texels, entry, at: tl.constexpr, row, column, weight, mask, r, g, b, a, table, FILM: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add one weighted texel per pixel."""
    h, w = tl.load(entry + at + _ROWS), tl.load(entry + at + _COLUMNS)
    border = tl.load(entry + _BORDER)
    if border == _TRANSPARENT:
        mask = mask & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    elif border == _REFLECT:
        row = tl.minimum(tl.maximum(row, 0), h - 1)
        column = tl.minimum(tl.maximum(column, 0), w - 1)
    else:
        # Positions lie in the image already: only a neighbour can be one too far.
        row = tl.where(row < 0, row + h, tl.where(row >= h, row - h, row))
        column = tl.where(column < 0, column + w, tl.where(column >= w, column - w, column))
    word = tl.load(texels + tl.load(entry + at + _START) + row * w + column, mask=mask, other=0)
    return (
        r + _unpack(word, weight, 0, table, FILM),
        g + _unpack(word, weight, 1, table, FILM),
        b + _unpack(word, weight, 2, table, FILM),
        a + _unpack(word, weight, 3, table, FILM),
    )


@triton.jit
def _bilinear(  # type: ignore[no-untyped-def]  # pragma: no cover
    texels, entry, at: tl.constexpr, i, j, fu, fv, share, mask, r, g, b, a, table, FILM: tl.constexpr
):
    """Add one mip level's four taps, weighed by its share."""
    r, g, b, a = _tap(texels, entry, at, j, i, (1 - fu) * (1 - fv) * share, mask, r, g, b, a, table, FILM)
    r, g, b, a = _tap(texels, entry, at, j, i + 1, fu * (1 - fv) * share, mask, r, g, b, a, table, FILM)
    r, g, b, a = _tap(texels, entry, at, j + 1, i, (1 - fu) * fv * share, mask, r, g, b, a, table, FILM)
    r, g, b, a = _tap(texels, entry, at, j + 1, i + 1, fu * fv * share, mask, r, g, b, a, table, FILM)
    return r, g, b, a


@triton.jit
def _project(real, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return float64 texture positions of pixel centres, and whether they are before the horizon."""
    px, py = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    depth = tl.load(real + 6) * px + tl.load(real + 7) * py + tl.load(real + 8)
    known = depth > 0
    depth = tl.where(known, depth, 1.0)
    u = (tl.load(real) * px + tl.load(real + 1) * py + tl.load(real + 2)) / depth
    v = (tl.load(real + 3) * px + tl.load(real + 4) * py + tl.load(real + 5)) / depth
    return u, v, known


@triton.jit
def _wrap(u, size, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring a position of an image without end back into the image."""
    if border == _REPEAT:
        u = u - tl.floor(u / size) * size
    else:
        u = tl.abs(u)
        u = u - tl.floor(u / (2 * size)) * (2 * size)
        u = tl.where(u > size, 2 * size - u, u)
    return u


@triton.jit
def _level(  # type: ignore[no-untyped-def]  # pragma: no cover
    texels, entry, real, at: tl.constexpr, level, share, x, y, mask, r, g, b, a, table, FILM: tl.constexpr
):
    """Add one mip level of an image."""
    if (tl.load(entry + _AFFINE) == 1) & (tl.load(entry + _FOLDED) == 0):
        u = tl.load(entry + at + _U) + x * tl.load(entry + at + _U_X) + y * tl.load(entry + at + _U_Y)
        v = tl.load(entry + at + _V) + x * tl.load(entry + at + _V_X) + y * tl.load(entry + at + _V_Y)
        # 24 bits of the fraction are what float32 holds exactly.
        fu = ((u >> 8) & 0xFFFFFF).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)
        fv = ((v >> 8) & 0xFFFFFF).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)
        r, g, b, a = _bilinear(
            texels, entry, at, u >> 32, v >> 32, fu, fv, share, mask, r, g, b, a, table, FILM
        )
    else:
        # Names of their own: Triton wants a name of both branches to have one type.
        pu, pv, known = _project(real, x, y)
        border = tl.load(entry + _BORDER)
        if border != _TRANSPARENT:
            pu = _wrap(pu, tl.load(entry + _WIDTH).to(tl.float64), border)
            pv = _wrap(pv, tl.load(entry + _HEIGHT).to(tl.float64), border)
        scale = tl.exp2(-level).to(tl.float64)
        pu, pv = pu * scale - 0.5, pv * scale - 0.5
        # Farther out nothing is seen, and whole numbers would overflow.
        known = known & (tl.abs(pu) < 1e9) & (tl.abs(pv) < 1e9)
        pu, pv = tl.where(known, pu, 0.0), tl.where(known, pv, 0.0)
        iu, iv = tl.floor(pu), tl.floor(pv)
        fu, fv = (pu - iu).to(tl.float32), (pv - iv).to(tl.float32)
        i, j = iu.to(tl.int64), iv.to(tl.int64)
        r, g, b, a = _bilinear(texels, entry, at, i, j, fu, fv, share, mask & known, r, g, b, a, table, FILM)
    return r, g, b, a


@triton.jit
def _image(texels, entry, real, x, y, mask, zero, table, FILM: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    level = tl.load(real + _LEVEL)
    low = tl.floor(level)
    mix = (level - low).to(tl.float32)
    low = low.to(tl.float32)
    r, g, b, a = _level(
        texels, entry, real, _NEAR, low, 1 - mix, x, y, mask, zero, zero, zero, zero, table, FILM
    )
    if mix > 0:
        r, g, b, a = _level(texels, entry, real, _FAR, low + 1, mix, x, y, mask, r, g, b, a, table, FILM)
    return r, g, b, a


@triton.jit
def _blend(below, color, alpha, real, c: tl.constexpr, opacity, plain):  # type: ignore[no-untyped-def]  # pragma: no cover
    if plain == 0:
        gain, bias = tl.load(real + _GAIN + c).to(tl.float32), tl.load(real + _BIAS + c).to(tl.float32)
        color = tl.minimum(tl.maximum(color * gain + alpha * bias, 0.0), alpha)
        gamma = tl.load(real + _GAMMA).to(tl.float32)
        if gamma != 1.0:
            full = tl.where(alpha > 0, alpha, 1.0)
            share = tl.where(color > 0, color / full, 1.0)
            color = tl.where(color > 0, tl.exp2(tl.log2(share) * gamma) * full, 0.0)
    return color * opacity + below * (1 - alpha * opacity * (1.0 / 255.0))


@triton.jit
def _subframe(  # type: ignore[no-untyped-def]  # pragma: no cover
    m,
    first,
    ints,
    reals,
    bank,
    extra,
    table,
    left,
    top,
    x,
    y,
    inside,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    OWNERS: tl.constexpr,
    FILM: tl.constexpr,
):
    """Return colours 0..255 and owners of a tile at one subframe."""
    zero = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.float32)
    red, green, blue = zero, zero, zero
    owner = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.int32)
    for e in range(tl.load(first + m), tl.load(first + m + 1)):
        entry, real = ints + e * _NUM_INTS, reals + e * _NUM_REALS
        x0, y0 = tl.load(entry + _AREA), tl.load(entry + _AREA + 1)
        x1, y1 = tl.load(entry + _AREA + 2), tl.load(entry + _AREA + 3)
        if (x0 < left + TILE_COLUMNS) & (x1 > left) & (y0 < top + TILE_ROWS) & (y1 > top):
            kind = tl.load(entry + _KIND)
            c0, c1, c2 = (
                tl.load(entry + _COLOR),
                tl.load(entry + _COLOR + 1),
                tl.load(entry + _COLOR + 2),
            )
            if kind == _SOLID:
                r, g, b = zero + c0.to(tl.float32), zero + c1.to(tl.float32), zero + c2.to(tl.float32)
                if FILM:
                    r, g, b = (
                        zero + tl.load(table + c0),
                        zero + tl.load(table + c1),
                        zero + tl.load(table + c2),
                    )
                a = zero + 255.0
            elif kind == _NOISE:
                u, v, known = _project(real, x, y)
                u, v = tl.floor(u).to(tl.int64).to(tl.uint32), tl.floor(v).to(tl.int64).to(tl.uint32)
                seed = (c0 | (c1 << 32)).to(tl.uint64)
                none = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.uint32)
                frame = none + c2.to(tl.uint32)
                w0, _, _, _ = tl.philox(seed, u, v, frame, none)
                w1, _, _, _ = tl.philox(seed, u, v, frame, none + 1)
                w2, _, _, _ = tl.philox(seed, u, v, frame, none + 2)
                r = (w0 >> 24).to(tl.float32)
                g = (w1 >> 24).to(tl.float32)
                b = (w2 >> 24).to(tl.float32)
                if FILM:
                    r = tl.load(table + (w0 >> 24).to(tl.int32))
                    g = tl.load(table + (w1 >> 24).to(tl.int32))
                    b = tl.load(table + (w2 >> 24).to(tl.int32))
                a = zero + 255.0
            else:
                seen = inside & (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
                texels = extra
                if tl.load(entry + _FROM_BANK) == 1:
                    texels = bank
                r, g, b, a = _image(texels, entry, real, x, y, seen, zero, table, FILM)
            opacity, plain = tl.load(real + _OPACITY).to(tl.float32), tl.load(entry + _PLAIN)
            red = _blend(red, r, a, real, 0, opacity, plain)
            green = _blend(green, g, a, real, 1, opacity, plain)
            blue = _blend(blue, b, a, real, 2, opacity, plain)
            if OWNERS:
                owns = a * opacity * (1.0 / 255.0) >= _OWNS
                label = tl.load(entry + _LABEL).to(tl.int32)
                owner = tl.where(owns & (label != _SHADOW), label, owner)
    return red, green, blue, owner


@triton.jit
def _to_srgb(light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sRGB values 0..255 of light 0..255."""
    share = tl.minimum(tl.maximum(light * (1.0 / 255.0), 0.0), 1.0)
    bright = (255 * 1.055) * tl.exp2(tl.log2(tl.maximum(share, 0.0031308)) * (1 / 2.4)) - 255 * 0.055
    return tl.where(share <= 0.0031308, light * 12.92, bright)


@triton.jit
def _grained(value, seed, u, v, frame, none, c: tl.constexpr, deviation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add to a channel the sum of a word's four bytes, less its mean, times a deviation."""
    word, _, _, _ = tl.philox(seed, u, v, frame, none + c)
    total = (word & 255) + ((word >> 8) & 255) + ((word >> 16) & 255) + (word >> 24)
    return value + (total.to(tl.float32) - _GRAIN_MEAN) * deviation


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    frames,
    labels,
    counts,
    first,
    ints,
    reals,
    bank,
    extra,
    subframes,
    effects,
    meaning,
    height,
    width,
    num_frames,
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    tubelet_size,
    patch_size,
    INTERLEAVED: tl.constexpr,
    WITH_LABELS: tl.constexpr,
    WITH_COUNTS: tl.constexpr,
    WITH_FILM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    left, top, f = tl.program_id(0) * TILE_COLUMNS, tl.program_id(1) * TILE_ROWS, tl.program_id(2)
    x = (left + tl.arange(0, TILE_COLUMNS)[None, :]).to(tl.int64)
    y = (top + tl.arange(0, TILE_ROWS)[:, None]).to(tl.int64)
    inside = (x < width) & (y < height)
    OWNERS: tl.constexpr = WITH_LABELS or WITH_COUNTS
    if WITH_FILM:
        zero = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.float32)
        red, green, blue = zero, zero, zero
        owner = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.int32)
        exposure = effects + f * _NUM_FILM
        linear = tl.load(exposure + _LINEAR) > 0
        table = meaning + tl.where(linear, 256, 0)
        begin, end = tl.load(subframes + f), tl.load(subframes + f + 1)
        for m in range(begin, end):
            r, g, b, o = _subframe(
                m, first, ints, reals, bank, extra, table, left, top, x, y, inside, TILE_ROWS, TILE_COLUMNS,
                OWNERS, True,
            )  # fmt: skip
            red, green, blue = red + r, green + g, blue + b
            # The middle subframe is the frame itself.
            owner = tl.where(m == (begin + end) // 2, o, owner)
        count = (end - begin).to(tl.float32)
        red, green, blue = red / count, green / count, blue / count
        if linear:
            red, green, blue = _to_srgb(red), _to_srgb(green), _to_srgb(blue)
        deviation = (tl.load(exposure + _GRAIN) / _GRAIN_DEVIATION).to(tl.float32)
        if deviation > 0:
            none = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.uint32)
            u = none + ((x.to(tl.float64) + 0.5) * tl.load(exposure + _CELLS)).to(tl.int64).to(tl.uint32)
            v = none + ((y.to(tl.float64) + 0.5) * tl.load(exposure + _CELLS + 1)).to(tl.int64).to(tl.uint32)
            key0 = tl.load(exposure + _GRAIN_KEY).to(tl.int64)
            key1 = tl.load(exposure + _GRAIN_KEY + 1).to(tl.int64)
            seed = (key0 | (key1 << 32)).to(tl.uint64)
            frame = none + tl.load(exposure + _GRAIN_FRAME).to(tl.int64).to(tl.uint32)
            red = _grained(red, seed, u, v, frame, none, 0, deviation)
            green = _grained(green, seed, u, v, frame, none, 1, deviation)
            blue = _grained(blue, seed, u, v, frame, none, 2, deviation)
        red = tl.minimum(tl.maximum(red, 0.0), 255.0)
        green = tl.minimum(tl.maximum(green, 0.0), 255.0)
        blue = tl.minimum(tl.maximum(blue, 0.0), 255.0)
    else:
        red, green, blue, owner = _subframe(
            f, first, ints, reals, bank, extra, meaning, left, top, x, y, inside, TILE_ROWS, TILE_COLUMNS,
            OWNERS, False,
        )  # fmt: skip
    red, green, blue = tl.floor(red + 0.5), tl.floor(green + 0.5), tl.floor(blue + 0.5)
    size = height * width
    f = f.to(tl.int64)
    pixel = y * width + x
    if INTERLEAVED:
        at = frames + (f * size + pixel) * 3
        tl.store(at, red.to(tl.uint8), mask=inside)
        tl.store(at + 1, green.to(tl.uint8), mask=inside)
        tl.store(at + 2, blue.to(tl.uint8), mask=inside)
    else:
        at = frames + f * 3 * size + pixel
        kind_of = frames.dtype.element_ty
        tl.store(at, (red * scale0 + shift0).to(kind_of), mask=inside)
        tl.store(at + size, (green * scale1 + shift1).to(kind_of), mask=inside)
        tl.store(at + 2 * size, (blue * scale2 + shift2).to(kind_of), mask=inside)
    if WITH_LABELS:
        tl.store(labels + f * size + pixel, owner.to(tl.int16), mask=inside)
    if WITH_COUNTS:
        across, down = width // patch_size, height // patch_size
        clip, tubelet = f // num_frames, f % num_frames // tubelet_size
        token = ((clip * (num_frames // tubelet_size) + tubelet) * down + y // patch_size) * across
        tl.atomic_add(counts + token + x // patch_size, 1, mask=inside & (owner > 0))
