"""The Triton backend: one kernel draws a whole batch.

A program draws one tile of a frame. It finds the frame's entries that reach the tile, 32 at a time; then,
back to front, it samples their two mip levels from the resident texels, blends in registers and writes once.

There are three versions of the kernel. Batches of plain entries (`is_plain`) use the smallest one. Batches
with camera effects use one that draws every subframe of a frame. All others use the general one.
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
_MAX_PROGRAMS = 2**31 - 1  # CUDA's limit for a grid along x; along y and z it is 65,535

# Offsets of the fields of an entry and of a frame's effects, and their sizes, in words of 8 bytes.
_ENTRY, _EFFECTS = tl.constexpr(p.word_offsets(p.ENTRY)), tl.constexpr(p.word_offsets(p.EFFECTS))
_ENTRY_WORDS = tl.constexpr(p.ENTRY.itemsize // 8)
_EFFECTS_WORDS = tl.constexpr(p.EFFECTS.itemsize // 8)
_SOLID, _NOISE, _SHADOW = tl.constexpr(p.SOLID), tl.constexpr(p.NOISE), tl.constexpr(p.SHADOW)
_TRANSPARENT, _REFLECT = tl.constexpr(p.TRANSPARENT), tl.constexpr(p.REFLECT)
_REPEAT, _OWNS = tl.constexpr(p.REPEAT), tl.constexpr(p.OWNS_FLOAT32)
_IMAGE = tl.constexpr(p.IMAGE)
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
    _kernel[launch_grid(len(frames), (height, width))](
        frames, owners, counts, batch, (height, width), scale, shift, parameters.num_frames, tokens,
        PLAIN=parameters.plain, **compile_options(parameters.plain),
    )  # fmt: skip


def compile_options(plain: bool) -> dict[str, Any]:
    """Return Triton's options for a version of the kernel.

    The plain version needs 106 registers if it may; with 80, without spills, half as many programs again run
    at the same time.
    """
    return {"enable_fp_fusion": True, "maxnreg": 80 if plain else None}


def launch_grid(num_frames: int, size_hw: tuple[int, int]) -> tuple[int]:
    """Return the number of programs, one per tile of each frame.

    Raises:
        ValueError: they are more than a GPU can launch.
    """
    tiles = triton.cdiv(size_hw[0], _TILE_ROWS.value) * triton.cdiv(size_hw[1], _TILE_COLUMNS.value)
    if num_frames * tiles > _MAX_PROGRAMS:
        raise ValueError(
            f"{num_frames} frames of {size_hw}: expected at most {_MAX_PROGRAMS // tiles} in one batch"
        )
    return (num_frames * tiles,)


@triton.jit
def _reaching(batch, begin, end, left, top):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return as bits which of the 32 entries from ``begin`` on reach a tile."""
    place = tl.arange(0, 32)
    entry, exists = batch.ints + (begin + place) * _ENTRY_WORDS, begin + place < end
    x0 = tl.load(entry + _ENTRY.value.x0, mask=exists, other=0)
    y0 = tl.load(entry + _ENTRY.value.y0, mask=exists, other=0)
    x1 = tl.load(entry + _ENTRY.value.x1, mask=exists, other=0)
    y1 = tl.load(entry + _ENTRY.value.y1, mask=exists, other=0)
    reaches = (x0 < left + _TILE_COLUMNS) & (x1 > left) & (y0 < top + _TILE_ROWS) & (y1 > top)
    return tl.sum(reaches.to(tl.uint32) << place.to(tl.uint32))


