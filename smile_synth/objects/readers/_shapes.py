"""``builtin:shapes``: drawn shapes of known class, colour and texture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStream
from smile_synth.io.images import UInt8
from smile_synth.objects._item import CutOut, Item, ReadOptions
from smile_synth.objects._polygons import coverage
from smile_synth.objects.readers import _drawing
from smile_synth.objects.readers._drawing import COLOURS, Float

LONG_SIDE = 96
SUPERSAMPLE = 4


def read_shapes(source: str, options: ReadOptions) -> list[Item]:
    """List one drawing of every shape, colour and texture; the shape is the class.

    Drawings vary in aspect, rotation, corner radius, hue, second tone, shading, and the texture's
    frequency, angle and phase. Each counts as its own image.
    """
    items = []
    for number, (shape, colour, texture) in enumerate(product(OUTLINES, COLOURS, TEXTURES)):
        name = f"{shape}/{colour}-{texture}"
        items.append(Item(name, (), partial(_cut, name, shape, colour, texture, options.seed, number)))
    return items


def _cut(name: str, shape: str, colour: str, texture: str, seed: int, number: int) -> Iterator[CutOut]:
    yield CutOut(
        class_name=shape,
        source=name,
        source_image=name,
        image_key=name,
        licence="CC0",
        attributes={"shape": shape, "color": colour, "texture": texture},
        rgba=_draw(shape, colour, texture, RandomStream(seed, number, "shapes")),
    )


def outline(
    shape: str, height: float, width: float, *, degrees: float = 0.0, corner: float = 0.0
) -> list[Float]:
    """Return the rings ``[N, 2]`` (x, y) of a key of OUTLINES, fitted to the box (0, 0, width, height).

    Before fitting, corners are rounded (see `rounded`), then the shape is rotated clockwise on the screen.
    """
    rings = [_drawing.turned(_drawing.rounded(ring, corner), degrees) for ring in OUTLINES[shape]]
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    return [(ring - low) / (high - low) * [width, height] for ring in rings]


def _draw(shape: str, colour: str, texture: str, rng: RandomStream) -> UInt8:
    aspect = math.exp(rng.uniform(-0.3, 0.3))
    height = round(LONG_SIDE * min(1.0, 1.0 / aspect))
    width = round(LONG_SIDE * min(1.0, aspect))
    rings = outline(shape, height, width, degrees=rng.uniform(-12, 12), corner=rng.uniform(0.02, 0.2))

    hue, saturation, value = COLOURS[colour]
    hue += rng.uniform(-_drawing.HUE_JITTER_DEGREES, _drawing.HUE_JITTER_DEGREES)
    first = _drawing.rgb_of(hue, saturation, value * rng.uniform(0.92, 1.0))
    second = first * 0.4 if rng.random() < 0.5 else 0.3 * first + 0.7 * 255
    share = TEXTURES[texture](height, width, rng)[..., None]
    rgb = (first * (1 - share) + second * share) * _drawing.light(height, width, rng, least=0.1)
    return _drawing.rgba_of(rgb, coverage(rings, height, width))


def _arc(radius: float, start: float, end: float, center: tuple[float, float] = (0.0, 0.0)) -> Float:
    angles = np.radians(np.arange(start, end, 3.0 if end > start else -3.0))
    return np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)


def _spikes(corners: int, inner: float = 1.0) -> Float:
    """Return corners on a circle, the first on top, every second one at the radius ``inner``."""
    number = np.arange(corners)
    angles = 2 * np.pi * number / corners - np.pi / 2
    radius = np.where(number % 2, inner, 1.0)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _heart() -> Float:
    t = 2 * np.pi * np.arange(120) / 120
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _drop() -> Float:
    t = 2 * np.pi * np.arange(120) / 120
    return np.stack([0.72 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], axis=1)


# y points down, any unit; the first ring is the outer one, a second one is a hole.
_A = 0.34
OUTLINES: dict[str, list[Float]] = {
    "arrow": [np.array([[-1, -0.4], [0.1, -0.4], [0.1, -1], [1, 0], [0.1, 1], [0.1, 0.4], [-1, 0.4]])],
    "circle": [_arc(1, 0, 360)],
    "crescent": [np.concatenate([_arc(1, 57, 304), _arc(0.85, 280, 79, (0.4, 0.0))])],
    "cross": [
        np.array(
            [[-_A, -1], [_A, -1], [_A, -_A], [1, -_A], [1, _A], [_A, _A]]
            + [[_A, 1], [-_A, 1], [-_A, _A], [-1, _A], [-1, -_A], [-_A, -_A]]
        )
    ],
    "drop": [_drop()],
    "heart": [_heart()],
    "hexagon": [_spikes(6)],
    "ring": [_arc(1, 0, 360), _arc(0.55, 0, 360)],
    "semicircle": [_arc(1, 180, 361)],
    "square": [np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])],
    "star": [_spikes(10, inner=0.45)],
    "triangle": [_spikes(3)],
}


# A texture returns the share of the second tone in each pixel, [height, width] in 0..1.
def _plain(height: int, width: int, rng: RandomStream) -> Float:
    return np.zeros((height, width))


def _striped(height: int, width: int, rng: RandomStream) -> Float:
    u, _ = _turned_grid(height, width, rng, cycles=(4, 8))
    return _area_mean(u - np.floor(u) < 0.5)


def _checked(height: int, width: int, rng: RandomStream) -> Float:
    u, v = _turned_grid(height, width, rng, cycles=(3, 5))
    return _area_mean((np.floor(2 * u) + np.floor(2 * v)) % 2 > 0)


def _dotted(height: int, width: int, rng: RandomStream) -> Float:
    u, v = _turned_grid(height, width, rng, cycles=(5, 8))
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return _area_mean(du * du + dv * dv < rng.uniform(0.27, 0.36) ** 2)


def _noisy(height: int, width: int, rng: RandomStream) -> Float:
    return _drawing.value_noise(height, width, rng, LONG_SIDE)


TEXTURES: dict[str, Callable[[int, int, RandomStream], Float]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "noisy": _noisy,
}


def _turned_grid(
    height: int, width: int, rng: RandomStream, *, cycles: tuple[float, float]
) -> tuple[Float, Float]:
    """Return supersampled coordinates (u, v), rotated and shifted, in cycles of the texture."""
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(*cycles) / LONG_SIDE
    cos, sin = frequency * math.cos(angle), frequency * math.sin(angle)
    x = (np.arange(width * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    y = ((np.arange(height * SUPERSAMPLE) + 0.5) / SUPERSAMPLE)[:, None]
    return cos * x + sin * y + rng.random(), cos * y - sin * x + rng.random()


def _area_mean(mask: NDArray[np.bool_]) -> Float:
    height, width = mask.shape[0] // SUPERSAMPLE, mask.shape[1] // SUPERSAMPLE
    mean: Float = mask.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE).mean(axis=(1, 3))
    return mean
