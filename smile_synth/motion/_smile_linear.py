"""SMILE's second path: straight lines between key frames."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.motion._base import NonNegative, Path, PathParameters, PathRequest
from smile_synth.motion._keyframes import interpolate


class SmileLinear(PathParameters):
    """Keys of ``smile-linear``.

    Attributes:
        speed: pixels per frame and axis; between key frames the centre moves by U(-speed, speed) per
            frame on each axis.
    """

    family: Literal["smile-linear"]
    speed: NonNegative = 12.0


def smile_linear(*, rng: np.random.Generator, parameters: SmileLinear, request: PathRequest) -> Path:
    """Draw the key-framed path of SMILE: a uniform start, then U(-speed, speed) x frames per axis from
    key to key, clipped so that the box of that moment stays inside the frame."""
    keys = request.key_times
    half = request.box_wh[np.clip(np.round(keys).astype(int), 0, request.num_frames - 1)] / 2
    low = np.minimum(half, request.frame_wh / 2)
    high = np.maximum(request.frame_wh - half, request.frame_wh / 2)
    centers = [low[0] + rng.random(2) * (high[0] - low[0])]
    for k in range(1, len(keys)):
        step = rng.uniform(-parameters.speed, parameters.speed, 2) * (keys[k] - keys[k - 1])
        centers.append(np.clip(centers[-1] + step, low[k], high[k]))
    return Path(interpolate(keys, np.array(centers), request.num_frames, rng=rng), {})
