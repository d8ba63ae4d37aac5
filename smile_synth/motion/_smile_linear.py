"""The linear path of SMILE: straight lines between key frames."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative
from smile_synth.motion._base import FamilyParameters, Path, Request, family
from smile_synth.motion._keyframes import interpolate


class SmileLinear(FamilyParameters):
    """Keys of ``smile-linear``.

    Attributes:
        speed: between two key frames the value changes by U(-speed, speed) per frame, on every axis.
    """

    family: Literal["smile-linear"]
    speed: NonNegative = 12.0


@family(SmileLinear, bounded=True)
def smile_linear(*, rng: RandomStreams, parameters: SmileLinear, request: Request) -> Path:
    """Draw a uniform start and steps to the key frames, clipped to the bounds there, as in SMILE's code."""
    keys = request.key_times
    frames = np.clip(np.round(keys).astype(int), 0, request.num_frames - 1)
    rows = np.arange(request.num_rows)[:, None]
    low, high = (bound[rows, frames] for bound in request.ordered_bounds())
    values = [low[:, 0] + rng.random(request.dims) * (high[:, 0] - low[:, 0])]
    for k in range(1, keys.shape[1]):
        step = rng.uniform(-parameters.speed, parameters.speed, request.dims)
        step = step * (keys[:, k] - keys[:, k - 1])[:, None]
        values.append(np.clip(values[-1] + step, low[:, k], high[:, k]))
    return Path(interpolate(keys, np.stack(values, axis=1), request.num_frames, rng=rng))
