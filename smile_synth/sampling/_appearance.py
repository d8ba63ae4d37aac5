"""Draw a clip's camera effects, and its objects' soft edges and shadows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.appearance import DEFAULT_APPEARANCE, Appearance, Shadow
from smile_synth.core.rng import RandomStreams
from smile_synth.recipe import AppearanceParameters
from smile_synth.scene import Factor, Layer


def sample_appearance(
    parameters: AppearanceParameters, seed: int, indices: NDArray[np.int64], factors: list[dict[str, Factor]]
) -> tuple[list[Appearance], list[Shadow | None], list[float]]:
    """Draw the looks of clips, their shadows with a blur in pixels, and widths of soft edges in pixels."""
    count = len(indices)
    if parameters == AppearanceParameters():
        return [DEFAULT_APPEARANCE] * count, [None] * count, [0.0] * count

    def drawn(name: str, bounds: tuple[float, float] | None, purpose: str) -> list[float]:
        """Draw one value of every clip and note it; 0 where the recipe wants none."""
        if bounds is None:
            return [0.0] * count
        values: list[float] = RandomStreams(seed, indices, purpose).uniform(*bounds).tolist()
        for found, value in zip(factors, values, strict=True):
            found[f"appearance.{name}"] = value
        return values

    shutter = drawn("shutter_degrees", parameters.shutter, "shutter")
    grain = drawn("grain_share", parameters.grain, "grain")
    edges = drawn("soft_edges_px", parameters.soft_edges, "soft edges")
    keys = [(0, 0)] * count
    if parameters.grain is not None:
        words = RandomStreams(seed, indices, "grain key").random(2) * 2.0**32
        keys = [(int(a), int(b)) for a, b in words.tolist()]
    appearance = [
        Appearance(
            shutter=shutter[i] / 360,
            shutter_samples=parameters.shutter_samples if shutter[i] else 1,
            linear_light=parameters.linear_light,
            grain=grain[i],
            grain_key=keys[i],
        )
        for i in range(count)
    ]
    shadows: list[Shadow | None] = [None] * count
    if parameters.shadows is not None:
        light = parameters.shadows
        strength = drawn("shadow_strength_share", light.strength, "shadow strength")
        distance = drawn("shadow_distance_px", light.distance, "shadow distance")
        direction = drawn("shadow_direction_degrees", light.direction, "shadow direction")
        blur = drawn("shadow_blur_px", light.blur, "shadow blur")
        for i in range(count):
            toward = np.deg2rad(direction[i])
            offset = float(distance[i] * np.cos(toward)), float(distance[i] * np.sin(toward))
            shadows[i] = Shadow(strength[i], offset, blur[i])
    return appearance, shadows, edges


def with_appearance(layer: Layer, edge: float, shadow: Shadow | None, texels_per_pixel: float) -> Layer:
    """Give an object its clip's soft edge and shadow, whose widths in pixels become its own texels."""
    if edge:
        layer = replace(layer, feather=edge * texels_per_pixel)
    if shadow is not None:
        layer = replace(layer, shadow=replace(shadow, blur=shadow.blur * texels_per_pixel))
    return layer
