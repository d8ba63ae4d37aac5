"""Load the motion families of this package and of installed packages."""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

# The modules add their families to the registry when they are imported.
from smile_synth.motion import (  # noqa: F401
    _acceleration,
    _borders,
    _constant_velocity,
    _keyframes,
    _orbit,
    _oscillation,
    _random,
    _smile_gaussian,
    _smile_linear,
    _still,
)
from smile_synth.motion._base import name_of, register

ENTRY_POINTS = "smile_synth.motion_families"
# Families of installed packages that could not be loaded: name of the entry point -> reason.
UNAVAILABLE: dict[str, str] = {}


def load_installed() -> None:
    """Register the families that installed packages offer as entry points.

    A family that cannot be loaded is skipped with a warning; recipes that use it are refused.

    Raises:
        ValueError: two packages offer families of the same name.
    """
    for point in entry_points(group=ENTRY_POINTS):
        try:
            family = point.load()
            name_of(family)
        except Exception as error:  # whatever a broken package raises
            package = point.dist.name if point.dist else point.value
            reason = f"cannot be loaded from package '{package}': {type(error).__name__}: {error}"
            UNAVAILABLE[point.name] = reason
            warnings.warn(f"motion family '{point.name}' {reason}", stacklevel=2)
        else:
            register(family)


load_installed()
