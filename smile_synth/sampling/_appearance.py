"""Draw the camera effects of clips, and the soft edges and shadows of their objects."""

from __future__ import annotations

import numpy as np

from smile_synth.core.appearance import DEFAULT_APPEARANCE, Appearance, Shadow
from smile_synth.recipe import AppearanceParameters
from smile_synth.sampling._instances import Batch, add_factors
from smile_synth.scene import Factor

_NO_EFFECTS = AppearanceParameters()


def sample_appearance(
    batch: Batch, factors: list[dict[str, Factor]]
) -> tuple[list[Appearance], list[Shadow | None], list[float]]:
    """Draw camera effects, shadows and widths of soft edges, one per clip, and add them to ``factors``.

    The blur of the shadows and the widths are in pixels.
    """
    parameters, count = batch.recipe.appearance, len(batch)
    if parameters == _NO_EFFECTS:
        return [DEFAULT_APPEARANCE] * count, [None] * count, [0.0] * count

    def draw(name: str, bounds: tuple[float, float] | None, purpose: str) -> list[float]:
        """Draw one value per clip; 0 without bounds."""
        if bounds is None:
            return [0.0] * count
        values = batch.streams(purpose).uniform(*bounds)
        add_factors(factors, range(count), {f"appearance.{name}": values})
        return list(values.tolist())

    def draw_keys(purpose: str) -> list[tuple[int, int]]:
        return [(a, b) for a, b in batch.streams(purpose).integers(2**32, 2).tolist()]

    shutter = draw("shutter_degrees", parameters.shutter, "shutter")
    grain = draw("grain_share", parameters.grain, "grain")
    edges = draw("soft_edges_px", parameters.soft_edges, "soft edges")
    keys = [(0, 0)] * count
    if parameters.grain is not None:
        keys = draw_keys("grain key")
    noise_keys: list[tuple[int, int] | None] = [None] * count
    if parameters.texture is not None:
        noise_keys = [*draw_keys("noise key")]
    effects = [
        Appearance(
            shutter=shutter[i] / 360,
            shutter_samples=parameters.shutter_samples if shutter[i] else 1,
            linear_light=parameters.linear_light,
            grain=grain[i],
            grain_key=keys[i],
            noise_key=noise_keys[i],
        )
        for i in range(count)
    ]
    light = parameters.shadows
    if light is None:
        return effects, [None] * count, edges
    strength = draw("shadow_strength_share", light.strength, "shadow strength")
    distance = draw("shadow_distance_px", light.distance, "shadow distance")
    angle = np.deg2rad(draw("shadow_direction_degrees", light.direction, "shadow direction"))
    blur = draw("shadow_blur_px", light.blur, "shadow blur")
    offsets = (np.array([np.cos(angle), np.sin(angle)]) * distance).T.tolist()
    shadows = [Shadow(strength[i], (offsets[i][0], offsets[i][1]), blur[i]) for i in range(count)]
    return effects, list(shadows), edges
