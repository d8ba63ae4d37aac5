"""The torch backend: whole frames, all entries of the same place in their frames' order at once.

It runs wherever torch runs and is the fallback on accelerators without Triton. Affine images use the
32.32 maps of `smile_synth.compositing._parameters`, all others float64 positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smile_synth.compositing._parameters import (
    AFFINE,
    AREA,
    BIAS,
    BORDER,
    CELLS,
    COLOR,
    COLUMNS,
    FAR,
    FOLDED,
    FROM_BANK,
    GAIN,
    GAMMA,
    GRAIN,
    GRAIN_FRAME,
    GRAIN_KEY,
    HEIGHT,
    IMAGE,
    INVERSE,
    KIND,
    LABEL,
    LEVEL,
    LINEAR,
    NEAR,
    NOISE,
    OPACITY,
    REFLECT,
    REPEAT,
    ROWS,
    SHADOW,
    SOLID,
    START,
    TRANSPARENT,
    U_X,
    U_Y,
    V_X,
    V_Y,
    WIDTH,
    U,
    V,
)
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, MULTIPLIERS, ROUNDS, WEYL
from smile_synth.core.appearance import LIGHT

# Frames are drawn in groups of at most this many pixels: about 1 GiB of intermediate values.
_PIXELS = 2**22
# Half, less what float32 may lose of it: an opaque texel under an opacity of .5 owns its pixel.
OWNS = 0.5 - 1e-6


@dataclass(frozen=True)
class DeviceParameters:
    """Render parameters on a device; texels are int32 words.

    Attributes:
        first: ``[M + 1]`` int64.
        ints: ``[N, NUM_INTS]`` int64.
        reals: ``[N, NUM_REALS]`` float64.
        bank, extra: ``[X]`` int32.
        size_hw: of a frame.
        subframes: ``[F + 1]`` int64, None without film.
        film: ``[F, NUM_FILM]`` float64, None without.
    """

    first: Tensor
    ints: Tensor
    reals: Tensor
    bank: Tensor
    extra: Tensor
    size_hw: tuple[int, int]
    subframes: Tensor | None = None
    effects: Tensor | None = None


def composite_torch(
    parameters: DeviceParameters, frames: Tensor, scale: Tensor, shift: Tensor, labels: Tensor | None
) -> None:
    """Draw into ``frames``: ``[F, H, W, 3]`` uint8, or ``[F, 3, H, W]`` of a float type, x scale + shift.

    ``labels`` ``[F, H, W]`` int16, if wanted, gets the number of the labelled object that owns each pixel.
    """
    height, width = parameters.size_hw
    per_group = max(_PIXELS // (height * width), 1)
    for begin in range(0, len(frames), per_group):
        end = min(begin + per_group, len(frames))
        image, owner = _exposed(parameters, begin, end)
        values = torch.floor(image + 0.5)
        if frames.dtype == torch.uint8:
            frames[begin:end] = values.permute(0, 2, 3, 1).to(torch.uint8)
        else:
            frames[begin:end] = (values * scale.view(3, 1, 1) + shift.view(3, 1, 1)).to(frames.dtype)
        if labels is not None:
            labels[begin:end] = owner.to(torch.int16)


def _exposed(parameters: DeviceParameters, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return colours ``[f, 3, H, W]`` float32 0..255 and owners ``[f, H, W]`` int64 of a run of frames."""
    device = parameters.ints.device
    if parameters.subframes is None or parameters.effects is None:
        return _draw(parameters, torch.arange(begin, end, device=device), None)
    effects = parameters.effects[begin:end]
    start, stop = parameters.subframes[begin:end], parameters.subframes[begin + 1 : end + 1]
    linear = effects[:, LINEAR] > 0
    # The middle subframe is the frame itself: it tells the owners.
    _, owner = _draw(parameters, (start + stop) // 2, linear)
    mean = torch.zeros(end - begin, 3, *parameters.size_hw, device=device)
    for place in range(int((stop - start).max())):
        at = torch.nonzero(start + place < stop).flatten()
        mean[at] += _draw(parameters, start[at] + place, linear[at])[0]
    mean /= (stop - start)[:, None, None, None]
    share = (mean / 255).clamp(0, 1)
    bright = 255 * 1.055 * share.clamp_min(0.0031308).pow(1 / 2.4) - 255 * 0.055
    encoded = torch.where(share <= 0.0031308, mean * 12.92, bright)
    image = torch.where(linear[:, None, None, None], encoded, mean)
    if bool((effects[:, GRAIN] > 0).any()):
        image += (effects[:, GRAIN, None, None, None] * _grain(parameters, effects)).float()
    return image.clamp(0, 255), owner


def _grain(parameters: DeviceParameters, effects: Tensor) -> Tensor:
    """Return noise ``[f, 3, H, W]`` float64 of mean 0 and deviation 1: the sum of a word's four bytes."""
    x, y = (axis + 0.5 for axis in _centers(parameters))
    columns, rows = (x * effects[:, CELLS, None, None]).long(), (y * effects[:, CELLS + 1, None, None]).long()
    key = effects[:, GRAIN_KEY : GRAIN_KEY + 2, None, None, None].long().unbind(1)
    frame = effects[:, GRAIN_FRAME, None, None, None].long()
    word = _philox_word(columns[:, None], rows[:, None], frame, *key)
    total = torch.stack([(word >> shift) & 255 for shift in (0, 8, 16, 24)]).sum(dim=0)
    noise: Tensor = (total.double() - GRAIN_MEAN) / GRAIN_DEVIATION
    return noise


def _draw(parameters: DeviceParameters, chosen: Tensor, linear: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return colours ``[m, 3, H, W]`` float32 0..255 and owners ``[m, H, W]`` int64 of subframes ``[m]``.

    ``linear`` ``[m]`` says whose colours are light; None: none.
    """
    height, width = parameters.size_hw
    device = parameters.ints.device
    start, stop = parameters.first[chosen], parameters.first[chosen + 1]
    image = torch.zeros(len(chosen), 3, height, width, device=device)
    owner = torch.zeros(len(chosen), height, width, dtype=torch.int64, device=device)
    for place in range(int((stop - start).max())):
        at = torch.nonzero(start + place < stop).flatten()
        entries = start[at] + place
        rgba = _sample(parameters, entries, None if linear is None else linear[at])
        ints, reals = parameters.ints[entries], parameters.reals[entries].float()
        alpha = rgba[:, 3:]
        gain, bias = (reals[:, c : c + 3, None, None] for c in (GAIN, BIAS))
        color = torch.minimum((rgba[:, :3] * gain + alpha * bias).clamp_min(0.0), alpha)
        gamma = reals[:, GAMMA, None, None, None]
        if bool((gamma != 1).any()):
            full = torch.where(alpha > 0, alpha, 1.0)
            color = torch.where(gamma != 1, (color / full).pow(gamma) * full, color)
        opacity = reals[:, OPACITY, None, None, None]
        image[at] = color * opacity + image[at] * (1 - alpha * opacity / 255)
        label = ints[:, LABEL, None, None]
        owns = ((alpha * opacity / 255)[:, 0] >= OWNS) & (label != SHADOW)
        owner[at] = torch.where(owns, label, owner[at])
    return image, owner


def _sample(parameters: DeviceParameters, entries: Tensor, linear: Tensor | None) -> Tensor:
    """Return premultiplied RGBA ``[n, 4, H, W]`` float32 0..255 of entries ``[n]``, one per subframe."""
    ints = parameters.ints[entries]
    height, width = parameters.size_hw
    rgba = torch.zeros(len(entries), 4, height, width, device=ints.device)
    rgba[:, 3] = 255.0
    kind = ints[:, KIND]
    solid, noise = kind == SOLID, kind == NOISE
    rgba[solid, :3] = ints[solid, COLOR : COLOR + 3, None, None].float()
    if noise.any():
        rgba[noise, :3] = _noise(parameters, entries[noise])
    stepped = (ints[:, AFFINE] == 1) & (ints[:, FOLDED] == 0)
    for texels, source in ((parameters.extra, 0), (parameters.bank, 1)):
        for fixed in (False, True):
            chosen = (kind == IMAGE) & (ints[:, FROM_BANK] == source) & (stepped == fixed)
            if chosen.any():
                light = None if linear is None else linear[chosen]
                rgba[chosen] = _image(parameters, entries[chosen], texels, fixed, light)
    if linear is not None:
        flat = linear & ~(kind == IMAGE)
        rgba[flat, :3] = _light(rgba.device)[rgba[flat, :3].long()]
    return rgba


def _light(device: torch.device) -> Tensor:
    """Return the light 0..255 of every sRGB byte."""
    return torch.from_numpy(LIGHT).float().to(device)


def _centers(parameters: DeviceParameters) -> tuple[Tensor, Tensor]:
    height, width = parameters.size_hw
    device = parameters.ints.device
    return torch.arange(width, device=device), torch.arange(height, device=device)[:, None]


def _positions(parameters: DeviceParameters, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return texture positions u and v ``[n, H, W]`` float64 and whether they are before the horizon."""
    x, y = (axis + 0.5 for axis in _centers(parameters))
    m = parameters.reals[entries, INVERSE : INVERSE + 9, None, None].unbind(1)
    depth = m[6] * x + m[7] * y + m[8]
    safe = torch.where(depth > 0, depth, 1.0)
    return (m[0] * x + m[1] * y + m[2]) / safe, (m[3] * x + m[4] * y + m[5]) / safe, depth > 0


def _image(
    parameters: DeviceParameters, entries: Tensor, texels: Tensor, fixed: bool, linear: Tensor | None
) -> Tensor:
    ints, level = parameters.ints[entries], parameters.reals[entries, LEVEL]
    mix = (level - level.floor()).float()[:, None, None, None]
    near = _level(parameters, entries, ints, texels, fixed, NEAR, linear)
    mixed = near
    if bool((mix > 0).any()):
        far = _level(parameters, entries, ints, texels, fixed, FAR, linear)
        mixed = torch.where(mix > 0, (1 - mix) * near + mix * far, near)
    x, y = _centers(parameters)
    x0, y0, x1, y1 = ints[:, AREA : AREA + 4, None, None].unbind(1)
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return torch.where(inside[:, None], mixed, 0.0)


def _level(
    parameters: DeviceParameters,
    entries: Tensor,
    ints: Tensor,
    texels: Tensor,
    fixed: bool,
    at: int,
    linear: Tensor | None,
) -> Tensor:
    """Sample one mip level bilinearly: ``[n, 4, H, W]`` float32."""
    border = ints[:, BORDER, None, None]
    w, h = ints[:, at + COLUMNS, None, None], ints[:, at + ROWS, None, None]
    known = torch.ones((), dtype=torch.bool, device=ints.device)
    if fixed:
        x, y = _centers(parameters)
        u, v = (
            ints[:, at + corner, None, None]
            + x * ints[:, at + along, None, None]
            + y * ints[:, at + down, None, None]
            for corner, along, down in ((U, U_X, U_Y), (V, V_X, V_Y))
        )
        i, j = u >> 32, v >> 32
        fu, fv = ((axis & 0xFFFFFFFF).double().mul(2.0**-32).float() for axis in (u, v))
    else:
        uf, vf, known = _positions(parameters, entries)
        scale = torch.exp2(-(parameters.reals[entries, LEVEL].floor() + (at == FAR)))[:, None, None]
        uf = _wrap(uf, border, ints[:, WIDTH, None, None]) * scale - 0.5
        vf = _wrap(vf, border, ints[:, HEIGHT, None, None]) * scale - 0.5
        known = known & uf.isfinite() & vf.isfinite()
        # Only pixels without taps lie farther out.
        uf, vf = uf.nan_to_num().clamp(-2.0, 2.0**31), vf.nan_to_num().clamp(-2.0, 2.0**31)
        i, j = uf.floor().long(), vf.floor().long()
        fu, fv = (uf - uf.floor()).float(), (vf - vf.floor()).float()
    out = torch.zeros(len(entries), 4, *parameters.size_hw, device=ints.device)
    last = len(texels) - 1
    for dj in (0, 1):
        for di in (0, 1):
            column, row = i + di, j + dj
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            inside = known & (inside | (border != TRANSPARENT))
            repeat = border == REPEAT
            column = torch.where(repeat, column % w.clamp_min(1), torch.minimum(column.clamp_min(0), w - 1))
            row = torch.where(repeat, row % h.clamp_min(1), torch.minimum(row.clamp_min(0), h - 1))
            place = ints[:, at + START, None, None] + row * w + column
            word = texels[place.clamp(0, last)]
            weight = (fu if di else 1 - fu) * (fv if dj else 1 - fv)
            weight = torch.where(inside, weight, 0.0)
            for c in range(4):
                byte = (word >> (8 * c)) & 255
                value = byte.float()
                if linear is not None and c < 3:
                    value = torch.where(linear[:, None, None], _light(byte.device)[byte.long()], value)
                out[:, c] += value * weight
    return out


def _wrap(u: Tensor, border: Tensor, size: Tensor) -> Tensor:
    """Bring positions of images without end back into the image."""
    mirrored = u.abs() % (2.0 * size)
    mirrored = torch.where(mirrored > size, 2.0 * size - mirrored, mirrored)
    return torch.where(border == REFLECT, mirrored, torch.where(border == REPEAT, u % size, u))


def _noise(parameters: DeviceParameters, entries: Tensor) -> Tensor:
    """Return uniform noise ``[n, 3, H, W]`` float32 0..255."""
    u, v, _ = _positions(parameters, entries)
    key0, key1, frame = parameters.ints[entries, COLOR : COLOR + 3, None, None, None].unbind(1)
    column, row = (axis.floor().long()[:, None] for axis in (u, v))
    return (_philox_word(column, row, frame, key0, key1) >> 24).float()


def _philox_word(column: Tensor, row: Tensor, frame: Tensor, key0: Tensor, key1: Tensor) -> Tensor:
    """Return the first word of Philox for three channels ``[n, 3, H, W]``, in 64 bits."""
    mask = 0xFFFFFFFF
    channel = torch.arange(3, device=column.device).view(3, 1, 1)
    c0, c1, c2, c3 = torch.broadcast_tensors(column & mask, row & mask, frame, channel)
    for _ in range(ROUNDS):
        # Products wrap to 64 bits with a sign; the mask takes it off again.
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1 = (p1 >> 32) & mask ^ c1 ^ key0, p1 & mask
        c2, c3 = (p0 >> 32) & mask ^ c3 ^ key1, p0 & mask
        key0, key1 = (key0 + WEYL[0]) & mask, (key1 + WEYL[1]) & mask
    word: Tensor = c0
    return word
