"""The docs agree with the committed results, and show commands that exist."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from smile_synth.cli import app as synth_app
from smile_train.cli import app as train_app
from smile_train.config import FinetuneConfig, PretrainConfig, ProbeConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "assets" / "README.md"])
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "generated")
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


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield (synth or train, words) of every command in the shell blocks of the pages."""
    for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines():
        found = re.search(r"(?:smile-(synth|train)|-m smile_(train)\.cli) (.*)", line)
        if found:
            yield found[1] or found[2], shlex.split(found[3], comments=True)


def test_commands_have_known_names_options_and_keys() -> None:
    tools: dict[str, Any] = {"synth": synth_app, "train": train_app}
    tools = {name: typer.main.get_command(app) for name, app in tools.items()}
    shown = list(shown_commands())
    assert {words[0] for tool, words in shown if tool == "train"} == set(tools["train"].commands)
    for tool, words in shown:
        command, rest = tools[tool].commands[words[0]], words[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, words
        if tool == "train" and words[0] in CONFIGS and not Path(rest[0]).suffix:
            load_config(CONFIGS[words[0]], rest[0], [word for word in rest if re.match(r"[\w.]+=", word)])


def test_scripts_and_tests_in_commands_exist() -> None:
    shown = re.findall(
        r"(?:python|pytest)(?: -\w+)* ((?:benchmarks|docs|tests)/\S+\.py)", "".join(blocks("sh"))
    )
    assert {"docs/make_config_reference.py", "benchmarks/study.py"} <= set(shown)
    assert [path for path in shown if not (ROOT / path).is_file()] == []


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    assert re.search(r"^uv run smile-train demo --out runs/demo ", text, re.MULTILINE)
    assert re.search(r"^uv run pytest ", text, re.MULTILINE)


def test_configs_in_the_pages_are_valid(tmp_path: Path) -> None:
    configs = [block for block in blocks("yaml") if "stages" in block and "about:" not in block]
    assert len(configs) >= 2
    for block in configs:
        (tmp_path / "config.yaml").write_text(block)
        load_config(PretrainConfig, tmp_path / "config.yaml")


def test_the_atlas_is_the_one_that_its_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_atlas.py", "--out", str(tmp_path / "atlas.png")])
    runpy.run_path(str(ROOT / "docs" / "make_atlas.py"), run_name="__main__")
    path = ROOT / "assets" / "atlas.png"
    assert path.stat().st_size < 1_000_000
    with Image.open(tmp_path / "atlas.png") as drawn, Image.open(path) as committed:
        assert drawn.size == committed.size
        difference = np.abs(np.asarray(drawn, float) - np.asarray(committed, float))
        assert difference.mean() < 3  # fonts differ a little from machine to machine
