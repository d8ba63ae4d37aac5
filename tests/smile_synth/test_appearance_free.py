"""Appearance-free clips: all layers show the same noise, and one frame has no trace of the objects."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import composite
from smile_synth.compositing._philox import philox_word
from smile_synth.core import geometry
from smile_synth.core.appearance import Appearance
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Noise, Scene, Solid, StoredImage, noise_cells
from smile_synth.sources import Sources

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KEY = 123, 4_000_000_000
FREE = "appearance={texture: noise}"
TEXT = """
size: [30, 44]
num_frames: 3
fps: 5
backgrounds: [{kind: image, brightness: 0.3, drift: [1, 2], roll_rate: [-3, 3]}]
objects: {count: 2, side: [14, 22], depth_order: random}
motion:
  - family: constant-velocity
    speed: [1, 3]
    rotation: {rate: 20}
    log_scale: {rate: 0.1}
    gain: {family: key-values, low: 0.2, high: 0.8, amount: 0.1}
    bias: {family: key-values, start: 0.1, amount: 0.1}
    gamma: {family: key-values, low: 0.5, high: 2, amount: 0.1}
camera: [{gain: {family: key-values, low: 0.5, high: 0.8, amount: 0.1}, tilt: {family: key-values, amount: 5}}]
"""


def recipe_of(*overrides: str, text: str = TEXT) -> Recipe:
    return parse(Recipe, text, name="recipe.yaml", overrides=overrides)


def free(scene: Scene) -> Scene:
    return replace(scene, appearance=Appearance(noise_key=KEY))


def noise(column: int, row: int, layer: int) -> list[int]:
    return [philox_word(column, row, layer, c, *KEY) >> 24 for c in range(3)]


def test_every_pixel_shows_the_noise_of_its_layer(studio: Any) -> None:
    pose = geometry.translation([2.6, 1.0])  # columns 2 and 6 are covered by .4 and .6 of the block
    (frame,) = composite(
        free(studio.scene(Solid((9, 9, 9)), studio.sheet(studio.object("block"), pose), frames=1)),
        studio.sources, backend="oracle",
    )  # fmt: skip
    assert frame[0, 0].tolist() == noise(0, 0, 0) and frame[1, 2].tolist() == noise(2, 1, 0)
    assert frame[1, 3].tolist() == noise(0, 0, 1) and frame[4, 5].tolist() == noise(2, 3, 1)
    assert frame[2, 6].tolist() == noise(3, 1, 1)


def test_cells_are_as_large_as_neighbouring_pixels_allow(studio: Any) -> None:
    places, quarter = np.array([[10.0, 8.0], [11.0, 8.0]]), np.array([[0.25, 0.25], [0.2, 0.2]])
    scene = studio.scene(
        Solid((9, 9, 9)),
        studio.sheet(studio.object("card"), studio.placed("card", places, quarter)),
        studio.sheet(studio.object("card"), studio.placed("card", places, quarter, [45.0, 0.0])),
        studio.sheet(studio.object("card"), studio.placed("card", places, 0.25, 30.0)),
        size_hw=(16, 24), frames=2,
    )  # fmt: skip
    # Pixels are 4 texels wide, and 5 in the second frame; turned by 45 degrees, 4 / sqrt(2) along each axis.
    scale = np.array([1, 1 / 4, np.sqrt(2) / 4, 1 / 4])[:, None, None]
    turn = geometry.rotation([0.0, 0.0, 0.0, 30.0])[:, :2, :2]
    np.testing.assert_allclose(noise_cells(scene) * 0.999, scale * turn, atol=1e-12)
    np.testing.assert_allclose(noise_cells(scene.scaled_to((32, 48))) * 0.999, 2 * scale * turn, atol=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
def test_backends_draw_the_noise_of_the_oracle(studio: Any, backend: str) -> None:
    pytest.importorskip("triton" if backend == "triton" else "torch")
    tilt = np.array([[1, 0, 0], [0, 1, 0], [0.004, -0.002, 1]])
    places = np.array([[9.3, 8.6], [11.9, 8.2]])
    sheets = [
        studio.sheet(studio.object("card"), studio.placed("card", places, 0.3, [31.0, 37.5]), opacity=0.7),
        studio.sheet(studio.object("disc"), studio.placed("disc", places + 8, 0.8) @ tilt, gain=(0.5, 1, 1)),
        studio.sheet(studio.object("smooth"), studio.placed("smooth", places - 4, 0.21, 12.0)),
    ]
    background = studio.sheet(studio.image(1), geometry.translation([0.3, 0.2]), border="repeat")
    scene = free(studio.scene(background, *sheets, size_hw=(19, 26), frames=2))
    expected = composite(scene, studio.sources, backend="oracle")
    found = composite(scene, studio.sources, backend=backend, device=DEVICE).astype(int)
    assert np.abs(found - expected).max() <= 1 and expected.std() > 50


def test_neighbouring_pixels_never_show_the_same_cell(bank: ObjectBank) -> None:
    recipe = recipe_of(FREE, "motion.0.shear={rate: 0.2}", "objects.aspect=[0.6, 1.5]")
    for scene in sample_scenes(recipe, Sources(bank), seed=3, indices=range(8)):
        frames = composite(scene, Sources(bank)).astype(int)
        for dy, dx in ((0, 1), (1, 0), (1, 1)):
            assert (frames[:, dy:, dx:] != frames[:, : 30 - dy, : 44 - dx]).any(axis=-1).all()
        assert abs(frames.mean() - 127.5) < 3 and abs(frames.std() - 73.9) < 2


def test_only_colours_differ_from_the_same_recipe_with_appearance(bank: ObjectBank, images: Any) -> None:
    sources = Sources(bank, images)
    plain = sample_scene(recipe_of(), sources, seed=1, index=4)
    scene = sample_scene(recipe_of(FREE), Sources(bank), seed=1, index=4)  # needs no images
    np.testing.assert_array_equal(scene.object_to_frame[1:], plain.object_to_frame[1:])
    for name in ("segmentation", "amodal_masks", "visibility"):
        found, expected = (getattr(annotate(s, sources).labels, name) for s in (scene, plain))
        np.testing.assert_array_equal(found, expected)
    assert isinstance(scene.layers[0].surface, Noise) and "drift_px_per_frame" in scene.layers[0].factors
    assert (scene.gain == 1).all() and (scene.bias == 0).all() and scene.gamma is None
    assert scene.background_digest == "" and plain.background_digest != ""
    assert Scene.from_bytes(scene.to_bytes()) == scene
    assert sample_scenes(recipe_of(FREE), Sources(bank), seed=1, indices=[2, 4])[1] == scene


def test_faded_objects_are_present_or_absent(bank: ObjectBank) -> None:
    recipe = recipe_of(FREE, "motion.0.opacity={family: key-values, low: 0, high: 1, amount: 0.5}")
    opacity = np.concatenate(
        [s.opacity for s in sample_scenes(recipe, Sources(bank), seed=0, indices=range(9))]
    )
    assert set(np.unique(opacity)) == {0.0, 1.0}


@pytest.mark.parametrize("other", ["grain: 0.1", "shutter: 90", "linear_light: true"])
def test_other_keys_of_appearance_are_refused(other: str) -> None:
    with pytest.raises(UserError, match="texture: cannot be combined with other keys of appearance"):
        recipe_of(f"appearance={{texture: noise, {other}}}")


# --- readers of one frame and of motion

TINY = """
size: [32, 32]
num_frames: 2
fps: 8
backgrounds: [{kind: solid}]
objects: {count: [0, 1], side: [14, 18], classes: [disc, smooth]}
motion: [{family: constant-velocity, speed: [2, 5], rotation: {rate: 10}, log_scale: {rate: 0.05}}]
"""
TRAIN, TEST = slice(0, 400), slice(400, 700)
Float = NDArray[np.float64]


def cells(values: Float) -> Float:
    """Return the means of 4x4 cells ``[N, 16 * C]`` of images ``[N, 32, 32, C]``."""
    return values.reshape(len(values), 4, 8, 4, 8, -1).mean(axis=(2, 4)).reshape(len(values), -1)


def one_frame(clips: Float) -> Float:
    """Return mean, spread, gradients, contrast and equality of neighbours in the second frame, by cell."""
    frame = clips[:, 1]
    gradients = [np.abs(frame - np.roll(frame, 1, axis)) for axis in (1, 2)]
    around = sum(np.roll(frame, step, axis) for axis in (1, 2) for step in (-1, 1)) / 4
    equal = [(gradient < 0.02).all(-1, keepdims=True) for gradient in gradients]
    parts = [frame**2, *gradients, np.abs(frame - around), *equal]
    return np.concatenate([cells(frame), *map(cells, parts)], axis=1)


def difference(clips: Float) -> Float:
    """Return the mean change of each cell from the first frame to the second."""
    return cells(np.abs(clips[:, 1] - clips[:, 0]))


def place(scene: Scene) -> int:
    """Return whether the object's middle is in the left or the right half of the second frame, or 0 for none."""
    if len(scene.layers) == 1:
        return 0
    surface = scene.layers[1].surface
    assert isinstance(surface, StoredImage)
    x, _, _ = scene.object_to_frame[1, 1] @ [surface.width / 2, surface.height / 2, 1]
    return 1 if x < 16 else 2


