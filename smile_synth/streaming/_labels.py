"""Labels of clips as arrays by name, for batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_synth.core.clip import TokenMotion

# Shape and dtype by name.
ArrayTypes = dict[str, tuple[tuple[int, ...], DTypeLike]]
# By label: the attribute of `TokenMotion`, the axes of its shape (D offsets, N tokens, sizes) and its dtype.
_MOTION: dict[str, tuple[str, tuple[str | int, ...], DTypeLike]] = {
    "motion_displacement": ("displacement_xy", ("D", "N", 2), np.float32),
    "motion_spread": ("spread_xy", ("D", "N", 2), np.float32),
    "motion_linear": ("linear", ("D", "N", 2, 2), np.float32),
    "motion_camera": ("camera_xy", ("D", "N", 2), np.float32),
    "motion_visibility": ("visible", ("D", "N"), np.bool_),
    "motion_valid": ("valid", ("D", "N"), np.bool_),
    "motion_object": ("object", ("N",), np.int16),
    "motion_share": ("share", ("N",), np.float32),
    "motion_depth": ("depth", ("N",), np.int16),
}


def motion_labels(motion: TokenMotion) -> dict[str, NDArray[Any]]:
    """Return the labels of motion of a clip by name; see `StreamBatch` for the names."""
    return {name: getattr(motion, attribute) for name, (attribute, _, _) in _MOTION.items()}


def motion_arrays(num_offsets: int, num_tokens: int) -> ArrayTypes:
    """Return the shape and dtype of each label of motion of a clip."""
    sizes: dict[str | int, int] = {"D": num_offsets, "N": num_tokens, 2: 2}
    return {name: (tuple(sizes[axis] for axis in axes), dtype) for name, (_, axes, dtype) in _MOTION.items()}


def token_coverage(
    segmentation: NDArray[np.integer[Any]], tubelet_size: int, patch_size: int
) -> NDArray[np.float32]:
    """Return the share ``[N]``, 0..1, of each token's pixels that objects of a segmentation own."""
    frames, height, width = segmentation.shape
    shape = frames // tubelet_size, tubelet_size, height // patch_size, patch_size, width // patch_size
    blocks = (segmentation > 0).reshape(*shape, patch_size)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32).ravel())
