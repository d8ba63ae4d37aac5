"""The wheel holds everything, and what it holds is found outside the checkout."""

from __future__ import annotations

import os
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
    for name in ("configs/synth", "configs/train", "configs/studies", "assets/tiny-clip"):
        shipped = {p.name for p in (installed / "smile_synth" / "_shipped" / name).iterdir()}
        assert shipped == {p.name for p in (ROOT / name).iterdir()}
    for package in ("smile_train", "smile_synth/visualize"):
        shipped = {p.name for p in (installed / package / "templates").iterdir()}
        assert shipped == {p.name for p in (ROOT / package / "templates").iterdir()} and shipped
    assert not list(installed.rglob("tests"))


KINDS = ("synth", "train")
PROGRAM = """
import smile_synth
from smile_synth import Recipe
from smile_synth.io.resources import shipped
from smile_synth.visualize import page_environment
from smile_train.config import FinetuneConfig, PretrainConfig, ProbeConfig, TeacherTrainingConfig

OTHERS = {"finetune": FinetuneConfig, "probe": ProbeConfig, "tiny-clip": TeacherTrainingConfig}
print(smile_synth.__file__)
for kind in "synth", "train":
    for path in sorted((shipped("configs") / kind).iterdir()):
        names = path.stem, path.stem.split("-")[0]
        others = [OTHERS[name] for name in names if name in OTHERS]
        config = Recipe if kind == "synth" else (others or [PretrainConfig])[0]
        config.load(path.stem)
        print(path.stem)
assert (shipped("assets") / "tiny-clip").is_dir()
page_environment("smile_train").get_template("page.html")
"""


def test_what_is_shipped_is_read_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, *names = done.stdout.split()
    assert code.startswith(str(installed))
    assert names == [path.stem for kind in KINDS for path in sorted((ROOT / "configs" / kind).iterdir())]
