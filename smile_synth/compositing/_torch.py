"""The torch backend: whole frames; the rearmost entries of all subframes at once, then the next ones.

It runs wherever torch runs and replaces Triton on accelerators without it. Positions are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smile_synth.compositing._device import DeviceParameters, DeviceRecords
from smile_synth.compositing._parameters import (
    IMAGE,
    OWNS_FLOAT32,
    REFLECT,
    REPEAT,
    SHADOW,
    SOLID,
    TRANSPARENT,
)
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, philox_word
from smile_synth.core.appearance import LIGHT

# Frames are drawn in groups of at most this many pixels: about 1 GiB of intermediate values.
_PIXELS = 2**22


def composite_torch(
    parameters: DeviceParameters, frames: Tensor, scale: Tensor, shift: Tensor, owners: Tensor | None
) -> None:
    """Write byte x scale + shift into ``frames`` ``[F, 3, H, W]`` of any type.

    ``owners`` ``[F, H, W]`` int16, if given, gets the number of the labelled object that owns each pixel.
    """
    height, width = parameters.size_hw
    per_group = max(_PIXELS // (height * width), 1)
    for begin in range(0, len(frames), per_group):
        end = min(begin + per_group, len(frames))
        image, owner = _draw(parameters, begin, end)
        values = torch.floor(image + 0.5) * scale.view(3, 1, 1) + shift.view(3, 1, 1)
        frames[begin:end] = values.to(frames.dtype)
        if owners is not None:
            owners[begin:end] = owner.to(torch.int16)


def _draw(parameters: DeviceParameters, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return colours ``[f, 3, H, W]`` float32 0..255 and owners ``[f, H, W]`` int64 of a run of frames."""
    start, stop = parameters.subframes[begin:end], parameters.subframes[begin + 1 : end + 1]
    if parameters.effects is None:
        return _draw_subframes(parameters, start, None)
    effects = parameters.effects.take(slice(begin, end))
    linear = effects["linear_light"] > 0
    _, owner = _draw_subframes(parameters, (start + stop) // 2, linear)  # the middle one is the frame itself
    mean = torch.zeros(end - begin, 3, *parameters.size_hw, device=start.device)
    for place in range(int((stop - start).max())):
        at = torch.nonzero(start + place < stop).flatten()
        mean[at] += _draw_subframes(parameters, start[at] + place, linear[at])[0]
    mean /= (stop - start)[:, None, None, None]
    share = (mean / 255).clamp(0, 1)
    bright = 255 * 1.055 * share.clamp_min(0.0031308).pow(1 / 2.4) - 255 * 0.055
    encoded = torch.where(share <= 0.0031308, mean * 12.92, bright)
    image = torch.where(linear[:, None, None, None], encoded, mean)
    if bool((effects["grain"] > 0).any()):
        image += (effects["grain"][:, None, None, None] * _grain(parameters, effects)).float()
    return image.clamp(0, 255), owner


def _grain(parameters: DeviceParameters, effects: DeviceRecords) -> Tensor:
    """Return noise ``[f, 3, H, W]`` float64 of mean 0 and standard deviation 1: the sum of a word's bytes."""
    x, y = _pixels(parameters)
    cells_x, cells_y = effects["cells_xy"][..., None, None].unbind(1)
    column, row = ((x + 0.5) * cells_x).long(), ((y + 0.5) * cells_y).long()
    word = _noise_word(column, row, effects["frame"], effects["key"])
    total = torch.stack([(word >> shift) & 255 for shift in (0, 8, 16, 24)]).sum(dim=0)
    noise: Tensor = (total.double() - GRAIN_MEAN) / GRAIN_DEVIATION
    return noise


def _noise_word(column: Tensor, row: Tensor, frame: Tensor, key: Tensor) -> Tensor:
    """Return words ``[n, 3, H, W]`` of columns and rows ``[n, H, W]``, frames ``[n]`` and keys ``[n, 2]``."""
    channel = torch.arange(3, device=column.device).view(3, 1, 1)
    key0, key1 = key[..., None, None, None].unbind(1)
    column, row, frame = column[:, None], row[:, None], frame[:, None, None, None]
    column, row, frame, channel = torch.broadcast_tensors(column, row, frame, channel)
    word: Tensor = philox_word(column, row, frame, channel, key0, key1)
    return word


def _draw_subframes(
    parameters: DeviceParameters, chosen: Tensor, linear: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return colours ``[m, 3, H, W]`` float32 0..255 and owners ``[m, H, W]`` int64 of subframes ``[m]``.

    ``linear`` ``[m]`` is true where colours are linear light; None: nowhere.
    """
    device = parameters.first.device
    start, stop = parameters.first[chosen], parameters.first[chosen + 1]
    image = torch.zeros(len(chosen), 3, *parameters.size_hw, device=device)
    owner = torch.zeros(len(chosen), *parameters.size_hw, dtype=torch.int64, device=device)
    for place in range(int((stop - start).max())):
        at = torch.nonzero(start + place < stop).flatten()
        entries = parameters.entries.take(start[at] + place)
        rgba = _sample(parameters, entries, None if linear is None else linear[at])
        alpha = rgba[:, 3:]
        gain, bias = (entries[name].float()[..., None, None] for name in ("gain", "bias"))
        color = torch.minimum((rgba[:, :3] * gain + alpha * bias).clamp_min(0.0), alpha)
        gamma = entries["gamma"].float()[:, None, None, None]
        if bool((gamma != 1).any()):
            full = torch.where(alpha > 0, alpha, 1.0)
            color = torch.where(gamma != 1, (color / full).pow(gamma) * full, color)
        opacity = entries["opacity"].float()[:, None, None, None]
        image[at] = color * opacity + image[at] * (1 - alpha * opacity / 255)
        label = entries["label"][:, None, None]
        owns = ((alpha * opacity / 255)[:, 0] >= OWNS_FLOAT32) & (label != SHADOW)
        owner[at] = torch.where(owns, label, owner[at])
    return image, owner


def _sample(parameters: DeviceParameters, entries: DeviceRecords, linear: Tensor | None) -> Tensor:
    """Return premultiplied RGBA ``[n, 4, H, W]`` float32 0..255 of entries of ``n`` subframes."""
    rgba = torch.zeros(len(entries), 4, *parameters.size_hw, device=entries.words.device)
    rgba[:, 3] = 255.0
    kind = entries["kind"]
    solid, noise = kind == SOLID, entries["shows_noise"] == 1
    rgba[solid, :3] = entries["color"][solid][..., None, None].float()
    for texels, from_bank in ((parameters.extra, 0), (parameters.bank, 1)):
        chosen = (kind == IMAGE) & (entries["from_bank"] == from_bank)
        if chosen.any():
            light = None if linear is None else linear[chosen]
            rgba[chosen] = _image(parameters, entries.take(chosen), texels, light)
    if noise.any():
        shown = rgba[noise, 3:] >= 255 * OWNS_FLOAT32
        rgba[noise, :3] = _noise(parameters, entries.take(noise)) * shown
        rgba[noise, 3:] = 255.0 * shown
    if linear is not None:
        flat = linear & (noise | ~(kind == IMAGE))
        rgba[flat, :3] = _light_table(rgba.device)[rgba[flat, :3].long()]
    return rgba


def _light_table(device: torch.device) -> Tensor:
    """Return the light 0..255 of every sRGB byte."""
    return torch.from_numpy(LIGHT).float().to(device)


def _pixels(parameters: DeviceParameters) -> tuple[Tensor, Tensor]:
    """Return columns ``[W]`` and rows ``[H, 1]``."""
    height, width = parameters.size_hw
    device = parameters.first.device
    return torch.arange(width, device=device), torch.arange(height, device=device)[:, None]


def _positions(parameters: DeviceParameters, entries: DeviceRecords) -> tuple[Tensor, Tensor, Tensor]:
    """Return texture positions u and v ``[n, H, W]`` float64, and whether they are before the horizon."""
    x, y = (axis + 0.5 for axis in _pixels(parameters))
    m = entries["inverse"].flatten(1)[..., None, None].unbind(1)
    depth = m[6] * x + m[7] * y + m[8]
    safe = torch.where(depth > 0, depth, 1.0)
    return (m[0] * x + m[1] * y + m[2]) / safe, (m[3] * x + m[4] * y + m[5]) / safe, depth > 0


def _noise(parameters: DeviceParameters, entries: DeviceRecords) -> Tensor:
    """Return uniform noise ``[n, 3, H, W]`` float32 0..255."""
    u, v, _ = _positions(parameters, entries)
    m = entries["noise_cells"].flatten(1)[..., None, None].unbind(1)
    u, v = m[0] * u + m[1] * v, m[2] * u + m[3] * v
    column, row = (axis.floor().long() & 0xFFFFFFFF for axis in (u, v))
    return (_noise_word(column, row, entries["frame"], entries["key"]) >> 24).float()


def _image(
    parameters: DeviceParameters, entries: DeviceRecords, texels: Tensor, linear: Tensor | None
) -> Tensor:
    """Return premultiplied RGBA ``[n, 4, H, W]`` of images, mixed from their two mip levels."""
    u, v, known = _positions(parameters, entries)
    border, width, height = (entries[name][:, None, None] for name in ("border", "width", "height"))
    u, v = _wrapped(u, border, width), _wrapped(v, border, height)
    index = entries["level"].floor()[:, None, None]
    share = (entries["level"][:, None, None] - index).float()[:, None]
    mixed = torch.zeros((), device=share.device)
    for place, (name, weight) in enumerate((("near", 1 - share), ("far", share))):
        if bool((weight > 0).any()):
            scale = torch.exp2(-(index + place))
            position = u * scale - 0.5, v * scale - 0.5, known
            mixed = mixed + weight * _bilinear(entries, entries.nested(name), texels, position, linear)
    x, y = _pixels(parameters)
    x0, y0, x1, y1 = (entries[name][:, None, None] for name in ("x0", "y0", "x1", "y1"))
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return torch.where(inside[:, None], mixed, 0.0)


def _bilinear(
    entries: DeviceRecords,
    level: DeviceRecords,
    texels: Tensor,
    position: tuple[Tensor, Tensor, Tensor],
    linear: Tensor | None,
) -> Tensor:
    """Sample a mip level bilinearly ``[n, 4, H, W]`` float32 at positions u and v, which may be unknown."""
    u, v, known = position
    known = known & u.isfinite() & v.isfinite()
    # There are no texels outside of these limits.
    u, v = u.nan_to_num().clamp(-2.0, 2.0**31), v.nan_to_num().clamp(-2.0, 2.0**31)
    i, j, fu, fv = u.floor().long(), v.floor().long(), (u - u.floor()).float(), (v - v.floor()).float()
    border = entries["border"][:, None, None]
    start, h, w = (level[name][:, None, None] for name in ("first_texel", "height", "width"))
    out = torch.zeros(len(entries), 4, *i.shape[1:], device=i.device)
    for dj in (0, 1):
        for di in (0, 1):
            column, row = i + di, j + dj
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            inside = known & (inside | (border != TRANSPARENT))
            repeat = border == REPEAT
            column = torch.where(repeat, column % w.clamp_min(1), torch.minimum(column.clamp_min(0), w - 1))
            row = torch.where(repeat, row % h.clamp_min(1), torch.minimum(row.clamp_min(0), h - 1))
            word = texels[(start + row * w + column).clamp(0, len(texels) - 1)]
            weight = (fu if di else 1 - fu) * (fv if dj else 1 - fv)
            weight = torch.where(inside, weight, 0.0)
            for c in range(4):
                byte = (word >> (8 * c)) & 255
                value = byte.float()
                if linear is not None and c < 3:
                    value = torch.where(linear[:, None, None], _light_table(byte.device)[byte.long()], value)
                out[:, c] += value * weight
    return out


def _wrapped(u: Tensor, border: Tensor, size: Tensor) -> Tensor:
    """Return positions after the border rule: inside the image, if it is without end."""
    mirrored = u.abs() % (2.0 * size)
    mirrored = torch.where(mirrored > size, 2.0 * size - mirrored, mirrored)
    return torch.where(border == REFLECT, mirrored, torch.where(border == REPEAT, u % size, u))
