"""How objects move from each frame to the next, from their poses alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry

Float = NDArray[np.float64]


def rates_of_motion(poses: Float, sizes_wh: Float) -> tuple[Float, Float, Float]:
    """Return how K objects move from each frame to the next one.

    The position of an object is that of its texture's middle. The frame-to-frame map near it has the
    derivative A. Its rotation is that of the polar decomposition of A, its change of size is sqrt(|det A|).

    Args:
        poses: ``[K, T, 3, 3]`` texture to frame.
        sizes_wh: ``[K, 2]`` of the textures, in texels.

    Returns:
        velocity ``[K, T - 1, 2]`` in pixels, rotation ``[K, T - 1]`` in degrees, clockwise on the screen, and
        log of the change of size ``[K, T - 1]``, per frame; NaN behind a horizon.
    """
    middles = np.broadcast_to(sizes_wh[:, None] / 2, (*poses.shape[:2], 2))
    places = geometry.apply(poses, middles[:, :, None])[:, :, 0]
    depth = (poses[..., 2, :2] * middles).sum(-1) + poses[..., 2, 2]
    jacobian = poses[..., :2, :2] - places[..., None] * poses[..., 2, None, :2]
    jacobian /= np.where(depth > 0, depth, np.nan)[..., None, None]
    a, b, c, d = np.moveaxis(jacobian.reshape(*depth.shape, 4), -1, 0)
    det = a * d - b * c
    inverse = np.stack([d, -b, -c, a], axis=-1).reshape(jacobian.shape) / det[..., None, None]
    change = jacobian[:, 1:] @ inverse[:, :-1]
    turn = np.arctan2(change[..., 1, 0] - change[..., 0, 1], change[..., 0, 0] + change[..., 1, 1])
    log_scale = 0.5 * np.log(np.abs(det[:, 1:] / det[:, :-1]))
    return np.diff(places, axis=1), np.degrees(turn), log_scale
