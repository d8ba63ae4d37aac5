"""The docs agree with the committed results, and show commands that exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from smile_synth.cli import app as synth_app
from smile_train.cli import app as train_app
from smile_train.config import FinetuneConfig, PretrainConfig, ProbeConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "assets" / "README.md", *(ROOT / "docs").glob("*.md")])
CONFIGS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "train-probe": ProbeConfig}


def test_tables_match_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_config_reference_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_config_reference.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "make_config_reference.py"), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files_and_sections(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        name, _, section = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if section:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert section in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(language: str) -> Iterator[str]:
    """Yield the blocks of all pages in one language."""
    for page in PAGES:
        yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def train_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield (command, arguments) of every smile-train command that the pages show."""
    for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines():
        found = re.search(r"(?:smile-train|-m smile_train\.cli) ([a-z-]+)(.*)", line)
        if found:
            yield found[1], shlex.split(found[2], comments=True)


def test_train_commands_have_known_names_and_keys() -> None:
    commands = typer.main.get_command(train_app).commands  # type: ignore[attr-defined]
    shown = list(train_commands())
    assert {name for name, _ in shown} == set(commands)
    for name, arguments in shown:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, (name, arguments)
        if name in CONFIGS and not Path(arguments[0]).suffix:
            overrides = [argument for argument in arguments[1:] if re.match(r"[\w.]+=", argument)]
            load_config(CONFIGS[name], arguments[0], overrides)


def test_configs_in_the_pages_are_valid(tmp_path: Path) -> None:
    configs = [block for block in blocks("yaml") if "stages" in block and "about:" not in block]
    assert len(configs) >= 2
    for block in configs:
        (tmp_path / "config.yaml").write_text(block)
        load_config(PretrainConfig, tmp_path / "config.yaml")


def test_readme_shows_commands_that_exist() -> None:
    shown = set(re.findall(r"smile-(synth|train) ([a-z-]+)(?: ([a-z-]+))?", (ROOT / "README.md").read_text()))
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
