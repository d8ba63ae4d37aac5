"""The motion of tokens against a brute force: every pixel of every token followed on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smile_synth import ObjectBank, Recipe, Sources, annotate, sample_scenes
from smile_synth.core.clip import TokenMotion
from smile_synth.io.strict_yaml import parse
from smile_synth.scene import Scene, StoredImage

RECIPE = """
size: [24, 32]
num_frames: 6
backgrounds: [{kind: BACKGROUND}]
objects: {count: 3, side: [10, 14]}
motion:
  - {family: constant-velocity, speed: [1.0, 3.0], rotation: {rate: 9.0}, log_scale: {rate: 0.05}}
"""


def recipe(background: str = "noise", more: str = "") -> Recipe:
    text = RECIPE.replace("BACKGROUND", background)
    if more == "distractors":
        return parse(Recipe, text.replace("count: 3", "count: 2, distractors: {count: 2}"), name="recipe")
    return parse(Recipe, text + more, name="recipe")


def end_of(t: int, offset: int, tubelet_size: int) -> int:
    """Return the frame that an offset of tubelet ``t`` names."""
    return (t + offset) * tubelet_size if offset else (t + 1) * tubelet_size - 1


def followed(
    scene: Scene, sources: Sources, token_size: tuple[int, int], offsets: Sequence[int]
) -> list[tuple[int, int, dict[str, Any]]]:
    """Return (offset number, token number, values) by tracks of all pixel centres."""
    tubelet_size, patch = token_size
    annotation, (height, width) = annotate(scene, sources), scene.size_hw
    segmentation = annotation.segmentation
    found = []
    rows, columns = height // patch, width // patch
    for t in range(scene.num_frames // tubelet_size):
        start = t * tubelet_size
        y, x = np.mgrid[:height, :width] + 0.5
        tracks = annotation.tracks(np.stack([np.full(x.size, start), x.ravel(), y.ravel()], axis=1))
        layers = tracks.layer.reshape(height, width)
        for row in range(rows):
            for column in range(columns):
                part = (slice(row * patch, (row + 1) * patch), slice(column * patch, (column + 1) * patch))
                counts = np.bincount(layers[part].ravel())
                layer = int(np.flatnonzero(counts == counts.max())[-1])
                chosen = np.flatnonzero((layers[part] == layer).ravel())
                pixels = np.arange(height * width).reshape(height, width)[part].ravel()[chosen]
                centres = np.stack([x.ravel(), y.ravel()], axis=1)[pixels]
                anchor = pixels[np.argmin(((centres - centres.mean(0)) ** 2).sum(1).round(6))]
                for number, offset in enumerate(offsets):
                    end = end_of(t, offset, tubelet_size)
                    values: dict[str, Any] = {"share": len(pixels) / patch**2, "valid": False}
                    values["object"] = segmentation[start].ravel()[pixels[0]]
                    if 0 <= end < scene.num_frames:
                        moved = tracks.points_xy[pixels, end] - centres
                        values["valid"] = bool(np.isfinite(moved).all())
                        if values["valid"]:
                            values |= {"displacement": moved.mean(0), "spread": moved.std(0)}
                            values |= {"moved": moved, "places": centres - centres.mean(0)}
                            values["visible"] = bool(tracks.visible[anchor, end])
                    found.append((number, (t * rows + row) * columns + column, values))
    return found


def check(
    motion: TokenMotion, expected: list[tuple[int, int, dict[str, Any]]], *, linear_error: float = 1e-4
) -> None:
    """Compare; ``linear_error`` is the largest error of a pixel's displacement by the linear part, in pixels."""
    for d, n, values in expected:
        assert motion.share[n] == pytest.approx(values["share"])
        assert motion.valid[d, n] == values["valid"], (d, n)
        if motion.object[n] >= 0:
            assert motion.object[n] == values["object"]
        if not values["valid"]:
            assert not motion.visible[d, n] and not motion.displacement_xy[d, n].any()
            continue
        assert motion.displacement_xy[d, n] == pytest.approx(values["displacement"], abs=1e-4)
        assert motion.spread_xy[d, n] == pytest.approx(values["spread"], abs=1e-4)
        assert motion.visible[d, n] == values["visible"], (d, n)
        linear = values["displacement"] + values["places"] @ motion.linear[d, n].T
        assert np.abs(linear - values["moved"]).max() < linear_error


