"""Homogeneous 3x3 transforms in pixel coordinates: build, compose, invert, apply.

Points are column vectors (x, y, 1), x right and y down, so angles are clockwise on the screen. A
transform's name says its direction: ``object_to_frame`` maps points of an object's texture to points
of the frame. Everything is float64 and works on leading batch dimensions ``[..., 3, 3]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def translation(offset_xy: ArrayLike) -> Float:
    """Build translations ``[..., 3, 3]`` from offsets ``[..., 2]`` in pixels."""
    offset = np.asarray(offset_xy, np.float64)
    out = np.zeros((*offset.shape[:-1], 3, 3))
    out[..., 0, 0] = out[..., 1, 1] = out[..., 2, 2] = 1.0
    out[..., :2, 2] = offset
    return out


def scaling(factors_xy: ArrayLike) -> Float:
    """Build axis-aligned scalings ``[..., 3, 3]`` from factors ``[..., 2]``."""
    factors = np.asarray(factors_xy, np.float64)
    out = np.zeros((*factors.shape[:-1], 3, 3))
    out[..., 0, 0] = factors[..., 0]
    out[..., 1, 1] = factors[..., 1]
    out[..., 2, 2] = 1.0
    return out


def rotation(angle_degrees: ArrayLike) -> Float:
    """Build rotations ``[..., 3, 3]`` about the origin, clockwise on the screen, from degrees."""
    angle = np.deg2rad(np.asarray(angle_degrees, np.float64))
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.zeros((*angle.shape, 3, 3))
    out[..., 0, 0], out[..., 0, 1] = cos, -sin
    out[..., 1, 0], out[..., 1, 1] = sin, cos
    out[..., 2, 2] = 1.0
    return out


def compose(*transforms: Float) -> Float:
    """Return the transform that applies the LAST argument first, as in matrix notation."""
    out = transforms[0]
    for transform in transforms[1:]:
        out = out @ transform
    return out


def invert(transform: Float) -> Float:
    """Invert transforms ``[..., 3, 3]``.

    Raises:
        ValueError: a transform is singular (it squashes the plane to a line).
    """
    try:
        return np.asarray(np.linalg.inv(transform), np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("a singular transform has no inverse") from None


def apply(transform: Float, points_xy: ArrayLike) -> Float:
    """Map points ``[..., N, 2]`` by transforms ``[..., 3, 3]``.

    Points behind a perspective's horizon (w <= 0) become NaN: they have no image.
    """
    points = np.asarray(points_xy, np.float64)
    mapped = points @ np.swapaxes(transform[..., :2, :2], -1, -2) + transform[..., None, :2, 2]
    w = points @ transform[..., 2, :2, None] + transform[..., None, 2, 2, None]
    return mapped / np.where(w > 0, w, np.nan)


def corners(width: float, height: float) -> Float:
    """Return the four corners ``[4, 2]`` of the box (0, 0, width, height), clockwise."""
    return np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])


def bounds(points_xy: Float) -> Float:
    """Return the boxes ``[..., 4]`` (x0, y0, x1, y1) around points ``[..., N, 2]``."""
    return np.concatenate([points_xy.min(axis=-2), points_xy.max(axis=-2)], axis=-1)
