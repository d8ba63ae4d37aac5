"""smile-train as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str | Path, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smile_train.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def test_pretrain_and_continue(config_file: Path, tmp_path: Path) -> None:
    first = run("pretrain", config_file, "steps=2", "--out", tmp_path / "run")
    assert "2 steps in" in first.stdout
    assert (tmp_path / "run" / "student.safetensors").is_file()
    assert "2 steps in" in run("pretrain", config_file, "steps=2", "--out", tmp_path / "run").stdout


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("smile-video 0.")
    assert "pretrain" in run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "demmo", "--out", "x"], "did you mean 'demo'?"),
        (["pretrain", "CONFIG", "stesp=3", "--out", "x"], "did you mean 'steps'?"),
        (
            ["pretrain", "CONFIG", "mask.ratio=1.5", "--out", "x"],
            "mask.ratio: should be less than 1, got 1.5",
        ),
        (["embed", "nowhere", "--checkpoint", "nowhere", "--out", "f.npz"], "nowhere"),
        (["probe", "--checkpoint", "nowhere", "--bank", "nowhere"], "no student.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    config_file: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = run(*[config_file if a == "CONFIG" else a for a in arguments], expect=2, cwd=work)
    assert message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(work.iterdir())
