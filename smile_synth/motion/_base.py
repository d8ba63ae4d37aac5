"""What every motion family is given and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from smile_synth.strict_yaml import StrictModel

Float = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Range = tuple[float, float]


def ordered(name: str, values: tuple[float, float]) -> None:
    """Raise ValueError unless ``values`` is a range low..high."""
    if values[0] > values[1]:
        raise ValueError(f"{name} is [low, high], got low {values[0]} above high {values[1]}")


@dataclass(frozen=True)
class PathRequest:
    """What a path is made for.

    Attributes:
        num_frames: T, at least 1.
        size_hw: frame size in pixels.
        box_wh: ``[T, 2]`` the object's un-rotated box, width and height in pixels.
        key_times: ``[K]`` float64, 0 .. T-1, the key frames shared by all objects of the clip.
    """

    num_frames: int
    size_hw: tuple[int, int]
    box_wh: Float
    key_times: Float

    @property
    def frame_wh(self) -> Float:
        """Frame size as float64 (width, height)."""
        return np.array([self.size_hw[1], self.size_hw[0]], np.float64)


@dataclass(frozen=True)
class Path:
    """A path and what was drawn for it.

    Attributes:
        center_xy: ``[T, 2]`` float64 pixels, the middle of the object's un-rotated box.
        factors: drawn values a probe could predict, by a name that ends in its unit.
    """

    center_xy: Float
    factors: dict[str, float]


class CurveParameters(StrictModel):
    """A value that changes by U(-rate, rate) per frame between key frames."""

    rate: NonNegative


class PathParameters(StrictModel):
    """Keys that every motion family has, beside its own.

    Attributes:
        weight: how often this entry is drawn, relative to the others.
        growth: log-size change per frame, drawn apart for width and height.
        growth_isotropic: draw one growth for both sides.
        rotation: degrees per frame, clockwise.
    """

    weight: Positive = 1.0
    growth: CurveParameters = CurveParameters(rate=0.0)
    growth_isotropic: bool = False
    rotation: CurveParameters = CurveParameters(rate=0.0)


class SpeedParameters(PathParameters):
    """Keys of the families that move at a drawn speed (pixels per frame)."""

    speed: Range

    @model_validator(mode="after")
    def _check(self) -> SpeedParameters:
        ordered("speed", self.speed)
        if self.speed[0] < 0:
            raise ValueError(f"speed must not be negative, got {self.speed[0]}")
        return self


def start_range(request: PathRequest, travel_xy: Float) -> tuple[Float, Float]:
    """Return (low, high) ``[2]`` of start centres that keep the box inside the frame if it can be.

    ``travel_xy`` is ``[T, 2]``, the path relative to its start. On an axis where no start keeps it
    inside, the path is centred as a whole.
    """
    half = request.box_wh / 2
    low = (half - travel_xy).max(axis=0)
    high = (request.frame_wh - half - travel_xy).min(axis=0)
    middle = (low + high) / 2
    return np.minimum(low, middle), np.where(high < low, middle, high)
