import copy
import json
import pickle
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import composite
from smile_synth.core import geometry
from smile_synth.core.coverage import level_of_detail
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Layer, Noise, Scene, Solid, StoredImage, Video
from smile_synth.sources import Sources

TEXT = """
size: [40, 56]
num_frames: 3
backgrounds:
  - {kind: solid}
  - {kind: noise}
  - {kind: noise, redrawn: true}
  - {kind: image, zoom: [1.0, 2.0]}
objects: {count: [1, 4], side: [12, 20], aspect: [0.5, 1.5], side_jitter: 0.2, depth_order: random}
motion:
  - {family: constant-velocity, speed: [1, 4], rotation: {rate: 6}, log_scale: {rate: 0.05}}
  - {family: still}
"""


def recipe_of(*overrides: str) -> Recipe:
    return parse(Recipe, TEXT, name="recipe.yaml", overrides=overrides)


class Sampler:
    """Samples scenes of the test recipe, with overrides."""

    def __init__(self, bank: ObjectBank, images: BackgroundFolder) -> None:
        self.bank, self.images = bank, images

    def __call__(self, *overrides: str, seed: int = 0, index: int = 0) -> Scene:
        return sample_scene(recipe_of(*overrides), Sources(self.bank, self.images), seed=seed, index=index)


@pytest.fixture(scope="module")
def sample(bank: ObjectBank, images: BackgroundFolder) -> Sampler:
    return Sampler(bank, images)


# --- addresses


