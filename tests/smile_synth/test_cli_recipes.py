"""Recipes and previews from the command line."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from smile_synth.cli import app
from smile_synth.core.errors import UserError
from smile_synth.io.resources import shipped
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe, recipe_schema


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_every_preset_and_what_it_is() -> None:
    shown = run("recipes", "list")
    for path in (shipped("configs") / "synth").glob("*.yaml"):
        assert path.stem in shown


def test_show_writes_what_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(run("recipes", "show", "tracking-hard", "objects.count=3"))
    assert Recipe.load(tmp_path / "again.yaml") == Recipe.load("tracking-hard", ["objects.count=3"])


def test_diff_shows_the_keys_that_differ() -> None:
    shown = run("recipes", "diff", "smile-gaussian", "smile-gaussian-faithful")
    assert set(re.findall(r"(objects\.\w+|key_times\.\w+|motion\.0\.\w+)", shown)) == {
        "objects.fit", "objects.whole_pixels", "key_times.shared", "motion.0.truncate",
    }  # fmt: skip
    assert "no difference" in run("recipes", "diff", "mosi", "mosi")


def test_check_reports_classes_that_the_bank_lacks_with_their_line(bank: ObjectBank, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = "num_frames: 3\nbackgrounds: [{kind: noise}]\nobjects:\n  side: [9]\n  classes: [disk, card]\nmotion: [{family: still}]\n"
    recipe.write_text(text)
    assert "is valid" in run("recipes", "check", recipe)
    with pytest.raises(
        UserError, match=r"r\.yaml:5: objects\.classes: .*no class 'disk'; did you mean 'disc'"
    ) as caught:
        run("recipes", "check", recipe, "--bank", bank.path)
    assert len(str(caught.value).splitlines()) == 1
    recipe.write_text(text.replace("disk", "disc"))
    assert "is valid" in run("recipes", "check", recipe, "--bank", bank.path, "--num-clips", 4)


def test_the_schema_describes_every_key_and_the_short_forms(tmp_path: Path) -> None:
    assert json.loads(run("recipes", "schema")) == recipe_schema()
    run("recipes", "schema", "--out", tmp_path / "s.json")
    schema = json.loads((tmp_path / "s.json").read_text())
    assert set(schema["properties"]) == set(Recipe.model_fields) and schema["additionalProperties"] is False
    assert "family" not in schema["$defs"]["KeyFramedCurve"]["required"]  # {rate: 6}
    assert {"type": "number", "minimum": 0} in schema["$defs"]["ConstantVelocityPath"]["properties"]["speed"][
        "anyOf"
    ]
    assert "anyOf" not in schema["properties"]["size"]


def test_preview_draws_sheet_curves_and_animation(bank: ObjectBank, tmp_path: Path) -> None:
    small = ["size=[40,50]", "num_frames=3", "objects.side=[12]", "motion.0.extent=[5,20]"]
    for name in ("a.gif", "a.mp4"):
        run("preview", "smile-gaussian", *small, "--bank", bank.path, "--num-clips", 3, "--out", tmp_path / "p.png",
            "--curves", tmp_path / "c.png", "--animation", tmp_path / name)  # fmt: skip
    with Image.open(tmp_path / "c.png") as curves:
        assert curves.size[0] > curves.size[1] > 400 and np.asarray(curves).std() > 10
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3 and animation.size == (2 * 300 + 12, 2 * 240 + 12)  # type: ignore[attr-defined]
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3
    with pytest.raises(UserError, match=r"animation 'a\.webm': expected a \.gif or \.mp4 file"):
        run("preview", "smile-gaussian", "--bank", bank.path, "--out", "p.png", "--animation", "a.webm")
