"""Clip and its label containers: frozen, shapes checked when built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


def _check(name: str, array: NDArray[np.generic], shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


@dataclass(frozen=True)
class Geometry:
    """Labels of N objects over T frames but for their masks. The definitions stand in docs/labels.md.

    Attributes:
        class_names: N names.
        amodal_boxes_xyxy: ``[N, T, 4]`` pixels, half-open, NOT cropped by the frame; NaN when empty.
        modal_boxes_xyxy: ``[N, T, 4]`` pixels, half-open; NaN when nothing is visible.
        oriented_boxes_xy: ``[N, T, 4, 2]`` pixels, the corners of the box that is tight in the object's own
            axes: its upper left, upper right, lower right, lower left; not cropped; NaN behind a horizon.
        visibility: ``[N, T]`` modal area / amodal area; NaN when the amodal mask is empty.
        in_frame: ``[N, T]`` amodal area inside the frame / whole amodal area; NaN without any extent.
        depth_order: ``[N, T]`` int64, 0 is the front-most object of the frame.
        occluded_by: ``[N, N, T]`` int64; [i, j] pixels of object i's extent that object j owns.
    """

    class_names: tuple[str, ...]
    amodal_boxes_xyxy: Float
    modal_boxes_xyxy: Float
    oriented_boxes_xy: Float
    visibility: Float
    in_frame: Float
    depth_order: NDArray[np.int64]
    occluded_by: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type."""
        n, t = len(self.class_names), self.visibility.shape[-1]
        _check("amodal_boxes_xyxy", self.amodal_boxes_xyxy, (n, t, 4), np.float64)
        _check("modal_boxes_xyxy", self.modal_boxes_xyxy, (n, t, 4), np.float64)
        _check("oriented_boxes_xy", self.oriented_boxes_xy, (n, t, 4, 2), np.float64)
        _check("visibility", self.visibility, (n, t), np.float64)
        _check("in_frame", self.in_frame, (n, t), np.float64)
        _check("depth_order", self.depth_order, (n, t), np.int64)
        _check("occluded_by", self.occluded_by, (n, n, t), np.int64)


@dataclass(frozen=True)
class Labels(Geometry):
    """Labels of N objects over T frames, with their masks.

    Attributes:
        segmentation: ``[T, H, W]`` uint16; 0 is the background, k + 1 is object k where it owns the pixel.
        amodal_masks: ``[N, T, H, W]`` bool, the extent inside the frame, whatever lies in front.
        modal_masks: ``[N, T, H, W]`` bool, the owned pixels; disjoint, each inside its amodal mask.
    """

    segmentation: NDArray[np.uint16]
    amodal_masks: Bool
    modal_masks: Bool

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type."""
        super().__post_init__()
        n, (t, h, w) = len(self.class_names), self.segmentation.shape
        _check("segmentation", self.segmentation, (self.visibility.shape[-1], h, w), np.uint16)
        _check("amodal_masks", self.amodal_masks, (n, t, h, w), np.bool_)
        _check("modal_masks", self.modal_masks, (n, t, h, w), np.bool_)


@dataclass(frozen=True)
class Flow:
    """Where every pixel centre of one frame is in another.

    Attributes:
        flow_xy: ``[H, W, 2]`` float32 (dx, dy) pixels; 0 where invalid.
        valid: ``[H, W]`` a correspondence exists.
        occluded: ``[H, W]`` valid, inside the frame, and another layer owns the target point.
        leaves: ``[H, W]`` valid, and the target is outside the frame.
    """

    flow_xy: NDArray[np.float32]
    valid: Bool
    occluded: Bool
    leaves: Bool

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type."""
        h, w = self.valid.shape
        _check("flow_xy", self.flow_xy, (h, w, 2), np.float32)
        for name in ("valid", "occluded", "leaves"):
            _check(name, getattr(self, name), (h, w), np.bool_)


@dataclass(frozen=True)
class Tracks:
    """Query points followed through all frames.

    Attributes:
        points_xy: ``[P, T, 2]`` float64 pixels, sub-pixel exact; NaN where a point has no position.
        visible: ``[P, T]`` inside the frame and not covered, by the ownership rule at the point itself.
        layer: ``[P]`` int64, the scene's layer that the point is fixed to (0 is the background).
    """

    points_xy: Float
    visible: Bool
    layer: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type."""
        p, t = self.visible.shape
        _check("points_xy", self.points_xy, (p, t, 2), np.float64)
        _check("visible", self.visible, (p, t), np.bool_)
        _check("layer", self.layer, (p,), np.int64)


class Annotator(Protocol):
    """What a clip asks for its labels; computed when first asked for."""

    @property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object."""

    @property
    def segmentation(self) -> NDArray[np.uint16]:
        """`Labels.segmentation` alone, without the cost of the other labels."""

    def flow(self, t0: int, t1: int) -> Flow:
        """Flow from frame t0 to frame t1."""

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Tracks of query points (frame, x, y)."""


@dataclass(frozen=True)
class Clip:
    """Frames in memory with their labels.

    Attributes:
        frames: ``[T, H, W, 3]`` uint8 RGB.
        fps: frames per second.
        annotation: source of the labels.
    """

    frames: NDArray[np.uint8]
    fps: float
    annotation: Annotator

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type."""
        shape = self.frames.shape
        if len(shape) != 4 or shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames: expected uint8 [T, H, W, 3], got {self.frames.dtype} {shape}")

    @property
    def labels(self) -> Labels:
        """All labels of the clip, see `Labels`."""
        return self.annotation.labels

    @property
    def segmentation(self) -> NDArray[np.uint16]:
        """Who owns every pixel ``[T, H, W]`` (`Labels.segmentation`)."""
        return self.annotation.segmentation

    @property
    def masks(self) -> Bool:
        """Visible masks ``[N, T, H, W]`` (`Labels.modal_masks`)."""
        return self.labels.modal_masks

    @property
    def boxes(self) -> Float:
        """Tight boxes of the visible masks ``[N, T, 4]`` (`Labels.modal_boxes_xyxy`)."""
        return self.labels.modal_boxes_xyxy

    @property
    def visibility(self) -> Float:
        """Visible share of each object ``[N, T]`` (`Labels.visibility`)."""
        return self.labels.visibility

    def flow(self, t0: int, t1: int) -> Flow:
        """Compute the flow from frame ``t0`` to frame ``t1``, see `Flow`."""
        return self.annotation.flow(t0, t1)

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Follow points ``[P, 3]`` given as (frame, x, y), see `Tracks`."""
        return self.annotation.tracks(points_txy)
