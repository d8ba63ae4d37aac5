"""The oracle: plain NumPy, float64, whole frames. Slow, simple, and the reference for every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, philox_word
from smile_synth.core import geometry
from smile_synth.core.appearance import (
    feathered,
    interpolate_poses,
    premultiply_in_linear_light,
    shadow_margin,
    shadow_texture,
    shutter_times,
    to_linear,
    to_srgb,
)
from smile_synth.core.coverage import THRESHOLD
from smile_synth.core.texture import Texture
from smile_synth.scene import Noise, Scene, Solid, StoredImage, noise_cells, texture_of
from smile_synth.sources import Sources

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def composite_oracle(
    scene: Scene, sources: Sources, frame_range: range
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return frames ``[T, H, W, 3]`` and owners ``[T, H, W]``: the number of a labelled object, or 0.

    In each subframe, layers are blended back to front, with premultiplied "over". A frame is the average of
    its subframes, converted to sRGB if ``linear_light``, with grain added, and rounded half up.
    """
    height, width = scene.size_hw
    rows, columns = np.mgrid[0:height, 0:width]
    centers = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=-1)
    poses = interpolate_poses(scene.object_to_frame, shutter_times(scene.appearance))
    samples = poses.shape[2]
    frames = np.empty((len(frame_range), height, width, 3), np.uint8)
    owners = np.empty((len(frame_range), height, width), np.int16)
    for i, t in enumerate(frame_range):
        rendered = [_render_subframe(scene, t, poses[:, t, s], centers, sources) for s in range(samples)]
        image = np.mean([colors for colors, _ in rendered], axis=0)
        if scene.appearance.linear_light:
            image = 255 * to_srgb(np.clip(image / 255, 0, 1))
        if scene.appearance.grain:
            image = np.clip(image + 255 * scene.appearance.grain * _grain(scene, t, centers), 0, 255)
        frames[i] = np.floor(image + 0.5).reshape(height, width, 3)
        owners[i] = rendered[samples // 2][1].reshape(height, width)
    return frames, owners


def _render_subframe(
    scene: Scene, t: int, poses: Float, centers: Float, sources: Sources
) -> tuple[Float, Int]:
    """Return colours ``[P, 3]`` 0..255 and owners ``[P]`` at points ``[P, 2]`` for poses ``[L, 3, 3]``."""
    numbers = np.cumsum([layer.labelled for layer in scene.layers])
    image, owner = np.zeros((len(centers), 3)), np.zeros(len(centers), np.int64)
    for k in reversed(scene.front_to_back(t)):
        layer, opacity = scene.layers[k], scene.opacity[k, t]
        if layer.shadow is not None:
            shadow = _shadow_alpha(scene, k, t, poses[k], centers, sources)
            image = image * (1 - layer.shadow.strength * opacity * shadow)
        color, alpha = _sample_layer(scene, k, t, poses[k], centers, sources)
        if scene.appearance.noise_key is not None:
            alpha = np.where(alpha >= THRESHOLD, 1.0, 0.0)
            points = geometry.apply(geometry.invert(poses[k]), centers) @ noise_cells(scene)[k].T
            noise = _noise(points, k, scene.appearance.noise_key)
            color = alpha * _light(noise, scene.appearance.linear_light)
        color = np.clip(scene.gain[k, t] * color + scene.bias[k, t] * 255 * alpha, 0, 255 * alpha)
        if scene.gamma is not None:
            full = 255 * np.where(alpha > 0, alpha, 1)
            color = (color / full) ** scene.gamma[k, t] * full
        image = color * opacity + image * (1 - alpha * opacity)
        owner[alpha[:, 0] * opacity >= THRESHOLD] = numbers[k] if layer.labelled else 0
    return image, owner


def _sample_layer(
    scene: Scene, k: int, t: int, pose: Float, centers: Float, sources: Sources
) -> tuple[Float, Float]:
    """Return premultiplied colour ``[P, 3]`` (0..255) and alpha ``[P, 1]`` (0..1) at points ``[P, 2]``."""
    layer, surface, linear_light = scene.layers[k], scene.layers[k].surface, scene.appearance.linear_light
    opaque = np.ones((len(centers), 1))
    if isinstance(surface, Solid):
        return _light(np.array(surface.rgb, np.float64) * opaque, linear_light), opaque
    points = geometry.apply(geometry.invert(pose), centers)
    if isinstance(surface, Noise):
        return _light(_noise(points, t if surface.redrawn else 0, surface.key), linear_light), opaque
    texture = texture_of(surface, sources, t)
    if layer.feather:
        texture = feathered(texture, layer.feather)
    if linear_light:
        texture = premultiply_in_linear_light(texture)
    rgba = _trilinear(texture, scene.level[k, t], points, layer.border, linear_light)
    return rgba[:, :3], rgba[:, 3:] / 255


def _noise(points: Float, frame: int, key: tuple[int, int]) -> Float:
    """Return uniform noise ``[P, 3]`` 0..255 of the cells of points ``[P, 2]``, each of side 1."""
    column, row = np.floor(np.nan_to_num(points)).astype(np.int64).T & 0xFFFFFFFF
    words = [philox_word(column, row, frame, c, *key) for c in range(3)]
    return np.asarray((np.stack(words, axis=-1) >> 24).astype(np.float64))


def _shadow_alpha(scene: Scene, k: int, t: int, pose: Float, centers: Float, sources: Sources) -> Float:
    """Return the alpha 0..1 ``[P, 1]`` of a layer's shadow."""
    layer, shadow = scene.layers[k], scene.layers[k].shadow
    assert shadow is not None and isinstance(layer.surface, StoredImage)
    texture = texture_of(layer.surface, sources)
    if layer.feather:
        texture = feathered(texture, layer.feather)
    scale = np.array(scene.size_hw[::-1]) / np.array(scene.recipe_size_hw[::-1])
    margin = shadow_margin(shadow.blur)
    pose = geometry.compose(
        geometry.translation(np.array(shadow.offset_xy) * scale),
        pose,
        geometry.translation([-margin, -margin]),
    )
    points = geometry.apply(geometry.invert(pose), centers)
    rgba = _trilinear(shadow_texture(texture, shadow.blur), scene.level[k, t], points, "transparent", False)
    return rgba[:, 3:] / 255


def _grain(scene: Scene, t: int, centers: Float) -> Float:
    """Return noise ``[P, 3]``: sums of the four bytes of random words, with mean 0 and deviation 1."""
    cells = np.floor(centers * (np.array(scene.recipe_size_hw[::-1]) / np.array(scene.size_hw[::-1])))
    column, row = cells.astype(np.int64).T
    words = [philox_word(column, row, t, c, *scene.appearance.grain_key) for c in range(3)]
    total = sum((np.stack(words, axis=-1) >> shift) & 255 for shift in (0, 8, 16, 24))
    return np.asarray((total - GRAIN_MEAN) / GRAIN_DEVIATION)


def _light(values: Float, linear_light: bool) -> Float:
    """Convert sRGB values 0..255 to linear light 0..255 if ``linear_light``, else return them."""
    return 255 * to_linear(values / 255) if linear_light else values


def _trilinear(texture: Texture, level: float, points: Float, border: str, linear_light: bool) -> Float:
    """Sample two neighbouring mip levels at points in level-0 texels; returns ``[P, 4]`` (0..255)."""
    low = int(level)
    mix = level - low
    rgba = (1 - mix) * _bilinear(texture, low, points, border, linear_light)
    if mix > 0:
        rgba += mix * _bilinear(texture, low + 1, points, border, linear_light)
    rgba[np.isnan(points).any(axis=1)] = 0  # beyond the horizon
    return rgba


def _bilinear(texture: Texture, level: int, points: Float, border: str, linear_light: bool) -> Float:
    """Sample one mip level at points in level-0 texels; returns ``[P, 4]`` (0..255)."""
    texels = texture.level(level).astype(np.float64)
    texels[..., :3] = _light(texels[..., :3], linear_light)
    h, w = texels.shape[:2]
    u, v = np.nan_to_num(points[:, 0]), np.nan_to_num(points[:, 1])
    if border == "reflect":
        u, v = _mirrored(u, texture.width), _mirrored(v, texture.height)
    elif border == "repeat":
        u, v = u % texture.width, v % texture.height
    u, v = u / 2**level - 0.5, v / 2**level - 0.5
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    out = np.zeros((len(points), 4))
    for dj in (0, 1):
        for di in (0, 1):
            weight = (u - i if di else 1 - (u - i)) * (v - j if dj else 1 - (v - j))
            column, row = i + di, j + dj
            if border == "repeat":
                column, row = column % w, row % h
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            if border == "reflect":
                inside = np.ones_like(inside)
            texel = texels[np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)]
            out += np.where(inside[:, None], texel, 0) * weight[:, None]
    return out


def _mirrored(u: Float, size: int) -> Float:
    """Mirror a coordinate at 0 and ``size`` until it is between them."""
    u = np.abs(u) % (2 * size)
    return np.where(u > size, 2 * size - u, u)
