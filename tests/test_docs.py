"""The docs say what the committed results say, and show commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from smile_synth.cli import app as synth_app
from smile_train.cli import app as train_app

ROOT = Path(__file__).resolve().parents[1]


def test_tables_are_those_of_the_committed_results() -> None:
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
    ],
)
def test_links_lead_somewhere(path: str) -> None:
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
