"""Drawn backgrounds and backgrounds that move: textures, poses, flow, and what the recipe may say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder, generated_texture
from smile_synth.cli import main
from smile_synth.compositing import composite
from smile_synth.core import geometry
from smile_synth.core.errors import UserError
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import GeneratedImage, Scene, StoredImage
from smile_synth.sources import Sources

DRAWN = ["one-over-f", "dead-leaves", "gradient"]


def recipe_of(background: str, *overrides: str) -> Recipe:
    return Recipe.load(
        "smile-gaussian-image",
        ["num_frames=5", "size=[24,36]", "objects.count=1", "objects.side=[9]", "motion.0.extent=[4,9]",
         f"backgrounds=[{background}]", *overrides],
    )  # fmt: skip


def draw(bank: ObjectBank, background: str, images: BackgroundFolder | None = None, index: int = 0) -> Scene:
    return sample_scene(recipe_of(background), Sources(bank, images), seed=1, index=index)


# --- drawn textures


@pytest.mark.parametrize("kind", DRAWN)
def test_a_generated_texture_depends_on_its_key_alone(kind: str) -> None:
    one = generated_texture(kind, (1, 2), 32, 1.3).texels.copy()
    generated_texture.cache_clear()
    np.testing.assert_array_equal(generated_texture(kind, (1, 2), 32, 1.3).texels, one)
    assert not np.array_equal(generated_texture(kind, (2, 1), 32, 1.3).texels, one)
    assert (one[:, 3] == 255).all()


def test_one_over_f_has_the_given_exponent() -> None:
    size, slopes = 128, []
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    band = (frequency > 2 / size) & (frequency < 0.2)
    for exponent in (0.5, 1.0, 1.5):
        power = np.zeros((size, size))
        for key in range(4):
            image = generated_texture("one-over-f", (key, 0), size, exponent).level(0)[..., :3].astype(float)
            power += (np.abs(np.fft.fft2(image, axes=(0, 1))) ** 2).sum(axis=-1)
        slopes.append(-np.polyfit(np.log(frequency[band]), np.log(power[band]) / 2, 1)[0])
    assert slopes == pytest.approx([0.5, 1.0, 1.5], abs=0.08)


@pytest.mark.parametrize("kind", ["one-over-f", "dead-leaves"])
def test_periodic_kinds_have_no_seam(kind: str) -> None:
    seams, inside = [], []
    for key in range(6):
        image = generated_texture(kind, (key, 7), 64, 1.5).level(0)[..., :3].astype(float)
        seams.append(np.abs(image[0] - image[-1]).mean())
        inside.append(np.abs(np.diff(image, axis=0)).mean())
    assert np.mean(seams) < 1.5 * np.mean(inside)


@pytest.mark.parametrize("kind", DRAWN)
def test_backends_agree_and_scenes_are_read_back(bank: ObjectBank, kind: str) -> None:
    scene = draw(bank, f"{{kind: {kind}, drift: 3.3, zoom_rate: [-0.05, 0.05], roll_rate: 4}}")
    assert isinstance(scene.layers[0].surface, GeneratedImage) and scene.background_digest == ""
    again = Scene.from_bytes(scene.to_bytes())
    assert again.to_bytes() == scene.to_bytes() and again.layers == scene.layers
    cpu, oracle = (composite(again, Sources(bank), backend=b).astype(int) for b in ("cpu", "oracle"))
    difference = np.abs(cpu - oracle)
    assert difference.max() <= 2 and (difference <= 1).mean() >= 0.999
    assert (composite(scene.scaled_to((48, 72)), Sources(bank)).std(axis=(0, 1, 2)) > 1).any()


def test_generated_kinds_are_rendered_pixel_for_pixel(bank: ObjectBank) -> None:
    scene = draw(bank, "{kind: one-over-f}")
    surface = scene.layers[0].surface
    assert isinstance(surface, GeneratedImage) and surface.height == 48 and 1.0 <= surface.exponent <= 1.8
    image = generated_texture(surface.pattern, surface.key, 48, surface.exponent).level(0)[:24, :36, :3]
    behind = annotate(scene, Sources(bank)).segmentation[0] == 0
    # An object's soft edge reaches beyond what it owns.
    same = (composite(scene, Sources(bank))[0] == image).all(axis=-1)
    assert same[behind].mean() > 0.9


# --- motion of a background


def test_motion_of_null_draws_the_same_as_no_motion(bank: ObjectBank) -> None:
    plain, still = (recipe_of(f"{{kind: noise{keys}}}") for keys in ("", ", drift: null, roll_rate: null"))
    moving = recipe_of("{kind: noise, drift: 1}")
    assert plain.digest == still.digest != moving.digest
    scene, moved = (sample_scene(r, Sources(bank), seed=0, index=4) for r in (plain, moving))
    assert (scene.object_to_frame[0] == np.eye(3)).all() and scene.layers[0].factors == {}
    assert moved.layers[0].surface == scene.layers[0].surface
    np.testing.assert_array_equal(moved.object_to_frame[1:], scene.object_to_frame[1:])


@pytest.mark.parametrize("kind", ["noise", "one-over-f", "gradient", "image"])
def test_drift_is_pixels_per_frame(bank: ObjectBank, images: BackgroundFolder, kind: str) -> None:
    scene = draw(bank, f"{{kind: {kind}, drift: [2.5, 2.5]}}", images)
    factors = scene.layers[0].factors
    toward = np.deg2rad(float(factors["drift_direction_degrees"]))
    expected = 2.5 * np.array([np.cos(toward), np.sin(toward)])
    flow = annotate(scene, Sources(bank, images)).flow(1, 3)
    behind = annotate(scene, Sources(bank, images)).segmentation[1] == 0
    assert flow.valid[behind].all()
    np.testing.assert_allclose(flow.flow_xy[behind], np.tile(2 * expected, (behind.sum(), 1)), atol=1e-4)


def test_zoom_and_roll_are_about_the_middle_of_the_frame(bank: ObjectBank, images: BackgroundFolder) -> None:
    scene = draw(bank, "{kind: image, zoom_rate: 0.1, roll_rate: 5}", images)
    pose = scene.object_to_frame[0]
    change = pose[3] @ geometry.invert(pose[0])
    np.testing.assert_allclose(geometry.apply(change, [[18.0, 12.0]]), [[18.0, 12.0]], atol=1e-9)
    grown = np.exp(0.3)
    turned = np.deg2rad(15)
    np.testing.assert_allclose(change[:2, 0], [grown * np.cos(turned), grown * np.sin(turned)], atol=1e-9)
    assert scene.layers[0].factors["zoom_log_per_frame"] == pytest.approx(0.1)


def test_flow_follows_the_background(bank: ObjectBank, images: BackgroundFolder) -> None:
    scene = draw(bank, "{kind: image, drift: 3, zoom: 1}", images, index=1)
    surface = scene.layers[0].surface
    assert isinstance(surface, StoredImage)
    frames = composite(scene, Sources(bank, images)).astype(float)
    labels = annotate(scene, Sources(bank, images))
    flow = labels.flow(0, 1)
    y, x = np.mgrid[:24, :36].astype(np.float32)
    seen = cv2.remap(frames[1].astype(np.float32), x + flow.flow_xy[..., 0], y + flow.flow_xy[..., 1], cv2.INTER_LINEAR)  # fmt: skip
    inner = np.zeros((24, 36), bool)
    inner[6:-6, 6:-6] = True
    good = inner & (labels.segmentation[0] == 0) & flow.valid & ~flow.occluded & ~flow.leaves
    # Away from the objects' soft edges.
    good &= ~cv2.dilate((labels.segmentation.max(axis=0) > 0).astype(np.uint8), np.ones((5, 5))).astype(bool)
    still = np.abs(frames[1] - frames[0])[good].mean()
    assert np.abs(seen - frames[0])[good].mean() < 0.4 * still


def corners_seen(scene: Scene) -> np.ndarray:
    """Where the frame's corners lie in the image, over all frames ``[T, 4, 2]``."""
    h, w = scene.size_hw
    return geometry.apply(geometry.invert(scene.object_to_frame[0]), geometry.corners(w, h))


