"""The guides and the examples run, at a small size."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth import build_bank
from smile_synth.backgrounds import write_images
from smile_synth.cli import app

ROOT = Path(__file__).resolve().parents[1]
COMMANDS: Any = typer.main.get_command(app)
# Not run here: sources that are large, families that a package must install, slow commands of other tests.
# The corpus of the guide to tracking is still made.
LEFT_OUT = re.compile(
    r"smile-train|VOC2012|DAVIS|zigzag|regions.bank|uv run|uv sync|pip install|"
    r"smile-synth report|(preview|check) tracking-hard"
)
PAGES = {
    "README.md": "## Read on",
    "docs/start.md": "## All commands by purpose",
    "docs/concepts.md": "",
    "docs/guides/own-objects.md": "",
    "docs/guides/motion-family.md": "",
    "docs/guides/tracking-corpus.md": "",
    "docs/guides/flow-data.md": "",
    "docs/guides/motion-ablation.md": "",
    "docs/guides/new-target.md": "",
    "docs/guides/lightning.md": "",
}


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cut-outs, pairs, COCO annotations, photos and a bank, as the guides name them."""
    folder = tmp_path_factory.mktemp("materials")
    rng = np.random.default_rng(0)
    for name in ("cutouts/disc", "pairs/images", "pairs/masks", "annotations", "images"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.mgrid[:40, :50]
    annotations, images = [], []
    for k in range(6):
        mask = (rows - 20) ** 2 + (columns - 20 - k) ** 2 < (12 + k % 3) ** 2
        image = rng.integers(0, 256, (40, 50, 3), np.uint8)
        rgba = np.dstack([image, 255 * mask.astype(np.uint8)])
        Image.fromarray(rgba).save(folder / "cutouts" / "disc" / f"{k}.png")
        Image.fromarray(image).save(folder / "pairs" / "images" / f"{k}.png")
        Image.fromarray(255 * mask.astype(np.uint8)).save(folder / "pairs" / "masks" / f"{k}.png")
        Image.fromarray(image).save(folder / "images" / f"{k}.png")
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = {"size": [40, 50], "counts": rle["counts"].decode()}
        annotations.append({"id": k, "image_id": k, "category_id": 1, "iscrowd": 0, "segmentation": counts})
        images.append({"id": k, "file_name": f"{k}.png", "height": 40, "width": 50})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(coco))
    write_images(folder / "photos", count=2, seed=0, size=160)
    build_bank("drawn:12", folder / "objects.bank", test_fraction=0.3)
    return folder


