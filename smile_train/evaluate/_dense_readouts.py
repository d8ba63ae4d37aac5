"""Motion from frozen tokens: displacement by a linear readout, point tracks by feature matching."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.annotations import Annotation
from smile_synth.core.errors import UserError
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._readouts import INNER_FOLDS, PENALTIES, LinearMap, solve_ridge

Float = NDArray[np.float64]
# Thresholds of TAP-Vid, in pixels of frames that are resized to 256 x 256.
TAPVID_THRESHOLDS, TAPVID_SIDE = (1, 2, 4, 8, 16), 256
# Of the soft argmax: cosines are divided by it. The weights are those of the best token and its neighbours.
TEMPERATURE = 0.05


class TokenGrid(NamedTuple):
    """How tokens divide a clip: their numbers along time and along a side, and their size."""

    times: int
    side: int
    tubelet_size: int
    patch_size: int

    @property
    def token_size(self) -> tuple[int, int]:
        """(tubelet_size, patch_size), in frames and pixels."""
        return self.tubelet_size, self.patch_size

    @classmethod
    def of(cls, encoder: FrozenEncoder, layer: int = -1) -> TokenGrid:
        """Return the grid of an encoder's tokens.

        Raises:
            UserError: no such layer, or its tokens form no grid over space and time.
        """
        frames, pixels = encoder.num_frames, encoder.side
        blank = torch.zeros(1, frames, 3, pixels, pixels, dtype=torch.uint8)
        times, count = encoder.encode(blank, layer).shape[1:3]
        side = math.isqrt(count)
        if min(times, side) < 2 or side**2 != count or pixels % side or frames % times:
            raise UserError(
                f"encoder '{encoder.name}': {times}x{count} tokens for clips of {frames}x{pixels}x{pixels}; "
                "dense readouts need a square grid of at least 2x2 tokens for at least two times"
            )
        return cls(times, side, frames // times, pixels // side)


def token_displacement(annotation: Annotation, token_size: tuple[int, int]) -> Float:
    """Return the exact displacements of tokens from the first to the last frame of their tubelet, ``[N, 2]``.

    In pixels, see `TokenMotion`; NaN where it is not known. Tubelets of one frame: to the next frame.
    """
    motion = annotation.token_motion(token_size, [0 if token_size[0] > 1 else 1])
    return np.where(motion.valid[0, :, None], motion.displacement_xy[0].astype(np.float64), np.nan)


def fit_displacement(batches: Iterable[tuple[Tensor, Float]]) -> LinearMap:
    """Fit ridge regression from the features of a token to its displacement on a signed log scale.

    The scale, ``sign(d) log(1 + |d|)``, reduces the weight of a few fast tokens. The features are
    standardised. The penalty is the one of `PENALTIES` with the smallest squared error in five folds of
    clips; of equal ones the larger. Only sums of products are kept in memory.

    Args:
        batches: tokens ``[B, N, C]`` and displacements ``[B, N, 2]``; tokens with NaN are left out.

    Returns:
        ``weight [C, 2]`` and ``bias [2]``, float64, for features that are not standardised.
    """
    sums: list[Tensor] = []  # by fold: [x, 1, y] transposed times [x, 1, y]
    count = 0
    for tokens, displacement in batches:
        rows = F.pad(tokens.double(), (0, 1), value=1.0)
        target = torch.from_numpy(displacement).to(rows)
        rows = torch.cat([rows, target.sign() * target.abs().log1p()], -1)
        sums = sums or list(rows.new_zeros(INNER_FOLDS, rows.shape[-1], rows.shape[-1]))
        for clip in rows:
            known = clip[clip.isfinite().all(1)]
            sums[count % INNER_FOLDS] += known.T @ known
            count += 1
    products, width = torch.stack(sums), sums[0].shape[0] - 3
    total = products.sum(0)
    moments = total / total[width, width]  # means of products
    mean = moments[:width, width]
    std = (moments.diagonal()[:width] - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6 * (1 + mean.abs())] = torch.inf  # removes constant features
    scale = F.pad(std, (0, 3), value=1.0)
    products = products / torch.outer(scale, scale)
    total, errors = products.sum(0), np.zeros(len(PENALTIES))
    for fold in products:
        for k, (weight, bias) in enumerate(solve_ridge((total - fold)[:-2], width, PENALTIES)):
            # Times [x, 1, y] it is the residual, so the squared errors follow from the products.
            residual = torch.cat([weight, bias[None], -torch.eye(2).to(weight)])
            errors[k] += float((residual.T @ fold @ residual).trace())
    penalty = PENALTIES[int(np.flatnonzero(errors == errors.min())[-1])]
    (found,) = solve_ridge(total[:-2], width, [penalty])
    return LinearMap(found.weight / std[:, None], found.bias)


def read_displacement(readout: LinearMap, tokens: Tensor) -> Float:
    """Return the displacements ``[..., 2]`` in pixels that a readout predicts from tokens ``[..., C]``."""
    predicted = tokens.double() @ readout.weight + readout.bias
    return np.asarray((predicted.sign() * predicted.abs().expm1()).cpu().numpy())


def token_flow(clips: Tensor, token_size: tuple[int, int]) -> Float:
    """Return the optical flow of clips ``[V, T, 3, H, W]`` uint8 as displacements of tokens, ``[V, N, 2]``.

    Flow by DIS (Kroeger et al., arXiv 1603.03590) between the frames of `token_displacement`, mean over the
    pixels of each token, in pixels; NaN where there is no next frame.
    """
    tubelet_size, patch_size = token_size
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    step, (frames, _, height, width) = max(tubelet_size - 1, 1), clips.shape[1:]
    shape = (len(clips), frames // tubelet_size, height // patch_size, width // patch_size, 2)
    flow = np.full(shape, np.nan)
    for clip, out in zip(clips.permute(0, 1, 3, 4, 2).numpy(), flow, strict=True):
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in clip]
        for t, start in enumerate(range(0, frames - step, tubelet_size)):
            pixels = method.calc(grey[start], grey[start + step], np.zeros((height, width, 2), np.float32))
            blocks = np.asarray(pixels, np.float64).reshape(shape[2], patch_size, shape[3], patch_size, 2)
            out[t] = blocks.mean((1, 3))
    return flow.reshape(len(clips), -1, 2)


def match_points(features: Tensor, queries: Tensor, *, window: float | None = None) -> Tensor:
    """Follow points through the times of a feature map: each is where the features are most similar.

    The features at a query are interpolated bilinearly. At every later time the token with the largest cosine
    is taken, and a soft argmax over it and its neighbours gives the position between tokens.

    Args:
        features: ``[T', H', W', C]``.
        queries: ``[P, 3]`` time, x and y; x and y in tokens, the first token's centre is (.5, .5).
        window: only tokens whose centres are within so many tokens of the point's previous position, in x and
            in y, are compared (at least .5); None: all tokens.

    Returns:
        Positions ``[P, T', 2]`` in tokens; up to the query's time that of the query.
    """
    times, height, width = features.shape[:3]
    features, begin = F.normalize(features.float(), dim=-1), queries[:, 0].long()
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    near_x = (1 - (queries[:, 1, None].clamp(0.5, width - 0.5) - x).abs()).clamp(min=0).to(features)
    near_y = (1 - (queries[:, 2, None].clamp(0.5, height - 0.5) - y).abs()).clamp(min=0).to(features)
    points = F.normalize(torch.einsum("ph,pw,phwc->pc", near_y, near_x, features[begin]), dim=-1)
    cosines = torch.einsum("pc,thwc->tphw", points, features).cpu()
    position = queries[:, 1:].float()
    positions = position[:, None].repeat(1, times, 1)
    for t in range(1, times):
        similar = cosines[t]
        if window is not None:
            outside_x = (x - position[:, :1]).abs() > window
            outside_y = (y - position[:, 1:]).abs() > window
            similar = similar.masked_fill(outside_x[:, None] | outside_y[..., None], -torch.inf)
        best = similar.flatten(1).argmax(1)
        row, column = best // width, best % width
        beside = ((x - 0.5 - column[:, None]).abs() <= 1)[:, None] & ((y - 0.5 - row[:, None]).abs() <= 1)[
            ..., None
        ]
        weights = (
            (similar.masked_fill(~beside, -torch.inf).flatten(1) / TEMPERATURE).softmax(1).view_as(similar)
        )
        found = torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], 1)
        position = torch.where((begin < t)[:, None], found, position)
        positions[:, t] = position
    return positions


def tapvid_accuracy(distance: Float, side: int) -> Float:
    """Return for each distance the share of TAP-Vid's thresholds (arXiv 2211.03726) that are larger.

    Its mean over visible points is delta_avg. NaN stays NaN.

    Args:
        distance: between predicted and true points, in pixels.
        side: of the frames, which are resized to 256 pixels for the thresholds.
    """
    scaled = distance * (TAPVID_SIDE / side)
    within = np.mean([scaled < threshold for threshold in TAPVID_THRESHOLDS], axis=0)
    return np.asarray(np.where(np.isnan(distance), np.nan, within))