def test_a_scene_does_not_depend_on_the_order_of_requests(sample: Sampler) -> None:
    forwards = [sample(index=i).digest for i in range(8)]
    backwards = [sample(index=i).digest for i in reversed(range(8))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 8


def test_a_reopened_or_pickled_bank_gives_the_same_scene(
    sample: Sampler, bank: ObjectBank, images: BackgroundFolder
) -> None:
    again = Sampler(ObjectBank.open(bank.path), BackgroundFolder(images.path))
    copied = Sampler(pickle.loads(pickle.dumps(bank)), pickle.loads(pickle.dumps(images)))
    assert again(index=5).to_bytes() == copied(index=5).to_bytes() == sample(index=5).to_bytes()


def test_seed_0_is_a_seed(sample: Sampler) -> None:
    scenes = [sample(seed=seed, index=3) for seed in (0, 0, 1, 2**63 - 1)]
    assert scenes[0].digest == scenes[1].digest
    assert len({scene.digest for scene in scenes}) == 3
    assert not np.array_equal(sample("objects.count=2", seed=0).object_to_frame[1:],
                              sample("objects.count=2", seed=1).object_to_frame[1:])  # fmt: skip


def test_numpys_global_generator_does_not_change_a_scene(sample: Sampler) -> None:
    expected = sample(index=2).digest
    np.random.seed(4)
    assert sample(index=2).digest == expected


# --- what is drawn


def objects_of(scene: Scene) -> list[Any]:
    return sorted((layer.surface.texture_id, layer.class_name) for layer in scene.layers[1:])  # type: ignore[union-attr]


def test_another_motion_does_not_change_objects_and_background(sample: Sampler) -> None:
    moved = "motion=[{family: orbit, radius: [2, 5], turn: [10, 40]}]"
    for index in range(12):
        one, other = (sample("objects.depth_order=random", *o, index=index) for o in ((), (moved,)))
        assert [x.surface for x in one.layers] == [x.surface for x in other.layers]
        assert one.layers[0] == other.layers[0]
        np.testing.assert_array_equal(one.object_to_frame[0], other.object_to_frame[0])
        assert objects_of(one) == objects_of(other)
        sizes = [
            np.linalg.norm(s.object_to_frame[1:, 0, :2, :2], axis=-2).prod(axis=-1) for s in (one, other)
        ]
        np.testing.assert_allclose(np.sort(sizes[0]), np.sort(sizes[1]))
        assert not np.array_equal(one.object_to_frame[1:], other.object_to_frame[1:])


def test_another_background_does_not_change_the_objects(sample: Sampler) -> None:
    for index in range(6):
        one, other = sample(index=index), sample("backgrounds=[{kind: solid}]", index=index)
        assert one.layers[1:] == other.layers[1:]
        np.testing.assert_array_equal(one.object_to_frame[1:], other.object_to_frame[1:])


def test_other_objects_move_along_the_same_paths(sample: Sampler) -> None:
    # The classes differ; one square side gives all paths the same bounds.
    same = ["objects.side=[12]", "objects.aspect=[1.0]", "objects.side_jitter=0", "objects.fit=stretch"]
    for index in range(6):
        one = sample(*same, "objects.classes=[card]", index=index)
        other = sample(*same, "objects.classes=[disc]", index=index)
        for k in range(1, len(one.layers)):
            middles = []
            for scene in (one, other):
                surface = scene.layers[k].surface
                assert isinstance(surface, StoredImage)
                middle = [[surface.width / 2, surface.height / 2]]
                middles.append(geometry.apply(scene.object_to_frame[k], middle))
            np.testing.assert_allclose(*middles, atol=1e-9)


def test_all_values_of_the_recipe_are_drawn(sample: Sampler, bank: ObjectBank) -> None:
    scenes = [sample(index=i) for i in range(150)]
    assert {len(scene.layers) - 1 for scene in scenes} == {1, 2, 3, 4}
    assert {type(scene.layers[0].surface) for scene in scenes} == {Solid, Noise, StoredImage}
    assert {s.layers[0].surface.redrawn for s in scenes if isinstance(s.layers[0].surface, Noise)} == {
        False,
        True,
    }
    objects = [layer for scene in scenes for layer in scene.layers[1:]]
    assert {layer.class_name for layer in objects} == set(bank.class_names)
    assert {layer.factors["family"] for layer in objects} == {"constant-velocity", "still"}
    assert all(layer.labelled and layer.border == "transparent" for layer in objects)


def test_classes_and_split_restrict_the_objects(sample: Sampler) -> None:
    names = {
        layer.class_name
        for i in range(8)
        for layer in sample("objects.classes=[tall, disc]", index=i).layers[1:]
    }
    assert names == {"disc", "tall"}
    with pytest.raises(UserError, match="has no class 'discs'; did you mean 'disc'"):
        sample("objects.classes=[discs]")
    with pytest.raises(UserError, match="has no object in split 'val'"):
        sample("objects.split=val")


def test_the_larger_object_is_behind(sample: Sampler) -> None:
    for index in range(20):
        scene = sample("objects.count=[2, 4]", "objects.depth_order=area", index=index)
        scales = np.linalg.norm(scene.object_to_frame[1:, :, :2, :2], axis=-2)
        sizes = [[layer.surface.width, layer.surface.height] for layer in scene.layers[1:]]  # type: ignore[union-attr]
        areas = (scales * np.array(sizes)[:, None]).prod(axis=-1).mean(axis=-1)
        assert (np.diff(areas[np.argsort(scene.depth[1:, 0])]) >= 0).all()
        assert (scene.depth[0] > scene.depth[1:]).all()


def test_all_objects_may_share_one_motion(sample: Sampler) -> None:
    shared = [sample("objects.shared_motion=true", "objects.count=3", index=i) for i in range(20)]
    families = [{layer.factors["family"] for layer in scene.layers[1:]} for scene in shared]
    assert all(len(family) == 1 for family in families)
    assert set.union(*families) == {"constant-velocity", "still"}
    own = [sample("objects.count=3", index=i) for i in range(20)]
    assert max(len({layer.factors["family"] for layer in scene.layers[1:]}) for scene in own) == 2


@pytest.mark.parametrize(("fit", "aspect"), [("keep", 64 / 40), ("stretch", 1.0)])
def test_an_object_keeps_its_own_aspect_or_is_stretched(sample: Sampler, fit: str, aspect: float) -> None:
    scene = sample("objects.classes=[card]", f"objects.fit={fit}", "objects.aspect=[1.0]",
                   "objects.side=[12]", "objects.side_jitter=0", "motion=[{family: still}]")  # fmt: skip
    width, height = np.ptp(geometry.apply(scene.object_to_frame[1, 0], geometry.corners(64, 40)), axis=0)
    assert width / height == pytest.approx(aspect)
    assert width * height == pytest.approx(144)


def test_a_background_image_fills_the_frame(sample: Sampler) -> None:
    for index in range(20):
        scene = sample("backgrounds=[{kind: image, zoom: [1.0, 2.0]}]", index=index)
        image = scene.layers[0].surface
        assert isinstance(image, StoredImage) and scene.layers[0].border == "reflect"
        corners = geometry.apply(geometry.invert(scene.object_to_frame[0, 0]), geometry.corners(56, 40))
        assert (corners >= -1e-9).all() and (corners <= np.array([image.width, image.height]) + 1e-9).all()


def test_factors_agree_with_the_poses(sample: Sampler) -> None:
    scene = sample(
        "num_frames=7", "motion=[{family: constant-velocity, speed: [2, 2], rotation: {rate: 5}}]", index=1
    )
    layer = scene.layers[1]
    middle = [[layer.surface.width / 2, layer.surface.height / 2]]  # type: ignore[union-attr]
    centers = geometry.apply(scene.object_to_frame[1], middle)[:, 0]
    net = centers[-1] - centers[0]
    assert layer.factors["mean_speed_px_per_frame"] == pytest.approx(2)
    assert layer.factors["path.speed_px_per_frame"] == pytest.approx(2)
    assert layer.factors["net_displacement_px"] == pytest.approx(np.hypot(*net))
    direction = np.rad2deg(np.arctan2(net[1], net[0])) % 360
    assert layer.factors["net_direction_degrees"] == pytest.approx(direction)
    turned = np.rad2deg(np.arctan2(scene.object_to_frame[1, -1, 1, 0], scene.object_to_frame[1, -1, 0, 0]))
    assert layer.factors["rotation_degrees_per_frame"] == pytest.approx(turned / 6)
    assert scene.factors == {"num_objects": float(len(scene.layers) - 1)}


@pytest.mark.parametrize("frames", [1, 2])
def test_clips_of_one_and_two_frames_are_drawn(sample: Sampler, frames: int) -> None:
    for family in ("{family: smile-gaussian, extent: [5, 20]}", "{family: smile-linear}"):
        scene = sample(f"num_frames={frames}", f"motion=[{family}]")
        assert scene.num_frames == frames and np.isfinite(scene.object_to_frame).all()


def test_a_recipe_with_images_needs_backgrounds(bank: ObjectBank) -> None:
    recipe = recipe_of("backgrounds=[{kind: image}]")
    with pytest.raises(UserError, match="give a folder of images as backgrounds"):
        sample_scene(recipe, Sources(bank), seed=0, index=0)


# --- containers


def test_scenes_are_equal_after_a_round_trip_through_bytes(sample: Sampler) -> None:
    for index in range(10):
        scene = sample(index=index)
        again = Scene.from_bytes(scene.to_bytes())
        assert again.to_bytes() == scene.to_bytes()
        assert again.digest == scene.digest
        assert again.layers == scene.layers
        assert again.size_hw == scene.size_hw and again.factors == scene.factors
        np.testing.assert_array_equal(again.object_to_frame, scene.object_to_frame)


def test_the_bytes_of_a_small_scene_are_few(bank: ObjectBank) -> None:
    scene = sample_scene(Recipe.load("smile-gaussian"), Sources(bank), seed=0, index=0)
    assert len(scene.layers) == 3 and scene.num_frames == 16
    assert len(scene.to_bytes()) < 10_000


def test_every_field_is_in_the_digest(sample: Sampler) -> None:
    scene = sample("objects.count=2")
    changed = [
        replace(scene, fps=9.0),
        replace(scene, seed=1),
        replace(scene, index=1),
        replace(scene, recipe_digest="x"),
        replace(scene, recipe_size_hw=(1, 1)),
        replace(scene, layers=(*scene.layers[:-1], replace(scene.layers[-1], labelled=False))),
    ]
    for name in ("object_to_frame", "opacity", "depth", "gain", "bias", "level"):
        array = np.array(getattr(scene, name))
        array[-1, -1] += 1e-9
        changed.append(replace(scene, **{name: array}))
    assert len({s.digest for s in (scene, *changed)}) == len(changed) + 1


def damaged(data: bytes) -> list[bytes]:
    start = len(b"SMILE SCENE 2\n")
    (length,) = struct.unpack("<I", data[start : start + 4])
    header = json.loads(data[start + 4 : start + 4 + length])
    body = data[start + 4 + length :]

    def with_header(**changes: Any) -> bytes:
        text = json.dumps({**header, **changes}).encode()
        return data[:start] + struct.pack("<I", len(text)) + text + body

    cut: Sequence[bytes] = [data[:n] for n in (start + 4, start + 50, start + 4 + length, len(data) - 1)]
    return [
        *cut,
        data + b"\0" * 8,
        data[: start + 4] + b"\xff" + data[start + 5 :],
        with_header(num_frames=4),
        with_header(num_frames="3"),
        with_header(unknown=1),
        with_header(layers=[{}]),
        with_header(layers=[{**header["layers"][0], "surface": {"kind": "Mist"}}, *header["layers"][1:]]),
        with_header(layers=3),
    ]


def test_damaged_bytes_are_refused(sample: Sampler) -> None:
    data = sample("objects.count=2").to_bytes()
    for wrong in damaged(data):
        with pytest.raises(UserError, match="cut short or damaged"):
            Scene.from_bytes(wrong)
    for wrong in (b"", b"SMILE", data[:16], b"SMILE SCENE 9\n" + data[14:]):
        with pytest.raises(UserError, match="not a scene file of this version"):
            Scene.from_bytes(wrong)


def test_arrays_are_checked(sample: Sampler) -> None:
    scene = sample()
    with pytest.raises(ValueError, match=r"opacity: expected float64 \(\d, 3\), got float64 \(1, 3\)"):
        replace(scene, opacity=np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"depth: expected float64 .*, got int64"):
        replace(scene, depth=np.ones(scene.depth.shape, np.int64))


def test_a_scene_cannot_be_changed(sample: Sampler) -> None:
    scene = sample("objects.count=2")
    for array in (scene.opacity, scene.object_to_frame, scene.level):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0.5
    for factors in (scene.factors, scene.layers[1].factors):
        with pytest.raises(TypeError, match="the factors of a scene are read-only"):
            factors["speed"] = 1.0  # type: ignore[index]
        with pytest.raises(TypeError, match="read-only"):
            factors.update(speed=1.0)
        with pytest.raises(TypeError, match="read-only"):
            factors.pop(next(iter(factors)))
    with pytest.raises(AttributeError, match="cannot assign to field"):
        scene.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_scene_neither_freezes_nor_aliases_the_callers_data(sample: Sampler, read_only: bool) -> None:
    scene = sample("objects.count=2")
    owner = np.array(scene.opacity)
    given = owner[:]
    given.flags.writeable = not read_only
    drawn: Any = {"speed": 1.0}
    layers: Any = list(scene.layers)
    layers[1] = replace(layers[1], factors=drawn)
    changed = replace(scene, opacity=given, factors=drawn, layers=layers)
    assert owner.flags.writeable and given.flags.writeable != read_only
    owner[0, 0], drawn["speed"], layers[1] = 0.25, 2.0, layers[0]
    assert changed.opacity[0, 0] == 1
    assert changed.factors == changed.layers[1].factors == {"speed": 1.0}


def test_scenes_compare_hash_print_and_copy(sample: Sampler) -> None:
    scene, same, other = sample("objects.count=2"), sample("objects.count=2"), sample("objects.count=3")
    assert scene == same and hash(scene) == hash(same) and {scene, same, other} == {scene, other}
    assert scene != other and scene != "scene"
    assert scene.layers[1] == same.layers[1] and hash(scene.layers[1]) == hash(same.layers[1])
    for again in (pickle.loads(pickle.dumps(scene)), copy.copy(scene), copy.deepcopy(scene)):
        assert again == scene and not again.opacity.flags.writeable
        with pytest.raises(TypeError, match="read-only"):
            again.layers[1].factors["speed"] = 1.0
    text = repr(replace(scene, layers=(Layer(Solid((1, 2, 3))), *scene.layers[1:])))
    assert "size_hw=(40, 56)" in text and "layers=[Solid, StoredImage, StoredImage]" in text
    assert "object_to_frame=[3, 3, 3, 3]" in text and "array(" not in text
    assert "StoredImage(source='objects'" in repr(scene.layers[1])
    assert len(repr(Video(4, tuple(range(1000)), 20, 30))) < 100


# --- other sizes


def labels_close(small: np.ndarray, large: np.ndarray) -> float:
    """Return the largest distance of two boxes, in pixels of the small frame."""
    both = np.isfinite(small).all(axis=-1) & np.isfinite(large).all(axis=-1)
    return float(np.abs(small[both] - large[both] / 2).max(initial=0))


def test_a_scaled_scene_has_scaled_poses_and_labels(sample: Sampler) -> None:
    for index in range(8):
        scene = sample("objects.classes=[block, disc, smooth]", index=index)
        double = scene.scaled_to((80, 112))
        assert double.size_hw == (80, 112) and double.recipe_size_hw == (40, 56)
        points = [[0.0, 0.0], [3.5, 9.0]]
        for k in range(1, len(scene.layers)):
            np.testing.assert_allclose(
                geometry.apply(double.object_to_frame[k], points),
                2 * geometry.apply(scene.object_to_frame[k], points),
                atol=1e-9,
            )
            surface = scene.layers[k].surface
            assert isinstance(surface, StoredImage)
            expected = level_of_detail(double.object_to_frame[k], surface.height, surface.width)
            np.testing.assert_array_equal(double.level[k], expected)
        small, large = (annotate(s, Sources(sample.bank, sample.images)).labels for s in (scene, double))
        np.testing.assert_allclose(large.in_frame, small.in_frame, atol=0.1)
        assert labels_close(small.amodal_boxes_xyxy, large.amodal_boxes_xyxy) <= 1
        np.testing.assert_array_equal(small.depth_order, large.depth_order)


def test_a_scaled_clip_shows_the_same_content(sample: Sampler) -> None:
    overrides = ["objects.classes=[smooth]", "backgrounds=[{kind: noise}]", "objects.side=[30]"]
    scene = sample(*overrides)
    frames, large = (
        composite(s, Sources(sample.bank, sample.images)) for s in (scene, scene.scaled_to((160, 224)))
    )
    reduced = large.reshape(3, 40, 4, 56, 4, 3).mean(axis=(2, 4))
    assert np.abs(reduced - frames).mean() < 3


def test_a_scene_scaled_to_its_own_size_is_equal(sample: Sampler) -> None:
    for index in range(20):
        scene = sample("motion=[{family: still}]", index=index)
        assert scene.scaled_to((40, 56)).digest == scene.digest


@settings(max_examples=50)
@given(st.integers(1, 40))
def test_every_multiple_of_the_size_is_allowed(sample: Sampler, factor: int) -> None:
    assert sample().scaled_to((5 * factor, 7 * factor)).size_hw == (5 * factor, 7 * factor)


@pytest.mark.parametrize("size_hw", [(40, 40), (80, 56), (56, 40), (200, 270)])
def test_another_aspect_is_refused(sample: Sampler, size_hw: tuple[int, int]) -> None:
    h, w = size_hw
    with pytest.raises(
        UserError, match=rf"size {h}x{w}: must keep the recipe's aspect 40x56 \(height x width\)"
    ):
        sample().scaled_to(size_hw)


@pytest.mark.parametrize("size_hw", [(0, 0), (0, 1), (-40, -56)])
def test_a_size_without_pixels_is_refused(sample: Sampler, size_hw: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="at least one pixel"):
        sample().scaled_to(size_hw)


# --- sources


def test_another_bank_is_refused(sample: Sampler, bank: ObjectBank, tmp_path: Path) -> None:
    from PIL import Image

    from smile_synth.objects import build_bank

    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGBA", (19, 19), (1, 2, 3, 255)).save(tmp_path / "in" / "a" / "0.png")
    build_bank([tmp_path / "in"], tmp_path / "bank")
    other = ObjectBank.open(tmp_path / "bank")
    for use in (composite, annotate):
        with pytest.raises(UserError, match=r"bank '.*': is not the bank of this scene"):
            use(sample(), Sources(other, sample.images))


def test_other_backgrounds_are_refused(sample: Sampler, bank: ObjectBank, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    for use in (composite, annotate):
        for wrong in (None, BackgroundFolder(tmp_path)):
            with pytest.raises(UserError, match="backgrounds: are not the backgrounds of this scene"):
                use(sample("backgrounds=[{kind: image}]"), Sources(bank, wrong))


def test_a_recipe_without_images_does_not_depend_on_them(
    sample: Sampler, bank: ObjectBank, images: BackgroundFolder
) -> None:
    recipe = recipe_of("backgrounds=[{kind: solid}]")
    scene = sample_scene(recipe, Sources(bank, images), seed=0, index=0)
    assert scene.to_bytes() == sample_scene(recipe, Sources(bank), seed=0, index=0).to_bytes()
    composite(scene, Sources(bank))


def test_brightness_dims_the_background_alone(sample: Sampler) -> None:
    plain = sample("backgrounds=[{kind: solid, color: [200, 100, 40]}]")
    dimmed = sample("backgrounds=[{kind: solid, color: [200, 100, 40], brightness: [0.2, 0.6]}]")
    gain = dimmed.gain[0, 0, 0]
    assert 0.2 <= gain <= 0.6 and (dimmed.gain[0] == gain).all()
    assert (dimmed.gain[1:] == 1).all() and (plain.gain == 1).all()
    assert np.array_equal(dimmed.object_to_frame[1:], plain.object_to_frame[1:])


def test_rotation_and_a_rare_background_do_not_change_the_other_draws(sample: Sampler) -> None:
    still = "motion=[{family: constant-velocity, speed: [1, 3], rotation: {rate: 0}}]"
    turned = "motion=[{family: constant-velocity, speed: [1, 3], rotation: {rate: 6}}]"
    noise = "backgrounds=[{kind: noise}]"
    rare = "backgrounds=[{kind: noise}, {kind: solid, weight: 1.0e-9}]"
    for index in range(8):
        one, other = sample(still, noise, index=index), sample(turned, rare, index=index)
        assert one.layers[0] == other.layers[0]
        for a, b in zip(one.layers[1:], other.layers[1:], strict=True):
            assert a.surface == b.surface
            assert a.factors["path.direction_degrees"] == b.factors["path.direction_degrees"]
            assert a.factors["mean_speed_px_per_frame"] == pytest.approx(b.factors["mean_speed_px_per_frame"])


def test_the_order_of_a_mapping_does_not_matter(bank: ObjectBank) -> None:
    one = recipe_of(
        "backgrounds=[{kind: noise}]",
        "objects.class_weights={disc: 1, card: 2}",
        "motion=[{family: key-framed, rate: 3.0, easing: {linear: 1, accelerate: 2}}]",
    )
    other = recipe_of(
        "backgrounds=[{kind: noise}]",
        "objects.class_weights={card: 2, disc: 1}",
        "motion=[{family: key-framed, rate: 3.0, easing: {accelerate: 2, linear: 1}}]",
    )
    assert one.digest == other.digest
    for a, b in zip(
        sample_scenes(one, Sources(bank), seed=0, indices=range(20)),
        sample_scenes(other, Sources(bank), seed=0, indices=range(20)),
        strict=True,
    ):
        assert a.to_bytes() == b.to_bytes()
