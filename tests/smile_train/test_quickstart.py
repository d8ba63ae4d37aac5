"""Quickstart: a recipe that fits the images, a plan that fits the time, and a page of the result."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smile_train.quickstart as quickstarts
from smile_synth import UserError
from smile_train.cli import main
from smile_train.own_images import prepare_images
from smile_train.quickstart import Plan, make_plan, read_plan


def write_pairs(folder: Path, *, images: int, side: int) -> Path:
    """Write images of 80x100 pixels with six squares each, and their masks."""
    rng = np.random.default_rng(side)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        image, mask = rng.integers(0, 90, (80, 100, 3), np.uint8), np.zeros((80, 100), np.uint8)
        for k in range(6):
            place = np.s_[4 + 40 * (k % 2) :, 4 + 32 * (k // 2) :]
            image[place][:side, :side] = rng.integers(100, 256, (side, side, 3))
            mask[place][:side, :side] = k + 1
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


def test_recipe_and_backgrounds_fit_the_images(tmp_path: Path) -> None:
    own = prepare_images(write_pairs(tmp_path / "photos", images=12, side=20), tmp_path / "out")
    assert sum(own.counts.values()) == 72 and own.counts["train"] >= 36 and own.counts["test"]
    assert own.test_split == "test" and not own.problems
    # Objects of a quarter of the short side need no zoom, and have 16 of 64 pixels.
    assert own.recipe.objects.side == [16.0] and own.recipe.objects.split == "train"
    assert own.recipe.backgrounds[0].zoom == (1.0, 1.6)  # type: ignore[union-attr] # an image
    train, heldout = own.materials.train_backgrounds, own.materials.heldout_backgrounds
    # Masks are no backgrounds, and no image is on both sides.
    assert len(train.files) == own.counts["train"] / 6 and len(heldout.files) == own.counts["test"] / 6
    assert set(train.sizes_hw) == {(80, 100)}
    again = prepare_images(tmp_path / "photos", tmp_path / "out")
    assert again.recipe == own.recipe and again.materials.bank.digest == own.materials.bank.digest


def test_too_little_material_is_named(tmp_path: Path) -> None:
    own = prepare_images(write_pairs(tmp_path / "photos", images=1, side=8), tmp_path / "out")
    assert (own.counts, own.test_split, own.val_split) == ({"train": 6, "val": 0, "test": 0},) + (
        "train",
    ) * 2
    for part in ("from one image, so none can be held out", "has only 6 objects", "object is 8 pixels"):
        assert sum(part in problem for problem in own.problems) == 1
    assert len(own.problems) == 3
    assert own.recipe.backgrounds[0].zoom == (2.5, 4.0)  # type: ignore[union-attr] # an image
    assert own.recipe.objects.side == [16.0]


def test_a_plan_fits_the_time() -> None:
    plan = make_plan("photos", 10.0, spent=60.0, steps_per_second=5.0, batch_size=16)
    assert plan.clips_per_second == 80.0 and plan.num_train + plan.num_test == 1733
    probes = 1733 / (80 * quickstarts.ENCODINGS_PER_STEP / 12)
    assert plan.steps == int((520 - probes) * 5)
    assert make_plan("photos", 600.0, 60.0, 5.0, 16) == Plan("photos", 600.0, 20_000, 1200, 800, 80.0)
    with pytest.raises(
        UserError, match=r"^minutes 2: too few here; .* took 90 seconds, .* at least \d minutes"
    ):
        make_plan("photos", 2.0, spent=90.0, steps_per_second=2.0, batch_size=16)


def test_a_folder_holds_one_quickstart(tmp_path: Path) -> None:
    assert read_plan(tmp_path, tmp_path / "photos", 5.0) is None
    (tmp_path / "plan.json").write_text(
        f'{{"images": "{tmp_path / "photos"}", "minutes": 5.0, "steps": 7, "num_train": 3, "num_test": 2,'
        ' "clips_per_second": 9.0}'
    )
    found = read_plan(tmp_path, tmp_path / "photos", 5.0)
    assert found is not None and found.steps == 7
    with pytest.raises(UserError, match="with 5 minutes; use another folder"):
        read_plan(tmp_path, tmp_path / "photos", 6.0)


def test_images_that_cannot_be_used_are_one_line(command_line: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in (("missing", "no such file or folder"), ("empty", "expected images")):
        done = command_line(main, "quickstart", tmp_path / folder, "--out", tmp_path / "out", expect=2)
        assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_quickstart_writes_an_encoder_and_a_page(
    command_line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstarts, "TASKS", ("rotation",))
    monkeypatch.setattr(quickstarts, "RATE_STEPS", 4)
    monkeypatch.setattr(quickstarts, "UNCOUNTED_STEPS", 1)
    monkeypatch.setattr(quickstarts, "make_plan", lambda images, *_: Plan(images, 2.0, 5, 60, 50, 9.0))
    images, out = write_pairs(tmp_path / "photos", images=8, side=20), tmp_path / "out"
    printed = command_line(main, "quickstart", images, "--out", out, "--minutes", 2).stdout
    assert "this encoder" in printed and f"encoder: {out / 'run'}" in printed.replace("\n", "")
    page = (out / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 12 and page.count("<svg") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert not (out / "rate").exists() and (out / "run" / "student_best_probe.safetensors").is_file()
