"""Objects, backgrounds and a recipe from any folder of images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth import BackgroundFolder, ObjectBank, Recipe, build_bank
from smile_synth.backgrounds import write_images
from smile_synth.core.errors import counted
from smile_synth.io.atomic import write_bytes
from smile_synth.io.files import content_key, walk
from smile_synth.io.images import SUFFIXES, Reject, load_rgb, read_bytes
from smile_synth.objects import CutOutOptions, read_header
from smile_synth.parallel.workers import available_cores
from smile_train.materials import Materials

SIDE = 64  # of a clip, in pixels
# The median object gets this share of a clip's side, as far as the largest zoom allows it.
OBJECT_SHARE, MAX_ZOOM = 0.25, 4.0
MAX_BACKGROUNDS, BACKGROUND_SIDE = 400, 512
VAL_FRACTION, TEST_FRACTION, MIN_TRAIN_SHARE, SPLIT_SEEDS = 0.15, 0.25, 0.5, 8
# Fewer objects or smaller ones are named as too little material.
FEW_TRAIN, FEW_TEST, TINY_SIDE = 20, 5, 16
_SIZES = "sizes.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OwnImages:
    """What a folder of images gives.

    Attributes:
        materials: objects and backgrounds. Without images to show behind objects, backgrounds are drawn.
        recipe: of training clips, with the sizes that objects have in the images.
        counts: objects of each split of the bank.
        val_split: split with the objects of the probes while training.
        test_split: split with the objects of the final probes; ``train`` if no object can be held out.
        problems: in which ways there is too little material, a sentence each.
    """

    materials: Materials
    recipe: Recipe
    counts: dict[str, int]
    val_split: str
    test_split: str
    problems: list[str]


def prepare_images(images: Path, folder: Path, *, progress: Progress | None = None) -> OwnImages:
    """Cut the objects out of the images, and fit backgrounds and a recipe to them.

    Finished parts of an earlier call in ``folder`` are kept.

    Args:
        images: any source of `build_bank`: images with masks or annotations, cut-outs, or plain images.
        folder: of the bank and the backgrounds.
        progress: called with (items done, items in all) while the bank is built.

    Raises:
        UserError: as `build_bank`.
    """
    bank = _build(images, folder, progress)
    counts = _split_counts(bank)
    sizes = _write_backgrounds(images, bank, folder / "backgrounds")
    train, heldout = folder / "backgrounds" / "train", folder / "backgrounds" / "test"
    materials = Materials(
        bank, BackgroundFolder(train), BackgroundFolder(heldout if heldout.is_dir() else train)
    )
    test_split = "test" if counts["test"] else "train"
    return OwnImages(
        materials, _fit(bank, sizes), counts, "val" if counts["val"] else test_split, test_split,
        _problems(bank, counts, num_backgrounds=len(sizes)),
    )  # fmt: skip


def _build(images: Path, folder: Path, progress: Progress | None) -> ObjectBank:
    """Build a bank of which at least half is for training, and something for the test.

    A split is a hash of the images and a seed. With few images the shares vary, so further seeds are tried.
    """
    workers = min(available_cores(), 1 + len(_files(images)) // 100)  # a process starts in seconds
    best: ObjectBank | None = None
    best_share = -1.0
    for seed in range(SPLIT_SEEDS):
        path = folder / f"objects-{seed}.bank"
        if not path.exists():
            build_bank(
                [images], path, seed=seed, cut=CutOutOptions(max_side=96, min_side=8),
                val_fraction=VAL_FRACTION, test_fraction=TEST_FRACTION, workers=workers,
                progress=progress,
            )  # fmt: skip
        bank = ObjectBank.open(path)
        counts = _split_counts(bank)
        share = counts["train"] / len(bank)
        if not counts["test"] and _num_images(bank) > 1:
            share = 0.0
        if best is None or share > best_share:
            best, best_share = bank, share
        if share >= MIN_TRAIN_SHARE:
            break
    assert best is not None
    return best


def _files(images: Path) -> list[Path]:
    """Return the image files of a folder, or of the folder of an annotation file."""
    if not images.exists():
        return []
    found = walk(images if images.is_dir() else images.parent)[0]
    return [path for path in found if path.name.lower().endswith(SUFFIXES)]


def _split_counts(bank: ObjectBank) -> dict[str, int]:
    found = Counter(bank.index["split"].to_pylist())
    return {split: found[split] for split in ("train", "val", "test")}


def _num_images(bank: ObjectBank) -> int:
    return len(set(bank.index["image_key"].to_pylist()))


def _write_backgrounds(images: Path, bank: ObjectBank, folder: Path) -> dict[str, tuple[int, int]]:
    """Write small copies of the images of the train and of the test objects into ``train/`` and ``test/``.

    Masks and cut-outs are no backgrounds. Without images, backgrounds are drawn.

    Returns:
        Height and width of the images by image key.
    """
    if (folder / _SIZES).is_file():
        return {key: (h, w) for key, (h, w) in json.loads((folder / _SIZES).read_text()).items()}
    formats = {source["format"] for source in read_header(Path(bank.path))["sources"]}
    splits = dict(zip(bank.index["image_key"].to_pylist(), bank.index["split"].to_pylist(), strict=True))
    files = [] if formats == {"rgba"} else _files(images)
    sizes: dict[str, tuple[int, int]] = {}
    for path in files[:: max(1, len(files) // MAX_BACKGROUNDS)]:
        try:
            data = read_bytes(path)
            key = content_key(data)
            split = splits.get(key, "train" if formats == {"images"} else None)
            if split in ("train", "test") and key not in sizes:
                sizes[key] = _write_small(load_rgb(data), folder / split / f"{len(sizes):03d}.png")
        except Reject:
            continue  # the report of the bank lists it
    if not sizes:
        for number, name in enumerate(("train", "test")):
            write_images(folder / name, count=24, seed=number)
    write_bytes(folder / _SIZES, json.dumps(sizes).encode())
    return sizes


def _write_small(rgb: NDArray[np.uint8], path: Path) -> tuple[int, int]:
    """Write an image with a short side of at most `BACKGROUND_SIDE`; returns its own height and width."""
    height, width = rgb.shape[:2]
    scale = min(1.0, BACKGROUND_SIDE / min(height, width))
    size_wh = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).save(path)
    return height, width


def _fit(bank: ObjectBank, sizes: dict[str, tuple[int, int]]) -> Recipe:
    """Fit the preset `motion`: objects have the sizes that they have in crops of the images."""
    columns = (bank.index[name].to_pylist() for name in ("image_key", "original_height", "original_width"))
    shares = [
        np.sqrt(height * width) / min(sizes[key])
        for key, height, width in zip(*columns, strict=True)
        if key in sizes
    ]
    changes = ["objects.split=train"]
    if shares:
        zoom = float(np.clip(OBJECT_SHARE / np.median(shares), 1.0, MAX_ZOOM))
        sides = SIDE * zoom * np.quantile(shares, [0.1, 0.3, 0.5, 0.7, 0.9])
        sides = np.unique(np.clip(sides, SIDE / 6, SIDE * 0.6).round())
        changes += [f"objects.side={sides.tolist()}"]
        changes += [f"backgrounds.{k}.zoom=[{zoom:.2f}, {1.6 * zoom:.2f}]" for k in (0, 1)]
    return Recipe.load("motion", changes)


def _problems(bank: ObjectBank, counts: dict[str, int], *, num_backgrounds: int) -> list[str]:
    """Say in which ways there is too little material."""
    found = []
    images = _num_images(bank)
    if not counts["test"]:
        where = "one image" if images == 1 else f"{images} images"
        found.append(
            f"All objects are from {where}, so none can be held out: the probes show the objects of the "
            "training, in other motion. Give more images."
        )
    elif counts["test"] < FEW_TEST:
        found.append(
            f"Only {counted(counts['test'], 'object')} could be held out, so the probes show few appearances."
        )
    if counts["train"] < FEW_TRAIN:
        found.append(
            f"The training has only {counted(counts['train'], 'object')}; an encoder of general use needs "
            "hundreds. Give more images, or images with masks."
        )
    columns = (bank.index[name].to_numpy() for name in ("original_height", "original_width"))
    side = float(np.median(np.minimum(*columns)))
    if side < TINY_SIDE:
        found.append(
            f"The objects are tiny: the short side of the median object is {side:.0f} pixels. Their textures "
            "are blurred in the clips. Give images of a higher resolution."
        )
    if not num_backgrounds:
        found.append("There are no images to show behind the objects, so the backgrounds are drawn.")
    return found
