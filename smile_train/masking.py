"""Token masks of whole batches: exact counts, any device, randomness addressed by clip index."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core import rng
from smile_synth.core.errors import UserError
from smile_train.config import MaskOptions

Grid = tuple[int, int, int]

# The streams of a clip's draws: which tubes are masked, and the order among single tokens.
TUBE, TOKEN = 0, 1
NUM_STREAMS = 2

# V-JEPA (arXiv 2404.08471) hides a union of blocks that last the whole clip, of such a share of the frame and
# such an aspect; enough of them are laid that their union exceeds any usual ratio.
BLOCK_SHARE = 0.15
BLOCK_ASPECT = (0.75, 1.5)
NUM_BLOCKS = 24

# Philox 4x64-10 (Salmon et al., SC 2011), as NumPy's generator of that name: its draws, made on the device.
_PHILOX_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_PHILOX_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_PHILOX_ROUNDS = 10
_LOW = 0xFFFFFFFF


class Masker:
    """Makes the masks of a run's batches on their device.

    Attributes:
        options: what is hidden.
        grid_thw: tokens along time, height and width.
        num_masked: tokens hidden in every clip.
    """

    def __init__(
        self, options: MaskOptions, grid_thw: Grid, *, patch_size: int, tubelet_size: int, seed: int
    ) -> None:
        """Describe masks of clips with such a grid; a clip's draws depend on its index and ``seed`` alone.

        Raises:
            UserError: the ratio leaves no token masked or none visible, or a visible tubelet does not exist.
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

    def __call__(
        self,
        indices: Tensor,
        frames: Tensor,
        *,
        coverage: Tensor | None = None,
        boxes_xyxy: Tensor | None = None,
        sample: int = 0,
    ) -> Tensor:
        """Mask the clips of a batch.

        Args:
            indices: int64 ``[B]`` clip indices.
            frames: uint8 ``[B, T, 3, H, W]``; the masks are made on its device, motion is read from it.
            coverage: ``[B, N]`` 0..1, mean visible coverage of each token by objects; for trajectory masks.
            boxes_xyxy: ``[B, K, T, 4]`` pixels; instead of coverage where the options say so.
            sample: which of several independent masks of the same clips.

        Returns:
            bool ``[B, N]``, True = masked, ``num_masked`` in every row.

        Raises:
            ValueError: a trajectory mask without what it is made from, or shapes that do not fit.
        """
        options, grid, device = self.options, self.grid_thw, frames.device
        indices = indices.to(device)
        num_tokens = math.prod(grid)
        draws = uniform_draws(self.seed, indices, NUM_STREAMS * num_tokens, _purpose("mask", sample))
        draws = draws.view(-1, NUM_STREAMS, num_tokens)
        if options.motion_weight:
            motion = token_motion(frames, self.patch_size, self.tubelet_size)
            draws = motion_weighted(draws, motion, grid, options.motion_weight)
        if options.kind == "random":
            mask = random_mask(draws, grid, options.ratio)
        elif options.kind == "tube":
            mask = tube_mask(draws, grid, options.ratio)
        elif options.kind == "block":
            blocks = uniform_draws(self.seed, indices, 3 * NUM_BLOCKS, _purpose("mask blocks", sample))
            mask = block_mask(blocks.view(-1, NUM_BLOCKS, 3), draws, grid, options.ratio)
        else:
            objects = self._object_tokens(coverage, boxes_xyxy).to(device)
            if options.object_rule == "share":
                mask = trajectory_mask(draws, objects, grid, options.ratio, options.object_visible_share)
            else:
                spared = self._spared_tubelets(indices, sample)
                follow = options.object_rule == "tubelet-tube"
                mask = tubelet_mask(draws, objects, spared, grid, options.ratio, follow_tube=follow)
        # The published loop gives the second view of a clip the mask of another clip of its batch.
        return mask.roll(sample, 0) if options.cross_clip else mask

    def _object_tokens(self, coverage: Tensor | None, boxes_xyxy: Tensor | None) -> Tensor:
        source = self.options.object_tokens
        if source == "coverage":
            if coverage is None:
                raise ValueError("a trajectory mask from coverage needs coverage")
            return coverage > self.options.coverage_threshold
        if boxes_xyxy is None:
            raise ValueError(f"a trajectory mask from {source} needs boxes_xyxy")
        return object_tokens_from_boxes(
            boxes_xyxy, self.grid_thw, self.patch_size, self.tubelet_size, oversize=source == "boxes-oversize"
        )

    def _spared_tubelets(self, indices: Tensor, sample: int) -> Tensor:
        num_tubelets = self.grid_thw[0]
        tubelets = torch.arange(num_tubelets, device=indices.device)
        if self.options.visible_tubelets is not None:
            chosen = torch.tensor(self.options.visible_tubelets, device=indices.device)
            return torch.isin(tubelets, chosen).expand(len(indices), -1)
        draw = uniform_draws(self.seed, indices, 1, _purpose("mask tubelet", sample))
        return tubelets == (draw * num_tubelets).long()


