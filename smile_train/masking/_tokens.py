"""Which tokens show objects, and how much they move."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.masking._rules import Grid


def token_motion(frames: Tensor, patch_size: int, tubelet_size: int) -> Tensor:
    """Return how much each token changes: mean absolute difference to the frame before, ``[B, N]`` float32.

    Args:
        frames: uint8 ``[B, T, 3, H, W]``. Frame 0 gets the value of frame 1.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
    """
    batch, time, _, height, width = frames.shape
    # The mean over channels is taken first: it needs a third of the memory, and the result is almost equal.
    gray = frames.float().mean(2)
    change = (gray[:, 1:] - gray[:, :-1]).abs()
    change = torch.cat([change[:, :1], change], dim=1) if time > 1 else torch.zeros_like(gray)
    sides = (time // tubelet_size, tubelet_size, height // patch_size, patch_size, width // patch_size)
    return change.view(batch, *sides, patch_size).mean((2, 4, 6)).flatten(1)


def object_tokens_from_boxes(
    boxes_xyxy: Tensor, grid_thw: Grid, patch_size: int, tubelet_size: int, *, oversize: bool = False
) -> Tensor:
    """Return which tokens are object tokens, from boxes, by SMILE's rule.

    For each object and tubelet, the boxes in the tubelet's frames are replaced by the smallest box around
    them. Tokens that overlap this box are object tokens. Boxes are cropped to the frame. Empty boxes and
    boxes with NaN are ignored.

    Args:
        boxes_xyxy: float ``[B, K, T, 4]``, pixels, half-open.
        grid_thw: tokens along time, height and width.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
        oversize: add one token to the right and to the bottom, as the published code does.

    Returns:
        bool ``[B, N]``.

    Raises:
        ValueError: boxes have another shape.
    """
    t, h, w = grid_thw
    if boxes_xyxy.ndim != 4 or boxes_xyxy.shape[2:] != (t * tubelet_size, 4):
        raise ValueError(f"boxes must be [B, K, {t * tubelet_size}, 4], got {list(boxes_xyxy.shape)}")
    limit = torch.tensor([w, h], dtype=boxes_xyxy.dtype, device=boxes_xyxy.device) * patch_size
    low = boxes_xyxy[..., :2].clamp(min=0)
    high = torch.minimum(boxes_xyxy[..., 2:], limit)
    filled = (low < high).all(-1, keepdim=True)
    by_tubelet = (*boxes_xyxy.shape[:2], t, tubelet_size, 2)
    low = torch.where(filled, low, math.inf).reshape(by_tubelet).amin(3)
    high = torch.where(filled, high, -math.inf).reshape(by_tubelet).amax(3)
    start, stop = (low / patch_size).floor(), (high / patch_size).ceil() + int(oversize)

    def under(axis: int, size: int) -> Tensor:
        place = torch.arange(size, device=boxes_xyxy.device)
        return (place >= start[..., axis, None]) & (place < stop[..., axis, None])

    inside: Tensor = under(1, h)[..., :, None] & under(0, w)[..., None, :]
    return inside.any(1).flatten(1)


def upright_boxes(
    object_to_frame: NDArray[np.float64], sizes_hw: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the boxes that objects would have without rotation. The published masks use these boxes.

    Args:
        object_to_frame: ``[K, T, 3, 3]`` poses of the objects' textures.
        sizes_hw: ``[K, 2]`` height and width of the textures.

    Returns:
        ``[K, T, 4]`` xyxy in pixels: centre of the texture minus and plus half of its scaled sides.
    """
    height, width = np.asarray(sizes_hw, np.float64)[:, None].transpose(2, 0, 1)
    middle = np.stack([width / 2, height / 2, np.ones_like(width)], axis=-1)
    center = np.einsum("ktij,koj->kti", object_to_frame, middle)
    center = center[..., :2] / center[..., 2:]
    sides = np.linalg.norm(object_to_frame[..., :2, :2], axis=-2) * np.stack([width, height], axis=-1)
    return np.concatenate([center - sides / 2, center + sides / 2], axis=-1)
