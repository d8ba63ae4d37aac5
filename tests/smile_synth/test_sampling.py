"""Scenes in batches, and what a recipe can ask for: curves, relations, camera, layout, mixtures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.core import geometry
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.motion import OBJECT_CURVES
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene, StoredImage
from smile_synth.sources import Sources

BASE = """
size: [40, 56]
num_frames: 7
backgrounds: [{kind: noise}]
objects: {count: 3, side: [12], depth_order: random}
motion: [{family: constant-velocity, speed: [1, 3]}]
"""


def recipe_of(*overrides: str) -> Recipe:
    return parse(Recipe, BASE, name="recipe.yaml", overrides=overrides)


def scenes_of(
    bank: ObjectBank, *overrides: str, count: int = 12, images: BackgroundFolder | None = None
) -> list[Scene]:
    return sample_scenes(recipe_of(*overrides), Sources(bank, images), seed=5, indices=range(count))


def middles(scene: Scene, k: int) -> np.ndarray:
    surface = scene.layers[k].surface
    assert isinstance(surface, StoredImage)
    return geometry.apply(scene.object_to_frame[k], [[surface.width / 2, surface.height / 2]])[:, 0]


# --- batches

CURVE_KEYS: dict[str, dict[str, Any]] = {
    "key-framed": {"rate": 0.02},
    "oscillation": {"amplitude": 0.2, "period": 6.0},
    "constant-velocity": {"speed": 0.03},
    "ornstein-uhlenbeck": {"deviation": 0.1, "memory": 3.0},
    "bounce": {"speed": 0.2, "low": -0.3, "high": 0.9},
    "key-values": {"amount": 0.2},
}
PATH_KEYS: dict[str, dict[str, Any]] = {
    "smile-gaussian": {"extent": [5, 20]},
    "smile-linear": {"speed": 3.0},
    "still": {},
    "bounce": {"speed": [1, 5]},
    "re-enter": {},
    "approach-recede": {"ratio": [1.2, 2.0], "period": [5, 9]},
    "stop-and-go": {"speed": [1, 2], "go": [1, 3], "stop": [1, 3], "turn": 90.0},
    "ballistic": {"speed": [1, 2], "gravity": [0.1, 0.3]},
}


@st.composite
def motions(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(st.sampled_from(sorted(PATH_KEYS)))
    entry: dict[str, Any] = {"family": family, **PATH_KEYS[family], "weight": draw(st.floats(0.1, 5))}
    for name in draw(st.lists(st.sampled_from(sorted(OBJECT_CURVES)), max_size=3, unique=True)):
        curve = draw(st.sampled_from(sorted(CURVE_KEYS)))
        entry[name] = {"family": curve, **CURVE_KEYS[curve]}
    return entry


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    low = draw(st.integers(0, 3))
    camera = st.sampled_from([{"zoom": {"rate": 0.02}}, {"pan": {"family": "random-walk", "step": 1.0}},
                              {"recursion": {"rotation": 2.0, "perspective": [-0.01, 0.01]}}])  # fmt: skip
    data = {
        "size": [draw(st.integers(8, 64)), draw(st.integers(8, 64))],
        "num_frames": draw(st.integers(1, 12)),
        "backgrounds": [{"kind": "noise"}, {"kind": "solid"}],
        "objects": {
            "count": [low, low + draw(st.integers(0, 3))], "side": draw(st.sampled_from(
                [[8, 12], {"distribution": "power-law", "range": [4, 20]}, {"distribution": "log-uniform", "range": [4.0, 20.0]}])),
            "fit": draw(st.sampled_from(["keep", "stretch"])), "depth_order": draw(st.sampled_from(["area", "random"])),
            "distractors": {"count": draw(st.integers(0, 2))}, "presence": draw(st.sampled_from([1.0, [0.3, 0.8]])),
        },
        "key_times": {"shared": draw(st.booleans())},
        "motion": draw(st.lists(motions(), min_size=1, max_size=3)),
        "relations": draw(st.sampled_from([[], [{"relation": "common-fate"}], [{"relation": "collision", "members": 3}]])),
        "camera": draw(st.lists(camera, max_size=2)),
    }  # fmt: skip
    return Recipe.model_validate_json(json.dumps(data))


@settings(max_examples=40)
@given(recipe=recipes(), seed=st.integers(0, 2**62))
def test_any_recipe_draws_finite_scenes_that_do_not_depend_on_the_batch(
    bank: ObjectBank, recipe: Recipe, seed: int
) -> None:
    scenes = sample_scenes(recipe, Sources(bank), seed=seed, indices=[9, 0, 4])
    for scene, index in zip(scenes, (9, 0, 4), strict=True):
        alone = sample_scene(recipe, Sources(bank), seed=seed, index=index)
        assert alone.to_bytes() == scene.to_bytes() == Scene.from_bytes(scene.to_bytes()).to_bytes()
        for name in ("object_to_frame", "opacity", "depth", "gain", "level"):
            assert np.isfinite(getattr(scene, name)).all(), name
        assert scene.opacity.min() >= 0 and scene.opacity.max() <= 1
        assert scene.gain.min() >= 0
        assert (
            recipe.objects.count[0]
            <= sum(layer.labelled for layer in scene.layers)
            <= recipe.objects.count[1]
        )
    assert parse(Recipe, recipe.to_yaml(), name="again") == recipe


def test_a_batch_equals_single_scenes(bank: ObjectBank) -> None:
    for name in ("smile-gaussian", "smile-linear-faithful", "ladder-5-accelerating"):
        recipe = Recipe.load(name, ["objects.count=[1, 5]"])
        if "ladder" in name:
            recipe = Recipe.load(name, ["objects.count=[1, 5]", "num_frames=9"])
        for scene in sample_scenes(recipe, Sources(bank), seed=1, indices=range(3, 20, 4)):
            assert (
                sample_scene(recipe, Sources(bank), seed=1, index=scene.index).to_bytes() == scene.to_bytes()
            )


def test_no_clips_give_no_scenes(bank: ObjectBank) -> None:
    for recipe in (recipe_of(), recipe_of("mixture=[{weight: 3}, {weight: 1}]")):
        assert sample_scenes(recipe, Sources(bank), seed=0, indices=[]) == []


# --- curves


def test_curves_change_pose_and_colours(bank: ObjectBank) -> None:
    card = ["objects.classes=[card]", "objects.count=1"]
    still = "motion=[{family: still, %s}]"
    turned = scenes_of(bank, *card, still % "rotation: {family: constant-velocity, speed: 5}", count=1)[0]
    step = geometry.invert(turned.object_to_frame[1, 0]) @ turned.object_to_frame[1, 1]
    assert np.rad2deg(np.arccos(step[0, 0])) == pytest.approx(5)
    faded = scenes_of(
        bank, *card, still % "opacity: {family: constant-velocity, speed: 0.1, direction: 180}", count=1
    )[0]
    np.testing.assert_allclose(faded.opacity[1], 1 - 0.1 * np.arange(7))
    tinted = scenes_of(bank, *card, still % "gain: {rate: 0.1}", count=1)[0]
    assert (tinted.gain[0] == 1).all() and len(np.unique(tinted.gain[1, -1])) == 3
    tilted = scenes_of(bank, *card, still % "tilt: {family: constant-velocity, speed: 4}", count=1)[0]
    assert np.abs(tilted.object_to_frame[1, -1, 2, :2]).max() > 1e-5
    np.testing.assert_allclose(middles(tilted, 1), np.repeat(middles(tilted, 1)[:1], 7, axis=0), atol=1e-9)
    sheared = scenes_of(bank, *card, still % "shear: {rate: 0.05}", count=1)[0].object_to_frame[1, -1]
    assert abs(sheared[:2, 0] @ sheared[:2, 1]) > 1e-3  # no longer at right angles


def test_depth_curves_let_objects_pass_each_other(bank: ObjectBank) -> None:
    crossing = [
        "motion=[{family: still, depth: {family: constant-velocity, speed: 1}}]", "objects.count=2",
    ]  # fmt: skip
    orders = {tuple(tuple(scene.front_to_back(t)) for t in range(7)) for scene in scenes_of(bank, *crossing)}
    assert any(len(set(order)) == 2 for order in orders)


# --- objects


def test_sides_follow_their_distributions(bank: ObjectBank) -> None:
    for law, mean_log in (
        ("uniform", None),
        ("log-uniform", (np.log(5) + np.log(40)) / 2),
        ("power-law", None),
    ):
        scenes = scenes_of(
            bank, f"objects.side={{distribution: {law}, range: [5, 40]}}", "objects.fit=stretch", "objects.count=5",
            "num_frames=1", count=200,
        )  # fmt: skip
        sides = np.array(
            [
                np.sqrt(
                    np.abs(geometry.determinant(s.object_to_frame[k, 0])) * x.surface.width * x.surface.height
                )  # type: ignore[union-attr]
                for s in scenes
                for k, x in enumerate(s.layers)
                if k
            ]
        )
        assert sides.min() >= 5 - 1e-9 and sides.max() <= 40 + 1e-9
        if law == "uniform":
            assert sides.mean() == pytest.approx(22.5, rel=0.05)
        elif mean_log is not None:
            assert np.log(sides).mean() == pytest.approx(mean_log, rel=0.03)
        else:  # density r^-3: the share above r is (r^-2 - 40^-2) / (5^-2 - 40^-2)
            expected = (10.0**-2 - 40.0**-2) / (5.0**-2 - 40.0**-2)
            assert (sides > 10).mean() == pytest.approx(expected, abs=0.04)


def test_classes_are_as_frequent_as_their_weights(bank: ObjectBank) -> None:
    scenes = scenes_of(bank, "objects.class_weights={disc: 3, card: 1}", count=200)
    names = [layer.class_name for scene in scenes for layer in scene.layers[1:]]
    assert set(names) == {"disc", "card"} and np.mean([n == "disc" for n in names]) == pytest.approx(
        0.75, abs=0.06
    )


def test_distractors_have_no_label_and_do_not_change_the_others(bank: ObjectBank) -> None:
    plain = scenes_of(bank, "objects.depth_order=area")
    more = scenes_of(bank, "objects.depth_order=area", "objects.distractors={count: 2, classes: [dot]}")
    for a, b in zip(plain, more, strict=True):
        assert [x for x in b.layers[1:] if x.labelled] == list(a.layers[1:])
        others = [x for x in b.layers[1:] if not x.labelled]
        assert len(others) == 2 and all(x.class_name == "" for x in others)
        assert b.factors["num_objects"] == 3


def test_an_object_is_present_in_consecutive_frames(bank: ObjectBank) -> None:
    for scene in scenes_of(bank, "objects.presence=0.57", "num_frames=7"):
        for k in range(1, len(scene.layers)):
            there = scene.opacity[k]
            assert there.sum() == 4 and np.abs(np.diff(there)).sum() <= 2
            assert scene.layers[k].factors["presence_frames"] == 4


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (0.2, 0.6)])
def test_overlaps_of_the_first_frame(bank: ObjectBank, bounds: tuple[float, float]) -> None:
    scenes = scenes_of(
        bank, f"objects.overlap={list(bounds)}", "objects.fit=stretch", "motion=[{family: still}]", count=30
    )
    shares = [
        x.factors["start_overlap_share"]
        for s in scenes
        for x in s.layers
        if "start_overlap_share" in x.factors
    ]
    assert len(shares) == 60
    assert np.mean([bounds[0] <= share <= bounds[1] for share in shares]) > 0.95


def test_whole_pixels(bank: ObjectBank) -> None:
    scenes = scenes_of(bank, "objects.whole_pixels=true", "motion=[{family: still, log_scale: {rate: 0.05}}]")
    for scene in scenes:
        for k in range(1, len(scene.layers)):
            corner = scene.object_to_frame[k][:, :2, 2]
            np.testing.assert_allclose(corner, np.round(corner), atol=1e-9)


# --- relations


def test_common_fate_gives_the_group_equal_movements(bank: ObjectBank) -> None:
    for scene in scenes_of(bank, "relations=[{relation: common-fate, members: 3}]"):
        ways = [np.diff(middles(scene, k), axis=0) for k in (1, 2, 3)]
        np.testing.assert_allclose(ways[0], ways[1], atol=1e-9)
        np.testing.assert_allclose(ways[0], ways[2], atol=1e-9)
        assert sum(layer.factors.get("relation") == "common-fate" for layer in scene.layers) == 2


def leader_and_follower(scene: Scene) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    follower = next(k for k, layer in enumerate(scene.layers) if "relation" in layer.factors)
    leader = next(k for k in range(1, 3) if k != follower)
    return middles(scene, leader), middles(scene, follower), scene.layers[follower].factors


def test_followers_are_where_the_leader_was(bank: ObjectBank) -> None:
    for scene in scenes_of(bank, "objects.count=2", "relations=[{relation: following, lag: 2}]"):
        leader, follower, factors = leader_and_follower(scene)
        np.testing.assert_allclose(follower[2:], leader[:-2], atol=1e-9)
        assert factors["relation.lag_frames"] == 2


def test_orbiting_keeps_its_distance(bank: ObjectBank) -> None:
    for scene in scenes_of(bank, "objects.count=2", "relations=[{relation: orbiting, turn: 20}]"):
        leader, follower, factors = leader_and_follower(scene)
        np.testing.assert_allclose(np.hypot(*(follower - leader).T), factors["relation.radius_px"])


@pytest.mark.parametrize("after", ["bounce", "stop", "pass"])
def test_a_collision_touches_at_its_time_and_goes_on(bank: ObjectBank, after: str) -> None:
    square = ["objects.count=2", "objects.fit=stretch", "num_frames=9", "size=[80, 112]"]
    for scene in scenes_of(bank, *square, f"relations=[{{relation: collision, at: 0.5, after: {after}}}]"):
        leader, follower, factors = leader_and_follower(scene)
        assert factors["relation.collides_frame"] == pytest.approx(4)
        if np.abs(follower[0] - leader[4]).max() > 12:  # it did not start within reach
            assert np.abs(follower[4] - leader[4]).max() == pytest.approx(12)
        before, later = follower[4] - follower[3], follower[5] - follower[4]
        np.testing.assert_allclose(later, {"bounce": -1, "stop": 0, "pass": 1}[after] * before, atol=1e-9)


# --- camera


def test_the_camera_moves_every_layer(bank: ObjectBank, images: BackgroundFolder) -> None:
    image = "backgrounds=[{kind: image}]"
    still = scenes_of(bank, image, images=images)
    for camera in (
        "pan: {family: axis-velocity, speeds: [2]}",
        "zoom: {rate: 0.05}, roll: {rate: 3}",
        "recursion: {zoom: 0.1}",
    ):
        for scene, other in zip(
            scenes_of(bank, image, f"camera=[{{{camera}}}]", images=images), still, strict=True
        ):
            moves = scene.object_to_frame @ geometry.invert(other.object_to_frame)
            np.testing.assert_allclose(moves, np.repeat(moves[:1], len(moves), axis=0), atol=1e-9)
            assert np.abs(moves[0, -1] - np.eye(3)).max() > 1e-3
            if "pan" in camera:
                np.testing.assert_allclose(
                    moves[0, :, :2, 2], 2 * np.arange(7)[:, None] * np.ones(2), atol=1e-9
                )
                assert scene.factors["camera.pan_px_per_frame"] == pytest.approx(np.hypot(2, 2))
            if "zoom: 0.1" in camera:
                np.testing.assert_allclose(moves[0, :, 0, 0], np.exp(0.1 * np.arange(7)))
                np.testing.assert_allclose(
                    geometry.apply(moves[0], [[28.0, 20.0]])[:, 0], np.full((7, 2), [28, 20])
                )


def test_a_camera_without_curves_changes_nothing(bank: ObjectBank) -> None:
    for scene, other in zip(scenes_of(bank, "camera=[{weight: 1}]"), scenes_of(bank), strict=True):
        np.testing.assert_allclose(scene.object_to_frame, other.object_to_frame, atol=1e-12)


# --- mixtures


def test_a_mixture_draws_its_recipes_by_weight(bank: ObjectBank, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(BASE.replace("count: 3", "count: 1"))
    scenes = scenes_of(bank, f"mixture=[{{weight: 3}}, {{recipe: '{other}', weight: 1}}]", count=300)
    chosen = np.array([scene.factors["mixture_entry"] for scene in scenes])
    assert chosen.mean() == pytest.approx(0.25, abs=0.07)
    assert {(s.factors["mixture_entry"], s.factors["num_objects"]) for s in scenes} == {
        (0.0, 3.0),
        (1.0, 1.0),
    }
    alone = scenes_of(bank, count=300)
    for scene, same in zip(scenes, alone, strict=True):
        if scene.factors["mixture_entry"] == 0:
            np.testing.assert_array_equal(scene.object_to_frame, same.object_to_frame)
    assert len({scene.recipe_digest for scene in scenes}) == 1


def test_weights_of_a_curriculum_depend_on_the_clip_index(bank: ObjectBank, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(BASE.replace("count: 3", "count: 1"))
    recipe = recipe_of(
        f"mixture=[{{recipe: '{other}', weight: [[100, 1], [200, 0]]}}, {{weight: [[100, 0], [200, 1]]}}]"
    )
    drawn = sample_scenes(recipe, Sources(bank), seed=0, indices=range(300))
    counts = np.array([scene.factors["num_objects"] for scene in drawn])
    assert (counts[:101] == 1).all() and (counts[200:] == 3).all()
    assert set(counts[101:200]) == {1, 3}
    assert drawn[150].to_bytes() == sample_scene(recipe, Sources(bank), seed=0, index=150).to_bytes()
    never = recipe_of("mixture=[{weight: [[0, 1], [10, 0]]}]")
    with pytest.raises(UserError, match="every weight is 0 at clip 12"):
        sample_scene(never, Sources(bank), seed=0, index=12)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("motion.0.rotation={family: bounce, speed: 3}", "motion.0.rotation: a curve of the family bounce needs low and high"),
        ("motion.0.opacity={family: spline, low: 2, high: 3}", r"motion.0.opacity: \[2, 3\] is outside 0 .. 1"),
        ("motion.0.rotation={family: spline, low: 2, high: 1}", "motion.0.rotation: low 2 is above high 1"),
        ("motion.0.shear={rate: -1}", "motion.0.shear.rate: should be greater than or equal to 0"),
        ("motion.0.shear={rats: 1}", "motion.0.shear: needs the key 'family'"),
        ("camera=[{pam: {rate: 1}}]", "camera.0.pam: unknown key, .*did you mean 'pan'"),
        ("camera=[{recursion: {zoom: [1, 0]}}]", r"camera.0.recursion.zoom: should be \[low, high\]"),
        ("relations=[{relation: folowing}]", "relations.0.relation: unknown relation 'folowing', .*did you mean 'following'"),
        ("relations=[{relation: common-fate, members: 1}]", "relations.0.members: should be greater than or equal to 2"),
        ("objects.side={distribution: power-law, range: [40, 10]}", r"objects.side.range: should be \[low, high\], got low 40"),
        ("objects.overlap=[0.5, 0.2]", r"objects.overlap: should be \[low, high\], got low 0.5"),
        ("objects.presence=1.5", "objects.presence.*: should be less than or equal to 1"),
        ("occlusion=[{visibility: 0.5}]", "occlusion.0: give either visibility and frames, or overlap"),
        ("occlusion=[{visibility: 0.5, frames: 6}]", "occlusion.0: a run of 6 frames, .* does not fit into num_frames 7"),
        ("occlusion=[{overlap: [0.4, 0.2]}]", r"occlusion.0.overlap: should be \[low, high\]"),
        ("mixture=[{recipe: smile-gaussian}]", r"mixture.0: size is \(224, 224\), must be \(40, 56\) as in the main recipe"),
        ("mixture=[{weight: [[3, 1], [2, 1]]}]", r"mixture.0.weight: clip indices must increase, got \[3, 2\]"),
        ("mixture=[{weight: -1}]", "mixture.0.weight.*: should be greater than or equal to 0"),
        ("motion.0.speed=[.nan, 3]", "motion.0.speed.*: should be a finite number"),
        ("motion=[{family: key-framed, rate: 1, easing: {linear: 0}}]", "motion.0.easing: at least one weight must be above 0"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match="recipe.yaml: command line: " + message) as caught:
        recipe_of(override)
    assert len(str(caught.value).splitlines()) == 1
