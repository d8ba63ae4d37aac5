"""Shared by the readers of drawn shapes: colours, outlines, noise and light."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStream

Float = NDArray[np.float64]

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


def rgb_of(hue_degrees: float, saturation: float, value: float) -> Float:
    """Return the colour ``[3]`` in 0..255 of a hue, a saturation 0..1 and a value 0..1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue_degrees % 360 / 360, saturation, value))


def turned(ring: Float, degrees: float) -> Float:
    """Rotate points ``[N, 2]`` (x, y) about (0, 0), clockwise on the screen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points: Float = ring @ np.array([[cos, sin], [-sin, cos]])
    return points


def rounded(ring: Float, corner: float) -> Float:
    """Replace every corner by a curve; rings of more than 12 points stay as they are.

    ``corner`` is the share 0..0.5 of an edge that the curve replaces at each of its ends.
    """
    if len(ring) > 12 or corner == 0:
        return ring
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    start, end = ring + corner * (before - ring), ring + corner * (after - ring)
    t = np.linspace(0, 1, 7)[None, :, None]
    curve = (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * ring[:, None] + t**2 * end[:, None]
    points: Float = curve.reshape(-1, 2)
    return points


def value_noise(height: int, width: int, rng: RandomStream, long_side: int) -> Float:
    """Draw noise ``[H, W]`` of four octaves, scaled to 0..1; its cells are shares of ``long_side``."""
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
    scaled: Float = (total - total.min()) / (total.max() - total.min())
    return scaled


def light(height: int, width: int, rng: RandomStream, *, least: float = 0.05) -> Float:
    """Draw a linear change of brightness about 1 across the box, ``[H, W, 1]``."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(least, 0.35)
    x = (np.arange(width) + 0.5) / width - 0.5
    y = (np.arange(height) + 0.5) / height - 0.5
    return (1 + strength * (math.cos(angle) * x + math.sin(angle) * y[:, None]))[..., None]


def rgba_of(rgb: Float, alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Round RGB ``[H, W, 3]`` to uint8 and append alpha ``[H, W]``."""
    return np.dstack([np.floor(np.clip(rgb, 0, 255) + 0.5).astype(np.uint8), alpha])
