"""A sine along a line, like a pendulum."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import PositiveRange
from smile_synth.motion._base import FamilyParameters, Path, Request, family


class Oscillation(FamilyParameters):
    """Keys of ``oscillation``.

    Attributes:
        amplitude: [low, high] from the middle to a turning point.
        period: [low, high] frames of one whole swing.
    """

    family: Literal["oscillation"]
    amplitude: PositiveRange
    period: PositiveRange


@family(Oscillation)
def oscillation(*, rng: RandomStreams, parameters: Oscillation, request: Request) -> Path:
    """Draw the axis, amplitude, period and phase of a sine."""
    amplitude, period = rng.uniform(*parameters.amplitude), rng.uniform(*parameters.period)
    axis, phase = rng.uniform(0, 180), rng.uniform(0, 2 * np.pi)
    swing = amplitude[:, None] * np.sin(phase[:, None] + 2 * np.pi * request.frames / period[:, None])
    values = request.place(swing[..., None] * request.unit_vectors(axis, rng=rng)[:, None], rng=rng)
    factors = {
        **request.direction_factor(axis, "axis_degrees"),
        f"amplitude_{request.unit}": amplitude,
        "period_frames": period,
    }
    return Path(values, factors)
