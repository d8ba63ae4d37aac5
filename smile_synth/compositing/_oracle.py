"""The oracle: plain NumPy, float64, whole frames, slow and obvious. Every backend is checked against it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, philox_word_numpy
from smile_synth.core import geometry
from smile_synth.core.appearance import (
    feathered,
    in_light,
    poses_between,
    shadow_margin,
    shadow_of,
    shutter_times,
    to_linear,
    to_srgb,
)
from smile_synth.core.texture import Texture
from smile_synth.scene import Noise, Scene, Solid, StoredImage, texture_of
from smile_synth.sources import Sources

Float = NDArray[np.float64]


def composite_oracle(scene: Scene, sources: Sources, chosen: range) -> NDArray[np.uint8]:
    """Render chosen frames ``[T, H, W, 3]`` uint8: back to front, premultiplied "over", round half up."""
    height, width = scene.size_hw
    rows, columns = np.mgrid[0:height, 0:width]
    centers = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=-1)
    poses = poses_between(scene.object_to_frame, shutter_times(scene.appearance))
    frames = np.empty((len(chosen), height, width, 3), np.uint8)
    for place, t in enumerate(chosen):
        subframes = [_subframe(scene, t, poses[:, t, s], centers, sources) for s in range(poses.shape[2])]
        image = np.mean(subframes, axis=0)
        if scene.appearance.linear_light:
            image = 255 * to_srgb(np.clip(image / 255, 0, 1))
        if scene.appearance.grain:
            image = np.clip(image + 255 * scene.appearance.grain * _grain(scene, t, centers), 0, 255)
        frames[place] = np.floor(image + 0.5).astype(np.uint8).reshape(height, width, 3)
    return frames


def _subframe(scene: Scene, t: int, poses: Float, centers: Float, sources: Sources) -> Float:
    """Return the colours ``[P, 3]`` 0..255 at points ``[P, 2]`` while the layers have poses ``[L, 3, 3]``."""
    image = np.zeros((len(centers), 3))
    for layer in reversed(scene.front_to_back(t)):
        opacity, shadow = scene.opacity[layer, t], scene.layers[layer].shadow
        if shadow is not None:
            alpha = _shadow(scene, layer, t, poses[layer], centers, sources)
            image = image * (1 - shadow.strength * opacity * alpha)
        color, alpha = _sample_layer(scene, layer, t, poses[layer], centers, sources)
        color = scene.gain[layer, t] * color + scene.bias[layer, t] * 255 * alpha
        color = np.clip(color, 0, 255 * alpha)
        if scene.gamma is not None:
            full = 255 * np.where(alpha > 0, alpha, 1)
            color = (color / full) ** scene.gamma[layer, t] * full
        image = color * opacity + image * (1 - alpha * opacity)
    return image


def _shadow(scene: Scene, layer: int, t: int, pose: Float, centers: Float, sources: Sources) -> Float:
    """Return the alpha 0..1 ``[P, 1]`` of a layer's shadow."""
    cut_out, shadow = scene.layers[layer], scene.layers[layer].shadow
    assert shadow is not None and isinstance(cut_out.surface, StoredImage)
    texture = texture_of(cut_out.surface, sources)
    if cut_out.feather:
        texture = feathered(texture, cut_out.feather)
    scale = np.array(scene.size_hw[::-1]) / np.array(scene.recipe_size_hw[::-1])
    margin = shadow_margin(shadow.blur)
    pose = geometry.compose(
        geometry.translation(np.array(shadow.offset_xy) * scale),
        pose,
        geometry.translation([-margin, -margin]),
    )
    points = geometry.apply(geometry.invert(pose), centers)
    return (
        _mixed(shadow_of(texture, shadow.blur), scene.level[layer, t], points, "transparent", False)[:, 3:]
        / 255
    )


def _grain(scene: Scene, t: int, centers: Float) -> Float:
    """Return noise ``[P, 3]`` of mean 0 and deviation 1: the sum of a word's four bytes."""
    cells = np.floor(centers * (np.array(scene.recipe_size_hw[::-1]) / np.array(scene.size_hw[::-1])))
    column, row = cells.astype(np.int64).astype(np.uint64).T
    words = [philox_word_numpy((column, row, t, c), scene.appearance.grain_key) for c in range(3)]
    total = sum((np.stack(words, axis=-1) >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24))
    return np.asarray((total - GRAIN_MEAN) / GRAIN_DEVIATION)


def _sample_layer(
    scene: Scene,
    layer: int,
    t: int,
    pose: Float,
    centers: Float,
    sources: Sources,
) -> tuple[Float, Float]:
    """Return premultiplied colour ``[P, 3]`` (0..255) and alpha ``[P, 1]`` (0..1) at points ``[P, 2]``."""
    surface, linear_light = scene.layers[layer].surface, scene.appearance.linear_light
    opaque = np.ones((len(centers), 1))
    if isinstance(surface, Solid):
        return _light(np.array(surface.rgb, np.float64) * opaque, linear_light), opaque
    points = geometry.apply(geometry.invert(pose), centers)
    if isinstance(surface, Noise):
        cells = np.floor(points).astype(np.int64).astype(np.uint64) & np.uint64(0xFFFFFFFF)
        frame = t if surface.redrawn else 0
        words = [philox_word_numpy((cells[:, 0], cells[:, 1], frame, c), surface.key) for c in range(3)]
        return _light((np.stack(words, axis=-1) >> np.uint64(24)).astype(np.float64), linear_light), opaque
    texture = texture_of(surface, sources, t)
    if scene.layers[layer].feather:
        texture = feathered(texture, scene.layers[layer].feather)
    if linear_light:
        texture = in_light(texture)
    rgba = _mixed(texture, scene.level[layer, t], points, scene.layers[layer].border, linear_light)
    return rgba[:, :3], rgba[:, 3:] / 255


def _light(values: Float, linear_light: bool) -> Float:
    """Return sRGB values 0..255 as they are, or as light 0..255."""
    return 255 * to_linear(values / 255) if linear_light else values


def _mixed(texture: Texture, level: float, points: Float, border: str, linear_light: bool) -> Float:
    """Sample two neighbouring mip levels at points in level-0 texels; returns ``[P, 4]`` (0..255)."""
    low = int(level)
    mix = level - low
    rgba = (1 - mix) * _bilinear(texture, low, points, border, linear_light)
    if mix > 0:
        rgba += mix * _bilinear(texture, low + 1, points, border, linear_light)
    rgba[np.isnan(points).any(axis=1)] = 0  # behind the horizon there is nothing
    return rgba


def _bilinear(texture: Texture, level: int, points: Float, border: str, linear_light: bool) -> Float:
    """Sample one mip level at points in level-0 texels; returns ``[P, 4]`` (0..255)."""
    texels = texture.level(level).astype(np.float64)
    texels[..., :3] = _light(texels[..., :3], linear_light)
    h, w = texels.shape[:2]
    u, v = np.nan_to_num(points[:, 0]), np.nan_to_num(points[:, 1])
    if border == "reflect":
        u, v = _fold(u, texture.width), _fold(v, texture.height)
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
            tap = texels[np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)]
            out += np.where(inside[:, None], tap, 0) * weight[:, None]
    return out


def _fold(u: Float, size: int) -> Float:
    """Mirror a coordinate at 0 and ``size`` until it lies between them."""
    u = np.abs(u) % (2 * size)
    return np.where(u > size, 2 * size - u, u)
