"""Labels against one another: each test fails if one side is off by half a pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from smile_synth.annotations import annotate, query_points
from smile_synth.compositing import composite
from smile_synth.core import geometry
from smile_synth.core.clip import Labels
from smile_synth.core.rng import RandomStream
from smile_synth.scene import Scene, Solid

HALF = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, -0.5)]


@pytest.fixture(scope="module")
def scene(studio: Any) -> Scene:
    """Two cut-outs that turn, grow and cross over a moving image; one leaves the frame."""
    large = studio.placed(
        "smooth", np.array([[30.3, 28.8], [36.7, 31.5], [43.2, 33.1]]),
        np.array([[0.6, 0.6], [0.66, 0.66], [0.7, 0.7]]), np.array([10.0, 19.0, 26.0]),
    )  # fmt: skip
    small = studio.placed("disc", np.array([[58.2, 20.1], [64.4, 27.3], [75.9, 30.6]]), 1.4, np.zeros(3))
    camera = geometry.translation([[-8.2, -6.1], [-9.5, -4.4], [-11.0, -3.9]])
    background = studio.sheet(studio.image(2), camera, border="reflect")
    front = studio.sheet(studio.object("disc"), small, depth=0.5)
    return studio.scene(background, studio.sheet(studio.object("smooth"), large), front, size_hw=(64, 80))


def shifted(scene: Scene, layer: int, frame: int, by_xy: tuple[float, float]) -> Scene:
    """Return the scene with a layer of one frame moved."""
    poses = scene.object_to_frame.copy()
    poses[layer, frame] = geometry.translation(by_xy) @ poses[layer, frame]
    return replace(scene, object_to_frame=poses)


def distance_from_edge(mask: np.ndarray) -> np.ndarray:
    """Return every pixel's distance in pixels from the mask's edge, inside and outside."""
    inside, outside = mask.astype(np.uint8), (~mask).astype(np.uint8)
    return np.maximum(*(cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (inside, outside)))


@pytest.mark.parametrize("by_xy", HALF)
def test_a_mask_moved_by_its_pose_is_the_next_mask(
    studio: Any, scene: Scene, by_xy: tuple[float, float]
) -> None:
    """Single pixels tell no half of one, their middle does."""
    labels = annotate(scene, studio.sources).labels
    pose = geometry.compose(scene.object_to_frame[1, 1], geometry.invert(scene.object_to_frame[1, 0]))
    pose = geometry.translation(by_xy) @ pose
    # OpenCV counts from the pixels' centres.
    centred = geometry.translation([-0.5, -0.5]) @ pose @ geometry.translation([0.5, 0.5])
    source = labels.amodal_masks[0, 0].astype(np.float32)
    moved = cv2.warpPerspective(source, centred, (80, 64), flags=cv2.INTER_LINEAR) >= 0.5
    target = labels.amodal_masks[0, 1]
    wrong = moved != target
    assert distance_from_edge(target)[wrong].max(initial=0) <= 1.5
    middles = [np.argwhere(mask)[:, ::-1].mean(axis=0) + 0.5 for mask in (source, target)]
    off = np.abs(geometry.apply(pose, middles[0][None])[0] - middles[1]).max()
    assert off < 0.1 if by_xy == (0.0, 0.0) else off > 0.4


@pytest.mark.parametrize("by_xy", HALF)
def test_a_track_is_the_integral_of_the_flow(studio: Any, scene: Scene, by_xy: tuple[float, float]) -> None:
    annotation = annotate(scene, studio.sources)
    tracks = annotation.tracks(query_points(annotation, "grid", count=300, rng=RandomStream(0, 0, "points")))
    flows = [annotation.flow(0, 1), annotation.flow(1, 2)]
    owners = annotation.segmentation
    compared = 0
    for points, visible, layer in zip(tracks.points_xy, tracks.visible, tracks.layer, strict=True):
        if not visible.all():
            continue
        at, sure = points[0].copy(), True
        for t, flow in enumerate(flows):
            u, v = at + by_xy - 0.5
            i, j = int(np.floor(u)), int(np.floor(v))
            around = owners[t, max(j, 0) : j + 2, max(i, 0) : i + 2]
            if around.shape != (2, 2) or (around != layer).any():
                sure = False
                break
            a, b = u - i, v - j
            field = flow.flow_xy[j : j + 2, i : i + 2].astype(float)
            at += (1 - b) * ((1 - a) * field[0, 0] + a * field[0, 1]) + b * (
                (1 - a) * field[1, 0] + a * field[1, 1]
            )
        if sure and layer == 1:
            error = np.abs(at - points[2]).max()
            assert error < 1e-4 if by_xy == (0.0, 0.0) else error > 0.02
            compared += 1
    assert compared > 30


def test_areas_masks_and_maps_agree(studio: Any, scene: Scene) -> None:
    labels = annotate(scene, studio.sources).labels
    assert not (labels.modal_masks & ~labels.amodal_masks).any()
    assert (labels.modal_masks.sum(axis=0) <= 1).all()
    areas = labels.modal_masks.sum(axis=(2, 3)) / labels.amodal_masks.sum(axis=(2, 3))
    np.testing.assert_array_equal(labels.visibility, areas)
    assert 0 < labels.visibility.min() < 0.97
    assert (
        labels.in_frame[1].tolist() == sorted(labels.in_frame[1], reverse=True) and labels.in_frame[1, 2] < 1
    )
    hidden = (labels.amodal_masks & ~labels.modal_masks).sum(axis=(2, 3))
    np.testing.assert_array_equal(labels.occluded_by.sum(axis=1), hidden)
    for k in range(2):
        assert np.array_equal(labels.segmentation == k + 1, labels.modal_masks[k])
    # Half a pixel of one object changes every one of them.
    other = annotate(shifted(scene, 2, 0, (0.5, 0.5)), studio.sources).labels
    assert (other.segmentation != labels.segmentation).any()
    assert (other.visibility[:, 0] != labels.visibility[:, 0]).any()


@pytest.mark.parametrize("by_xy", HALF)
def test_labels_at_twice_the_size_are_twice_the_labels(
    studio: Any, scene: Scene, by_xy: tuple[float, float]
) -> None:
    labels = annotate(scene, studio.sources).labels
    doubled = scene.scaled_to((128, 160))
    for layer in (1, 2):
        doubled = shifted(doubled, layer, 1, (4 * by_xy[0], 4 * by_xy[1]))
    large = annotate(doubled, studio.sources)

    def agree(labels: Labels, twice: Labels) -> bool:
        boxes = np.abs(twice.amodal_boxes_xyxy[:, 1] - 2 * labels.amodal_boxes_xyxy[:, 1]).max() <= 2
        oriented = np.abs(twice.oriented_boxes_xy[:, 1] - 2 * labels.oriented_boxes_xy[:, 1]).max() < 1e-9
        centers = [
            np.abs(np.argwhere(b).mean(axis=0) - 2 * np.argwhere(a).mean(axis=0) - 0.5).max() < 0.25
            for a, b in zip(labels.amodal_masks[:, 1], twice.amodal_masks[:, 1], strict=True)
        ]
        nearest = np.repeat(np.repeat(labels.segmentation[1], 2, axis=0), 2, axis=1)
        edges = np.min([distance_from_edge(nearest == k) for k in range(3)], axis=0)
        masks = bool((edges[twice.segmentation[1] != nearest] <= 2).all())
        return bool(boxes and oriented and all(centers) and masks)

    assert agree(labels, large.labels) == (by_xy == (0.0, 0.0))
    if by_xy == (0.0, 0.0):
        small = annotate(scene, studio.sources)
        points = query_points(small, "objects", count=50, rng=RandomStream(1, 0, "points"))
        once, twice = small.tracks(points), large.tracks(points * [1, 2, 2])
        np.testing.assert_allclose(twice.points_xy, 2 * once.points_xy, atol=1e-9)
        assert (twice.visible == once.visible).mean() > 0.97


def test_frames_at_twice_the_size_are_the_same_image(studio: Any, scene: Scene) -> None:
    once = composite(scene, studio.sources).astype(float)
    twice = composite(scene.scaled_to((128, 160)), studio.sources).astype(float)
    means = twice.reshape(3, 64, 2, 80, 2, 3).mean(axis=(2, 4))
    assert np.abs(means - once).mean() < 3


def test_oriented_boxes_enclose_the_extent_and_turn_with_the_object(studio: Any, scene: Scene) -> None:
    labels = annotate(scene, studio.sources).labels
    boxes = labels.oriented_boxes_xy
    for k in range(2):
        for t in range(3):
            low, high = boxes[k, t].min(axis=0), boxes[k, t].max(axis=0)
            tight = labels.amodal_boxes_xyxy[k, t]
            # A soft edge reaches half a texel further, and a box is of whole pixels.
            assert (tight[:2] >= low - 1.7).all() and (tight[2:] <= high + 1.7).all()
            assert (tight[:2] < low + 6).all() and (tight[2:] > high - 6).all()
    side = boxes[0, :, 1] - boxes[0, :, 0]
    np.testing.assert_allclose(np.degrees(np.arctan2(side[:, 1], side[:, 0])), [10, 19, 26], atol=1e-9)
    np.testing.assert_allclose(np.hypot(*side.T), 64 * np.array([0.6, 0.66, 0.7]), atol=1e-9)
    np.testing.assert_allclose(boxes[0].mean(axis=1), [[30.3, 28.8], [36.7, 31.5], [43.2, 33.1]], atol=1e-9)


def test_query_points_lie_where_they_should(studio: Any, scene: Scene) -> None:
    annotation = annotate(scene, studio.sources)
    rng = RandomStream(2, 0, "points")
    grid = query_points(annotation, "grid", count=20, rng=rng)
    assert grid.shape == (20, 3) and (grid[:, 0] == 0).all()
    np.testing.assert_allclose(np.unique(grid[:, 1]), [8, 24, 40, 56, 72])
    np.testing.assert_allclose(np.unique(grid[:, 2]), [8, 24, 40, 56])
    owners = annotation.segmentation
    for kind in ("objects", "edges"):
        points = query_points(annotation, kind, count=400, rng=rng)
        t, x, y = points.astype(int).T
        assert (owners[t, y, x] > 0).all() and set(t) == {0, 1, 2} and set(owners[t, y, x]) == {1, 2}
        assert len(np.unique(points % 1)) > 700
        ends = [
            any(
                owners[a, min(max(c + dy, 0), 63), min(max(b + dx, 0), 79)] != owners[a, c, b]
                for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
            )
            for a, b, c in zip(t, x, y, strict=True)
        ]
        assert all(ends) if kind == "edges" else not all(ends)
    empty = annotate(studio.scene(Solid((1, 2, 3))), studio.sources)
    assert query_points(empty, "edges", count=3, rng=rng).shape == (0, 3)
    for kind, count in (("corners", 3), ("grid", 0)):
        with pytest.raises(ValueError, match="expected a kind of grid, objects, edges and a count from 1"):
            query_points(annotation, kind, count=count, rng=rng)
