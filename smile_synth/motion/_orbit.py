"""Motion around a fixed point: a circle or a spiral."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import PositiveRange, Range
from smile_synth.motion._base import FamilyParameters, Float, Path, Request, family


def on_circle(angle: Float, dims: int) -> Float:
    """Return points ``[..., D]`` of the unit circle; each dimension is a quarter turn behind the last."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([(cos, sin, -cos, -sin)[d % 4] for d in range(dims)], axis=-1)


class Orbit(FamilyParameters):
    """Keys of ``orbit``.

    Attributes:
        radius: [low, high].
        turn: [low, high] degrees per frame; the sense of rotation is random.
    """

    family: Literal["orbit"]
    radius: PositiveRange
    turn: PositiveRange


class Spiral(Orbit):
    """Keys of ``spiral``: those of ``orbit``, with the radius of the first frame, and its own.

    Attributes:
        widening: [low, high] change of the radius per frame; the radius never goes below 0.
    """

    family: Literal["spiral"]  # type: ignore[assignment]
    widening: Range


@family(Orbit)
@family(Spiral)
def orbit(*, rng: RandomStreams, parameters: Orbit | Spiral, request: Request) -> Path:
    """Draw the radius, angular speed, sense of rotation and phase of a circle or a spiral."""
    radius, turn = rng.uniform(*parameters.radius), rng.uniform(*parameters.turn)
    turn = turn * rng.sign()
    angle = np.deg2rad(rng.uniform(0, 360)[:, None] + turn[:, None] * request.frames)
    factors = {f"radius_{request.unit}": radius, "turn_degrees_per_frame": turn}
    radii = radius[:, None]
    if isinstance(parameters, Spiral):
        widening = rng.uniform(*parameters.widening)
        factors[f"widening_{request.unit}_per_frame"] = widening
        radii = np.maximum(radii + widening[:, None] * request.frames, 0)
    return Path(request.place(radii[..., None] * on_circle(angle, request.dims), rng=rng), factors)
