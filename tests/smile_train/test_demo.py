"""The demo with almost no training: all parts run, and the page is complete and needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smile_train.demo as demos
from smile_train.cli import main
from smile_train.demo import DemoResult
from smile_train.evaluate import MotionProbeResult
from smile_train.models import STUDENT, Student, StudentConfig, save_model
from smile_train.training.pretrain import PretrainResult


@pytest.mark.slow
def test_the_demo_runs_all_parts(
    command_line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["stages.0.steps=3", "stages.0.optimiser.warmup_steps=1"]
    arguments = ["--out", "demo", *overrides, "--num-train", 80, "--num-test", 50]
    printed = command_line(main, "demo", *arguments).stdout
    assert "direction" in printed and "this encoder" in printed
    out = tmp_path / "demo"
    assert len(list((out / "corpus" / "clips").glob("*.mp4"))) == 24
    page = (out / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 24
    assert (
        "<svg" in page and page.count("data:image/png;base64,") == 2 + 2 * 3
    )  # masks; exact and predicted motion
    # Every source is a data URI, every link is on the page.
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    scores = json.loads((out / "probe.json").read_text())
    assert f"{100 * scores['rows'][0]['accuracy']:.1f}" in page
    assert scores["shipped"]["rows"][0]["accuracy"] != scores["rows"][0]["accuracy"]
    assert page.count("<td>smile-tiny-motion</td>") == 5
    assert (out / "run" / "student.safetensors").is_file() and (out / "contact_sheet.png").is_file()


def test_videos_are_checked_before_the_demo(command_line: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    done = command_line(main, "demo", "--out", tmp_path / "demo", "--videos", tmp_path / "videos", expect=2)
    assert "videos" in done.stderr and not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_ends_with_the_table_of_own_videos(
    command_line: Callable[..., Any], tmp_path: Path, moving_squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StudentConfig.of_size("tiny", target_dim=3, num_frames=4, size_hw=(32, 32))
    student = Student(config, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / STUDENT, student)
    pretrained = PretrainResult(tmp_path, 3, {"loss": 0.5}, 9.0, [])
    probe = MotionProbeResult([], 1, 1, {}, {})
    result = DemoResult(tmp_path / "index.html", tmp_path / "corpus", pretrained, probe, None)
    monkeypatch.setattr(demos, "run_demo", lambda *arguments, **more: result)
    arguments = ["--videos", moving_squares / "train", "--group", r"^p\d+"]
    printed = command_line(main, "demo", "--out", tmp_path, *arguments).stdout
    assert "40 videos in 5 groups" in printed and "random encoders" in printed
    rows = json.loads((tmp_path / "videos.json").read_text())["rows"]
    assert {"encoder", "flow histograms"} <= {row["features"] for row in rows}
