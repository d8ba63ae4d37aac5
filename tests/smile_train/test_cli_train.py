"""smile-train as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smile_train.cli import main


def run(*arguments: str | Path, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smile_train.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def test_pretrain(config_file: Path, tmp_path: Path) -> None:
    first = run("pretrain", config_file, "steps=2", "--out", tmp_path / "run")
    assert "2 steps in" in first.stdout
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_help() -> None:
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
        (["pretrain", "CONFIG"], "--out is missing"),
        (["embed", "nowhere", "--checkpoint", "nowhere", "--out", "f.npz"], "nowhere"),
        (["probe", "--checkpoint", "nowhere", "--bank", "nowhere"], "no student.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(
        sys, "argv", ["smile-train", *(str(config_file) if a == "CONFIG" else a for a in arguments)]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = capsys.readouterr().err.strip()
    assert message in told and len(told.splitlines()) == 1
    assert not list(work.iterdir())


def test_dry_run(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--dry-run", "--clips-per-second", "2", "masks_per_clip=2", "steps=3000"]
    monkeypatch.setattr(sys, "argv", ["smile-train", "pretrain", str(config_file), *asked])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "clips 4x32x32: 32 tokens, 8 visible, 24 masked" in told
    assert "stage 1: 3,000 steps of 4 clips, trajectory mask, 2 masks a clip" in told
    assert "in all 3,000 steps, 12,000 clips" in told and "time: 1.67 hours at 2 clips/s" in told
    assert "encoder.blocks" in told and "GFLOP per clip" in told
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "recipe.yaml"}