def accuracy(features: Float, labels: NDArray[np.int64]) -> float:
    """Return the accuracy of ridge regression on one-hot labels, on the test clips."""
    x = (features - features[TRAIN].mean(0)) / (features[TRAIN].std(0) + 1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    target = np.eye(labels.max() + 1)[labels]
    gram = x[TRAIN].T @ x[TRAIN] + 100 * np.eye(x.shape[1])
    predicted = (x[TEST] @ np.linalg.solve(gram, x[TRAIN].T @ target[TRAIN])).argmax(1)
    return float((predicted == labels[TEST]).mean())


@pytest.mark.parametrize("texture", ["noise", "null"])
def test_only_motion_reveals_objects(bank: ObjectBank, texture: str) -> None:
    recipe = recipe_of(f"appearance.texture={texture}", text=TINY)
    scenes = sample_scenes(recipe, Sources(bank), seed=0, indices=range(700))
    clips = np.stack([composite(scene, Sources(bank)) for scene in scenes]) / 255
    places = np.array([place(scene) for scene in scenes])
    for labels in ((places > 0).astype(int), places):
        chance = np.bincount(labels[TEST]).max() / 300
        interval = 1.96 * np.sqrt(chance * (1 - chance) / 300)
        single, motion = accuracy(one_frame(clips), labels), accuracy(difference(clips), labels)
        assert motion > chance + 0.25
        assert single < chance + interval if texture == "noise" else single > chance + 0.25
