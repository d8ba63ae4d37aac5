"""Labels read back from disk, and drawn over clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smile_synth import Clip, UserError, annotate, composite
from smile_synth.core import geometry
from smile_synth.corpus import labels_to_json
from smile_synth.scene import Scene, Solid
from smile_synth.visualize import COLORS, OVERLAYS, flow_colors, overlay, save_clip, track_queries
from smile_synth.visualize._stored import StoredAnnotation


@pytest.fixture
def scene(studio: Any) -> Scene:
    """A disc passes behind a smooth card; an unlabelled board stands in a corner."""
    disc = studio.placed("disc", [[10.0, 20.0], [24.0, 22.0], [37.0, 25.0]], degrees=[0.0, 20.0, 40.0])
    card = studio.placed("smooth", [[30.0, 24.0]] * 3, 0.4)
    board = studio.placed("board", [[45.0, 6.0]] * 3)
    return studio.scene(
        Solid((40, 50, 60)),
        studio.sheet(studio.object("disc"), disc, depth=2.0),
        studio.sheet(studio.object("smooth"), card, depth=1.0),
        studio.sheet(studio.object("board"), board, labelled=False, depth=1.0),
        size_hw=(40, 52),
    )


def stored_of(scene: Scene, studio: Any) -> tuple[StoredAnnotation, Any]:
    exact = annotate(scene, studio.sources)
    plain = json.loads(json.dumps(labels_to_json(exact)))
    return StoredAnnotation(plain, scene), exact


def test_stored_labels_are_those_of_the_scene(scene: Scene, studio: Any) -> None:
    stored, exact = stored_of(scene, studio)
    for name in ("segmentation", "amodal_masks", "modal_masks", "depth_order", "occluded_by"):
        assert np.array_equal(getattr(stored.labels, name), getattr(exact.labels, name)), name
    for name in ("amodal_boxes_xyxy", "modal_boxes_xyxy", "visibility", "in_frame"):
        found, wanted = getattr(stored.labels, name), getattr(exact.labels, name)
        assert np.allclose(found, wanted, atol=6e-5, equal_nan=True), name
    assert exact.labels.occluded_by[0, 1].max() > 0


def test_stored_flow_and_tracks_follow_the_poses(scene: Scene, studio: Any) -> None:
    stored, exact = stored_of(scene, studio)
    found, wanted = stored.flow(0, 2), exact.flow(0, 2)
    known = found.valid
    assert np.allclose(found.flow_xy[known], wanted.flow_xy[known], atol=1e-5)
    # All but the ground under the unlabelled board.
    assert not known[3:9, 42:48].any() and known[12:].all() and wanted.valid.all()
    assert (found.occluded == wanted.occluded)[known].mean() > 0.98
    assert np.array_equal(found.leaves[known], wanted.leaves[known])
    queries = track_queries(exact.labels, 4)
    assert queries.shape == (8, 3)
    ours, theirs = stored.tracks(queries), exact.tracks(queries)
    assert np.array_equal(ours.layer, theirs.layer) and set(ours.layer) == {1, 2}
    assert np.allclose(ours.points_xy, theirs.points_xy)
    assert (ours.visible == theirs.visible).mean() > 0.9 and not ours.visible.all()


def test_without_a_scene_there_is_no_flow(scene: Scene, studio: Any) -> None:
    exact = annotate(scene, studio.sources)
    stored = StoredAnnotation(labels_to_json(exact))
    assert stored.labels.modal_masks.any()
    with pytest.raises(UserError, match="need the clip's scene"):
        stored.flow(0, 1)
    shorter = labels_to_json(exact)
    shorter["objects"].pop()
    with pytest.raises(ValueError, match="scene has 2 objects in 3 frames, the labels differ"):
        StoredAnnotation(shorter, scene)


@pytest.fixture
def clip(scene: Scene, studio: Any) -> Clip:
    frames = composite(scene, studio.sources)
    return Clip(frames, scene.fps, annotate(scene, studio.sources))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_changes_pixels_near_what_it_shows(clip: Clip, name: str) -> None:
    plain, drawn = overlay(clip, [], scale=2), overlay(clip, [name], scale=2)
    assert plain.shape == drawn.shape == (3, 80, 104, 3)
    changed = (plain != drawn).any(axis=-1)
    # The last frame has no next one to flow to.
    assert changed[:2].any(axis=(1, 2)).all() and changed[2].any() == (name not in ("flow", "arrows"))
    assert np.array_equal(plain[:, ::2, ::2], clip.frames)


def test_boxes_stand_where_the_labels_say(clip: Clip) -> None:
    drawn = overlay(clip, ["boxes"], scale=1)
    x0, y0, x1, y1 = clip.boxes[1, 0].astype(int)
    assert (drawn[0, y0, x0:x1] == COLORS[1]).all() and (drawn[0, y0:y1, x1 - 1] == COLORS[1]).all()
    assert not (drawn[0, y1, x0:x1] == COLORS[1]).all()


def test_small_clips_are_enlarged_until_text_can_be_read(clip: Clip) -> None:
    assert overlay(clip, ["names"]).shape == (3, 240, 312, 3)
    with pytest.raises(UserError, match="overlay 'boxs': .* did you mean 'boxes'"):
        overlay(clip, ["boxs"])


def test_flow_colours_tell_directions_apart(clip: Clip) -> None:
    colors = flow_colors(clip.flow(0, 1))
    disc, card = clip.masks[0, 0], clip.masks[1, 0]
    assert (colors[card] == 255).all()  # stands still
    red, green, blue = colors[disc].astype(int).mean(axis=0)
    assert red > green and red > blue  # to the right


def test_a_clip_is_written_as_film_gif_or_strip(clip: Clip, tmp_path: Path) -> None:
    save_clip(tmp_path / "new" / "a.gif", clip.frames, 5.0)
    with Image.open(tmp_path / "new" / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (3, (52, 40), 200)
    save_clip(tmp_path / "a.png", clip.frames, 5.0)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (3 * 56 + 4, 48)
    save_clip(tmp_path / "a.mp4", clip.frames, 5.0)
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    with pytest.raises(UserError, match="even sides, got 40x51"):
        save_clip(tmp_path / "b.mp4", clip.frames[:, :, :51], 5.0)
    with pytest.raises(ValueError, match=r"\.mp4, \.gif or \.png"):
        save_clip(tmp_path / "a.avi", clip.frames, 5.0)


def test_rotation_is_seen_by_the_flow(scene: Scene, studio: Any) -> None:
    stored, _ = stored_of(scene, studio)
    flow = stored.flow(0, 1).flow_xy[20, 10]
    step = scene.object_to_frame[1, 1] @ geometry.invert(scene.object_to_frame[1, 0])
    assert np.allclose(flow, geometry.apply(step, np.array([[10.5, 20.5]]))[0] - [10.5, 20.5], atol=1e-5)
