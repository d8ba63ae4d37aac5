"""Motion families: each a pure function ``(*, rng, parameters, request) -> Path``.

A family is one file with its parameter model and its function, and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from smile_synth.motion._base import CurveParameters, Path, PathParameters, PathRequest
from smile_synth.motion._constant_velocity import ConstantVelocity, constant_velocity
from smile_synth.motion._keyframes import KeyTimesParameters, draw_curve, draw_key_times, interpolate
from smile_synth.motion._orbit import Orbit, orbit
from smile_synth.motion._oscillation import Oscillation, oscillation
from smile_synth.motion._smile_gaussian import SmileGaussian, smile_gaussian
from smile_synth.motion._smile_linear import SmileLinear, smile_linear
from smile_synth.motion._still import Still, still

__all__ = [
    "FAMILIES",
    "CurveParameters",
    "Family",
    "KeyTimesParameters",
    "Path",
    "PathParameters",
    "PathRequest",
    "draw_curve",
    "draw_key_times",
    "draw_path",
    "interpolate",
]


class Family(NamedTuple):
    """A motion family: the model of its recipe keys and the function that draws a path."""

    parameters: type[PathParameters]
    draw: Callable[..., Path]


FAMILIES: dict[str, Family] = {
    "smile-gaussian": Family(SmileGaussian, smile_gaussian),
    "smile-linear": Family(SmileLinear, smile_linear),
    "still": Family(Still, still),
    "constant-velocity": Family(ConstantVelocity, constant_velocity),
    "oscillation": Family(Oscillation, oscillation),
    "orbit": Family(Orbit, orbit),
}


def draw_path(parameters: Any, request: PathRequest, *, rng: Any) -> Path:
    """Draw a path with the family that ``parameters.family`` names."""
    return FAMILIES[parameters.family].draw(rng=rng, parameters=parameters, request=request)
