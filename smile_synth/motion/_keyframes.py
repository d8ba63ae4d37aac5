"""Key frames and key-framed motion, as SMILE draws it (arXiv 2504.00527 and its public code)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import FamilyParameters, Float, Path, Request

Probability = Annotated[float, Field(ge=0, le=1)]
EasingName = Literal["linear", "accelerate", "decelerate", "smooth", "hold"]

# How far a value has gone (0..1) when a share u of the time between two keys has passed.
EASINGS: dict[EasingName, Callable[[Float], Float]] = {
    "linear": lambda u: u,
    "accelerate": lambda u: u * u,
    "decelerate": lambda u: u * (2 - u),
    "smooth": lambda u: u * u * (3 - 2 * u),
    "hold": lambda u: np.floor(u),
}
# As published: linear, constant acceleration from rest, or constant deceleration to rest.
PUBLISHED_EASING: dict[EasingName, float] = {"linear": 0.7, "accelerate": 0.15, "decelerate": 0.15}


class KeyTimesParameters(StrictModel):
    """How many key frames a clip has between its first and its last frame, and where.

    Attributes:
        inner_probability: probability of 0, 1, 2, ... inner key frames; sums to 1.
        jitter: each inner key frame moves by up to this share of their spacing.
        shared: all objects of a clip have the same key frames, as published, instead of their own.
    """

    inner_probability: list[Probability] = Field(default=[0.5, 0.3, 0.2], min_length=1)
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 1 / 3
    shared: bool = True

    @model_validator(mode="after")
    def _check(self) -> KeyTimesParameters:
        total = sum(self.inner_probability)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"inner_probability must sum to 1, got {total:g}")
        return self


def draw_key_times(
    num_frames: int, parameters: KeyTimesParameters, *, rng: RandomStreams
) -> tuple[Float, np.ndarray]:
    """Draw key times ``[R, K]`` and how many of them count, ``[R]``; the rest repeats the last.

    Frame 0, the inner ones on whole frames, frame ``num_frames - 1``, each once.
    """
    inner = rng.choice(parameters.inner_probability)
    most = len(parameters.inner_probability) - 1
    jitter = rng.uniform(-parameters.jitter, parameters.jitter, most)
    last = float(num_frames - 1)
    number = np.arange(1, most + 1)
    # A key FRAME is a frame: between two of them the published speeds come out only on whole frames.
    times = np.round((number + jitter) * (last / (inner + 1))[:, None])
    times = np.where(number <= inner[:, None], times, last)
    ends = np.zeros((len(rng), 1)), np.full((len(rng), 1), last)
    times = np.sort(np.concatenate([ends[0], times, ends[1]], axis=1), axis=1)
    repeated = np.concatenate([np.zeros((len(rng), 1), bool), np.diff(times, axis=1) == 0], axis=1)
    times = np.sort(np.where(repeated, last, times), axis=1)
    return times, np.asarray(times.shape[1] - repeated.sum(axis=1))


def interpolate(
    key_times: Float,
    key_values: Float,
    num_frames: int,
    *,
    rng: RandomStreams,
    easing: dict[EasingName, float] = PUBLISHED_EASING,
) -> Float:
    """Interpolate values ``[R, K, D]`` at ``[R, K]`` to frames ``[R, T, D]``, drawing every easing."""
    segments = key_times.shape[1] - 1
    if segments == 0:
        return np.repeat(key_values[:, :1], num_frames, axis=1)
    names = list(easing)
    drawn = rng.choice(list(easing.values()), segments)
    frames = np.arange(num_frames, dtype=np.float64)
    segment = (frames[:, None] >= key_times[:, None, :]).sum(axis=-1) - 1
    segment = np.clip(segment, 0, segments - 1)
    rows = np.arange(len(key_times))[:, None]
    start, stop = key_times[rows, segment], key_times[rows, segment + 1]
    u = (frames - start) / (stop - start)
    kind = drawn[rows, segment]
    eased = np.select([kind == k for k in range(len(names))], [EASINGS[name](u) for name in names])[..., None]
    return np.asarray(key_values[rows, segment] * (1 - eased) + key_values[rows, segment + 1] * eased)


def _in_order(easing: dict[EasingName, float]) -> dict[EasingName, float]:
    """Return a mapping in the registry's order: its own, which files need not keep, must not matter."""
    return {name: easing[name] for name in EASINGS if name in easing}


class EasedParameters(FamilyParameters):
    """Keys of the families that run from key frame to key frame.

    Attributes:
        easing: how often each way to get from key to key is taken.
    """

    easing: Annotated[dict[EasingName, NonNegative], AfterValidator(_in_order)] = Field(
        default=PUBLISHED_EASING, min_length=1
    )

    @model_validator(mode="after")
    def _check_easing(self) -> EasedParameters:
        if not sum(self.easing.values()) > 0:
            raise ValueError("easing: one of the ways must be taken, all have 0")
        return self


class KeyFramed(EasedParameters):
    """Keys of ``key-framed``; ``{rate: r}`` alone is short for it in a curve.

    Attributes:
        rate: between two key frames the value changes by U(-rate, rate) per frame, in each dimension.
    """

    family: Literal["key-framed"]
    rate: NonNegative


def key_framed(*, rng: RandomStreams, parameters: KeyFramed, request: Request) -> Path:
    """Draw a value per key, each a step from the one before, and run from key to key."""
    keys, rate = request.key_times, parameters.rate
    steps = rng.uniform(-rate, rate, keys.shape[1] - 1, request.dims) * np.diff(keys, axis=1)[..., None]
    values = np.concatenate([np.zeros((request.num_rows, 1, request.dims)), np.cumsum(steps, axis=1)], axis=1)
    travel = interpolate(keys, values, request.num_frames, rng=rng, easing=parameters.easing)
    return Path(request.place(travel, rng=rng))


class KeyValues(EasedParameters):
    """Keys of ``key-values``.

    Attributes:
        amount: every key frame has a value of its own, U(-amount, amount) from a common middle.
    """

    family: Literal["key-values"]
    amount: NonNegative


def key_values(*, rng: RandomStreams, parameters: KeyValues, request: Request) -> Path:
    """Draw a value per key, whatever the others are, and run from key to key."""
    keys = request.key_times
    values = rng.uniform(-parameters.amount, parameters.amount, keys.shape[1], request.dims)
    travel = interpolate(keys, values, request.num_frames, rng=rng, easing=parameters.easing)
    return Path(request.place(travel, rng=rng))
