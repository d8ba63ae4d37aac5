"""Generate background images: coloured 1/f noise, dead leaves and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.rng import RandomStream
from smile_synth.core.texture import Texture

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float64]


def _noise(size: int, exponent: float, *, rng: RandomStream) -> Float:
    """Draw a periodic image ``[S, S]`` in 0..1 whose amplitude falls as 1 / frequency^exponent."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.normals(size, size)) / frequency**exponent
    spectrum[0, 0] = 0.0
    image: Float = np.fft.irfft2(spectrum, s=(size, size))
    image = (image - image.min()) / (image.max() - image.min())
    return image


def one_over_f(size: int, *, rng: RandomStream, exponent: float | None = None) -> UInt8:
    """Draw coloured 1/f noise ``[S, S, 3]``, periodic; amplitudes fall as 1 / frequency^exponent.

    By default the exponent is drawn from 1.0 to 1.8; natural images have 1.2 to 1.4.
    """
    if exponent is None:
        exponent = rng.uniform(1.0, 1.8)
    common = _noise(size, exponent, rng=rng)
    channels = np.stack([_noise(size, exponent, rng=rng) for _ in range(3)], axis=-1)
    mixed = 0.6 * common[..., None] + 0.4 * channels
    low, high = np.sort(rng.uniforms(0, 255, 2, 3), axis=0)
    return np.asarray((low + mixed * (high - low)).round(), np.uint8)


def gradient(size: int, *, rng: RandomStream) -> UInt8:
    """Draw a smooth blend ``[S, S, 3]`` of four corner colours."""
    corner_colors = rng.uniforms(0, 255, 2, 2, 3).astype(np.float32)
    image = cv2.resize(corner_colors, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image).round().astype(np.uint8)


def dead_leaves(size: int, *, rng: RandomStream, periodic: bool = False) -> UInt8:
    """Draw overlapping discs ``[S, S, 3]``, radii by the r^-3 law of natural occlusion (Lee et al., 2001).

    With ``periodic`` a disc that crosses one side continues at the opposite side.
    """
    shifts = [(x, y) for x in (-size, 0, size) for y in (-size, 0, size)] if periodic else [(0, 0)]
    image = np.full((size, size, 3), rng.integers(256, 3), np.uint8)
    smallest, largest = size / 40, size / 5
    # Inverse of the cumulative r^-3 law between the two radii.
    radii = (smallest**-2 - rng.randoms(500) * (smallest**-2 - largest**-2)) ** -0.5
    centers, colors = rng.integers(size, 500, 2), rng.integers(256, 500, 3)
    for radius, (x, y), color in zip(radii.tolist(), centers.tolist(), colors.tolist(), strict=True):
        for dx, dy in shifts:
            cv2.circle(image, (x + dx, y + dy), round(radius), color, -1, cv2.LINE_AA)
    return image


KINDS: dict[str, Callable[..., Any]] = {
    "one-over-f": one_over_f,
    "gradient": gradient,
    "dead-leaves": dead_leaves,
}


def write_images(folder: Path, *, count: int, seed: int, size: int = 160) -> None:
    """Write ``count`` generated images, one kind after the other; a seed always gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        image = KINDS[kind](size, rng=RandomStream(seed, index, f"background {kind}"))
        Image.fromarray(image).save(folder / f"{index:03d}-{kind}.png")


@lru_cache(maxsize=4)
def generated_texture(kind: str, key: tuple[int, int], size: int, exponent: float) -> Texture:
    """Generate the texture ``size x size`` of a background: a pure function of its arguments.

    Args:
        kind: a name of `KINDS`. 1/f noise and dead leaves are periodic.
        key: two numbers, each 0 .. 2^63 - 1.
        size: side in pixels.
        exponent: exponent of 1/f noise; other kinds ignore it.
    """
    options: dict[str, dict[str, Any]] = {
        "one-over-f": {"exponent": exponent},
        "dead-leaves": {"periodic": True},
    }
    rng = RandomStream(*key, f"background {kind}")
    return Texture.opaque(KINDS[kind](size, rng=rng, **options.get(kind, {})))
