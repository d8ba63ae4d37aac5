"""Token masks of whole batches: exact counts, any device, randomness addressed by clip index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import rng
from smile_synth.errors import UserError, nearest

Grid = tuple[int, int, int]

# The streams of `mask_draws`: which tubes are masked, and the order among single tokens.
TUBE, TOKEN = 0, 1
NUM_STREAMS = 2


def mask_draws(
    seed: int, indices: Sequence[int] | NDArray[np.integer], num_tokens: int, *, sample: int = 0
) -> NDArray[np.float32]:
    """Draw what masks are made of.

    Args:
        seed: of the run.
        indices: clip indices; a clip's draws depend on its index alone, never on its batch.
        num_tokens: N.
        sample: which of several independent masks of the same clips.

    Returns:
        Uniform in [0, 1), `[B, 2, N]`: stream 0 decides on tubes, stream 1 on single tokens.

    Raises:
        ValueError: seed or an index outside 0..2^63-1.
    """
    purpose = "mask" if sample == 0 else f"mask {sample}"
    draws = np.empty((len(indices), NUM_STREAMS, num_tokens), np.float32)
    for row, index in zip(draws, indices, strict=True):
        rng.generator(seed, int(index), purpose).random(dtype=np.float32, out=row)
    return draws


def count_masked(grid_thw: Grid, ratio: float) -> int:
    """Return how many tokens every kind of mask hides: T * int(ratio * H * W), 1248 of 8x14x14 at .8.

    Raises:
        ValueError: the ratio lies outside (0, 1), or leaves no token masked or none visible.
    """
    t, h, w = grid_thw
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio must lie between 0 and 1, got {ratio}")
    per_frame = int(ratio * (h * w))
    if per_frame == 0:
        raise ValueError(f"mask ratio {ratio} masks none of the {h}x{w} tokens of a frame")
    return t * per_frame


def random_mask(draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask tokens independently of each other.

    Args:
        draws: `[B, 2, N]` of `mask_draws`.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.

    Returns:
        bool `[B, N]`, True = masked.

    Raises:
        ValueError: draws of another shape, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw)
    return _ranks(draws[:, TOKEN]) < count_masked(grid_thw, ratio)


def tube_mask(draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask the same places of the frame at all times (VideoMAE, arXiv 2203.12602, sec. 3.2).

    Arguments, result and errors as `random_mask`.
    """
    _check_draws(draws, grid_thw)
    t, h, w = grid_thw
    return (_ranks(draws[:, TUBE, : h * w]) < count_masked(grid_thw, ratio) // t).repeat(1, t)


def trajectory_mask(
    draws: Tensor,
    object_tokens: Tensor,
    grid_thw: Grid,
    ratio: float,
    object_visible_share: float = 0.1,
) -> Tensor:
    """Mask the objects but for a share of their tokens, and tubes elsewhere (SMILE, arXiv 2504.00527).

    Of `n` object tokens all but `floor(share * n)` random ones are masked; the others follow the tube
    mask. The count is then made exact. Too many masked: tokens outside objects are shown first, then
    object tokens. Too few: tokens outside objects are masked first, then the object tokens on show.

    Args:
        draws: `[B, 2, N]` of `mask_draws`.
        object_tokens: bool `[B, N]`.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        object_visible_share: 0..1, share of an object's tokens that stays visible.

    Returns:
        bool `[B, N]`, True = masked.

    Raises:
        ValueError: arrays of another shape, a share outside 0..1, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw)
    if object_tokens.shape != draws[:, 0].shape:
        raise ValueError(f"object_tokens must be {list(draws[:, 0].shape)}, got {list(object_tokens.shape)}")
    if not 0 <= object_visible_share <= 1:
        raise ValueError(f"object_visible_share must lie in 0..1, got {object_visible_share}")
    num_tokens = object_tokens.shape[1]
    num_object = object_tokens.sum(1, keepdim=True)
    num_shown = (num_object.double() * object_visible_share).floor().long()
    # The rule above masks the first tokens of this order: objects, masked tubes, visible tubes, and
    # last the object tokens on show, at random within each.
    hidden = tube_mask(draws, grid_thw, ratio)
    category = torch.where(object_tokens, 0, torch.where(hidden, 1, 2))
    rank = _ranks(category + draws[:, TOKEN].double())
    shown = object_tokens & (rank >= num_object - num_shown)
    rank = torch.where(object_tokens, rank, rank - num_shown)
    rank = torch.where(shown, rank + num_tokens - num_object, rank)
    return rank < count_masked(grid_thw, ratio)


MaskFunction = Callable[[Tensor, Tensor | None, Grid, float, float], Tensor]


def _trajectory(draws: Tensor, objects: Tensor | None, grid: Grid, ratio: float, share: float) -> Tensor:
    if objects is None:
        raise ValueError("a trajectory mask needs object_tokens")
    return trajectory_mask(draws, objects, grid, ratio, share)


MASKS: dict[str, MaskFunction] = {
    "random": lambda draws, objects, grid, ratio, share: random_mask(draws, grid, ratio),
    "tube": lambda draws, objects, grid, ratio, share: tube_mask(draws, grid, ratio),
    "trajectory": _trajectory,
}


def make_mask(
    kind: str,
    draws: Tensor,
    grid_thw: Grid,
    ratio: float,
    *,
    object_tokens: Tensor | None = None,
    object_visible_share: float = 0.1,
) -> Tensor:
    """Make a mask of a kind named in `MASKS`; arguments and result as `trajectory_mask`.

    Raises:
        UserError: the kind has no such name.
        ValueError: as the kind's function, or a trajectory mask without `object_tokens`.
    """
    if kind not in MASKS:
        raise UserError(f"unknown mask '{kind}' (one of {', '.join(MASKS)}){nearest(kind, MASKS)}")
    return MASKS[kind](draws, object_tokens, grid_thw, ratio, object_visible_share)


def object_tokens_from_boxes(
    boxes_xyxy: Tensor, grid_thw: Grid, patch_size: int, tubelet_size: int, *, oversize: bool = False
) -> Tensor:
    """Find the tokens under boxes: SMILE's rule, which exact coverage of the objects can replace.

    A token belongs to an object where it overlaps the smallest box around the object's boxes in the
    frames of its tubelet. Boxes are cut at the frame; empty ones and those with NaN are left out.

    Args:
        boxes_xyxy: float `[B, K, T, 4]`, pixels, half-open.
        grid_thw: tokens along time, height and width.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
        oversize: as the published code, one token too far to the right and to the bottom.

    Returns:
        bool `[B, N]`.

    Raises:
        ValueError: boxes of another shape than the grid asks for.
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


def _check_draws(draws: Tensor, grid_thw: Grid) -> None:
    expected = (NUM_STREAMS, math.prod(grid_thw))
    if draws.shape[1:] != expected:
        raise ValueError(f"draws must be [B, {expected[0]}, {expected[1]}], got {list(draws.shape)}")


def _ranks(keys: Tensor) -> Tensor:
    """Return the place of each key in the ascending order of its row; ties keep the order of tokens."""
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
