"""``builtin:shapes``: drawn shapes of known class, colour and texture."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStream
from smile_synth.objects._item import CutOut, Item, ReadOptions, Rejected, UInt8
from smile_synth.objects._outline import coverage

Float = NDArray[np.float64]
LONG_SIDE = 96
SUPERSAMPLE = 4

# Hue in degrees, saturation, value.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0, 0.85, 0.85),
    "orange": (28, 0.90, 0.95),
    "yellow": (54, 0.85, 0.95),
    "green": (120, 0.75, 0.62),
    "cyan": (184, 0.75, 0.85),
    "blue": (224, 0.80, 0.85),
    "purple": (274, 0.70, 0.70),
    "pink": (326, 0.50, 0.97),
}
HUE_JITTER_DEGREES = 6.0


@dataclass(frozen=True)
class ShapeItem:
    """One instance of a shape in a colour and a texture."""

    shape: str
    color: str
    texture: str
    seed: int
    number: int

    @property
    def source(self) -> str:
        """Its name."""
        return f"{self.shape}/{self.color}-{self.texture}"

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Draw it."""
        yield CutOut(
            class_name=self.shape,
            source=self.source,
            source_image=self.source,
            image_key=self.source,
            licence="CC0",
            attributes={"shape": self.shape, "color": self.color, "texture": self.texture},
            rgba=_draw(self.shape, self.color, self.texture, self.seed, self.number),
        )


def read_shapes(source: str, options: ReadOptions) -> list[Item]:
    """List one instance of every shape, colour and texture; the shape is the class.

    An instance varies in aspect, tilt, corner radius, hue, second tone, shading, and the texture's
    frequency, angle and phase. Each counts as an image of its own.
    """
    kinds = product(OUTLINES, COLOURS, TEXTURES)
    return [ShapeItem(*kind, options.seed, number) for number, kind in enumerate(kinds)]


def outline(
    shape: str, height: float, width: float, *, degrees: float = 0.0, corner: float = 0.0
) -> list[Float]:
    """Return a shape's rings ``[N, 2]`` (x, y), turned, fitted to the box (0, 0, width, height).

    Args:
        shape: a key of OUTLINES.
        height: of the box in pixels.
        width: of the box in pixels.
        degrees: turn, clockwise on the screen, before fitting.
        corner: share of an edge, 0..0.5, that each end of it gives to the rounding of its corner.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = [_rounded(ring, corner) @ np.array([[cos, sin], [-sin, cos]]) for ring in OUTLINES[shape]]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    return [(ring - low) / (high - low) * [width, height] for ring in turned]


def _draw(shape: str, colour: str, texture: str, seed: int, number: int) -> UInt8:
    rng = RandomStream(seed, number, "shapes")
    aspect = math.exp(rng.uniform(-0.3, 0.3))
    height = round(LONG_SIDE * min(1.0, 1.0 / aspect))
    width = round(LONG_SIDE * min(1.0, aspect))
    rings = outline(shape, height, width, degrees=rng.uniform(-12, 12), corner=rng.uniform(0.02, 0.2))

    hue, saturation, value = COLOURS[colour]
    hue = (hue + rng.uniform(-HUE_JITTER_DEGREES, HUE_JITTER_DEGREES)) % 360 / 360
    first = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value * rng.uniform(0.92, 1.0)))
    second = first * 0.4 if rng.random() < 0.5 else 0.3 * first + 0.7 * 255
    share = TEXTURES[texture](height, width, rng)[..., None]

    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.35)
    x = (np.arange(width) + 0.5) / width - 0.5
    y = (np.arange(height) + 0.5) / height - 0.5
    light = 1 + strength * (math.cos(angle) * x + math.sin(angle) * y[:, None])
    rgb = np.clip((first * (1 - share) + second * share) * light[..., None], 0, 255)
    return np.dstack([np.floor(rgb + 0.5).astype(np.uint8), coverage(rings, height, width)])


def _arc(radius: float, start: float, end: float, center: tuple[float, float] = (0.0, 0.0)) -> Float:
    angles = np.radians(np.arange(start, end, 3.0 if end > start else -3.0))
    return np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)


def _spikes(corners: int, inner: float = 1.0) -> Float:
    """A corner on top; every other one at the radius ``inner``."""
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


# y down, any unit; the first ring is the outer one, a second one is a hole.
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


def _rounded(ring: Float, corner: float) -> Float:
    if len(ring) > 12 or corner == 0:  # already curved
        return ring
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    start, end = ring + corner * (before - ring), ring + corner * (after - ring)
    t = np.linspace(0, 1, 7)[None, :, None]
    curve = (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * ring[:, None] + t**2 * end[:, None]
    rounded: Float = curve.reshape(-1, 2)
    return rounded


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


def _noisy(height: int, width: int, rng: RandomStream, long_side: int = LONG_SIDE) -> Float:
    """Value noise in four octaves, spread over 0..1; its cells are shares of ``long_side``."""
    total = np.zeros((height, width))
    for octave in range(4):
        cells = rng.uniform(3.5, 5.5) * 2**octave
        size = math.ceil(cells) + 2
        values = rng.randoms(size, size)
        y = (np.arange(height) + 0.5) / long_side * cells
        x = (np.arange(width) + 0.5) / long_side * cells
        row, column = np.floor(y).astype(int), np.floor(x).astype(int)
        fy, fx = (y - row)[:, None], x - column
        top = values[np.ix_(row, column)] * (1 - fx) + values[np.ix_(row, column + 1)] * fx
        bottom = values[np.ix_(row + 1, column)] * (1 - fx) + values[np.ix_(row + 1, column + 1)] * fx
        total += (top * (1 - fy) + bottom * fy) / 1.5**octave
    spread: Float = (total - total.min()) / (total.max() - total.min())
    return spread


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
    """Return supersampled coordinates (u, v), turned and shifted, in cycles of the texture."""
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(*cycles) / LONG_SIDE
    cos, sin = frequency * math.cos(angle), frequency * math.sin(angle)
    x = (np.arange(width * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    y = ((np.arange(height * SUPERSAMPLE) + 0.5) / SUPERSAMPLE)[:, None]
    return cos * x + sin * y + rng.random(), cos * y - sin * x + rng.random()


def _area_mean(mask: NDArray[np.bool_]) -> Float:
    height, width = mask.shape[0] // SUPERSAMPLE, mask.shape[1] // SUPERSAMPLE
    mean: Float = mask.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE).mean(axis=(1, 3))
    return mean
