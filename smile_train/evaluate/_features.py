"""Features of clips: a student's, and those that need no student."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data import normalise
from smile_train.models import Student

Float = NDArray[np.float64]


@torch.no_grad()
def encode_clips(student: Student, frames: Tensor, *, batch_size: int = 64) -> Float:
    """Return the mean of all encoder tokens ``[N, width]`` of clips ``[N, T, 3, H, W]`` uint8."""
    device = next(student.parameters()).device
    student.eval()
    parts = [student.encode(normalise(part.to(device))).mean(1).cpu() for part in frames.split(batch_size)]
    return np.asarray(torch.cat(parts).double().numpy())


def color_statistics(frames: Tensor) -> Float:
    """Return mean and spread per channel of the time-averaged frame, ``[N, 6]``: no motion in it."""
    average = frames.float().mean(1)
    return np.asarray(torch.cat([average.mean((2, 3)), average.std((2, 3))], 1).double().numpy())


def frame_means(frames: Tensor, *, cells: int = 4) -> Float:
    """Return the mean colour of cells x cells fields of EVERY frame, ``[N, T * 3 * cells^2]``.

    An upper reference on synthetic motion: where things are, frame by frame, before any pooling.
    """
    n, t = frames.shape[:2]
    pooled = torch.nn.functional.adaptive_avg_pool2d(frames.flatten(0, 1).float(), cells)
    return np.asarray(pooled.reshape(n, t * 3 * cells * cells).double().numpy())
