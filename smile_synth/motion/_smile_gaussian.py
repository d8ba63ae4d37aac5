"""The default path of SMILE: smoothed noise, stretched to a drawn extent."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import gaussian_filter1d

from smile_synth.core.compile import kernel
from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegativeRange, Positive
from smile_synth.motion._base import FamilyParameters, Float, Path, Request, family


class SmileGaussian(FamilyParameters):
    """Keys of ``smile-gaussian``.

    Attributes:
        extent: [low, high]; one extent for all axes.
        num_points: number of random points that are smoothed into a path.
        sigma: of the Gaussian filter, in points.
        whole_samples: use the nearest point for a frame, as published, which makes the speed uneven (steps of
            3 and 4 points); otherwise interpolate between two points.
        truncate: round extent, place and path down to whole numbers, as the published code does.
    """

    family: Literal["smile-gaussian"]
    extent: NonNegativeRange = (40.0, 179.0)
    num_points: Annotated[int, Field(ge=2)] = 48
    sigma: Positive = 8.0
    whole_samples: bool = True
    truncate: bool = False

    @model_validator(mode="after")
    def _check(self) -> SmileGaussian:
        if self.sigma > self.num_points:  # only rounding errors would be left to stretch
            raise ValueError(f"sigma must be at most num_points ({self.num_points}), got {self.sigma:g}")
        return self


@lru_cache(maxsize=8)
def _smoothing(num_points: int, sigma: float) -> Float:
    """Return the Gaussian filter as a matrix ``[P, P]``."""
    return np.asarray(gaussian_filter1d(np.eye(num_points), sigma, axis=0, mode="reflect"))


@lru_cache(maxsize=64)
def _sample_positions(num_points: int, num_frames: int, whole: bool) -> tuple[NDArray[np.int64], Float]:
    """Return the point before each frame ``[T]``, and the weight ``[T]`` of the point after it."""
    position = np.linspace(0, num_points - 1, num_frames)
    if whole:
        position = np.round(position)
    before = np.minimum(position.astype(np.int64), num_points - 2)
    return before, position - before


@family(SmileGaussian, bounded=True)
def smile_gaussian(*, rng: RandomStreams, parameters: SmileGaussian, request: Request) -> Path:
    """Draw the path of SMILE (arXiv 2504.00527), section 3.1.

    Uniform points are Gaussian-filtered and min-max normalised per axis, multiplied by one extent for all
    axes, moved to a uniform place in the whole range, and sampled at equal steps.
    """
    num_points = parameters.num_points
    points = _smoothing(num_points, parameters.sigma) @ rng.random(num_points, request.dims)
    range_low, range_high = request.outer
    width = range_high - range_low - request.pixel
    longest = float(width.min())
    extent = rng.uniform(min(parameters.extent[0], longest), min(parameters.extent[1], longest))
    place = rng.random(request.dims)
    if parameters.truncate:
        extent = np.floor(extent)
    offset = place * np.maximum(width - extent[:, None], 0)
    if parameters.truncate:
        offset = np.floor(offset)
    values = np.empty((request.num_rows, request.num_frames, request.dims))
    before, weight = _sample_positions(num_points, request.num_frames, parameters.whole_samples)
    _fill_path(points, before, weight, extent, range_low + offset, values)
    if parameters.truncate:
        values = np.floor(values)
    return Path(values.clip(range_low, range_high), {f"extent_{request.unit}": extent})


@kernel
def _fill_path(points, before, weight, extent, lowest, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Normalise points ``[R, P, D]`` to 0..1, sample them, and stretch them to ``extent`` from ``lowest``."""
    for r in range(out.shape[0]):
        for d in range(out.shape[2]):
            low, high = points[r, :, d].min(), points[r, :, d].max()
            for t in range(out.shape[1]):
                p, u = before[t], weight[t]
                first, second = (
                    (points[r, p, d] - low) / (high - low),
                    (points[r, p + 1, d] - low) / (high - low),
                )
                out[r, t, d] = (first * (1.0 - u) + second * u) * extent[r] + lowest[r, d]