@triton.jit
def _channel(word, c: tl.constexpr, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a channel of packed texels."""
    byte = (word >> (8 * c)) & 255
    if table is not None and c < 3:  # noqa: SIM108 - decided when compiled
        value = tl.load(table + byte)
    else:
        value = byte.to(tl.float32)
    return value


@triton.jit
def _add_texel(rgba, texel, weight, exists, table):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add one weighted texel per pixel."""
    word = tl.load(texel, mask=exists, other=0)
    r, g, b, a = rgba
    r += _channel(word, 0, table) * weight
    g += _channel(word, 1, table) * weight
    b += _channel(word, 2, table) * weight
    a += _channel(word, 3, table) * weight
    return r, g, b, a


@triton.jit
def _neighbours(i, size, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the texels i and i + 1 of one axis after the border rule, and whether each exists.

    Without transparent borders positions are inside the image: i is -1 or more, and i + 1 at most the size.
    """
    low, high = i, i + 1
    beyond = tl.where(border == _TRANSPARENT, 0, 1)
    low_exists = (low >= -beyond) & (low < size)
    high_exists = (high >= 0) & (high < size + beyond)
    if border != _TRANSPARENT:
        low = tl.where(low < 0, tl.where(border == _REPEAT, size - 1, 0), low)
        high = tl.where(high >= size, tl.where(border == _REPEAT, 0, size - 1), high)
    return low, high, low_exists, high_exists


@triton.jit
def _project(real, x, y, PLAIN: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return float64 texture positions of pixel centres, and whether they are before the horizon."""
    m = real + _ENTRY.value.inverse
    px, py = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    u = tl.load(m) * px + (tl.load(m + 1) * py + tl.load(m + 2))
    v = tl.load(m + 3) * px + (tl.load(m + 4) * py + tl.load(m + 5))
    known = x >= 0  # everywhere
    if not PLAIN:
        depth = tl.load(m + 6) * px + (tl.load(m + 7) * py + tl.load(m + 8))
        known = depth > 0
        depth = tl.where(known, depth, 1.0)
        u, v = u / depth, v / depth
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
    return (u.to(tl.uint32) >> 8).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _fixed_position(entry, level: tl.constexpr, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return columns, rows and their fractions, from the fixed-point map of a mip level."""
    u = (tl.load(entry + level.u) + x * tl.load(entry + level.u_x)) + y * tl.load(entry + level.u_y)
    v = (tl.load(entry + level.v) + x * tl.load(entry + level.v_x)) + y * tl.load(entry + level.v_y)
    return (u >> 32).to(tl.int32), (v >> 32).to(tl.int32), _fraction(u), _fraction(v)


@triton.jit
def _projected_position(entry, real, index, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return columns, rows, their fractions, and where they are known, from the float64 map."""
    u, v, known = _project(real, x, y, False)
    border = tl.load(entry + _ENTRY.value.border)
    if border != _TRANSPARENT:
        u = _wrapped(u, tl.load(entry + _ENTRY.value.width).to(tl.float64), border)
        v = _wrapped(v, tl.load(entry + _ENTRY.value.height).to(tl.float64), border)
    scale = tl.exp2(-index).to(tl.float64)
    u, v = u * scale - 0.5, v * scale - 0.5
    # Beyond these limits there is no texel, and integers would overflow.
    known = known & (tl.abs(u) < 1e9) & (tl.abs(v) < 1e9)
    u, v = tl.where(known, u, 0.0), tl.where(known, v, 0.0)
    i, j = tl.floor(u), tl.floor(v)
    return i.to(tl.int32), j.to(tl.int32), (u - i).to(tl.float32), (v - j).to(tl.float32), known


@triton.jit
def _add_level(  # type: ignore[no-untyped-def]  # pragma: no cover
    rgba, texels, entry, real, level: tl.constexpr, index, share, tile, table, PLAIN: tl.constexpr
):
    """Add one mip level of an image, weighted by its share: the four texels around each position."""
    _, _, x, y, known = tile
    if PLAIN:  # noqa: SIM114 - decided when compiled
        i, j, fu, fv = _fixed_position(entry, level, x, y)
    elif (tl.load(entry + _ENTRY.value.fixed_point) == 1) & (tl.load(entry + _ENTRY.value.wraps) == 0):
        i, j, fu, fv = _fixed_position(entry, level, x, y)
    else:
        i, j, fu, fv, before_horizon = _projected_position(entry, real, index, x, y)
        known = known & before_horizon
    h, w = tl.load(entry + level.height).to(tl.int32), tl.load(entry + level.width).to(tl.int32)
    border = tl.load(entry + _ENTRY.value.border)
    left, right, has_left, has_right = _neighbours(i, w, border)
    top, bottom, has_top, has_bottom = _neighbours(j, h, border)
    has_top, has_bottom = has_top & known, has_bottom & known
    texels += tl.load(entry + level.first_texel)
    top, bottom = top * w, bottom * w
    upper, lower = (1 - fv) * share, fv * share
    rgba = _add_texel(rgba, texels + (top + left), (1 - fu) * upper, has_top & has_left, table)
    rgba = _add_texel(rgba, texels + (top + right), fu * upper, has_top & has_right, table)
    rgba = _add_texel(rgba, texels + (bottom + left), (1 - fu) * lower, has_bottom & has_left, table)
    return _add_texel(rgba, texels + (bottom + right), fu * lower, has_bottom & has_right, table)


@triton.jit
def _image(texels, entry, real, tile, zero, table, PLAIN: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return premultiplied RGBA of an image, mixed from its two mip levels."""
    level = tl.load(real + _ENTRY.value.level)
    index = tl.floor(level)
    mix = (level - index).to(tl.float32)
    index = index.to(tl.float32)
    rgba, coarser = (zero, zero, zero, zero), index + 1
    r, g, b, a = _add_level(rgba, texels, entry, real, _ENTRY.value.near, index, 1 - mix, tile, table, PLAIN)
    if mix > 0:
        rgba = (r, g, b, a)
        r, g, b, a = _add_level(rgba, texels, entry, real, _ENTRY.value.far, coarser, mix, tile, table, PLAIN)
    return r, g, b, a


@triton.jit
def _noise(entry, real, x, y, table, PLAIN: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return uniform noise: the high byte of a Philox word of each cell and channel."""
    u, v, _ = _project(real, x, y, PLAIN)
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
def _corrected(color, alpha, real, c: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a channel after gain, bias and gamma."""
    gain = tl.load(real + _ENTRY.value.gain + c).to(tl.float32)
    bias = tl.load(real + _ENTRY.value.bias + c).to(tl.float32)
    color = tl.minimum(tl.maximum(color * gain + alpha * bias, 0.0), alpha)
    gamma = tl.load(real + _ENTRY.value.gamma).to(tl.float32)
    if gamma != 1.0:
        full = tl.where(alpha > 0, alpha, 1.0)
        share = tl.where(color > 0, color / full, 1.0)
        color = tl.where(color > 0, tl.exp2(tl.log2(share) * gamma) * full, 0.0)
    return color


@triton.jit
def _sample(entry, real, batch, table, tile, kind, zero, PLAIN: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return premultiplied RGBA of an entry."""
    _, _, x, y, _ = tile
    a = zero + 255.0
    if kind == _SOLID:
        r = _solid(entry + _ENTRY.value.color, zero, table)
        g = _solid(entry + _ENTRY.value.color + 1, zero, table)
        b = _solid(entry + _ENTRY.value.color + 2, zero, table)
    elif kind == _NOISE:
        r, g, b = _noise(entry, real, x, y, table, PLAIN)
    else:
        texels = batch.extra
        if tl.load(entry + _ENTRY.value.from_bank) == 1:
            texels = batch.bank
        r, g, b, a = _image(texels, entry, real, tile, zero, table, PLAIN)
    if not PLAIN:
        if (kind == _IMAGE) & (tl.load(entry + _ENTRY.value.shows_noise) == 1):
            r, g, b = _noise(entry, real, x, y, table, PLAIN)
            shown = a >= 255.0 * _OWNS
            r, g, b = tl.where(shown, r, zero), tl.where(shown, g, zero), tl.where(shown, b, zero)
            a = tl.where(shown, 255.0, zero)
        if tl.load(entry + _ENTRY.value.plain_color) == 0:
            r, g = _corrected(r, a, real, 0), _corrected(g, a, real, 1)
            b = _corrected(b, a, real, 2)
    return r, g, b, a


@triton.jit
def _draw_subframe(m, batch, table, tile, PLAIN: tl.constexpr, WITH_OWNERS: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return colours 0..255 and owners of a tile (left, top, x, y, inside) at one subframe."""
    left, top, _, _, _ = tile
    zero = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.float32)
    red, green, blue = zero, zero, zero
    owner = tl.zeros((_TILE_ROWS, _TILE_COLUMNS), tl.int32)
    first, end = tl.load(batch.first + m), tl.load(batch.first + m + 1)
    for begin in range(first, end, 32):
        reaching = _reaching(batch, begin, end, left, top)
        e = begin
        while reaching != 0:
            if (reaching & 1) != 0:
                entry, real = batch.ints + e * _ENTRY_WORDS, batch.reals + e * _ENTRY_WORDS
                kind = tl.load(entry + _ENTRY.value.kind)
                opacity = tl.load(real + _ENTRY.value.opacity).to(tl.float32)
                r, g, b, a = _sample(entry, real, batch, table, tile, kind, zero, PLAIN)
                through = 1 - a * (opacity * (1.0 / 255.0))
                red, green = r * opacity + red * through, g * opacity + green * through
                blue = b * opacity + blue * through
                if WITH_OWNERS:
                    owns = a * opacity * (1.0 / 255.0) >= _OWNS
                    label = tl.load(entry + _ENTRY.value.label).to(tl.int32)
                    owner = tl.where(owns & (label != _SHADOW), label, owner)
            reaching >>= 1
            e += 1
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
        r, g, b, o = _draw_subframe(m, batch, table, tile, False, WITH_OWNERS)
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
def _rounded(value):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return values 0..255 rounded half up.

    Above 2^23 float32 holds whole numbers only. Two additions are faster than the conversion by `tl.floor`.
    They round a half to even; so values from 2^-12 below a half on are rounded up.
    """
    return (value + 0.000244140625 + 8388608.0) - 8388608.0


@triton.jit
def _kernel(frames, owners, counts, batch, size_hw, scale, shift, num_frames, tokens, PLAIN: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    height, width = size_hw
    across = tl.cdiv(width, _TILE_COLUMNS)
    tiles = across * tl.cdiv(height, _TILE_ROWS)
    program = tl.program_id(0)
    f, place = (program // tiles).to(tl.int64), program % tiles
    left, top = place % across * _TILE_COLUMNS, place // across * _TILE_ROWS
    x = left + tl.arange(0, _TILE_COLUMNS)[None, :]
    y = top + tl.arange(0, _TILE_ROWS)[:, None]
    inside = (x < width) & (y < height)
    tile = (left, top, x, y, inside)
    WITH_OWNERS: tl.constexpr = owners is not None or counts is not None
    if batch.table is None:
        red, green, blue, owner = _draw_subframe(f, batch, None, tile, PLAIN, WITH_OWNERS)
    else:
        red, green, blue, owner = _draw_with_effects(f, batch, tile, WITH_OWNERS)
    red, green, blue = _rounded(red), _rounded(green), _rounded(blue)
    # Offsets inside a frame are of 32 bits, those of whole frames of 64.
    size, pixel = height * width, y * width + x
    frames += f * size * 3
    kind = frames.dtype.element_ty
    tl.store(frames + pixel, (red * scale[0] + shift[0]).to(kind), mask=inside)
    tl.store(frames + (size + pixel), (green * scale[1] + shift[1]).to(kind), mask=inside)
    tl.store(frames + (2 * size + pixel), (blue * scale[2] + shift[2]).to(kind), mask=inside)
    if owners is not None:
        tl.store(owners + f * size + pixel, owner.to(tl.int16), mask=inside)
    if counts is not None:
        tubelet_size, patch_size = tokens
        across, down = width // patch_size, height // patch_size
        clip, tubelet = f // num_frames, f % num_frames // tubelet_size
        counts += (clip * (num_frames // tubelet_size) + tubelet) * (across * down)
        token = y // patch_size * across + x // patch_size
        tl.atomic_add(counts + token, 1, mask=inside & (owner > 0))
