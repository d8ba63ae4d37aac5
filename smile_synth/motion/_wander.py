"""Motion by chance: spline through waypoints, random walk, Ornstein-Uhlenbeck, flicker."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative, NonNegativeRange, PositiveRange
from smile_synth.motion._base import FamilyParameters, Path, Request


class Spline(FamilyParameters):
    """Keys of ``spline``.

    Attributes:
        waypoints: number of places, drawn uniformly within the bounds, passed at even times.
    """

    family: Literal["spline"]
    waypoints: Annotated[int, Field(ge=2)] = 4


def spline(*, rng: RandomStreams, parameters: Spline, request: Request) -> Path:
    """Draw waypoints and run through them on a monotone cubic spline, which never leaves their range
    (Fritsch and Butland, 1984)."""
    # Imported here: it would add a fifth to every start of the program.
    from scipy.interpolate import PchipInterpolator

    low, high = request.room()
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


def random_walk(*, rng: RandomStreams, parameters: RandomWalk, request: Request) -> Path:
    """Draw an independent normal step for every frame."""
    steps = parameters.step * rng.normal(request.num_frames, request.dims)
    steps[:, 0] = 0
    return Path(request.place(np.cumsum(steps, axis=1), rng=rng))


class OrnsteinUhlenbeck(FamilyParameters):
    """Keys of ``ornstein-uhlenbeck``.

    Attributes:
        deviation: [low, high] standard deviation from the place it returns to, on every axis.
        memory: [low, high] frames after which 1/e of a deviation is left.
    """

    family: Literal["ornstein-uhlenbeck"]
    deviation: NonNegativeRange
    memory: PositiveRange


def ornstein_uhlenbeck(*, rng: RandomStreams, parameters: OrnsteinUhlenbeck, request: Request) -> Path:
    """Draw the stationary process with its exact transition from frame to frame."""
    deviation, memory = rng.uniform(*parameters.deviation), rng.uniform(*parameters.memory)
    values = rng.normal(request.num_frames, request.dims)
    kept = np.exp(-1 / memory)[:, None]
    fresh = np.sqrt(1 - kept * kept)
    for t in range(1, request.num_frames):
        values[:, t] = kept * values[:, t - 1] + fresh * values[:, t]
    factors = {f"deviation_{request.unit}": deviation, "memory_frames": memory}
    return Path(request.place(deviation[:, None, None] * values, rng=rng), factors)


class Flicker(FamilyParameters):
    """Keys of ``flicker``.

    Attributes:
        amount: [low, high]; every frame is drawn anew within that much to either side.
    """

    family: Literal["flicker"]
    amount: NonNegativeRange


def flicker(*, rng: RandomStreams, parameters: Flicker, request: Request) -> Path:
    """Draw every frame for itself."""
    amount = rng.uniform(*parameters.amount)
    travel = rng.uniform(-1, 1, request.num_frames, request.dims) * amount[:, None, None]
    return Path(request.place(travel, rng=rng), {f"amount_{request.unit}": amount})
