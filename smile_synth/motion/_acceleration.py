"""Changing speed: constant acceleration, limited jerk, and the fall of a thrown object."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative, NonNegativeRange, PositiveRange, Range
from smile_synth.motion._base import FamilyParameters, Float, Path, Request, family


class ConstantAcceleration(FamilyParameters):
    """Keys of ``constant-acceleration``.

    Attributes:
        speed: [low, high] per frame, at the start; the direction is uniform.
        acceleration: per frame and frame; U(-acceleration, acceleration) on every axis.
    """

    family: Literal["constant-acceleration"]
    speed: NonNegativeRange
    acceleration: NonNegative


class JerkLimited(ConstantAcceleration):
    """Keys of ``jerk-limited``: those of ``constant-acceleration``, and its own.

    Attributes:
        acceleration: limit per frame and frame, on every axis.
        jerk: the acceleration changes by U(-jerk, jerk) from frame to frame, on every axis.
    """

    family: Literal["jerk-limited"]  # type: ignore[assignment]
    jerk: NonNegative


def _start_factors(speed: Float, direction: Float, request: Request) -> dict[str, Float]:
    return {
        **request.direction_factor(direction, "start_direction_degrees"),
        f"start_speed_{request.unit}_per_frame": speed,
    }


@family(ConstantAcceleration)
def constant_acceleration(*, rng: RandomStreams, parameters: ConstantAcceleration, request: Request) -> Path:
    """Draw speed, direction and a constant acceleration."""
    speed, direction = rng.uniform(*parameters.speed), rng.uniform(0, 360)
    acceleration = rng.uniform(-parameters.acceleration, parameters.acceleration, request.dims)
    velocity = speed[:, None] * request.unit_vectors(direction, rng=rng)
    t = request.frames[:, None]
    travel = velocity[:, None] * t + acceleration[:, None] * (t * t / 2)
    factors = _start_factors(speed, direction, request)
    factors[f"acceleration_{request.unit}_per_frame2"] = np.linalg.norm(acceleration, axis=-1)
    return Path(request.place(travel, rng=rng), factors)


@family(JerkLimited)
def jerk_limited(*, rng: RandomStreams, parameters: JerkLimited, request: Request) -> Path:
    """Draw an acceleration that changes randomly within its limit, and integrate it twice."""
    speed, direction = rng.uniform(*parameters.speed), rng.uniform(0, 360)
    velocity = speed[:, None] * request.unit_vectors(direction, rng=rng)
    jerk = rng.uniform(-parameters.jerk, parameters.jerk, request.num_frames, request.dims)
    acceleration, limit = np.zeros_like(jerk), parameters.acceleration
    for t in range(1, request.num_frames):
        acceleration[:, t] = np.clip(acceleration[:, t - 1] + jerk[:, t], -limit, limit)
    steps = velocity[:, None] + np.cumsum(acceleration, axis=1)
    travel = np.cumsum(steps, axis=1) - steps[:, :1]
    return Path(request.place(travel, rng=rng), _start_factors(speed, direction, request))


class Ballistic(FamilyParameters):
    """Keys of ``ballistic``.

    Attributes:
        speed: [low, high] per frame, at the start.
        elevation: [low, high] degrees above the horizon; to the left or to the right.
        gravity: [low, high] per frame and frame, downwards (along the last axis).
    """

    family: Literal["ballistic"]
    speed: NonNegativeRange
    elevation: Range = (0.0, 90.0)
    gravity: PositiveRange


@family(Ballistic)
def ballistic(*, rng: RandomStreams, parameters: Ballistic, request: Request) -> Path:
    """Draw a throw, whose path is a parabola."""
    speed, elevation = rng.uniform(*parameters.speed), rng.uniform(*parameters.elevation)
    gravity, side = rng.uniform(*parameters.gravity), rng.sign()
    angle = np.deg2rad(elevation)
    velocity = np.zeros((request.num_rows, request.dims))
    velocity[:, 0] = side * speed * np.cos(angle)
    velocity[:, -1] = -speed * np.sin(angle)
    t = request.frames
    travel = velocity[:, None] * t[:, None]
    travel[..., -1] += gravity[:, None] * (t * t / 2)
    factors = {
        f"throw_speed_{request.unit}_per_frame": speed,
        "throw_elevation_degrees": elevation,
        f"gravity_{request.unit}_per_frame2": gravity,
    }
    return Path(request.place(travel, rng=rng), factors)
