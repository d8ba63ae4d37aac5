"""A straight line at constant speed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.motion._base import Path, PathRequest, SpeedParameters, start_range


class ConstantVelocity(SpeedParameters):
    """Keys of ``constant-velocity``.

    Attributes:
        speed: [low, high] pixels per frame; the direction is uniform over the circle.
    """

    family: Literal["constant-velocity"]


def constant_velocity(
    *, rng: np.random.Generator, parameters: ConstantVelocity, request: PathRequest
) -> Path:
    """Draw speed, direction and a start that keeps the box inside the frame where that is possible."""
    speed = rng.uniform(*parameters.speed)
    direction = rng.uniform(0, 360)
    step = speed * np.array([np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction))])
    travel = np.arange(request.num_frames)[:, None] * step
    low, high = start_range(request, travel)
    start = low + rng.random(2) * (high - low)
    return Path(start + travel, {"direction_degrees": float(direction), "speed_px_per_frame": float(speed)})
