"""Labels against brute force: plain loops over pixels and layers, sampled as the oracle renders."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laid_scenes import GROUND, crossing
from pycocotools import mask as coco_mask

from smile_synth.annotations import annotate, query_points
from smile_synth.compositing import composite
from smile_synth.compositing._oracle import _sample_layer
from smile_synth.core import geometry
from smile_synth.core.clip import Clip, Tracks
from smile_synth.core.rng import RandomStream
from smile_synth.scene import Noise, Scene

MARGIN = 50  # pixels around the frame that brute force looks at
HALF = 0.5 - 1e-9


# --- brute force


def alpha_of(studio: Any, scene: Scene, layer: int, t: int, points: np.ndarray) -> np.ndarray:
    """Return a layer's alpha ``[P]`` at points, without opacity, as the oracle samples it."""
    pose = scene.object_to_frame[layer, t]
    return _sample_layer(scene, layer, t, pose, points, studio.sources)[1][:, 0]


def centers_of(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    xs, ys = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
    return np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5


def in_front(scene: Scene, layer: int, other: int, t: int) -> bool:
    """Return whether ``other`` is in front of ``layer``."""
    if layer == 0 or other == 0:
        return layer == 0 and other != 0
    return (scene.depth[other, t], -other) < (scene.depth[layer, t], -layer)


def box_of(mask: np.ndarray, x0: int, y0: int) -> list[float]:
    pixels = [(x + x0, y + y0) for y, x in zip(*np.nonzero(mask), strict=True)]
    if not pixels:
        return [np.nan] * 4
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@dataclass
class Brute:
    """Labels of one frame by brute force; ``alpha[k]`` spans the frame and a margin."""

    owner: np.ndarray
    alpha: dict[int, np.ndarray]


def brute_force(studio: Any, scene: Scene, t: int) -> Brute:
    height, width = scene.size_hw
    around = centers_of(-MARGIN, -MARGIN, width + MARGIN, height + MARGIN)
    shape = (height + 2 * MARGIN, width + 2 * MARGIN)
    layers = range(1, len(scene.layers))
    alpha = {k: alpha_of(studio, scene, k, t, around).reshape(shape) for k in layers}
    owner = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            owners = [k for k in layers if alpha[k][y + MARGIN, x + MARGIN] * scene.opacity[k, t] >= HALF]
            for k in owners:
                if not any(in_front(scene, k, other, t) for other in owners):
                    owner[y, x] = k
    return Brute(owner, alpha)


def run_lengths(masks: np.ndarray) -> list[str]:
    """Return the COCO run lengths of masks ``[N, T, H, W]`` as pycocotools makes them."""
    flat = masks.reshape(-1, *masks.shape[2:]).transpose(1, 2, 0)
    return [rle["counts"].decode() for rle in coco_mask.encode(np.asfortranarray(flat.astype(np.uint8)))]


@st.composite
def scenes(draw: st.DrawFn, studio: Any, *, max_layers: int = 4) -> Scene:
    """Draw three frames of one to four cut-outs that turn, grow, fade and cross in depth."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width, frames = int(rng.integers(5, 25)), int(rng.integers(7, 32)), 3
    sheets = []
    for _ in range(draw(st.integers(1, max_layers))):
        surface = studio.object(
            draw(st.sampled_from(["bar", "board", "card", "disc", "smooth", "tall", "tiny"]))
        )
        largest = 20 / max(surface.height, surface.width)
        shear, tilt = np.eye(3), np.eye(3)
        shear[0, 1] = rng.uniform(-0.5, 0.5)
        tilt[2, :2] = rng.uniform(-0.2, 0.2, 2) / [surface.width, surface.height] * rng.integers(0, 2)
        centers = rng.uniform(-0.2, 1.2, 2) * [width, height] + rng.uniform(-3, 3, (frames, 2))
        poses = geometry.compose(
            geometry.translation(centers),
            geometry.rotation(rng.uniform(0, 360) + rng.uniform(-40, 40, frames)),
            shear,
            geometry.scaling(largest * rng.uniform(0.2, 1.5, (frames, 2))),
            tilt,
            geometry.translation([-surface.width / 2, -surface.height / 2]),
        )
        sheets.append(
            studio.sheet(
                surface,
                poses,
                opacity=rng.choice([1.0, 1.0, 0.8, 0.5, 0.3, 0.0], frames),
                depth=rng.choice([1.0, 2.0, 3.0], frames),
                labelled=draw(st.booleans()),
            )
        )
    backgrounds = [
        studio.sheet(GROUND),
        studio.sheet(Noise((1, 2), draw(st.booleans()))),
        studio.sheet(
            studio.image(1), geometry.translation(rng.uniform(-5, 5, (frames, 2))), border="reflect"
        ),
    ]
    return studio.scene(draw(st.sampled_from(backgrounds)), *sheets, size_hw=(height, width), frames=frames)


def test_labels_are_those_of_brute_force(studio: Any) -> None:
    @settings(max_examples=60)
    @given(scenes(studio))
    def check(scene: Scene) -> None:
        annotation = annotate(scene, studio.sources)
        labels = annotation.labels
        labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled]
        height, width = scene.size_hw
        frame = np.s_[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
        assert labels.class_names == tuple(scene.layers[k].class_name for k in labelled)
        for t in range(scene.num_frames):
            brute = brute_force(studio, scene, t)
            margins = [np.abs(a - HALF).min() for a in brute.alpha.values()]
            margins += [np.abs(a * scene.opacity[k, t] - HALF).min() for k, a in brute.alpha.items()]
            assume(min(margins) > 1e-12)
            for i, k in enumerate(labelled):
                present = scene.opacity[k, t] > 0
                whole = (brute.alpha[k] >= HALF) & present
                assert not (whole[[0, -1]].any() or whole[:, [0, -1]].any()), "the margin is too small"
                amodal, modal = whole[frame], brute.owner == k
                np.testing.assert_array_equal(labels.amodal_masks[i, t], amodal)
                np.testing.assert_array_equal(labels.modal_masks[i, t], modal)
                np.testing.assert_array_equal(labels.amodal_boxes_xyxy[i, t], box_of(whole, -MARGIN, -MARGIN))
                np.testing.assert_array_equal(labels.modal_boxes_xyxy[i, t], box_of(modal, 0, 0))
                share = modal.sum() / amodal.sum() if amodal.any() else np.nan
                np.testing.assert_equal(labels.visibility[i, t], share)
                inside = amodal.sum() / whole.sum() if whole.any() else np.nan
                np.testing.assert_equal(labels.in_frame[i, t], inside)
                there = [other for other in labelled if scene.opacity[other, t] > 0]
                nearer = sum(in_front(scene, k, other, t) for other in there)
                assert labels.depth_order[i, t] == (nearer if present else -1)
                for j, other in enumerate(labelled):
                    covered = (amodal & (brute.owner == other)).sum() if i != j else 0
                    assert labels.occluded_by[i, j, t] == covered
            places = {0: 0, **{k: i + 1 for i, k in enumerate(labelled)}}
            expected = [[places.get(k, 0) for k in row] for row in brute.owner]
            np.testing.assert_array_equal(labels.segmentation[t], expected)
        assert not (labels.modal_masks & ~labels.amodal_masks).any()
        assert (labels.modal_masks.sum(axis=0) <= 1).all()
        assert annotation.coco() == (run_lengths(labels.modal_masks), run_lengths(labels.amodal_masks))

    check()


def test_flow_is_that_of_brute_force(studio: Any) -> None:
    @settings(max_examples=40)
    @given(scenes(studio), st.sampled_from([(0, 1), (2, 0), (0, 2), (1, 1)]))
    def check(scene: Scene, pair: tuple[int, int]) -> None:
        t0, t1 = pair
        flow = annotate(scene, studio.sources).flow(t0, t1)
        height, width = scene.size_hw
        owner = brute_force(studio, scene, t0).owner
        for k in range(len(scene.layers)):
            rows, columns = np.nonzero(owner == k)
            if not len(rows):
                continue
            points = np.stack([columns + 0.5, rows + 0.5], axis=-1)
            there = scene.object_to_frame[k, t1] @ np.linalg.inv(scene.object_to_frame[k, t0])
            mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ there.T
            targets = mapped[:, :2] / mapped[:, 2:]
            surface = scene.layers[k].surface
            if isinstance(surface, Noise) and surface.redrawn and t0 != t1:
                assert not flow.valid[rows, columns].any()
                assert not flow.flow_xy[rows, columns].any()
                assert not (flow.occluded | flow.leaves)[rows, columns].any()
                continue
            assert flow.valid[rows, columns].all()
            np.testing.assert_allclose(flow.flow_xy[rows, columns], targets - points, atol=1e-4)
            x, y = targets.T
            gone = (x < 0) | (x >= width) | (y < 0) | (y >= height)
            # Points whose last bit decides are left to either side.
            sure = np.abs(targets - np.round(targets)).min(axis=1) > 1e-9
            np.testing.assert_array_equal(flow.leaves[rows, columns][sure], gone[sure])
            hidden = np.zeros(len(points), bool)
            for other in range(1, len(scene.layers)):
                alpha = alpha_of(studio, scene, other, t1, targets) * scene.opacity[other, t1]
                if in_front(scene, k, other, t1):
                    hidden |= alpha >= HALF
                    sure &= np.abs(alpha - HALF) > 1e-6
            if k:
                own = np.maximum(
                    alpha_of(studio, scene, k, t0, points), alpha_of(studio, scene, k, t1, targets)
                )
                hidden |= own * scene.opacity[k, t1] < HALF
                sure &= np.abs(own * scene.opacity[k, t1] - HALF) > 1e-6
            np.testing.assert_array_equal(flow.occluded[rows, columns][sure], (hidden & ~gone)[sure])

    check()


# --- flow and tracks by hand


def moving(studio: Any, shift: Any, **options: Any) -> Scene:
    """A square of 8 x 8 pixels at (3, 2) that moves by ``shift`` per frame, in a frame of 24 x 31."""
    centers = np.array([7.0, 6.0]) + np.arange(3)[:, None] * np.asarray(shift, float)
    sheet = studio.sheet(studio.object("smooth"), studio.placed("smooth", centers, [8 / 64, 8 / 40]))
    background = options.pop("background", GROUND)
    return studio.scene(background, sheet, *options.pop("front", ()), size_hw=(24, 31))


def test_a_translated_object_has_exactly_that_flow(studio: Any) -> None:
    flow = annotate(moving(studio, [2.25, -0.5]), studio.sources).flow(0, 2)
    square = np.zeros((24, 31), bool)
    square[2:10, 3:11] = True
    np.testing.assert_allclose(flow.flow_xy[square], np.broadcast_to([4.5, -1.0], (64, 2)), atol=1e-6)
    assert not flow.flow_xy[~square].any()
    assert flow.valid.all() and not flow.leaves.any()


def test_flow_about_a_turning_object_is_perpendicular_to_the_radius(studio: Any) -> None:
    poses = studio.placed("smooth", np.full((3, 2), 12.0), [20 / 64, 20 / 40], np.array([0.0, 90.0, 180.0]))
    sheet = studio.sheet(studio.object("smooth"), poses)
    annotation = annotate(studio.scene(GROUND, sheet, size_hw=(24, 31)), studio.sources)
    # (14.5, 13.5) is (2.5, 1.5) from the middle; a quarter turn takes it to (-1.5, 2.5).
    np.testing.assert_allclose(annotation.flow(0, 1).flow_xy[13, 14], [-4.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(annotation.flow(1, 0).flow_xy[13, 14], [-1.0, -4.0], atol=1e-6)
    np.testing.assert_allclose(annotation.flow(0, 2).flow_xy[13, 14], [-5.0, -3.0], atol=1e-6)


def test_what_another_object_covers_is_occluded(studio: Any) -> None:
    wall = studio.sheet(studio.object("smooth"), studio.placed("smooth", [14, 6], [4 / 64, 20 / 40]))
    flow = annotate(moving(studio, [3.0, 0.0], front=(wall,)), studio.sources).flow(0, 2)
    # The wall stands on columns 12..15; the square's columns 3..10 arrive at 9..16.
    assert flow.occluded[5, 3:11].tolist() == [False] * 3 + [True] * 4 + [False]
    assert flow.valid.all() and not flow.leaves.any()


def test_what_the_object_uncovers_or_covers_is_flow_of_the_background(studio: Any) -> None:
    flow = annotate(moving(studio, [3.0, 0.0]), studio.sources).flow(0, 1)
    # The ground of columns 11..13 is covered in the next frame.
    assert flow.occluded[5, 9:16].tolist() == [False, False, True, True, True, False, False]
    backward = annotate(moving(studio, [3.0, 0.0]), studio.sources).flow(1, 0)
    assert backward.occluded[5, 1:9].tolist() == [False, False, True, True, True, False, False, False]


def test_what_goes_out_of_the_frame_leaves_and_is_not_occluded(studio: Any) -> None:
    flow = annotate(moving(studio, [-4.0, 0.0]), studio.sources).flow(0, 1)
    # Columns 3..10 arrive at -1..6.
    assert flow.leaves[5, 3:11].tolist() == [True] + [False] * 7
    assert not (flow.leaves & flow.occluded).any()
    assert flow.valid.all()
    assert flow.flow_xy[5, 3].tolist() == [-4.0, 0.0]


def test_the_right_and_lower_edges_are_outside(studio: Any) -> None:
    annotation = annotate(moving(studio, [20.5, 15.5]), studio.sources)
    # Column 10 arrives at x = 31, rows 8 and 9 at y = 24 and 25: outside of a frame of 24 x 31.
    assert annotation.flow(0, 1).leaves[2:10, 3:11].tolist() == [
        [y >= 8 or x == 10 for x in range(3, 11)] for y in range(2, 10)
    ]
    assert annotation.tracks([[0, 10.5, 4.0], [0, 10.4, 4.0]]).visible[:, 1].tolist() == [False, True]


def test_a_point_stays_visible_where_its_object_is_only_seen_smaller(studio: Any) -> None:
    # Half of the board's texels are holes; far away they blur into one another.
    poses = np.stack([studio.placed("board", [12, 12], scale) for scale in (2.0, 0.25, 1.0)])
    annotation = annotate(
        studio.scene(GROUND, studio.sheet(studio.object("board"), poses), size_hw=(24, 31)),
        studio.sources,
    )
    owned = annotation.labels.segmentation == 1
    assert owned[0].sum() > 80 and owned[1].sum() < 4
    assert not annotation.flow(0, 1).occluded[owned[0]].any()


def test_a_faded_object_is_occluded_by_what_shows_through(studio: Any) -> None:
    scene = moving(studio, [1.0, 0.0])
    opacity = scene.opacity.copy()
    opacity[1, 1] = 0.2
    flow = annotate(replace(scene, opacity=opacity), studio.sources).flow(0, 1)
    assert flow.occluded[2:10, 3:11].all()


@pytest.mark.parametrize("redrawn", [False, True])
def test_redrawn_noise_has_no_flow(studio: Any, redrawn: bool) -> None:
    scene = moving(studio, [1.0, 0.0], background=studio.sheet(Noise((1, 2), redrawn)))
    annotation = annotate(scene, studio.sources)
    flow = annotation.flow(0, 1)
    assert flow.valid[5, 5]
    assert flow.valid[20, 20] != redrawn
    assert annotation.flow(1, 1).valid.all()
    track = annotation.tracks([[1, 20.5, 20.5]])
    assert track.visible[0].tolist() == [not redrawn, True, not redrawn]
    assert np.isnan(track.points_xy[0, 0]).all() == redrawn


def test_camera_motion_is_the_flow_of_the_background(studio: Any) -> None:
    poses = geometry.translation([[0, 0], [-2.5, 1.0], [0, 0]])
    background = studio.sheet(studio.image(2), poses, border="reflect")
    flow = annotate(moving(studio, [0, 0], background=background), studio.sources).flow(0, 1)
    np.testing.assert_allclose(flow.flow_xy[20, 20], [-2.5, 1.0], atol=1e-6)
    assert flow.leaves[20, :4].tolist() == [True, True, False, False]
    assert flow.leaves[23].all()


def test_what_goes_behind_the_horizon_has_no_flow(studio: Any) -> None:
    tilts = np.repeat(np.eye(3)[None], 3, axis=0)
    tilts[1, 2, 0] = -1 / 16
    background = studio.sheet(studio.image(2), tilts, border="reflect")
    flow = annotate(studio.scene(background, size_hw=(5, 31)), studio.sources).flow(0, 1)
    assert flow.valid[2].tolist() == [x + 0.5 < 16 for x in range(31)]
    assert not flow.flow_xy[2, 16:].any()


def warp_error(studio: Any, shift_xy: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Fetch frame 0 from frame 1 by the flow, shifted; return errors of pixels that are well inside."""
    turned = studio.placed(
        "smooth", np.array([[36.3, 30.8], [40.7, 27.5], [0, 0]]), 0.9, np.array([10.0, 17.0, 0.0])
    )
    background = studio.sheet(
        studio.image(2), geometry.translation([[-8.2, -6.1], [-9.5, -4.4], [0, 0]]), border="reflect"
    )
    scene = studio.scene(background, studio.sheet(studio.object("smooth"), turned), size_hw=(64, 80))
    frames = composite(scene, studio.sources).astype(float)
    annotation = annotate(scene, studio.sources)
    flow = annotation.flow(0, 1)
    owners = annotation.labels.segmentation
    errors = []
    for y, x in np.argwhere(flow.valid & ~flow.occluded & ~flow.leaves):
        u, v = np.array([x + 0.5, y + 0.5]) + flow.flow_xy[y, x] + shift_xy - 0.5
        i, j = int(np.floor(u)), int(np.floor(v))
        if not (2 <= i < 77 and 2 <= j < 61 and 2 <= x < 78 and 2 <= y < 62):
            continue
        here, there = owners[0, y - 2 : y + 3, x - 2 : x + 3], owners[1, j - 2 : j + 4, i - 2 : i + 4]
        if (here != here[2, 2]).any() or (there != here[2, 2]).any():
            continue
        a, b = u - i, v - j
        top = frames[1, j, i] * (1 - a) + frames[1, j, i + 1] * a
        bottom = frames[1, j + 1, i] * (1 - a) + frames[1, j + 1, i + 1] * a
        errors.append(np.abs(top * (1 - b) + bottom * b - frames[0, y, x]).max())
    return np.array(errors)


def test_flow_fetches_frame_0_from_frame_1(studio: Any) -> None:
    errors = warp_error(studio)
    assert len(errors) > 2500
    assert errors.max() <= 3


@pytest.mark.parametrize("shift_xy", [(0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5)])
def test_flow_that_is_off_by_half_a_pixel_fetches_something_else(
    studio: Any, shift_xy: tuple[float, float]
) -> None:
    errors = warp_error(studio, shift_xy)
    assert errors.max() > 9
    assert (errors > 3).mean() > 0.8


def test_tracks_are_the_flow_from_their_query(studio: Any) -> None:
    @settings(max_examples=25)
    @given(scenes(studio), st.integers(0, 2), st.integers(0, 4), st.integers(0, 6))
    def check(scene: Scene, t0: int, y: int, x: int) -> None:
        annotation = annotate(scene, studio.sources)
        tracks = annotation.tracks([[t0, x + 0.5, y + 0.5]])
        for t in range(3):
            flow = annotation.flow(t0, t)
            assert np.isfinite(tracks.points_xy[0, t]).all() == flow.valid[y, x]
            if flow.valid[y, x]:
                moved = [x + 0.5, y + 0.5] + flow.flow_xy[y, x]
                np.testing.assert_allclose(tracks.points_xy[0, t], moved, atol=1e-4)
            seen = flow.valid[y, x] and not flow.occluded[y, x] and not flow.leaves[y, x]
            assert tracks.visible[0, t] == seen

    check()


def test_tracks_chain_through_the_frames(studio: Any) -> None:
    annotation = annotate(moving(studio, [2.25, -0.5]), studio.sources)
    tracks = annotation.tracks([[0, 4.3, 3.7], [2, 8.8, 2.7], [1, 20.0, 20.0]])
    expected = np.array([4.3, 3.7]) + np.arange(3)[:, None] * [2.25, -0.5]
    np.testing.assert_allclose(tracks.points_xy[0], expected, atol=1e-9)
    np.testing.assert_allclose(tracks.points_xy[1], expected, atol=1e-9)
    assert tracks.points_xy[2].tolist() == [[20.0, 20.0]] * 3
    assert tracks.layer.tolist() == [1, 1, 0]
    assert tracks.visible.all()


def test_a_track_is_seen_unless_it_is_covered_or_outside(studio: Any) -> None:
    wall = studio.sheet(studio.object("smooth"), studio.placed("smooth", [12, 6], [4 / 64, 20 / 40]))
    annotation = annotate(moving(studio, [4.0, 0.0], front=(wall,)), studio.sources)
    # The wall covers columns 10..13; a query on it belongs to the wall, which stands still.
    tracks = annotation.tracks([[0, 4.2, 6.0], [0, 6.1, 6.0], [0, 7.9, 6.0], [0, 10.5, 6.0]])
    assert tracks.visible.tolist() == [
        [True, True, False],
        [True, False, True],
        [True, False, True],
        [True] * 3,
    ]
    assert tracks.layer.tolist() == [1, 1, 1, 2]
    gone = annotate(moving(studio, [-4.0, 0.0]), studio.sources).tracks([[0, 4.2, 6.0]])
    assert gone.visible.tolist() == [[True, True, False]]
    np.testing.assert_allclose(gone.points_xy[0, 2], [-3.8, 6.0], atol=1e-9)


def test_a_track_belongs_to_what_owns_the_point_itself(studio: Any) -> None:
    # The block covers x from 1.6 on: more than half of pixel 1, but not its centre.
    sheet = studio.sheet(studio.object("block"), studio.placed("block", [3.6, 2]))
    annotation = annotate(studio.scene(GROUND, sheet), studio.sources)
    assert annotation.labels.segmentation[0, 2].tolist() == [0, 0, 1, 1, 1, 1, 0]
    tracks = annotation.tracks([[0, 1.5, 2.0], [0, 1.7, 2.0], [0, 5.5, 2.0], [0, 5.7, 2.0]])
    assert tracks.layer.tolist() == [0, 1, 1, 0]


def test_no_points_give_no_tracks(studio: Any) -> None:
    tracks = annotate(moving(studio, [1, 0]), studio.sources).tracks(np.zeros((0, 3)))
    assert tracks.points_xy.shape == (0, 3, 2)


@pytest.mark.parametrize("frame", [-1, 3, 0.5, np.nan])
def test_a_frame_that_the_clip_lacks_is_refused(studio: Any, frame: float) -> None:
    annotation = annotate(moving(studio, [1, 0]), studio.sources)
    with pytest.raises(ValueError, match=rf"query frames are whole, in 0\.\.2, got {frame:g}"):
        annotation.tracks([[frame, 1.0, 1.0]])


def test_points_of_another_shape_and_frames_outside_are_refused(studio: Any) -> None:
    annotation = annotate(moving(studio, [1, 0]), studio.sources)
    with pytest.raises(ValueError, match=r"points are \[P, 3\] = \(frame, x, y\), got \(1, 2\)"):
        annotation.tracks([[1.0, 1.0]])
    for pair in ((0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"outside the clip's 0\.\.2"):
            annotation.flow(*pair)


# --- containers


def test_cached_labels_are_read_only(studio: Any) -> None:
    annotation = annotate(crossing(studio), studio.sources)
    labels, tracks = annotation.labels, annotation.tracks([[0, 1.5, 1.5]])
    arrays = [annotation.segmentation, annotation.flow(0, 1).flow_xy, tracks.visible]
    arrays += [value for value in vars(labels).values() if isinstance(value, np.ndarray)]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert labels.segmentation.dtype == np.int16
    assert annotation.segmentation.max() == 2


def test_containers_compare_by_value_and_print_shapes(studio: Any) -> None:
    one, same = (annotate(crossing(studio), studio.sources) for _ in range(2))
    other = annotate(crossing(studio, opacity=0.3), studio.sources)
    frames = composite(one.scene, studio.sources)
    clips = [Clip(frames, 8.0, annotation) for annotation in (one, same, other)]
    for a, b, c in (
        (one, same, other),
        (one.labels, same.labels, other.labels),
        (one.flow(0, 1), same.flow(0, 1), other.flow(0, 1)),
        (one.tracks([[0, 5.5, 2.0]]), same.tracks([[0, 5.5, 2.0]]), other.tracks([[0, 1.5, 1.5]])),
        clips,
    ):
        assert a == b != c and hash(a) == hash(b)
    assert repr(one) == "Annotation(objects=2, frames=3, size_hw=(5, 7))"
    assert "segmentation=int16[3, 5, 7]" in repr(one.labels)
    assert repr(clips[0]).startswith("Clip(frames=uint8[3, 5, 7, 3], fps=8.0")


def test_containers_neither_freeze_nor_share_the_callers_arrays(studio: Any) -> None:
    frames = np.zeros((3, 5, 7, 3), np.uint8)
    clip = Clip(frames, 8.0, annotate(crossing(studio), studio.sources))
    points, visible, layer = np.zeros((1, 3, 2)), np.ones((1, 3), bool), np.zeros(1, np.int64)
    tracks = Tracks(points, visible, layer)
    frames[:], points[:] = 9, 9
    assert not clip.frames.any() and not tracks.points_xy.any()


def test_query_points_take_a_seed_or_random_numbers(studio: Any) -> None:
    annotation = annotate(crossing(studio), studio.sources)
    points = query_points(annotation, "objects", count=20, seed=3)
    assert np.array_equal(points, query_points(annotation, "objects", count=20, seed=3))
    assert not np.array_equal(points, query_points(annotation, "objects", count=20, seed=4))
    for options in ({}, {"seed": 1, "rng": RandomStream(0, 0, "points")}):
        with pytest.raises(ValueError, match="either rng or seed"):
            query_points(annotation, "objects", count=20, **options)