@pytest.mark.parametrize(
    "keys", ["drift: [1, 4]", "roll_rate: [-8, 8]", "zoom_rate: [-0.1, 0.1]", "drift: 2, roll_rate: 3"]
)
def test_the_crop_stays_inside_the_image_if_possible(
    bank: ObjectBank, images: BackgroundFolder, keys: str
) -> None:
    moved = 0.0
    for index in range(25):
        scene = draw(bank, f"{{kind: image, zoom: 1, {keys}}}", images, index)
        surface = scene.layers[0].surface
        assert isinstance(surface, StoredImage)
        seen = corners_seen(scene)
        assert seen.min() > -1e-6
        assert (seen.reshape(-1, 2).max(axis=0) < [surface.width + 1e-6, surface.height + 1e-6]).all()
        moved = max(moved, float(np.ptp(seen, axis=0).max()))
    assert moved > 0.5


def test_a_path_too_long_for_the_image_is_centred_at_twice_its_size(
    bank: ObjectBank, images: BackgroundFolder
) -> None:
    for index in range(12):
        scene = draw(bank, "{kind: image, zoom: 1, drift: 60}", images, index)
        surface = scene.layers[0].surface
        assert isinstance(surface, StoredImage)
        cover = max(24 / surface.height, 36 / surface.width)
        assert scene.object_to_frame[0, 0, 0, 0] == pytest.approx(2 * cover)
        seen = corners_seen(scene).reshape(-1, 2)
        middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
        longer = int(np.ptp(seen, axis=0).argmax())
        assert middle[longer] == pytest.approx([surface.width, surface.height][longer] / 2)