@pytest.mark.parametrize(
    ("background", "more"),
    [
        ("noise", ""),
        ("noise", "camera: [{pan: {family: constant-velocity, speed: [1.0, 2.0]}}]\n"),
        ("noise, redrawn: true", ""),
        ("dead-leaves, drift: 2.0", "distractors"),
    ],
)
def test_tokens_move_as_their_pixels_do(bank: ObjectBank, background: str, more: str) -> None:
    sources, offsets = Sources(bank), (0, 1, -2)
    for scene in sample_scenes(recipe(background, more), sources, seed=3, indices=range(3)):
        motion = annotate(scene, sources).token_motion((2, 8), offsets)
        assert motion.offsets.tolist() == list(offsets)
        check(motion, followed(scene, sources, (2, 8), offsets))


def test_tokens_of_tilted_objects_move_as_their_pixels_do(bank: ObjectBank) -> None:
    tilted = RECIPE.replace(
        "rotation: {rate: 9.0}", "tilt: {family: constant-velocity, speed: [8.0, 12.0]}"
    ).replace("BACKGROUND", "noise")
    sources = Sources(bank)
    for scene in sample_scenes(parse(Recipe, tilted, name="tilted"), sources, seed=1, indices=range(2)):
        assert (scene.object_to_frame[1:, :, 2, :2] != 0).any()
        motion = annotate(scene, sources).token_motion((1, 8), (1, -3))
        check(motion, followed(scene, sources, (1, 8), (1, -3)), linear_error=0.6)


def test_the_camera_moves_the_background_behind_every_token(bank: ObjectBank) -> None:
    pan = "camera: [{pan: {family: constant-velocity, speed: [2.0, 2.0]}}]\n"
    sources = Sources(bank)
    (scene,) = sample_scenes(recipe("noise", pan), sources, seed=2, indices=[0])
    motion = annotate(scene, sources).token_motion((2, 8), (1, 0))
    # Two frames lie between tubelets, one frame inside of a tubelet.
    valid = motion.valid[0]
    assert np.linalg.norm(motion.camera_xy[0, valid], axis=1) == pytest.approx(4.0, abs=1e-3)
    assert np.linalg.norm(motion.camera_xy[1], axis=1) == pytest.approx(2.0, abs=1e-3)
    behind = motion.object == 0
    assert motion.displacement_xy[1, behind] == pytest.approx(motion.camera_xy[1, behind], abs=1e-4)


def test_depth_counts_the_layers_behind_the_owner(bank: ObjectBank) -> None:
    sources = Sources(bank)
    (scene,) = sample_scenes(recipe(), sources, seed=4, indices=[1])
    motion = annotate(scene, sources).token_motion((2, 8), (0,))
    assert set(motion.depth[motion.object == 0]) == {0}
    order = annotate(scene, sources).labels.depth_order[:, 0]
    first = np.arange(len(motion.object)) < len(motion.object) // 3
    for number in set(motion.object[first & (motion.object > 0)].tolist()):
        assert set(motion.depth[first & (motion.object == number)]) == {3 - order[number - 1]}


def test_displacements_are_means_of_the_dense_flow(bank: ObjectBank) -> None:
    sources = Sources(bank)
    (scene,) = sample_scenes(recipe(), sources, seed=5, indices=[2])
    annotation = annotate(scene, sources)
    motion = annotation.token_motion((2, 8), (1, -1))
    for d, t, end in ((0, 0, 1), (0, 1, 2), (1, 2, 1)):
        flow, owners = annotation.flow(2 * t, 2 * end).flow_xy, annotation.segmentation[2 * t]
        for n in range(12 * t, 12 * t + 12):
            row, column = divmod(n - 12 * t, 4)
            part = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            own = owners[part] == motion.object[n]
            assert motion.displacement_xy[d, n] == pytest.approx(flow[part][own].mean(0), abs=1e-4)
            assert motion.spread_xy[d, n] == pytest.approx(flow[part][own].std(0), abs=1e-4)


