"""The wheel holds everything, and the demo runs from it outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it, as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_ships_configs_assets_and_templates(installed: Path) -> None:
    for name in ("configs/synth", "configs/train", "assets/tiny-clip"):
        shipped = {p.name for p in (installed / "smile_synth" / "_shipped" / name).iterdir()}
        assert shipped == {p.name for p in (ROOT / name).iterdir()}
    for package in ("smile_train", "smile_synth/visualize"):
        shipped = {p.name for p in (installed / package / "templates").iterdir()}
        assert shipped == {p.name for p in (ROOT / package / "templates").iterdir()} and shipped
    assert not list(installed.rglob("tests"))


def test_demo_goes_the_whole_way_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    """With almost no training: every room is entered, the page is whole and needs no network."""
    program = "import smile_synth, smile_train.cli; print(smile_synth.__file__); smile_train.cli.main()"
    arguments = [
        "demo",
        "--out",
        "demo",
        "steps=3",
        "optimiser.warmup_steps=1",
        "--num-train",
        "300",
        "--num-test",
        "50",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert "direction" in done.stdout and "this encoder" in done.stdout
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
