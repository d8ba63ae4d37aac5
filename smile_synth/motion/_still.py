"""No motion at all: the control every study needs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.motion._base import Path, PathParameters, PathRequest, start_range


class Still(PathParameters):
    """Keys of ``still``: none of its own."""

    family: Literal["still"]


def still(*, rng: np.random.Generator, parameters: Still, request: PathRequest) -> Path:
    """Draw one place inside the frame and stay there."""
    travel = np.zeros((request.num_frames, 2))
    low, high = start_range(request, travel)
    return Path(low + rng.random(2) * (high - low) + travel, {})
