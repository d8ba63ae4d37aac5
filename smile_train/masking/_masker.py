"""The masks of a run's batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_train.batch import Batch
from smile_train.config import MOTION_OFFSET, OCCLUSION_OFFSETS, MaskOptions
from smile_train.masking._rules import (
    NUM_BLOCKS,
    NUM_ROWS,
    Grid,
    block_mask,
    clear_past_mask,
    count_masked,
    motion_weighted,
    occlusion_mask,
    random_mask,
    trajectory_mask,
    tube_mask,
    tubelet_mask,
)
from smile_train.masking._tokens import object_tokens_from_boxes, token_motion

MASK_DRAWS = "mask_draws"


class Masker:
    """Makes the masks of a run's batches on their device.

    Attributes:
        options: which tokens are hidden.
        grid_thw: tokens along time, height and width.
        num_masked: hidden tokens of every clip. Options with other values in the last step have their first
            values here; `at` returns the masker of another step.
    """

    def __init__(
        self,
        options: MaskOptions,
        grid_thw: Grid,
        *,
        patch_size: int,
        tubelet_size: int,
        seed: int,
        motion_offsets: Sequence[int] = (),
    ) -> None:
        """Store the options. The mask of a clip depends on its index, ``seed`` and its labels only.

        Args:
            options: which tokens are hidden.
            grid_thw: tokens along time, height and width.
            patch_size, tubelet_size: of a token.
            seed: of the draws.
            motion_offsets: of the labels of motion, in their order.

        Raises:
            UserError: the ratio masks no token, or a tubelet of the options is outside of the clip.
        """
        self.options, self.grid_thw, self.seed = options, grid_thw, seed
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self._motion_offsets = list(motion_offsets) or sorted(options.motion_offsets)
        self._masked_tubelets = grid_thw[0]
        if options.kind == "clear-past":
            self._masked_tubelets -= self._num_clear
            if self._masked_tubelets < 1 or not self._num_clear:
                raise UserError(
                    f"mask.clear_tubelets: {self._num_clear} of a clip's {grid_thw[0]} tubelets; clear-past "
                    "needs at least one visible and one masked tubelet"
                )
        try:
            self.num_masked = self._count()
            self.at(1.0)
        except ValueError as error:
            raise UserError(f"mask: {error}") from None
        outside = [t for t in options.visible_tubelets or () if t >= grid_thw[0]]
        if outside:
            raise UserError(
                f"mask.visible_tubelets: {outside[0]} given, but a clip has tubelets 0..{grid_thw[0] - 1}"
            )

    def at(self, progress: float) -> Masker:
        """Return the masker at a point of the stage: 0 is its first step, 1 its last."""
        if self.options.final is None:
            return self
        masker = copy.copy(self)
        masker.options = self.options.at(progress)
        masker.num_masked = masker._count()
        return masker

    def _count(self) -> int:
        return count_masked((self._masked_tubelets, *self.grid_thw[1:]), self.options.ratio)

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
            batch: has the label ``mask_draws`` (see `draw`). Without ``coverage`` or ``boxes_xyxy``, no clip
                has objects; without labels of motion, no clip has known motion. Masks are made on its device.
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
            if options.motion_source == "exact":
                motion = self._exact_motion(batch)
            else:
                motion = token_motion(batch.frames, self.patch_size, self.tubelet_size)
            draws = motion_weighted(draws, motion, grid, options.motion_weight)
        if options.kind == "random":
            mask = random_mask(draws, grid, options.ratio)
        elif options.kind == "tube":
            mask = tube_mask(draws, grid, options.ratio)
        elif options.kind == "block":
            mask = block_mask(blocks.view(-1, NUM_BLOCKS, 3), draws, grid, options.ratio)
        elif options.kind == "clear-past":
            mask = clear_past_mask(draws, grid, options.ratio, self._num_clear)
        elif options.kind == "occlusion":
            mask = occlusion_mask(
                draws, self._occlusion_tokens(batch), grid, options.ratio, options.occlusion_share
            )
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

    @property
    def _num_clear(self) -> int:
        return self.options.clear_tubelets or self.grid_thw[0] // 2

    def _motion_label(self, batch: Batch, name: str, offset: int) -> Tensor:
        label: Tensor = batch.labels[f"motion_{name}"][:, self._motion_offsets.index(offset)]
        return label

    def _exact_motion(self, batch: Batch) -> Tensor:
        """Return the length of the displacement relative to the camera, ``[B, N]``; 0 where it is unknown."""
        if "motion_valid" not in batch.labels:  # all clips of the batch are natural videos
            return torch.zeros(len(batch), math.prod(self.grid_thw), device=batch.frames.device)
        displacement, camera, valid = (
            self._motion_label(batch, name, MOTION_OFFSET) for name in ("displacement", "camera", "valid")
        )
        length: Tensor = torch.linalg.vector_norm(displacement - camera, dim=-1) * valid
        return length

    def _occlusion_tokens(self, batch: Batch) -> Tensor:
        """Return bool ``[B, N]``: the owner is not visible in the tubelet before or in the one after."""
        if "motion_valid" not in batch.labels:  # all clips of the batch are natural videos
            shape = len(batch), math.prod(self.grid_thw)
            return torch.zeros(shape, dtype=torch.bool, device=batch.frames.device)
        before, after = (
            self._motion_label(batch, "valid", offset) & ~self._motion_label(batch, "visibility", offset)
            for offset in OCCLUSION_OFFSETS
        )
        return before | after

    def _object_tokens(self, batch: Batch) -> Tensor:
        kind = self.options.object_tokens
        label = "coverage" if kind == "coverage" else "boxes_xyxy"
        if label not in batch.labels:  # all clips of the batch are natural videos
            shape = len(batch), math.prod(self.grid_thw)
            return torch.zeros(shape, dtype=torch.bool, device=batch.frames.device)
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


def seen_frames(frames: NDArray[np.uint8], mask: NDArray[np.bool_], grid_thw: Grid) -> NDArray[np.uint8]:
    """Return frames ``[T, H, W, 3]`` in which the tokens of a mask ``[N]`` are gray."""
    t, h, w = grid_thw
    hidden = mask.reshape(t, h, w)
    for axis, length in enumerate(frames.shape[:3]):
        hidden = hidden.repeat(length // grid_thw[axis], axis=axis)
    return np.where(hidden[..., None], np.uint8(128), frames)
