"""All labels of a scene from its poses and its textures' alpha; definitions in docs/labels.md."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth import geometry
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.clip import Flow, Labels, Tracks
from smile_synth.coverage import THRESHOLD, alpha_at, pixel_centers, tight_box, whole_extent, window
from smile_synth.objects import ObjectBank
from smile_synth.scene import Picture, Scene, check_sources, is_redrawn, texture_of
from smile_synth.texture import Texture

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


class Annotation:
    """The labels of one scene, computed when first asked for."""

    def __init__(self, scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None = None) -> None:
        check_sources(scene, bank, backgrounds)
        self.scene = scene
        # A background covers everything whatever its alpha: only the layers in front need textures.
        self._textures: list[Texture | None] = [
            texture_of(layer.surface, bank, backgrounds)
            if k > 0 and isinstance(layer.surface, Picture) and layer.border == "transparent"
            else None
            for k, layer in enumerate(scene.layers)
        ]
        self._labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled]

    @cached_property
    def _extents(self) -> tuple[NDArray[np.int64], dict[int, Bool], Float, dict[int, Float]]:
        """Return owner layer ``[T, H, W]``, amodal masks, whole areas and whole boxes by layer."""
        scene = self.scene
        (height, width), frames = scene.size_hw, scene.num_frames
        owner = np.zeros((frames, height, width), np.int64)
        amodal = {k: np.zeros((frames, height, width), bool) for k in self._labelled}
        whole_area = np.zeros((len(scene.layers), frames))
        boxes = {k: np.full((frames, 4), np.nan) for k in self._labelled}
        for t in range(frames):
            for k in reversed(scene.front_to_back(t)[:-1]):
                texture = self._texture(k)
                extent = whole_extent(texture, scene.object_to_frame[k, t], scene.level[k, t], scene.size_hw)
                x0, y0, x1, y1 = extent.area
                rows = slice(max(y0, 0), max(min(y1, height), 0))
                columns = slice(max(x0, 0), max(min(x1, width), 0))
                inside = extent.alpha[
                    max(rows.start - y0, 0) : max(rows.stop - y0, 0),
                    max(columns.start - x0, 0) : max(columns.stop - x0, 0),
                ]
                if inside.size:
                    owner[t, rows, columns][inside * scene.opacity[k, t] >= THRESHOLD] = k
                if k in amodal:
                    mask = extent.alpha >= THRESHOLD
                    whole_area[k, t] = mask.sum()
                    boxes[k][t] = tight_box(mask, extent.area)
                    if inside.size:
                        amodal[k][t, rows, columns] = inside >= THRESHOLD
        return owner, amodal, whole_area, boxes

    def _texture(self, layer: int) -> Texture:
        texture = self._textures[layer]
        if texture is None:
            raise ValueError(f"layer {layer}: labels know only cut-outs in front of the background")
        return texture

    @cached_property
    def segmentation(self) -> NDArray[np.uint16]:
        """Who owns every pixel ``[T, H, W]``: `Labels.segmentation` alone, for a fraction of the cost."""
        scene = self.scene
        height, width = scene.size_hw
        frame = (0, 0, width, height)
        numbers = np.zeros(len(scene.layers), np.uint16)
        numbers[self._labelled] = np.arange(1, len(self._labelled) + 1)
        out = np.zeros((scene.num_frames, height, width), np.uint16)
        for t in range(scene.num_frames):
            for k in reversed(scene.front_to_back(t)[:-1]):
                texture, pose, level = self._texture(k), scene.object_to_frame[k, t], scene.level[k, t]
                x0, y0, x1, y1 = area = window(pose, texture, level, frame)
                if x1 > x0 and y1 > y0:
                    alpha = alpha_at(texture, pose, level, pixel_centers(area)).reshape(y1 - y0, x1 - x0)
                    out[t, y0:y1, x0:x1][alpha * scene.opacity[k, t] >= THRESHOLD] = numbers[k]
        return out

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        scene, labelled = self.scene, self._labelled
        owner, amodal_by_layer, whole_area, boxes = self._extents
        n, frames = len(labelled), scene.num_frames
        shape = (n, *owner.shape)
        amodal = np.stack([amodal_by_layer[k] for k in labelled]) if n else np.zeros(shape, bool)
        modal = np.stack([owner == k for k in labelled]) if n else np.zeros(shape, bool)
        amodal_area = amodal.sum(axis=(2, 3)).astype(np.float64)
        modal_area = modal.sum(axis=(2, 3)).astype(np.float64)
        area_of_layers = whole_area[labelled] if n else np.zeros((0, frames))
        frame = (0, 0, scene.size_hw[1], scene.size_hw[0])
        modal_boxes = np.full((n, frames, 4), np.nan)
        occluded_by = np.zeros((n, n, frames), np.int64)
        for i in range(n):
            for t in range(frames):
                modal_boxes[i, t] = tight_box(modal[i, t], frame)
            for j in range(n):
                if i != j:
                    occluded_by[i, j] = (amodal[i] & modal[j]).sum(axis=(1, 2))
        return Labels(
            class_names=tuple(scene.layers[k].class_name for k in labelled),
            segmentation=self.segmentation,
            amodal_masks=amodal,
            modal_masks=modal,
            amodal_boxes_xyxy=np.stack([boxes[k] for k in labelled]) if n else np.zeros((0, frames, 4)),
            modal_boxes_xyxy=modal_boxes,
            oriented_boxes_xy=self._oriented_boxes(),
            visibility=_ratio(modal_area, amodal_area),
            in_frame=_ratio(amodal_area, area_of_layers),
            depth_order=self._depth_order(),
            occluded_by=occluded_by,
        )

    def _oriented_boxes(self) -> Float:
        out = np.full((len(self._labelled), self.scene.num_frames, 4, 2), np.nan)
        for i, k in enumerate(self._labelled):
            texture = self._texture(k)
            # Texels of half alpha or more, as in the extent.
            x0, y0, x1, y1 = tight_box(texture.level(0)[..., 3] >= 128, (0, 0, texture.width, texture.height))
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            mapped = geometry.apply(self.scene.object_to_frame[k], corners)
            # A box with one corner behind the horizon is no box.
            whole = np.isfinite(mapped).all(axis=(1, 2))
            out[i, whole] = mapped[whole]
        return out

    def _depth_order(self) -> NDArray[np.int64]:
        order = np.zeros((len(self._labelled), self.scene.num_frames), np.int64)
        for t in range(self.scene.num_frames):
            ranked = [k for k in self.scene.front_to_back(t) if k in self._labelled]
            for i, k in enumerate(self._labelled):
                order[i, t] = ranked.index(k)
        return order

    def flow(self, t0: int, t1: int) -> Flow:
        """Compute where the centre of every pixel of frame ``t0`` is in frame ``t1``.

        Raises:
            ValueError: a frame outside the clip.
        """
        scene = self.scene
        for t in (t0, t1):
            if not 0 <= t < scene.num_frames:
                raise ValueError(f"frame {t} is outside the clip's 0..{scene.num_frames - 1}")
        height, width = scene.size_hw
        centers = pixel_centers((0, 0, width, height))
        layers = self._extents[0][t0].ravel()
        targets, hidden = self._follow(centers, layers, t0, t1)
        valid = np.asarray(np.isfinite(targets).all(axis=1))
        leaves = valid & ~self._inside(targets)
        flow = np.where(valid[:, None], targets - centers, 0.0)
        return Flow(
            flow_xy=flow.reshape(height, width, 2).astype(np.float32),
            valid=valid.reshape(height, width),
            occluded=(valid & hidden & ~leaves).reshape(height, width),
            leaves=leaves.reshape(height, width),
        )

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Follow points ``[P, 3]`` = (frame, x, y), each fixed to the layer that owns it in its frame.

        Raises:
            ValueError: not ``[P, 3]``, or a frame that the clip does not have.
        """
        queries = np.asarray(points_txy, np.float64)
        frames = self.scene.num_frames
        if queries.ndim != 2 or queries.shape[1] != 3:
            raise ValueError(f"points are [P, 3] = (frame, x, y), got {queries.shape}")
        wrong = ~np.isin(queries[:, 0], np.arange(frames))
        if wrong.any():
            raise ValueError(f"query frames are whole, in 0..{frames - 1}, got {queries[wrong, 0][0]:g}")
        at = queries[:, 0].astype(np.int64)
        points = np.full((len(queries), frames, 2), np.nan)
        visible = np.zeros((len(queries), frames), bool)
        layer = np.zeros(len(queries), np.int64)
        for t0 in np.unique(at):
            chosen = at == t0
            start = queries[chosen, 1:]
            layer[chosen] = self._owner_at(start, int(t0))
            for t1 in range(frames):
                targets, hidden = self._follow(start, layer[chosen], int(t0), t1)
                points[chosen, t1] = targets
                visible[chosen, t1] = self._inside(targets) & ~hidden
        return Tracks(points, visible, layer)

    def _inside(self, points: Float) -> Bool:
        height, width = self.scene.size_hw
        with np.errstate(invalid="ignore"):
            return np.asarray(((points >= 0) & (points < [width, height])).all(axis=1))

    def _alpha(self, layer: int, t: int, points: Float) -> Float:
        if layer == 0:
            return np.ones(len(points))
        scene = self.scene
        return alpha_at(self._texture(layer), scene.object_to_frame[layer, t], scene.level[layer, t], points)

    def _owner_at(self, points: Float, t: int) -> NDArray[np.int64]:
        """Return the layer that owns each point itself ``[P, 2]``."""
        owner = np.zeros(len(points), np.int64)
        for k in reversed(self.scene.front_to_back(t)[:-1]):
            owner[self._alpha(k, t, points) * self.scene.opacity[k, t] >= THRESHOLD] = k
        return owner

    def _follow(self, points: Float, layers: NDArray[np.int64], t0: int, t1: int) -> tuple[Float, Bool]:
        """Carry points of given layers from t0 to t1; returns targets (NaN: none) and what is hidden.

        A point keeps the larger of its alphas at t0 and t1: resampling at an edge must not make an
        object hide behind what lies behind it.
        """
        scene = self.scene
        targets = np.full_like(points, np.nan)
        hidden = np.zeros(len(points), bool)
        for k in np.unique(layers):
            chosen = layers == k
            if is_redrawn(scene.layers[k].surface) and t0 != t1:
                continue
            source = geometry.apply(geometry.invert(scene.object_to_frame[k, t0]), points[chosen])
            target = points[chosen] if t0 == t1 else geometry.apply(scene.object_to_frame[k, t1], source)
            targets[chosen] = target
            order = scene.front_to_back(t1)
            covered = np.zeros(len(target), bool)
            finite = np.isfinite(target).all(axis=1)
            for front in order[: order.index(int(k))]:
                alpha = np.zeros(len(target))
                alpha[finite] = self._alpha(front, t1, target[finite])
                covered |= alpha * scene.opacity[front, t1] >= THRESHOLD
            if k > 0:
                alpha = self._alpha(int(k), t0, points[chosen])
                alpha[finite] = np.maximum(alpha[finite], self._alpha(int(k), t1, target[finite]))
                covered |= alpha * scene.opacity[k, t1] < THRESHOLD
            hidden[chosen] = covered
        return targets, hidden


def annotate(scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None = None) -> Annotation:
    """Return the labels of a scene; each kind is computed when first asked for.

    Raises:
        UserError: bank or backgrounds are not those that the scene was drawn from.
    """
    return Annotation(scene, bank, backgrounds)


def _ratio(part: Float, whole: Float) -> Float:
    ratio: Float = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