def _purpose(name: str, sample: int) -> str:
    return name if sample == 0 else f"{name} {sample}"


def uniform_draws(seed: int, indices: Tensor, count: int, purpose: str) -> Tensor:
    """Draw for a whole batch, on its device, float32 numbers from the streams of `smile_synth.core.rng`.

    Args:
        seed: 0 .. 2^63 - 1.
        indices: int64 ``[B]`` clip indices, not negative.
        count: draws per clip.
        purpose: as of `smile_synth.core.rng.RandomStreams`.

    Returns:
        ``[B, count]``, float32 in [0, 1): the upper 24 bits of the lower, then of the upper half of every
        64-bit word of the stream.

    Raises:
        ValueError: seed outside its range.
    """
    if not 0 <= seed <= rng.MAX_SEED:
        raise ValueError(f"seed must be in 0..2^63-1, got {seed}")
    block = rng.counter_block(purpose)
    words = -(-count // 8)  # a counter gives four words of 64 bits, each two floats
    place = torch.arange(1, words + 1, device=indices.device).expand(len(indices), words)
    zero = torch.zeros_like(place)
    c0, c1, c2, c3 = place, zero, zero, torch.full_like(place, _signed(block))
    k0, k1 = seed, indices[:, None].expand_as(place)
    for _ in range(_PHILOX_ROUNDS):
        high0, low0 = _multiply(_PHILOX_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_PHILOX_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ _signed(k0), low1, high0 ^ c3 ^ k1, low0
        k0 += _PHILOX_WEYL[0]
        k1 = k1 + _signed(_PHILOX_WEYL[1])
    whole = torch.stack([c0, c1, c2, c3], dim=-1)
    halves = torch.stack([whole & _LOW, (whole >> 32) & _LOW], dim=-1).flatten(1)[:, :count]
    return (halves >> 8).float() * 2**-24


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned value."""
    return (value + 2**63) % 2**64 - 2**63


def _multiply(factor: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low 64 bits of unsigned products; int64 wraps around, so only bits count."""
    factor_high, factor_low = factor >> 32, factor & _LOW
    high, low = (values >> 32) & _LOW, values & _LOW
    a, b, c = low * factor_low, high * factor_low, low * factor_high
    middle = ((a >> 32) & _LOW) + (b & _LOW) + (c & _LOW)
    carried = ((b >> 32) & _LOW) + ((c >> 32) & _LOW) + (middle >> 32)
    return high * factor_high + carried, values * _signed(factor)


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


def seen_frames(frames: NDArray[np.uint8], mask: NDArray[np.bool_], grid_thw: Grid) -> NDArray[np.uint8]:
    """Return frames ``[T, H, W, 3]`` with the tokens that a mask ``[N]`` hides in grey, to be looked at."""
    t, h, w = grid_thw
    hidden = mask.reshape(t, h, w)
    for axis, length in enumerate(frames.shape[:3]):
        hidden = hidden.repeat(length // grid_thw[axis], axis=axis)
    return np.where(hidden[..., None], np.uint8(128), frames)


def random_mask(draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask tokens independently of each other.

    Args:
        draws: ``[B, 2, N]`` uniform in [0, 1): stream 0 decides on tubes, stream 1 on single tokens.
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
    """Mask the same places of the frame at all times (VideoMAE, arXiv 2203.12602, sec. 3.2).

    Arguments, result and errors as `random_mask`.
    """
    _check_draws(draws, grid_thw)
    t, h, w = grid_thw
    return (_ranks(draws[:, TUBE, : h * w]) < count_masked(grid_thw, ratio) // t).repeat(1, t)


def block_mask(blocks: Tensor, draws: Tensor, grid_thw: Grid, ratio: float) -> Tensor:
    """Mask a union of blocks that last the whole clip (after V-JEPA, arXiv 2404.08471, sec. 3).

    Each block covers `BLOCK_SHARE` of the frame with an aspect log-uniform in `BLOCK_ASPECT`, anywhere inside
    the frame. Blocks are laid one after the other until the count is reached; of the last one random places.

    Args:
        blocks: uniform draws ``[B, num_blocks, 3]``: aspect, row and column of each block.
        draws: ``[B, 2, N]`` as of `random_mask`, for the order within a block.
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
    """Mask the objects but for a share of their tokens, and tubes elsewhere (SMILE, arXiv 2504.00527).

    The published ``tube+traj_mask``. Of `n` object tokens all but `floor(share * n)` random ones are masked;
    the others follow the tube mask. The count is then made exact. Too many masked: tokens outside objects are
    shown first, then object tokens. Too few: tokens outside objects are masked first, then the object tokens
    on show.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        object_tokens: bool ``[B, N]``.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        object_visible_share: 0..1, share of an object's tokens that stays visible.

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
    # The rule above masks the first tokens of this order: objects, masked tubes, visible tubes, and
    # last the object tokens on show, at random within each.
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
    """Mask the objects except in some tubelets, and tubes elsewhere: two more rules of SMILE's code.

    In the spared tubelets the object tokens stay visible (``tube+picked_frame_visible``), or follow the tube
    mask (``follow_tube``, the published ``tube``). The count is made exact as in `trajectory_mask`: object
    tokens of spared tubelets are the last to change.

    Args:
        draws: ``[B, 2, N]`` as of `random_mask`.
        object_tokens: bool ``[B, N]``.
        spared: bool ``[B, T]``, the tubelets where objects are not masked.
        grid_thw: tokens along time, height and width.
        ratio: share to mask, see `count_masked`.
        follow_tube: see above.

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
    # Masked in the order of these numbers, at random among equal ones, until the count is reached.
    category = torch.where(object_tokens, 1, torch.where(hidden, 2, 3))
    category = torch.where(kept, torch.where(hidden, 0, 4) if follow_tube else 4, category)
    return _ranks(category + draws[:, TOKEN].double()) < count_masked(grid_thw, ratio)


def token_motion(frames: Tensor, patch_size: int, tubelet_size: int) -> Tensor:
    """Return how much each token changes: mean absolute difference to the frame before, ``[B, N]`` float32.

    Args:
        frames: uint8 ``[B, T, 3, H, W]``; frame 0 counts as much as frame 1.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
    """
    batch, time, _, height, width = frames.shape
    # One channel first: three would need three times the memory and say little more.
    gray = frames.float().mean(2)
    change = (gray[:, 1:] - gray[:, :-1]).abs()
    change = torch.cat([change[:, :1], change], dim=1) if time > 1 else torch.zeros_like(gray)
    sides = (time // tubelet_size, tubelet_size, height // patch_size, patch_size, width // patch_size)
    return change.view(batch, *sides, patch_size).mean((2, 4, 6)).flatten(1)


def motion_weighted(draws: Tensor, motion: Tensor, grid_thw: Grid, strength: float) -> Tensor:
    """Turn draws so that tokens that move are masked earlier, without replacement, by their weight.

    The weight of a token is ``1 + strength * motion / mean motion of the clip``, that of a tube the mean over
    its tokens. In ascending order of ``1 - (1 - draw)^(1 / weight)`` tokens come with probability in
    proportion to their weight (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    Equal weights leave the order as it is.

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
    """Find the tokens under boxes: SMILE's rule, which exact coverage of the objects can replace.

    A token belongs to an object where it overlaps the smallest box around the object's boxes in the
    frames of its tubelet. Boxes are cut at the frame; empty ones and those with NaN are left out.

    Args:
        boxes_xyxy: float ``[B, K, T, 4]``, pixels, half-open.
        grid_thw: tokens along time, height and width.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
        oversize: as the published code, one token too far to the right and to the bottom.

    Returns:
        bool ``[B, N]``.

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


def upright_boxes(
    object_to_frame: NDArray[np.float64], sizes_hw: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the boxes of objects as if they were not rotated: what the published masks are made from.

    Args:
        object_to_frame: ``[K, T, 3, 3]`` poses of the objects' textures.
        sizes_hw: ``[K, 2]`` height and width of the textures.

    Returns:
        ``[K, T, 4]`` xyxy in pixels: the middle of the texture, plus and minus half its scaled sides.
    """
    height, width = np.asarray(sizes_hw, np.float64)[:, None].transpose(2, 0, 1)
    middle = np.stack([width / 2, height / 2, np.ones_like(width)], axis=-1)
    center = np.einsum("ktij,koj->kti", object_to_frame, middle)
    center = center[..., :2] / center[..., 2:]
    sides = np.linalg.norm(object_to_frame[..., :2, :2], axis=-2) * np.stack([width, height], axis=-1)
    return np.concatenate([center - sides / 2, center + sides / 2], axis=-1)


def _check_draws(draws: Tensor, grid_thw: Grid, object_tokens: Tensor | None = None) -> None:
    expected = (NUM_STREAMS, math.prod(grid_thw))
    if draws.shape[1:] != expected:
        raise ValueError(f"draws must be [B, {expected[0]}, {expected[1]}], got {list(draws.shape)}")
    if object_tokens is not None and object_tokens.shape != draws[:, TOKEN].shape:
        shape = list(draws[:, TOKEN].shape)
        raise ValueError(f"object_tokens must be {shape}, got {list(object_tokens.shape)}")


def _ranks(keys: Tensor) -> Tensor:
    """Return the place of each key in the ascending order of its row; ties keep the order of tokens."""
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
