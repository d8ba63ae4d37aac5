"""smile-train as a user types it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smile_train.cli import main

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(command_line: Run) -> Run:
    return partial(command_line, main)


def test_pretrain(run: Run, config_file: Path, tmp_path: Path) -> None:
    arguments = ("pretrain", config_file, "steps=2", "--out", tmp_path / "run")
    assert "2 steps in" in run(*arguments).stdout
    assert (tmp_path / "run" / "student.safetensors").is_file()
    assert "all 2 steps are done, there is nothing to continue" in " ".join(run(*arguments).stdout.split())


def test_help() -> None:
    asked = [sys.executable, "-m", "smile_train.cli", "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=200)
    assert shown.returncode == 0 and "pretrain" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "demmo", "--out", "x"], "did you mean 'demo'?"),
        (["pretrain", "CONFIG", "stesp=3", "--out", "x"], "did you mean 'steps'?"),
        (
            ["pretrain", "CONFIG", "mask.ratio=1.5", "--out", "x"],
            "mask.ratio: should be less than 1, got 1.5",
        ),
        (["pretrain", "CONFIG"], "--out is missing"),
        (["embed", "nowhere", "--checkpoint", "nowhere", "--out", "f.npz"], "nowhere"),
        (["probe", "--checkpoint", "nowhere", "--bank", "nowhere"], "no student.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Run,
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    told = run(*(config_file if a == "CONFIG" else a for a in arguments), expect=2).stderr.strip()
    assert message in told and len(told.splitlines()) == 1
    assert not list(work.iterdir())


def test_dry_run(run: Run, config_file: Path, tmp_path: Path) -> None:
    asked = ["--dry-run", "--clips-per-second", "2", "masks_per_clip=2", "steps=3000"]
    told = run("pretrain", config_file, *asked).stdout
    assert "clips 4x32x32: 32 tokens, 8 visible, 24 masked" in told
    assert "stage 1: 3,000 steps of 4 clips, trajectory mask, 2 masks a clip" in told
    assert "in all 3,000 steps, 12,000 clips" in told and "time: 1.67 hours at 2 clips/s" in told
    assert "GiB in one process, with 4 clips a pass" in " ".join(told.split())
    assert "encoder.blocks" in told and "GFLOP per clip" in told
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "recipe.yaml"}
