"""No motion: the control of every study."""

from __future__ import annotations

from typing import Literal

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.motion._base import FamilyParameters, Path, Request, family


class Still(FamilyParameters):
    """Keys of ``still``: only those that every family has."""

    family: Literal["still"]


@family(Still)
def still(*, rng: RandomStreams, parameters: Still, request: Request) -> Path:
    """Draw one place within the bounds for all frames."""
    return Path(request.place(np.zeros((request.num_rows, request.num_frames, request.dims)), rng=rng))
