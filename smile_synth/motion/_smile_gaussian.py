"""SMILE's default path: smoothed noise, stretched to a drawn extent."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.ndimage import gaussian_filter1d

from smile_synth.motion._base import (
    Float,
    NonNegative,
    Path,
    PathParameters,
    PathRequest,
    Positive,
    Range,
    ordered,
)


class SmileGaussian(PathParameters):
    """Keys of ``smile-gaussian``.

    Attributes:
        extent: [low, high] pixels; one value for both axes is drawn.
        num_points: random points that are smoothed into a path.
        sigma: of the Gaussian filter, in points.
        whole_samples: a frame takes the nearest point, as published, which makes the speed uneven (steps of
            3 and 4 points); otherwise it is interpolated between two points.
    """

    family: Literal["smile-gaussian"]
    extent: tuple[NonNegative, NonNegative] = (40.0, 179.0)
    num_points: Annotated[int, Field(ge=2)] = 48
    sigma: Positive = 8.0
    whole_samples: bool = True

    @model_validator(mode="after")
    def _check(self) -> SmileGaussian:
        ordered("extent", self.extent)
        if self.sigma > self.num_points:  # nothing but rounding would be left to stretch
            raise ValueError(f"sigma must be at most num_points ({self.num_points}), got {self.sigma:g}")
        return self


@lru_cache(maxsize=8)
def _smoothing(num_points: int, sigma: float) -> Float:
    """Return the filter as a matrix ``[P, P]``, so that smoothing is one product."""
    return np.asarray(gaussian_filter1d(np.eye(num_points), sigma, axis=0, mode="reflect"))


def smile_gaussian(*, rng: np.random.Generator, parameters: SmileGaussian, request: PathRequest) -> Path:
    """Draw the path of SMILE, section 3.1: 48 uniform points, Gaussian-filtered per axis, min-max
    normalised per axis, times one extent for both axes, at a uniform place in the frame, evenly
    sampled. Nothing is truncated to whole pixels here (the published code does)."""
    points = _smoothing(parameters.num_points, parameters.sigma) @ rng.random((parameters.num_points, 2))
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - low) / (high - low)
    extent = rng.uniform(*_within(parameters.extent, request))
    offset = rng.random(2) * np.maximum(request.frame_wh - 1 - extent, 0)
    position = np.linspace(0, parameters.num_points - 1, request.num_frames)
    if parameters.whole_samples:
        position = np.round(position)
    before = np.minimum(position.astype(int), parameters.num_points - 2)
    u = (position - before)[:, None]
    sampled = points[before] * (1 - u) + points[before + 1] * u
    center = np.clip(sampled * extent + offset, 0, request.frame_wh)
    return Path(center, {"extent_px": float(extent)})


def _within(extent: Range, request: PathRequest) -> Range:
    longest = float(request.frame_wh.min()) - 1
    return min(extent[0], longest), min(extent[1], longest)
