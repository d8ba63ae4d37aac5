"""Token masks of batches, on any device. Every clip has the same number of masked tokens.

The random numbers of a mask depend on the seed and the clip's index only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_train.batch import Batch
from smile_train.config import MaskOptions

Grid = tuple[int, int, int]

# Rows of a clip's random numbers: the first gives the random order of tubes, the second that of tokens.
TUBE, TOKEN = 0, 1
NUM_ROWS = 2
MASK_DRAWS = "mask_draws"

# V-JEPA (arXiv 2404.08471) hides a union of blocks that last the whole clip. Each covers this share of the
# frame; its aspect lies in this range. The union of NUM_BLOCKS blocks is larger than any usual ratio.
BLOCK_SHARE = 0.15
BLOCK_ASPECT = (0.75, 1.5)
NUM_BLOCKS = 24


class Masker:
    """Makes the masks of a run's batches on their device.

    Attributes:
        options: which tokens are hidden.
        grid_thw: tokens along time, height and width.
        num_masked: hidden tokens of every clip.
    """

    def __init__(
        self, options: MaskOptions, grid_thw: Grid, *, patch_size: int, tubelet_size: int, seed: int
    ) -> None:
        """Store the options. The mask of a clip depends on its index, ``seed`` and its objects only.

        Raises:
            UserError: the ratio masks no token, or a tubelet of ``visible_tubelets`` is outside of the clip.
        """
        self.options, self.grid_thw = options, grid_thw
        self.patch_size, self.tubelet_size, self.seed = patch_size, tubelet_size, seed
        try:
            self.num_masked = count_masked(grid_thw, options.ratio)
        except ValueError as error:
            raise UserError(f"mask: {error}") from None
        outside = [t for t in options.visible_tubelets or () if t >= grid_thw[0]]
        if outside:
            raise UserError(
                f"mask.visible_tubelets: {outside[0]} given, but a clip has tubelets 0..{grid_thw[0] - 1}"
            )

    def draw(self, indices: Sequence[int] | NDArray[np.int64], num_masks: int = 1) -> Tensor:
        """Draw the random numbers for the masks of clips, on the CPU: a few KB per clip and mask.

        Args:
            indices: B clip indices.
            num_masks: independent masks M per clip.

        Returns:
            float32 ``[B, M, K]`` in [0, 1). The K numbers are two rows of N, one for the random tubelet, and
            three per block for block masks.
        """
        num_tokens = math.prod(self.grid_thw)
        masks = []
        for number in range(num_masks):
            suffix = f" {number}" if number else ""
            parts = [("mask", NUM_ROWS * num_tokens), ("mask tubelet", 1)]
            if self.options.kind == "block":
                parts.append(("mask blocks", 3 * NUM_BLOCKS))
            streams = [(RandomStreams(self.seed, indices, purpose + suffix), n) for purpose, n in parts]
            masks.append(np.concatenate([stream.random_float32(n) for stream, n in streams], axis=1))
        return torch.from_numpy(np.stack(masks, axis=1))

    def __call__(self, batch: Batch, number: int = 0) -> Tensor:
        """Make one mask per clip.

        Args:
            batch: has the labels ``mask_draws`` (see `draw`), and ``coverage`` or ``boxes_xyxy`` for
                trajectory masks. Masks are made on its device.
            number: which of the independent masks, 0 .. M - 1.

        Returns:
            bool ``[B, N]``, True = masked; every row has ``num_masked`` masked tokens.

        Raises:
            ValueError: a label is missing or has another shape.
        """
        options, grid = self.options, self.grid_thw
        num_tokens = math.prod(grid)
        sizes = [NUM_ROWS * num_tokens, 1]
        numbers = batch.labels[MASK_DRAWS][:, number]
        rows, tubelet, blocks = numbers.tensor_split([sizes[0], sum(sizes)], dim=1)
        draws = rows.view(-1, NUM_ROWS, num_tokens)
        if options.motion_weight:
            motion = token_motion(batch.frames, self.patch_size, self.tubelet_size)
            draws = motion_weighted(draws, motion, grid, options.motion_weight)
        if options.kind == "random":
            mask = random_mask(draws, grid, options.ratio)
        elif options.kind == "tube":
            mask = tube_mask(draws, grid, options.ratio)
        elif options.kind == "block":
            mask = block_mask(blocks.view(-1, NUM_BLOCKS, 3), draws, grid, options.ratio)
        else:
            objects = self._object_tokens(batch)
            if options.object_rule == "share":
                mask = trajectory_mask(draws, objects, grid, options.ratio, options.object_visible_share)
            else:
                spared = self._spared_tubelets(tubelet)
                follow = options.object_rule == "tubelet-tube"
                mask = tubelet_mask(draws, objects, spared, grid, options.ratio, follow_tube=follow)
        # The published code uses another clip's mask as the second mask of a clip.
        return mask.roll(number, 0) if options.cross_clip else mask

    def _object_tokens(self, batch: Batch) -> Tensor:
        kind = self.options.object_tokens
        label = "coverage" if kind == "coverage" else "boxes_xyxy"
        if label not in batch.labels:
            raise ValueError(f"a trajectory mask from {kind} needs the label {label}")
        if kind == "coverage":
            return batch.labels[label] > self.options.coverage_threshold
        return object_tokens_from_boxes(
            batch.labels[label], self.grid_thw, self.patch_size, self.tubelet_size,
            oversize=kind == "boxes-oversize",
        )  # fmt: skip

    def _spared_tubelets(self, draws: Tensor) -> Tensor:
        """Return bool ``[B, T]``: the fixed tubelets, or one per clip by the random draws ``[B, 1]``."""
        num_tubelets = self.grid_thw[0]
        tubelets = torch.arange(num_tubelets, device=draws.device)
        if self.options.visible_tubelets is not None:
            fixed = torch.tensor(self.options.visible_tubelets, device=draws.device)
            return torch.isin(tubelets, fixed).expand(len(draws), -1)
        return tubelets == (draws * num_tubelets).long()


def count_masked(grid_thw: Grid, ratio: float) -> int:
    """Return how many tokens a mask of any kind hides: T * int(ratio * H * W), 1248 of 8x14x14 at .8.

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


def seen_frames(frames: NDArray[np.uint8], mask: NDArray[np.bool_], grid_thw: Grid) -> NDArray[np.uint8]:
    """Return frames ``[T, H, W, 3]`` in which the tokens of a mask ``[N]`` are gray."""
    t, h, w = grid_thw
    hidden = mask.reshape(t, h, w)
    for axis, length in enumerate(frames.shape[:3]):
        hidden = hidden.repeat(length // grid_thw[axis], axis=axis)
    return np.where(hidden[..., None], np.uint8(128), frames)


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
    num_tokens = object_tokens.shape[1]
    num_object = object_tokens.sum(1, keepdim=True)
    num_shown = (num_object.double() * object_visible_share).floor().long()
    # Tokens are masked in this order, up to the count: object tokens, other tokens of masked tubes, other
    # tokens of visible tubes, and last the object tokens that stay visible. Each group has a random order.
    hidden = tube_mask(draws, grid_thw, ratio)
    category = torch.where(object_tokens, 0, torch.where(hidden, 1, 2))
    rank = _ranks(category + draws[:, TOKEN].double())
    shown = object_tokens & (rank >= num_object - num_shown)
    rank = torch.where(object_tokens, rank, rank - num_shown)
    rank = torch.where(shown, rank + num_tokens - num_object, rank)
    return rank < count_masked(grid_thw, ratio)


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
