"""All labels of a scene from its poses and its textures' alpha; definitions in docs/labels.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth.annotations._kernels import (
    back_to_front,
    cover,
    depth_ranks,
    encode_runs,
    fill_masks,
    follow,
    oriented_boxes,
    owners_at,
    summarise,
)
from smile_synth.core import geometry
from smile_synth.core.clip import Flow, Geometry, Labels, Tracks
from smile_synth.core.coverage import pixel_centers, window
from smile_synth.scene import Scene, StoredImage, check_sources, cut_out_of, is_redrawn
from smile_synth.sources import Sources

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Masks ``[N, T, H, W]`` as the runs of their rows.

    Attributes:
        runs: ``[R, 2]`` int32, columns [x0, x1), row after row.
        rows: ``[N, T, H + 1]`` int64, where in ``runs`` each row begins.
        width: of the frame.
    """

    runs: NDArray[np.int32]
    rows: Int
    width: int

    def masks(self) -> Bool:
        """Return the masks as arrays."""
        n, frames, height = self.rows.shape
        out = np.zeros((n, frames, height - 1, self.width), bool)
        fill_masks(self.runs, self.rows, out)
        return out

    def coco(self, wanted: Bool | None = None) -> list[str]:
        """Return the ``counts`` that `pycocotools.mask.encode` has, of mask after mask.

        Args:
            wanted: ``[N, T]``, of which masks; all by default.
        """
        if wanted is None:
            wanted = np.ones(self.rows.shape[:2], bool)
        text: str = encode_runs(self.runs, self.rows, self.width, wanted).tobytes().decode()
        return text.splitlines()