@pytest.mark.parametrize("tilted", [False, True])
def test_rates_of_objects_are_differences_of_followed_points(bank: ObjectBank, tilted: bool) -> None:
    sources, text = Sources(bank), RECIPE.replace("BACKGROUND", "noise")
    if tilted:
        text = text.replace("rotation: {rate: 9.0}", "tilt: {family: constant-velocity, speed: [8.0, 12.0]}")
    scene = sample_scenes(parse(Recipe, text, name="recipe"), sources, seed=1, indices=[4])[0]
    motion, step = annotate(scene, sources).object_motion(), 1e-4
    assert np.isnan(motion.velocity_xy[:, -1]).all() and np.isnan(motion.log_scale[:, -1]).all()
    for k, layer in enumerate(scene.layers[1:]):
        assert isinstance(layer.surface, StoredImage)
        x, y = layer.surface.width / 2, layer.surface.height / 2
        texels = np.array([[x, y, 1], [x + step, y, 1], [x, y + step, 1]])
        points = np.einsum("tij,pj->tpi", scene.object_to_frame[k + 1], texels)
        middle, *sides = np.moveaxis(points[..., :2] / points[..., 2:], 1, 0)
        assert motion.velocity_xy[k, :-1] == pytest.approx(np.diff(middle, axis=0), abs=1e-9)
        axes = np.stack([side - middle for side in sides], axis=-1)
        areas = np.abs(np.linalg.det(axes))
        assert motion.log_scale[k, :-1] == pytest.approx(np.log(areas[1:] / areas[:-1]) / 2, abs=1e-4)
        # The nearest rotation to a matrix, by its singular value decomposition.
        u, _, vh = np.linalg.svd(axes[1:] @ np.linalg.inv(axes[:-1]))
        turned = u @ vh
        angle = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
        assert motion.rotation_degrees[k, :-1] == pytest.approx(angle, abs=1e-2)
        if not tilted:  # the factors are means over the clip
            turn = layer.factors["rotation_degrees_per_frame"]
            assert motion.rotation_degrees[k, :-1].mean() == pytest.approx(turn)
            growth = layer.factors["log_scale_per_frame"]
            assert motion.log_scale[k, :-1].mean() == pytest.approx(growth)


def test_objects_that_are_not_present_have_no_rates(bank: ObjectBank) -> None:
    sources = Sources(bank)
    (scene,) = sample_scenes(recipe(), sources, seed=1, indices=[4])
    opacity = scene.opacity.copy()
    opacity[2, 3] = 0.0
    motion = annotate(replace(scene, opacity=opacity), sources).object_motion()
    assert np.isnan(motion.velocity_xy[..., 0]).tolist() == [
        [False, False, False, False, False, True],
        [False, False, True, True, False, True],
        [False, False, False, False, False, True],
    ]


@pytest.mark.parametrize(
    ("token_size", "offsets", "message"),
    [
        ((4, 8), (0,), r"clips of 6x24x32 do not divide into tokens of 4x8x8"),
        ((2, 8), (), r"offsets: give at least one"),
        ((2, 8), (0, 3), r"offsets: 3 is outside of the clip's 3 tubelets"),
        ((2, 8), (-3,), r"offsets: -3 is outside of the clip's 3 tubelets"),
        ((1, 8), (0,), r"offsets: 0 is the motion inside a tubelet"),
    ],
)
def test_offsets_that_no_token_can_reach_are_refused(
    bank: ObjectBank, token_size: tuple[int, int], offsets: tuple[int, ...], message: str
) -> None:
    sources = Sources(bank)
    (scene,) = sample_scenes(recipe(), sources, seed=0, indices=[0])
    with pytest.raises(ValueError, match=message):
        annotate(scene, sources).token_motion(token_size, offsets)
