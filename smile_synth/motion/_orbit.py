"""Round a fixed point, at one radius or on a spiral."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import PositiveRange, Range
from smile_synth.motion._base import FamilyParameters, Float, Path, Request


def around(angle: Float, dims: int) -> Float:
    """Return ``[..., D]`` places on the unit circle; every dimension is a quarter turn after the last."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([(cos, sin, -cos, -sin)[d % 4] for d in range(dims)], axis=-1)


class Orbit(FamilyParameters):
    """Keys of ``orbit``.

    Attributes:
        radius: [low, high].
        turn: [low, high] degrees per frame; the sense of rotation is drawn.
    """

    family: Literal["orbit"]
    radius: PositiveRange
    turn: PositiveRange


def orbit(*, rng: RandomStreams, parameters: Orbit, request: Request) -> Path:
    """Draw radius, angular speed, sense and phase of a circle inside the frame."""
    radius, turn = rng.uniform(*parameters.radius), rng.uniform(*parameters.turn)
    turn = turn * rng.sign()
    angle = np.deg2rad(rng.uniform(0, 360)[:, None] + turn[:, None] * request.frames)
    travel = radius[:, None, None] * around(angle, request.dims)
    factors = {f"radius_{request.unit}": radius, "turn_degrees_per_frame": turn}
    return Path(request.place(travel, rng=rng), factors)


class Spiral(FamilyParameters):
    """Keys of ``spiral``.

    Attributes:
        radius: [low, high] at the start.
        turn: [low, high] degrees per frame; the sense of rotation is drawn.
        widening: [low, high] change of the radius per frame; it stops at the middle.
    """

    family: Literal["spiral"]
    radius: PositiveRange
    turn: PositiveRange
    widening: Range


def spiral(*, rng: RandomStreams, parameters: Spiral, request: Request) -> Path:
    """Draw a circle whose radius changes evenly."""
    radius, turn = rng.uniform(*parameters.radius), rng.uniform(*parameters.turn)
    turn = turn * rng.sign()
    angle = np.deg2rad(rng.uniform(0, 360)[:, None] + turn[:, None] * request.frames)
    widening = rng.uniform(*parameters.widening)
    radii = np.maximum(radius[:, None] + widening[:, None] * request.frames, 0)
    factors = {
        f"radius_{request.unit}": radius,
        f"widening_{request.unit}_per_frame": widening,
        "turn_degrees_per_frame": turn,
    }
    return Path(request.place(radii[..., None] * around(angle, request.dims), rng=rng), factors)
