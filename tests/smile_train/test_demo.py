"""The demo, with almost no training: every room is entered, the page is whole and needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smile_train.cli import main


@pytest.mark.slow
def test_demo_goes_the_whole_way(
    command_line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "demo", "steps=3", "optimiser.warmup_steps=1", "--num-train", 300, "--num-test", 50]
    told = command_line(main, "demo", *arguments).stdout
    assert "direction" in told and "this encoder" in told
    out = tmp_path / "demo"
    assert len(list((out / "corpus" / "clips").glob("*.mp4"))) == 24
    page = (out / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 24
    assert "<svg" in page and page.count("data:image/png;base64,") == 2
    # Nothing is fetched: every source is data, every link stays on the page.
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    rows = json.loads((out / "probe.json").read_text())["rows"]
    assert f"{100 * rows[0]['accuracy']:.1f}" in page
    assert (out / "run" / "student.safetensors").is_file() and (out / "contact_sheet.png").is_file()
