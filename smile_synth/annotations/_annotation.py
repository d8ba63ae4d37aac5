"""All labels of a scene from its poses and its textures' alpha; definitions in docs/labels.md."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth import geometry
from smile_synth.annotations._kernels import cover, follow, owners_at, summarise
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.clip import Flow, Labels, Tracks
from smile_synth.coverage import pixel_centers, tight_box, window
from smile_synth.objects import ObjectBank
from smile_synth.scene import Picture, Scene, check_sources, is_redrawn, texture_of
from smile_synth.texture import Texture

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Int = NDArray[np.int64]


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

    def _texture(self, layer: int) -> Texture:
        texture = self._textures[layer]
        if texture is None:
            raise ValueError(f"layer {layer}: labels know only cut-outs in front of the background")
        return texture

    @cached_property
    def _stack(self) -> tuple[Any, ...]:
        """Return what the kernels need of the layers: see `cover`, up to ``back_to_front``."""
        scene = self.scene
        textures = [self._texture(k) for k in range(1, len(scene.layers))]
        sizes = np.array([(0, 0), *((texture.height, texture.width) for texture in textures)], np.int64)
        texels = [texture.texels for texture in textures]
        first = np.cumsum([0, 0, *map(len, texels)])[: len(scene.layers)]
        order = [scene.front_to_back(t)[-2::-1] for t in range(scene.num_frames)]
        return (
            np.concatenate([np.zeros((0, 4), np.uint8), *texels]),
            first.astype(np.int64),
            np.ascontiguousarray(sizes[:, 0]),
            np.ascontiguousarray(sizes[:, 1]),
            np.ascontiguousarray(geometry.invert(scene.object_to_frame)),
            scene.level,
            scene.opacity,
            np.array(order, np.int64).reshape(scene.num_frames, len(textures)),
        )

    def _windows(self, *, whole: bool) -> Int:
        """Return where each layer may be ``[L, T, 4]``: anywhere, or inside the frame."""
        scene = self.scene
        height, width = scene.size_hw
        frame = (0, 0, width, height)
        out = np.zeros((len(scene.layers), scene.num_frames, 4), np.int64)
        for k in range(1, len(scene.layers)):
            texture = self._texture(k)
            for t in range(scene.num_frames):
                pose, level = scene.object_to_frame[k, t], scene.level[k, t]
                try:
                    out[k, t] = window(pose, texture, level, None if whole else frame)
                except ValueError:
                    # Where a horizon makes the extent endless it is cropped to three frames' size.
                    out[k, t] = -width, -height, 2 * width, 2 * height
        return out

    @cached_property
    def _extents(self) -> tuple[NDArray[np.int16], Bool, Int]:
        """Return owner layer ``[T, H, W]``, amodal masks, and areas and boxes of the whole extents."""
        return self._cover(self._labelled)

    def _cover(self, labelled: list[int]) -> tuple[NDArray[np.int16], Bool, Int]:
        scene = self.scene
        owner = np.zeros((scene.num_frames, *scene.size_hw), np.int16)
        amodal = np.zeros((len(labelled), *owner.shape), bool)
        extent = np.zeros((len(labelled), scene.num_frames, 5), np.int64)
        number = np.full(len(scene.layers), -1)
        number[labelled] = np.arange(len(labelled))
        cover(*self._stack, self._windows(whole=bool(labelled)), number, owner, amodal, extent)  # type: ignore[call-arg]
        return owner, amodal, extent

    @cached_property
    def _owner(self) -> NDArray[np.int16]:
        """Owner layer ``[T, H, W]``, alone for a fraction of the cost."""
        return self._extents[0] if "_extents" in self.__dict__ else self._cover([])[0]

    @cached_property
    def segmentation(self) -> NDArray[np.uint16]:
        """Who owns every pixel ``[T, H, W]``: `Labels.segmentation` alone, for a fraction of the cost."""
        numbers = np.zeros(len(self.scene.layers), np.uint16)
        numbers[self._labelled] = np.arange(1, len(self._labelled) + 1)
        if len(self._labelled) == len(self.scene.layers) - 1:
            return self._owner.view(np.uint16)
        return numbers[self._owner]

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        scene = self.scene
        _, amodal, extent = self._extents
        n, frames = amodal.shape[:2]
        modal = np.zeros(amodal.shape, bool)
        modal_extent = np.zeros((n, frames, 5), np.int64)
        amodal_area = np.zeros((n, frames), np.int64)
        occluded_by = np.zeros((n, n, frames), np.int64)
        summarise(self.segmentation, amodal, modal, modal_extent, amodal_area, occluded_by)
        return Labels(
            class_names=tuple(scene.layers[k].class_name for k in self._labelled),
            segmentation=self.segmentation,
            amodal_masks=amodal,
            modal_masks=modal,
            amodal_boxes_xyxy=_boxes(extent),
            modal_boxes_xyxy=_boxes(modal_extent),
            oriented_boxes_xy=self._oriented_boxes(),
            visibility=_ratio(modal_extent[..., 0], amodal_area),
            in_frame=_ratio(amodal_area, extent[..., 0]),
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

    def _depth_order(self) -> Int:
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
        targets, hidden = self._follow(centers, self._owner[t0].ravel(), t0, t1)
        valid = np.asarray(np.isfinite(targets[:, 0]))
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
        begin, start = queries[:, 0].astype(np.int64), np.ascontiguousarray(queries[:, 1:])
        layer = np.zeros(len(queries), np.int64)
        owners_at(*self._stack, begin, start, layer)  # type: ignore[call-arg]
        # Every point to every frame.
        targets, hidden = self._follow(
            np.repeat(start, frames, axis=0), np.repeat(layer, frames), np.repeat(begin, frames),
            np.tile(np.arange(frames), len(queries)),
        )  # fmt: skip
        visible = self._inside(targets) & ~hidden
        return Tracks(targets.reshape(-1, frames, 2), visible.reshape(-1, frames), layer)

    def _inside(self, points: Float) -> Bool:
        height, width = self.scene.size_hw
        with np.errstate(invalid="ignore"):
            return np.asarray(((points >= 0) & (points < [width, height])).all(axis=1))

    def _follow(
        self, points: Float, layers: NDArray[np.integer[Any]], begin: ArrayLike, end: ArrayLike
    ) -> tuple[Float, Bool]:
        """Carry points ``[P, 2]`` with their layers; returns targets (NaN: none) and what is hidden."""
        targets = np.empty_like(points)
        hidden = np.zeros(len(points), bool)
        redrawn = np.array([is_redrawn(layer.surface) for layer in self.scene.layers])
        times = [np.ascontiguousarray(np.broadcast_to(t, len(points)), np.int64) for t in (begin, end)]
        poses, layers = self.scene.object_to_frame, layers.astype(np.int64)
        follow(*self._stack, poses, redrawn, points, layers, *times, targets, hidden)  # type: ignore[call-arg]
        return targets, hidden


def annotate(scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None = None) -> Annotation:
    """Return the labels of a scene; each kind is computed when first asked for.

    Raises:
        UserError: bank or backgrounds are not those that the scene was drawn from.
    """
    return Annotation(scene, bank, backgrounds)


def _boxes(extent: Int) -> Float:
    """Return the boxes ``[N, T, 4]`` of extents ``[N, T, 5]``, NaN where the area is 0."""
    return np.where(extent[..., :1] > 0, extent[..., 1:].astype(np.float64), np.nan)


def _ratio(part: Int, whole: Int) -> Float:
    ratio: Float = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
