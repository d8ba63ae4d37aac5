"""The Triton backend: one kernel draws a whole batch.

A program draws one tile of a frame. It goes through the frame's entries back to front, skips those whose area
misses the tile, samples the two mip levels from the resident texels, blends in registers and writes once.
For batches with camera effects it does so for every subframe of the frame; without, the kernel is compiled
without that loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_synth.compositing import _parameters as p
from smile_synth.compositing._device import DeviceParameters
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN
from smile_synth.core.appearance import LIGHT

_TILE_ROWS, _TILE_COLUMNS = tl.constexpr(16), tl.constexpr(32)

# Offsets of the fields of an entry and of a frame's effects, and their sizes, in words of 8 bytes.
_ENTRY, _EFFECTS = tl.constexpr(p.word_offsets(p.ENTRY)), tl.constexpr(p.word_offsets(p.EFFECTS))
_ENTRY_WORDS = tl.constexpr(p.ENTRY.itemsize // 8)
_EFFECTS_WORDS = tl.constexpr(p.EFFECTS.itemsize // 8)
_SOLID, _NOISE, _SHADOW = tl.constexpr(p.SOLID), tl.constexpr(p.NOISE), tl.constexpr(p.SHADOW)
_TRANSPARENT, _REFLECT = tl.constexpr(p.TRANSPARENT), tl.constexpr(p.REFLECT)
_REPEAT, _OWNS = tl.constexpr(p.REPEAT), tl.constexpr(p.OWNS_FLOAT32)
_GRAIN_MEAN, _GRAIN_DEVIATION = tl.constexpr(GRAIN_MEAN), tl.constexpr(GRAIN_DEVIATION)


class Batch(NamedTuple):
    """The input of the kernel: tensors, or their Triton types.

    Attributes:
        first, subframes: as of `Parameters`.
        ints, reals: the entries as int64, and the same memory as float64.
        bank, extra: texels ``[X]`` int32.
        effect_ints, effect_reals: the effects likewise; None without camera effects.
        table: ``[2, 256]`` float32, a byte as it is, and its light; None without camera effects.
    """

    first: Any
    subframes: Any
    ints: Any
    reals: Any
    bank: Any
    extra: Any
    effect_ints: Any
    effect_reals: Any
    table: Any


def composite_triton(
    parameters: DeviceParameters,
    frames: Tensor,
    scale: tuple[float, ...],
    shift: tuple[float, ...],
    owners: Tensor | None = None,
    counts: Tensor | None = None,
    tokens: tuple[int, int] = (1, 1),
) -> None:
    """Write byte x scale + shift into ``frames`` ``[F, 3, H, W]`` of any type.

    Args:
        parameters: the batch.
        frames: the output.
        scale, shift: of the three channels.
        owners: ``[F, H, W]`` int16; gets the number of the labelled object that owns each pixel.
        counts: ``[clips, N]`` int32 zeros; gets the number of each token's pixels that labelled objects own.
        tokens: (tubelet_size, patch_size); both divide the clips exactly.
    """
    height, width = parameters.size_hw
    effects = None if parameters.effects is None else parameters.effects.words
    table = None
    if effects is not None:
        table = torch.stack([torch.arange(256.0), torch.from_numpy(LIGHT).float()]).to(effects.device)
    entries = parameters.entries.words
    batch = Batch(
        parameters.first,
        parameters.subframes,
        entries,
        entries.view(torch.float64),
        parameters.bank,
        parameters.extra,
        effects,
        None if effects is None else effects.view(torch.float64),
        table,
    )
    columns, rows = triton.cdiv(width, _TILE_COLUMNS.value), triton.cdiv(height, _TILE_ROWS.value)
    _kernel[(columns, rows, len(frames))](
        frames, owners, counts, batch, (height, width), scale, shift, parameters.num_frames, tokens,
        enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _channel(word, weight, c: tl.constexpr, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a weighted channel of packed texels."""
    byte = (word >> (8 * c)) & 255
    if table is not None and c < 3:  # noqa: SIM108 - decided when compiled
        value = tl.load(table + byte)
    else:
        value = byte.to(tl.float32)
    return value * weight


