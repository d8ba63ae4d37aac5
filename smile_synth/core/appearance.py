"""Camera effects of a clip, and soft edges and shadows of its objects, as textures and poses.

The scene holds the drawn values. This module computes the textures and poses from them, in one place for all
backends and for the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.compile import kernel
from smile_synth.core.texture import Texture, fill_levels, level_sizes_hw

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Appearance:
    """Camera effects of a whole clip. The default values change nothing.

    Attributes:
        shutter: share of the time between two frames, 0..1, during which the shutter is open. The frame is in
            the middle of that time.
        shutter_samples: number of subframes that are averaged, odd; the middle one is the frame itself.
        linear_light: filter textures and blend layers in linear light instead of sRGB values.
        grain: standard deviation of the grain, as a share of full scale; 0: no grain.
        grain_key: two 32-bit words, the key of the grain's random numbers.
        noise_key: two 32-bit words, the key of the noise that every layer shows instead of its colours; None:
            its colours.
    """

    shutter: float = 0.0
    shutter_samples: int = 1
    linear_light: bool = False
    grain: float = 0.0
    grain_key: tuple[int, int] = (0, 0)
    noise_key: tuple[int, int] | None = None


DEFAULT_APPEARANCE = Appearance()


@dataclass(frozen=True)
class Shadow:
    """The shadow that a layer casts on all layers behind it.

    Attributes:
        strength: opacity of the shadow's core, 0..1.
        offset_xy: offset of the shadow from its layer, in recipe pixels.
        blur: half the width of the shadow's edge, in texels of the layer.
    """

    strength: float
    offset_xy: tuple[float, float]
    blur: float


# --- time


def shutter_times(appearance: Appearance) -> Float:
    """Return the times ``[S]`` of subframes, in frames relative to their frame; the middle one is 0."""
    count = appearance.shutter_samples
    return np.asarray((np.arange(count) - count // 2) * (appearance.shutter / count))


def interpolate_poses(poses: Float, offsets: Float) -> Float:
    """Interpolate poses ``[L, T, 3, 3]`` at times ``[S]`` around every frame; returns ``[L, T, S, 3, 3]``.

    Each matrix entry follows a parabola through the frame and its two neighbours. The first and the last
    frame have one neighbour, so a straight line is used there.
    """
    slope, bend = np.zeros_like(poses), np.zeros_like(poses)
    if poses.shape[1] > 1:
        slope[:, 1:-1] = (poses[:, 2:] - poses[:, :-2]) / 2
        bend[:, 1:-1] = poses[:, 2:] / 2 - poses[:, 1:-1] + poses[:, :-2] / 2
        slope[:, 0], slope[:, -1] = poses[:, 1] - poses[:, 0], poses[:, -1] - poses[:, -2]
    d = offsets[:, None, None]
    return np.asarray(poses[:, :, None] + d * (slope[:, :, None] + d * bend[:, :, None]))


# --- linear light


def to_linear(srgb: Float) -> Float:
    """Return the linear light 0..1 of sRGB values 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Float) -> Float:
    """Return the sRGB values 0..1 of linear light 0..1 (IEC 61966-2-1)."""
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, bright)


# The linear light 0..255 of every sRGB byte.
LIGHT = 255 * to_linear(np.arange(256) / 255)


# --- textures


def premultiply_in_linear_light(texture: Texture) -> Texture:
    """Return a texture whose colours are premultiplied in linear light and stored as sRGB bytes.

    ``LIGHT[byte]`` is the premultiplied linear light. Mip levels average linear light. Alpha is unchanged.
    """
    light = np.empty((texture.height, texture.width, 4))
    texels = texture.level(0).astype(np.float64)
    alpha = texels[..., 3:]
    straight = np.divide(texels[..., :3], alpha, out=np.zeros_like(texels[..., :3]), where=alpha > 0)
    light[..., :3] = to_linear(np.minimum(straight, 1.0)) * alpha
    light[..., 3] = texels[..., 3]
    opaque = bool((texture.texels[:, 3] == 255).all())
    return _with_mip_levels(light, repeat_edge=opaque, linear_light=True)


def feathered(texture: Texture, width: float) -> Texture:
    """Return a texture with a soft edge: alpha rises from 0 at the edge to full over ``width`` texels.

    Alpha becomes min(alpha, 2 b - 1), where b is alpha blurred by a tent filter of half-width ``width``, with
    zeros outside the texture. At a straight edge this is 0, and ``width`` texels inside it is 1. Parts
    thinner than ``width`` fade. Alpha only falls, so that no colour from outside the edge is needed.
    """
    texels = texture.level(0).astype(np.float64)
    alpha = texels[..., 3]
    soft = np.minimum(alpha, np.maximum(2 * _blurred(alpha, width) - 255, 0.0))
    share = np.divide(soft, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    return _with_mip_levels(texels * share[..., None])


def shadow_margin(blur: float) -> int:
    """Return the number of texels by which a shadow's texture exceeds its object's texture on each side."""
    return int(np.ceil(blur))


def shadow_texture(texture: Texture, blur: float) -> Texture:
    """Return the black texture of a shadow: alpha blurred by a tent filter of half-width ``blur`` texels."""
    margin = shadow_margin(blur)
    alpha = np.pad(texture.level(0)[..., 3].astype(np.float64), margin)
    black = np.zeros((*alpha.shape, 4))
    black[..., 3] = _blurred(alpha, blur)
    return _with_mip_levels(black)


def _with_mip_levels(level: Float, *, repeat_edge: bool = False, linear_light: bool = False) -> Texture:
    """Return a texture of premultiplied values ``[H, W, 4]`` 0..255, with mip levels.

    With ``linear_light``, colours are converted from linear light to sRGB bytes.
    """
    height, width = level.shape[:2]
    texels = np.empty((sum(h * w for h, w in level_sizes_hw(height, width)), 4))
    fill_levels(np.ascontiguousarray(level), repeat_edge, texels, 0.0)
    if linear_light:
        texels[:, :3] = 255 * to_srgb(texels[:, :3] / 255)
    return Texture(np.floor(texels + 0.5).astype(np.uint8), height, width)


def _blurred(values: Float, radius: float) -> Float:
    """Blur ``[H, W]`` along both axes by a tent filter of half-width ``radius``, with zeros outside."""
    reach = max(int(np.ceil(radius)) - 1, 0)
    tent = np.maximum(1 - np.abs(np.arange(-reach, reach + 1)) / max(radius, 1.0), 0)
    tent /= tent.sum()
    out = np.ascontiguousarray(values)
    for _ in range(2):
        out = _along_columns(out, tent)
    return out


@kernel
def _along_columns(values: Float, weights: Float) -> Float:  # pragma: no cover - compiled
    """Filter along columns and return the result transposed."""
    h, w = values.shape
    reach = len(weights) // 2
    out = np.zeros((w, h))
    row = np.empty(w)
    for y in range(h):
        row[:] = 0.0
        for k in range(max(-reach, -y), min(reach, h - 1 - y) + 1):
            for x in range(w):
                row[x] += weights[k + reach] * values[y + k, x]
        out[:, y] = row
    return out
