"""smile-train as a user types it."""

from __future__ import annotations

import json
import re
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


def test_demo_goes_the_whole_way(tmp_path: Path) -> None:
    """With almost no training: every room is entered, the page is whole and needs no network."""
    out = tmp_path / "demo"
    shown = run("demo", "--out", out, "steps=3", "optimiser.warmup_steps=1", "--num-train", "60", "--num-test", "50",
                cwd=tmp_path).stdout  # fmt: skip
    assert "motion family (5)" in shown and "direction (8)" in shown and "this encoder" in shown
    assert len(list((out / "corpus" / "clips").glob("*.mp4"))) == 24
    page = (out / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 24
    assert "<svg" in page and page.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    rows = json.loads((out / "probe.json").read_text())["rows"]
    assert f"{100 * rows[0]['accuracy']:.1f}" in page
    with_checkpoint = [f.name for f in (out / "run").iterdir()]
    assert "student.safetensors" in with_checkpoint and (out / "contact_sheet.png").is_file()
