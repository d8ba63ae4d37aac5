"""The rules of masks: which tokens are masked, from random draws and from the tokens of objects."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = tuple[int, int, int]

# Rows of a clip's random numbers: the first gives the random order of tubes, the second that of tokens.
TUBE, TOKEN = 0, 1
NUM_ROWS = 2

# V-JEPA (arXiv 2404.08471) hides a union of blocks that last the whole clip. Each covers this share of the
# frame; its aspect lies in this range. The union of NUM_BLOCKS blocks is larger than any usual ratio.
BLOCK_SHARE = 0.15
BLOCK_ASPECT = (0.75, 1.5)
NUM_BLOCKS = 24


def count_masked(grid_thw: Grid, ratio: float) -> int:
    """Return how many tokens a mask hides: T * int(ratio * H * W), 1248 of 8x14x14 at .8.

    For a mask of kind clear-past, T is the number of tubelets that are masked.

    Raises:
        ValueError: the ratio lies outside (0, 1), or masks no token.
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
        draws: ``[B, 2, N]`` uniform in [0, 1): row 0 gives the order of tubes, row 1 that of single tokens.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: draws of another shape, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw)
    return _ranks(draws[:, TOKEN]) < count_masked(grid_thw, ratio)


def tube_mask(draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask the same positions in all tubelets (VideoMAE, arXiv 2203.12602, sec. 3.2).

    Arguments, result and errors as `random_mask`.
    """
    _check_draws(draws, grid_thw)
    t, h, w = grid_thw
    return (_ranks(draws[:, TUBE, : h * w]) < count_masked(grid_thw, ratio) // t).repeat(1, t)


def clear_past_mask(draws: Tensor, grid_thw: Grid, ratio: float, num_clear: int) -> Tensor:
    """Mask no token of the first tubelets, and random tokens of every later one (RVM, arXiv 2512.13684).

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        grid_thw: tokens along time, height and width.
        ratio: share to mask of each later tubelet, int(ratio * H * W) tokens.
        num_clear: first tubelets that stay visible, 1 .. T - 1.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: draws of another shape, a ratio that `count_masked` refuses, or no tubelet to mask.
    """
    _check_draws(draws, grid_thw)
    t, h, w = grid_thw
    if not 0 < num_clear < t:
        raise ValueError(f"num_clear must lie in 1..{t - 1}, got {num_clear}")
    by_tubelet = draws[:, TOKEN].reshape(-1, h * w)
    mask = (_ranks(by_tubelet) < count_masked((1, h, w), ratio)).view(-1, t, h * w)
    return (mask & (torch.arange(t, device=mask.device) >= num_clear)[:, None]).flatten(1)


def block_mask(blocks: Tensor, draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask a union of blocks that last the whole clip (after V-JEPA, arXiv 2404.08471, sec. 3).

    Each block covers `BLOCK_SHARE` of the frame. Its aspect is log-uniform in `BLOCK_ASPECT`, its position
    uniform inside the frame. Blocks are added until the count is reached. In the last block, only as many
    random positions are masked as are still needed.

    Args:
        blocks: uniform draws ``[B, num_blocks, 3]``: aspect, row and column of each block.
        draws: ``[B, 2, N]`` as of `random_mask`; row 0 gives the order of positions within a block.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: draws of another shape, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw)
    t, h, w = grid_thw
    low, high = (math.log(aspect) for aspect in BLOCK_ASPECT)
    aspect = torch.exp(low + (high - low) * blocks[..., 0])
    height = (BLOCK_SHARE * h * w / aspect).sqrt().round().clamp(1, h)
    width = (BLOCK_SHARE * h * w * aspect).sqrt().round().clamp(1, w)
    top = (blocks[..., 1] * (h - height + 1)).floor()
    left = (blocks[..., 2] * (w - width + 1)).floor()

    def within(start: Tensor, length: Tensor, size: int) -> Tensor:
        place = torch.arange(size, device=draws.device)
        return (place >= start[..., None]) & (place < (start + length)[..., None])

    inside = within(top, height, h)[..., :, None] & within(left, width, w)[..., None, :]
    num_blocks = blocks.shape[1]
    order = torch.arange(num_blocks, device=draws.device)[:, None, None]
    first = torch.where(inside, order, num_blocks).amin(1).flatten(1)
    key = first + draws[:, TUBE, : h * w].double()
    return (_ranks(key) < count_masked(grid_thw, ratio) // t).repeat(1, t)


def trajectory_mask(
    draws: Tensor,
    object_tokens: Tensor,
    grid_thw: Grid,
    ratio: float,
    object_visible_share: float = 0.1,
) -> Tensor:
    """Mask object tokens except a share of them, and tubes elsewhere (SMILE, arXiv 2504.00527).

    This is the published ``tube+traj_mask``. Of `n` object tokens, `floor(share * n)` random ones are visible
    and the others are masked. Tokens outside objects follow the tube mask. Then the number of masked tokens
    is corrected to `count_masked`. If too many are masked, tokens outside objects become visible first, then
    object tokens. If too few, tokens outside objects are masked first, then the visible object tokens.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        object_tokens: bool ``[B, N]``.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        object_visible_share: share of the object tokens that stay visible, 0..1.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: arrays of another shape, a share outside 0..1, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw, object_tokens)
    if not 0 <= object_visible_share <= 1:
        raise ValueError(f"object_visible_share must lie in 0..1, got {object_visible_share}")
    # The order of masking: object tokens, other tokens of masked tubes, other tokens of visible tubes.
    hidden = tube_mask(draws, grid_thw, ratio)
    category = torch.where(object_tokens, 0, torch.where(hidden, 1, 2))
    return _mask_first(
        category + draws[:, TOKEN].double(), object_tokens, object_visible_share, grid_thw, ratio
    )