# --- what a recipe may say


@pytest.mark.parametrize(
    ("background", "told"),
    [
        (
            "{kind: one-over-f, exponent: [2, 1]}",
            "backgrounds.0.exponent: should be [low, high], got low 2.0 above",
        ),
        (
            "{kind: one-over-f, exponent: -1}",
            "backgrounds.0.exponent: should be greater than or equal to 0",
        ),
        (
            "{kind: image, drift: [3, 2]}",
            "backgrounds.0.drift: should be [low, high], got low 3.0 above high 2.0",
        ),
        ("{kind: image, drift: -1}", "backgrounds.0.drift: should be greater than or equal to 0"),
        (
            "{kind: video, stride: [3, 2]}",
            "backgrounds.0.stride: should be [low, high], got low 3 above high 2",
        ),
        ("{kind: video, stride: 0}", "backgrounds.0.stride: should be greater than or equal to 1, got 0"),
        ("{kind: video, zoom: 0.5}", "backgrounds.0.zoom: should be greater than or equal to 1"),
        (
            "{kind: video, drift: 1}",
            "backgrounds.0.drift: unknown key, allowed are brightness, kind, stride, ",
        ),
        (
            "{kind: solid, drift: 1}",
            "backgrounds.0.drift: unknown key, allowed are brightness, color, kind, ",
        ),
        ("{kind: dead-leafs}", "backgrounds.0.kind: unknown kind 'dead-leafs', allowed are solid, noise, "),
    ],
)
def test_a_wrong_key_is_refused_with_its_path(background: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe_of(background)
    assert told in str(caught.value)


def test_the_preset_of_kinds_draws_them_all(bank: ObjectBank) -> None:
    recipe = Recipe.load(
        "backgrounds", ["num_frames=2", "size=[24,36]", "objects.side=[9]", "motion.0.extent=[4,9]"]
    )
    kinds = set()
    for index in range(60):
        surface = sample_scene(recipe, Sources(bank), seed=0, index=index).layers[0].surface
        kinds.add(surface.pattern if isinstance(surface, GeneratedImage) else type(surface).__name__)
    assert kinds == {"Solid", "Noise", *DRAWN}


# --- the command line


def test_strict_refuses_unreadable_files(
    bank: ObjectBank, tmp_path: Path, command_line: Callable[..., Any]
) -> None:
    folder = tmp_path / "images [1]"
    folder.mkdir()
    Image.new("RGB", (40, 40), (9, 99, 9)).save(folder / "a.png")
    (folder / "brökén.png").write_bytes(b"no image")
    command = [
        "preview", "smile-gaussian-image", "size=[32,32]", "objects.side=[12]", "motion.0.extent=[4,9]",
        "num_frames=2", "--num-clips", 1, "--bank", bank.path, "--backgrounds", folder, "--out", tmp_path / "p.png",
    ]  # fmt: skip
    told = command_line(main, *command).stderr
    assert "skipped" in told and "images [1]/brökén.png: not an image" in told
    assert "1 images and videos in use, 1 files skipped, 0 videos cut short" in told
    told = command_line(main, *command, "--strict", expect=2).stderr
    assert "1 files skipped, 0 videos cut short; --strict allows none" in told
