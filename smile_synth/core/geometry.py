"""Homogeneous 3x3 transforms in pixel coordinates: build, compose, invert, apply.

Points are column vectors (x, y, 1), x right and y down, so angles are clockwise on the screen. A
transform's name says its direction: ``object_to_frame`` maps points of an object's texture to points
of the frame. Everything is float64 and works on leading batch dimensions ``[..., 3, 3]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth.core.compile import kernel

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


def determinant(transform: Float) -> Float:
    """Return the determinants ``[...]`` of transforms ``[..., 3, 3]``.

    Each one has the same bits in every batch, which `numpy.linalg.det` does not promise.
    """
    out = np.empty(transform.shape[:-2])
    _fill_determinants(np.ascontiguousarray(transform).reshape(-1, 3, 3), out.reshape(-1))
    return out


@kernel
def _fill_determinants(transforms, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for n in range(len(out)):
        m = transforms[n]
        out[n] = (
            m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
            - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
            + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
        )


def invert(transform: Float) -> Float:
    """Invert transforms ``[..., 3, 3]``.

    Raises:
        ValueError: a transform is singular: it maps the plane to a line or a point.
    """
    try:
        return np.asarray(np.linalg.inv(transform), np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("a singular transform has no inverse") from None


def apply(transform: Float, points_xy: ArrayLike) -> Float:
    """Map points ``[..., N, 2]`` by transforms ``[..., 3, 3]``.

    Points behind the horizon of a perspective (w <= 0) have no image and become NaN.
    """
    points = np.asarray(points_xy, np.float64)
    mapped = points @ np.swapaxes(transform[..., :2, :2], -1, -2) + transform[..., None, :2, 2]
    w = points @ transform[..., 2, :2, None] + transform[..., None, 2, 2, None]
    return mapped / np.where(w > 0, w, np.nan)


def tilt(degrees_xy: ArrayLike, distance: float) -> Float:
    """Build perspective tilts ``[..., 3, 3]`` about the origin, with a camera ``distance`` pixels away.

    ``degrees_xy`` is ``[..., 2]``: the angle about the horizontal axis (positive brings the lower edge
    nearer), then the angle about the vertical axis (positive brings the left edge nearer).
    """
    angle = np.deg2rad(np.asarray(degrees_xy, np.float64))
    (cos_a, cos_b), (sin_a, sin_b) = np.moveaxis(np.cos(angle), -1, 0), np.moveaxis(np.sin(angle), -1, 0)
    out = np.zeros((*angle.shape[:-1], 3, 3))
    out[..., 0, 0], out[..., 0, 1] = cos_b, sin_a * sin_b
    out[..., 1, 1] = cos_a
    out[..., 2, 0], out[..., 2, 1] = sin_b / distance, -sin_a * cos_b / distance
    out[..., 2, 2] = 1.0
    return out


def affine(
    center_xy: Float, degrees: Float, scale_xy: Float, shear_xy: Float | None, middle_xy: Float
) -> Float:
    """Build affine transforms ``[..., 3, 3]`` that move a box to its place in the frame.

    They move ``middle_xy`` to the origin, then scale, shear, rotate, and move the origin to ``center_xy``.
    Each result has the same bits in every batch, which a product of matrices does not promise.
    """
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b, c, d = cos, -sin, sin, cos
    if shear_xy is not None:
        x, y = shear_xy[..., 0], shear_xy[..., 1]
        a, b, c, d = a + b * y, a * x + b, c + d * y, c * x + d
    out = np.zeros((*angle.shape, 3, 3))
    width, height = scale_xy[..., 0], scale_xy[..., 1]
    # Adding zero turns -0 into 0, as a product of matrices does.
    out[..., 0, 0], out[..., 0, 1] = a * width, b * height + 0.0
    out[..., 1, 0], out[..., 1, 1] = c * width, d * height
    mx, my = middle_xy[..., 0], middle_xy[..., 1]
    out[..., 0, 2] = center_xy[..., 0] - (out[..., 0, 0] * mx + out[..., 0, 1] * my)
    out[..., 1, 2] = center_xy[..., 1] - (out[..., 1, 0] * mx + out[..., 1, 1] * my)
    out[..., 2, 2] = 1.0
    return out


def product(left: Float, right: Float) -> Float:
    """Multiply transforms ``[..., 3, 3]``. Each product has the same bits in every batch."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    out = np.empty(shape)
    a, b = (np.ascontiguousarray(np.broadcast_to(m, shape)).reshape(-1, 3, 3) for m in (left, right))
    _multiply(a, b, out.reshape(-1, 3, 3))
    return out


@kernel
def _multiply(left, right, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for n in range(out.shape[0]):
        for i in range(3):
            for j in range(3):
                out[n, i, j] = (
                    left[n, i, 0] * right[n, 0, j]
                    + left[n, i, 1] * right[n, 1, j]
                    + left[n, i, 2] * right[n, 2, j]
                )


def corners(width: float, height: float) -> Float:
    """Return the four corners ``[4, 2]`` of the box (0, 0, width, height), clockwise."""
    return np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