def occlusion_mask(
    draws: Tensor, occlusion_tokens: Tensor, grid_thw: Grid, ratio: float, masked_share: float = 1.0
) -> Tensor:
    """Mask a share of the tokens at occlusions, and random others up to the count.

    Of `n` such tokens, `floor((1 - masked_share) * n)` random ones stay visible, as long as enough others can
    be masked. A clip without such tokens gets a random mask.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        occlusion_tokens: bool ``[B, N]``.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        masked_share: share of the occlusion tokens that is masked, 0..1.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: arrays of another shape, a share outside 0..1, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw, occlusion_tokens)
    if not 0 <= masked_share <= 1:
        raise ValueError(f"masked_share must lie in 0..1, got {masked_share}")
    order = torch.where(occlusion_tokens, 0, 1) + draws[:, TOKEN].double()
    return _mask_first(order, occlusion_tokens, 1 - masked_share, grid_thw, ratio)


def tubelet_mask(
    draws: Tensor,
    object_tokens: Tensor,
    spared: Tensor,
    grid_thw: Grid,
    ratio: float,
    *,
    follow_tube: bool = False,
) -> Tensor:
    """Mask object tokens except in some tubelets, and tubes elsewhere: two further rules of SMILE's code.

    In the spared tubelets object tokens are visible (published as ``tube+picked_frame_visible``), or with
    ``follow_tube`` follow the tube mask (published as ``tube``). The number of masked tokens is corrected as
    in `trajectory_mask`; object tokens of spared tubelets are changed last.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        object_tokens: bool ``[B, N]``.
        spared: bool ``[B, T]``, True = object tokens of this tubelet are not all masked.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        follow_tube: object tokens of spared tubelets follow the tube mask.

    Returns:
        bool ``[B, N]``, True = masked.

    Raises:
        ValueError: arrays of another shape, or a ratio that `count_masked` refuses.
    """
    _check_draws(draws, grid_thw, object_tokens)
    t, h, w = grid_thw
    if spared.shape != (len(draws), t):
        raise ValueError(f"spared must be [{len(draws)}, {t}], got {list(spared.shape)}")
    hidden = tube_mask(draws, grid_thw, ratio)
    kept = object_tokens & spared.repeat_interleave(h * w, dim=1)
    # Tokens are masked in ascending order of category, up to the count; the order within one is random.
    category = torch.where(object_tokens, 1, torch.where(hidden, 2, 3))
    category = torch.where(kept, torch.where(hidden, 0, 4) if follow_tube else 4, category)
    return _ranks(category + draws[:, TOKEN].double()) < count_masked(grid_thw, ratio)


def motion_weighted(draws: Tensor, motion: Tensor, grid_thw: Grid, strength: float) -> Tensor:
    """Change draws so that moving tokens come earlier in the order and are masked more often.

    The weight of a token is ``1 + strength * motion / mean motion of the clip``. The weight of a tube is the
    mean over its tokens. A draw becomes ``1 - (1 - draw)^(1 / weight)``. Taking tokens in ascending order of
    these values is weighted sampling without replacement: each next token is taken with a probability in
    proportion to its weight (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    Equal weights keep the order.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        motion: ``[B, N]``, not negative.
        grid_thw: tokens along time, height and width.
        strength: 0 or more.

    Returns:
        float64 ``[B, 2, N]`` in [0, 1).

    Raises:
        ValueError: arrays of another shape.
    """
    _check_draws(draws, grid_thw)
    if motion.shape != draws[:, TOKEN].shape:
        raise ValueError(f"motion must be {list(draws[:, TOKEN].shape)}, got {list(motion.shape)}")
    mean = motion.double().mean(1, keepdim=True)
    weight = 1 + strength * motion / torch.where(mean > 0, mean, 1)
    t, h, w = grid_thw
    tube_weight = weight.view(-1, t, h * w).mean(1).repeat(1, t)
    weights = torch.stack([tube_weight, weight], dim=1)
    return -torch.expm1(torch.log1p(-draws.double()) / weights)


def _mask_first(order: Tensor, first: Tensor, visible_share: float, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask tokens in ascending order, up to the count; a share of the first tokens comes last.

    Args:
        order: ``[B, N]``; those of ``first`` are below all others.
        first: bool ``[B, N]``, the n tokens that come first. The last floor(visible_share * n) of them are
            moved behind all other tokens.
        visible_share: 0..1.
        grid_thw, ratio: see `count_masked`.
    """
    num_first = first.sum(1, keepdim=True)
    num_shown = (num_first.double() * visible_share).floor().long()
    rank = _ranks(order)
    shown = first & (rank >= num_first - num_shown)
    rank = torch.where(first, rank, rank - num_shown)
    rank = torch.where(shown, rank + order.shape[1] - num_first, rank)
    return rank < count_masked(grid_thw, ratio)


def _check_draws(draws: Tensor, grid_thw: Grid, object_tokens: Tensor | None = None) -> None:
    expected = (NUM_ROWS, math.prod(grid_thw))
    if draws.shape[1:] != expected:
        raise ValueError(f"draws must be [B, {expected[0]}, {expected[1]}], got {list(draws.shape)}")
    if object_tokens is not None and object_tokens.shape != draws[:, TOKEN].shape:
        shape = list(draws[:, TOKEN].shape)
        raise ValueError(f"object_tokens must be {shape}, got {list(object_tokens.shape)}")


def _ranks(keys: Tensor) -> Tensor:
    """Return the rank of each key in the ascending order of its row. Equal keys keep the order of tokens."""
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
