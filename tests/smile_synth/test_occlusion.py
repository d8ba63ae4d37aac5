"""Occlusion targets: reached, measured as the labels measure, recorded, given up visibly."""

from dataclasses import replace

import numpy as np
import pytest

from smile_synth.annotations import annotate
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import CutOutOptions, ObjectBank, build_bank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene
from smile_synth.sources import Sources

BASE = """
size: [64, 80]
num_frames: 12
backgrounds: [{kind: noise}]
objects: {count: [2, 4], side: [14, 18, 22], depth_order: random, distractors: {count: [0, 1]}}
motion:
  - {family: constant-velocity, speed: [1, 4], rotation: {rate: 3}}
  - {family: bounce, speed: [2, 5], depth: {rate: 0.5}}
  - {family: still, opacity: {family: key-values, start: 0.8, amount: 0.2}}
"""
TARGETS = {
    "half": "{visibility: 0.5, frames: [3, 6]}",
    "hidden": "{visibility: 0, frames: 2}",
    "overlap": "{overlap: [0.2, 0.4]}",
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ObjectBank:
    folder = tmp_path_factory.mktemp("shapes")
    build_bank(["builtin:shapes"], folder / "bank", cut=CutOutOptions(max_side=32))
    return ObjectBank.open(folder / "bank")


def recipe_of(target: str, *overrides: str) -> Recipe:
    return parse(Recipe, BASE, name="recipe.yaml", overrides=[f"occlusion=[{target}]", *overrides])


def chosen(scene: Scene) -> int:
    """Return the number, among the labelled, of the object that the target was about."""
    labelled = [layer for layer in scene.layers if layer.labelled]
    (number,) = [n for n, layer in enumerate(labelled) if "occluded_first_frame" in layer.factors]
    return number


def uncovered(scene: Scene, shapes: ObjectBank, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an object's extent and the part that no layer in front owns ``[T]``, in pixels."""
    layer = [k for k, layer in enumerate(scene.layers) if layer.labelled][number]
    opacity = scene.opacity.copy()
    opacity[layer, opacity[layer] > 0] = 1.0
    labels = annotate(replace(scene, opacity=opacity), Sources(shapes)).labels
    return tuple(masks[number].sum(axis=(1, 2)) for masks in (labels.amodal_masks, labels.modal_masks))


@pytest.mark.parametrize(
    "camera", [[], ["camera=[{pan: {family: constant-velocity, speed: 2}, zoom: {rate: 0.02}}]"]]
)
@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_reached_and_are_what_the_labels_say(
    shapes: ObjectBank, name: str, camera: list[str]
) -> None:
    scenes = sample_scenes(recipe_of(TARGETS[name], *camera), Sources(shapes), seed=0, indices=range(35))
    assert np.mean([scene.factors["occlusion.reached"] for scene in scenes]) >= 0.95
    ways = set()
    for scene in scenes:
        if not scene.factors["occlusion.reached"]:
            continue
        ways.add(scene.factors["occlusion.by"])
        share = scene.factors["occlusion.reached_share"]
        if name == "overlap":
            numbers = range(sum(layer.labelled for layer in scene.layers))
            extent, seen = np.sum([uncovered(scene, shapes, number) for number in numbers], axis=(0, 2))
            assert 1 - seen / extent == pytest.approx(share, abs=1e-12) and 0.2 <= share <= 0.4
            continue
        extent, seen = uncovered(scene, shapes, chosen(scene))
        visibility = seen / extent
        first, length = (
            int(scene.factors["occlusion.first_frame"]),
            int(scene.factors["occlusion.length_frames"]),
        )
        run = visibility[first : first + length]
        limit = 0.5 if name == "half" else 0.0
        assert (run <= limit).all() and visibility[first - 1] > limit and visibility[first + length] > limit
        assert run.min() == share
        assert (3 <= length <= 6) if name == "half" else length == 2
    assert len(ways) > 1


def test_low_opacity_and_absence_are_no_occlusion(shapes: ObjectBank) -> None:
    fading = "motion=[{family: still, opacity: {family: key-values, start: 0.4, amount: 0.4}}]"
    recipe = recipe_of(
        "{visibility: 0.5, frames: [1, 6], by: [depth]}", fading, "objects.distractors={count: 0}",
        "objects.presence=[0.7, 1.0]",
    )  # fmt: skip
    reached = 0
    for scene in sample_scenes(recipe, Sources(shapes), seed=0, indices=range(40)):
        if scene.factors["occlusion.reached"]:
            reached += 1
            first, length = (
                int(scene.factors[f"occlusion.{name}"]) for name in ("first_frame", "length_frames")
            )
            occluded_by = annotate(scene, Sources(shapes)).labels.occluded_by[chosen(scene)]
            assert (occluded_by.sum(axis=0)[first : first + length] > 0).all()
    assert reached < 40


def test_a_visibility_equal_to_the_limit_is_hidden(shapes: ObjectBank) -> None:
    # The limit is what the first clip reaches: at or below it, this clip still counts.
    scene = sample_scene(recipe_of(TARGETS["half"]), Sources(shapes), seed=0, index=0)
    extent, seen = uncovered(scene, shapes, chosen(scene))
    first = int(scene.factors["occlusion.first_frame"])
    length = int(scene.factors["occlusion.length_frames"])
    limit = float((seen / extent)[first : first + length].max())
    target = f"{{visibility: {limit!r}, frames: {length}}}"
    again = sample_scene(recipe_of(target), Sources(shapes), seed=0, index=0)
    assert again.factors["occlusion.reached"] == 1


@pytest.mark.parametrize(("way", "name"), [("path", "half"), ("occluder", "hidden"), ("depth", "half")])
def test_only_the_allowed_ways_are_taken(shapes: ObjectBank, way: str, name: str) -> None:
    target = TARGETS[name].replace("}", f", by: [{way}]}}")
    scenes = sample_scenes(recipe_of(target), Sources(shapes), seed=0, indices=range(12))
    plain = sample_scenes(recipe_of(target, "occlusion=[]"), Sources(shapes), seed=0, indices=range(12))
    ways = {scene.factors.get("occlusion.by", "missed") for scene in scenes}
    assert ways <= {way, "chance", "missed"} and way in ways
    for scene, before in zip(scenes, plain, strict=True):
        added = len(scene.layers) - len(before.layers)
        assert added == (scene.factors.get("occlusion.by") == "occluder")
        if added:
            assert not scene.layers[-1].labelled and scene.layers[-1].factors["family"] == "occluder"
            assert all(scene.front_to_back(t)[0] == len(scene.layers) - 1 for t in range(12))


def test_a_missed_target_leaves_the_scene_as_it_was_and_says_so(shapes: ObjectBank) -> None:
    target = "{visibility: 0, frames: 10, by: [depth], tries: 3}"
    for index in range(4):
        scene = sample_scene(recipe_of(target), Sources(shapes), seed=0, index=index)
        plain = sample_scene(recipe_of(target, "occlusion=[]"), Sources(shapes), seed=0, index=index)
        assert scene.factors["occlusion.reached"] == 0 and 1 <= scene.factors["occlusion.tries"] <= 3
        assert "occlusion.by" not in scene.factors
        np.testing.assert_array_equal(scene.object_to_frame, plain.object_to_frame)
        np.testing.assert_array_equal(scene.depth, plain.depth)
        assert scene.layers == plain.layers


def test_targets_do_not_depend_on_the_batch_and_are_drawn_by_weight(shapes: ObjectBank) -> None:
    both = f"{TARGETS['half']}, {TARGETS['overlap']}"
    scenes = sample_scenes(recipe_of(both), Sources(shapes), seed=3, indices=range(10))
    for index in (0, 7):
        assert (
            sample_scene(recipe_of(both), Sources(shapes), seed=3, index=index).to_bytes()
            == scenes[index].to_bytes()
        )
    assert (
        len(
            {
                "occlusion.first_frame" in scene.factors
                for scene in scenes
                if scene.factors["occlusion.reached"]
            }
        )
        == 2
    )


@pytest.mark.parametrize("count", [0, 1])
def test_targets_that_no_object_can_meet_are_refused(count: int) -> None:
    from smile_synth.core.errors import UserError

    with pytest.raises(
        UserError, match=r"occlusion.0: cannot be reached: objects.count allows no labelled object"
    ):
        recipe_of(
            "{visibility: 0, frames: 2, by: [path]}",
            f"objects.count={count}",
            "objects.distractors={count: 0}",
        )


def test_presets_with_targets_reach_them(shapes: ObjectBank) -> None:
    for name in ("tracking-hard", "one-factor-occlusion"):
        scenes = sample_scenes(Recipe.load(name), Sources(shapes), seed=0, indices=range(12))
        assert np.mean([scene.factors["occlusion.reached"] for scene in scenes]) >= 0.95
