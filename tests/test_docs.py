"""The docs agree with the committed results, and show commands that exist."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from smile_synth.cli import app as synth_app
from smile_train.cli import app as train_app

ROOT = Path(__file__).resolve().parents[1]


def test_tables_match_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "assets/README.md",
        "docs/ablations.md",
        "docs/backgrounds.md",
        "docs/evaluate.md",
        "docs/labels.md",
        "docs/looking.md",
        "docs/motion.md",
        "docs/objects.md",
        "docs/performance.md",
        "docs/recipes.md",
        "docs/pretraining.md",
        "docs/streaming.md",
    ],
)
def test_links_point_to_files(path: str) -> None:
    page = ROOT / path
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_readme_shows_commands_that_exist() -> None:
    shown = set(re.findall(r"smile-(synth|train) ([a-z]+)(?: ([a-z]+))?", (ROOT / "README.md").read_text()))
    commands = {"synth": typer.main.get_command(synth_app), "train": typer.main.get_command(train_app)}
    for tool, name, sub in shown:
        command = commands[tool].commands[name]  # type: ignore[attr-defined]
        if name in ("bank", "corpus", "recipes"):
            assert sub in command.commands
    assert {name for _, name, _ in shown} >= {
        "demo",
        "bank",
        "preview",
        "generate",
        "pretrain",
        "probe",
        "embed",
        "corpus",
        "export",
    }


def test_the_atlas_is_the_one_that_its_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_atlas.py", "--out", str(tmp_path / "atlas.png")])
    runpy.run_path(str(ROOT / "docs" / "make_atlas.py"), run_name="__main__")
    path = ROOT / "assets" / "atlas.png"
    assert path.stat().st_size < 1_000_000
    with Image.open(tmp_path / "atlas.png") as drawn, Image.open(path) as committed:
        assert drawn.size == committed.size
        difference = np.abs(np.asarray(drawn, float) - np.asarray(committed, float))
        assert difference.mean() < 3  # fonts differ a little from machine to machine