def test_every_guide_is_run() -> None:
    assert {f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")} < set(PAGES)


@pytest.mark.filterwarnings("ignore:Operation with tuple")  # of motmetrics
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_from_top_to_bottom(
    name: str, materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(materials, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs" / "demo" / "materials").mkdir(parents=True)
    shutil.copytree(materials / "objects.bank", tmp_path / "runs" / "demo" / "materials" / "objects.bank")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text()
    text = text[: text.index(PAGES[name])] if PAGES[name] else text
    names: dict[str, Any] = {"__name__": "page"}
    for before, language, code in re.findall(r"(.*?)^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                if line and not LEFT_OUT.search(line):
                    run_small(shlex.split(line, comments=True)[1:])
        elif language == "yaml":
            files = (
                re.findall(r"`([\w-]+\.yaml)`", before) or re.findall(r"# ([\w-]+\.yaml)", code) or ["x.yaml"]
            )
            Path(files[-1]).write_text(code)
        elif language == "python" and "from lightning" not in code:  # which is no dependency
            exec(compile(code, name, "exec"), names)


def run_small(words: list[str]) -> None:
    """Run a command of smile-synth with few clips and objects, in this process."""
    command = COMMANDS
    for word in words[:2]:
        command = getattr(command, "commands", {}).get(word, command)
    options = {option for parameter in command.params for option in parameter.opts}
    small = {"--workers": "1", "--num-clips": "2"}
    made = [word for word in words if word.startswith(("drawn:", "builtin:"))]
    words = ["drawn:9" if word in made[:1] else word for word in words if word not in made[1:]]
    for option, value in small.items():
        if option in words:
            words[words.index(option) + 1] = value
        elif option in options:
            words += [option, value]
    if "--overwrite" in options:
        words.append("--overwrite")
    COMMANDS(words, standalone_mode=False)


def example(name: str) -> Callable[..., Any]:
    """Return the function ``main`` of a script in docs/examples."""
    main: Callable[..., Any] = runpy.run_path(str(ROOT / "docs" / "examples" / f"{name}.py"))["main"]
    return main


@pytest.fixture
def out(materials: Path, tmp_path: Path) -> Path:
    shutil.copytree(materials / "objects.bank", tmp_path / "objects.bank")
    return tmp_path


def test_streaming_into_a_training_loop(out: Path) -> None:
    losses = example("stream_training")(out, steps=3, batch_size=2)
    assert len(losses) == 3 and losses[2] < losses[0]
    with Image.open(out / "masks.png") as image:
        assert image.size == (2 * 68 + 4, 3 * 68 + 4)


def test_every_label_is_printed_and_drawn(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = example("every_label")(out, recipe="one-factor-rotation", overrides=("num_frames=4",))
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in ("modal_masks", "oriented_boxes_xy", "in_frame", "tracks"))
    with Image.open(out / "labels.png") as image:
        assert image.width == 4 * (clip.frames.shape[2] + 4) + 4


@pytest.mark.filterwarnings("ignore:Operation with tuple")  # of the reader
def test_coco_becomes_a_tracking_corpus(materials: Path, tmp_path: Path) -> None:
    coco = materials / "annotations" / "instances_val2017.json"
    table = example("coco_to_tracking")(
        tmp_path, annotations=coco, num_clips=2, recipe="one-factor-translation", overrides=("num_frames=4",)
    )
    assert table.loc["ground truth", ["mota", "idf1"]].tolist() == [1, 1]
    assert 0 < table.loc["linked boxes", "mota"] <= 1
    assert (tmp_path / "coco" / "annotations" / "instances.json").is_file()


@pytest.mark.slow
def test_a_motion_ablation(out: Path) -> None:
    (out / "recipe.yaml").write_text(
        "size: [32, 32]\nnum_frames: 4\nbackgrounds: [{kind: noise}]\nobjects: {count: 1, side: [12, 16]}\n"
        "motion: [{family: still}]\n"
    )
    (out / "base.yaml").write_text(
        f"bank: {out / 'objects.bank'}\nstages: [{{steps: 2, sources: [{{recipe: {out / 'recipe.yaml'}}}],\n"
        "  mask: {kind: random, ratio: 0.5}, optimiser: {base_lr: 0.01, warmup_steps: 1}}]\nbatch_size: 2\n"
        "student: {size: tiny, patch_size: 8, tubelet_size: 2}\ntargets: [{kind: motion}]\n"
        "run: {workers: 0, threads: 1, device: cpu}\n"
    )
    for seed, name in enumerate(("train", "test")):
        write_images(out / name, count=2, seed=seed, size=32)
    places = [
        f"bank={out / 'objects.bank'}",
        f"train_backgrounds={out / 'train'}",
        f"test_backgrounds={out / 'test'}",
    ]
    small = ("seeds=[0]", "num_train=50", "num_test=50", "tasks=[rotation]", *places)
    rows = example("motion_ablation")(out, base=str(out / "base.yaml"), overrides="", study_overrides=small)
    assert [row.arm for row in rows] == ["straight", "turning"]
    assert (out / "study" / "index.html").is_file()


def test_features_of_the_shipped_encoder(out: Path) -> None:
    similarity = example("encoder_features")(out)
    assert 0.5 < similarity < 1
    with Image.open(out / "features.png") as image:
        assert image.size == (3 * (4 * 68 + 4), 3 * (4 * 68 + 4))
