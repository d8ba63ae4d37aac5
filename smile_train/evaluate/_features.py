"""Features of clips: an encoder's, and those that need none."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.evaluate._encoders import FrozenEncoder

Float = NDArray[np.float64]


# Channels kept of every token that is read in its place.
NUM_COMPONENTS = 8


def encode_tokens(encoder: FrozenEncoder, frames: Tensor, *, batch_size: int = 64) -> NDArray[np.float32]:
    """Return all tokens ``[N, tokens, width]`` of clips ``[N, T, 3, H, W]`` uint8."""
    parts = [encoder.tokens(part).flatten(1, 2).cpu() for part in frames.split(batch_size)]
    return np.asarray(torch.cat(parts).numpy())


def tokens_in_place(train: NDArray[np.float32], test: NDArray[np.float32]) -> tuple[Float, Float]:
    """Reduce tokens ``[N, tokens, width]`` to their first principal components, each left in its place.

    Averaging over tokens forgets where things were and when; this keeps it, at ``NUM_COMPONENTS`` values a
    token. The components are those of the training clips. Returns two ``[N, tokens * NUM_COMPONENTS]``.
    """
    from sklearn.decomposition import PCA  # takes seconds, and needed here alone

    width = train.shape[-1]
    components = PCA(NUM_COMPONENTS, svd_solver="covariance_eigh").fit(
        train.reshape(-1, width).astype(np.float64)
    )
    reduced = [components.transform(part.reshape(-1, width)).reshape(len(part), -1) for part in (train, test)]
    return reduced[0], reduced[1]


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