@triton.jit
def _add_texel(rgba, texels, entry, level: tl.constexpr, row, column, weight, mask, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add one weighted texel per pixel."""
    h, w = tl.load(entry + level.height), tl.load(entry + level.width)
    border = tl.load(entry + _ENTRY.value.border)
    if border == _TRANSPARENT:
        mask = mask & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    elif border == _REFLECT:
        row = tl.minimum(tl.maximum(row, 0), h - 1)
        column = tl.minimum(tl.maximum(column, 0), w - 1)
    else:
        # The position is inside the image: a neighbour is at most one texel outside.
        row = tl.where(row < 0, row + h, tl.where(row >= h, row - h, row))
        column = tl.where(column < 0, column + w, tl.where(column >= w, column - w, column))
    word = tl.load(texels + tl.load(entry + level.first_texel) + row * w + column, mask=mask, other=0)
    r, g, b, a = rgba
    return (
        r + _channel(word, weight, 0, table),
        g + _channel(word, weight, 1, table),
        b + _channel(word, weight, 2, table),
        a + _channel(word, weight, 3, table),
    )


@triton.jit
def _add_bilinear(rgba, texels, entry, level: tl.constexpr, position, share, mask, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add the four texels around each position, weighted by a level's share."""
    i, j, fu, fv = position
    rgba = _add_texel(rgba, texels, entry, level, j, i, (1 - fu) * (1 - fv) * share, mask, table)
    rgba = _add_texel(rgba, texels, entry, level, j, i + 1, fu * (1 - fv) * share, mask, table)
    rgba = _add_texel(rgba, texels, entry, level, j + 1, i, (1 - fu) * fv * share, mask, table)
    return _add_texel(rgba, texels, entry, level, j + 1, i + 1, fu * fv * share, mask, table)


@triton.jit
def _project(real, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return float64 texture positions of pixel centres, and whether they are before the horizon."""
    m = real + _ENTRY.value.inverse
    px, py = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    depth = tl.load(m + 6) * px + tl.load(m + 7) * py + tl.load(m + 8)
    known = depth > 0
    depth = tl.where(known, depth, 1.0)
    u = (tl.load(m) * px + tl.load(m + 1) * py + tl.load(m + 2)) / depth
    v = (tl.load(m + 3) * px + tl.load(m + 4) * py + tl.load(m + 5)) / depth
    return u, v, known


@triton.jit
def _wrapped(u, size, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return positions of a reflected or repeated image inside the image."""
    if border == _REPEAT:
        u = u - tl.floor(u / size) * size
    else:
        u = tl.abs(u)
        u = u - tl.floor(u / (2 * size)) * (2 * size)
        u = tl.where(u > size, 2 * size - u, u)
    return u


@triton.jit
def _fraction(u):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the fraction of a fixed-point position; float32 holds 24 bits of it exactly."""
    return ((u >> 8) & 0xFFFFFF).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _add_level(rgba, texels, entry, real, level: tl.constexpr, index, share, x, y, mask, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add one mip level of an image, weighted by its share."""
    if (tl.load(entry + _ENTRY.value.fixed_point) == 1) & (tl.load(entry + _ENTRY.value.wraps) == 0):
        u = tl.load(entry + level.u) + x * tl.load(entry + level.u_x) + y * tl.load(entry + level.u_y)
        v = tl.load(entry + level.v) + x * tl.load(entry + level.v_x) + y * tl.load(entry + level.v_y)
        at = u >> 32, v >> 32, _fraction(u), _fraction(v)
        r, g, b, a = _add_bilinear(rgba, texels, entry, level, at, share, mask, table)
    else:
        # Other names than above: in Triton a name has one type in both branches.
        pu, pv, known = _project(real, x, y)
        border = tl.load(entry + _ENTRY.value.border)
        if border != _TRANSPARENT:
            pu = _wrapped(pu, tl.load(entry + _ENTRY.value.width).to(tl.float64), border)
            pv = _wrapped(pv, tl.load(entry + _ENTRY.value.height).to(tl.float64), border)
        scale = tl.exp2(-index).to(tl.float64)
        pu, pv = pu * scale - 0.5, pv * scale - 0.5
        # Beyond these limits there is no texel, and integers would overflow.
        known = known & (tl.abs(pu) < 1e9) & (tl.abs(pv) < 1e9)
        pu, pv = tl.where(known, pu, 0.0), tl.where(known, pv, 0.0)
        iu, iv = tl.floor(pu), tl.floor(pv)
        near = iu.to(tl.int64), iv.to(tl.int64), (pu - iu).to(tl.float32), (pv - iv).to(tl.float32)
        r, g, b, a = _add_bilinear(rgba, texels, entry, level, near, share, mask & known, table)
    return r, g, b, a


@triton.jit
def _image(texels, entry, real, x, y, mask, zero, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return premultiplied RGBA of an image, mixed from its two mip levels."""
    level = tl.load(real + _ENTRY.value.level)
    index = tl.floor(level)
    mix = (level - index).to(tl.float32)
    index = index.to(tl.float32)
    rgba = (zero, zero, zero, zero)
    r, g, b, a = _add_level(rgba, texels, entry, real, _ENTRY.value.near, index, 1 - mix, x, y, mask, table)
    if mix > 0:
        r, g, b, a = _add_level(
            (r, g, b, a), texels, entry, real, _ENTRY.value.far, index + 1, mix, x, y, mask, table
        )
    return r, g, b, a


@triton.jit
def _noise(entry, real, x, y, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return uniform noise: the high byte of a Philox word of each cell and channel."""
    u, v, _ = _project(real, x, y)
    m = real + _ENTRY.value.noise_cells
    u, v = tl.load(m) * u + tl.load(m + 1) * v, tl.load(m + 2) * u + tl.load(m + 3) * v
    column, row = tl.floor(u).to(tl.int64).to(tl.uint32), tl.floor(v).to(tl.int64).to(tl.uint32)
    seed = _seed(entry + _ENTRY.value.key)
    none = tl.zeros_like(column)
    frame = none + tl.load(entry + _ENTRY.value.frame).to(tl.uint32)
    w0, _, _, _ = tl.philox(seed, column, row, frame, none)
    w1, _, _, _ = tl.philox(seed, column, row, frame, none + 1)
    w2, _, _, _ = tl.philox(seed, column, row, frame, none + 2)
    if table is not None:
        r = tl.load(table + (w0 >> 24).to(tl.int32))
        g = tl.load(table + (w1 >> 24).to(tl.int32))
        b = tl.load(table + (w2 >> 24).to(tl.int32))
    else:
        r, g, b = (w0 >> 24).to(tl.float32), (w1 >> 24).to(tl.float32), (w2 >> 24).to(tl.float32)
    return r, g, b


@triton.jit
def _seed(key):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return two 32-bit key words as one of 64 bits."""
    return (tl.load(key) | (tl.load(key + 1) << 32)).to(tl.uint64)


@triton.jit
def _solid(color, zero, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    byte = tl.load(color)
    if table is not None:  # noqa: SIM108 - decided when compiled
        value = tl.load(table + byte)
    else:
        value = byte.to(tl.float32)
    return zero + value


@triton.jit
def _blend(below, color, alpha, real, c: tl.constexpr, opacity, plain_color):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Blend one channel over those below, after gain, bias and gamma."""
    if plain_color == 0:
        gain = tl.load(real + _ENTRY.value.gain + c).to(tl.float32)
        bias = tl.load(real + _ENTRY.value.bias + c).to(tl.float32)
        color = tl.minimum(tl.maximum(color * gain + alpha * bias, 0.0), alpha)
        gamma = tl.load(real + _ENTRY.value.gamma).to(tl.float32)
        if gamma != 1.0:
            full = tl.where(alpha > 0, alpha, 1.0)
            share = tl.where(color > 0, color / full, 1.0)
            color = tl.where(color > 0, tl.exp2(tl.log2(share) * gamma) * full, 0.0)
    return color * opacity + below * (1 - alpha * opacity * (1.0 / 255.0))


@triton.jit
def _draw_subframe(m, batch, table, tile, WITH_OWNERS: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return colours 0..255 and owners of a tile (left, top, x, y, inside) at one subframe."""
    left, top, x, y, inside = tile
    zero = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.float32)
    red, green, blue = zero, zero, zero
    owner = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.int32)
    for e in range(tl.load(batch.first + m), tl.load(batch.first + m + 1)):
        entry, real = batch.ints + e * _ENTRY_WORDS, batch.reals + e * _ENTRY_WORDS
        x0, y0 = tl.load(entry + _ENTRY.value.x0), tl.load(entry + _ENTRY.value.y0)
        x1, y1 = tl.load(entry + _ENTRY.value.x1), tl.load(entry + _ENTRY.value.y1)
        if (x0 < left + _TILE_COLUMNS) & (x1 > left) & (y0 < top + _TILE_ROWS) & (y1 > top):
            kind = tl.load(entry + _ENTRY.value.kind)
            a = zero + 255.0
            if kind == _SOLID:
                r = _solid(entry + _ENTRY.value.color, zero, table)
                g = _solid(entry + _ENTRY.value.color + 1, zero, table)
                b = _solid(entry + _ENTRY.value.color + 2, zero, table)
            elif kind == _NOISE:
                r, g, b = _noise(entry, real, x, y, table)
            else:
                seen = inside & (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
                texels = batch.extra
                if tl.load(entry + _ENTRY.value.from_bank) == 1:
                    texels = batch.bank
                r, g, b, a = _image(texels, entry, real, x, y, seen, zero, table)
                if tl.load(entry + _ENTRY.value.shows_noise) == 1:
                    r, g, b = _noise(entry, real, x, y, table)
                    shown = a >= 255.0 * _OWNS
                    r, g, b = tl.where(shown, r, zero), tl.where(shown, g, zero), tl.where(shown, b, zero)
                    a = tl.where(shown, 255.0, zero)
            opacity = tl.load(real + _ENTRY.value.opacity).to(tl.float32)
            plain_color = tl.load(entry + _ENTRY.value.plain_color)
            red = _blend(red, r, a, real, 0, opacity, plain_color)
            green = _blend(green, g, a, real, 1, opacity, plain_color)
            blue = _blend(blue, b, a, real, 2, opacity, plain_color)
            if WITH_OWNERS:
                owns = a * opacity * (1.0 / 255.0) >= _OWNS
                label = tl.load(entry + _ENTRY.value.label).to(tl.int32)
                owner = tl.where(owns & (label != _SHADOW), label, owner)
    return red, green, blue, owner


@triton.jit
def _to_srgb(light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sRGB values 0..255 of light 0..255."""
    share = tl.minimum(tl.maximum(light * (1.0 / 255.0), 0.0), 1.0)
    bright = (255 * 1.055) * tl.exp2(tl.log2(tl.maximum(share, 0.0031308)) * (1 / 2.4)) - 255 * 0.055
    return tl.where(share <= 0.0031308, light * 12.92, bright)


@triton.jit
def _add_grain(value, seed, column, row, frame, c: tl.constexpr, deviation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add to a channel the sum of a word's four bytes, less its mean, times a deviation; limit to 0..255."""
    word, _, _, _ = tl.philox(seed, column, row, frame, tl.zeros_like(column) + c)
    total = (word & 255) + ((word >> 8) & 255) + ((word >> 16) & 255) + (word >> 24)
    return tl.minimum(tl.maximum(value + (total.to(tl.float32) - _GRAIN_MEAN) * deviation, 0.0), 255.0)


@triton.jit
def _draw_with_effects(f, batch, tile, WITH_OWNERS: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the mean colours of a frame's subframes after linear light and grain, and the owners."""
    _, _, x, y, _ = tile
    zero = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.float32)
    red, green, blue = zero, zero, zero
    owner = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.int32)
    ints, reals = batch.effect_ints + f * _EFFECTS_WORDS, batch.effect_reals + f * _EFFECTS_WORDS
    linear = tl.load(ints + _EFFECTS.value.linear_light) > 0
    table = batch.table + tl.where(linear, 256, 0)
    begin, end = tl.load(batch.subframes + f), tl.load(batch.subframes + f + 1)
    for m in range(begin, end):
        r, g, b, o = _draw_subframe(m, batch, table, tile, WITH_OWNERS)
        red, green, blue = red + r, green + g, blue + b
        owner = tl.where(m == (begin + end) // 2, o, owner)  # the middle one is the frame itself
    count = (end - begin).to(tl.float32)
    red, green, blue = red / count, green / count, blue / count
    if linear:
        red, green, blue = _to_srgb(red), _to_srgb(green), _to_srgb(blue)
    deviation = (tl.load(reals + _EFFECTS.value.grain) / _GRAIN_DEVIATION).to(tl.float32)
    if deviation > 0:
        cells = reals + _EFFECTS.value.cells_xy
        none = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.uint32)
        column = none + ((x.to(tl.float64) + 0.5) * tl.load(cells)).to(tl.int64).to(tl.uint32)
        row = none + ((y.to(tl.float64) + 0.5) * tl.load(cells + 1)).to(tl.int64).to(tl.uint32)
        frame = none + tl.load(ints + _EFFECTS.value.frame).to(tl.uint32)
        seed = _seed(ints + _EFFECTS.value.key)
        red = _add_grain(red, seed, column, row, frame, 0, deviation)
        green = _add_grain(green, seed, column, row, frame, 1, deviation)
        blue = _add_grain(blue, seed, column, row, frame, 2, deviation)
    return red, green, blue, owner


@triton.jit
def _kernel(frames, owners, counts, batch, size_hw, scale, shift, num_frames, tokens):  # type: ignore[no-untyped-def]  # pragma: no cover
    height, width = size_hw
    left, top, f = tl.program_id(0) * _TILE_COLUMNS, tl.program_id(1) * _TILE_ROWS, tl.program_id(2)
    x = (left + tl.arange(0, _TILE_COLUMNS)[None, :]).to(tl.int64)
    y = (top + tl.arange(0, _TILE_ROWS)[:, None]).to(tl.int64)
    inside = (x < width) & (y < height)
    tile = (left, top, x, y, inside)
    WITH_OWNERS: tl.constexpr = owners is not None or counts is not None
    if batch.table is None:
        red, green, blue, owner = _draw_subframe(f, batch, None, tile, WITH_OWNERS)
    else:
        red, green, blue, owner = _draw_with_effects(f, batch, tile, WITH_OWNERS)
    red, green, blue = tl.floor(red + 0.5), tl.floor(green + 0.5), tl.floor(blue + 0.5)
    size, pixel = height * width, y * width + x
    at = frames + f.to(tl.int64) * 3 * size + pixel
    kind = frames.dtype.element_ty
    tl.store(at, (red * scale[0] + shift[0]).to(kind), mask=inside)
    tl.store(at + size, (green * scale[1] + shift[1]).to(kind), mask=inside)
    tl.store(at + 2 * size, (blue * scale[2] + shift[2]).to(kind), mask=inside)
    if owners is not None:
        tl.store(owners + f.to(tl.int64) * size + pixel, owner.to(tl.int16), mask=inside)
    if counts is not None:
        tubelet_size, patch_size = tokens
        across, down = width // patch_size, height // patch_size
        clip, tubelet = f // num_frames, f % num_frames // tubelet_size
        token = ((clip * (num_frames // tubelet_size) + tubelet) * down + y // patch_size) * across
        tl.atomic_add(counts + token + x // patch_size, 1, mask=inside & (owner > 0))
