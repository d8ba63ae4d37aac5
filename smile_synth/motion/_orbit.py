"""Round a fixed point."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from smile_synth.motion._base import Path, PathParameters, PathRequest, Positive, ordered, start_range


class Orbit(PathParameters):
    """Keys of ``orbit``.

    Attributes:
        radius: [low, high] pixels.
        turn: [low, high] degrees per frame; the sense of rotation is drawn.
    """

    family: Literal["orbit"]
    radius: tuple[Positive, Positive]
    turn: tuple[Positive, Positive]

    @model_validator(mode="after")
    def _check(self) -> Orbit:
        ordered("radius", self.radius)
        ordered("turn", self.turn)
        return self


def orbit(*, rng: np.random.Generator, parameters: Orbit, request: PathRequest) -> Path:
    """Draw radius, angular speed, sense and phase of a circle inside the frame."""
    radius, turn = rng.uniform(*parameters.radius), rng.uniform(*parameters.turn)
    turn *= rng.choice([-1.0, 1.0])
    angle = np.deg2rad(rng.uniform(0, 360) + turn * np.arange(request.num_frames))
    travel = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    low, high = start_range(request, travel)
    center = low + rng.random(2) * (high - low) + travel
    return Path(center, {"radius_px": radius, "turn_degrees_per_frame": float(turn)})
