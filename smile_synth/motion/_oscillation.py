"""To and fro along a line, like a pendulum."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from smile_synth.motion._base import Path, PathParameters, PathRequest, Positive, ordered, start_range


class Oscillation(PathParameters):
    """Keys of ``oscillation``.

    Attributes:
        amplitude: [low, high] pixels from the middle to a turning point.
        period: [low, high] frames for one whole swing.
    """

    family: Literal["oscillation"]
    amplitude: tuple[Positive, Positive]
    period: tuple[Positive, Positive]

    @model_validator(mode="after")
    def _check(self) -> Oscillation:
        ordered("amplitude", self.amplitude)
        ordered("period", self.period)
        return self


def oscillation(*, rng: np.random.Generator, parameters: Oscillation, request: PathRequest) -> Path:
    """Draw axis, amplitude, period and phase of a sine about a middle inside the frame."""
    amplitude, period = rng.uniform(*parameters.amplitude), rng.uniform(*parameters.period)
    axis, phase = rng.uniform(0, 180), rng.uniform(0, 2 * np.pi)
    swing = amplitude * np.sin(phase + 2 * np.pi * np.arange(request.num_frames) / period)
    travel = swing[:, None] * np.array([np.cos(np.deg2rad(axis)), np.sin(np.deg2rad(axis))])
    low, high = start_range(request, travel)
    center = low + rng.random(2) * (high - low) + travel
    return Path(center, {"axis_degrees": axis, "amplitude_px": amplitude, "period_frames": period})
