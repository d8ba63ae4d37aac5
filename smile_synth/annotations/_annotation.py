"""All labels of a scene from its poses and its textures' alpha; docs/labels.md has the definitions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_synth.annotations._kernels import (
    EXTENT,
    count_visible,
    encode_crops,
    fill_masks,
    fill_owners,
    follow,
    oriented_boxes,
    owners_at,
    place_crops,
)
from smile_synth.annotations._object_motion import rates_of_motion
from smile_synth.annotations._token_motion import TOKEN, find_token_owners, frame_maps, move_tokens
from smile_synth.core.clip import Flow, Geometry, Labels, ObjectMotion, TokenMotion, Tracks
from smile_synth.core.coverage import layer_views, side_maps
from smile_synth.core.errors import UserError
from smile_synth.scene import Scene, StoredImage, check_sources, cut_out_of, is_redrawn
from smile_synth.sources import Sources

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Int = NDArray[np.int64]
_MOST_LAYERS = 32_767  # of int16


class Annotation:
    """The labels of one scene. Each kind is computed when it is first read; its arrays are read-only."""

    def __init__(self, scene: Scene, sources: Sources) -> None:
        check_sources(scene, sources)
        if len(scene.layers) > _MOST_LAYERS:
            raise UserError(f"a clip of {len(scene.layers)} layers: labels allow at most {_MOST_LAYERS}")
        self.scene = scene
        self._sources = sources
        self._layers = np.flatnonzero(
            [layer.labelled for layer in scene.layers]
        )  # [N] of the labelled objects
        self._numbers = np.full(len(scene.layers), -1)
        self._numbers[self._layers] = np.arange(len(self._layers))

    def __eq__(self, other: object) -> bool:
        """Return whether both annotate the same scene."""
        return isinstance(other, Annotation) and self.scene.digest == other.scene.digest

    def __hash__(self) -> int:
        """Hash the scene."""
        return hash(self.scene.digest)

    def __repr__(self) -> str:
        """Return the numbers of objects and frames, and the size."""
        objects, frames, (height, width) = len(self._layers), self.scene.num_frames, self.scene.size_hw
        return f"Annotation(objects={objects}, frames={frames}, size_hw=({height}, {width}))"

    @cached_property
    def _stack(self) -> tuple[NDArray[np.uint8], NDArray[Any], Int]:
        """Texels, views and order of the layers, see `smile_synth.annotations._kernels`."""
        scene, bank = self.scene, self._sources.objects
        front, plain = list[StoredImage](), True
        for k, layer in enumerate(scene.layers[1:], 1):
            if not isinstance(layer.surface, StoredImage) or layer.border != "transparent":
                raise ValueError(f"layer {k}: labels need cut-outs in front of the background")
            front.append(layer.surface)
            plain = plain and layer.surface.source == "objects" and not layer.feather
        # The background covers everything. Only the layers in front need textures.
        sizes = [(0, 0), *((surface.height, surface.width) for surface in front)]
        if plain:
            texels = bank.texels
            first = bank.texel_offsets[[0, *(surface.texture_id for surface in front)]]
        else:
            parts = [cut_out_of(layer, self._sources).texels for layer in scene.layers[1:]]
            texels, first = np.concatenate(parts), np.cumsum([0, 0, *map(len, parts)])[:-1]
        views = layer_views(first, sizes, scene.object_to_frame, scene.level, scene.opacity, scene.size_hw)
        # Of equal depths the later layer is in front.
        order = np.argsort(-scene.depth[1:], axis=0, kind="stable").T + 1
        return _read_only(texels), views, np.ascontiguousarray(order)

    def _fill(
        self, numbers: Int, extents: NDArray[Any], *, step: int = 1
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Return owner layers ``[T, H, W]`` and amodal pixels, of the objects that have numbers.

        ``step``: only of the frames 0, step, 2 step, ...
        """
        texels, views, order = self._stack
        views, order = np.ascontiguousarray(views[:, ::step]), np.ascontiguousarray(order[::step])
        owner = np.zeros((len(order), *self.scene.size_hw), np.int16)
        amodal = np.zeros(place_crops(views, numbers, self.scene.size_hw, extents), np.uint8)
        fill_owners(texels, side_maps(texels, views), views, order, numbers, owner, extents, amodal)
        return owner, amodal

    @cached_property
    def _extents(self) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[Any], Int]:
        """Owner layers, amodal pixels, extents ``[N, T]`` of `EXTENT` and ``occluded_by``."""
        n, frames = len(self._layers), self.scene.num_frames
        extents, occluded_by = np.zeros((n, frames), EXTENT), np.zeros((n, n, frames), np.int64)
        owner, amodal = self._fill(self._numbers, extents)
        count_visible(owner, self._layers, self._numbers, extents, amodal, occluded_by)
        return owner, amodal, extents, occluded_by

    @cached_property
    def _owner(self) -> NDArray[np.int16]:
        """Owner layers ``[T, H, W]``; cheaper when nothing else was computed before."""
        if "_extents" in self.__dict__:
            return self._extents[0]
        return self._owner_alone()

    def _owner_alone(self, step: int = 1) -> NDArray[np.int16]:
        return self._fill(np.full_like(self._numbers, -1), np.zeros((0, 0), EXTENT), step=step)[0]

    @cached_property
    def segmentation(self) -> NDArray[np.int16]:
        """`Labels.segmentation` ``[T, H, W]`` alone, without the cost of the other labels."""
        if len(self._layers) == len(self.scene.layers) - 1:  # layer k is object k - 1
            return _read_only(self._owner)
        return _read_only((self._numbers + 1).astype(np.int16)[self._owner])

    @property
    def owner_layers(self) -> NDArray[np.int16]:
        """The layer of the scene ``[T, H, W]`` that owns each pixel; layers without labels own pixels too."""
        return _read_only(self._owner)

    @cached_property
    def geometry(self) -> Geometry:
        """Boxes, visibility and depth of every labelled object: `Labels` without its masks."""
        _, _, extents, occluded_by = self._extents
        area, inside, visible = extents["area"], extents["amodal_area"], extents["modal_area"]
        return Geometry.owning(
            class_names=tuple(self.scene.layers[k].class_name for k in self._layers),
            amodal_boxes_xyxy=np.where(area[..., None] > 0, extents["box"], np.nan),
            modal_boxes_xyxy=np.where(visible[..., None] > 0, extents["modal_box"], np.nan),
            oriented_boxes_xy=self._oriented_boxes(),
            visibility=_ratio(visible, inside),
            in_frame=_ratio(inside, area),
            depth_order=self._depth_order(),
            occluded_by=occluded_by,
        )

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        owner, amodal, extents, _ = self._extents
        shape = (*extents.shape, *self.scene.size_hw)
        # One array for both: the allocator reuses its memory for the next clip. The memory of two smaller
        # arrays returns to the system, and new pages are slow.
        amodal_masks, modal_masks = np.zeros((2, *shape), bool)
        fill_masks(owner, self._layers, extents, amodal, amodal_masks, modal_masks)
        return Labels.owning(
            **vars(self.geometry),
            segmentation=self.segmentation,
            amodal_masks=amodal_masks,
            modal_masks=modal_masks,
        )

    def coco(self) -> tuple[list[str], list[str]]:
        """Return the COCO run lengths of the modal and of the amodal masks, object by object, frame by frame.

        They are the ``counts`` of `pycocotools.mask.encode`.
        """
        owner, amodal, extents, _ = self._extents
        lines = iter(encode_crops(owner, self._layers, extents, amodal).tobytes().decode().splitlines())
        modal_counts, amodal_counts = list[str](), list[str]()
        for smaller in (extents["modal_area"] < extents["amodal_area"]).flat:
            amodal_counts.append(next(lines))
            modal_counts.append(next(lines) if smaller else amodal_counts[-1])
        return modal_counts, amodal_counts

    def _oriented_boxes(self) -> Float:
        texels, views, _ = self._stack
        out = np.empty((len(self._layers), self.scene.num_frames, 4, 2))
        oriented_boxes(texels, views, self._layers, _read_only(self.scene.object_to_frame), out)
        return out

    def _depth_order(self) -> Int:
        _, _, order = self._stack
        layers, frames = order[:, ::-1], np.arange(self.scene.num_frames)[:, None]  # front to back
        counted = (self._numbers[layers] >= 0) & (self.scene.opacity[layers, frames] > 0)
        ranks = counted.cumsum(axis=1) - 1
        t, place = np.nonzero(counted)
        out = np.full((len(self._layers), self.scene.num_frames), -1)
        out[self._numbers[layers[t, place]], t] = ranks[t, place]
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
        y, x = np.mgrid[:height, :width] + 0.5
        centers = np.stack([x.ravel(), y.ravel()], axis=1)
        layers, frames = self._owner[t0].ravel().astype(np.int64), np.full(height * width, t0)
        targets, inside, hidden = self._follow(centers, layers, frames, np.array([t1]))
        valid = np.isfinite(targets[:, 0, 0]).reshape(height, width)
        leaves = valid & ~inside.reshape(height, width)
        flow = np.where(valid[..., None], (targets[:, 0] - centers).reshape(height, width, 2), 0.0)
        return Flow.owning(
            flow_xy=flow.astype(np.float32),
            valid=valid,
            occluded=valid & hidden.reshape(height, width) & ~leaves,
            leaves=leaves,
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
        return Tracks.owning(points_xy=targets, visible=inside & ~hidden, layer=layer)

    def token_motion(self, token_size: tuple[int, int], offsets: Sequence[int]) -> TokenMotion:
        """Compute the exact motion of the tokens of a video transformer, see `TokenMotion`.

        Args:
            token_size: (tubelet_size, patch_size), in frames and pixels.
            offsets: other times, in tubelets; 0 is the last frame of the token's own tubelet.

        Raises:
            ValueError: tokens that do not divide the clip, no offset, or an offset that no token can reach.
        """
        scene, (tubelet_size, patch_size) = self.scene, token_size
        (height, width), frames = scene.size_hw, scene.num_frames
        if frames % tubelet_size or height % patch_size or width % patch_size:
            raise ValueError(
                f"clips of {frames}x{height}x{width} do not divide into tokens of "
                f"{tubelet_size}x{patch_size}x{patch_size}"
            )
        grid = frames // tubelet_size, height // patch_size, width // patch_size
        check_offsets(offsets, grid[0], tubelet_size)
        starts = np.arange(grid[0]) * tubelet_size
        ends = starts[:, None] + np.array(offsets) * tubelet_size
        ends[:, [offset == 0 for offset in offsets]] += tubelet_size - 1
        ends[(ends < 0) | (ends >= frames)] = -1
        texels, views, order = self._stack
        tokens = np.empty(grid, TOKEN)
        # Only the first frames of the tubelets are needed; another label may have computed all frames.
        has_all = not {"_owner", "_extents"}.isdisjoint(self.__dict__)
        owners = (self._owner, tubelet_size) if has_all else (self._owner_alone(tubelet_size), 1)
        find_token_owners(*owners, patch_size, tokens)
        d, n = len(offsets), tokens.size
        vectors = np.zeros((5, d, n, 2), np.float32)
        flags = np.zeros((2, d, n), bool)
        displacement, spread, camera = vectors[:3]
        linear = vectors[3:].transpose(1, 2, 3, 0).copy()
        redrawn = np.array([is_redrawn(layer.surface) for layer in scene.layers])
        maps = frame_maps(_read_only(scene.object_to_frame), views["frame_to_texture"], starts, ends)
        move_tokens(
            (texels, views, order), tokens, owners, token_size, (maps, redrawn), ends,
            (displacement, spread, linear, camera, flags[0], flags[1]),
        )  # fmt: skip
        layers = tokens["layer"].ravel()
        behind = np.zeros((len(scene.layers), frames), np.int16)
        for t in starts:
            behind[order[t], t] = np.arange(1, len(scene.layers))
        numbers = np.where(self._numbers >= 0, self._numbers + 1, -1)
        numbers[0] = 0
        return TokenMotion.owning(
            offsets=np.array(offsets, np.int64),
            displacement_xy=displacement,
            spread_xy=spread,
            linear=linear,
            camera_xy=camera,
            valid=flags[0],
            visible=flags[1],
            object=numbers[layers].astype(np.int16),
            share=(tokens["count"].ravel() / patch_size**2).astype(np.float32),
            depth=behind[layers, starts.repeat(grid[1] * grid[2])],
        )

    def object_motion(self) -> ObjectMotion:
        """Compute how every labelled object moves from each frame to the next one, see `ObjectMotion`."""
        scene = self.scene
        surfaces = [scene.layers[k].surface for k in self._layers]
        sizes = [(s.width, s.height) for s in surfaces if isinstance(s, StoredImage)]
        velocity, rotation, log_scale = rates_of_motion(
            scene.object_to_frame[self._layers], np.array(sizes, np.float64).reshape(-1, 2)
        )
        present = scene.opacity[self._layers] > 0
        missing = ~(present[:, :-1] & present[:, 1:])
        out = np.full((*present.shape, 4), np.nan)
        out[:, :-1] = np.concatenate([velocity, rotation[..., None], log_scale[..., None]], axis=-1)
        out[:, :-1][missing] = np.nan
        return ObjectMotion(out[..., :2], out[..., 2], out[..., 3])

    def _follow(self, points: Float, layers: Int, begin: Int, ends: Int) -> tuple[Float, Bool, Bool]:
        """Move points ``[P, 2]`` with their layers from a frame each to all frames ``ends [E]``.

        Returns:
            targets ``[P, E, 2]``, NaN where there is none; whether they are in the frame ``[P, E]``; whether
            another layer owns them ``[P, E]``.
        """
        targets = np.empty((len(points), len(ends), 2))
        hidden = np.empty(targets.shape[:2], bool)
        redrawn = np.array([is_redrawn(layer.surface) for layer in self.scene.layers])
        poses = _read_only(self.scene.object_to_frame)
        follow(*self._stack, poses, redrawn, (points, layers, begin), ends, (targets, hidden))
        inside = (targets >= 0) & (targets < self.scene.size_hw[::-1])
        return targets, np.asarray(inside.all(axis=2)), hidden


def annotate(scene: Scene, sources: Sources) -> Annotation:
    """Return the labels of a scene; each kind is computed when it is first read.

    Raises:
        UserError: the scene was made from other sources, or has more than 32,767 layers.

    Example:
        >>> annotation = annotate(sample_scene(recipe, sources, seed=0, index=7), sources)
        >>> annotation.segmentation.shape, annotation.flow(0, 2).flow_xy.shape
        ((3, 20, 28), (20, 28, 2))
    """
    return Annotation(scene, sources)


def check_offsets(offsets: Sequence[int], num_tubelets: int, tubelet_size: int) -> None:
    """Check the offsets of `Annotation.token_motion`.

    Raises:
        ValueError: no offset, one that no token can reach, or 0 with tubelets of one frame.
    """
    if not offsets:
        raise ValueError("offsets: give at least one")
    for offset in offsets:
        if abs(offset) >= num_tubelets:
            raise ValueError(f"offsets: {offset} is outside of the clip's {num_tubelets} tubelets")
        if offset == 0 and tubelet_size == 1:
            raise ValueError("offsets: 0 is the motion inside a tubelet, and a tubelet has one frame here")


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous read-only view. Other memory layouts would compile the kernels again."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _ratio(part: Int, whole: Int) -> Float:
    ratio: Float = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