class Annotation:
    """The labels of one scene, computed when first asked for."""

    def __init__(self, scene: Scene, sources: Sources) -> None:
        check_sources(scene, sources)
        self.scene = scene
        self._sources = sources
        self._labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled]

    @cached_property
    def _stack(self) -> tuple[Any, ...]:
        """Return what the kernels need of the layers: see `cover`, up to ``order``."""
        scene, bank = self.scene, self._sources.objects
        front, plain = list[StoredImage](), True
        for k, layer in enumerate(scene.layers[1:], 1):
            if not isinstance(layer.surface, StoredImage) or layer.border != "transparent":
                raise ValueError(f"layer {k}: labels know only cut-outs in front of the background")
            front.append(layer.surface)
            plain = plain and layer.surface.source == "objects" and not layer.feather
        # A background covers everything whatever its alpha: only the layers in front need textures.
        sizes = np.array([(0, 0), *((surface.height, surface.width) for surface in front)], np.int64)
        if plain:
            texels = bank.texels
            first = bank.texel_offsets[[0, *(surface.texture_id for surface in front)]]
        else:
            parts = [cut_out_of(layer, self._sources).texels for layer in scene.layers[1:]]
            texels, first = np.concatenate(parts), np.cumsum([0, 0, *map(len, parts)])[:-1]
        order = np.empty((scene.num_frames, len(scene.layers) - 1), np.int64)
        back_to_front(_frozen(scene.depth), order)
        inverse = np.ascontiguousarray(geometry.invert(scene.object_to_frame))
        return (
            _frozen(texels), first.astype(np.int64), np.ascontiguousarray(sizes[:, 0]),
            np.ascontiguousarray(sizes[:, 1]), inverse, _frozen(scene.level), _frozen(scene.opacity), order,
        )  # fmt: skip

    def _windows(self) -> Int:
        """Return where each layer of a projective pose may be ``[L, T, 4]``."""
        scene, stack = self.scene, self._stack
        height, width = scene.size_hw
        out = np.zeros((len(scene.layers), scene.num_frames, 4), np.int64)
        for k, t in np.argwhere((stack[4][1:, :, 2] != [0.0, 0.0, 1.0]).any(axis=-1)) + [1, 0]:
            size_hw = int(stack[2][k]), int(stack[3][k])
            try:
                out[k, t] = window(scene.object_to_frame[k, t], size_hw, scene.level[k, t], None)
            except ValueError:
                # Where a horizon makes the extent endless it is cropped to three frames' size.
                out[k, t] = -width, -height, 2 * width, 2 * height
        return out

    @cached_property
    def _number(self) -> Int:
        """The place of each layer among the labelled objects ``[L]``, else -1."""
        number = np.full(len(self.scene.layers), -1)
        number[self._labelled] = np.arange(len(self._labelled))
        return number

    @cached_property
    def _extents(self) -> tuple[NDArray[np.int16], Runs, Int]:
        """Owner layer ``[T, H, W]``, amodal masks, and areas and boxes ``[N, T, 5]`` of the whole extents."""
        return self._cover(len(self._labelled))

    def _cover(self, objects: int) -> tuple[NDArray[np.int16], Runs, Int]:
        scene = self.scene
        height, width = scene.size_hw
        owner = np.zeros((scene.num_frames, height, width), np.int16)
        rows = np.zeros((objects, scene.num_frames, height + 1), np.int64)
        extent = np.zeros((objects, scene.num_frames, 5), np.int64)
        runs = cover(*self._stack, self._windows(), self._number, owner, rows, extent)
        return owner, Runs(runs, rows, width), extent

    @cached_property
    def _owner(self) -> NDArray[np.int16]:
        """Owner layer ``[T, H, W]``, alone for less."""
        return self._extents[0] if "_extents" in self.__dict__ else self._cover(0)[0]

    @cached_property
    def segmentation(self) -> NDArray[np.uint16]:
        """Who owns every pixel ``[T, H, W]``: `Labels.segmentation` alone, for less."""
        if len(self._labelled) == len(self.scene.layers) - 1:
            return self._owner.view(np.uint16)
        return (self._number + 1).astype(np.uint16)[self._owner]

    @property
    def amodal_runs(self) -> Runs:
        """`Labels.amodal_masks` as runs."""
        return self._extents[1]

    @property
    def modal_runs(self) -> Runs:
        """`Labels.modal_masks` as runs."""
        return self._summary[0]

    def coco(self) -> tuple[list[str], list[str]]:
        """Return `Runs.coco` of the modal and of the amodal masks; most of them are the same."""
        amodal, hidden = self.amodal_runs.coco(), self._summary[2]
        modal = amodal.copy()
        for place, text in zip(np.flatnonzero(hidden), self.modal_runs.coco(hidden), strict=True):
            modal[place] = text
        return modal, amodal

    @property
    def geometry(self) -> Geometry:
        """Boxes, visibility and depth of every labelled object: `Labels` without its masks, for less."""
        return self._summary[1]

    @cached_property
    def _summary(self) -> tuple[Runs, Geometry, Bool]:
        """Modal masks, boxes and the rest, and whose modal mask is less than the amodal one ``[N, T]``."""
        scene = self.scene
        owner, amodal, extent = self._extents
        n, frames = extent.shape[:2]
        modal_rows = np.zeros(amodal.rows.shape, np.int64)
        modal_extent = np.zeros((n, frames, 5), np.int64)
        amodal_area = np.zeros((n, frames), np.int64)
        occluded_by = np.zeros((n, n, frames), np.int64)
        runs = summarise(
            owner, self._number, amodal.runs, amodal.rows, modal_rows, modal_extent, amodal_area, occluded_by
        )
        geometry = Geometry(
            class_names=tuple(scene.layers[k].class_name for k in self._labelled),
            amodal_boxes_xyxy=_boxes(extent),
            modal_boxes_xyxy=_boxes(modal_extent),
            oriented_boxes_xy=self._oriented_boxes(),
            visibility=_ratio(modal_extent[..., 0], amodal_area),
            in_frame=_ratio(amodal_area, extent[..., 0]),
            depth_order=self._depth_order(),
            occluded_by=occluded_by,
        )
        return Runs(runs, modal_rows, amodal.width), geometry, modal_extent[..., 0] < amodal_area

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        return Labels(
            **vars(self.geometry),
            segmentation=self.segmentation,
            amodal_masks=self.amodal_runs.masks(),
            modal_masks=self.modal_runs.masks(),
        )

    def _oriented_boxes(self) -> Float:
        labelled = np.array(self._labelled, np.int64)
        out = np.empty((len(labelled), self.scene.num_frames, 4, 2))
        # Of texels of half alpha or more, as in the extent.
        oriented_boxes(*self._stack[:4], labelled, _frozen(self.scene.object_to_frame), out)
        return out

    def _depth_order(self) -> Int:
        out = np.zeros((len(self._labelled), self.scene.num_frames), np.int64)
        depth_ranks(self._stack[-1], self._number, out)
        return out

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
        begin, owners = np.full(len(centers), t0), self._owner[t0].ravel().astype(np.int64)
        targets, inside, hidden = self._follow(centers, owners, begin, np.array([t1]))
        targets, inside, hidden = targets[:, 0], inside[:, 0], hidden[:, 0]
        valid = np.asarray(np.isfinite(targets[:, 0]))
        leaves = valid & ~inside
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
        times = queries[:, 0]
        wrong = ~((times >= 0) & (times < frames) & (times == np.floor(times)))
        if wrong.any():
            raise ValueError(f"query frames are whole, in 0..{frames - 1}, got {times[wrong][0]:g}")
        begin, start = times.astype(np.int64), np.ascontiguousarray(queries[:, 1:])
        layer = np.zeros(len(queries), np.int64)
        owners_at(*self._stack, begin, start, layer)
        targets, inside, hidden = self._follow(start, layer, begin, np.arange(frames))
        return Tracks(targets, inside & ~hidden, layer)

    def _follow(self, points: Float, layers: Int, begin: Int, ends: Int) -> tuple[Float, Bool, Bool]:
        """Carry points ``[P, 2]`` with their layers from a frame each to all of some frames.

        Returns targets ``[P, E, 2]`` (NaN: none), which are in the frame and which are hidden ``[P, E]``.
        """
        shape = len(points), len(ends)
        targets, inside, hidden = np.empty((*shape, 2)), np.zeros(shape, bool), np.zeros(shape, bool)
        redrawn = np.array([is_redrawn(layer.surface) for layer in self.scene.layers])
        poses = _frozen(self.scene.object_to_frame)
        follow(
            *self._stack, poses, redrawn, self.scene.size_hw, points, layers, begin, ends, targets, inside,
            hidden,
        )  # fmt: skip
        return targets, inside, hidden


def annotate(scene: Scene, sources: Sources) -> Annotation:
    """Return the labels of a scene; each kind is computed when first asked for.

    Raises:
        UserError: the sources are not those that the scene was drawn from.

    Example:
        >>> annotation = annotate(sample_scene(recipe, sources, seed=0, index=7), sources)
        >>> annotation.segmentation.shape, annotation.flow(0, 2).flow_xy.shape
        ((3, 20, 28), (20, 28, 2))
    """
    return Annotation(scene, sources)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous read-only view: any other kind of array would compile the kernels anew."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _boxes(extent: Int) -> Float:
    """Return the boxes ``[N, T, 4]`` of extents ``[N, T, 5]``, NaN where the area is 0."""
    return np.where(extent[..., :1] > 0, extent[..., 1:].astype(np.float64), np.nan)


def _ratio(part: Int, whole: Int) -> Float:
    ratio: Float = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
