"""The registry of motion families, and how more are found."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from smile_synth.motion._acceleration import (
    Ballistic,
    ConstantAcceleration,
    JerkLimited,
    ballistic,
    constant_acceleration,
    jerk_limited,
)
from smile_synth.motion._base import FamilyParameters, Path
from smile_synth.motion._constant_velocity import (
    AxisVelocity,
    ConstantVelocity,
    axis_velocity,
    constant_velocity,
)
from smile_synth.motion._keyframes import KeyFramed, KeyValues, key_framed, key_values
from smile_synth.motion._orbit import Orbit, Spiral, orbit, spiral
from smile_synth.motion._oscillation import Oscillation, oscillation
from smile_synth.motion._smile_gaussian import SmileGaussian, smile_gaussian
from smile_synth.motion._smile_linear import SmileLinear, smile_linear
from smile_synth.motion._still import Still, still
from smile_synth.motion._walls import (
    ApproachRecede,
    Bounce,
    PassThrough,
    ReEnter,
    StopAndGo,
    approach_recede,
    bounce,
    pass_through,
    re_enter,
    stop_and_go,
)
from smile_synth.motion._wander import (
    Flicker,
    OrnsteinUhlenbeck,
    RandomWalk,
    Spline,
    flicker,
    ornstein_uhlenbeck,
    random_walk,
    spline,
)

ENTRY_POINTS = "smile_synth.motion_families"


class Family(NamedTuple):
    """A motion family.

    Attributes:
        parameters: the model of its recipe keys; its key ``family`` is ``Literal[name]``.
        draw: ``(*, rng: RandomStreams, parameters, request: Request) -> Path``, without any other input.
        bounded: it needs finite bounds, so that a curve of it must have ``low`` and ``high``.
    """

    parameters: type[FamilyParameters]
    draw: Callable[..., Path]
    bounded: bool = False


FAMILIES: dict[str, Family] = {
    "smile-gaussian": Family(SmileGaussian, smile_gaussian, bounded=True),
    "smile-linear": Family(SmileLinear, smile_linear, bounded=True),
    "still": Family(Still, still),
    "constant-velocity": Family(ConstantVelocity, constant_velocity),
    "oscillation": Family(Oscillation, oscillation),
    "orbit": Family(Orbit, orbit),
    "axis-velocity": Family(AxisVelocity, axis_velocity),
    "constant-acceleration": Family(ConstantAcceleration, constant_acceleration),
    "jerk-limited": Family(JerkLimited, jerk_limited),
    "key-framed": Family(KeyFramed, key_framed),
    "key-values": Family(KeyValues, key_values),
    "spline": Family(Spline, spline, bounded=True),
    "spiral": Family(Spiral, spiral),
    "random-walk": Family(RandomWalk, random_walk),
    "ornstein-uhlenbeck": Family(OrnsteinUhlenbeck, ornstein_uhlenbeck),
    "flicker": Family(Flicker, flicker),
    "bounce": Family(Bounce, bounce, bounded=True),
    "ballistic": Family(Ballistic, ballistic),
    "stop-and-go": Family(StopAndGo, stop_and_go),
    "approach-recede": Family(ApproachRecede, approach_recede, bounded=True),
    "pass-through": Family(PassThrough, pass_through, bounded=True),
    "re-enter": Family(ReEnter, re_enter, bounded=True),
}


def register(name: str, family: Family) -> None:
    """Add a family under a name that no other has.

    Raises:
        ValueError: the name is taken, or the model's key ``family`` does not say it.
    """
    if name in FAMILIES:
        raise ValueError(f"motion family '{name}' is registered already")
    if name not in getattr(family.parameters.model_fields["family"].annotation, "__args__", ()):
        raise ValueError(f"motion family '{name}': its parameters need the key family: Literal['{name}']")
    FAMILIES[name] = family


def load_installed() -> None:
    """Register the families that installed packages offer as entry points."""
    for point in entry_points(group=ENTRY_POINTS):
        offered: Any = point.load()
        register(point.name, offered)


load_installed()
