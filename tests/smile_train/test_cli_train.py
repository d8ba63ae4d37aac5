"""smile-train as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile_synth.io.videos import write_mp4
from smile_train.cli import describe_step, main, print_teacher_scores
from smile_train.config import PretrainConfig
from smile_train.training.pretrain import PretrainTask

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(command_line: Run) -> Run:
    return partial(command_line, main)


def test_pretrain(run: Run, config_file: Path, tmp_path: Path) -> None:
    arguments = ("pretrain", config_file, "stages.0.steps=2", "--out", tmp_path / "run")
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
        (["pretrain", "CONFIG", "stages.0.stesp=3", "--out", "x"], "did you mean 'steps'?"),
        (
            ["pretrain", "CONFIG", "stages.0.mask.ratio=1.5", "--out", "x"],
            "stages.0.mask.ratio: should be less than 1, got 1.5",
        ),
        (["pretrain", "CONFIG"], "--out is missing"),
        (["finetune", "finetune-k400-vitb", "--out", "x"], "videos.train: is missing"),
        (["finetune", "finetune-k400-vitb"], "--out is missing"),
        (
            [
                "finetune",
                "finetune-k400-vitb",
                "--dry-run",
                "--processes",
                "7",
                "--num-videos",
                "9",
                "--num-classes",
                "2",
            ],
            "batch_size 256: must be a multiple of 7 processes",
        ),
        (["train-probe", "probe-k400-vitb", "--out", "x", "heads.0.kind=linaer"], "did you mean 'linear'?"),
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


def test_dry_run_of_two_stages_on_two_processes(run: Run, config_file: Path, tmp_path: Path) -> None:
    stages = (
        "stages=[{steps: 3000, sources: [{recipe: RECIPE}], masks_per_clip: 2, mask: {kind: tube, ratio: 0.75}},"
        " {steps: 1500, masks_per_clip: 1}]"
    ).replace("RECIPE", str(tmp_path / "recipe.yaml"))
    shown = run(
        "pretrain", config_file, "--dry-run", "--clips-per-second", "2", "--processes", "2", stages,
        "run.accumulate=2",
    ).stdout  # fmt: skip
    assert "clip 4x32x32; clips per step: 4; processes: 2; clips per pass of a process: 1" in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["steps"] == ["3,000", "1,500"] and cells["clips"] == ["12,000", "6,000"]
    assert cells["visible tokens"] == ["8 of 32", "8 of 32"] and cells["hours"] == ["1.67", "0.83"]
    two_masks, one_mask = map(float, cells["GFLOP per clip"])
    assert two_masks == pytest.approx(2 * one_mask, rel=1e-2)
    assert "stage 1: recipe" in shown and "2 masks per clip, tube, ratio 0.75" in shown
    assert "in all 4,500 steps, 18,000 clips; time: 2.50 hours at 2 clips/s" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "recipe.yaml"}


def test_dry_run_refuses_a_batch_that_cannot_be_divided(run: Run, config_file: Path) -> None:
    message = run("pretrain", config_file, "--dry-run", "--processes", "3", expect=2).stderr
    assert "batch_size 4: must be a multiple of 3 processes x accumulate 1" in message


def test_only_rank_0_prints(run: Run, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    shown = run("pretrain", config_file, "--dry-run")
    assert (shown.stdout, shown.stderr) == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert "in all 6 steps" in run("pretrain", config_file, "--dry-run").stdout


def test_progress_shows_losses_scores_and_rates() -> None:
    line = {
        "step": 3, "loss": 0.51234, "baseline_loss": 1.0, "loss/pixels": 0.2, "lr": 1e-3, "grad_norm": 0.5,
        "accuracy": 0.75, "clips_per_second": 12.34, "data_wait": 0.107, "mfu": 0.4321,
    }  # fmt: skip
    expected = "loss 0.512, accuracy 0.750, 12.3 clips/s, MFU 43.2 %, 11 % waiting for data"
    assert describe_step(line) == expected


def test_scores_of_a_clip_are_printed_by_objects_and_attribute(capsys: pytest.CaptureFixture[str]) -> None:
    scores = json.loads((Path(__file__).parents[2] / "assets" / "tiny-clip" / "result.json").read_text())
    print_teacher_scores(scores)
    shown = capsys.readouterr().out
    for name, attributes in scores["zero_shot"].items():
        for attribute, row in attributes.items():
            cells = [attribute, f"{100 * row['accuracy']:.1f}", f"{100 * row['most_frequent']:.1f}"]
            assert any(all(cell in line for cell in cells) for line in shown.splitlines()), (name, cells)


def test_natural_videos_are_indexed_and_unreadable_ones_replaced(
    run: Run, config_file: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    (folder / "run").mkdir(parents=True)
    for k in range(3):
        write_mp4(folder / "run" / f"{k}.mp4", np.full((5, 32, 48, 3), 40 * k, np.uint8), 10)
    (folder / "run" / "3.mp4").touch()
    changes = [
        f"stages.0.sources=[{{video: {{path: {folder}, side: 32, sampling: {{num_frames: 4}}}}}}]",
        "stages.0.mask={kind: tube, ratio: 0.75}", "stages.0.steps=4",
    ]  # fmt: skip
    done: list[tuple[int, int]] = []
    config = PretrainConfig.load(config_file, changes)
    PretrainTask(config, out, progress=lambda *counts: done.append(counts))
    assert done[-1] == (4, 4)
    assert [path.suffix for path in out.iterdir()] == [".parquet"]
    message = run("pretrain", config_file, *changes, "--out", out).stderr  # 16 clips are 4 of each video
    assert f"unreadable: 1 video replaced by others, see {out / 'unreadable.jsonl'}" in message
