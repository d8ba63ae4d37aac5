import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.resources import find_config, shipped
from smile_synth.motion import FAMILIES
from smile_synth.recipe import Recipe

PRESETS = sorted(path.stem for path in (shipped("configs") / "synth").glob("*.yaml"))
MINIMAL = """
size: [40, 56]
backgrounds: [{kind: noise}]
objects: {side: [12]}
motion: [{family: still}]
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Return a function that writes a recipe and loads it with overrides."""

    def load(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return Recipe.load(path, overrides)

    return load


def mistakes_after_name(written: Any, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        written(text, *overrides)
    return str(caught.value).partition("recipe.yaml:")[2]


# --- presets


def test_presets_are_shipped() -> None:
    assert {"smile-gaussian", "smile-linear", "smile-gaussian-noise", "smile-linear-image"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_and_round_trips(written: Any, name: str) -> None:
    recipe = Recipe.load(name)
    again = written(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.to_yaml() == recipe.to_yaml()
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_starts_with_its_description(name: str) -> None:
    text = find_config(name, "synth").read_text()
    assert text.startswith("# ")
    assert len({line for line in text.splitlines() if len(line) > 110}) == 0


def test_an_unknown_preset_lists_all_and_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        Recipe.load("smile-gausian")
    message = str(caught.value)
    assert message.startswith("recipe 'smile-gausian': no such preset, there are ")
    assert message.endswith("; did you mean 'smile-gaussian'?")
    assert all(name in message for name in PRESETS)


@pytest.mark.parametrize("name", ["nowhere/recipe.yaml", "recipe.yml"])
def test_a_missing_file_is_reported_as_missing(name: str) -> None:
    with pytest.raises(UserError, match=rf"recipe '{name}': no such file"):
        Recipe.load(name)


def test_nearest_returns_a_close_name_or_nothing() -> None:
    assert nearest("oject", ["object", "motion"]) == "; did you mean 'object'?"
    assert nearest("zzz", ["object", "motion"]) == ""


# --- keys


def test_a_minimal_recipe_has_defaults(written: Any) -> None:
    recipe = written(MINIMAL)
    assert (recipe.num_frames, recipe.fps, recipe.objects.count) == (16, 8.0, (2, 2))
    assert recipe.objects.split is None and recipe.objects.fit == "keep"
    assert recipe.motion[0].weight == 1.0


def test_one_number_is_a_range_from_itself_to_itself(written: Any) -> None:
    recipe = written(MINIMAL, "objects.count=3", "backgrounds=[{kind: image, zoom: 1.25}]")
    assert recipe.objects.count == (3, 3)
    assert recipe.backgrounds[0].zoom == (1.25, 1.25)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "objects.count=[3, 2]",
            " command line: objects.count: should be [low, high], got low 3 above high 2",
        ),
        ("objects.count=-1", " command line: objects.count: should be greater than or equal to 0, got -1"),
        ("objects.count=true", " command line: objects.count: should be a valid"),
        ("objects.side=[]", " command line: objects.side: list should have at least 1 item"),
        ("objects.side=[-3.0]", " command line: objects.side.0: should be greater than 0, got -3.0"),
        (
            "objects.fit=strech",
            " command line: objects.fit: should be 'stretch' or 'keep', got 'strech'; did you",
        ),
        (
            "objects.split=training",
            " command line: objects.split: should be 'train', 'val' or 'test', got 'training'",
        ),
        (
            "objects.colour=red",
            " command line: objects.colour: unknown key, allowed are aspect, balance, class_weights, ",
        ),
        ("size=[0, 7]", " command line: size.0: should be greater than or equal to 1, got 0"),
        ("fps=0", " command line: fps: should be greater than 0, got 0"),
        ("num_frames=2.5", " command line: num_frames: should be a valid integer"),
        (
            "backgrounds.0.kind=nois",
            " command line: backgrounds.0.kind: unknown kind 'nois', allowed are solid, noise",
        ),
        (
            "backgrounds=[{kind: solid, color: [0, 0, 256]}]",
            " command line: backgrounds.0.color.2: should be less",
        ),
        (
            "backgrounds=[{kind: image, zoom: 0.5}]",
            " command line: backgrounds.0.zoom: should be greater than or equal to 1, got 0.5",
        ),
        ("backgrounds=[]", " command line: backgrounds: list should have at least 1 item"),
        (
            "motion.0.family=orbti",
            " command line: motion.0.family: unknown family 'orbti', allowed are ",
        ),
        ("motion.0.weight=0", " command line: motion.0.weight: should be greater than 0, got 0"),
        (
            "motion.0.rotation.rate=-1",
            " command line: motion.0.rotation.rate: should be greater than or equal to 0",
        ),
        (
            "motion=[{family: orbit, radius: [2.0, 1.0], turn: [1, 2]}]",
            " command line: motion.0.radius: should be [low, high], got low 2.0 above high 1.0",
        ),
        ("motion=[{family: orbit, turn: [1, 2]}]", " command line: motion.0.radius: is missing"),
        (
            "key_times={inner_probability: [0.5]}",
            " command line: key_times: inner_probability must sum to 1, got 0.5",
        ),
        (
            "objects={side: [8], class_weights: {cat: 1}, distractors: {classes: [dog]}}",
            " command line: objects.class_weights: cannot be combined with distractors.classes",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(written: Any, override: str, expected: str) -> None:
    assert mistakes_after_name(written, MINIMAL, override).startswith(expected)


def test_mistakes_in_a_file_have_their_lines(written: Any) -> None:
    text = MINIMAL.replace("noise", "noisy").replace("side", "sides").replace("still", "stil")
    with pytest.raises(UserError) as caught:
        written(text)
    lines = [line.partition("recipe.yaml:")[2] for line in str(caught.value).splitlines()]
    assert lines == [
        "3: backgrounds.0.kind: unknown kind 'noisy', allowed are solid, noise, one-over-f, dead-leaves, gradient, "
        "image, video; did you mean 'noise'?",
        "4: objects.side: is missing",
        "4: objects.sides: unknown key, allowed are aspect, balance, class_weights, classes, count, depth_order, "
        "distractors, exclude_classes, fit, overlap, presence, shared_motion, side, side_jitter, split, whole_pixels; did you mean 'side'?",
        f"5: motion.0.family: unknown family 'stil', allowed are {', '.join(FAMILIES)}; did you mean 'still'?",
    ]


# --- digest


def test_the_digest_ignores_order_comments_and_explicit_defaults(written: Any) -> None:
    recipe = written(MINIMAL)
    data = yaml.safe_load(MINIMAL)
    backwards = (
        yaml.safe_dump(dict(reversed(data.items())), sort_keys=False) + "# a comment\nnum_frames: 16\n"
    )
    assert written(backwards).digest == recipe.digest
    assert written(MINIMAL, "objects.count=2").digest == recipe.digest


@pytest.mark.parametrize("override", ["num_frames=17", "objects.side=[13]", "motion.0.weight=2", "fps=9"])
def test_the_digest_depends_on_every_value(written: Any, override: str) -> None:
    assert written(MINIMAL, override).digest != written(MINIMAL).digest


def test_class_names_that_look_like_numbers_stay_text(written: Any) -> None:
    names = ["no", "1e5", "12:30", "true", "01"]
    recipe = written(MINIMAL, "objects.classes=['no', '1e5', '12:30', 'true', '01']")
    assert recipe.objects.classes == names
    assert written(recipe.to_yaml()) == recipe


def test_a_wrong_number_for_a_range_is_one_mistake(written: Any) -> None:
    assert "\n" not in mistakes_after_name(written, MINIMAL, "objects.count=-1")
