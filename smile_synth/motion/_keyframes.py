"""Key frames and key-framed curves, as SMILE draws them (arXiv 2504.00527 and its public code)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from smile_synth.motion._base import Float
from smile_synth.strict_yaml import StrictModel

Probability = Annotated[float, Field(ge=0, le=1)]


class KeyTimesParameters(StrictModel):
    """How many key frames a clip has between its first and its last frame, and where.

    Attributes:
        inner_probability: probability of 0, 1, 2, ... inner key frames; sums to 1.
        jitter: each inner key frame moves by up to this share of their spacing.
    """

    inner_probability: list[Probability] = Field(default=[0.5, 0.3, 0.2], min_length=1)
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 1 / 3

    @model_validator(mode="after")
    def _check(self) -> KeyTimesParameters:
        total = sum(self.inner_probability)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"inner_probability must sum to 1, got {total:g}")
        return self


def draw_key_times(num_frames: int, parameters: KeyTimesParameters, *, rng: np.random.Generator) -> Float:
    """Draw key times ``[K]``: frame 0, the inner ones on whole frames, frame ``num_frames - 1``."""
    probabilities = np.array(parameters.inner_probability)
    inner = int(rng.choice(len(probabilities), p=probabilities / probabilities.sum()))
    jitter = rng.uniform(-parameters.jitter, parameters.jitter, inner)
    last = num_frames - 1
    if last == 0:
        return np.zeros(1)
    spacing = last / (inner + 1)
    times = (np.arange(1, inner + 1) + jitter) * spacing
    # A key FRAME is a frame: between two of them the published speeds come out only on whole frames.
    return np.unique(np.concatenate([[0.0], np.round(times), [float(last)]]))


# Between two key frames a value runs linearly, with constant acceleration from rest, or with constant
# deceleration to rest.
EASING_PROBABILITY = (0.7, 0.15, 0.15)


def interpolate(key_times: Float, key_values: Float, num_frames: int, *, rng: np.random.Generator) -> Float:
    """Interpolate key values ``[K, D]`` to frames ``[T, D]``, drawing the easing of every segment."""
    segments = len(key_times) - 1
    if segments == 0:
        return np.repeat(key_values[:1], num_frames, axis=0)
    easing = rng.choice(3, size=segments, p=EASING_PROBABILITY)
    frames = np.arange(num_frames, dtype=np.float64)
    segment = np.clip(np.searchsorted(key_times, frames, side="right") - 1, 0, segments - 1)
    start, stop = key_times[segment], key_times[segment + 1]
    u = (frames - start) / (stop - start)
    kind = easing[segment]
    u = np.where(kind == 1, u * u, np.where(kind == 2, u * (2 - u), u))[:, None]
    return key_values[segment] * (1 - u) + key_values[segment + 1] * u


def draw_curve(
    start: Float, rate: float, key_times: Float, num_frames: int, *, rng: np.random.Generator
) -> Float:
    """Draw a curve ``[T, D]`` from ``start`` ``[D]``: each key adds U(-rate, rate) x the frames passed."""
    if rate == 0:
        return np.repeat(start[None], num_frames, axis=0)
    dt = np.diff(key_times)[:, None]
    steps = rng.uniform(-rate, rate, (len(dt), len(start))) * dt
    values = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
    return interpolate(key_times, values, num_frames, rng=rng)
