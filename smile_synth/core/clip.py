"""Clip and its label containers: shapes and dtypes are checked when they are built."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


def _check(name: str, array: NDArray[np.generic], shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


class _Container:
    """A frozen dataclass with arrays: copies them, compares and hashes by value, and prints their shapes."""

    _read_only = True

    def __post_init__(self) -> None:
        """Copy the arrays, then check them."""
        for name, value in self._values().items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, value.copy())
        self._finish()

    @classmethod
    def owning(cls, **values: Any) -> Self:
        """Build the container without copies. Its arrays become read-only; nothing else may hold them."""
        container = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(container, name, value)
        container._finish()
        return container

    def _values(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    def _finish(self) -> None:
        self._check()
        for value in self._values().values():
            if isinstance(value, np.ndarray) and self._read_only:
                value.flags.writeable = False

    def _check(self) -> None:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        """Return whether all values are equal; NaN equals NaN."""
        if not isinstance(other, _Container) or type(other) is not type(self):
            return NotImplemented
        return all(
            _equal(mine, theirs)
            for mine, theirs in zip(self._values().values(), other._values().values(), strict=True)
        )

    def __hash__(self) -> int:
        """Hash the shapes and what is no array."""
        return hash(tuple(v.shape if isinstance(v, np.ndarray) else v for v in self._values().values()))

    def __repr__(self) -> str:
        """Return the values, arrays by dtype and shape."""
        parts = (
            f"{name}={f'{value.dtype}{list(value.shape)}' if isinstance(value, np.ndarray) else repr(value)}"
            for name, value in self._values().items()
        )
        return f"{type(self).__name__}({', '.join(parts)})"


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, np.ndarray):
        return np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
    return bool(mine == theirs)


@dataclass(frozen=True, repr=False, eq=False)
class Geometry(_Container):
    """Labels of N objects over T frames, without their masks. docs/labels.md has the definitions.

    An object that is not present in a frame (opacity 0) has no labels there: NaN, -1 in ``depth_order``, 0 in
    ``occluded_by``. All arrays are read-only.

    Attributes:
        class_names: N names.
        amodal_boxes_xyxy: ``[N, T, 4]`` pixels, half-open, NOT cropped by the frame; NaN when empty.
        modal_boxes_xyxy: ``[N, T, 4]`` pixels, half-open; NaN when nothing is visible.
        oriented_boxes_xy: ``[N, T, 4, 2]`` pixels, the corners of the box that is tight in the object's own
            axes: its upper left, upper right, lower right, lower left; not cropped; NaN behind a horizon.
        visibility: ``[N, T]`` modal area / amodal area; NaN when the amodal mask is empty.
        in_frame: ``[N, T]`` amodal area inside the frame / whole amodal area; NaN without any extent.
        depth_order: ``[N, T]`` int64, 0 is the front-most of the objects that are present.
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

    def _check(self) -> None:
        n, t = len(self.class_names), self.visibility.shape[-1]
        _check("amodal_boxes_xyxy", self.amodal_boxes_xyxy, (n, t, 4), np.float64)
        _check("modal_boxes_xyxy", self.modal_boxes_xyxy, (n, t, 4), np.float64)
        _check("oriented_boxes_xy", self.oriented_boxes_xy, (n, t, 4, 2), np.float64)
        _check("visibility", self.visibility, (n, t), np.float64)
        _check("in_frame", self.in_frame, (n, t), np.float64)
        _check("depth_order", self.depth_order, (n, t), np.int64)
        _check("occluded_by", self.occluded_by, (n, n, t), np.int64)


@dataclass(frozen=True, repr=False, eq=False)
class Labels(Geometry):
    """Labels of N objects over T frames, with their masks.

    Attributes:
        segmentation: ``[T, H, W]`` int16; 0 is the background, k + 1 is object k where it owns the pixel. A
            clip has at most 32,767 objects.
        amodal_masks: ``[N, T, H, W]`` bool, the extent inside the frame, also where other layers cover it.
        modal_masks: ``[N, T, H, W]`` bool, the owned pixels; disjoint, each inside its amodal mask.
    """

    segmentation: NDArray[np.int16]
    amodal_masks: Bool
    modal_masks: Bool

    def _check(self) -> None:
        super()._check()
        n, (t, h, w) = len(self.class_names), self.segmentation.shape
        _check("segmentation", self.segmentation, (self.visibility.shape[-1], h, w), np.int16)
        _check("amodal_masks", self.amodal_masks, (n, t, h, w), np.bool_)
        _check("modal_masks", self.modal_masks, (n, t, h, w), np.bool_)


@dataclass(frozen=True, repr=False, eq=False)
class Flow(_Container):
    """Where every pixel centre of one frame is in another. All arrays are read-only.

    Attributes:
        flow_xy: ``[H, W, 2]`` float32 (dx, dy) pixels; 0 where invalid.
        valid: ``[H, W]`` bool, a correspondence exists.
        occluded: ``[H, W]`` bool, valid, inside the frame, and another layer owns the target point.
        leaves: ``[H, W]`` bool, valid, and the target is outside the frame.
    """

    flow_xy: NDArray[np.float32]
    valid: Bool
    occluded: Bool
    leaves: Bool

    def _check(self) -> None:
        h, w = self.valid.shape
        _check("flow_xy", self.flow_xy, (h, w, 2), np.float32)
        for name in ("valid", "occluded", "leaves"):
            _check(name, getattr(self, name), (h, w), np.bool_)


