"""The oracle: plain NumPy, float64, whole frames, slow and obvious. Every backend is checked against it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth import geometry
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing._philox import philox_word_numpy
from smile_synth.objects import ObjectBank
from smile_synth.scene import Noise, Scene, Solid, texture_of
from smile_synth.texture import Texture

Float = NDArray[np.float64]


def composite_oracle(
    scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None, chosen: range
) -> NDArray[np.uint8]:
    """Render chosen frames ``[T, H, W, 3]`` uint8: back to front, premultiplied "over", round half up."""
    height, width = scene.size_hw
    rows, columns = np.mgrid[0:height, 0:width]
    centers = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=-1)
    frames = np.empty((len(chosen), height, width, 3), np.uint8)
    for place, t in enumerate(chosen):
        picture = np.zeros((height * width, 3))
        for layer in reversed(scene.front_to_back(t)):
            color, alpha = _sample_layer(scene, layer, t, centers, bank, backgrounds)
            color = scene.gain[layer, t] * color + scene.bias[layer, t] * 255 * alpha
            color = np.clip(color, 0, 255 * alpha) * scene.opacity[layer, t]
            alpha = alpha * scene.opacity[layer, t]
            picture = color + picture * (1 - alpha)
        frames[place] = np.floor(picture + 0.5).astype(np.uint8).reshape(height, width, 3)
    return frames


def _sample_layer(
    scene: Scene, layer: int, t: int, centers: Float, bank: ObjectBank, backgrounds: BackgroundFolder | None
) -> tuple[Float, Float]:
    """Return premultiplied colour ``[P, 3]`` (0..255) and alpha ``[P, 1]`` (0..1) at points ``[P, 2]``."""
    surface = scene.layers[layer].surface
    opaque = np.ones((len(centers), 1))
    if isinstance(surface, Solid):
        return np.array(surface.rgb, np.float64) * opaque, opaque
    inverse = geometry.invert(scene.object_to_frame[layer, t])
    points = geometry.apply(inverse, centers)
    if isinstance(surface, Noise):
        cells = np.floor(points).astype(np.int64).astype(np.uint64) & np.uint64(0xFFFFFFFF)
        frame = t if surface.redrawn else 0
        words = [philox_word_numpy((cells[:, 0], cells[:, 1], frame, c), surface.key) for c in range(3)]
        return (np.stack(words, axis=-1) >> np.uint64(24)).astype(np.float64), opaque
    texture = texture_of(surface, bank, backgrounds, t)
    border = scene.layers[layer].border
    low = int(scene.level[layer, t])
    mix = scene.level[layer, t] - low
    rgba = (1 - mix) * _bilinear(texture, low, points, border)
    if mix > 0:
        rgba += mix * _bilinear(texture, low + 1, points, border)
    rgba[np.isnan(points).any(axis=1)] = 0  # behind the horizon there is nothing
    return rgba[:, :3], rgba[:, 3:] / 255


def _bilinear(texture: Texture, level: int, points: Float, border: str) -> Float:
    """Sample one mip level at points in level-0 texels; returns ``[P, 4]`` (0..255)."""
    texels = texture.level(level).astype(np.float64)
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
