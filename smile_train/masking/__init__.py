"""Token masks of batches, on any device. Every clip of a step has the same number of masked tokens.

The random numbers of a mask depend on the seed and the clip's index only.
"""

from smile_train.masking._masker import MASK_DRAWS, Masker, seen_frames
from smile_train.masking._rules import (
    NUM_BLOCKS,
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
from smile_train.masking._tokens import object_tokens_from_boxes, token_motion, upright_boxes

__all__ = [
    "MASK_DRAWS",
    "NUM_BLOCKS",
    "Masker",
    "block_mask",
    "clear_past_mask",
    "count_masked",
    "motion_weighted",
    "object_tokens_from_boxes",
    "occlusion_mask",
    "random_mask",
    "seen_frames",
    "token_motion",
    "trajectory_mask",
    "tube_mask",
    "tubelet_mask",
    "upright_boxes",
]