@dataclass(frozen=True, repr=False, eq=False)
class Tracks(_Container):
    """Query points followed through all frames. All arrays are read-only.

    Attributes:
        points_xy: ``[P, T, 2]`` float64 pixels, sub-pixel exact; NaN where a point has no position.
        visible: ``[P, T]`` bool, inside the frame and not covered, by the ownership rule at the point itself.
        layer: ``[P]`` int64, the scene's layer that the point is fixed to (0 is the background).
    """

    points_xy: Float
    visible: Bool
    layer: NDArray[np.int64]

    def _check(self) -> None:
        p, t = self.visible.shape
        _check("points_xy", self.points_xy, (p, t, 2), np.float64)
        _check("visible", self.visible, (p, t), np.bool_)
        _check("layer", self.layer, (p,), np.int64)


@dataclass(frozen=True, repr=False, eq=False)
class TokenMotion(_Container):
    """Exact motion of the N tokens of a clip to D other times. All arrays are read-only.

    A token's values describe the pixels that its majority owner owns in the first frame of its tubelet. The
    owner moves them from there to the other frame. Tokens are in the order time, row, column.

    Attributes:
        offsets: ``[D]`` int64, the other times in tubelets: the first frame of another tubelet. Offset 0 is
            the last frame of the same tubelet.
        displacement_xy: ``[D, N, 2]`` float32 pixels, the mean over these pixels.
        spread_xy: ``[D, N, 2]`` float32 pixels, the standard deviation over these pixels.
        linear: ``[D, N, 2, 2]`` float32, derivative of the displacement (row: x, y of the displacement;
            column: x, y of the position) at the mean position: local rotation, scale and shear.
        camera_xy: ``[D, N, 2]`` float32 pixels, displacement of the background at the token's centre.
        valid: ``[D, N]`` bool. False where the other time is outside of the clip, the owner shows new content
            in every frame, or the position is behind a horizon. All values are then 0.
        visible: ``[D, N]`` bool. Whether the anchor is visible at the other time, by the rule of `Tracks`.
            The anchor is the centre of the pixel that is nearest to the mean of these pixels.
        object: ``[N]`` int16, number of the owner as in `Labels.segmentation`; -1 is an unlabelled layer.
        share: ``[N]`` float32 0..1, share of the token's pixels that the owner owns in that frame.
        depth: ``[N]`` int16, number of layers that are behind the owner in that frame; 0 is the background.
    """

    offsets: NDArray[np.int64]
    displacement_xy: NDArray[np.float32]
    spread_xy: NDArray[np.float32]
    linear: NDArray[np.float32]
    camera_xy: NDArray[np.float32]
    valid: Bool
    visible: Bool
    object: NDArray[np.int16]
    share: NDArray[np.float32]
    depth: NDArray[np.int16]

    def _check(self) -> None:
        d, n = self.valid.shape
        _check("offsets", self.offsets, (d,), np.int64)
        for name in ("displacement_xy", "spread_xy", "camera_xy"):
            _check(name, getattr(self, name), (d, n, 2), np.float32)
        _check("linear", self.linear, (d, n, 2, 2), np.float32)
        for name in ("valid", "visible"):
            _check(name, getattr(self, name), (d, n), np.bool_)
        _check("share", self.share, (n,), np.float32)
        for name in ("object", "depth"):
            _check(name, getattr(self, name), (n,), np.int16)


@dataclass(frozen=True, repr=False, eq=False)
class ObjectMotion(_Container):
    """How the K labelled objects move from each frame to the next one. All arrays are read-only.

    Values are NaN in the last frame, where an object is not present in one of the two frames, and where its
    middle is behind a horizon.

    Attributes:
        velocity_xy: ``[K, T, 2]`` float64 pixels per frame, of the middle of the object's texture.
        rotation_degrees: ``[K, T]`` float64 per frame, clockwise on the screen, in -180..180.
        log_scale: ``[K, T]`` float64 per frame, natural logarithm of the change of size.
    """

    velocity_xy: Float
    rotation_degrees: Float
    log_scale: Float

    def _check(self) -> None:
        k, t = self.log_scale.shape
        _check("velocity_xy", self.velocity_xy, (k, t, 2), np.float64)
        for name in ("rotation_degrees", "log_scale"):
            _check(name, getattr(self, name), (k, t), np.float64)


class Annotator(Protocol):
    """The source of a clip's labels; each kind is computed when it is first read."""

    @property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object."""

    @property
    def segmentation(self) -> NDArray[np.int16]:
        """`Labels.segmentation` alone, without the cost of the other labels."""

    def flow(self, t0: int, t1: int) -> Flow:
        """Flow from frame t0 to frame t1."""

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Tracks of query points (frame, x, y)."""


@dataclass(frozen=True, repr=False, eq=False)
class Clip(_Container):
    """Frames in memory with their labels.

    Attributes:
        frames: ``[T, H, W, 3]`` uint8 RGB.
        fps: frames per second.
        annotation: source of the labels.
    """

    _read_only = False  # torch.from_numpy warns about read-only arrays

    frames: NDArray[np.uint8]
    fps: float
    annotation: Annotator

    def _check(self) -> None:
        shape = self.frames.shape
        if len(shape) != 4 or shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames: expected uint8 [T, H, W, 3], got {self.frames.dtype} {shape}")

    @property
    def labels(self) -> Labels:
        """All labels of the clip, see `Labels`."""
        return self.annotation.labels

    @property
    def segmentation(self) -> NDArray[np.int16]:
        """Number of the object that owns each pixel ``[T, H, W]`` (`Labels.segmentation`)."""
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
