"""Small grids of tokens, and the masks of their clips."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smile_synth.core.rng import RandomStreams
from smile_train.batch import Batch
from smile_train.config import MaskOptions
from smile_train.masking import (
    MASK_DRAWS,
    Masker,
)

GRID = (3, 5, 7)
FULL = (8, 14, 14)


def draws_of(grid: tuple[int, int, int], batch: int = 4, seed: int = 0) -> Tensor:
    numbers = RandomStreams(seed, range(batch), "mask").random_float32(2, math.prod(grid))
    return torch.from_numpy(numbers)


def masker_of(grid: tuple[int, int, int] = GRID, seed: int = 0, **options: Any) -> Masker:
    return Masker(MaskOptions(**options), grid, patch_size=4, tubelet_size=2, seed=seed)


def still(batch: int = 4, grid: tuple[int, int, int] = GRID) -> Tensor:
    t, h, w = grid
    return torch.zeros(batch, 2 * t, 3, 4 * h, 4 * w, dtype=torch.uint8)


def masks_of(
    masker: Masker,
    indices: Sequence[int] | range,
    frames: Tensor | None = None,
    number: int = 0,
    **labels: Tensor,
) -> Tensor:
    draws = masker.draw(np.asarray(indices), number + 1)
    frames = still(len(indices), masker.grid_thw) if frames is None else frames
    return masker(Batch(torch.tensor(indices), frames, {**labels, MASK_DRAWS: draws}), number)
