"""Labels of a clip from what a corpus keeps on disk: no object bank is needed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from smile_synth.core import geometry
from smile_synth.core.clip import Flow, Labels, Tracks
from smile_synth.core.errors import UserError
from smile_synth.scene import Scene, Textured, is_redrawn

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


class StoredAnnotation:
    """The labels that a corpus wrote, and flow and tracks from them and the scene's poses.

    Masks, boxes and visibility are exactly the stored ones. Flow and tracks follow the exact poses; who owns
    a point is read off the stored masks, pixel by pixel, where `annotate` asks the textures themselves.
    Unlabelled layers have no stored masks: the pixels under their outline have no flow and no visibility.
    """

    def __init__(self, stored: dict[str, Any], scene: Scene | None = None) -> None:
        """Take a clip's label file as plain data and, for flow and tracks, its scene.

        Raises:
            ValueError: scene and labels disagree on objects or frames.
        """
        self._stored, self._scene = stored, scene
        if scene is not None:
            found = (sum(layer.labelled for layer in scene.layers), scene.num_frames)
            if found != (len(stored["objects"]), stored["num_frames"]):
                raise ValueError(f"the scene has {found[0]} objects in {found[1]} frames, the labels differ")

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        objects = self._stored["objects"]
        n, frames = len(objects), self._stored["num_frames"]
        height, width = self._stored["size_hw"]

        def masks(name: str) -> Bool:
            out = np.zeros((n, frames, height, width), bool)
            for i, item in enumerate(objects):
                out[i] = np.moveaxis(coco_mask.decode(item[name]).reshape(height, width, frames), -1, 0)
            return out

        def numbers(name: str, *trailing: int) -> Float:
            out = np.full((n, frames, *trailing), np.nan)
            for i, item in enumerate(objects):
                for t, value in enumerate(item[name]):
                    out[i, t] = np.nan if value is None else np.array(value, np.float64)
            return out

        amodal, modal = masks("amodal_rle"), masks("modal_rle")
        segmentation = np.zeros((frames, height, width), np.uint16)
        occluded_by = np.zeros((n, n, frames), np.int64)
        for i in range(n):
            segmentation[modal[i]] = i + 1
            for j in range(n):
                if i != j:
                    occluded_by[i, j] = (amodal[i] & modal[j]).sum(axis=(1, 2))
        return Labels(
            class_names=tuple(item["class_name"] for item in objects),
            segmentation=segmentation,
            amodal_masks=amodal,
            modal_masks=modal,
            amodal_boxes_xyxy=numbers("amodal_boxes_xyxy", 4),
            modal_boxes_xyxy=numbers("modal_boxes_xyxy", 4),
            oriented_boxes_xy=numbers("oriented_boxes_xy", 4, 2),
            visibility=numbers("visibility"),
            in_frame=numbers("in_frame"),
            depth_order=np.array([item["depth_order"] for item in objects], np.int64).reshape(n, frames),
            occluded_by=occluded_by,
        )

    @property
    def segmentation(self) -> NDArray[np.uint16]:
        """Who owns every pixel ``[T, H, W]``."""
        return self.labels.segmentation

    def flow(self, t0: int, t1: int) -> Flow:
        """Compute the flow from frame ``t0`` to frame ``t1``, see `Flow`.

        Raises:
            UserError: the clip has no scene.
            ValueError: a frame outside the clip.
        """
        frames, height, width = self.segmentation.shape
        if not (0 <= t0 < frames and 0 <= t1 < frames):
            raise ValueError(f"frames {t0} and {t1} must both lie in 0..{frames - 1}")
        y, x = np.mgrid[:height, :width] + 0.5
        centers = np.stack([x.ravel(), y.ravel()], axis=-1)
        layers = self._owner(t0).ravel()
        targets = self._carry(centers, layers, t0, t1)
        valid = np.asarray(np.isfinite(targets).all(axis=1))
        inside = self._inside(targets)
        hidden = np.zeros(len(layers), bool)
        hidden[inside] = self._owner_at(targets[inside], t1) != layers[inside]
        return Flow(
            flow_xy=np.where(valid[:, None], targets - centers, 0.0).reshape(height, width, 2).astype("f4"),
            valid=valid.reshape(height, width),
            occluded=hidden.reshape(height, width),
            leaves=(valid & ~inside).reshape(height, width),
        )

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Follow points ``[P, 3]`` = (frame, x, y) inside the frame, see `Tracks`.

        Raises:
            UserError: the clip has no scene.
        """
        queries = np.asarray(points_txy, np.float64).reshape(-1, 3)
        frames = len(self.segmentation)
        at = queries[:, 0].astype(np.int64)
        layer = np.zeros(len(queries), np.int64)
        points = np.full((len(queries), frames, 2), np.nan)
        visible = np.zeros((len(queries), frames), bool)
        for t0 in np.unique(at):
            rows = np.flatnonzero(at == t0)
            layer[rows] = self._owner_at(queries[rows, 1:], int(t0))
            for t1 in range(frames):
                targets = self._carry(queries[rows, 1:], layer[rows], int(t0), t1)
                inside = self._inside(targets)
                points[rows, t1] = targets
                visible[rows[inside], t1] = self._owner_at(targets[inside], t1) == layer[rows[inside]]
        return Tracks(points, visible, layer)

    def _owner(self, t: int) -> NDArray[np.int64]:
        """Return the layer of every pixel of a frame; -1 where an unlabelled layer may stand."""
        scene = self._known_scene
        labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled]
        owner = np.array([0, *labelled], np.int64)[self.segmentation[t]]
        height, width = owner.shape
        for k, layer in enumerate(scene.layers):
            if k and not layer.labelled and isinstance(layer.surface, Textured) and scene.opacity[k, t] > 0:
                y, x = np.mgrid[:height, :width] + 0.5
                inverse = geometry.invert(scene.object_to_frame[k, t])
                at = geometry.apply(inverse, np.stack([x.ravel(), y.ravel()], axis=-1)).reshape(
                    height, width, 2
                )
                under = ((at >= 0) & (at <= [layer.surface.width, layer.surface.height])).all(axis=-1)
                owner[under & (owner == 0)] = -1
        return np.asarray(owner)

    def _owner_at(self, points: Float, t: int) -> NDArray[np.int64]:
        x, y = np.floor(points).astype(np.int64).T
        return np.asarray(self._owner(t)[y, x])

    def _carry(self, points: Float, layers: NDArray[np.int64], t0: int, t1: int) -> Float:
        scene = self._known_scene
        targets = np.full_like(points, np.nan)
        for k in np.unique(layers[layers >= 0]):
            if is_redrawn(scene.layers[k].surface) and t0 != t1:
                continue
            chosen = layers == k
            step = scene.object_to_frame[k, t1] @ geometry.invert(scene.object_to_frame[k, t0])
            targets[chosen] = geometry.apply(step, points[chosen])
        return targets

    def _inside(self, points: Float) -> Bool:
        height, width = self._stored["size_hw"]
        with np.errstate(invalid="ignore"):
            return np.asarray(((points >= 0) & (points < [width, height])).all(axis=1))

    @property
    def _known_scene(self) -> Scene:
        if self._scene is None:
            raise UserError("flow and tracks need the clip's scene, and its file is missing or damaged")
        return self._scene
