"""Stored labels, and labels drawn over clips."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smile_synth import Annotation, Clip, UserError, annotate, composite
from smile_synth.corpus import KINDS, labels_bytes
from smile_synth.scene import Scene, Solid
from smile_synth.visualize import (
    COLORS,
    OVERLAYS,
    StoredLabels,
    flow_colors,
    overlay,
    save_clip,
    track_queries,
)


@pytest.fixture
def scene(studio: Any) -> Scene:
    """A disc passes behind a smooth card; an unlabelled board, a distractor, is in a corner."""
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


def label_file(annotation: Annotation) -> dict[str, Any]:
    return dict(json.loads(labels_bytes(annotation)))


def test_stored_labels_equal_those_of_the_scene(scene: Scene, studio: Any) -> None:
    exact = annotate(scene, studio.sources)
    stored = StoredLabels(label_file(exact))
    for name in ("segmentation", "amodal_masks", "modal_masks", "depth_order", "occluded_by"):
        assert np.array_equal(getattr(stored.labels, name), getattr(exact.labels, name)), name
    for name in ("amodal_boxes_xyxy", "modal_boxes_xyxy", "visibility", "in_frame"):
        found, expected = getattr(stored.labels, name), getattr(exact.labels, name)
        assert np.allclose(found, expected, atol=6e-5, equal_nan=True), name
    assert exact.labels.occluded_by[0, 1].max() > 0


def test_with_the_sources_flow_and_tracks_are_those_of_annotate(scene: Scene, studio: Any) -> None:
    """Under a distractor, too: it has no stored mask, but it owns pixels."""
    exact = annotate(scene, studio.sources)
    stored = StoredLabels(label_file(exact), exact=annotate(scene, studio.sources))
    assert stored.missing == ()
    for name in ("flow_xy", "valid", "occluded", "leaves"):
        assert np.array_equal(getattr(stored.flow(0, 2), name), getattr(exact.flow(0, 2), name)), name
    assert stored.flow(0, 2).valid[3:9, 42:48].all()
    queries = track_queries(stored)
    assert queries.shape == (12, 3)
    assert np.array_equal(stored.tracks(queries).visible, exact.tracks(queries).visible)
    frames = composite(scene, studio.sources)
    drawn, expected = (overlay(Clip(frames, 8.0, labels), ["flow", "tracks"]) for labels in (stored, exact))
    assert np.array_equal(drawn, expected)


def test_without_the_sources_stored_flow_and_tracks_are_shown(scene: Scene, studio: Any) -> None:
    exact = annotate(scene, studio.sources)

    def read_kind(kind: str) -> dict[str, Any]:
        with np.load(io.BytesIO(KINDS[kind](exact))) as arrays:
            return dict(arrays)

    stored = StoredLabels(label_file(exact), kinds=("flow", "tracks"), read_kind=read_kind)
    assert stored.missing == ()
    assert np.array_equal(stored.flow(1, 2).flow_xy, exact.flow(1, 2).flow_xy)
    with pytest.raises(ValueError, match="frames 0 and 2: no flow is stored"):
        stored.flow(0, 2)
    queries = track_queries(stored)
    assert 0 < len(queries) <= 12
    assert np.allclose(stored.tracks(queries).points_xy, exact.tracks(queries).points_xy, atol=1e-4)
    with pytest.raises(ValueError, match="is not a stored query point"):
        stored.tracks([[0, 0.123, 0.456]])


def test_without_the_sources_and_stored_kinds_there_is_no_flow(scene: Scene, studio: Any) -> None:
    stored = StoredLabels(label_file(annotate(scene, studio.sources)), kinds=("tracks",))
    assert stored.labels.modal_masks.any() and stored.missing == ("flow",)
    with pytest.raises(
        UserError, match="flow: not stored in this corpus, and computed only with the sources"
    ):
        stored.flow(0, 1)


@pytest.fixture
def clip(scene: Scene, studio: Any) -> Clip:
    frames = composite(scene, studio.sources)
    return Clip(frames, scene.fps, annotate(scene, studio.sources))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_changes_pixels_near_what_it_shows(clip: Clip, name: str) -> None:
    plain, drawn = overlay(clip, [], scale=2), overlay(clip, [name], scale=2)
    assert plain.shape == drawn.shape == (3, 80, 104, 3)
    changed = (plain != drawn).any(axis=-1)
    # The last frame has no flow to a next one.
    assert changed[:2].any(axis=(1, 2)).all() and changed[2].any() == (name not in ("flow", "arrows"))
    assert np.array_equal(plain[:, ::2, ::2], clip.frames)


def test_boxes_are_drawn_where_the_labels_are(clip: Clip) -> None:
    drawn = overlay(clip, ["boxes"], scale=1)
    x0, y0, x1, y1 = clip.boxes[1, 0].astype(int)
    assert (drawn[0, y0, x0:x1] == COLORS[1]).all() and (drawn[0, y0:y1, x1 - 1] == COLORS[1]).all()
    assert not (drawn[0, y1, x0:x1] == COLORS[1]).all()


def test_small_clips_are_enlarged_until_text_is_readable(clip: Clip) -> None:
    assert overlay(clip, ["names"]).shape == (3, 240, 312, 3)
    with pytest.raises(UserError, match="overlay 'boxs': .* did you mean 'boxes'"):
        overlay(clip, ["boxs"])


def test_flow_colours_depend_on_the_direction(clip: Clip) -> None:
    colors = flow_colors(clip.flow(0, 1))
    disc, card = clip.masks[0, 0], clip.masks[1, 0]
    assert (colors[card] == 255).all()  # no motion
    red, green, blue = colors[disc].astype(int).mean(axis=0)
    assert red > green and red > blue  # to the right


def test_a_clip_is_written_as_video_gif_or_strip(clip: Clip, tmp_path: Path) -> None:
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
