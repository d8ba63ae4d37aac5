"""The demo with almost no training: all parts run, and the page is complete and needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smile_train.cli import main


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
