"""Key frames and key-framed motion, as in SMILE (arXiv 2504.00527 and its public code)."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from smile_synth.core.compile import kernel
from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative, Share
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import FamilyParameters, Float, Path, Request, family

Int = NDArray[np.int64]
# The order is that of the numbers in `_fill_interpolated`.
EasingName = Literal["linear", "accelerate", "decelerate", "smooth", "hold"]
EASINGS: tuple[EasingName, ...] = get_args(EasingName)
# As published: linear, constant acceleration from rest, constant deceleration to rest.
PUBLISHED_EASING: dict[EasingName, float] = {"linear": 0.7, "accelerate": 0.15, "decelerate": 0.15}


class KeyTimesParameters(StrictModel):
    """Number and times of the key frames between the first and the last frame of a clip.

    Attributes:
        inner_probability: probability of 0, 1, 2, ... inner key frames; sums to 1.
        jitter: each inner key frame moves by up to this share of their spacing.
        shared: all objects of a clip have the same key frames, as published; otherwise each has its own.
    """

    inner_probability: list[Share] = Field(default=[0.5, 0.3, 0.2], min_length=1)
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
) -> tuple[Float, Int]:
    """Draw key times ``[R, K]`` and the number of valid ones ``[R]``; the rest repeats the last frame.

    Valid key times are frame 0, inner whole frames and frame ``num_frames - 1``, without repetition.
    """
    inner = rng.choice(parameters.inner_probability)
    max_inner = len(parameters.inner_probability) - 1
    jitter = rng.uniform(-parameters.jitter, parameters.jitter, max_inner)
    last = float(num_frames - 1)
    # Key times are rounded to whole frames because the published speeds hold between whole frames.
    rounded = ((np.arange(1, max_inner + 1) + jitter) * (last / (inner + 1))[:, None]).round()
    times, counts = np.full((len(rng), max_inner + 2), last), np.empty(len(rng), np.int64)
    _fill_key_times(rounded, inner, last, times, counts)
    return times, counts


@kernel
def _fill_key_times(rounded, inner, last, times, counts):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy the distinct key times to the front of ``times``, which is filled with ``last``."""
    for r in range(times.shape[0]):
        times[r, 0] = 0.0
        count = 1
        for k in range(inner[r]):
            if times[r, count - 1] < rounded[r, k] < last:
                times[r, count] = rounded[r, k]
                count += 1
        counts[r] = count + 1 if last > 0.0 else 1


def interpolate(
    key_times: Float,
    key_values: Float,
    num_frames: int,
    *,
    rng: RandomStreams,
    easing: dict[EasingName, float] = PUBLISHED_EASING,
) -> Float:
    """Interpolate values ``[R, K, D]`` at times ``[R, K]`` to frames ``[R, T, D]``, with random easings.

    ``easing`` gives the weight of each easing; every segment between two key frames draws one.
    """
    segments = key_times.shape[1] - 1
    if segments == 0:
        return np.repeat(key_values[:, :1], num_frames, axis=1)
    drawn = _numbers(tuple(easing))[rng.choice(list(easing.values()), segments)]
    out = np.empty((len(key_values), num_frames, key_values.shape[2]))
    _fill_interpolated(key_times, key_values, drawn, out)
    return out


@lru_cache(maxsize=64)
def _numbers(easings: tuple[EasingName, ...]) -> Int:
    return np.array([EASINGS.index(name) for name in easings])


@kernel
def _fill_interpolated(key_times, key_values, easing, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill ``out [R, T, D]`` by easings ``[R, K - 1]``, numbers of `EASINGS`."""
    for r in range(out.shape[0]):
        k = 0
        for t in range(out.shape[1]):
            while k < easing.shape[1] - 1 and t >= key_times[r, k + 1]:
                k += 1
            u = (t - key_times[r, k]) / (key_times[r, k + 1] - key_times[r, k])
            if easing[r, k] == 0:
                share = u
            elif easing[r, k] == 1:
                share = u * u
            elif easing[r, k] == 2:
                share = u * (2.0 - u)
            elif easing[r, k] == 3:
                share = u * u * (3.0 - 2.0 * u)
            else:
                share = np.floor(u)
            for d in range(out.shape[2]):
                out[r, t, d] = key_values[r, k, d] * (1.0 - share) + key_values[r, k + 1, d] * share


def _in_order(easing: dict[EasingName, float]) -> dict[EasingName, float]:
    """Return a mapping in the order of `EASINGS`, so that its own order does not change the draws."""
    return {name: easing[name] for name in EASINGS if name in easing}


class EasedParameters(FamilyParameters):
    """Keys of the families with key frames.

    Attributes:
        easing: weight of each kind of change between two key frames.
    """

    easing: Annotated[dict[EasingName, NonNegative], AfterValidator(_in_order)] = Field(
        default=PUBLISHED_EASING, min_length=1
    )

    @model_validator(mode="after")
    def _check_easing(self) -> EasedParameters:
        if not sum(self.easing.values()) > 0:
            raise ValueError("easing: at least one weight must be above 0")
        return self


class KeyFramed(EasedParameters):
    """Keys of ``key-framed``; in a curve, ``{rate: r}`` is its short form.

    Attributes:
        rate: between two key frames the value changes by U(-rate, rate) per frame, in each dimension.
    """

    family: Literal["key-framed"]
    rate: NonNegative


@family(KeyFramed)
def key_framed(*, rng: RandomStreams, parameters: KeyFramed, request: Request) -> Path:
    """Draw a step from each key frame to the next, and interpolate."""
    keys, rate = request.key_times, parameters.rate
    steps = rng.uniform(-rate, rate, keys.shape[1] - 1, request.dims)
    steps *= (keys[:, 1:] - keys[:, :-1])[..., None]
    values = np.zeros((request.num_rows, keys.shape[1], request.dims))
    steps.cumsum(axis=1, out=values[:, 1:])
    travel = interpolate(keys, values, request.num_frames, rng=rng, easing=parameters.easing)
    return Path(request.place(travel, rng=rng))


class KeyValues(EasedParameters):
    """Keys of ``key-values``.

    Attributes:
        amount: at every key frame the value differs from the middle by U(-amount, amount).
    """

    family: Literal["key-values"]
    amount: NonNegative


@family(KeyValues)
def key_values(*, rng: RandomStreams, parameters: KeyValues, request: Request) -> Path:
    """Draw an independent value for each key frame, and interpolate."""
    keys = request.key_times
    values = rng.uniform(-parameters.amount, parameters.amount, keys.shape[1], request.dims)
    travel = interpolate(keys, values, request.num_frames, rng=rng, easing=parameters.easing)
    return Path(request.place(travel, rng=rng))
