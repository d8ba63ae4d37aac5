"""Random motion: spline through waypoints, random walk, Ornstein-Uhlenbeck, flicker."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative, NonNegativeRange, PositiveRange
from smile_synth.motion._base import FamilyParameters, Path, Request, family


class Spline(FamilyParameters):
    """Keys of ``spline``.

    Attributes:
        waypoints: number of uniform points within the bounds, at equal time steps.
    """

    family: Literal["spline"]
    waypoints: Annotated[int, Field(ge=2)] = 4


@family(Spline, bounded=True)
def spline(*, rng: RandomStreams, parameters: Spline, request: Request) -> Path:
    """Draw waypoints and a monotone cubic spline through them, which stays within their range.

    Method: Fritsch and Butland, 1984.
    """
    # A global import would slow the start of the program by a fifth.
    from scipy.interpolate import PchipInterpolator

    low, high = request.ordered_bounds()
    u = rng.random(parameters.waypoints, request.dims)
    if request.num_frames == 1:
        return Path(low + u[:, :1] * (high - low))
    times = np.linspace(0, request.num_frames - 1, parameters.waypoints)
    shares = np.clip(PchipInterpolator(times, u, axis=1)(request.frames), 0, 1)
    return Path(np.asarray(low + shares * (high - low)))


class RandomWalk(FamilyParameters):
    """Keys of ``random-walk``.

    Attributes:
        step: standard deviation of the change per frame, on every axis.
    """

    family: Literal["random-walk"]
    step: NonNegative


@family(RandomWalk)
def random_walk(*, rng: RandomStreams, parameters: RandomWalk, request: Request) -> Path:
    """Draw independent normal steps."""
    steps = parameters.step * rng.normal(request.num_frames, request.dims)
    steps[:, 0] = 0
    return Path(request.place(np.cumsum(steps, axis=1), rng=rng))


class OrnsteinUhlenbeck(FamilyParameters):
    """Keys of ``ornstein-uhlenbeck``.

    Attributes:
        deviation: [low, high] standard deviation from the mean, on every axis.
        memory: [low, high] frames in which a deviation decays to 1/e.
    """

    family: Literal["ornstein-uhlenbeck"]
    deviation: NonNegativeRange
    memory: PositiveRange


@family(OrnsteinUhlenbeck)
def ornstein_uhlenbeck(*, rng: RandomStreams, parameters: OrnsteinUhlenbeck, request: Request) -> Path:
    """Draw the stationary process with its exact transition from frame to frame."""
    deviation, memory = rng.uniform(*parameters.deviation), rng.uniform(*parameters.memory)
    values = rng.normal(request.num_frames, request.dims)
    decay = np.exp(-1 / memory)[:, None]
    noise = np.sqrt(1 - decay * decay)
    for t in range(1, request.num_frames):
        values[:, t] = decay * values[:, t - 1] + noise * values[:, t]
    factors = {f"deviation_{request.unit}": deviation, "memory_frames": memory}
    return Path(request.place(deviation[:, None, None] * values, rng=rng), factors)


class Flicker(FamilyParameters):
    """Keys of ``flicker``.

    Attributes:
        amount: [low, high]; every frame differs from the middle by U(-amount, amount).
    """

    family: Literal["flicker"]
    amount: NonNegativeRange


@family(Flicker)
def flicker(*, rng: RandomStreams, parameters: Flicker, request: Request) -> Path:
    """Draw an independent value for every frame."""
    amount = rng.uniform(*parameters.amount)
    travel = rng.uniform(-1, 1, request.num_frames, request.dims) * amount[:, None, None]
    return Path(request.place(travel, rng=rng), {f"amount_{request.unit}": amount})
