"""Looks: what a clip's exposure, its light and its objects' edges do to textures and to time.

None of them draws anything: the scene holds what was drawn, and textures and poses follow from it here, once
for all backends and for the labels.
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
    """How a clip as a whole is exposed; as it stands, plainly.

    Attributes:
        shutter: share of a frame's time, 0..1, that the shutter is open, its middle at the frame itself.
        shutter_samples: subframes of that time whose images are averaged, odd; the middle one is the frame.
        linear_light: textures are filtered, and layers blended, in linear light instead of sRGB values.
        grain: standard deviation of the grain, as a share of full scale; 0 without.
        grain_key: two 32-bit words.
        compression: H.264 quality, 0 (best) to 51, that a written clip is damaged with; None without.
    """

    shutter: float = 0.0
    shutter_samples: int = 1
    linear_light: bool = False
    grain: float = 0.0
    grain_key: tuple[int, int] = (0, 0)
    compression: int | None = None


DEFAULT_APPEARANCE = Appearance()


@dataclass(frozen=True)
class Shadow:
    """What a layer casts on all that lies behind it.

    Attributes:
        strength: 0..1, how dark it is where it is darkest.
        offset_xy: recipe pixels from the layer to its shadow.
        blur: texels of the layer from its darkest to its end, across an edge.
    """

    strength: float
    offset_xy: tuple[float, float]
    blur: float


# --- time


def shutter_times(appearance: Appearance) -> Float:
    """Return the subframes ``[S]`` that a frame averages, in frames from its own; the middle one is 0."""
    count = appearance.shutter_samples
    return np.asarray((np.arange(count) - count // 2) * (appearance.shutter / count))


def poses_between(poses: Float, offsets: Float) -> Float:
    """Return the poses ``[L, T, S, 3, 3]`` of layers ``[L, T, 3, 3]`` at the subframes ``[S]`` of each frame.

    Number by number a parabola through the frame and its two neighbours; at either end of the clip, which
    has but one neighbour, a straight line.
    """
    slope, bend = np.zeros_like(poses), np.zeros_like(poses)
    if poses.shape[1] > 1:
        slope[:, 1:-1] = (poses[:, 2:] - poses[:, :-2]) / 2
        bend[:, 1:-1] = poses[:, 2:] / 2 - poses[:, 1:-1] + poses[:, :-2] / 2
        slope[:, 0], slope[:, -1] = poses[:, 1] - poses[:, 0], poses[:, -1] - poses[:, -2]
    d = offsets[:, None, None]
    return np.asarray(poses[:, :, None] + d * (slope[:, :, None] + d * bend[:, :, None]))


# --- light


def to_linear(srgb: Float) -> Float:
    """Return the linear light 0..1 of sRGB values 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Float) -> Float:
    """Return the sRGB values 0..1 of linear light 0..1 (IEC 61966-2-1)."""
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, bright)


# The light 0..255 of every sRGB byte.
LIGHT = 255 * to_linear(np.arange(256) / 255)


# --- textures


def in_light(texture: Texture) -> Texture:
    """Return a texture whose colours are premultiplied in linear light, and stored as sRGB bytes of that.

    Its mip levels average light. A texel's light is ``LIGHT[byte]``; alpha stays as it is.
    """
    light = np.empty((texture.height, texture.width, 4))
    texels = texture.level(0).astype(np.float64)
    alpha = texels[..., 3:]
    straight = np.divide(texels[..., :3], alpha, out=np.zeros_like(texels[..., :3]), where=alpha > 0)
    light[..., :3] = to_linear(np.minimum(straight, 1.0)) * alpha
    light[..., 3] = texels[..., 3]
    return _with_levels(light, _is_opaque(texture), True)


def feathered(texture: Texture, width: float) -> Texture:
    """Return a texture whose alpha rises from nothing at its edge to what it was ``width`` texels inside.

    Alpha becomes the lesser of itself and 2 b - 1, where b is alpha blurred by a tent of that half-width
    (nothing lies outside): 0 at a straight edge, 1 from ``width`` inside on. Parts thinner than ``width``
    fade, and no colour is needed from beyond an edge.
    """
    texels = texture.level(0).astype(np.float64)
    alpha = texels[..., 3]
    soft = np.minimum(alpha, np.maximum(2 * _blurred(alpha, width) - 255, 0.0))
    share = np.divide(soft, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    return _with_levels(texels * share[..., None], False, False)


def shadow_margin(blur: float) -> int:
    """Return by how many texels a shadow's texture is larger than its object's, on every side."""
    return int(np.ceil(blur))


def shadow_of(texture: Texture, blur: float) -> Texture:
    """Return the black texture of a shadow: alpha blurred by a tent of half-width ``blur`` texels."""
    margin = shadow_margin(blur)
    alpha = np.pad(texture.level(0)[..., 3].astype(np.float64), margin)
    black = np.zeros((*alpha.shape, 4))
    black[..., 3] = _blurred(alpha, blur)
    return _with_levels(black, False, False)


def _is_opaque(texture: Texture) -> bool:
    return bool((texture.texels[:, 3] == 255).all())


def _with_levels(level: Float, repeat_edge: bool, light: bool) -> Texture:
    """Store premultiplied values ``[H, W, 4]`` 0..255 and their mip levels; ``light`` as sRGB bytes of it."""
    height, width = level.shape[:2]
    texels = np.empty((sum(h * w for h, w in level_sizes_hw(height, width)), 4))
    fill_levels(np.ascontiguousarray(level), repeat_edge, texels, 0.0)
    if light:
        texels[:, :3] = 255 * to_srgb(texels[:, :3] / 255)
    return Texture(np.floor(texels + 0.5).astype(np.uint8), height, width)


def _blurred(values: Float, radius: float) -> Float:
    """Blur ``[H, W]`` along both axes by a tent that ends ``radius`` away; outside is nothing."""
    reach = max(int(np.ceil(radius)) - 1, 0)
    tent = np.maximum(1 - np.abs(np.arange(-reach, reach + 1)) / max(radius, 1.0), 0)
    tent /= tent.sum()
    out = np.ascontiguousarray(values)
    for _ in range(2):
        out = _along_columns(out, tent)
    return out


@kernel
def _along_columns(values: Float, weights: Float) -> Float:  # pragma: no cover - compiled
    """Weigh every row with its neighbours and return the result transposed."""
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
