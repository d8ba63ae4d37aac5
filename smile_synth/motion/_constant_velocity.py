"""Straight lines at constant speed."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegativeRange, Range
from smile_synth.motion._base import FamilyParameters, Path, Request, family


class ConstantVelocity(FamilyParameters):
    """Keys of ``constant-velocity``.

    Attributes:
        speed: [low, high] per frame.
        direction: [low, high] degrees, clockwise from the right.
    """

    family: Literal["constant-velocity"]
    speed: NonNegativeRange
    direction: Range = (0.0, 360.0)


@family(ConstantVelocity)
def constant_velocity(*, rng: RandomStreams, parameters: ConstantVelocity, request: Request) -> Path:
    """Draw speed and direction."""
    speed, direction = rng.uniform(*parameters.speed), rng.uniform(*parameters.direction)
    step = speed[:, None] * request.unit_vectors(direction, rng=rng)
    values = request.place(request.frames[:, None] * step[:, None], rng=rng)
    factors = request.direction_factor(direction)
    return Path(values, {**factors, f"speed_{request.unit}_per_frame": speed})


class AxisVelocity(FamilyParameters):
    """Keys of ``axis-velocity``: either ``speeds`` or ``speed``.

    Attributes:
        speeds: list of speeds per frame; one is drawn uniformly for every axis.
        speed: [low, high] per frame, drawn for every axis; negative is to the left and upwards.
    """

    family: Literal["axis-velocity"]
    speeds: Annotated[list[float], Field(min_length=1)] | None = None
    speed: Range | None = None

    @model_validator(mode="after")
    def _check(self) -> AxisVelocity:
        if (self.speeds is None) == (self.speed is None):
            raise ValueError("give either speeds or speed")
        return self


@family(AxisVelocity)
def axis_velocity(*, rng: RandomStreams, parameters: AxisVelocity, request: Request) -> Path:
    """Draw a constant speed for every axis; whole ``speeds`` give the motion of MoSI (arXiv 2104.00240)."""
    if parameters.speeds is not None:
        step = np.array(parameters.speeds)[rng.choice([1.0] * len(parameters.speeds), request.dims)]
    else:
        step = rng.uniform(*(parameters.speed or (0.0, 0.0)), request.dims)
    values = request.place(request.frames[:, None] * step[:, None], rng=rng)
    names = [f"speed_{axis}_{request.unit}_per_frame" for axis in ("x", "y", "z")[: request.dims]]
    return Path(values, dict(zip(names, step.T, strict=False)))
