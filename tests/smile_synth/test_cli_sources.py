"""bank build says how sources are read, and which option helps."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smile_synth.cli import main

HEIGHT, WIDTH = 40, 50
BOX = [10, 8, 40, 8, 40, 32, 10, 32]
EDGE = [0, 8, 40, 8, 40, 32, 0, 32]
THIN = [5, 8, 45, 8, 45, 8.5, 5, 8.5]


@pytest.fixture
def run(command_line: Callable[..., Any]) -> Callable[..., Any]:
    return partial(command_line, main)


def source(folder: Path, ring: list[float], count: int = 3, **annotation: Any) -> Path:
    """A COCO file with one object per image."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    document = {
        "images": [{"id": n, "file_name": f"C:\\x\\{n}.png"} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [ring], **annotation}
            for n in range(count)
        ],
        "categories": [{"id": 1, "name": "cat[0]"}],
    }
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


@pytest.mark.parametrize(
    ("ring", "annotation", "hint"),
    [
        (BOX, {"iscrowd": 1}, "--crowd uses crowd regions"),
        (EDGE, {}, "--max-truncation is the largest share"),
        (THIN, {}, "--min-side is the least side"),
        (BOX, {"segmentation": []}, "boxes without outlines cannot be cut out"),
    ],
)
def test_an_option_that_helps_is_named(
    run: Callable[..., Any], tmp_path: Path, ring: list[float], annotation: dict[str, Any], hint: str
) -> None:
    file = source(tmp_path, ring, **annotation)
    error = run("bank", "build", file, "--out", tmp_path / "b", "--workers", "1", expect=2).stderr
    assert f"all have this reason: {hint}" in error and not (tmp_path / "b").exists()


def test_a_frequent_reason_has_a_hint(run: Callable[..., Any], tmp_path: Path) -> None:
    file = source(tmp_path, BOX, count=12, iscrowd=1)
    document = json.loads(file.read_text())
    document["annotations"][0]["iscrowd"] = 0
    file.write_text(json.dumps(document))
    error = run("bank", "build", file, "--out", tmp_path / "b", "--workers", "1").stderr
    assert "hint: 11 rejected as crowd region: --crowd uses crowd regions" in error


def test_a_dry_run_prints_formats_classes_and_rejected_items(run: Callable[..., Any], tmp_path: Path) -> None:
    file = source(tmp_path, BOX, count=70)
    document = json.loads(file.read_text())
    document["annotations"][0]["segmentation"] = []
    file.write_text(json.dumps(document))
    before = sorted(tmp_path.iterdir())
    done = run("bank", "build", file, "--dry-run")
    assert f"{file}: read as coco" in done.stdout
    assert "tried 64 of 70 images: 63 objects, 1 rejected" in done.stdout and "cat[0]" in done.stdout
    assert "rejected: C:\\x\\0.png#0: no segmentation" in done.stderr
    assert "70 images found by the end of the name, first 'C:\\x\\0.png'" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_bank_needs_a_folder(run: Callable[..., Any], tmp_path: Path) -> None:
    error = run("bank", "build", "drawn:3", expect=2).stderr
    assert "out: missing; expected the folder of the new bank, or --dry-run" in error


def test_a_refused_folder_names_the_option(run: Callable[..., Any], tmp_path: Path) -> None:
    source(tmp_path, BOX).rename(tmp_path / "a.jsonl")
    error = run("bank", "build", tmp_path, "--dry-run", expect=2).stderr
    assert "to use the images without them, pass --format 'images'" in error
    assert (
        "(images)" not in error
        and "read as images" in run("bank", "build", tmp_path, "--dry-run", "--format", "images").stdout
    )


def test_a_cache_that_cannot_be_written_is_one_line(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "file"))
    done = run("--version")
    assert "smile-video" in done.stdout
    assert done.stderr.startswith(f"note: '{tmp_path / 'file'}' cannot be written: the cache is in")
    assert done.stderr.count("\n") == 1
