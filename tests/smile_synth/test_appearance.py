"""Camera effects, soft edges and shadows in scenes, recipes, labels and corpora."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import render_cpu
import render_images
import torch

from smile_synth.annotations import annotate
from smile_synth.compositing import composite, render
from smile_synth.core import geometry
from smile_synth.core.appearance import Appearance, Shadow
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import ObjectBank
from smile_synth.recipe import AppearanceParameters, Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene, Solid
from smile_synth.sources import Sources
from smile_synth.streaming import stream

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXT = """
size: [20, 28]
num_frames: 3
fps: 5
backgrounds: [{kind: noise}]
objects: {count: 2, side: [8, 12]}
motion: [{family: constant-velocity, speed: [1, 3]}]
"""
ALL = (
    "appearance.shutter=[90,270]",
    "appearance.shutter_samples=3",
    "appearance.soft_edges=[0.5,1]",
    "appearance.shadows={strength: [0.2, 0.6], distance: 3, blur: [1, 2]}",
    "appearance.linear_light=true",
    "appearance.grain=0.02",
    "motion.0.bias={family: key-values, start: 0.1, amount: 0.1}",
    "motion.0.gamma={family: key-values, low: 0.8, high: 1.2, amount: 0.1}",
)


def recipe_of(*overrides: str) -> Recipe:
    return parse(Recipe, TEXT, name="recipe.yaml", overrides=overrides)


def oracle(studio: Any, scene: Scene) -> np.ndarray:
    return composite(scene, studio.sources, backend="oracle")


@pytest.fixture
def moving(studio: Any) -> Scene:
    """An object that moves two pixels a frame over a ground."""
    poses = geometry.translation(np.array([[1.0, 1.0], [3.0, 1.0], [5.0, 1.0]]))
    scene: Scene = studio.scene(Solid((40, 80, 120)), studio.sheet(studio.object("tiny"), poses))
    return scene


def test_a_shutter_averages_its_subframes(studio: Any, moving: Scene) -> None:
    plain = oracle(studio, moving)[1].astype(float)
    steps = [geometry.compose(geometry.translation([dx, 0]), moving.object_to_frame[1, 1]) for dx in (-1, 1)]
    poses = [np.stack([moving.object_to_frame[0], np.stack([step] * 3)]) for step in steps]
    before, after = (oracle(studio, replace(moving, object_to_frame=pose))[1] for pose in poses)
    # Three subframes, half a frame apart: one pixel.
    blurred = oracle(studio, replace(moving, appearance=Appearance(shutter=1.5, shutter_samples=3)))[1]
    np.testing.assert_array_equal(blurred, np.floor((before + plain + after) / 3 + 0.5))


def test_blending_in_linear_light(studio: Any) -> None:
    white = studio.sheet(studio.object("tiny"), geometry.translation([2, 1]), opacity=0.5)
    white.gain, white.bias = (0.0,) * 3, (1.0,) * 3
    scene = replace(studio.scene(Solid((0, 0, 0)), white), appearance=Appearance(linear_light=True))
    assert oracle(studio, scene)[0, 1, 2].tolist() == [188, 188, 188]  # half the light of white


def test_gamma_applies_to_straight_colours(studio: Any, moving: Scene) -> None:
    gamma = np.array([[1.0] * 3, [2.0] * 3])
    red = oracle(studio, replace(moving, gamma=gamma))[0, 1, 1:4, 0]
    np.testing.assert_array_equal(red, [int(255 * (v / 255) ** 2 + 0.5) for v in (10, 50, 90)])


def test_a_shadow_darkens_layers_behind_and_owns_no_pixel(studio: Any, moving: Scene) -> None:
    shaded = replace(moving.layers[1], shadow=Shadow(0.5, (0.0, 2.0), 0.0))
    scene = replace(moving, layers=(moving.layers[0], shaded))
    frame = oracle(studio, scene)[0]
    assert frame[3, 1].tolist() == [20, 40, 60] and frame[4, 6].tolist() == [40, 80, 120]
    np.testing.assert_array_equal(frame[1:3], oracle(studio, moving)[0][1:3])
    expected = annotate(moving, studio.sources).labels
    found = annotate(scene, studio.sources).labels
    np.testing.assert_array_equal(found.segmentation, expected.segmentation)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_segmentation_of_devices_equals_labels(studio: Any, moving: Scene, backend: str) -> None:
    pytest.importorskip(backend)
    layer = replace(moving.layers[1], shadow=Shadow(0.9, (2.0, 1.0), 2.0))
    scene = replace(
        moving, layers=(moving.layers[0], layer), appearance=Appearance(shutter=1.0, shutter_samples=3)
    )
    drawn = render([scene], studio.sources, backend=backend, device=DEVICE, segmentation=True)
    expected = annotate(moving, studio.sources).segmentation
    assert drawn.segmentation is not None and expected.any()
    np.testing.assert_array_equal(drawn.segmentation[0].cpu().numpy(), expected)


def test_grain_has_its_deviation_and_is_new_in_every_frame(studio: Any) -> None:
    scene = studio.scene(Solid((128, 128, 128)), size_hw=(64, 96), frames=2)
    frames = oracle(studio, replace(scene, appearance=Appearance(grain=0.05, grain_key=(3, 4)))) / 255
    assert abs(frames.std() - 0.05) < 0.001 and abs(frames.mean() - 128 / 255) < 0.001
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.05


def test_soft_edges_shrink_extents(studio: Any) -> None:
    name = max(studio.bank.class_names, key=lambda name: studio.object(name).height)
    sheet = studio.sheet(studio.object(name), studio.placed(name, [20.3, 15.1]))
    scene = studio.scene(Solid((0, 0, 0)), sheet, size_hw=(30, 40), frames=1)
    soft = replace(scene, layers=(scene.layers[0], replace(scene.layers[1], feather=6.0)))
    hard_mask, soft_mask = (
        annotate(each, studio.sources).labels.amodal_masks[0, 0] for each in (scene, soft)
    )
    assert soft_mask.sum() < hard_mask.sum() and not (soft_mask & ~hard_mask).any()
    assert (oracle(studio, soft) <= oracle(studio, scene).astype(int) + 1).all()


def test_appearance_changes_no_other_draw_and_is_serialised(bank: ObjectBank) -> None:
    plain = sample_scene(recipe_of(), Sources(bank), seed=1, index=4)
    scene = sample_scene(recipe_of(*ALL), Sources(bank), seed=1, index=4)
    np.testing.assert_array_equal(scene.object_to_frame, plain.object_to_frame)
    again = Scene.from_bytes(scene.to_bytes())
    assert (
        again.appearance == scene.appearance and again.layers == scene.layers and again.digest == scene.digest
    )
    np.testing.assert_array_equal(again.gamma, scene.gamma)
    assert 0.25 <= scene.appearance.shutter <= 0.75
    assert scene.factors["appearance.grain_share"] == 0.02


def test_gamma_of_one_clip_does_not_change_its_batch(bank: ObjectBank) -> None:
    motion = "motion=[{family: still}, {family: still, gamma: {family: key-values, start: 2, amount: 0.1}}]"
    recipe = recipe_of("objects.count=1", motion)
    batch = sample_scenes(recipe, Sources(bank), seed=0, indices=range(8))
    alone = [sample_scene(recipe, Sources(bank), seed=0, index=index) for index in range(8)]
    assert [scene.digest for scene in batch] == [scene.digest for scene in alone]
    assert {scene.gamma is None for scene in batch} == {True, False}


@pytest.mark.parametrize("out_dtype", ["uint8", "float32"])
def test_streams_render_camera_effects(bank: ObjectBank, out_dtype: str) -> None:
    recipe = recipe_of(*ALL)
    with stream(recipe, Sources(bank), batch_size=2, device="cpu", seed=1, out_dtype=out_dtype) as batches:
        found = next(iter(batches)).frames[1].numpy()
    expected = composite(sample_scene(recipe, Sources(bank), seed=1, index=1), Sources(bank))
    scale = 255 if out_dtype == "float32" else 1
    np.testing.assert_array_equal(np.round(found.transpose(0, 2, 3, 1) * scale), expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("appearance.shutter_samples=4", "shutter_samples: must be odd"),
        ("appearance.shutter=400", "less than or equal to 360"),
        ("appearance.grane=0.1", "grain"),
    ],
)
def test_wrong_appearance_keys_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(override)


# --- the images of the docs


def test_images_of_the_docs_show_pixels_enlarged(bank: ObjectBank, tmp_path: Path) -> None:
    scene = render_images.laid(bank, 2, render_images.Thing("disc", (40.3, 20.6), 1.5, 30.0))
    plain = render_cpu.plain_pipeline(scene, render_cpu.straight_files(bank, tmp_path))
    ours = composite(scene, Sources(bank))
    # The same ground, and the object at the same place, but for a pixel.
    ground = np.array(render_images.GROUND.rgb)
    assert (plain[1, :, :9] == ground).all() and (ours[1, :, :9] == ground).all()
    seen = [np.argwhere((np.abs(f[1] - ground) > 30).any(axis=-1)).mean(axis=0) for f in (plain, ours)]
    assert np.abs(seen[0] - seen[1]).max() < 1
    shown = render_images.sheet([render_images.Row("a", {"b": plain[0], "c": ours[1]})] * 2)
    left = 2 * render_images.GAP + 4 * 84
    down = 2 * render_images.CAPTION + 4 * 52 + render_images.GAP
    for top in (0, down):
        found = np.asarray(shown)[top + 2 * render_images.CAPTION :, left:][: 4 * 52, : 4 * 84]
        np.testing.assert_array_equal(found, ours[1].repeat(4, axis=0).repeat(4, axis=1))


def test_the_image_of_effects_has_every_effect(bank: ObjectBank, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = " ".join(override for _, _, more in render_images.LOOKS for override in more)
    wanted = set(AppearanceParameters.model_fields) - {"shutter_samples", "texture"}
    assert all(f".{name}=" in keys for name in wanted | {"gain", "bias", "gamma"})
    monkeypatch.setattr(render_images, "RECIPE", render_images.RECIPE.replace("cup", "smooth"))
    for name, both, more in render_images.LOOKS:
        plain, looked = (render_images.frame_of(bank, overrides, 3) for overrides in (both, both + more))
        assert plain.shape == (60, 60, 3) and (plain != looked).any(), name
